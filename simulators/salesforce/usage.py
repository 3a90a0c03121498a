"""The org's limits: calls within a rolling day, and what ``/limits`` tells about them and about others."""

from __future__ import annotations

from collections import deque
from typing import Any

from simulators.clock import Clock
from simulators.salesforce.asking import Ask, Reply, names
from simulators.salesforce.bulk_query import MOST_QUERIES
from simulators.salesforce.context import Context
from simulators.salesforce.jobs import Jobs

_DAY_S = 86400.0
_SLOT_S = 60.0
_FIXED = {
    "ConcurrentAsyncGetReportInstances": (200, 200),
    "DailyAsyncApexExecutions": (250_000, 250_000),
    "DailyBulkV2QueryFileStorageMB": (976_562, 976_562),
    "DailyDeliveredPlatformEvents": (50_000, 50_000),
    "DataStorageMB": (10_240, 10_000),
    "FileStorageMB": (10_240, 10_200),
    "HourlyPublishedPlatformEvents": (50_000, 50_000),
    "HourlyPublishedStandardVolumePlatformEvents": (1_000, 1_000),
    "MonthlyPlatformEvents": (300_000, 300_000),
    "SingleEmail": (5_000, 5_000),
}


class Usage:
    """How many calls were made within the last 24 hours."""

    def __init__(self, clock: Clock, daily_limit: int) -> None:
        self._clock = clock
        self.daily_limit = daily_limit
        self._slots: deque[list[float]] = deque()
        self._used = 0

    def used(self) -> int:
        """Return the calls of the last 24 hours."""
        since = self._clock.now() - _DAY_S
        while self._slots and self._slots[0][0] < since:
            self._used -= int(self._slots.popleft()[1])
        return self._used

    def count(self) -> None:
        """Count a call."""
        slot = self._clock.now() // _SLOT_S * _SLOT_S
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0])
        self._slots[-1][1] += 1
        self._used += 1

    def spent(self) -> bool:
        """Return whether no call is left."""
        return self.used() >= self.daily_limit

    def header(self) -> dict[str, str]:
        """Return the header that every answer has."""
        return {"Sforce-Limit-Info": f"api-usage={self.used()}/{self.daily_limit}"}

    def reset(self) -> None:
        """Forget all calls."""
        self._slots.clear()
        self._used = 0


class Limits:
    """The handlers under ``limits``."""

    def __init__(self, context: Context, usage: Usage, jobs: Jobs) -> None:
        self._org = context.org
        self._options = context.options
        self._usage = usage
        self._jobs = jobs
        context.router.add("limits", GET=self._all)
        context.router.add("limits/recordCount", GET=self._counts)

    def _all(self, _: Ask) -> Reply:
        batches, queries = self._jobs.used()
        most, limit = self._options.bulk_batches, self._usage.daily_limit
        out: dict[str, Any] = {
            "DailyApiRequests": {"Max": limit, "Remaining": max(0, limit - self._usage.used())},
            "DailyBulkApiBatches": {"Max": most, "Remaining": max(0, most - batches)},
            "DailyBulkV2QueryJobs": {"Max": MOST_QUERIES, "Remaining": max(0, MOST_QUERIES - queries)},
        }
        return Reply(data={**out, **{name: {"Max": m, "Remaining": left} for name, (m, left) in _FIXED.items()}})

    def _counts(self, ask: Ask) -> Reply:
        wanted = names(ask.query.get("sObjects", ""))
        tables = (
            [t for n in wanted if (t := self._org.find(n)) is not None] if wanted else list(self._org.tables.values())
        )
        return Reply(data={"sObjects": [{"count": t.live, "name": t.kind.name} for t in tables]})
