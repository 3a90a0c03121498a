"""Single values: from the text or slice of any type to the canonical slice of a field, and to text again. Pure.

Canonical spellings, so that one value has one slice: decimals without exponent, superfluous zeros or "-0", with exactly `scale`
digits if the field has one (half-even); JSON compact with sorted keys; UUIDs in lower case; timestamps in UTC.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Any

from tidelock.avro import (
    NULL,
    FieldType,
    decode_bytes,
    decode_long,
    decode_slice,
    encode_slice,
    some_bytes,
    some_long,
)
from tidelock.errors import Reject

Convert = Callable[[bytes], bytes]
Parse = Callable[[str], bytes]
CACHE = 32_768  # entries of each text cache: about 10 MB when full
DAY_US = 86_400_000_000
TEXTS = frozenset({FieldType.STRING, FieldType.DECIMAL, FieldType.JSON, FieldType.UUID})
_NUMBERS = frozenset({FieldType.STRING, FieldType.INTEGER, FieldType.NUMBER, FieldType.DECIMAL, FieldType.JSON})
_TIMES = frozenset({FieldType.STRING, FieldType.DATE, FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP, FieldType.JSON})

# Field type → column types it can be read from without guessing.
SOURCES: dict[FieldType, frozenset[FieldType]] = {
    FieldType.STRING: frozenset(FieldType) - {FieldType.BYTES},
    FieldType.INTEGER: _NUMBERS | {FieldType.BOOLEAN},
    FieldType.NUMBER: _NUMBERS,
    FieldType.DECIMAL: _NUMBERS,
    FieldType.BOOLEAN: frozenset({FieldType.STRING, FieldType.INTEGER, FieldType.BOOLEAN, FieldType.JSON}),
    FieldType.DATE: _TIMES,
    FieldType.TIMESTAMP: _TIMES,
    FieldType.LOCAL_TIMESTAMP: _TIMES,
    FieldType.JSON: frozenset({FieldType.STRING, FieldType.JSON}),
    FieldType.UUID: frozenset({FieldType.STRING, FieldType.UUID, FieldType.JSON}),
    FieldType.BYTES: frozenset({FieldType.BYTES}),
}

# Field type → column types whose slices are the canonical slices. Decimals and JSON have several spellings of one value.
SAME: dict[FieldType, frozenset[FieldType]] = {
    FieldType.STRING: TEXTS,
    FieldType.INTEGER: frozenset({FieldType.INTEGER}),
    FieldType.NUMBER: frozenset({FieldType.NUMBER}),
    FieldType.DECIMAL: frozenset(),
    FieldType.BOOLEAN: frozenset({FieldType.BOOLEAN}),
    FieldType.DATE: frozenset({FieldType.DATE}),
    FieldType.TIMESTAMP: frozenset({FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP}),
    FieldType.LOCAL_TIMESTAMP: frozenset({FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP}),
    FieldType.JSON: frozenset(),
    FieldType.UUID: frozenset({FieldType.UUID}),
    FieldType.BYTES: frozenset({FieldType.BYTES}),
}


def reject(kind: str, text: object, what: str) -> Reject:
    """Make the error for a value that is not what it should be; long values are shortened."""
    shown = repr(text)
    return Reject(f"{shown if len(shown) <= 60 else shown[:57] + '...'} {what}", kind=kind)


# ---------------------------------------------------------------------------------------------------------- slices to text


def string_of(raw: bytes) -> str:
    """Return the text of a non-null slice of a text type."""
    return raw[2:].decode() if raw[1] < 0x80 else decode_bytes(raw, 1)[0].decode()


def _moment_of(raw: bytes) -> str:
    moment: dt.datetime = decode_slice(FieldType.TIMESTAMP, raw)
    return moment.isoformat().replace("+00:00", "Z")


def _float_of(raw: bytes) -> str:
    return decimal_text(repr(decode_slice(FieldType.NUMBER, raw)), None)


def _nothing(_raw: bytes) -> str:
    raise Reject("bytes have no text", kind="no_conversion")


TEXT: dict[FieldType, Callable[[bytes], str]] = {
    **dict.fromkeys(TEXTS, string_of),
    FieldType.INTEGER: lambda raw: str(decode_long(raw, 1)[0]),
    FieldType.NUMBER: _float_of,
    FieldType.BOOLEAN: lambda raw: "true" if raw[1] else "false",
    FieldType.DATE: lambda raw: decode_slice(FieldType.DATE, raw).isoformat(),
    FieldType.TIMESTAMP: _moment_of,
    FieldType.LOCAL_TIMESTAMP: lambda raw: _moment_of(raw).removesuffix("Z"),
    FieldType.BYTES: _nothing,
}


# ---------------------------------------------------------------------------------------------------------- numbers

_DECIMAL = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_GROUPED = {
    ".": re.compile(r"[+-]?\d{1,3}(?:([, \xa0\u202f'’])\d{3}(?:\1\d{3})*)(?:\.\d*)?", re.ASCII),
    ",": re.compile(r"[+-]?\d{1,3}(?:([. \xa0\u202f'’])\d{3}(?:\1\d{3})*)(?:,\d*)?", re.ASCII),
}
_SYMBOLS = str.maketrans("", "", "$€£¥₹₽₩₺₴₫₪฿₦₱")


@lru_cache(CACHE)
def decimal_text(text: str, scale: int | None) -> str:
    """Return a decimal's canonical spelling. Raises Reject (``bad_number``) for anything else, NaN and infinities too."""
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise reject("bad_number", text, "is not a number")
    sign, whole, part, exponent = match.groups()
    if exponent is not None:
        return decimal_text(format(Decimal(text), "f"), scale)
    whole, part = whole.lstrip("0") or "0", part or ""
    if scale is None:
        part = part.rstrip("0")
    elif len(part) > scale:
        exact = Context(prec=len(whole) + len(part) + 2, rounding=ROUND_HALF_EVEN)
        whole, _, part = format(exact.quantize(Decimal(f"{whole}.{part}"), Decimal(1).scaleb(-scale)), "f").partition(
            "."
        )
    else:
        part = part.ljust(scale, "0")
    out = f"{whole}.{part}" if part else whole
    return f"-{out}" if sign == "-" and out.strip("0.") else out


