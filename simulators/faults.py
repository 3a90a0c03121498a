"""Faults that the control API orders: which requests they hit, how often, and those that every simulator knows.

A fault is ``{"kind", "times"?, "method"?, "path"?, "share"?, "skip"?, …}``: it hits the next ``times`` requests (null: all, until it
is removed) whose method and path (a regular expression, searched) fit, after ``skip`` of them have passed, each with probability
``share``. Further members are the kind's own. Kinds of every simulator:

    status   answer with ``status`` and, if given, ``body`` and ``headers``; nothing is done
    slow     wait ``delay_s`` first, then go on
    lost     do everything, then close the connection without an answer: the time-out after success
    refused  close the connection without doing anything

Other kinds are a vendor's own; its simulator asks for them where they belong (`Faults.take`).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

EVERYWHERE = {
    "status": "answer with `status`, `body`, `headers`; nothing is done",
    "slow": "wait `delay_s` seconds, then go on",
    "lost": "do everything, then close the connection without an answer",
    "refused": "close the connection without doing anything",
}


@dataclass(slots=True)
class Fault:
    """One ordered fault; ``times`` None means for ever."""

    number: int
    kind: str
    times: int | None = 1
    method: str | None = None
    path: str | None = None
    share: float = 1.0
    skip: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    hit: int = 0

    def fits(self, method: str, path: str) -> bool:
        """Return whether a request is one that this fault is for."""
        if self.method is not None and self.method.upper() != method.upper():
            return False
        return self.path is None or re.search(self.path, path) is not None

    def shown(self) -> dict[str, Any]:
        """Return the fault as the control API shows it."""
        own = {
            name: getattr(self, name) for name in ("number", "kind", "times", "method", "path", "share", "skip", "hit")
        }
        return {**own, **self.more}


class Faults:
    """The faults of one simulator; ``kinds`` says which exist, with a sentence about each."""

    def __init__(self, kinds: dict[str, str], seed: int = 0) -> None:
        self.kinds = {**EVERYWHERE, **kinds}
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._next = 1

    def order(self, wish: dict[str, Any]) -> Fault:
        """Add a fault. Raises ValueError if there is no such kind or a member makes no sense."""
        kind = wish.get("kind")
        if kind not in self.kinds:
            raise ValueError(f"there is no fault {kind!r}; there are: {', '.join(sorted(self.kinds))}")
        known = {name: wish[name] for name in ("times", "method", "path", "share", "skip") if name in wish}
        if "path" in known:
            re.compile(str(known["path"]))
        more = {name: value for name, value in wish.items() if name not in known and name != "kind"}
        fault = Fault(self._next, str(kind), **known, more=more)
        self._next += 1
        self._faults.append(fault)
        return fault

    def clear(self, kind: str | None = None) -> int:
        """Remove all faults, or those of one kind; return how many."""
        gone = [f for f in self._faults if kind is None or f.kind == kind]
        self._faults = [f for f in self._faults if f not in gone]
        return len(gone)

    def shown(self) -> list[dict[str, Any]]:
        """Return the faults that wait or go on."""
        return [f.shown() for f in self._faults]

    def take(self, kind: str, method: str = "", path: str = "") -> Fault | None:
        """Return a fault of this kind that hits this request, and count it; None if there is none."""
        for fault in self._faults:
            if fault.kind != kind or not fault.fits(method, path):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.share < 1.0 and self._random.random() >= fault.share:
                continue
            fault.hit += 1
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
            return fault
        return None
