"""What the clock makes of creates that wait for a seed too long: an alert with the way out, once per trouble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tidelock.config import Config
from tidelock.waiting import DECIDING, FAILED, READING, Wait, waits

PATIENCE_S = 300.0
"""How long a seed may not have begun, or not have read anything, while creates wait for it."""
_KINDS = (b"waiting/", b"seed/", b"seeded/")


class Overdue:
    """Follow ``ops.signals``; times are seconds since 1970."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._signals: dict[str, dict[str, Any]] = {}
        self._since: dict[str, float] = {}  # by key: when the first create began to wait
        self._moved: dict[str, float] = {}  # by key: when it was last told of
        self._told: dict[tuple[str, str], str] = {}

    def take(self, key: bytes, value: bytes | None, at: float) -> None:
        """Take a record of the topic."""
        if not key.startswith(_KINDS):
            return
        name = key.decode()
        if value is None:
            self._signals.pop(name, None)
            self._since.pop(name, None)
            return
        self._signals[name] = json.loads(value)
        self._since.setdefault(name, at)
        self._moved[name] = at

    def alerts(self, now: float) -> Iterator[dict[str, Any]]:
        """Yield what has become due, as alerts (schemas/alert.avsc)."""
        found = waits(self._signals, self._config)
        for wait in found:
            place = wait.system, wait.entity
            trouble = self._trouble(wait, now)
            if not trouble or self._told.get(place) == trouble:
                continue
            self._told[place] = trouble
            yield {
                "fingerprint": f"creates_wait/{wait.system}/{wait.entity}",
                "kind": "creates_wait",
                "severity": "warning",
                "system": wait.system,
                "entity": wait.entity,
                "subject": wait.system,
                "message": trouble,
                "hint": wait.next or _hint(wait),
                "at": int(now * 1_000_000),
            }
        over = self._told.keys() - {(w.system, w.entity) for w in found}
        for place in over:
            del self._told[place]

    def _trouble(self, wait: Wait, now: float) -> str:
        """Return what is wrong, without numbers that move, or nothing."""
        what = f"creates wait for the seed of {wait.system}/{wait.entity}"
        if wait.state == FAILED:
            return f"{what}, {wait.reason}"
        name = f"waiting/{wait.entity}/{wait.system}/{self._config.systems[wait.system].tenant}"
        since = max(self._since.get(name, now), self._moved.get(f"seed/{wait.system}/{wait.entity}", 0.0))
        if wait.state == DECIDING:
            since = self._moved.get(name, now)
        if now - since < PATIENCE_S:
            return ""
        if wait.state == READING:
            return f"{what}, which has read nothing for {PATIENCE_S / 60:.0f} minutes"
        if wait.state == DECIDING:
            return f"{what}, which is through, and none was decided for {PATIENCE_S / 60:.0f} minutes"
        return f"{what}, {wait.reason}"


def _hint(wait: Wait) -> str:
    if wait.state == DECIDING:
        return f"see that route and identify run; `tidelock seed {wait.system} {wait.entity}` tells its end once more"
    return f"see that capture.{wait.system} runs, and what it logs"
