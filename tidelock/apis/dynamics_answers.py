"""What answers of Dataverse mean, whether they come alone or as part of a batch.

Source: Microsoft Learn, "Web API status codes and errors", "Service protection API limits".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidelock.apis.judging import Answer, judge, sentence
from tidelock.apis.records import ApiColumn
from tidelock.errors import Fatal, Reject, Retry, Revoked, TidelockError

EXPIRED = "0x80044352"
_LIMITS = frozenset(("0x80072322", "0x80072321", "0x80072326"))  # service protection: requests, time, concurrency
_PASSING = frozenset(("0x80044151", "0x80044150"))  # SQL time-out, deadlock
_SHUT_OUT = frozenset(("0x80072560", "0x80040225"))  # no user of the organisation, or one that is disabled
_TAKEN = "0x80060892"
_DUPLICATE = "0x80040333"
_KINDS = {
    _DUPLICATE: "duplicate",
    "0x80044331": "too_long",
    "0x80044330": "out_of_range",
    "0x8004431a": "out_of_range",
    "0x80040217": "missing_reference",
    "0x80060891": "missing_reference",
    "0x80040220": "forbidden",
    "0x80040227": "referenced",
    "0x80040265": "plugin",
    "0x80048d19": "bad_value",
}


def code_of(answer: Answer) -> str:
    """Return the code of an error answer; empty if it has none."""
    try:
        error = answer.json().get("error")
    except (Retry, AttributeError):
        return ""
    return str(error.get("code") or "") if isinstance(error, dict) else ""


def judged(answer: Answer, what: str) -> TidelockError | None:
    """Translate an answer that stands for itself."""
    code = code_of(answer)
    if code in _LIMITS or code in _PASSING:
        return Retry(sentence(answer, what), hint="tried again by itself")
    if code in _SHUT_OUT:
        return Revoked(
            sentence(answer, what),
            hint="make or enable the application user of the client id in the environment, with a security role that may read and write the tables",
        )
    if code == EXPIRED or answer.status == 410:
        return Reject(sentence(answer, what), kind="expired")
    if code == "0x80060888" or (answer.status == 400 and code == ""):
        return Fatal(
            sentence(answer, what),
            hint="correct the mapping: the table has no such column, or the filter cannot be read",
        )
    return judge(answer, what)


def limited(answer: Answer) -> bool:
    """Return whether a part of a batch was refused by service protection, which concerns all that this user sends."""
    return answer.status == 429 or code_of(answer) in _LIMITS


def passes(answer: Answer) -> bool:
    """Return whether the trouble of a part of a batch passes by itself."""
    return limited(answer) or answer.status >= 500 or code_of(answer) in _PASSING


def unprivileged(answer: Answer) -> bool:
    """Return whether our user may not do this to any row, rather than to this one."""
    return answer.status == 403 and "is missing prv" in sentence(answer, "")


def taken(answer: Answer) -> bool:
    """Return whether another row holds the value of a key."""
    return answer.status == 412 and code_of(answer) == _TAKEN


def met(answer: Answer) -> bool:
    """Return whether a condition on the row's version or existence did not hold."""
    return answer.status == 412 and code_of(answer) not in (_TAKEN, _DUPLICATE)


def gone(answer: Answer, key: str, body: Mapping[str, Any] | None) -> bool:
    """Return whether the row itself is not there, rather than one that it was to refer to."""
    if answer.status != 404:
        return False
    refers = any(name.endswith("@odata.bind") and value is not None for name, value in (body or {}).items())
    return not refers or key.lower() in sentence(answer, "").lower()


def reject(answer: Answer, columns: Mapping[str, ApiColumn], bound: Mapping[str, str] | None = None) -> Reject:
    """Say why one row was refused, with the column if the message names it, or the key that was put there (``bound``)."""
    text = sentence(answer, "the row")
    field = next((name for name, key in (bound or {}).items() if key in text.lower()), None)
    field = field or next((name for name in columns if f"'{name}'" in text), None)
    hint = "deactivate it there first, or set `write_delete`" if code_of(answer) == "0x80040227" else None
    return Reject(text, kind=_KINDS.get(code_of(answer), "rejected"), field=field, hint=hint)
