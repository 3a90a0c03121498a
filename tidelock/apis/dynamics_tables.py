"""Tables of Dataverse as its own metadata describes them: columns with their types, and where lookups lead.

A lookup stands in a row as ``_column_value`` with the id of the row it points to, and is written as ``navigation@odata.bind`` with that
row's path. One that may lead to several tables is told as ``table:id``; where the mapping says by ``references`` which table is meant, as
the id alone, and as nothing where it leads to another table. Source: Microsoft Learn, "Use lookup properties", "Associate table rows".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tidelock.apis.records import ApiColumn, decimal_text, moment
from tidelock.avro import FieldType
from tidelock.errors import Reject

LOOKUPS = frozenset(("Lookup", "Customer", "Owner"))
_TARGET = "Microsoft.Dynamics.CRM.lookuplogicalname"
_SYSTEM = ("versionnumber", "modifiedon", "createdon", "_modifiedby_value")


def is_guid(text: str) -> bool:
    """Return whether a text can be the key of a row."""
    return len(text) == 36 and text.count("-") == 4 and all(c in "0123456789abcdefABCDEF-" for c in text)


def _utc(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _number(value: Any) -> Decimal:
    """Return a number as JSON can carry it whole: money has more digits than a float."""
    return Decimal(decimal_text(value))


def _choices(value: Any) -> str:
    """Spell several choices the way Dataverse keeps them: each once, in order."""
    return ",".join(str(n) for n in sorted({int(part) for part in str(value).split(",") if part.strip()}))


_Types = tuple[FieldType, Callable[[Any], Any], Callable[[Any], Any]]
_TYPES: dict[str, _Types] = {
    "Integer": (FieldType.INTEGER, int, int),
    "BigInt": (FieldType.INTEGER, int, int),
    "Picklist": (FieldType.INTEGER, int, int),
    "State": (FieldType.INTEGER, int, int),
    "Status": (FieldType.INTEGER, int, int),
    "Double": (FieldType.NUMBER, float, float),
    "Decimal": (FieldType.DECIMAL, decimal_text, _number),
    "Money": (FieldType.DECIMAL, decimal_text, _number),
    "Boolean": (FieldType.BOOLEAN, _flag, _flag),
    "DateTime": (FieldType.TIMESTAMP, moment, _utc),
    "Date": (FieldType.DATE, dt.date.fromisoformat, lambda value: value.isoformat()),
    "Choices": (FieldType.STRING, _choices, _choices),
}
_TEXT: _Types = (FieldType.STRING, str, str)


class Entity:
    """One table: its set, its key, its columns, and where its lookups lead.

    ``points`` says, of lookups that may lead to several tables, to which one they lead for the hub.
    """

    def __init__(
        self,
        name: str,
        definition: Mapping[str, Any],
        attributes: Sequence[Mapping[str, Any]],
        relations: Sequence[Mapping[str, Any]],
        points: Mapping[str, str],
    ) -> None:
        self.name = name
        self.set: str = definition["EntitySetName"]
        self.key: str = definition["PrimaryIdAttribute"]
        self.tracked = bool(definition.get("ChangeTrackingEnabled", True))
        self.columns: dict[str, ApiColumn] = {}
        self.later: set[str] = set()
        """Columns that a new row does not take, but one that is there: its state above all."""
        self.lookups: dict[str, list[tuple[str, str]]] = {}
        """By column: the tables that it may lead to, each with the name of the property that is written."""
        self._points = points
        for attribute in attributes:
            if attribute.get("IsValidForRead", True):
                self._add(attribute)
        for relation in relations:
            column = str(relation["ReferencingAttribute"])
            if column in self.lookups:
                target = str(relation["ReferencedEntity"])
                self.lookups[column].append((target, str(relation["ReferencingEntityNavigationPropertyName"])))

    def _add(self, attribute: Mapping[str, Any]) -> None:
        kind, column = str(attribute.get("AttributeType")), str(attribute["LogicalName"])
        if kind == "DateTime":
            # Only the behaviour decides: with another one a column that shows days alone holds times all the same.
            behaviour = (attribute.get("DateTimeBehavior") or {}).get("Value")
            if behaviour == "DateOnly" or (behaviour is None and attribute.get("Format") == "DateOnly"):
                kind = "Date"
        elif (attribute.get("AttributeTypeName") or {}).get("Value") == "MultiSelectPicklistType":
            kind = "Choices"
        field, load, dump = _TYPES.get(kind, _TEXT)
        if kind == "Uniqueidentifier" or kind in LOOKUPS:
            load = dump = lambda value: str(value).lower()
        creatable = bool(attribute.get("IsValidForCreate", True))
        updatable = bool(attribute.get("IsValidForUpdate", True))
        self.columns[column] = ApiColumn(column, field, kind, load, dump, writable=creatable or updatable)
        if updatable and not creatable:
            self.later.add(column)
        if kind in LOOKUPS:
            self.lookups[column] = []

    # ------------------------------------------------------------------------------------------------ reading

    def property(self, column: str) -> str:
        """Return how a column is called in rows."""
        return f"_{column}_value" if column in self.lookups else column

    def selected(self, names: Sequence[str]) -> str:
        """Return what to put behind $select, with what every record needs."""
        return ",".join(dict.fromkeys([*(self.property(n) for n in names), self.key, *_SYSTEM]))

    def prefer(self, names: Sequence[str], *more: str) -> str:
        """Return the preferences of a reading; where a lookup leads is asked for only if it matters."""
        if any(self._several(name) for name in names):
            more = (*more, f'odata.include-annotations="{_TARGET}"')
        return ",".join(more)

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row's values by column."""
        out = {}
        for name, value in row.items():
            if "@" in name:
                continue
            column = name[1:-6] if name.startswith("_") and name.endswith("_value") else name
            target = row.get(f"{name}@{_TARGET}")
            if value is not None and target is not None and self._several(column):
                wanted = self._points.get(column)
                value = f"{target}:{value}" if wanted is None else value if wanted == target else None
            out[column] = value
        return out

    def _several(self, column: str) -> bool:
        return len({target for target, _ in self.lookups.get(column, ())}) > 1

    # ------------------------------------------------------------------------------------------------ writing

    def bound(self, column: str, value: str | None) -> tuple[str, str | None, str]:
        """Return (property, table, key) by which a lookup is written. Raises Reject if it cannot lead there."""
        kind, _, key = str(value or "").rpartition(":")
        wanted = kind or self._points.get(column)
        targets = self.lookups[column]
        found = next((t for t in targets if t[0] == wanted), None)
        if found is None and not kind and targets:
            found = targets[0]
        if found is None or (value is not None and not is_guid(key)):
            known = ", ".join(sorted({t for t, _ in targets})) or "no table that this user may see"
            raise Reject(
                f"{str(value)!r} is no reference that column {column} of {self.name} can hold: it leads to {known}",
                kind="bad_value",
                field=column,
                hint="correct the mapping: a reference is the id of a row, or `table:id` where several tables are possible",
            )
        return found[1], None if value is None else found[0], key.lower()
