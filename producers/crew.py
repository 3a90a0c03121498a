"""Hands for one lane of jobs: several jobs side by side, never two of one tenant, and the group is told in order what is done.

A tenant whose server hangs holds up one pair of hands and nobody else's jobs. Of one tenant and entity, records that are to be read again
are read together, however many notices named them.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import structlog

from producers.jobs import Job, Queue, Taken

log = structlog.get_logger()

MOST_WAITING = 5000
"""Jobs that a worker holds without having done them; further ones stay in Kafka."""
MOST_OF_ONE = 1000
"""Jobs of one tenant that wait, where polling finds what is left out; so a tenant whose server hangs leaves room for the others' jobs."""
TOGETHER = 500
"""Records that are read again, or published as they were told, in one job."""


class Crew:
    """Take jobs from a queue and have them done by threads. Everything but ``carry_out`` happens in the thread that calls `step`."""

    def __init__(self, queue: Queue, hands: int, carry_out: Callable[[Job], None], *, polls: bool = False) -> None:
        self.queue = queue
        self._polls = polls
        self._hands = hands
        self._carry_out = carry_out
        self._pool = ThreadPoolExecutor(hands, thread_name_prefix=f"jobs-{queue.lane}")
        self._waiting: dict[str, deque[Taken]] = {}  # by tenant; the one whose turn it is comes first
        self._held = 0
        self._busy: dict[Future[None], tuple[str, list[Taken]]] = {}
        self._open: dict[int, dict[int, bool]] = {}  # offsets in order, by partition: whether they are done

    def step(self, wait_s: float) -> int:
        """Take note of what is done, take more, and begin what can be begun; return how many were done or begun.

        Waits up to ``wait_s`` if there is nothing to do. Raises what a job has raised: that is Kafka's trouble, not a tenant's.
        """
        done = self._settle()
        for taken in self.queue.take(0.0 if done or self._startable() else wait_s, MOST_WAITING - self._held):
            self._add(taken)
        self._forget()
        return done + self._begin()

    def close(self) -> None:
        """Wait for what is being done, and leave the group. What was not finished somebody else does."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for future in [f for f in self._busy if f.cancelled()]:
            del self._busy[future]
        with contextlib.suppress(Exception):  # what cannot be told is done again
            self._settle()
        self.queue.close()

    # ------------------------------------------------------------------------------------------------ taking

    def _add(self, taken: Taken) -> None:
        waiting = len(self._waiting.get(taken.job.tenant, ()))
        left_out = taken.job.kind == "read" and self._polls and waiting >= MOST_OF_ONE
        if left_out and waiting % 100 == 0:
            log.warning(
                "webhooks of a tenant come faster than it can be read; the next poll finds what they name",
                tenant=taken.job.tenant,
            )
        self._open.setdefault(taken.partition, {})[taken.offset] = left_out or taken.job.kind == "none"
        if not left_out and taken.job.kind != "none":
            self._waiting.setdefault(taken.job.tenant, deque()).append(taken)
            self._held += 1

    def _forget(self) -> None:
        """Forget jobs of partitions that are somebody else's now; what is being done is done twice, which is harmless."""
        gone, self.queue.dropped = self.queue.dropped - self.queue.owned, set()
        if not gone:
            return
        for partition in gone:
            self._open.pop(partition, None)
        for tenant, jobs in list(self._waiting.items()):
            left = deque(t for t in jobs if t.partition not in gone)
            self._held -= len(jobs) - len(left)
            if left:
                self._waiting[tenant] = left
            else:
                del self._waiting[tenant]

    # ------------------------------------------------------------------------------------------------ doing

    def _startable(self) -> bool:
        busy = {tenant for tenant, _ in self._busy.values()}
        now = time.time()
        return len(self._busy) < self._hands and any(
            tenant not in busy and any(t.job.not_before <= now for t in jobs) for tenant, jobs in self._waiting.items()
        )

    def _begin(self) -> int:
        busy, now, begun = {tenant for tenant, _ in self._busy.values()}, time.time(), 0
        for tenant in [t for t in self._waiting if t not in busy]:
            if len(self._busy) >= self._hands:
                break
            together = self._next(tenant, now)
            if not together:
                continue
            self._busy[self._pool.submit(self._carry_out, _one(together))] = (tenant, together)
            begun += 1
        return begun

    def _next(self, tenant: str, now: float) -> list[Taken]:
        """Take a tenant's next job that may be done, and what can be done with it in one go; the tenant goes to the end."""
        jobs = self._waiting.pop(tenant)
        first: Taken | None = None
        together: list[Taken] = []
        left: deque[Taken] = deque()
        room = TOGETHER
        for taken in jobs:
            job = taken.job
            size = len(job.keys) + len(job.records)
            if first is None and job.not_before <= now:
                first = taken
            elif (
                first is None
                or job.kind not in ("read", "told")
                or (job.kind, job.entity) != (first.job.kind, first.job.entity)
                or job.not_before > now
                or size > room
            ):
                left.append(taken)
                continue
            together.append(taken)
            room -= size
        if left:
            self._waiting[tenant] = left
        self._held -= len(together)
        return together

    def _settle(self) -> int:
        """Tell the group what is done; raise what went wrong."""
        finished = [f for f in self._busy if f.done()]
        failure: BaseException | None = None
        for future in finished:
            _, jobs = self._busy.pop(future)
            error = future.exception()
            if error is not None:
                failure = failure or error
                continue
            for taken in jobs:
                offsets = self._open.get(taken.partition)
                if offsets is not None and taken.offset in offsets:
                    offsets[taken.offset] = True
        upto: dict[int, int] = {}
        for partition, offsets in self._open.items():
            ready = []
            for offset, done in offsets.items():
                if not done:
                    break
                ready.append(offset)
            if ready:
                upto[partition] = ready[-1] + 1
                for offset in ready:
                    del offsets[offset]
        if upto:
            self.queue.done(upto)
        if failure is not None:
            raise failure
        return len(finished)


def _one(together: list[Taken]) -> Job:
    """Make one job of several of the same kind, tenant and entity."""
    first = together[0].job
    if len(together) == 1:
        return first
    return msgspec.structs.replace(
        first,
        keys=list(dict.fromkeys(key for t in together for key in t.job.keys)),
        records=[record for t in together for record in t.job.records],
        tries=max(t.job.tries for t in together),
    )
