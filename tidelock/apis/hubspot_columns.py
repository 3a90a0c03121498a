"""The properties of HubSpot's objects as typed columns. All values are strings there; an empty one is none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tidelock.apis.records import ApiColumn, decimal_text, moment
from tidelock.avro import FieldType

KEY = "id"
"""The column of the key; it is no property."""
MERGED = "hs_merged_object_ids"
EXTERNAL = "tidelock_id"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _moment(text: str) -> dt.datetime:
    return _EPOCH + dt.timedelta(milliseconds=int(text)) if text.lstrip("-").isdecimal() else moment(text)


def _day(text: str) -> dt.date:
    return _moment(text).date() if text.lstrip("-").isdecimal() else dt.date.fromisoformat(text[:10])


def _flag(text: str) -> bool:
    lowered = text.lower()
    if lowered not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return lowered == "true"


def spelt(at: dt.datetime) -> str:
    """Spell a moment as HubSpot does: milliseconds and a Z."""
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_TYPES: dict[str, tuple[FieldType, Callable[[Any], Any], Callable[[Any], str]]] = {
    "number": (FieldType.DECIMAL, decimal_text, str),
    "datetime": (FieldType.TIMESTAMP, _moment, spelt),
    "date": (FieldType.DATE, _day, lambda value: str(value.isoformat())),
    "bool": (FieldType.BOOLEAN, _flag, lambda value: "true" if value else "false"),
}
_TEXT: tuple[FieldType, Callable[[Any], Any], Callable[[Any], str]] = (FieldType.STRING, str, str)


def columns_of(definitions: Iterable[Mapping[str, Any]]) -> dict[str, ApiColumn]:
    """Return the columns that property definitions describe, and the key."""
    out = {KEY: ApiColumn(KEY, FieldType.STRING, "id", writable=False)}
    for definition in definitions:
        name, kind = str(definition["name"]), str(definition.get("type"))
        field, load, dump = _TYPES.get(kind, _TEXT)
        rights = definition.get("modificationMetadata") or {}
        out[name] = ApiColumn(
            name,
            field,
            kind,
            load,
            dump,
            writable=not rights.get("readOnlyValue") and not definition.get("calculated"),
            unique=bool(definition.get("hasUniqueValue")),
        )
    return out


def external(definitions: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the definition of the property that keeps our canonical ids, in a group that there is."""
    group = next((str(d["groupName"]) for d in definitions if d.get("groupName")), "")
    return {
        "name": name,
        "label": "tidelock id",
        "description": "The id of this record in tidelock. Written by tidelock alone; do not edit.",
        "groupName": group,
        "type": "string",
        "fieldType": "text",
        "hasUniqueValue": True,
        "formField": False,
    }
