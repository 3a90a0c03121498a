"""Check and normalise what a client writes, field by field: the errors name code, field and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pycountry

from simulators.shop.resources import LINE, MOST_LINES, OWN, Field, Resource

COUNTRIES = frozenset(country.alpha_3 for country in pycountry.countries)
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
MONEY = r"^-?[0-9]{1,10}(\.[0-9]{1,2})?$"
SUM = r"^-?[0-9]{1,24}\.[0-9]{2}$"
CURRENCY = r"^[A-Z]{3}$"
HIGHEST = 2**31 - 1
_EMAIL, _MONEY, _CURRENCY = re.compile(EMAIL), re.compile(MONEY), re.compile(CURRENCY)
_MOMENT = re.compile(
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_DATE = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
_US_ZIP = re.compile(r"^[0-9]{5}(-[0-9]{4})?$")
_CA_CODE = re.compile(r"^[A-Z][0-9][A-Z] ?[0-9][A-Z][0-9]$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong with a value."""

    code: str
    field: str | None
    message: str

    def shown(self) -> dict[str, Any]:
        """Return it as an answer shows it."""
        return {"code": self.code, "field": self.field, "message": self.message}


def stamp(ms: int) -> str:
    """Return milliseconds since 1970 as the shop spells a time: UTC with three decimals."""
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}Z"  # strftime pads no years


def milliseconds(text: str) -> int:
    """Return an RFC 3339 time with a time zone as milliseconds since 1970, cut, not rounded. Raises ValueError."""
    if _MOMENT.fullmatch(text) is None:
        raise ValueError("not an RFC 3339 time with a time zone")
    try:
        since = datetime.fromisoformat(text.upper()) - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def checked(resource: Resource, data: dict[str, Any], *, creating: bool) -> tuple[dict[str, Any], list[Wrong]]:
    """Return the values as they will be stored, and what is wrong with them; a value that is blank becomes None."""
    known = {f.name: f for f in resource.fields}
    clean, wrong = _values(known, data, "", cut=resource.too_long == "truncate")
    if creating:
        for field in resource.fields:
            if field.required and field.name not in data:
                wrong.append(Wrong("required", field.name, f"{field.name} is required for a new {resource.singular}."))
    return clean, wrong


def _values(
    known: dict[str, Field], data: dict[str, Any], path: str, *, cut: bool
) -> tuple[dict[str, Any], list[Wrong]]:
    clean: dict[str, Any] = {}
    wrong: list[Wrong] = []
    for name, value in data.items():
        field = known.get(name)
        if field is None and (path or name not in OWN):
            wrong.append(Wrong("unknown_field", path + name, f"There is no field {name!r}; leave it out."))
        elif field is None or field.read_only:
            wrong.append(Wrong("read_only_field", path + name, f"{name} is written by the shop alone; leave it out."))
        else:
            try:
                clean[name] = _value(field, value, path + name, cut=cut)
            except _Bad as bad:
                wrong += bad.wrong
    return clean, wrong


class _Bad(Exception):
    def __init__(self, *wrong: Wrong) -> None:
        super().__init__()
        self.wrong = wrong


def _value(field: Field, value: Any, name: str, *, cut: bool) -> Any:
    cut = cut if field.cut is None else field.cut
    if isinstance(value, str) and field.size and len(value) > field.size and not cut:
        raise _Bad(Wrong("too_long", name, f"{name} has at most {field.size} characters; {len(value)} were sent."))
    if value is None or (field.kind == "text" and not field.one_of and isinstance(value, str) and not value.strip()):
        if field.required:
            raise _Bad(Wrong("required", name, f"{name} may not be blank."))
        return None
    match field.kind:
        case "integer":
            return _integer(field, value, name)
        case "flag":
            if isinstance(value, bool) or value not in (0, 1):
                raise _Bad(Wrong("bad_value", name, f"{name} is 0 or 1."))
            return int(value)
        case "lines":
            return _lines(value, name)
    if not isinstance(value, str):
        raise _Bad(Wrong("bad_type", name, f"{name} is a string."))
    return _text(field, value, name)


