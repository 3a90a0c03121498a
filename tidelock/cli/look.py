"""Commands that look and change nothing: links, conflicts ls, trace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from tidelock.change import OPS, show_position
from tidelock.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, Session, show
from tidelock.envelopes import OUTCOMES, Entry, Receipts, Write
from tidelock.errors import Fatal, Reject
from tidelock.places import read_native, shown
from tidelock.topicread import read_all, read_latest
from tidelock.tracing import moment, trace_id


def find_links(session: Session, entity: str) -> dict[tuple[str, str, str], str]:
    """Return (system, tenant, native key) → canonical id of one entity."""
    out: dict[tuple[str, str, str], str] = {}
    for key, message in read_latest(session.kafka, [session.topics.links(entity)]).items():
        if key.startswith(b"barrier/"):
            continue
        value = session.codec.decode(message.value())
        out[value["system"], value["tenant"], value["native_key"]] = value["canonical_id"]
    return out


def where(session: Session, system: str, tenant: str) -> str:
    """Return what people call a tenant of a system: just the system, where it has no other."""
    spec = session.config.systems.get(system)
    return f"{system}/{tenant}" if spec is None else shown(spec, system, tenant)


def links(
    entity: Annotated[str | None, typer.Argument(help="Only this entity.")] = None,
    record: Annotated[
        str | None,
        typer.Option(
            help="Only this record: a canonical id, or system/native key (system/tenant/native key where there are several tenants)."
        ),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Show which native records are one record."""
    session = Session(config)
    rows: list[dict[str, Any]] = []
    wanted = resolve_record(session, record) if record is not None else None
    for name in [entity] if entity else list(session.config.entities):
        by_id: dict[str, list[str]] = {}
        for (system, tenant, native), cid in find_links(session, name).items():
            by_id.setdefault(cid, []).append(f"{where(session, system, tenant)}/{native}")
        rows += [
            {
                "entity": name,
                "canonical_id": cid,
                "records": ", ".join(sorted(natives)) if not json else sorted(natives),
            }
            for cid, natives in sorted(by_id.items())
            if wanted is None or wanted == (name, cid)
        ]
    show(rows, as_json=json, title="links", empty="no links yet; `tidelock status` shows whether anything was captured")


