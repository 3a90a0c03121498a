"""Property values: always strings, checked and brought into the vendor's spelling by the property's type."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from simulators.hubspot import moments
from simulators.hubspot.definitions import Definition

_EMAIL = re.compile(r"[^@\s,;<>()\"]+@[^@\s,;<>()\".]+(?:\.[^@\s,;<>()\".]+)+")
_MOST = 65_536


class Unfit(Exception):
    """A value that a property does not take; ``code`` is the vendor's word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def as_text(raw: Any) -> str:
    """Return a JSON value as the string that the vendor keeps; null is the empty string. Raises Unfit for arrays and objects."""
    if isinstance(raw, str):
        return raw
    if raw is None:
        return ""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int):
        return str(raw)
    if isinstance(raw, float) and math.isfinite(raw):
        return repr(raw)
    raise Unfit("INVALID_STRING", f"{raw!r} is not a string")


def normal(definition: Definition, raw: Any, before: str, owners: Collection[str]) -> str:
    """Return a value as it is stored; the empty string clears. ``before`` is what stood there: ``;a`` adds to it. Raises Unfit."""
    text = as_text(raw)
    if not text.strip():
        return ""
    match definition.type:
        case "number":
            return _number(text)
        case "datetime":
            try:
                return moments.spelt(moments.read(text))
            except (ValueError, OverflowError, OSError):
                raise Unfit("INVALID_LONG", f"{text} was not a valid long.") from None
        case "date":
            try:
                return moments.read_day(text)
            except (ValueError, OverflowError, OSError) as error:
                midnight = "midnight" in str(error)
                raise Unfit("INVALID_DATE", str(error) if midnight else f"{text} was not a valid date.") from None
        case "bool":
            if (lowered := text.strip().lower()) in ("true", "false"):
                return lowered
            raise Unfit("INVALID_OPTION", f"{text} was not one of the allowed options: [true, false]")
        case "enumeration":
            return _option(definition, text, before, owners)
    if len(text) > _MOST:
        raise Unfit("INVALID_STRING_LENGTH", f"The value is longer than {_MOST} characters.")
    if definition.own and definition.name == "email":
        return email(text)
    if definition.own and definition.name == "hs_additional_emails":
        return ";".join(dict.fromkeys(email(part) for part in text.split(";") if part.strip()))
    return text


def email(text: str) -> str:
    """Return an e-mail address as it is stored: without blanks around it, in lower case. Raises Unfit."""
    address = text.strip().lower()
    if not _EMAIL.fullmatch(address):
        raise Unfit("INVALID_EMAIL", f"Email address {text} is invalid")
    return address


def _number(text: str) -> str:
    stripped = text.strip()
    try:
        finite = math.isfinite(float(stripped)) and "_" not in stripped
    except ValueError:
        finite = False
    if not finite:
        raise Unfit("INVALID_NUMBER", f"{text} was not a valid number.")
    return stripped


def _option(definition: Definition, text: str, before: str, owners: Collection[str]) -> str:
    if definition.owners:
        if text not in owners:
            raise Unfit("INVALID_OWNER_ID", f"The owner id {text} does not exist.")
        return text
    if definition.field_type != "checkbox":
        _among(definition, text)
        return text
    chosen = [part for part in text.split(";") if part]
    for part in chosen:
        _among(definition, part)
    if text.startswith(";"):
        chosen = [*(part for part in before.split(";") if part), *chosen]
    return ";".join(dict.fromkeys(chosen))


def _among(definition: Definition, text: str) -> None:
    if text not in definition.allowed:
        listed = ", ".join(str(o["value"]) for o in definition.options)
        raise Unfit("INVALID_OPTION", f"{text} was not one of the allowed options: [{listed}]")
