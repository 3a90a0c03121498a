"""Seeds of captures that read by SELECT: asked for by a call or on ``ops.signals``, page by page, resumed after a restart.

A request is ``{"kind": "seed", "system": …, "tenant": … or null, "entity": … or null, "where": …, "id": …}``; how far a seed is stands
under `tidelock.places.seed_key`, in the same form that capture by replication writes. Tenants are served by turns, a page each, so that
a large one does not hold up the others; the seeds of one tenant come one after the other.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from producers.base import Progress, Publisher
from producers.seeded import Marks
from producers.signals import Signal, Signals
from tidelock.context import Context
from tidelock.errors import Fatal, Retry, TidelockError
from tidelock.places import seed_key, shown

_LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Seed:
    """One seed: ``after`` is the key (its parts' texts) up to which Kafka has everything."""

    entity: str
    number: str
    where: str | None = None
    tenant: str = ""
    after: list[str] | None = None
    rows: int = 0
    estimate: int | None = None
    pages: Iterator[int] | None = None
    failures: int = 0
    not_before: float = 0.0


class Seeding:
    """The seeds of all tenants of one system.

    ``pages`` reads a seed on: it yields the rows of each page once Kafka has them, ``after`` moved.
    """

    def __init__(
        self, context: Context, system: str, publisher: Publisher, pages: Callable[[Seed], Iterator[int]]
    ) -> None:
        self._spec = context.config.systems[system]
        self._system = system
        self._entities = tuple(self._spec.entities)
        self._tenants = tuple(t for t, its in self._spec.all_tenants.items() if its.enabled)
        self._publisher = publisher
        self._pages = pages
        self._signals = Signals(context, f"{context.name}-{system}")
        self._on_start = False
        self._marks = {t: Marks(context, system, publisher, self._signals.last, t) for t in self._tenants}
        self._looked = 0.0
        self._turns = dict.fromkeys(self._tenants, 0)  # when a tenant was last served, in steps
        self.seeds: dict[tuple[str, str], Seed] = {}  # by tenant and entity
        self.failed: dict[tuple[str, str], TidelockError] = {}

    @property
    def last(self) -> dict[str, Signal]:
        """Return the last record of every key of ``ops.signals`` that has been read."""
        return self._signals.last

    def marks(self, tenant: str | None = None) -> Marks:
        """Return the end-of-seed marks of a tenant; the only one need not be named."""
        return self._marks[self._spec.only_tenant if tenant is None else tenant]

    def load(self, *, on_start: bool, reads: bool = False) -> None:
        """Read the records: go on with what was interrupted, take waiting requests, start what was never seeded if ``on_start``.

        ``reads``: the first reading takes everything, also without a seed. Raises Retry or Fatal.
        """
        self._on_start = on_start
        self._signals.load()
        for tenant in self._tenants:
            for entity in self._entities:
                record = self.last.get(self._key(tenant, entity))
                if self._marks[tenant].starting(entity, record, on_start=on_start, reads=reads):
                    self.start(entity, None, tenant=tenant)
                elif record is not None and record.get("state") == "running":
                    after, rows = record.get("after"), int(record.get("rows", 0))
                    seed = Seed(entity, str(record.get("id")), record.get("where"), tenant, after, rows)
                    self.seeds[tenant, entity] = seed
        for key, request in list(self.last.items()):
            self._take(key, request)

    def start(self, entity: str, where: str | None, number: str | None = None, tenant: str | None = None) -> Seed:
        """Start a seed from the beginning; the only tenant need not be named. Raises Fatal if there is no such entity."""
        if entity not in self._entities:
            raise Fatal(f"system {self._system} has no entity {entity}", hint=f"it has {', '.join(self._entities)}")
        whose = self._spec.only_tenant if tenant is None else tenant
        seed = self.seeds[whose, entity] = Seed(entity, number or secrets.token_hex(8), where, whose)
        self.failed.pop((whose, entity), None)
        self._record(seed, "running")
        return seed

    def step(self) -> int | None:
        """Do one page; return its rows, or None if there is nothing to seed now. Never raises for the seed's own troubles."""
        now = time.monotonic()
        if now - self._looked > _LOOK_EVERY_S:
            self._looked = now
            for key, request in self._signals.poll():
                self._take(key, request)
        seed = self._next(now)
        if seed is None:
            return None
        marks = self._marks[seed.tenant]
        try:
            if seed.pages is None:
                seed.pages = self._pages(seed)
            count = next(seed.pages, None)
            if count is None and seed.where is None:
                marks.give(seed.entity, "seed")
        except TidelockError as error:
            self._fail(seed, error)
            return None
        if count is None:
            del self.seeds[seed.tenant, seed.entity]
            self._record(seed, "done")
            if seed.where is not None and self._on_start and not marks.given(seed.entity):
                self.start(seed.entity, None, tenant=seed.tenant)  # it has taken the place of the first one
            return 0
        seed.rows += count
        seed.failures = 0
        self._record(seed, "running")
        return count

    def run(self, entity: str, where: str | None, progress: Progress | None) -> int:
        """Seed one entity of every tenant to its end and return its rows; one with the same condition that was interrupted goes on."""
        return sum(self._run(tenant, entity, where, progress) for tenant in self._tenants)

    def _run(self, tenant: str, entity: str, where: str | None, progress: Progress | None) -> int:
        running = self.seeds.get((tenant, entity))
        if running is None or running.where != where:
            running = self.start(entity, where, tenant=tenant)
        said = -1
        while self.seeds.get((tenant, entity)) is running:
            if self.step() is None:
                time.sleep(min(0.1, max(0.0, running.not_before - time.monotonic())))
            if progress is not None and running.rows != said:
                said = running.rows
                progress(entity, said, running.estimate)
        self._publisher.flush()
        if (tenant, entity) in self.failed:
            raise self.failed[tenant, entity]
        return running.rows

    def pause(self, tenant: str | None = None) -> None:
        """Let go of open readings, of one tenant or of all; seeds go on behind their last page at the next step."""
        for seed in self.seeds.values():
            if tenant in (None, seed.tenant):
                seed.pages = None

    def close(self) -> None:
        """Close the reader of signals; what is not finished goes on after the next start."""
        self.pause()
        self._signals.close()

    def _next(self, now: float) -> Seed | None:
        """Return the seed to read on: the first one that is ready of the tenant whose last turn is longest ago."""
        ready: dict[str, Seed] = {}
        for seed in self.seeds.values():
            if seed.not_before <= now:
                ready.setdefault(seed.tenant, seed)
        if not ready:
            return None
        tenant = min(ready, key=self._turns.__getitem__)
        self._turns[tenant] = max(self._turns.values()) + 1
        return ready[tenant]

    def _take(self, key: str, request: Signal) -> None:
        if request.get("kind") != "seed" or request.get("system") != self._system:
            return
        tenants = (str(request["tenant"]),) if request.get("tenant") else self._tenants
        if not set(tenants) <= set(self._tenants):
            return  # of one that is switched off: it stays until that is on again
        self.last.pop(key, None)
        number = request.get("id")
        for tenant in tenants:
            for entity in [request["entity"]] if request.get("entity") else self._entities:
                known = self.last.get(self._key(tenant, entity), {})
                if entity in self._entities and not (number and known.get("id") == number):
                    self.start(entity, request.get("where"), number, tenant)
        self._publisher.signal(key, None)  # last: a request is gone only when its seed stands on record

    def _fail(self, seed: Seed, error: TidelockError) -> None:
        seed.pages = None
        if isinstance(error, Retry):
            seed.failures += 1
            seed.not_before = time.monotonic() + min(30.0, 0.25 * 2 ** min(seed.failures, 7))
            return
        del self.seeds[seed.tenant, seed.entity]
        self.failed[seed.tenant, seed.entity] = error
        place = shown(self._spec, self._system, seed.tenant)
        which = f" --tenant {seed.tenant}" if place != self._system else ""
        hint = f"{error.hint or ''}; then `tidelock seed {self._system} {seed.entity}{which}`".lstrip("; ")
        hint += "; until then nothing is created there, if it was the first"
        text = f"{place}: {error.message}" if which else error.message
        self._publisher.alert("seed_failed", seed.entity, self._system, text, hint, tenant=seed.tenant)
        self._record(seed, "failed", error.message)

    def _record(self, seed: Seed, state: str, message: str | None = None) -> None:
        content: dict[str, Any] = {
            "kind": "seed_progress",
            "system": self._system,
            "tenant": seed.tenant,
            "entity": seed.entity,
            "id": seed.number,
            "where": seed.where,
            "state": state,
            "message": message,
            "after": seed.after,
            "rows": seed.rows,
            "estimate": seed.estimate,
            "at": int(time.time()),
        }
        key = self._key(seed.tenant, seed.entity)
        self.last[key] = content
        self._publisher.signal(key, content)

    def _key(self, tenant: str, entity: str) -> str:
        return seed_key(self._spec, self._system, tenant, entity)