def conflicts(
    entity: Annotated[str | None, typer.Argument(help="Only this entity.")] = None,
    record: Annotated[
        str | None,
        typer.Option(
            help="Only this record: a canonical id, or system/native key (system/tenant/native key where there are several tenants)."
        ),
    ] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Only those that wait for a person.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Show conflicts, the newest last: base, both sides, the rule, and what came of it."""
    session = Session(config)
    if record is not None:
        entity, record = resolve_record(session, record)
    rows: list[dict[str, Any]] = []
    decided = _decided(session) if parked else {}
    for message in read_all(session.kafka, [session.topics.ops("conflicts")]):
        value = session.codec.decode(message.value())
        if decided.get((value["canonical_id"], value["field"]), 0) >= message.timestamp()[1]:
            continue
        if (entity and value["entity"] != entity) or (record and value["canonical_id"] != record):
            continue
        if parked and value["outcome"] != "parked":
            continue
        value["event_id"] = value["event_id"].hex()
        value["at"] = moment(value["at"])
        rows.append(value)
    rows.sort(key=lambda row: str(row["at"]))
    show(rows, as_json=json, title="conflicts", empty="no conflicts")


def _decided(session: Session) -> dict[tuple[str, str], int]:
    """Return when a person last decided a field: (canonical id, field) → milliseconds since 1970."""
    out: dict[tuple[str, str], int] = {}
    for message in read_all(session.kafka, [session.topics.journal(e) for e in session.config.entities]):
        try:
            if session.codec.kind(message.value()) != "Entry":
                continue
        except Reject:
            continue
        entry = Entry.decode(message.value())
        if entry.kind == "resolution":
            out[entry.canonical_id, entry.keys[0]] = message.timestamp()[1]
    return out


def resolve_record(session: Session, record: str) -> tuple[str, str]:
    """Find the (entity, canonical id) of ``entity/canonical id``, a canonical id, or ``system/native key``. Raises Fatal.

    Where a system has several tenants it is ``system/tenant/native key``.
    """
    entity, _, rest = record.partition("/")
    if entity in session.config.entities and rest:
        record, names = rest, [entity]
    else:
        names = list(session.config.entities)
    spec = session.config.systems.get(record.partition("/")[0])
    if spec is not None and len(spec.all_tenants) > 1:
        record = "/".join(read_native(session.config, record))
    for name in names:
        for (system, tenant, native), cid in find_links(session, name).items():
            if record in (cid, f"{where(session, system, tenant)}/{native}", f"{system}/{tenant}/{native}"):
                return name, cid
    raise Fatal(
        f"no record {record!r}",
        hint="give a canonical id, system/native key (crm/17) or entity/system/native key; `tidelock links` lists them",
    )


def trace(
    record: Annotated[
        str,
        typer.Argument(
            help="A canonical id, or system/native key such as crm/17 (system/tenant/native key where there are several tenants)."
        ),
    ],
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Follow one record: what was captured, what was decided, what was written where, and what came of it.

    It reads the journal, the conflicts, the writes and the audit: complete even where traces are sampled.
    """
    session = Session(config)
    entity, cid = resolve_record(session, record)
    rows = sorted(_story(session, entity, cid), key=lambda row: row["at"])
    show(rows, as_json=json, title=f"{entity} {cid}")


def _story(session: Session, entity: str, cid: str) -> Iterator[dict[str, Any]]:
    t, codec = session.topics, session.codec
    topics = [t.journal(entity), t.ops("conflicts"), t.hub(entity), t.ops("audit")]
    topics += [t.sync(s, entity) for s, spec in session.config.systems.items() if entity in spec.entities]
    wanted = cid.encode()
    for message in read_all(session.kafka, topics):
        value, key = message.value(), message.key()
        try:
            kind = codec.kind(value) if value is not None else "tombstone"
        except Reject:
            continue
        at = message.timestamp()[1] * 1000
        if kind == "Receipts":
            pack = Receipts.decode(value)
            for item in pack.items:
                if item.canonical_id == cid:
                    what = f"write {item.version}: {OUTCOMES[item.outcome]}"
                    what += f", left alone: {', '.join(item.refused)}" if item.refused else ""
                    yield _row(
                        at,
                        "receipt",
                        where(session, pack.system, pack.tenant),
                        what + (f" ({item.message})" if item.message else ""),
                    )
            continue
        if kind == "Audit":
            yield from _audited(session, codec.decode(value), entity, wanted)
            continue
        if key != wanted:
            continue
        if kind == "Change":
            yield _change_row(session, value, at, "captured")
        elif kind == "Entry":
            entry = Entry.decode(value)
            if entry.payload and entry.kind == "linked":
                yield _change_row(session, entry.payload, at, "linked")
            else:
                place = where(session, entry.system, entry.tenant) if entry.system else ""
                yield _row(at, entry.kind, place, " ".join(entry.keys))
        elif kind == "Write":
            write = Write.decode(value)
            yield _row(
                at,
                f"write {write.version}",
                where(session, write.system, write.tenant),
                f"{write.op} {', '.join(write.columns)} because of {write.source} ({write.rule})",
            )
        elif kind == "Conflict":
            c = codec.decode(value)
            yield _row(
                at,
                "conflict",
                c["system"],
                f"{c['field']}: {c['golden']} against {c['theirs']}, {c['rule']}: {c['outcome']}",
            )
        elif kind == "tombstone":
            yield _row(at, "golden", "hub", "deleted")
        elif message.topic() == t.hub(entity):
            yield _row(at, "golden", "hub", f"version {codec.decode(value)['version']}")


def _audited(session: Session, pack: dict[str, Any], entity: str, wanted: bytes) -> Iterator[dict[str, Any]]:
    if pack["entity"] != entity:
        return
    for item in pack["items"]:
        if wanted in item["write"]:
            write = Write.decode(item["write"])
            yield _row(
                pack["at"],
                "audit",
                where(session, pack["system"], pack["tenant"]),
                f"write {write.version} by {pack['worker']}: {item['outcome']}, {len(write.columns)} columns",
            )


def _change_row(session: Session, value: bytes, at: int, step: str) -> dict[str, Any]:
    change = session.codec.change_reader(value).read(value)
    who = "our own write" if change.origin else change.actor or "somebody"
    what = f"{OPS[change.op]} of {change.native_key} by {who} at {moment(change.source_time)}, position {show_position(change.position)}"
    return _row(at, step, where(session, change.system, change.tenant), what, trace_id(change.event_id))


def _row(at: int | dt.datetime, step: str, system: str, what: str, trace: str = "") -> dict[str, Any]:
    return {"at": moment(at), "step": step, "system": system, "what": what, "trace": trace}
