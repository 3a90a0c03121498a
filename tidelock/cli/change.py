"""Commands that ask for something: seed, refresh, conflicts resolve."""

from __future__ import annotations

import json as jsonlib
import time
import uuid
from importlib.metadata import entry_points
from typing import Annotated

import typer

from tidelock.avro import encode_slice
from tidelock.cli.common import DEFAULT_CONFIG, ConfigOption, Session, err
from tidelock.cli.look import resolve_record
from tidelock.config import DATABASE_CAPTURES
from tidelock.envelopes import Entry
from tidelock.errors import Fatal
from tidelock.kafka import flush
from tidelock.places import find_place, find_system, find_tenants, seed_request_key
from tidelock.topicread import read_latest
from tidelock.workers import now_micros

TenantOption = Annotated[str | None, typer.Option("--tenant", help="Only this tenant of the system.")]


def seed(
    system: Annotated[str, typer.Argument(help="The system to read.")],
    entity: Annotated[str | None, typer.Argument(help="Only this entity.")] = None,
    tenant: TenantOption = None,
    where: Annotated[str | None, typer.Option(help="Only rows for which this SQL condition holds.")] = None,
    recreate_slot: Annotated[
        bool,
        typer.Option("--recreate-slot", help="Logical replication: make a lost slot anew; every table is read again."),
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Read a source again, all or a part of it. The running capture does it in chunks and goes on where it was interrupted.

    Rows that are known already change nothing; a streamed change beats a row read here.
    """
    session = Session(config)
    spec = session.config.systems.get(system)
    if spec is None or spec.capture == "none":
        names = ", ".join(n for n, s in session.config.systems.items() if s.capture != "none")
        raise Fatal(f"no system {system!r} is captured", hint=f"captured: {names}")
    if recreate_slot:
        _recreate_slot(session, system)
        return
    wanted = [entity] if entity else list(spec.entities)
    unknown = [e for e in wanted if e not in spec.entities]
    if unknown:
        raise Fatal(f"{system} has no entity {unknown[0]!r}", hint=f"it has: {', '.join(spec.entities)}")
    tenants = find_tenants(session.config, system, tenant)
    off = [t for t in tenants if not spec.all_tenants[t].enabled]
    producer = session.kafka.producer("tidelock-cli")
    for whose in tenants:
        for name in wanted:
            body = {
                "kind": "seed",
                "system": system,
                "tenant": whose,
                "entity": name,
                "where": where,
                "id": uuid.uuid4().hex,
                "at": time.time(),
            }
            producer.produce(
                session.topics.ops("signals"),
                key=seed_request_key(spec, system, whose, name).encode(),
                value=jsonlib.dumps(body).encode(),
            )
    flush(producer)
    of = f" of {tenants[0] if len(tenants) == 1 else f'{len(tenants)} tenants'}" if len(spec.all_tenants) > 1 else ""
    err.print(f"asked capture.{system} to seed {', '.join(wanted)}{of}; `tidelock status` shows how far it is")
    if off:
        err.print(f"switched off, and read when it is on again: {', '.join(off)}")


def refresh(
    system: Annotated[str, typer.Argument(help="The system to look at.")],
    entity: Annotated[str | None, typer.Argument(help="Only this entity.")] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Read the record with this key again; may be given several times.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Have a system behind an API polled now, or single records of it read again.

    Without keys every entity that is meant is polled at once, whatever its schedule says. What has not changed changes nothing.
    """
    session = Session(config)
    spec = find_system(session.config, system)
    if spec.capture in DATABASE_CAPTURES | {"none"}:
        raise Fatal(
            f"{system} is captured by {spec.capture}, which looks by itself",
            hint=f"`tidelock seed {system}` reads it again" if spec.capture != "none" else "nothing reads it",
        )
    if entity is not None and entity not in spec.entities:
        raise Fatal(f"{system} has no entity {entity!r}", hint=f"it has: {', '.join(spec.entities)}")
    if key and entity is None:
        raise Fatal("it is not clear of which entity the keys are", hint=f"tidelock refresh {system} ENTITY --key …")
    if tenant is not None:
        session.context.access.tenants.get(system, tenant)
    elif key and len(session.context.access.tenants.all(system)) > 1:
        raise Fatal(
            f"{system} has several tenants: whose records are meant?", hint="say which: `--tenant` and its name"
        )
    number = uuid.uuid4().hex
    body = {
        "kind": "refresh",
        "system": system,
        "entity": entity,
        "tenant": tenant,
        "keys": key or [],
        "id": number,
        "at": time.time(),
    }
    producer = session.kafka.producer("tidelock-cli")
    producer.produce(
        session.topics.ops("signals"),
        key=f"request/refresh/{system}/{number}".encode(),
        value=jsonlib.dumps(body).encode(),
    )
    flush(producer)
    what = f"{len(key)} records of {entity}" if key else entity or "all its entities"
    err.print(f"asked capture.{system} to look at {what} now; `tidelock trace` shows what came of a record")


def _recreate_slot(session: Session, system: str) -> None:
    if session.config.systems[system].capture != "replication":
        raise Fatal(
            f"{system} is not captured by replication; it has no slot", hint=f"tidelock seed {system} reads it again"
        )
    (point,) = entry_points(group="tidelock.producers", name="replication")
    producer = point.load()(session.context, system)
    try:
        producer.recreate_slot()
    finally:
        producer.close()
    err.print(f"the slot of {system} is there again; `tidelock run` reads every table anew and goes on from there")


def release(
    system: Annotated[str, typer.Argument(help="The system.")],
    actor: Annotated[str, typer.Argument(help="Whose changes were parked for being too many.")],
    tenant: TenantOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Release an actor's changes that were parked by `actor_limit_per_min`: let them pass up to now, and take them in."""
    session = Session(config)
    spec = find_system(session.config, system)
    find_tenants(session.config, system, tenant)
    producer = session.kafka.producer("tidelock-cli")
    entry = Entry("release_actor", system=system, tenant=tenant or "", keys=(actor,), offset=now_micros())
    value = session.codec.header("entry") + entry.encode()
    for name in spec.entities:
        for partition in range(session.config.partitions):
            producer.produce(session.topics.journal(name), value=value, partition=partition)
    flush(producer)
    err.print(f"{actor} may pass; now take the parked changes in: tidelock dlq retry --kind actor_limit --apply")


def resync(
    entity: Annotated[str | None, typer.Argument(help="Only this entity.")] = None,
    system: Annotated[str | None, typer.Option(help="Only what goes to this system.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only what goes to this tenant of the system.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Ask every record to look again at what its systems should hold: creates what a system lacks, tries parked writes again.

    What stands right already is not written. Used after `run --link-only`.
    """
    session = Session(config)
    if system is None and tenant is not None:
        raise Fatal(f"of which system is {tenant} a tenant?", hint=f"--system … --tenant {tenant}")
    if system is not None:
        find_tenants(session.config, system, tenant)
    header = session.codec.header("entry")
    producer = session.kafka.producer("tidelock-cli")
    asked = 0
    for name in [entity] if entity else list(session.config.entities):
        for cid in read_latest(session.kafka, [session.topics.hub(name)]):
            # One entry looks at all places; without a tenant it lifts what is parked in any tenant of the system, or anywhere.
            entry = Entry("resync", cid.decode(), system or "", tenant or "")
            producer.produce(session.topics.journal(name), key=cid, value=header + entry.encode())
            asked += 1
            producer.poll(0)
    flush(producer)
    err.print(f"{asked} looks asked for; `tidelock status` shows what is written")


def resolve(
    record: Annotated[str, typer.Argument(help="A canonical id, or system/native key.")],
    field: Annotated[str, typer.Argument(help="The parked field.")],
    take: Annotated[
        str | None,
        typer.Option(help="golden, or a system (system/tenant where it has several): whose value stands from now on."),
    ] = None,
    value: Annotated[str | None, typer.Option(help="Or this value.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Decide a field that waits for a person."""
    if (take is None) == (value is None):
        raise Fatal("say what stands from now on", hint="--take golden, --take crm, or --value …")
    session = Session(config)
    entity, cid = resolve_record(session, record)
    spec = session.config.entities[entity].fields.get(field)
    if spec is None:
        raise Fatal(
            f"{entity} has no field {field!r}", hint=f"fields: {', '.join(session.config.entities[entity].fields)}"
        )
    entry = Entry("resolution", cid, tenant="default", offset=now_micros())
    if value is not None:
        entry.keys = (field, "value")
        entry.payload = encode_slice(spec.type, _typed(spec.type.value, value))
    elif take == "golden":
        entry.keys = (field, "golden")
    else:
        assert take is not None
        (entry.system, entry.tenant), entry.keys = find_place(session.config, take), (field, "theirs")
    producer = session.kafka.producer("tidelock-cli")
    producer.produce(
        session.topics.journal(entity), key=cid.encode(), value=session.codec.header("entry") + entry.encode()
    )
    flush(producer)
    err.print(f"decided; `tidelock trace {cid}` shows what came of it")


def _typed(kind: str, text: str) -> object:
    if text == "":
        return None
    try:
        match kind:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return text.lower() in ("true", "yes", "1")
            case _:
                return text
    except ValueError as error:
        raise Fatal(f"{text!r} is no {kind}", hint="give a value of the field's type") from error
