"""What HubSpot's errors mean: of whole calls, and of single inputs of a batch.

Every member of an error's body may be missing. Sources: HubSpot, "Error handling" and "API usage guidelines and limits".
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

from tidelock.apis.judging import Answer, judge, sentence
from tidelock.apis.records import ApiColumn
from tidelock.errors import Fatal, Reject, Retry, TidelockError
from tidelock.httperrors import retry_after_s

_BURST_S = 10.0  # the window of calls is ten seconds
_SECOND_S = 1.0
_LOCKED_S = 2.0  # the vendor asks for at least so long
_MOVING_S = 3600.0
_LOOK_S = 3600.0  # a day's budget may have been raised: so often one call finds out
_EXISTING = re.compile(r"Existing ID:\s*(\d+)")
_NAMED = re.compile(r'"name":"([^"]+)"')
_CODED = re.compile(r'"error":"([A-Z_]+)"')
_PASSING = frozenset(("INTERNAL_ERROR", "RATE_LIMITS", "LOCKED", "MIGRATION_IN_PROGRESS"))
_UNIQUE = "CONFLICTING_UNIQUE_VALUE"


def body_of(answer: Answer) -> Mapping[str, Any]:
    """Return an error's body; empty if it has none that can be read."""
    try:
        body = answer.json()
    except Retry:
        return {}
    return body if isinstance(body, dict) else {}


def judge_of(zone: str, now: Callable[[], dt.datetime] | None = None) -> Callable[[Answer, str], TidelockError | None]:
    """Return what translates answers; ``zone`` is the portal's time zone, in which a day's budget begins anew."""

    def verdict(answer: Answer, what: str) -> TidelockError | None:
        text, asked_s = sentence(answer, what), retry_after_s(answer.headers)
        by_itself = "tried again by itself"
        if answer.status == 429:
            policy = str(body_of(answer).get("policyName") or "")
            if policy == "DAILY":
                today = (now or _utc_now)().astimezone(ZoneInfo(zone))
                pause_s = asked_s if asked_s is not None else min(_LOOK_S, _until_midnight_s(today))
                hint = (
                    f"the portal's calls of today are used up until midnight ({zone}); "
                    "fewer runs (`every_s`, `find_deletes`) or the API limit increase help"
                )
                return Retry(text, hint=hint, retry_after_s=pause_s)
            usual_s = _SECOND_S if policy == "SECONDLY" else _BURST_S
            return Retry(text, hint=by_itself, retry_after_s=usual_s if asked_s is None else asked_s)
        if answer.status == 423:
            return Retry(text, hint=by_itself, retry_after_s=max(_LOCKED_S, asked_s or 0.0))
        if answer.status == 477:
            hint = "the portal moves to another data centre, which may take a day; it goes on by itself"
            return Retry(text, hint=hint, retry_after_s=_MOVING_S if asked_s is None else asked_s)
        if answer.status == 403:
            return Fatal(text, hint=_rights(body_of(answer)))
        return judge(answer, what)

    return verdict


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _until_midnight_s(now: dt.datetime) -> float:
    midnight = dt.datetime.combine(now.date() + dt.timedelta(days=1), dt.time(), now.tzinfo)
    return max(1.0, midnight.timestamp() - now.timestamp())


def _rights(body: Mapping[str, Any]) -> str:
    """Say which scopes are missing, if the answer names them."""
    scopes: list[str] = []
    for error in body.get("errors") or ():
        scopes += (error.get("context") or {}).get("requiredGranularScopes") or ()
    which = f"one of the scopes {', '.join(scopes)}" if scopes else "the scopes that docs/connectors/hubspot.md lists"
    return f"give the app {which}: in the private app's settings, or have somebody connect it again"


# ------------------------------------------------------------------------------------------------ single inputs


def holder(entry: Mapping[str, Any]) -> str | None:
    """Return the id of the contact that holds an e-mail address: it stands in the message alone."""
    found = _EXISTING.search(str(entry.get("message") or ""))
    return None if found is None else found[1]


def passes(entry: Mapping[str, Any]) -> bool:
    """Return whether the trouble of one input passes by itself."""
    return entry.get("category") in _PASSING


def absent(entry: Mapping[str, Any]) -> bool:
    """Return whether the record is not there."""
    return entry.get("category") == "OBJECT_NOT_FOUND"


def field_of(entry: Mapping[str, Any]) -> str | None:
    """Return the property that an input was refused for."""
    for error in entry.get("errors") or ():
        context = error.get("context") or {}
        names = context.get("propertyName") or context.get("properties") or ()
        if names:
            return str(names[0])
        if error.get("in"):
            return str(error["in"])
    found = _NAMED.search(str(entry.get("message") or ""))
    return None if found is None else found[1]


def code_of(entry: Mapping[str, Any]) -> str:
    """Return the vendor's word for what is wrong with an input."""
    codes = [str(e["code"]) for e in entry.get("errors") or () if e.get("code")]
    found = _CODED.search(str(entry.get("message") or ""))
    return codes[0] if codes else found[1] if found else str(entry.get("category") or "REJECTED")


def unique(entry: Mapping[str, Any]) -> bool:
    """Return whether another record holds a value that must be unique."""
    return entry.get("category") == "CONFLICT" or holder(entry) is not None or code_of(entry) == _UNIQUE


def reject(entry: Mapping[str, Any], columns: Mapping[str, ApiColumn]) -> Reject:
    """Say why an input was refused, with the column if it is one."""
    field = field_of(entry)
    said = [str(e["message"]) for e in entry.get("errors") or () if e.get("message")]
    text = said[0] if said else str(entry.get("message") or "HubSpot gave no reason")
    return Reject(text, kind=code_of(entry).lower(), field=field if field in columns else None)
