"""Types of PostgreSQL: which field type each one is, and values between the server's own text and generic Avro values.

A generic value (schemas/write.avsc) carries its branch as first byte, so it can be told apart without a schema. The texts follow
the session settings of `SESSION`, so that one value has one spelling.
"""

from __future__ import annotations

import datetime as dt
import struct

from tidelock.avro import (
    EPOCH_DAY,
    NULL,
    VALUE_TAGS,
    FieldType,
    decode_bytes,
    decode_long,
    encode_bytes,
    encode_long,
    micros,
)
from tidelock.errors import Reject

SESSION = (
    "-c DateStyle=ISO,YMD -c TimeZone=UTC -c IntervalStyle=postgres -c extra_float_digits=1 -c bytea_output=hex "
    "-c standard_conforming_strings=on -c client_encoding=UTF8"
)

# Built-in type ids never change (src/include/catalog/pg_type.dat); everything else travels as its text.
TYPES: dict[int, FieldType] = {
    20: FieldType.INTEGER,
    21: FieldType.INTEGER,
    23: FieldType.INTEGER,
    26: FieldType.INTEGER,  # oid
    700: FieldType.NUMBER,
    701: FieldType.NUMBER,
    1700: FieldType.DECIMAL,
    16: FieldType.BOOLEAN,
    1082: FieldType.DATE,
    1184: FieldType.TIMESTAMP,
    1114: FieldType.LOCAL_TIMESTAMP,
    114: FieldType.JSON,
    3802: FieldType.JSON,
    2950: FieldType.UUID,
    17: FieldType.BYTES,
}
# The types a field of an entity gets where we make the table.
COLUMN_TYPES: dict[FieldType, str] = {
    FieldType.STRING: "text",
    FieldType.INTEGER: "bigint",
    FieldType.NUMBER: "double precision",
    FieldType.DECIMAL: "numeric",
    FieldType.BOOLEAN: "boolean",
    FieldType.DATE: "date",
    FieldType.TIMESTAMP: "timestamptz",
    FieldType.LOCAL_TIMESTAMP: "timestamp",
    FieldType.JSON: "jsonb",
    FieldType.UUID: "uuid",
    FieldType.BYTES: "bytea",
}
# Types whose ``=`` says whether two values are the same; others are compared by their text.
COMPARABLE = frozenset(
    {16, 17, 18, 19, 20, 21, 23, 25, 26, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1266, 1700, 2950, 3802}
)

_DATE, _LOCAL, _ZONED = 1082, 1114, 1184
_DOUBLE = struct.Struct("<d")
_STRING, _LONG, _NUMBER, _BOOLEAN, _BYTES = 2, 4, 6, 8, 10


def to_text(value: bytes, oid: int) -> bytes | None:
    """Spell a generic value as PostgreSQL reads it into a column of this type; None for null.

    Raises Reject (``nul_character``, ``date_out_of_range``).
    """
    tag = value[0]
    if tag == _STRING:
        return value[2:] if value[1] < 0x80 else decode_bytes(value, 1)[0]
    if tag == 0:
        return None
    if tag == _LONG:
        n = decode_long(value, 1)[0]
        if oid in _TIMES:
            return _time(n, oid)
        return b"%d" % n
    if tag == _NUMBER:
        return repr(_DOUBLE.unpack_from(value, 1)[0]).encode()
    if tag == _BOOLEAN:
        return b"t" if value[1] else b"f"
    raw = decode_bytes(value, 1)[0]
    return b"\\x" + raw.hex().encode()


def to_texts(values: list[bytes], oid: int) -> list[bytes | None]:
    """Spell many values of one column, as `to_text` does."""
    out: list[bytes | None] = []
    add = out.append
    times = oid in _TIMES
    for value in values:
        tag = value[0]
        if tag == _STRING and value[1] < 0x80:
            add(value[2:])
        elif tag == 0:
            add(None)
        elif tag == _LONG and not times:
            n = value[1]
            add(_INTEGERS[n] if n < 0x80 else b"%d" % decode_long(value, 1)[0])
        else:
            add(to_text(value, oid))
    return out


_INTEGERS = [b"%d" % ((n >> 1) ^ -(n & 1)) for n in range(0x80)]

_TIMES = frozenset({_DATE, _LOCAL, _ZONED})


def _time(n: int, oid: int) -> bytes:
    """Spell a date, or a time as PostgreSQL itself does: no zeros at the end of the fraction."""
    if oid == _DATE:
        return _day(n, n)
    days, rest = divmod(n, _DAY_MICROS)
    seconds, fraction = divmod(rest, 1_000_000)
    minutes, second = divmod(seconds, 60)
    text = b"%b %02d:%02d:%02d" % (_day(days, n), *divmod(minutes, 60), second)
    if fraction:
        text += (b".%06d" % fraction).rstrip(b"0")
    return text + b"+00" if oid == _ZONED else text


_DAY_MICROS = 86_400_000_000
_days: dict[int, bytes] = {}


def _day(days: int, n: int) -> bytes:
    known = _days.get(days)
    if known is None:
        if len(_days) > 50_000:
            _days.clear()
        try:
            known = _days[days] = dt.date.fromordinal(days + EPOCH_DAY).isoformat().encode()
        except (ValueError, OverflowError) as error:
            raise Reject(
                f"the date or time {n} lies outside the years 1 to 9999",
                kind="date_out_of_range",
                hint="correct the value in the system it comes from",
            ) from error
    return known


def from_text(text: bytes | None, oid: int) -> bytes:
    """Make the generic value of a text as the server wrote it, as capture of such a column would have it.

    A date that cannot be expressed (infinity) comes back as its text.
    """
    if text is None:
        return NULL
    kind = TYPES.get(oid, FieldType.STRING)
    tag = VALUE_TAGS[kind]
    match kind:
        case FieldType.INTEGER:
            return tag + encode_long(int(text))
        case FieldType.NUMBER:
            return tag + _DOUBLE.pack(float(text))
        case FieldType.BOOLEAN:
            return tag + (b"\x01" if text == b"t" else b"\x00")
        case FieldType.BYTES:
            return tag + encode_bytes(bytes.fromhex(text[2:].decode()))
        case FieldType.DATE | FieldType.TIMESTAMP | FieldType.LOCAL_TIMESTAMP:
            try:
                return tag + encode_long(_moment(text.decode(), kind))
            except ValueError:
                return VALUE_TAGS[FieldType.STRING] + encode_bytes(text)
        case _:
            return tag + encode_bytes(text)


def _moment(text: str, kind: FieldType) -> int:
    if kind is FieldType.DATE:
        return dt.date.fromisoformat(text).toordinal() - EPOCH_DAY
    return micros(dt.datetime.fromisoformat(text))


def array(texts: list[bytes | None]) -> bytes:
    """Spell a one-dimensional array of texts as PostgreSQL reads it. Raises Reject (``nul_character``)."""
    if None not in texts:
        known: list[bytes] = texts  # type: ignore[assignment]
        body = b'","'.join(known)
        if b"\\" not in body and body.count(b'"') == 2 * (len(known) - 1) and b"\0" not in body:
            return b'{"' + body + b'"}' if known else b"{}"
    parts = []
    for text in texts:
        if text is None:
            parts.append(b"NULL")
            continue
        if b"\0" in text:
            raise Reject(
                f"the text {text[:60]!r} has a zero character in it, which PostgreSQL cannot keep",
                kind="nul_character",
                hint="remove the character in the system the value comes from",
            )
        parts.append(b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"')
    return b"{" + b",".join(parts) + b"}"
