"""Avro at the level of bytes: slices of nullable values, and the few primitives the hot path needs.

A *slice* is the Avro encoding of one value of type ``["null", T]``: ``b"\\x00"`` is null, ``b"\\x02"`` + payload a value.
Rows, golden records and copies are kept as slices, so that what did not change is compared and copied, never decoded.
Encoding rules: Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Any

NULL = b"\x00"
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_DOUBLE = struct.Struct("<d")


class FieldType(StrEnum):
    """The types a field or column can have; see `AVRO_TYPES` for how each is written."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    LOCAL_TIMESTAMP = "local_timestamp"
    JSON = "json"
    UUID = "uuid"
    BYTES = "bytes"


# Decimals, JSON and UUIDs travel as text: lossless (NaN, unbounded precision, key order) and copied without conversion.
AVRO_TYPES: dict[FieldType, Any] = {
    FieldType.STRING: "string",
    FieldType.INTEGER: "long",
    FieldType.NUMBER: "double",
    FieldType.DECIMAL: {"type": "string", "tidelock.type": "decimal"},
    FieldType.BOOLEAN: "boolean",
    FieldType.DATE: {"type": "int", "logicalType": "date"},
    FieldType.TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
    FieldType.LOCAL_TIMESTAMP: {"type": "long", "logicalType": "local-timestamp-micros"},
    FieldType.JSON: {"type": "string", "tidelock.type": "json"},
    FieldType.UUID: {"type": "string", "logicalType": "uuid"},
    FieldType.BYTES: "bytes",
}

# Branches of the generic `Value` union of schemas/write.avsc: null, string, long, double, boolean, bytes.
_LONG, _DOUBLE_TAG, _BOOLEAN, _BYTES = b"\x04", b"\x06", b"\x08", b"\x0a"
VALUE_TAGS: dict[FieldType, bytes] = {
    FieldType.STRING: b"\x02",
    FieldType.DECIMAL: b"\x02",
    FieldType.JSON: b"\x02",
    FieldType.UUID: b"\x02",
    FieldType.INTEGER: _LONG,
    FieldType.DATE: _LONG,
    FieldType.TIMESTAMP: _LONG,
    FieldType.LOCAL_TIMESTAMP: _LONG,
    FieldType.NUMBER: _DOUBLE_TAG,
    FieldType.BOOLEAN: _BOOLEAN,
    FieldType.BYTES: _BYTES,
}


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


# Non-negative longs below 4096 (nearly all lengths and counts), zigzag encoded; and the same behind a "not null" branch.
_SMALL = [_varint(n << 1) for n in range(4096)]
_SOME_SMALL = [b"\x02" + v for v in _SMALL]


def encode_long(n: int) -> bytes:
    """Encode a long (zigzag varint)."""
    if 0 <= n < 4096:
        return _SMALL[n]
    return _varint((n << 1) ^ (n >> 63) if n < 0 else n << 1)


_MOMENTS: dict[int, bytes] = {}


def encode_moment(n: int) -> bytes:
    """Encode a time in microseconds. Every change of a transaction has the same, so the last ones are kept."""
    known = _MOMENTS.get(n)
    if known is None:
        if len(_MOMENTS) > 1000:
            _MOMENTS.clear()
        known = _MOMENTS[n] = encode_long(n)
    return known


