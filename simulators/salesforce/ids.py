"""Record ids: 15 characters that tell case apart, and three more that make them safe where case is lost."""

from __future__ import annotations

import re

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECK = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_SHAPE = re.compile(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?\Z")


def full(short: str) -> str:
    """Return the 18 characters of an id given with 15."""
    tail = ""
    for start in (0, 5, 10):
        bits = sum(1 << i for i, c in enumerate(short[start : start + 5]) if "A" <= c <= "Z")
        tail += _CHECK[bits]
    return short + tail


def make(prefix: str, pod: str, number: int) -> str:
    """Return the id of the given number; ids of one prefix sort as their numbers do."""
    digits = ""
    for _ in range(12 - len(pod)):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return full(prefix + pod + digits)


def normal(text: object) -> str | None:
    """Return an id of 15 or 18 characters in its long form; None if it is none."""
    if not isinstance(text, str) or not _SHAPE.match(text):
        return None
    if len(text) == 15:
        return full(text)
    return text if full(text[:15]) == text else _recased(text)


def _recased(text: str) -> str | None:
    """Return an id whose case got lost, as its last three characters remember it."""
    short = list(text[:15])
    for block, check in enumerate(text[15:].upper()):
        bits = _CHECK.find(check)
        if bits < 0:
            return None
        for i in range(5):
            at = block * 5 + i
            short[at] = short[at].upper() if bits >> i & 1 else short[at].lower()
    out = "".join(short)
    return full(out) if full(out)[15:] == text[15:].upper() else None