def number_text(text: str, separator: str, grouped: bool) -> str:
    """Return a typed number in plain decimal spelling: currency signs go, and thousands marks if ``grouped``.

    Without ``grouped`` they are not accepted: "1,234" is a thousand in one country and a little more than one in another.
    """
    text = text.translate(_SYMBOLS).strip()
    match = _GROUPED[separator].fullmatch(text) if grouped else None
    if match is not None:
        text = text.replace(match[1], "")
    elif separator == "," and "." in text:
        raise reject("bad_number", text, "is not a number with a decimal comma")
    return text.replace(",", ".") if separator == "," else text


def decimal_reader(scale: int | None) -> Convert:
    """Make the conversion of decimal slices; one that is canonical already is recognised without being decoded."""
    if scale is None:
        tail = rb"(?:\.\d*[1-9])?"
    else:
        tail = rb"\.\d{%d}" % scale if scale else b""
    positive = rb"(?:0|[1-9]\d*)" + tail
    negative = rb"-(?=[0.]*[1-9])" + positive
    canonical = re.compile(rb"(?:" + positive + rb"|" + negative + rb")").fullmatch

    def convert(raw: bytes) -> bytes:
        if raw[1] < 0x80 and canonical(raw, 2):
            return raw
        return some_bytes(decimal_text(string_of(raw), scale).encode())

    return convert


def minor_reader(parse: Parse, digits: int, grouped: bool, separator: str) -> Parse:
    """Make the parser of a column that counts minor units (cents): its number, the point moved left by ``digits``."""

    def convert(text: str) -> bytes:
        plain = decimal_text(number_text(text, separator, grouped), None)
        return parse(format(Decimal(plain).scaleb(-digits, Context(prec=len(plain) + 2)), "f"))

    return convert