def _integer(field: Field, value: Any, name: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON knows no difference between 1 and 1.0
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Bad(Wrong("bad_type", name, f"{name} is a whole number."))
    if not field.lowest <= value <= HIGHEST:
        raise _Bad(Wrong("out_of_range", name, f"{name} is between {field.lowest} and {HIGHEST}."))
    return value


def _text(field: Field, value: str, name: str) -> str:
    if field.one_of:
        if value not in field.one_of:
            raise _Bad(Wrong("bad_value", name, f"{name} is one of {', '.join(field.one_of)}."))
        return value
    if field.size:
        value = value.strip()[: field.size]  # longer than that is only what is to be cut
    match field.kind:
        case "email":
            if _EMAIL.fullmatch(value) is None:
                raise _Bad(Wrong("bad_email", name, f"{name} is no e-mail address."))
            return lowered(value)
        case "country":
            if value not in COUNTRIES:
                raise _Bad(
                    Wrong("country_not_iso3", name, f"{name} is an ISO 3166-1 alpha-3 code in capitals, such as USA.")
                )
        case "currency":
            if _CURRENCY.fullmatch(value) is None:
                raise _Bad(Wrong("bad_currency", name, f"{name} is an ISO 4217 code in capitals, such as USD."))
        case "money":
            if _MONEY.fullmatch(value) is None:
                raise _Bad(
                    Wrong("bad_amount", name, f'{name} is a decimal as a string with at most two places: "12.50".')
                )
            return money(Decimal(value))
        case "date":
            try:
                if _DATE.fullmatch(value) is None:
                    raise ValueError
                date.fromisoformat(value)
            except ValueError:
                raise _Bad(Wrong("bad_date", name, f"{name} is a date: 2026-11-26.")) from None
        case "moment":
            try:
                return stamp(milliseconds(value))
            except ValueError:
                raise _Bad(
                    Wrong("bad_time", name, f"{name} is an RFC 3339 time with a time zone: 2026-11-26T09:30:00.000Z.")
                ) from None
    return value.strip()


def _lines(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(line, dict) for line in value):
        raise _Bad(Wrong("bad_type", name, f"{name} is an array of objects."))
    if not 1 <= len(value) <= MOST_LINES:
        raise _Bad(Wrong("out_of_range", name, f"An order has between 1 and {MOST_LINES} lines."))
    known = {f.name: f for f in LINE}
    done: list[dict[str, Any]] = []
    wrong: list[Wrong] = []
    for number, line in enumerate(value, 1):
        path = f"{name}[{number - 1}]."
        sent = {k: v for k, v in line.items() if k not in ("line_number", "line_total")}  # as read: computed anew
        clean, bad = _values(known, sent, path, cut=False)
        bad += [
            Wrong("required", path + f.name, f"{f.name} is required in a line.")
            for f in LINE
            if f.required and f.name not in line
        ]
        wrong += bad
        if not bad:
            total = money(clean["quantity"] * Decimal(clean["unit_price"]))
            done.append({"line_number": number, "description": None, **clean, "line_total": total})
    if wrong:
        raise _Bad(*wrong)
    return done


def lowered(email: str) -> str:
    """Return an e-mail address as the shop spells it; other alphabets than ASCII may grow when they are lowered, and stay."""
    return email.lower() if email.isascii() else email


def money(value: Decimal) -> str:
    """Return an amount as the shop spells it: two places, no exponent."""
    return f"{value + 0:.2f}"  # a negative zero loses its sign


def bad_postal_codes(record: dict[str, Any]) -> list[Wrong]:
    """Return what is wrong with the postal codes of American and Canadian addresses; others are not looked at."""
    wrong = []
    for prefix in ("", "ship_"):
        code, country = record.get(f"{prefix}postal_code"), record.get(f"{prefix}country")
        pattern = {"USA": _US_ZIP, "CAN": _CA_CODE}.get(str(country))
        if pattern is not None and pattern.match(code or "") is None:
            wrong.append(
                Wrong("bad_postal_code", f"{prefix}postal_code", f"{code or 'blank'!r} is no postal code of {country}.")
            )
    return wrong
