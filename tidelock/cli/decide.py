"""A person's decisions about identity: which native records are one record. Entries in the same order as every other decision."""

from __future__ import annotations

from typing import Annotated

import typer

from tidelock.cli.common import DEFAULT_CONFIG, ConfigOption, Session, err
from tidelock.cli.look import resolve_record
from tidelock.envelopes import Entry
from tidelock.errors import Fatal
from tidelock.kafka import flush
from tidelock.places import read_native

app = typer.Typer(
    name="identity", help="Decide which records are one: link, unlink, split, merge.", no_args_is_help=True
)

Native = Annotated[
    str,
    typer.Argument(
        help="A record of a system: entity/system/native key, for example contact/crm/17;"
        " entity/system/tenant/native key where the system has several tenants."
    ),
]


def _native(session: Session, text: str) -> tuple[str, str, str, str]:
    """Return (entity, system, tenant, native key). Raises Fatal."""
    entity, _, rest = text.partition("/")
    if entity not in session.config.entities or "/" not in rest:
        raise Fatal(
            f"{text!r} is no record of a system",
            hint="entity/system/native key, for example contact/crm/17; entity/system/tenant/native key where there are several tenants",
        )
    return entity, *read_native(session.config, rest)


def _decide(session: Session, entity: str, entry: Entry) -> None:
    producer = session.kafka.producer("tidelock-cli")
    producer.produce(session.topics.identity(entity), value=session.codec.header("entry") + entry.encode(), partition=0)
    flush(producer)
    err.print("decided; `tidelock links` shows it once identify has come to it")


@app.command("link")
def link(
    native: Native,
    record: Annotated[str, typer.Argument(help="The record it belongs to.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Say that a native record belongs to a record, for example one that is kept aside as an ambiguous duplicate."""
    session = Session(config)
    entity, system, tenant, key = _native(session, native)
    of, cid = resolve_record(session, record)
    if of != entity:
        raise Fatal(f"{record} is a record of {of}, not of {entity}", hint="link records of one entity")
    _decide(session, entity, Entry("link", cid, system, tenant, key))


@app.command("unlink")
def unlink(native: Native, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take a native record out of its record and keep it aside until it is linked or split."""
    session = Session(config)
    entity, system, tenant, key = _native(session, native)
    _decide(session, entity, Entry("unlink", "", system, tenant, key))


@app.command("split")
def split(native: Native, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Make a native record a record of its own."""
    session = Session(config)
    entity, system, tenant, key = _native(session, native)
    _decide(session, entity, Entry("split", "", system, tenant, key))


@app.command("merge")
def merge(
    winner: Annotated[str, typer.Argument(help="The record that stays.")],
    losers: Annotated[list[str], typer.Argument(help="Records that become part of it.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Make several records one. Where two of them have a copy in one system, the second is kept aside and reported."""
    session = Session(config)
    entity, cid = resolve_record(session, winner)
    found = [resolve_record(session, r) for r in losers]
    if any(e != entity for e, _ in found):
        raise Fatal("records of different entities cannot be one", hint=f"all have to be of {entity}")
    _decide(session, entity, Entry("merge", cid, keys=tuple(c for _, c in found)))
