"""What stands around every sink: finding the bad record of a batch, trying again, giving a struggling destination rest, measuring."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import stamina
import structlog

from sinks.base import Lost, Outcome, Sink
from tidelock.envelopes import APPLIED, REJECTED, STALE, TAKEN, Receipt, Write
from tidelock.errors import Fatal, Reject, Retry
from tidelock.tracing import Tracing

log = structlog.get_logger()
T = TypeVar("T")


class Wrapper:
    """A sink around a sink; does nothing of its own."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner

    def setup(self) -> None:
        """Prepare."""
        self.inner.setup()

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out a batch."""
        return self.inner.write(batch)

    def close(self) -> None:
        """Let go."""
        self.inner.close()


class Bisecting(Wrapper):
    """Find the records that a batch fails for, by halves, and reject only these.

    An error that says nothing of the record (any foreign exception) counts against a record only if others pass: if all fail, it is the
    destination, hence Retry. What met a value that another record of the batch has let go of meanwhile is tried once more.
    """

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out a batch. Raises Retry and Fatal only."""
        doubts: list[tuple[int, Exception]] = []
        found = self._try(batch, 0, doubts)
        if doubts:
            if len(doubts) == len(batch):
                raise Retry(
                    f"every record of a batch of {len(batch)} failed: {doubts[0][1]!r}",
                    hint="see the destination's own log; the batch is tried again",
                ) from doubts[0][1]
            for i, error in doubts:
                found[i] = _rejected(batch[i], Reject(f"{type(error).__name__}: {error}", kind="failed"))
        outcomes = [found[i] for i in range(len(batch))]
        blocked = [i for i, o in enumerate(outcomes) if o.outcome == TAKEN]
        while blocked and len(blocked) < len(batch):
            again = [self._single(batch[i]) for i in blocked]
            for i, outcome in zip(blocked, again, strict=True):
                outcomes[i] = outcome
            left = [i for i in blocked if outcomes[i].outcome == TAKEN]
            if len(left) == len(blocked):
                break
            blocked = left
        return outcomes

    def _single(self, write: Write) -> Outcome:
        try:
            return self.inner.write([write])[0]
        except Reject as error:
            return _rejected(write, error)

    def _try(self, batch: Sequence[Write], first: int, doubts: list[tuple[int, Exception]]) -> dict[int, Outcome]:
        try:
            return {first + n: outcome for n, outcome in enumerate(self.inner.write(batch))}
        except (Retry, Fatal):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a connector raises is sorted here, in one place
            if len(batch) == 1:
                if isinstance(error, Reject):
                    return {first: _rejected(batch[0], error)}
                doubts.append((first, error))
                return {}
        half = len(batch) // 2
        return self._try(batch[:half], first, doubts) | self._try(batch[half:], first + half, doubts)


def _rejected(write: Write, error: Reject) -> Receipt:
    refused = (error.field,) if error.field in write.columns else ()
    return Receipt(
        write.canonical_id,
        write.version,
        REJECTED,
        write.native_key,
        refused=refused,
        kind=error.kind,
        message=error.message,
    )


class Measured(Wrapper):
    """Count what became of writes, and record a span for every batch with traced writes in it."""

    def __init__(self, inner: Sink, tracing: Tracing, count: Callable[[str, str, int], None]) -> None:
        super().__init__(inner)
        self._tracing = tracing
        self._count = count

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out a batch."""
        start = time.time_ns() // 1000
        outcomes = self.inner.write(batch)
        if self._tracing.bound:
            names: dict[str, str | int] = {
                "tidelock.system": batch[0].system,
                "tidelock.entity": batch[0].entity,
                "messaging.batch.message_count": len(batch),
            }
            self._tracing.batch(
                f"write {batch[0].system}", [w.event_id for w in batch], start, time.time_ns() // 1000, names
            )
        counts: dict[str, int] = {}
        for o in outcomes:
            name = _COUNTED[o.outcome]
            if o.outcome == APPLIED and o.refused:
                counts["refused"] = counts.get("refused", 0) + 1
            counts[name] = counts.get(name, 0) + 1
        for name, n in counts.items():
            self._count(name, batch[0].entity, n)
        return outcomes


_COUNTED = ("written", "stale", "missing", "rejected", "taken")
assert _COUNTED[APPLIED] == "written"
assert _COUNTED[STALE] == "stale"


class Retrying:
    """Try work again that met a passing trouble, with growing pauses, for a short while; longer ones are the breaker's."""

    def __init__(self, attempts: int = 5, timeout_s: float = 20.0) -> None:
        self._attempts = attempts
        self._timeout_s = timeout_s
        self.attempts = 1  # that the last work took

    def run(self, work: Callable[[], T]) -> T:
        """Do the work. Raises what it raises last; `Lost` at once."""
        for attempt in stamina.retry_context(
            on=_pause,
            attempts=self._attempts,
            timeout=self._timeout_s,
            wait_initial=0.05,
            wait_max=5.0,
            wait_jitter=0.1,
        ):
            with attempt:
                self.attempts = attempt.num
                return work()
        raise AssertionError("stamina ends by returning or raising")


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, Retry) or isinstance(error, Lost):
        return False
    return error.retry_after_s if error.retry_after_s is not None else True


class Breaker:
    """Leave a destination alone for a while after failures: 0.2 s, doubling to 15 s, or as long as it has asked for."""

    def __init__(self, least_s: float = 0.2, most_s: float = 15.0) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._until = 0.0
        self.failures = 0

    @property
    def left_s(self) -> float:
        """Return how long the destination is still left alone."""
        return max(0.0, self._until - time.monotonic())

    def failed(self, error: Retry) -> float:
        """Take note of a failure; return the pause."""
        pause_s = min(self._most_s, self._least_s * 2.0**self.failures)
        if error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        self.failures += 1
        self._until = time.monotonic() + pause_s
        return pause_s

    def passed(self) -> bool:
        """Take note of a success; return whether it ended an outage."""
        ended, self.failures = self.failures > 0, 0
        return ended