def cents_reader(digits: int, scale: int | None) -> Convert | None:
    """Make the conversion of whole minor units into a decimal with as many digits, by arithmetic alone."""
    if digits == 0 or scale != digits:
        return None
    unit = 10**digits

    def convert(raw: bytes) -> bytes:
        n = decode_long(raw, 1)[0]
        sign, n = ("-", -n) if n < 0 else ("", n)
        return some_bytes(b"%b%d.%0*d" % (sign.encode(), n // unit, digits, n % unit))

    return convert


def minor_units(text: str, digits: int) -> int:
    """Return a canonical decimal in minor units, rounded half-even. Raises Reject if it does not fit 64 bits."""
    whole, _, part = text.partition(".")
    if len(part) <= digits and len(text) < 18:
        return int(whole + part.ljust(digits, "0"))
    exact = Context(prec=len(text) + digits + 2, rounding=ROUND_HALF_EVEN)
    return _long(int(exact.quantize(Decimal(text).scaleb(digits, exact), Decimal(1))))


def _long(n: int) -> int:
    if not -(1 << 63) <= n < 1 << 63:
        raise reject("bad_number", n, "does not fit 64 bits")
    return n


# ---------------------------------------------------------------------------------------------------------- text to slices


def _integer(text: str) -> bytes:
    plain = decimal_text(text, None)
    if "." in plain:
        raise reject("bad_number", text, "is not a whole number")
    return some_long(_long(int(plain)))


_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


def _boolean(text: str) -> bytes:
    word = text.casefold()
    if word in _TRUE:
        return b"\x02\x01"
    if word in _FALSE:
        return b"\x02\x00"
    raise reject("bad_boolean", text, "is neither yes nor no")


@lru_cache(CACHE)
def _date(text: str) -> bytes:
    try:
        return encode_slice(FieldType.DATE, dt.date.fromisoformat(text))
    except ValueError:
        moment = _moment(text)
        if moment.time() != dt.time():
            raise reject("bad_date", text, "is a time within a day; the field holds days") from None
        return encode_slice(FieldType.DATE, moment.date())


def _moment(text: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        raise reject("bad_date", text, "is not a date as ISO 8601 spells it") from None


def _timestamp(text: str) -> bytes:
    return encode_slice(FieldType.TIMESTAMP, _moment(text))


def _uuid(text: str) -> bytes:
    try:
        return some_bytes(str(uuid.UUID(text)).encode())
    except ValueError:
        raise reject("bad_uuid", text, "is not a UUID") from None


def _json(text: str) -> bytes:
    return some_bytes(json_text(load_json(text)).encode())


def _no_bytes(text: str) -> bytes:
    raise reject("no_conversion", text, "is text; the field holds bytes")


def parser(kind: FieldType, scale: int | None) -> Parse:
    """Return the parser of a field type for text that is not blank."""
    match kind:
        case FieldType.STRING:
            return lambda text: some_bytes(text.encode())
        case FieldType.DECIMAL:
            return lambda text: some_bytes(decimal_text(text, scale).encode())
        case FieldType.NUMBER:
            return lambda text: encode_slice(FieldType.NUMBER, float(decimal_text(text, None)))
        case FieldType.INTEGER:
            return _integer
        case FieldType.BOOLEAN:
            return _boolean
        case FieldType.DATE:
            return _date
        case FieldType.TIMESTAMP | FieldType.LOCAL_TIMESTAMP:
            return _timestamp
        case FieldType.UUID:
            return _uuid
        case FieldType.JSON:
            return _json
        case _:
            return _no_bytes


def date_parser(kind: FieldType, pattern: str) -> Parse:
    """Make the parser of dates in a strftime format; a moment without a zone is taken as UTC."""

    @lru_cache(CACHE)
    def parse(text: str) -> bytes:
        try:
            moment = dt.datetime.strptime(text, pattern)  # noqa: DTZ007 - `encode_slice` takes naive as UTC
        except ValueError:
            raise reject("bad_date", text, f"is not a date in the format {pattern}") from None
        return encode_slice(kind, moment.date() if kind is FieldType.DATE else moment)

    return parse


def date_speller(kind: FieldType, pattern: str) -> Convert:
    """Make the opposite of `date_parser`."""

    @lru_cache(CACHE)
    def spell(raw: bytes) -> bytes:
        moment = decode_slice(kind, raw)
        # glibc does not pad years before 1000, which strptime then refuses.
        return some_bytes(moment.strftime(pattern.replace("%Y", f"{moment.year:04d}")).encode())

    return spell


def cast(kind: FieldType, to: FieldType) -> Convert | None:
    """Return the direct conversion between two types that have one better than by text."""
    if to is FieldType.DATE and kind in (FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP):
        return lambda raw: some_long(decode_long(raw, 1)[0] // DAY_US)
    if to in (FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP) and kind is FieldType.DATE:
        return lambda raw: some_long(decode_long(raw, 1)[0] * DAY_US)
    if to is FieldType.INTEGER and kind is FieldType.BOOLEAN:
        return lambda raw: some_long(raw[1])
    return None


# ---------------------------------------------------------------------------------------------------------- JSON


def load_json(text: str) -> Any:
    """Parse JSON without losing digits. Raises Reject (``bad_json``)."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise reject("bad_json", text, "is not JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def json_text(value: Any) -> str:
    """Spell a JSON value canonically: compact, keys sorted, decimals exact."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{json_text(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(json_text(v) for v in value) + "]"
    if isinstance(value, Decimal):
        return decimal_text(str(value), None)
    return json.dumps(value, ensure_ascii=False)


def at_path(value: Any, path: tuple[str, ...]) -> Any:
    """Return what stands at a path of names and list indexes; None if there is nothing."""
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def json_slice(value: Any) -> tuple[FieldType, bytes]:
    """Return a JSON value as a slice with its type; objects and arrays stay JSON."""
    match value:
        case None:
            return FieldType.STRING, NULL
        case bool():
            return FieldType.BOOLEAN, encode_slice(FieldType.BOOLEAN, value)
        case str():
            return FieldType.STRING, some_bytes(value.encode())
        case int() | Decimal():
            return FieldType.DECIMAL, some_bytes(str(value).encode())
        case _:
            return FieldType.JSON, some_bytes(json_text(value).encode())


def literal(value: Any) -> tuple[FieldType, bytes]:
    """Return a value written in the configuration as a slice with the type a column for it has."""
    match value:
        case None:
            return FieldType.STRING, NULL
        case bool():
            kind = FieldType.BOOLEAN
        case int():
            kind = FieldType.INTEGER
        case float():
            kind = FieldType.NUMBER
        case dt.datetime():
            kind = FieldType.TIMESTAMP
        case dt.date():
            kind = FieldType.DATE
        case dict() | list():
            return FieldType.JSON, some_bytes(json_text(value).encode())
        case _:
            kind = FieldType.STRING
    return kind, encode_slice(kind, value)
