"""Service protection: the three limits per user over a sliding window, and what their answers look like."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from simulators.clock import Clock
from simulators.dynamics.errors import ODataError

WINDOW_S = 300


@dataclass(slots=True)
class _Use:
    calls: deque[tuple[float, float]] = field(default_factory=deque)
    """Time and execution seconds of each call in the window."""
    spent_s: float = 0.0
    running: int = 0
    refused: int = 0
    """How often in a row a call was refused: the more, the longer the wait that is asked for."""


class Limits:
    """Counts what each user asks for. ``requests`` and ``execution_s`` are per window; ``concurrent`` at one time."""

    def __init__(self, clock: Clock, requests: int = 6000, execution_s: float = 1200.0, concurrent: int = 52) -> None:
        self._clock = clock
        self.requests = requests
        self.execution_s = execution_s
        self.concurrent = concurrent
        self._uses: dict[str, _Use] = {}

    def forget(self) -> None:
        """Begin anew."""
        self._uses.clear()

    def enter(self, user: str) -> None:
        """Let a call in. Raises ODataError (429) if the user is over a limit."""
        use = self._use(user)
        if len(use.calls) >= self.requests:
            raise self._over(use, "requests", use.calls[0][0] + WINDOW_S - self._clock.now())
        if use.spent_s >= self.execution_s:
            raise self._over(use, "execution", use.calls[0][0] + WINDOW_S - self._clock.now())
        if use.running >= self.concurrent:
            raise self._over(use, "concurrent", 1.0)
        use.refused = 0
        use.running += 1

    def leave(self, user: str, took_s: float) -> dict[str, str]:
        """Count a call that is done; return the headers that tell what is left."""
        use = self._use(user)
        use.running -= 1
        use.calls.append((self._clock.now(), took_s))
        use.spent_s += took_s
        return {
            "x-ms-ratelimit-burst-remaining-xrm-requests": str(max(0, self.requests - len(use.calls))),
            "x-ms-ratelimit-time-remaining-xrm-requests": f"{max(0.0, self.execution_s - use.spent_s):,.2f}",
        }

    def error(self, facet: str, wait_s: float) -> ODataError:
        """Return the answer of one limit."""
        code, text = {
            "requests": (
                "0x80072322",
                f"Number of requests exceeded the limit of {self.requests} over time window of {WINDOW_S} seconds.",
            ),
            "execution": (
                "0x80072321",
                (
                    f"Combined execution time of incoming requests exceeded limit of {int(self.execution_s * 1000):,} "
                    f"milliseconds over time window of {WINDOW_S} seconds. Decrease number of concurrent requests or reduce "
                    "the duration of requests and try again later."
                ),
            ),
            "concurrent": (
                "0x80072326",
                f"Number of concurrent requests exceeded the limit of {self.concurrent}.",
            ),
        }[facet]
        return ODataError(429, code, text, {"Retry-After": str(max(1, math.ceil(wait_s)))})

    def _over(self, use: _Use, facet: str, wait_s: float) -> ODataError:
        use.refused += 1
        return self.error(facet, wait_s + use.refused - 1)

    def _use(self, user: str) -> _Use:
        use = self._uses.setdefault(user, _Use())
        edge = self._clock.now() - WINDOW_S
        while use.calls and use.calls[0][0] <= edge:
            use.spent_s -= use.calls.popleft()[1]
        return use
