"""What decides a conflict of one field: every policy of DESIGN section 5 as a function of base, golden and theirs.

A base of None means that nobody knows what stood there before (two systems' records have just become one).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from processors.record import Provenance
from tidelock.avro import NULL, FieldType, decode_slice, encode_slice
from tidelock.config import Policy


class Contest(NamedTuple):
    """The two sides of a conflict. Ranks: 0 wins. Times are microseconds and already capped against skew."""

    type: FieldType
    base: bytes | None
    golden: bytes
    theirs: bytes
    golden_rank: int
    theirs_rank: int
    golden_by: Provenance
    theirs_by: Provenance


class Decision(NamedTuple):
    """The value that stands from now on, and whose it is: ``theirs``, ``golden``, ``merged`` or ``parked``."""

    value: bytes
    outcome: str


def decide(policy: Policy, contest: Contest) -> Decision:
    """Decide a conflict; deterministic, from its arguments alone."""
    return _RULES[policy](contest)


def _priority(c: Contest) -> Decision:
    return Decision(c.theirs, "theirs") if c.theirs_rank <= c.golden_rank else Decision(c.golden, "golden")


def _newest(c: Contest) -> Decision:
    if c.theirs_by.time == c.golden_by.time:
        return _priority(c)
    return Decision(c.theirs, "theirs") if c.theirs_by.time > c.golden_by.time else Decision(c.golden, "golden")


def _keep_golden(c: Contest) -> Decision:
    return Decision(c.golden, "golden")


def _non_null(c: Contest) -> Decision:
    if c.theirs == NULL:
        return Decision(c.golden, "golden")
    if c.golden == NULL:
        return Decision(c.theirs, "theirs")
    return _priority(c)


def _larger(c: Contest, sign: int) -> Decision:
    if NULL in (c.theirs, c.golden):
        return _non_null(c)
    theirs, golden = comparable(c.type, c.theirs), comparable(c.type, c.golden)
    if type(theirs) is not type(golden):
        return _priority(c)
    wins = theirs > golden if sign > 0 else theirs < golden
    return Decision(c.theirs, "theirs") if wins else Decision(c.golden, "golden")


def comparable(kind: FieldType, value: bytes) -> Any:
    """Decode a slice into something that orders as people expect: decimals as numbers."""
    decoded = decode_slice(kind, value)
    if kind is FieldType.DECIMAL:
        try:
            return Decimal(decoded)
        except InvalidOperation:
            return decoded
    return decoded


def add_delta(kind: FieldType, base: bytes | None, golden: bytes, theirs: bytes) -> bytes | None:
    """Return golden + (theirs − base); None where one of them is no number, so that there is no difference to add."""
    if base is None or NULL in (base, golden, theirs):
        return None
    try:
        b, g, t = (Decimal(str(decode_slice(kind, v))) for v in (base, golden, theirs))
    except InvalidOperation:
        return None
    total = g + (t - b)
    if kind is FieldType.INTEGER:
        return encode_slice(kind, int(total))
    if kind is FieldType.NUMBER:
        return encode_slice(kind, float(total))
    return encode_slice(kind, format(total, "f"))


def _delta(c: Contest) -> Decision:
    total = add_delta(c.type, c.base, c.golden, c.theirs)
    return _priority(c) if total is None else Decision(total, "merged")


def _as_set(kind: FieldType, value: bytes) -> tuple[set[str], bool]:
    """Read a set: a JSON array, or text with commas or semicolons between; also tell whether it was JSON."""
    text = decode_slice(kind, value) or ""
    if kind is FieldType.JSON or str(text).startswith("["):
        try:
            items = json.loads(text) if text else []
        except ValueError:
            items = [text]
        return {json.dumps(i, sort_keys=True) for i in (items if isinstance(items, list) else [items])}, True
    return {part.strip() for part in str(text).replace(";", ",").split(",") if part.strip()}, False


def _union(c: Contest) -> Decision:
    golden, was_json = _as_set(c.type, c.golden)
    theirs, is_json = _as_set(c.type, c.theirs)
    base = _as_set(c.type, c.base)[0] if c.base is not None else set()
    merged = sorted((golden | (theirs - base)) - (base - theirs))
    text = "[" + ", ".join(merged) + "]" if was_json or is_json else ",".join(merged)
    value = encode_slice(c.type, text)
    return Decision(value, "merged")


def _manual(c: Contest) -> Decision:
    return Decision(c.golden, "parked")


_RULES: dict[Policy, Callable[[Contest], Decision]] = {
    Policy.PRIORITY: _priority,
    Policy.NEWEST: _newest,
    Policy.KEEP_GOLDEN: _keep_golden,
    Policy.NON_NULL: _non_null,
    Policy.MAX: lambda c: _larger(c, 1),
    Policy.MIN: lambda c: _larger(c, -1),
    Policy.DELTA: _delta,
    Policy.UNION: _union,
    Policy.MANUAL: _manual,
}
