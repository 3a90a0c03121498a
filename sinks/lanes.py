"""Writes to several tenants, each in a lane of its own: one that is down, slow or switched off keeps nobody waiting but itself.

A lane holds what was read for its tenant and is not done yet, in order. Lanes take turns or, where the sink allows it, run side by
side (`sinks.base.SideBySide`). The group is told an offset only when everything before it is done, in whichever lane: after a crash
some writes happen again, which their sink makes harmless.

Writes to a tenant whose circuit is open, or whose lane is full, are answered at once (`sinks.circuits`): merge parks their values.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from sinks.base import Scope
from sinks.circuits import BUSY, OFF, Circuit, Trouble
from sinks.packs import Fate
from sinks.plan import Item
from tidelock.errors import Fatal, Retry

_LOOK_S = 0.05  # while something runs in another thread, how often is looked for more to do


@dataclass(slots=True)
class Lane:
    """One tenant's writes that are not done. ``off``: why it takes none for as long as this worker runs."""

    tenant: str
    circuit: Circuit
    off: Trouble | None = None
    full: bool = False
    queue: deque[Item] = field(default_factory=deque)
    working: list[Item] = field(default_factory=list)
    job: Future[None] | None = None

    @property
    def trouble(self) -> Trouble | None:
        """Return why the tenant takes no writes now, or not all of them."""
        busy = Trouble(BUSY, "there is more to write than it takes at once", "nothing to do") if self.full else None
        return self.off or self.circuit.trouble or busy


Tell = Callable[[str, Trouble | None, float], None]
"""Told of a tenant whenever its trouble changes, or an attempt at it has failed again: why it takes no writes (None: it does), and in
how many seconds the next attempt may be made."""