def decode_long(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, index behind it)."""
    b = data[at]
    if b < 0x80:
        return (b >> 1) ^ -(b & 1), at + 1
    n, shift = b & 0x7F, 7
    while True:
        at += 1
        b = data[at]
        n |= (b & 0x7F) << shift
        if b < 0x80:
            return (n >> 1) ^ -(n & 1), at + 1
        shift += 7


def encode_bytes(data: bytes) -> bytes:
    """Encode bytes, or a string already in UTF-8: its length, then itself."""
    n = len(data)
    return (_SMALL[n] if n < 4096 else encode_long(n)) + data


def encode_string(text: str) -> bytes:
    """Encode a string."""
    return encode_bytes(text.encode())


def some_bytes(data: bytes) -> bytes:
    """Make the slice of a non-null string or bytes value from its UTF-8 bytes."""
    n = len(data)
    return (_SOME_SMALL[n] if n < 4096 else b"\x02" + encode_long(n)) + data


def some_long(n: int) -> bytes:
    """Make the slice of a non-null long."""
    return _SOME_SMALL[n] if 0 <= n < 4096 else b"\x02" + encode_long(n)


def decode_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """Return (bytes, index behind them)."""
    n = data[at]
    if n < 0x80:
        at += 1
        end = at + (n >> 1)
    else:
        n, at = decode_long(data, at)
        end = at + n
    return data[at:end], end


def decode_string(data: bytes, at: int) -> tuple[str, int]:
    """Return (string, index behind it)."""
    raw, at = decode_bytes(data, at)
    return raw.decode(), at


def _skip_long(data: bytes, at: int) -> int:
    while data[at] > 0x7F:
        at += 1
    return at + 1


def _skip_bytes(data: bytes, at: int) -> int:
    n = data[at]
    if n < 0x80:
        return at + 1 + (n >> 1)
    n, at = decode_long(data, at)
    return at + n


def _skip_fixed(size: int) -> Callable[[bytes, int], int]:
    return lambda _data, at: at + size


SKIP: dict[FieldType, Callable[[bytes, int], int]] = {
    FieldType.STRING: _skip_bytes,
    FieldType.DECIMAL: _skip_bytes,
    FieldType.JSON: _skip_bytes,
    FieldType.UUID: _skip_bytes,
    FieldType.BYTES: _skip_bytes,
    FieldType.INTEGER: _skip_long,
    FieldType.DATE: _skip_long,
    FieldType.TIMESTAMP: _skip_long,
    FieldType.LOCAL_TIMESTAMP: _skip_long,
    FieldType.NUMBER: _skip_fixed(8),
    FieldType.BOOLEAN: _skip_fixed(1),
}


def fits(kind: FieldType, data: bytes) -> bool:
    """Tell whether a slice can be of a type: whether that type's encoding ends where it ends."""
    try:
        return data == NULL or SKIP[kind](data, 1) == len(data)
    except IndexError:
        return False


