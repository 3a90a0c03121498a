"""Columns of a Salesforce object, typed from its own describe, and spelt as REST and as Bulk results spell them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tidelock.apis.records import ApiColumn, decimal_text, json_text, moment
from tidelock.avro import FieldType
from tidelock.errors import Fatal

SYSTEM = ("Id", "IsDeleted", "CreatedDate", "LastModifiedDate", "LastModifiedById", "SystemModstamp")
_SKIPPED = frozenset({"base64", "complexvalue", "anyType"})


@dataclass(frozen=True)
class Described:
    """An object: its columns by name, which of the system's fields it has, and which field tells when it was last touched."""

    name: str
    columns: Mapping[str, ApiColumn]
    system: tuple[str, ...]
    stamp: str
    compound: frozenset[str]
    external: frozenset[str]
    event: str

    @property
    def dated(self) -> bool:
        """Return whether its records say when they were created."""
        return "CreatedDate" in self.system


def described(answer: Mapping[str, Any], path: str) -> Described:
    """Read an object's describe. Raises Fatal if its records cannot be told apart in time."""
    name = str(answer["name"])
    fields = [f for f in answer["fields"] if f["type"] not in _SKIPPED]
    columns = {f["name"]: _column(f) for f in fields}
    stamp = next((n for n in ("SystemModstamp", "LastModifiedDate", "CreatedDate") if n in columns), None)
    if stamp is None or not answer.get("queryable", True):
        raise Fatal(
            f"{path}: object {name} does not say when its records were changed, so it cannot be captured",
            hint="name another object in `table`",
        )
    return Described(
        name,
        columns,
        tuple(n for n in SYSTEM if n in columns),
        stamp,
        frozenset(n for n, c in columns.items() if c.type is FieldType.JSON),
        frozenset(f["name"] for f in fields if f.get("externalId") or f.get("idLookup")),
        f"{name[:-3]}__ChangeEvent" if name.endswith("__c") else f"{name}ChangeEvent",
    )


def _column(field: Mapping[str, Any]) -> ApiColumn:
    kind, load, dump = _KINDS.get(field["type"], _TEXT)
    writes = bool(field.get("createable") or field.get("updateable"))
    needed = not field.get("nillable", True) and field.get("createable") and not field.get("defaultedOnCreate")
    return ApiColumn(
        field["name"],
        kind,
        f"salesforce {field['type']}",
        load,
        dump,
        writable=writes,
        required=bool(needed),
        unique=bool(field.get("unique")),
        length=field.get("length") or None,
    )


# ------------------------------------------------------------------------------------------------------- values


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):  # a cell of a Bulk result
        return bool(value == "true")
    raise ValueError("neither true nor false")


def _whole(value: Any) -> int:
    number = Decimal(str(value))
    if number != number.to_integral_value():
        raise ValueError("no whole number")
    return int(number)


def _document(value: Any) -> str:
    return json_text(_plain(value))


def _plain(value: Any) -> Any:
    """Return JSON data whose numbers are floats: they were read as decimals, so that none loses a digit."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != "attributes"}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _time_text(value: Any) -> str:
    at = value if isinstance(value, dt.datetime) else moment(str(value))
    return at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _same(value: Any) -> Any:
    return value


_Spelling = tuple[FieldType, Callable[[Any], Any], Callable[[Any], Any]]
_TEXT: _Spelling = (FieldType.STRING, _text, _same)
_NUMBER: _Spelling = (FieldType.DECIMAL, decimal_text, Decimal)
_COUNT: _Spelling = (FieldType.INTEGER, _whole, int)
_DOCUMENT: _Spelling = (FieldType.JSON, _document, _same)
_KINDS: dict[str, _Spelling] = {
    "boolean": (FieldType.BOOLEAN, _flag, bool),
    "int": _COUNT,
    "long": _COUNT,
    "double": _NUMBER,
    "currency": _NUMBER,
    "percent": _NUMBER,
    "date": (FieldType.DATE, dt.date.fromisoformat, lambda value: value.isoformat()),
    "datetime": (FieldType.TIMESTAMP, moment, _time_text),
    "address": _DOCUMENT,
    "location": _DOCUMENT,
}