class Lanes:
    """The lanes of one worker. ``write`` carries out writes of one tenant, or some of them before it raises Retry or Fatal.

    ``most``: writes of one tenant that are tried together. Four times as many may wait in its lane, and sixteen times in all lanes.
    """

    def __init__(
        self,
        system: str,
        lanes: Iterable[Lane],
        write: Callable[[list[Item]], None],
        tell: Tell,
        *,
        most: int,
        at_once: int = 1,
    ) -> None:
        self._system = system
        self._lanes: dict[str, Lane] = {lane.tenant: lane for lane in lanes}
        self._write = write
        self._tell = tell
        self._most = most
        self._pool = ThreadPoolExecutor(at_once, f"sink.{system}") if at_once > 1 else None
        self._done: list[Item] = []
        self._open: dict[Scope, dict[int, None]] = {}  # offsets that are not done, in order
        self._ends: dict[Scope, int] = {}  # behind the last message that was read

    # ------------------------------------------------------------------------------------------------ in and out

    def take(self, items: Iterable[Item]) -> None:
        """Put items into the lanes of their tenants; one that could not be read is done."""
        waiting = sum(map(len, self._open.values()))
        for item in items:
            self._ends[item.scope] = item.offset + 1
            if item.write is None:
                self._done.append(item)
                continue
            self._open.setdefault(item.scope, {})[item.offset] = None
            lane = self._lane(item.write.tenant)
            crowded = waiting >= 16 * self._most and lane.queue
            if (len(lane.queue) >= 4 * self._most or crowded) and not lane.full:
                lane.full = True
                self._say(lane)
            waiting += 1
            if lane.full:
                self._answer(lane, item)
            else:
                lane.queue.append(item)

    def turn(self, wait_s: float) -> list[Item]:
        """Let every lane go on, waiting up to ``wait_s`` for one that runs in another thread; return what is done."""
        for lane in self._lanes.values():
            if lane.job is None and lane.queue:
                self._go(lane)
        running = [lane.job for lane in self._lanes.values() if lane.job is not None]
        if running and not self._done:
            wait(running, min(wait_s, _LOOK_S), FIRST_COMPLETED)
        for lane in self._lanes.values():
            if lane.job is not None and lane.job.done():
                self._finish(lane)
        done, self._done = self._done, []
        for item in done:
            self._open.get(item.scope, {}).pop(item.offset, None)
        return done

    def ends(self) -> Mapping[Scope, int]:
        """Return up to where everything is done, by partition."""
        return {s: next(iter(self._open.get(s) or ()), end) for s, end in self._ends.items()}

    def patience_s(self, wait_s: float) -> float:
        """Return how long, at most ``wait_s``, nothing can be done unless something new is read."""
        if self._done or any(lane.job is not None for lane in self._lanes.values()):
            return 0.0
        due = [lane.circuit.until for lane in self._lanes.values() if lane.queue]
        return max(0.0, min([wait_s, *(until - time.monotonic() for until in due)]))

    def drop(self) -> None:
        """Wait for what runs, and forget everything: it is read again, by whoever has the partitions then."""
        self._wait()
        for lane in self._lanes.values():
            lane.queue.clear()
            lane.working, lane.job = [], None
            self._empty(lane)
        self._done.clear()
        self._open.clear()
        self._ends.clear()

    def close(self) -> list[Item]:
        """Wait for what runs and return what is done; nothing new is begun."""
        self._wait()
        for lane in self._lanes.values():
            lane.queue.clear()
        done = self.turn(0.0)
        if self._pool is not None:
            self._pool.shutdown()
        return done

    def _wait(self) -> None:
        wait([lane.job for lane in self._lanes.values() if lane.job is not None])

    # ------------------------------------------------------------------------------------------------ one lane

    def _lane(self, tenant: str) -> Lane:
        lane = self._lanes.get(tenant)
        if lane is None:  # what was sent to it before it was taken out of the configuration
            gone = Trouble(OFF, "it is configured no more", f"put it back into systems.{self._system}.tenants")
            lane = self._lanes[tenant] = Lane(tenant, Circuit(), gone)
        return lane

    def _go(self, lane: Lane) -> None:
        waits = time.monotonic() < lane.circuit.until
        if lane.off is not None or (waits and lane.circuit.trouble is not None):
            while lane.queue:
                self._answer(lane, lane.queue.popleft())
        elif not waits:
            lane.working = [lane.queue.popleft() for _ in range(min(self._most, len(lane.queue)))]
            if self._pool is not None:
                lane.job = self._pool.submit(self._write, lane.working)
                return
            lane.job = Future()
            try:
                self._write(lane.working)
            except Exception as error:  # noqa: BLE001 - `_finish` sorts it, as it does what another thread has met
                lane.job.set_exception(error)
            else:
                lane.job.set_result(None)

    def _finish(self, lane: Lane) -> None:
        assert lane.job is not None
        error, items = lane.job.exception(), lane.working
        lane.job, lane.working = None, []
        left = [item for item in items if item.fate is None]
        self._done += [item for item in items if item.fate is not None]
        for item in reversed(left):
            item.folded, item.instead_of = item.write, []
            lane.queue.appendleft(item)
        if error is None:
            assert not left, f"{len(left)} writes of {self._system}/{lane.tenant} have no outcome"
            if lane.circuit.passed():
                self._say(lane)
        elif isinstance(error, Retry | Fatal):
            if lane.circuit.failed(error, time.monotonic()):
                self._say(lane)
                while lane.queue:
                    self._answer(lane, lane.queue.popleft())
        else:
            raise error
        if 2 * len(lane.queue) <= self._most:
            self._empty(lane)

    def _empty(self, lane: Lane) -> None:
        """Let a lane that was full fill again."""
        if lane.full:
            lane.full = False
            self._say(lane)

    def _say(self, lane: Lane) -> None:
        self._tell(lane.tenant, lane.trouble, max(0.0, lane.circuit.until - time.monotonic()))

    def _answer(self, lane: Lane, item: Item) -> None:
        """Give a write its receipt without trying it."""
        trouble = lane.trouble
        assert trouble is not None
        assert item.write is not None
        item.fate = Fate.of(trouble.answer(f"{self._system}/{lane.tenant}", item.write))
        item.plain = False
        self._done.append(item)
