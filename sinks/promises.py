"""The promise that what was changed is written within a given time (`options.promise_s`): an alert when the oldest that is not is older."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from tidelock.config import SystemSpec
from tidelock.envelopes import Write

REMIND_S = 3600.0
KEPT_S = 60.0
"""Nothing late must have come by for so long before the promise counts as kept again: while a backlog goes, late and fresh writes alternate."""
KIND = "overdue"


class Alert(Protocol):
    """Tell people (`sinks.reports.Reports.alert`)."""

    def __call__(self, kind: str, fingerprint: str, subject: str, severity: str, message: str, hint: str) -> None: ...


class Promise:
    """One system's. Without the option nothing is ever told. Times are seconds since 1970, by the source's clock for changes."""

    def __init__(self, spec: SystemSpec, system: str, alert: Alert) -> None:
        given = spec.options.get("promise_s")
        self._most_s = float(given) if given else None
        self._system = system
        self._alert = alert
        self._told: dict[str, float] = {}  # by tenant: when it was last told
        self._late: dict[str, float] = {}  # by tenant: when the last late write came by

    def read(self, writes: Iterable[Write]) -> None:
        """Take note of writes that are about to be tried, for the first time or again."""
        if self._most_s is None:
            return
        oldest: dict[str, float] = {}
        for w in writes:
            at = w.source_time / 1_000_000
            oldest[w.tenant] = min(at, oldest.get(w.tenant, at))
        for tenant, at in oldest.items():
            self.look(tenant, at)

    def look(self, tenant: str, since: float) -> None:
        """Take note since when something waits at a tenant; tell it when that is too long, and again every hour."""
        now, place = time.time(), f"{self._system}/{tenant}"
        if self._most_s is None:
            return
        if now - since <= self._most_s:
            if tenant in self._told and now - self._late[tenant] >= KEPT_S:
                del self._told[tenant], self._late[tenant]
                self._say(place, "info", "what is changed is written in time again", "nothing to do")
            return
        self._late[tenant] = now
        if now - self._told.get(tenant, 0.0) >= REMIND_S:
            self._told[tenant] = now
            text = (
                f"a change has waited for {_hours(now - since)} to be written, and {_hours(self._most_s)} were promised"
            )
            hint = "`tidelock status` and `tidelock tenants ls` say what stands in the way; nothing is lost, writing goes on by itself"
            self._say(place, "critical", text, hint)

    def _say(self, place: str, severity: str, text: str, hint: str) -> None:
        self._alert(KIND, f"{KIND}/{place}", place, severity, f"{place}: {text}", hint)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
