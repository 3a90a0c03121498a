"""What Salesforce's answers mean: errors of whole calls, errors of single records, and who holds a value that must be unique."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tidelock.apis.judging import Answer, sentence
from tidelock.errors import Fatal, Reject, Retry, TidelockError

LIMITED_S = 600.0
"""How long nothing is asked when the calls of the day are used up: the count is a rolling one, so some come back."""
CROWDED_S = 5.0
_EDGE = frozenset((406, 420))
_CONFIGURATION = {
    "INVALID_FIELD": "correct the mapping, create the field there, or let the user see it (field-level security)",
    "INVALID_TYPE": "correct `table`, or give the user the right to read the object",
    "MALFORMED_QUERY": "correct the condition: it is SOQL, as in Industry = 'Energy'",
    "NOT_FOUND": "correct `table` and `canonical_id`, or give the user the right to read the object",
    "INVALIDENTITY": "set the option `bulk_above` so high that it is not used, and `load: soql`",
}
_ID = re.compile(r"\b([a-zA-Z0-9]{15}(?:[a-zA-Z0-9]{3})?)\b")
_NATIVE = re.compile(r"[a-zA-Z0-9]{15}(?:[a-zA-Z0-9]{3})?")
_SUFFIX = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


def judge(answer: Answer, what: str) -> TidelockError | None:
    """Translate the answer to a whole call."""
    if answer.status < 300 or answer.status >= 500:
        return None
    code, text = code_of(answer), sentence(answer, what)
    if answer.status in _EDGE or code == "UNABLE_TO_LOCK_ROW":
        return Retry(text, hint="tried again by itself")
    if code == "REQUEST_LIMIT_EXCEEDED":
        crowded = b"Concurrent" in answer.content
        return Retry(
            text,
            hint="other integrations of the org use up its calls; Setup → System Overview shows how many are left",
            retry_after_s=CROWDED_S if crowded else LIMITED_S,
        )
    if answer.status in (408, 425, 429):
        return Retry(text, hint="tried again by itself")
    if code in _CONFIGURATION:
        return Fatal(text, hint=_CONFIGURATION[code])
    if answer.status == 403:
        return Fatal(text, hint="give the user that tidelock signs in as the permission that is named")
    if answer.status in (400, 404, 409, 413, 414, 431):
        return Reject(text, kind=(code or "invalid").lower())
    return Fatal(text, hint="check `url` and the option `version`")


def code_of(answer: Answer) -> str:
    """Return the error code of an answer, empty if it has none."""
    try:
        body = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return ""
    first = body[0] if isinstance(body, list) and body else body
    return str(first.get("errorCode") or "") if isinstance(first, dict) else ""


# ------------------------------------------------------------------------------------------------------- one record


@dataclass(frozen=True)
class Verdict:
    """Why a record was not written. ``holder`` is the one that holds a value that must be unique, as far as it is named."""

    error: Reject
    gone: bool = False
    locked: bool = False
    taken: bool = False
    holder: str | None = None


_GONE = frozenset({"ENTITY_IS_DELETED", "NOT_FOUND", "INVALID_CROSS_REFERENCE_KEY"})


def verdict(errors: Sequence[Mapping[str, Any]], columns: Container[str]) -> Verdict:
    """Translate the errors of one record of a collection or a bulk job."""
    first: Mapping[str, Any] = next(iter(errors), {})
    code = str(first.get("statusCode") or first.get("errorCode") or "REJECTED")
    message, fields = str(first.get("message") or "Salesforce gave no reason"), first.get("fields") or ()
    field = next((f for f in fields if f in columns), None)
    error = Reject(f"{code}: {message}", kind=code.lower(), field=field)
    if code == "DUPLICATES_DETECTED":
        found = duplicates(first)
        return Verdict(error, taken=True, holder=found[0] if len(found) == 1 else None)
    if code == "DUPLICATE_VALUE":
        named = _ID.search(message.rpartition(":")[2])
        return Verdict(error, taken=True, holder=long_id(named[1]) if named is not None else None)
    return Verdict(error, gone=code in _GONE and not fields, locked=code == "UNABLE_TO_LOCK_ROW")


def locked(told: Mapping[str, Any]) -> bool:
    """Return whether a record was not written because somebody holds its lock."""
    return not told.get("success") and any(
        e.get("statusCode") == "UNABLE_TO_LOCK_ROW" for e in told.get("errors") or ()
    )


def duplicates(error: Mapping[str, Any]) -> list[str]:
    """Return the keys of the records that a duplicate rule has found."""
    block = (
        error.get("duplicateResult") or error.get("duplicateResut") or {}
    )  # the vendor's own spelling up to some version
    found = {
        long_id(str(match["record"]["Id"]))
        for result in block.get("matchResults") or ()
        for match in result.get("matchRecords") or ()
        if match.get("record", {}).get("Id")
    }
    return sorted(found)


# ------------------------------------------------------------------------------------------------------- ids


def is_id(text: str) -> bool:
    """Return whether a text can be an id."""
    return _NATIVE.fullmatch(text) is not None


def long_id(text: str) -> str:
    """Return an id with its 18 characters; the last three say which of the others are capitals."""
    if len(text) != 15:
        return text
    suffix = ""
    for start in (0, 5, 10):
        bits = sum(1 << n for n, c in enumerate(text[start : start + 5]) if c.isupper())
        suffix += _SUFFIX[bits]
    return text + suffix
