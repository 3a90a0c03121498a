"""A simulator's time: the real one plus what the control API has advanced it by, so that a week passes in a moment."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """The time a simulator lives in. Everything that expires, is retried or is stamped asks it, never the system's clock."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        """Return the seconds since 1970."""
        return time.time() + self._ahead_s

    def moment(self) -> datetime:
        """Return the time as a datetime in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        """Put the clock forward and wake whoever waits for a time that has come. Raises ValueError: time does not go back."""
        if seconds < 0:
            raise ValueError("a simulator's clock goes forward only")
        self._ahead_s += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def until(self, at: float) -> None:
        """Wait until the clock shows ``at``, also when it gets there by being advanced."""
        while (left_s := at - self.now()) > 0:
            moved = self._moved
            try:
                await asyncio.wait_for(moved.wait(), min(left_s, 3600.0))
            except TimeoutError:
                continue
