"""Capture of HTTP APIs: any number of workers carry out jobs (`producers.jobs`) that one of them gives out (`producers.board`).

A connector is a class with `source` set to its `producers.source.Source`:

    class AcmeProducer(ApiProducer):
        source = AcmeSource

Jobs of several tenants are done side by side (`producers.crew`, `producers.errands`), so that one whose server hangs delays nobody else.
Every page that a source reads is published and acknowledged before its cursor is put on record. What is read twice has the same position
and is dropped by merge, so nothing here remembers what was published.
"""

from __future__ import annotations

import time
from typing import ClassVar

from producers.base import Progress, Publisher
from producers.board import Board
from producers.crew import Crew
from producers.errands import Errands, KafkaTrouble
from producers.jobs import LANES, Job, Queue
from producers.schedule import Schedule
from producers.signals import Signals
from producers.source import Hook, Source
from tidelock.context import Context
from tidelock.errors import Fatal

_LOOK_EVERY_S = 0.5
_HANDS = {"increments": 4, "loads": 2}


class ApiProducer:
    """Capture one system with all its tenants (`producers.base.Producer`)."""

    source: ClassVar[type[Source]]
    reads_all_first: ClassVar[bool] = False
    """The first poll reads everything there is: there are no loads of their own, but those of a part."""
    kinds: ClassVar[tuple[str, ...]] = ("poll", "overlap")
    """The kinds of runs there are: ``poll``, ``overlap`` (the nightly insurance), ``deletes`` (a comparison of all keys)."""
    hook: ClassVar[type[Hook] | None] = None
    """What understands the vendor's webhooks, if it sends any."""

    def __init__(self, context: Context, system: str) -> None:
        self.context, self.system = context, system
        self.spec = context.config.systems[system]
        self._zone = str(self.spec.options.get("timezone", "UTC"))
        self._closed = False
        self.publisher = Publisher(context, system)
        self.tenants = context.access.tenants
        self._signals: Signals | None = None
        self._board: Board | None = None
        self._looked = 0.0
        self._errands = Errands(context, system, self.publisher, self.source, self.schedules, polls=self.polls)
        hands = {
            "increments": int(self.spec.options.get("parallel_jobs", _HANDS["increments"])),
            "loads": int(self.spec.options.get("parallel_jobs_of_loads", _HANDS["loads"])),
        }
        self._increments, self._loads = (
            Crew(Queue(context, system, lane), hands[lane], self._carry_out, polls=self.polls) for lane in LANES
        )

    def _carry_out(self, job: Job) -> None:
        self._errands.carry_out(job)

    # ------------------------------------------------------------------------------------------------ the contract

    @property
    def polls(self) -> bool:
        """Return whether polling finds again what a webhook named."""
        return "poll" in self.kinds

    def setup(self) -> None:
        """Check the schedules. Raises Fatal. What a vendor has to say comes with the first job of each tenant."""
        for entity in self.spec.entities:
            self.schedules(entity)

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return when which kind of run of an entity is due."""
        table, what = self.spec.entities[entity], f"entity {entity} of system {self.system}"
        out: dict[str, Schedule] = {}
        if "poll" in self.kinds:
            out["poll"] = Schedule(table.schedule, table.every_s, self._zone, what=what)
        if "overlap" in self.kinds:
            out["overlap"] = Schedule(table.overlap_schedule, 0.0, self._zone, what=what)
        if "deletes" in self.kinds:
            cron = str(self.spec.options.get("find_deletes", "30 3 * * *"))
            out["deletes"] = Schedule(cron, 0.0, self._zone, what=f"options.find_deletes of system {self.system}")
        return out

    def step(self, wait_s: float) -> int:
        """Give out what is due, if that is this worker's office, and see to the jobs. Raises Retry or Fatal."""
        try:
            with self._errands.kafka():
                self.publisher.tick()
                if self._increments.queue.leads:
                    self._lead()
                else:
                    self._board = None
            return self._loads.step(0.0) + self._increments.step(min(wait_s, 0.2))
        except KafkaTrouble as trouble:
            raise trouble.error from trouble

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        """Ask for a load of every tenant, and return at once: the workers share it. Raises Fatal if there is no such entity."""
        del progress  # it is told on ops.signals as the parts come in
        if entity not in self.spec.entities:
            raise Fatal(f"system {self.system} has no entity {entity}", hint=f"it has {', '.join(self.spec.entities)}")
        request = {"kind": "seed", "system": self.system, "entity": entity, "where": where}
        self.publisher.signal(f"request/seed/{self.system}/{entity}", request)
        self.publisher.flush()
        return 0

    def close(self) -> None:
        """Leave the groups, when the calls that are under way have ended; a job that is not done is done again by somebody."""
        if self._closed:
            return
        self._closed = True
        for crew in (self._increments, self._loads):
            crew.close()
        if self._signals is not None:
            self._signals.close()
        self._errands.close()
        self.publisher.close()

    # ------------------------------------------------------------------------------------------------ leading

    def _lead(self) -> None:
        if self._board is None or self._signals is None:
            if self._signals is not None:
                self._signals.close()
            self._signals = Signals(self.context, f"{self.context.name}-{self.system}")
            self._signals.load()
            self._board = Board(
                self.context,
                self.system,
                self.publisher,
                self._signals,
                self.schedules,
                reads_all_first=self.reads_all_first,
            )
            self._board.take(self._signals.last.items())
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        self._board.take(self._signals.poll())
        # One that was added a moment ago waits until this worker is started anew with it, as the hub's are: what is read before
        # they know it would go to the dead letters, and its marks would be lost.
        known = self.spec.all_tenants
        tenants = [tenant for tenant in self.tenants.all(self.system) if tenant.name in known]
        self._board.requests(tenants)
        self._board.step(tenants)
