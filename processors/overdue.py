"""What the clock makes of creates that wait for a seed too long: an alert with the way out, once per trouble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tidelock.config import Config
from tidelock.places import seed_key
from tidelock.waiting import DECIDING, FAILED, OFF, READING, Wait, waits

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
        self._told: dict[tuple[str, str], str] = {}  # by place and entity

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
            what = wait.place, wait.entity
            trouble = self._trouble(wait, now)
            if not trouble or self._told.get(what) == trouble:
                continue
            self._told[what] = trouble
            yield {
                "fingerprint": f"creates_wait/{wait.place}/{wait.entity}",
                "kind": "creates_wait",
                "severity": "warning",
                "system": wait.system,
                "entity": wait.entity,
                "subject": wait.place,
                "message": trouble,
                "hint": wait.next or _hint(wait),
                "at": int(now * 1_000_000),
            }
        for what in self._told.keys() - {(w.place, w.entity) for w in found}:
            del self._told[what]

    def _trouble(self, wait: Wait, now: float) -> str:
        """Return what is wrong, without numbers that move, or nothing."""
        what = f"creates wait for the seed of {wait.place}/{wait.entity}"
        if wait.state == FAILED:
            return f"{what}, {wait.reason}"
        if wait.state == OFF:
            return ""  # it is meant to wait
        spec = self._config.systems[wait.system]
        tenant = wait.tenant or spec.only_tenant
        name = f"waiting/{wait.entity}/{wait.system}/{tenant}"
        moved = self._moved.get(seed_key(spec, wait.system, tenant, wait.entity), 0.0)
        since = max(self._since.get(name, now), moved)
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
        whose = f" --tenant {wait.tenant}" if wait.tenant else ""
        return f"see that route and identify run; `tidelock seed {wait.system} {wait.entity}{whose}` tells its end once more"
    return f"see that capture.{wait.system} runs, and what it logs"
