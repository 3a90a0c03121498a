"""Records as the API shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from simulators.hubspot.kinds import Kind
from simulators.hubspot.links import Links
from simulators.hubspot.moments import spelt
from simulators.hubspot.options import Options
from simulators.hubspot.records import Record

Shape = dict[str, Any]


def names_asked(kind: Kind, asked: Sequence[str]) -> list[str]:
    """Return the properties to show: those asked for, else the kind's own choice, and what every record shows."""
    return list(dict.fromkeys([*(asked or kind.defaults), *kind.system]))


def properties_of(
    values: dict[str, str], names: Iterable[str], options: Options, known: Iterable[str]
) -> dict[str, str | None]:
    """Return properties by name; those that no such record can have are left out."""
    if options.unset == "absent":
        return {name: values[name] for name in names if name in values}
    return {name: values.get(name) for name in names if name in values or name in known}


def shape(record: Record, properties: dict[str, str | None], options: Options) -> Shape:
    """Return a record with its properties."""
    body: Shape = {
        "id": str(record.id),
        "properties": properties,
        "createdAt": spelt(record.created_ms),
        "updatedAt": spelt(record.updated_ms),
        "archived": record.archived_ms is not None,
        "url": f"https://app.hubspot.com/contacts/{options.portal_id}/record/{record.kind.type_id}/{record.id}",
    }
    if record.archived_ms is not None:
        body["archivedAt"] = spelt(record.archived_ms)
    return body


def written(record: Record, changed: Iterable[str], options: Options) -> Shape:
    """Return a record as the answer to a write shows it: what was written, and what every record shows."""
    names = dict.fromkeys([*changed, *record.kind.system])
    return shape(record, {n: record.values[n] for n in names if n in record.values}, options)


def history_of(record: Record, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the versions of properties, the newest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        listed = []
        for version in reversed(record.history.get(name, ())):
            origin = version.origin
            entry: dict[str, Any] = {
                "value": version.value,
                "timestamp": spelt(version.at_ms),
                "sourceType": origin.source_type,
                "sourceId": origin.source_id,
            }
            if origin.label is not None:
                entry["sourceLabel"] = origin.label
            if origin.user_id is not None:
                entry["updatedByUserId"] = origin.user_id
            listed.append(entry)
        found[name] = listed
    return found


def associations_of(record: Record, ends: Iterable[Kind], links: Links) -> dict[str, Any]:
    """Return the associations with some kinds; kinds without any are left out."""
    found: dict[str, Any] = {}
    for end in ends:
        listed = [{"id": str(number), "type": t.name} for number, types in links.of(record, end) for t in types]
        if listed:
            found[end.name.replace("_", " ")] = {"results": listed}
    return found
