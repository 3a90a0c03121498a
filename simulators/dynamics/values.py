"""Values of columns: what a body may hold, how it is kept, and how it is shown to people."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from simulators.dynamics.errors import ODataError, bad_payload
from simulators.dynamics.schema import Column, Table

GUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?$")


def stamp(at: datetime) -> str:
    """Return a time as rows show it: UTC, whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_datetime(text: str) -> datetime:
    """Return the time that an Edm.DateTimeOffset or Edm.Date names. Raises ValueError."""
    if not _DATETIME.match(text):
        raise ValueError(text)
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def stored(table: Table, column: Column, value: Any) -> Any:
    """Return the value as it is kept, None for nothing. Raises ODataError with the vendor's words if it does not fit."""
    if value is None:
        return None
    return _KEEP[column.kind](table, column, value)


def _wrong_type(table: Table, column: Column, value: Any, expected: str) -> ODataError:
    return bad_payload(
        table.set_name,
        f"Cannot convert the literal '{value}' to the expected type '{expected}'. (column '{column.name}')",
    )


def _out_of_range(table: Table, column: Column) -> ODataError:
    return ODataError(
        400,
        "0x80044330",
        f"A validation error occurred.  The value of '{column.name}' on record of type '{table.name}' is outside the valid range.",
    )


def _text(table: Table, column: Column, value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong_type(table, column, value, "Edm.String")
    if len(value) > column.max_length:
        raise ODataError(
            400,
            "0x80044331",
            f"A validation error occurred. The length of the '{column.name}' attribute of the '{table.name}' entity "
            f"exceeded the maximum allowed length of '{column.max_length}'.",
        )
    return value or None  # an empty string is kept as nothing


def _bounded(table: Table, column: Column, value: float, lowest: float, highest: float) -> None:
    low = lowest if column.minimum is None else column.minimum
    high = highest if column.maximum is None else column.maximum
    if not low <= value <= high:
        raise _out_of_range(table, column)


def _integer(table: Table, column: Column, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(table, column, value, "Edm.Int32")
    _bounded(table, column, value, -(2**31), 2**31 - 1)
    return value


def _bigint(table: Table, column: Column, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(table, column, value, "Edm.Int64")
    return value


def _number(table: Table, column: Column, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(table, column, value, "Edm.Decimal")
    _bounded(table, column, value, -1e11, 1e11)
    if isinstance(value, int):
        return value
    try:
        rounded = Decimal(repr(value)).quantize(Decimal(1).scaleb(-column.precision), ROUND_HALF_UP)
    except InvalidOperation as error:
        raise _wrong_type(table, column, value, "Edm.Decimal") from error
    return float(rounded)


def _double(table: Table, column: Column, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(table, column, value, "Edm.Double")
    _bounded(table, column, value, -1e11, 1e11)
    return float(value)


def _boolean(table: Table, column: Column, value: Any) -> Any:
    if not isinstance(value, bool):
        raise _wrong_type(table, column, value, "Edm.Boolean")
    return value


def _datetime(table: Table, column: Column, value: Any) -> Any:
    try:
        if not isinstance(value, str):
            raise ValueError(value)
        return stamp(parse_datetime(value))
    except ValueError as error:
        raise _wrong_type(table, column, value, "Edm.DateTimeOffset") from error


def _date(table: Table, column: Column, value: Any) -> Any:
    try:
        if not isinstance(value, str):
            raise ValueError(value)
        return date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise _wrong_type(table, column, value, "Edm.Date") from error


def _choice(table: Table, column: Column, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(table, column, value, "Edm.Int32")
    if value not in column.options:
        accepted = ",".join(str(v) for v in column.options)
        raise ODataError(
            400,
            "0x8004431a",
            f"A validation error occurred. The value {value} of '{column.name}' on record of type '{table.name}' "
            f"is outside the valid range. Accepted Values: {accepted}",
        )
    return value


def _choices(table: Table, column: Column, value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong_type(table, column, value, "Edm.String")
    parts = [p.strip() for p in value.split(",") if p.strip()]
    if not all(p.lstrip("-").isdigit() for p in parts):
        raise _wrong_type(table, column, value, "Edm.String")
    for part in parts:
        _choice(table, column, int(part))
    return ",".join(sorted(set(parts), key=int)) or None


def _guid(table: Table, column: Column, value: Any) -> Any:
    if not isinstance(value, str) or not GUID.fullmatch(value):
        raise _wrong_type(table, column, value, "Edm.Guid")
    return value.lower()


_KEEP = {
    "string": _text,
    "memo": _text,
    "integer": _integer,
    "bigint": _bigint,
    "decimal": _number,
    "money": _number,
    "double": _double,
    "boolean": _boolean,
    "datetime": _datetime,
    "date": _date,
    "picklist": _choice,
    "state": _choice,
    "status": _choice,
    "multi": _choices,
    "uniqueidentifier": _guid,
    "lookup": _guid,
    "customer": _guid,
    "owner": _guid,
}


def formatted(column: Column, value: Any) -> str | None:
    """Return the value as a form shows it (English, United States), None where a client gets no formatted value."""
    if value is None or column.kind in ("string", "memo", "uniqueidentifier"):
        return None
    if column.kind == "boolean":
        return column.options.get(int(value), str(value))
    if column.kind == "multi":
        return "; ".join(column.options.get(int(v), v) for v in str(value).split(","))
    if column.options:
        return column.options.get(int(value), str(value))
    if column.kind == "money":
        return f"${value:,.2f}"
    if column.kind in ("decimal", "double"):
        return f"{value:,.{column.precision}f}"
    if column.kind in ("integer", "bigint"):
        return f"{value:,}"
    if column.kind == "datetime":
        at = parse_datetime(str(value))
        return f"{at.month}/{at.day}/{at.year} {at.hour % 12 or 12}:{at.minute:02} {'PM' if at.hour > 11 else 'AM'}"
    if column.kind == "date":
        day = date.fromisoformat(str(value))
        return f"{day.month}/{day.day}/{day.year}"
    return None


def folded(value: Any) -> Any:
    """Return what equality compares: text without regard to case or trailing blanks, as the database's collation does."""
    return value.rstrip(" ").casefold() if isinstance(value, str) else value
