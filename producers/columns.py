"""Columns of PostgreSQL: which field type each type becomes, and text as the server writes it into Avro slices.

The texts follow the session settings of `SESSION` (ISO dates, UTC, hexadecimal bytea), the same for stream and snapshot, so that
one value is always encoded to the same bytes.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable

from tidelock.avro import EPOCH_DAY, FieldType, encode_long, some_bytes
from tidelock.errors import Reject

Encode = Callable[[bytes], bytes]

SESSION = (
    "-c DateStyle=ISO,YMD -c TimeZone=UTC -c IntervalStyle=postgres -c extra_float_digits=1 "
    "-c bytea_output=hex -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
)

# An Avro long below 2**14 after zigzag takes at most two bytes, so longer ones are put together from tables by 14 bits.
_LAST = [bytes((z,)) if z < 0x80 else bytes((z & 0x7F | 0x80, z >> 7)) for z in range(1 << 14)]
_MORE = [bytes((z & 0x7F | 0x80, z >> 7 | 0x80)) for z in range(1 << 14)]
_SOME_LAST = [b"\x02" + v for v in _LAST]
_SOME_MORE = [b"\x02" + v for v in _MORE]
_DOUBLE = struct.Struct("<d")
_POWER = (1_000_000, 100_000, 10_000, 1_000, 100, 10, 1)
_DAY_MICROS = 86_400_000_000
_CACHE_MOST = 50_000


def some_long(n: int) -> bytes:
    """Make the slice of a long, as `tidelock.avro.some_long` does, faster for large numbers. Raises Reject beyond 64 bits."""
    z = n << 1 if n >= 0 else ~(n << 1)
    if z < 0x4000:
        return _SOME_LAST[z]
    if z < 0x1000_0000:
        return _SOME_MORE[z & 0x3FFF] + _LAST[z >> 14]
    if z < 1 << 56:
        if z < 1 << 42:
            return _SOME_MORE[z & 0x3FFF] + _MORE[z >> 14 & 0x3FFF] + _LAST[z >> 28]
        return _SOME_MORE[z & 0x3FFF] + _MORE[z >> 14 & 0x3FFF] + _MORE[z >> 28 & 0x3FFF] + _LAST[z >> 42]
    if z >> 64:
        raise Reject(f"the number {n} needs more than 64 bits", kind="number_out_of_range")
    return b"\x02" + encode_long(n)


def some_integer(text: bytes) -> bytes:
    """Encode the text of an integer."""
    return some_long(int(text))


def some_number(text: bytes) -> bytes:
    """Encode the text of a float."""
    return b"\x02" + _DOUBLE.pack(float(text))


def some_boolean(text: bytes) -> bytes:
    """Encode ``t`` or ``f``."""
    return b"\x02\x01" if text == b"t" else b"\x02\x00"


def some_hex(text: bytes) -> bytes:
    """Encode a bytea in hexadecimal output."""
    return some_bytes(bytes.fromhex(text[2:].decode()))


_dates: dict[bytes, bytes] = {}
_seconds: dict[bytes, int] = {}


def some_date(text: bytes) -> bytes:
    """Encode a date. Raises Reject (``infinite_date``, ``date_out_of_range``)."""
    known = _dates.get(text)
    if known is None:
        if len(_dates) > _CACHE_MOST:
            _dates.clear()
        known = _dates[text] = some_long(_day(text))
    return known


def some_local_timestamp(text: bytes) -> bytes:
    """Encode a timestamp without zone. Raises Reject as `some_date` does."""
    head = text[:19]
    micros = _seconds.get(head)
    if micros is None:
        micros = _second(head, text)
    n = len(text)
    if n > 20:
        if not 20 < n <= 26:
            raise _out_of_range(text)
        micros += int(text[20:]) * _POWER[n - 20]
    return some_long(micros)


def some_timestamp(text: bytes) -> bytes:
    """Encode a timestamp with zone, which stands in UTC (``+00``). Raises Reject as `some_date` does."""
    if text[-3:] != b"+00":
        raise _out_of_range(text)
    head = text[:19]
    micros = _seconds.get(head)
    if micros is None:
        micros = _second(head, text)
    n = len(text)
    if n > 23:
        if n > 29:
            raise _out_of_range(text)
        micros += int(text[20:-3]) * _POWER[n - 23]
    return some_long(micros)


def _day(text: bytes) -> int:
    try:
        return dt.date.fromisoformat(text.decode()).toordinal() - EPOCH_DAY
    except ValueError as error:
        raise _out_of_range(text) from error


def _second(head: bytes, text: bytes) -> int:
    """Return the microseconds of ``YYYY-MM-DD hh:mm:ss`` since 1970 and remember them."""
    if len(head) != 19 or head[10] != 32 or text.endswith(b"BC"):
        raise _out_of_range(text)
    try:
        day = _day(head[:10])
        seconds = int(head[11:13]) * 3600 + int(head[14:16]) * 60 + int(head[17:19])
    except ValueError as error:
        raise _out_of_range(text) from error
    if len(_seconds) > _CACHE_MOST:
        _seconds.clear()
    micros = _seconds[head] = day * _DAY_MICROS + seconds * 1_000_000
    return micros


def _out_of_range(text: bytes) -> Reject:
    shown = text.decode(errors="replace")
    kind = "infinite_date" if b"infinity" in text else "date_out_of_range"
    return Reject(
        f"the date or time {shown!r} cannot be expressed in the other systems",
        kind=kind,
        hint="use null for an open end, or a date between the years 1 and 9999",
    )


def some_text(text: bytes) -> bytes:
    """Encode a text whose bytes may not be UTF-8 (databases in SQL_ASCII). Raises Reject (``not_utf8``)."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise Reject(
            f"the text {text[:80]!r} is not UTF-8",
            kind="not_utf8",
            hint="the database is in SQL_ASCII and keeps bytes as they come; correct the value there",
        ) from error
    return some_bytes(text)


ENCODERS: dict[FieldType, Encode] = {
    FieldType.STRING: some_bytes,
    FieldType.DECIMAL: some_bytes,
    FieldType.JSON: some_bytes,
    FieldType.UUID: some_bytes,
    FieldType.INTEGER: some_integer,
    FieldType.NUMBER: some_number,
    FieldType.BOOLEAN: some_boolean,
    FieldType.DATE: some_date,
    FieldType.TIMESTAMP: some_timestamp,
    FieldType.LOCAL_TIMESTAMP: some_local_timestamp,
    FieldType.BYTES: some_hex,
}


def unescape_copy(field: bytes) -> bytes | None:
    """Take the escapes out of one field of COPY's text format; ``\\N`` is null."""
    if field == b"\\N":
        return None
    if b"\\" not in field:
        return field
    out = bytearray()
    at = 0
    while True:
        next_at = field.find(b"\\", at)
        if next_at < 0:
            return bytes(out + field[at:])
        out += field[at:next_at]
        ch = field[next_at + 1 : next_at + 2]
        out += _ESCAPES.get(ch, ch)
        at = next_at + 2


_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
