"""Records as HTTP APIs give and take them, and their columns: typed, and spelt the vendor's way.

A capture and a sink of one vendor use the same columns, so one value becomes the same bytes whichever way it was read; the merge and
the base check compare bytes.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from tidelock.avro import NULL, FieldType, decode_slice, encode_slice, from_value, to_value
from tidelock.errors import Reject

Version = tuple[int, int]
"""What orders the states of one record: a row version, or a time of the vendor; the second number breaks ties. Both fit 64 bits."""


@dataclass(frozen=True, slots=True)
class ApiColumn:
    """One property of a vendor's object. ``load`` turns its JSON value into the type's Python value, ``dump`` goes back.

    Both see no null. They raise ValueError or TypeError for what is none of the type.
    """

    name: str
    type: FieldType
    source_type: str = ""
    load: Callable[[Any], Any] = field(default=lambda value: value, repr=False, compare=False)
    dump: Callable[[Any], Any] = field(default=lambda value: value, repr=False, compare=False)
    writable: bool = True
    required: bool = False
    unique: bool = False
    length: int | None = None

    def encode(self, value: Any) -> bytes:
        """Encode a JSON value as a slice. Raises Reject (``bad_value``) that names the column."""
        if value is None:
            return NULL
        try:
            return encode_slice(self.type, self.load(value))
        except (ValueError, TypeError, ArithmeticError, OverflowError) as error:
            raise Reject(
                f"column {self.name} holds {value!r}, which is no {self.type.value}", kind="bad_value", field=self.name
            ) from error

    def generic(self, value: Any) -> bytes:
        """Encode a JSON value as a generic value, as writes and receipts carry it. Raises Reject."""
        return to_value(self.type, self.encode(value))

    def json(self, generic: bytes) -> Any:
        """Turn a write's generic value into the JSON that the vendor takes. Raises Reject (``bad_value``)."""
        if generic == NULL:
            return None
        try:
            return self.dump(_value(self.type, generic))
        except (ValueError, TypeError, ArithmeticError, OverflowError) as error:
            raise Reject(
                f"the value cannot be written to column {self.name}, which is a {self.type.value}",
                kind="bad_value",
                field=self.name,
                hint="correct the mapping: the field's type does not fit the column's",
            ) from error


@dataclass(slots=True)
class Record:
    """One record as an API told of it; ``values`` are JSON values by column, and a column that was not told of is absent.

    ``at`` is when it was changed there, in µs since 1970. ``ours``: the last change was our own writing, as far as the vendor tells.
    """

    key: str
    values: Mapping[str, Any]
    version: Version
    at: int
    deleted: bool = False
    created: bool = False
    ours: bool = False
    actor: str | None = None
    write_id: str | None = None


# ------------------------------------------------------------------------------------------------ values by type

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TEXT_TYPES = frozenset({FieldType.STRING, FieldType.DECIMAL, FieldType.JSON, FieldType.UUID})


def _value(kind: FieldType, generic: bytes) -> Any:
    """Return the Python value of a generic value that is to stand in a column of this type."""
    tag = generic[0]
    slice_, _ = from_value(generic, 0)
    if tag == 2:
        text = decode_slice(FieldType.STRING, slice_)
        return text if kind in _TEXT_TYPES else of_text(kind, text)
    if tag == 4:
        if kind in (FieldType.DATE, FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP, FieldType.INTEGER):
            return decode_slice(kind, slice_)
        number = decode_slice(FieldType.INTEGER, slice_)
        return str(number) if kind in _TEXT_TYPES else number
    if tag == 6:
        real = decode_slice(FieldType.NUMBER, slice_)
        return plain_number(real) if kind in _TEXT_TYPES else real
    if tag == 8:
        flag = decode_slice(FieldType.BOOLEAN, slice_)
        return ("true" if flag else "false") if kind in _TEXT_TYPES else flag
    return decode_slice(FieldType.BYTES, slice_)


def of_text(kind: FieldType, text: str) -> Any:
    """Read a text as a value of a type. Raises ValueError."""
    match kind:
        case FieldType.INTEGER:
            return int(text)
        case FieldType.NUMBER:
            return float(text)
        case FieldType.BOOLEAN:
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{text!r} is neither true nor false")
            return text.lower() == "true"
        case FieldType.DATE:
            return dt.date.fromisoformat(text)
        case FieldType.TIMESTAMP:
            return moment(text)
        case FieldType.LOCAL_TIMESTAMP:
            return dt.datetime.fromisoformat(text).replace(tzinfo=None)
        case _:
            return text


def moment(text: str) -> dt.datetime:
    """Read an ISO 8601 time, with or without an offset (then it is UTC). Raises ValueError."""
    at = dt.datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)


def micros_of(text: str) -> int:
    """Read an ISO 8601 time as µs since 1970. Raises ValueError."""
    since = moment(text) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def decimal_text(value: Any) -> str:
    """Spell a number the one way in which equal numbers are equal texts: no exponent, no zeros at the end. Raises ValueError."""
    try:
        number = Decimal(str(value))
    except InvalidOperation as error:
        raise ValueError(f"{value!r} is no number") from error
    if not number.is_finite():
        raise ValueError(f"{value!r} is not finite")
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def plain_number(value: float) -> str:
    """Spell a float without exponent; what is whole without a point."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)


def json_text(value: Any) -> str:
    """Spell a JSON value the one way in which equal values are equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
