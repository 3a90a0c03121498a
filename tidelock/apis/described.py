"""APIs that nobody has written a connector for, as the configuration describes them: where things stand in JSON, and of which type they are.

A place in JSON is a dotted path: ``data.items.0.id``; a column's name is one, too. A column has the type of the field that it is mapped to,
unless the option ``types`` says otherwise.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec

from tidelock.apis.records import ApiColumn, Version, decimal_text, json_text, micros_of, moment, of_text
from tidelock.avro import FieldType
from tidelock.config import Config, SystemSpec, TableSpec
from tidelock.errors import Fatal, Reject

GONE = 2**62
"""The version of a record that is gone, where versions are numbers and the last one is not told."""
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_MICROS = 1_000_000


class Missing:
    """What stands where nothing stands: null is something."""


MISSING = Missing()


def dig(data: Any, path: str) -> Any:
    """Return what stands at a path, or MISSING. The empty path is the whole; a key with dots in it is found as well."""
    if not path:
        return data
    if isinstance(data, Mapping):
        if path in data:
            return data[path]
        head, _, rest = path.partition(".")
        return dig(data[head], rest) if rest and head in data else MISSING
    if isinstance(data, list):
        head, _, rest = path.partition(".")
        if head.isdigit() and int(head) < len(data):
            return dig(data[int(head)], rest)
    return MISSING


def text_at(data: Any, path: str | None) -> str | None:
    """Return a text or number at a path as text; None if there is none."""
    found = MISSING if path is None else dig(data, path)
    if isinstance(found, str):
        return found
    return str(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by path as JSON that has them there."""
    out: dict[str, Any] = {}
    for path, value in values.items():
        *heads, last = path.split(".")
        at = out
        for head in heads:
            at = at.setdefault(head, {})
        at[last] = value
    return out


def dumped(data: Any) -> bytes:
    """Spell JSON; decimals are numbers with all their digits."""
    return _ENCODER.encode(data)


def filled(template: str, values: Mapping[str, str], where: str) -> str:
    """Fill ``{name}`` in an address, escaped. Raises Fatal for a name that is not known."""

    def fill(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise Fatal(f"{where} has {{{found[1]}}}", hint=f"known are {', '.join(f'{{{n}}}' for n in values)}")
        return quote(values[found[1]], safe="")

    return re.sub(r"\{(\w+)\}", fill, template)


def epoch_micros(value: Any) -> int:
    """Read a time as µs since 1970: ISO 8601, or seconds, ms or µs since 1970 by their size. Raises ValueError."""
    if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?", value):
        return micros_of(value)
    number = Decimal(str(value))
    for limit, factor in ((10**11, _MICROS), (10**14, 1000)):
        if number < limit:
            return int(number * factor)
    return int(number)


def version_of(value: Any, kind: str, tie: int = 0) -> Version:
    """Return a version of a number (``kind`` integer) or of a time. Raises Reject."""
    try:
        if kind == "integer":
            return int(value), 0
        return epoch_micros(value), tie
    except (ValueError, TypeError, ArithmeticError) as error:
        raise Reject(
            f"{value!r} is no {'whole number' if kind == 'integer' else 'time'} that could be a version",
            kind="bad_version",
            hint="correct the path in `version`",
        ) from error


def columns_for(config: Config, system: str, table: TableSpec) -> dict[str, ApiColumn]:
    """Return the columns of a table, by name, as the mapping and the option ``types`` make them. Raises Fatal."""
    spec = config.systems[system]
    (entity,) = (e for e, t in spec.entities.items() if t is table)
    types = _types(spec, system, entity)
    out: dict[str, ApiColumn] = {}
    fields = config.entities[entity].fields
    for binding in table.map:
        for name in binding.column_names:
            field = fields.get(binding.field) if binding.field and len(binding.column_names) == 1 else None
            kind = field.type if field is not None and not _respelt(binding) else FieldType.STRING
            out[name] = column(name, types.get(name, kind))
    for name in (*table.key, *(n for n in (table.canonical_id, table.actor) if n), *table.disable):
        value = table.disable.get(name)
        kind = (
            FieldType.BOOLEAN
            if isinstance(value, bool)
            else FieldType.INTEGER
            if isinstance(value, int)
            else FieldType.STRING
        )
        out.setdefault(name, column(name, types.get(name, kind)))
    return out


def _respelt(binding: Any) -> bool:
    """Return whether the column holds something else than the field, which the mapping translates."""
    return bool(
        binding.values
        or binding.date_format
        or binding.minor_units
        or binding.path
        or binding.country
        or binding.decimal_separator != "."
    )


def _types(spec: SystemSpec, system: str, entity: str) -> dict[str, FieldType]:
    named = dict(dict(spec.options.get("types", {})).get(entity, {}))
    try:
        return {name: FieldType(kind) for name, kind in named.items()}
    except ValueError as error:
        raise Fatal(
            f"systems.{system}.options.types.{entity}: {error}",
            hint=f"types are {', '.join(t.value for t in FieldType)}",
        ) from error


def column(name: str, kind: FieldType) -> ApiColumn:
    """Return a column whose values are whatever JSON may spell this type with."""
    load, dump = _SPELLINGS.get(kind, (lambda value: value, lambda value: value))
    return ApiColumn(name, kind, kind.value, load, dump)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return decimal_text(value) if isinstance(value, int | float | Decimal) else json_text(value)


def _integer(value: Any) -> int:
    number = Decimal(str(value)) if not isinstance(value, bool) else Decimal(int(value))
    if number != number.to_integral_value():
        raise ValueError(f"{value!r} is not whole")
    return int(number)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    return bool(of_text(FieldType.BOOLEAN, str(value)))


def _timestamp(value: Any) -> dt.datetime:
    if isinstance(value, str) and not value.isdigit():
        return moment(value)
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=epoch_micros(value))


def _iso(value: dt.datetime) -> str:
    return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


_Spelling = tuple[Callable[[Any], Any], Callable[[Any], Any]]
_SPELLINGS: dict[FieldType, _Spelling] = {
    FieldType.STRING: (_plain, str),
    FieldType.UUID: (lambda value: str(value).lower(), str),
    FieldType.DECIMAL: (decimal_text, Decimal),
    FieldType.JSON: (json_text, lambda text: msgspec.json.decode(text.encode())),
    FieldType.INTEGER: (_integer, lambda value: value),
    FieldType.NUMBER: (float, lambda value: value),
    FieldType.BOOLEAN: (_boolean, lambda value: value),
    FieldType.DATE: (lambda value: dt.date.fromisoformat(str(value)[:10]), lambda value: value.isoformat()),
    FieldType.TIMESTAMP: (_timestamp, _iso),
    FieldType.LOCAL_TIMESTAMP: (
        lambda value: dt.datetime.fromisoformat(str(value)).replace(tzinfo=None),
        lambda value: value.isoformat(),
    ),
}