def micros(moment: dt.datetime) -> int:
    """Return microseconds since 1970 UTC; a naive moment is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(n: int) -> dt.datetime:
    """Return the UTC moment of so many microseconds since 1970."""
    return EPOCH + dt.timedelta(microseconds=n)


def encode_slice(kind: FieldType, value: Any) -> bytes:
    """Encode a Python value (or None) as a slice: str, int, float, bool, bytes, date or datetime as the type asks."""
    if value is None:
        return NULL
    match kind:
        case FieldType.INTEGER:
            return some_long(int(value))
        case FieldType.NUMBER:
            return b"\x02" + _DOUBLE.pack(value)
        case FieldType.BOOLEAN:
            return b"\x02\x01" if value else b"\x02\x00"
        case FieldType.DATE:
            return some_long(value.toordinal() - EPOCH_DAY)
        case FieldType.TIMESTAMP | FieldType.LOCAL_TIMESTAMP:
            return some_long(micros(value) if isinstance(value, dt.datetime) else value)
        case FieldType.BYTES:
            return some_bytes(bytes(value))
        case _:
            return some_bytes(str(value).encode())


def decode_slice(kind: FieldType, data: bytes) -> Any:
    """Decode a slice; timestamps come back as aware (local ones as naive) datetimes, decimals, JSON and UUIDs as text."""
    if data[0] == 0:
        return None
    match kind:
        case FieldType.INTEGER:
            return decode_long(data, 1)[0]
        case FieldType.NUMBER:
            return _DOUBLE.unpack_from(data, 1)[0]
        case FieldType.BOOLEAN:
            return data[1] == 1
        case FieldType.DATE:
            return dt.date.fromordinal(decode_long(data, 1)[0] + EPOCH_DAY)
        case FieldType.TIMESTAMP:
            return from_micros(decode_long(data, 1)[0])
        case FieldType.LOCAL_TIMESTAMP:
            return from_micros(decode_long(data, 1)[0]).replace(tzinfo=None)
        case FieldType.BYTES:
            return decode_bytes(data, 1)[0]
        case _:
            return decode_bytes(data, 1)[0].decode()


_Split = Callable[[bytes, int], tuple[list[bytes], int]]
_TEXTS = frozenset({FieldType.STRING, FieldType.DECIMAL, FieldType.JSON, FieldType.UUID, FieldType.BYTES})
_FIXED = {FieldType.NUMBER: 8, FieldType.BOOLEAN: 1}


@lru_cache(maxsize=256)
def splitter(kinds: tuple[FieldType, ...]) -> _Split:
    """Make the function that cuts a run of nullable values of these types into slices: (data, at) → (slices, index behind).

    It is generated: one straight run of statements per column costs half of a loop that looks each type up. It raises IndexError
    where the data ends before a value begins; a last value that is cut short is for the caller to notice by the index.
    """
    lines = ["def split(data, at):"]
    for i, kind in enumerate(kinds):
        lines += ["    if data[at]:"]
        if kind in _TEXTS:
            lines += [
                "        n = data[at + 1]",
                "        if n < 0x80:",
                "            end = at + 2 + (n >> 1)",
                "        else:",
                "            n, end = decode_long(data, at + 1)",
                "            end += n",
            ]
        elif kind in _FIXED:
            lines += [f"        end = at + {1 + _FIXED[kind]}"]
        else:
            lines += [
                "        end = at + 1",
                "        while data[end] > 0x7F:",
                "            end += 1",
                "        end += 1",
            ]
        lines += [f"        v{i} = data[at:end]", "        at = end"]
        lines += ["    else:", f"        v{i} = NULL", "        at += 1"]
    lines += [f"    return [{', '.join(f'v{i}' for i in range(len(kinds)))}], at"]
    scope: dict[str, Any] = {"decode_long": decode_long, "NULL": NULL}
    exec("\n".join(lines), scope)  # noqa: S102 -- nothing in it comes from outside: types choose among the lines above
    split: _Split = scope["split"]
    return split


_MOMENT_BYTES = 8  # of every time between 1979 and 4253, as Avro spells microseconds
_READ_MOMENTS: dict[bytes, int] = {}


def decode_moment(data: bytes, at: int) -> tuple[int, int]:
    """Return (microseconds, index behind them); the last ones read are kept, as in `encode_moment`."""
    end = at + _MOMENT_BYTES
    raw = data[at:end]
    known = _READ_MOMENTS.get(raw)
    if known is not None:
        return known, end
    n, behind = decode_long(data, at)
    if behind == end:
        if len(_READ_MOMENTS) > 1000:
            _READ_MOMENTS.clear()
        _READ_MOMENTS[raw] = n
    return n, behind


def to_value(kind: FieldType, data: bytes) -> bytes:
    """Turn a slice into an encoded generic `Value` (schemas/write.avsc)."""
    return VALUE_TAGS[kind] + data[1:] if data[0] else NULL


def from_value(data: bytes, at: int) -> tuple[bytes, int]:
    """Cut one encoded generic `Value` and return it as a slice with the index behind it."""
    tag = data[at]
    if tag == 0:
        return NULL, at + 1
    start = at + 1
    if tag in (2, 10):
        end = _skip_bytes(data, start)
    elif tag == 4:
        end = _skip_long(data, start)
    elif tag == 6:
        end = start + 8
    else:
        end = start + 1
    return (data[at:end] if tag == 2 else b"\x02" + data[start:end]), end
