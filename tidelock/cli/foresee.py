"""preview, duplicates: what a first sync would do, and which records of a system are one already, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from tidelock.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, Session, err, show
from tidelock.errors import Fatal
from tidelock.topicread import read_latest

GROUP = "tidelock.tools"  # entry points: what looks with the stages' own eyes


def _tool(name: str) -> Any:
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()
    raise Fatal(f"there is no tool {name!r} in this installation", hint="`make setup`")


def _changes(session: Session, system: str | None, entity: str | None) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the last change of every record that was captured."""
    for name, spec in session.config.systems.items():
        if spec.capture == "none" or system not in (None, name):
            continue
        for table in spec.entities:
            if entity in (None, table):
                topic = session.topics.cdc(name, table)
                for key, message in read_latest(session.kafka, [topic]).items():
                    if key and (value := message.value()) is not None:
                        yield topic, key, value


def _nothing(what: str) -> None:
    err.print(
        f"nothing was captured of {what} yet: `tidelock run --link-only` reads everything and creates nothing; wait until `tidelock status`"
        " shows no seed under way"
    )


def preview(
    entity: Annotated[str | None, typer.Argument(help="Only this entity.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Only this destination.")] = None,
    list_: Annotated[
        int, typer.Option("--list", help="Show so many records of each kind, with what would change in them.")
    ] = 0,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Say what a first sync would create, update and leave alone, from what was captured. Changes nothing."""
    session = Session(config)
    _known(session, to, entity)
    places = _tool("preview")(session.context, _changes(session, None, None))
    chosen = [p for p in places if entity in (None, p.entity) and to in (None, p.system)]
    if not any(p.held for p in places):
        _nothing("any system")
        return
    several = {p.system for p in places if sum(1 for o in places if o.system == p.system and o.entity == p.entity) > 1}
    show(
        (
            {
                "entity": p.entity,
                "destination": f"{p.system}/{p.tenant}" if p.system in several else p.system,
                "holds": p.held,
                "create": p.count("create"),
                "update": p.count("update"),
                "delete": p.count("delete"),
                "leave": p.untouched,
                "keep aside": ", ".join(f"{n} {kind}" for kind, n in sorted(p.refused.items())),
                **({"records": [_record(r) for r in p.planned[:list_]]} if json and list_ else {}),
            }
            for p in chosen
        ),
        as_json=json,
        title="what a first sync would do",
    )
    if list_ and not json:
        for p in chosen:
            rows = [
                {"do": r.op, "record": r.key or r.canonical_id, "column": n, "now": old, "then": new}
                for op in ("create", "update", "delete")
                for r in [r for r in p.planned if r.op == op][:list_]
                for n, (old, new) in r.columns.items()
            ]
            rows += [
                {"do": kind, "record": key, "column": "", "now": message, "then": ""}
                for kind, key, message in p.examples[:list_]
            ]
            if rows:
                show(rows, as_json=False, title=f"{p.entity} in {p.system}/{p.tenant}")


def duplicates(
    system: Annotated[str, typer.Argument(help="The system to look into.")],
    entity: Annotated[str, typer.Argument(help="The entity.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """List records of one system that its own match keys take for one, from what was captured. Look before a flow is switched on."""
    session = Session(config)
    _known(session, system, entity)
    groups, looked = _tool("duplicates")(session.context, system, entity, _changes(session, system, entity))
    if not looked:
        _nothing(f"{entity} of {system}")
        return
    shown = show(
        (
            {
                "tenant": g.tenant,
                "match": "+".join(g.match),
                "value": ", ".join(g.value),
                "record": list(g.records) if json else key,
                "fields": g.records if json else ", ".join(f"{n}={v}" for n, v in fields.items()),
            }
            for g in groups
            for key, fields in (list(g.records.items())[:1] if json else g.records.items())
        ),
        as_json=json,
        title=f"{entity} of {system}: records that are one by their match keys",
        empty=f"no two of {looked} records of {entity} in {system} share a match key",
    )
    if shown and not json:
        how = session.config.entities[entity].ambiguous
        say = {
            "quarantine": "one of each group is linked, the others are kept aside as dead letters (`ambiguous: quarantine`)",
            "separate": "each becomes a record of its own (`ambiguous: separate`)",
            "merge": "each group becomes one record, and what differs is lost to the first (`ambiguous: merge`)",
        }[how]
        err.print(f"{len(groups)} groups among {looked} records; as configured, {say}")


def _record(planned: Any) -> dict[str, Any]:
    columns = {n: {"now": old, "then": new} for n, (old, new) in planned.columns.items()}
    return {"do": planned.op, "key": planned.key, "canonical_id": planned.canonical_id, "columns": columns}


def _known(session: Session, system: str | None, entity: str | None) -> None:
    if system is not None and system not in session.config.systems:
        raise Fatal(f"there is no system {system}", hint=f"systems: {', '.join(session.config.systems)}")
    if entity is not None and entity not in session.config.entities:
        raise Fatal(f"there is no entity {entity}", hint=f"entities: {', '.join(session.config.entities)}")
