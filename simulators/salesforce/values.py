"""What a client may put into a field, and what then stands there: trimmed, rounded, cut to whole seconds, or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from simulators.salesforce.errors import Refusal
from simulators.salesforce.ids import normal
from simulators.salesforce.schema import TEXT, Field
from simulators.salesforce.times import as_date, as_stamp

_EMAIL = re.compile(r"[^\s@,;<>()\[\]\\\"]+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,}\Z")


def coerced(field: Field, value: Any, *, text: bool = False) -> Any:
    """Return the value that is stored; with ``text``, everything comes as text (from a CSV). Raises Refusal."""
    if value is None:
        return None
    if field.type in TEXT or field.type == "id":
        return _text(field, value)
    return _OF_TYPE[field.type](field, value, text)


def _text(field: Field, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _undeserializable("string", value)
    if field.type != "textarea":
        value = value.strip()
    if not value:
        return None
    if field.length and len(value) > field.length:
        shown = value if len(value) <= 255 else value[:255]
        raise Refusal(
            "STRING_TOO_LONG",
            f"{field.label}: data value too large: {shown} (max length={field.length})",
            fields=[field.name],
        )
    if field.type == "email" and not _EMAIL.match(value):
        raise Refusal("INVALID_EMAIL_ADDRESS", f"{field.label}: invalid email address: {value}", fields=[field.name])
    if field.restricted:
        for one in value.split(";") if field.type == "multipicklist" else (value,):
            if one not in field.values:
                raise Refusal(
                    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
                    f"{field.label}: bad value for restricted picklist field: {one}",
                    fields=[field.name],
                )
    return str(value)


def _boolean(field: Field, value: Any, text: bool) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false", "1", "0"}:
        return value.lower() in {"true", "1"}
    if text:
        raise Refusal(
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            f"{field.label}: value not of required type: {value}",
            fields=[field.name],
        )
    raise _undeserializable("boolean", value)


def _number(field: Field, value: Any, text: bool) -> int | float:
    if isinstance(value, bool):
        raise _undeserializable(field.type, value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if text:
                raise Refusal(
                    "INVALID_TYPE_ON_FIELD_IN_RECORD",
                    f"{field.label}: value not of required type: {value}",
                    fields=[field.name],
                ) from None
            raise _undeserializable(field.type, value) from None
    if not isinstance(value, int | float):
        raise _undeserializable(field.type, value)
    most = 10.0 ** (field.precision - field.scale)
    if not math.isfinite(value) or abs(value) >= most:
        raise Refusal(
            "NUMBER_OUTSIDE_VALID_RANGE",
            f"{field.label}: value outside of valid range on numeric field: {value}",
            fields=[field.name],
        )
    if field.type == "int":
        return int(value)
    return float(math.copysign(math.floor(abs(value) * 10**field.scale + 0.5), value) / 10**field.scale)


def _date(field: Field, value: Any, text: bool) -> str:
    day = as_date(value) if isinstance(value, str) else None
    if day is None:
        raise _bad_time(field, "date", value, text)
    return day


def _datetime(field: Field, value: Any, text: bool) -> str:
    moment = as_stamp(value) if isinstance(value, str) else None
    if moment is None:
        raise _bad_time(field, "datetime", value, text)
    return moment


def _reference(field: Field, value: Any, _: bool) -> str | None:
    if value == "":
        return None
    found = normal(value)
    if found is None:
        raise Refusal("MALFORMED_ID", f"{field.label}: id value of incorrect type: {value}", fields=[field.name])
    return found


def _bad_time(field: Field, type_: str, value: Any, text: bool) -> Refusal:
    if text:
        return Refusal(
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            f"{field.label}: value not of required type: {value}",
            fields=[field.name],
        )
    return _undeserializable(type_, value)


def _undeserializable(type_: str, value: Any) -> Refusal:
    if isinstance(value, dict | list):
        shown = "START_OBJECT" if isinstance(value, dict) else "START_ARRAY"
    elif isinstance(value, bool):
        shown = "VALUE_TRUE" if value else "VALUE_FALSE"
    else:
        kind = "INT" if isinstance(value, int) else "FLOAT"
        shown = f"VALUE_STRING value {value}" if isinstance(value, str) else f"VALUE_NUMBER_{kind} value {value}"
    return Refusal(
        "JSON_PARSER_ERROR",
        f"Cannot deserialize instance of {type_} from {shown} or request may be missing a required field at "
        "[line:1, column:1]",
    )


_OF_TYPE: dict[str, Callable[[Field, Any, bool], Any]] = {
    "boolean": _boolean,
    "int": _number,
    "double": _number,
    "currency": _number,
    "percent": _number,
    "date": _date,
    "datetime": _datetime,
    "reference": _reference,
}


def full_name(row: dict[str, Any]) -> str:
    """Return a person's name as the system puts it together."""
    return " ".join(p for p in (row.get("Salutation"), row.get("FirstName"), row.get("LastName")) if p)


def address(field: Field, row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a compound address, None if all its parts are empty."""
    prefix = field.name.removesuffix("Address")
    out: dict[str, Any] = {
        "city": row.get(f"{prefix}City"),
        "country": row.get(f"{prefix}Country"),
        "geocodeAccuracy": None,
        "latitude": row.get(f"{prefix}Latitude"),
        "longitude": row.get(f"{prefix}Longitude"),
        "postalCode": row.get(f"{prefix}PostalCode"),
        "state": row.get(f"{prefix}State"),
        "street": row.get(f"{prefix}Street"),
    }
    return out if any(v is not None for v in out.values()) else None


def value_of(field: Field, row: dict[str, Any]) -> Any:
    """Return what a read of the field answers."""
    return address(field, row) if field.compound else row.get(field.name)
