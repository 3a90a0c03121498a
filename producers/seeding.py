"""Seeds of captures that read by SELECT: asked for by a call or on ``ops.signals``, page by page, resumed after a restart.

A request is ``{"kind": "seed", "system": …, "entity": … or null, "where": …, "id": …}``; how far a seed is stands under
``seed/<system>/<entity>``, in the same form that capture by replication writes.
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

_LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Seed:
    """One seed: ``after`` is the key (its parts' texts) up to which Kafka has everything."""

    entity: str
    number: str
    where: str | None = None
    after: list[str] | None = None
    rows: int = 0
    estimate: int | None = None
    pages: Iterator[int] | None = None
    failures: int = 0
    not_before: float = 0.0


class Seeding:
    """The seeds of one system. ``pages`` reads a seed on: it yields the rows of each page once Kafka has them, ``after`` moved."""

    def __init__(
        self, context: Context, system: str, publisher: Publisher, pages: Callable[[Seed], Iterator[int]]
    ) -> None:
        self._system = system
        self._entities = tuple(context.config.systems[system].entities)
        self._publisher = publisher
        self._pages = pages
        self._signals = Signals(context, f"{context.name}-{system}")
        self._on_start = False
        self.marks = Marks(context, system, publisher, self._signals.last)
        self._looked = 0.0
        self.seeds: dict[str, Seed] = {}
        self.failed: dict[str, TidelockError] = {}

    @property
    def last(self) -> dict[str, Signal]:
        """Return the last record of every key of ``ops.signals`` that has been read."""
        return self._signals.last

    def load(self, *, on_start: bool, reads: bool = False) -> None:
        """Read the records: go on with what was interrupted, take waiting requests, start what was never seeded if ``on_start``.

        ``reads``: the first reading takes everything, also without a seed. Raises Retry or Fatal.
        """
        self._on_start = on_start
        self._signals.load()
        for entity in self._entities:
            record = self.last.get(self._key(entity))
            if self.marks.starting(entity, record, on_start=on_start, reads=reads):
                self.start(entity, None)
            elif record is not None and record.get("state") == "running":
                after = record.get("after")
                self.seeds[entity] = Seed(
                    entity, str(record.get("id")), record.get("where"), after, int(record.get("rows", 0))
                )
        for key, request in list(self.last.items()):
            self._take(key, request)

    def start(self, entity: str, where: str | None, number: str | None = None) -> Seed:
        """Start a seed from the beginning. Raises Fatal if there is no such entity."""
        if entity not in self._entities:
            raise Fatal(f"system {self._system} has no entity {entity}", hint=f"it has {', '.join(self._entities)}")
        seed = self.seeds[entity] = Seed(entity, number or secrets.token_hex(8), where)
        self.failed.pop(entity, None)
        self._record(seed, "running")
        return seed

    def step(self) -> int | None:
        """Do one page; return its rows, or None if there is nothing to seed now. Never raises for the seed's own troubles."""
        now = time.monotonic()
        if now - self._looked > _LOOK_EVERY_S:
            self._looked = now
            for key, request in self._signals.poll():
                self._take(key, request)
        seed = next((s for s in self.seeds.values() if s.not_before <= now), None)
        if seed is None:
            return None
        try:
            if seed.pages is None:
                seed.pages = self._pages(seed)
            count = next(seed.pages, None)
            if count is None and seed.where is None:
                self.marks.give(seed.entity, "seed")
        except TidelockError as error:
            self._fail(seed, error)
            return None
        if count is None:
            del self.seeds[seed.entity]
            self._record(seed, "done")
            if seed.where is not None and self._on_start and not self.marks.given(seed.entity):
                self.start(seed.entity, None)  # it has taken the place of the first one
            return 0
        seed.rows += count
        seed.failures = 0
        self._record(seed, "running")
        return count

    def run(self, entity: str, where: str | None, progress: Progress | None) -> int:
        """Seed one entity to its end and return its rows; one with the same condition that was interrupted goes on."""
        running = self.seeds.get(entity)
        if running is None or running.where != where:
            running = self.start(entity, where)
        said = -1
        while self.seeds.get(entity) is running:
            if self.step() is None:
                time.sleep(min(0.1, max(0.0, running.not_before - time.monotonic())))
            if progress is not None and running.rows != said:
                said = running.rows
                progress(entity, said, running.estimate)
        self._publisher.flush()
        if entity in self.failed:
            raise self.failed[entity]
        return running.rows

    def pause(self) -> None:
        """Let go of open readings; seeds go on behind their last page at the next step."""
        for seed in self.seeds.values():
            seed.pages = None

    def close(self) -> None:
        """Close the reader of signals; what is not finished goes on after the next start."""
        self.pause()
        self._signals.close()

    def _take(self, key: str, request: Signal) -> None:
        if request.get("kind") != "seed" or request.get("system") != self._system:
            return
        self.last.pop(key, None)
        number = request.get("id")
        for entity in [request["entity"]] if request.get("entity") else self._entities:
            known = self.last.get(self._key(entity), {})
            if entity in self._entities and not (number and known.get("id") == number):
                self.start(entity, request.get("where"), number)
        self._publisher.signal(key, None)  # last: a request is gone only when its seed stands on record

    def _fail(self, seed: Seed, error: TidelockError) -> None:
        seed.pages = None
        if isinstance(error, Retry):
            seed.failures += 1
            seed.not_before = time.monotonic() + min(30.0, 0.25 * 2 ** min(seed.failures, 7))
            return
        del self.seeds[seed.entity]
        self.failed[seed.entity] = error
        hint = f"{error.hint or ''}; then `tidelock seed {self._system} {seed.entity}`".lstrip("; ")
        hint += "; until then nothing is created there, if it was the first"
        self._publisher.alert("seed_failed", seed.entity, self._system, error.message, hint)
        self._record(seed, "failed", error.message)

    def _record(self, seed: Seed, state: str, message: str | None = None) -> None:
        content: dict[str, Any] = {
            "kind": "seed_progress",
            "system": self._system,
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
        self.last[self._key(seed.entity)] = content
        self._publisher.signal(self._key(seed.entity), content)

    def _key(self, entity: str) -> str:
        return f"seed/{self._system}/{entity}"
