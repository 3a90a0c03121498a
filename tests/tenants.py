"""Systems in memory behind real connectors, with as many tenants as wished: what tests of several tenants on the stack share."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import producers.worker
import sinks.runner
from processors.clock import ClockWorker
from processors.pipeline import identify, merge, route
from producers.base import Progress, Publisher
from producers.seeded import Marks
from producers.worker import CaptureWorker
from sinks.runner import SinkWorker
from tests.model.systems import Seen, System
from tests.patience import DEADLINE_S
from tidelock.avro import NULL, encode_slice, from_value
from tidelock.change import CREATE, DELETE, OURS, UPDATE, event_id, key_digest, position
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.envelopes import Receipt, Write
from tidelock.kafka import KafkaClients, ensure_topics
from tidelock.registry import Registry
from tidelock.topicread import read_all, read_latest
from tidelock.topology import all_topics

ENTITY = "contact"
FIELDS = {"email": {}, "name": {}, "city": {}, "points": {"type": "integer"}}


class World:
    """The systems of one test by place, what is wrong with them, and every batch that was written."""

    def __init__(self, *places: str) -> None:
        self.systems = {p: System(p if not p.endswith("/default") else p.partition("/")[0]) for p in places}
        self.trouble: dict[str, Exception] = {}
        self.asked: list[str] = []  # places at which a write was tried, in order
        self.slow: dict[str, threading.Event] = {}  # places that answer only when they are let

    def tenants(self, system: str) -> list[System]:
        """Return the tenants of a system."""
        return [s for s in self.systems.values() if s.system == system]


class MemoryProducer:
    """Capture every tenant of a system."""

    world: World

    def __init__(self, context: Context, system: str) -> None:
        self._publisher = Publisher(context, system)
        self._context, self._system = context, system
        spec = context.config.systems[system]
        self._on = [t for t, its in spec.all_tenants.items() if its.enabled]

    def setup(self) -> None:
        for tenant in self._on:
            Marks(self._context, self._system, self._publisher, {}, tenant).give(ENTITY, "seed")

    def step(self, wait_s: float) -> int:
        done = 0
        for s in self.world.tenants(self._system):
            seen, s.captured = (s.captured, []) if s.tenant in self._on else ([], s.captured)
            for one in seen:
                self._publisher.publish(ENTITY, one.key.encode(), self._change(s, one), s.tenant)
            done += len(seen)
        self._publisher.flush()
        return done

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        return 0

    def close(self) -> None:
        self._publisher.close()

    def _change(self, s: System, seen: Seen) -> bytes:
        topic = self._context.topics.cdc(self._system, ENTITY)
        writer = self._context.codec.change_writer(topic, s.system, s.tenant, ENTITY, s.columns)
        at, now = position(seen.version), time.time_ns() // 1000
        row = None
        if seen.values is not None:
            row = [
                encode_slice(c.type, seen.values[c.name]) if seen.values[c.name] is not None else NULL
                for c in s.columns
            ]
        op = DELETE if row is None else CREATE if seen.version == 1 else UPDATE
        event = event_id(key_digest(s.system, s.tenant, ENTITY, seen.key), at)
        return writer.write(event, at, op, now, now, seen.key.encode(), row, origin=OURS if seen.ours else None)


class MemorySink:
    """Write to the tenants of a system; one that is in trouble raises it."""

    world: World
    tenants_at_once = 2

    def __init__(self, context: Context, system: str) -> None:
        self._system = system

    def setup(self) -> None: ...

    def write(self, batch: Sequence[Write]) -> list[Receipt]:
        (place,) = {f"{w.system}/{w.tenant}" for w in batch}
        self.world.asked.append(place)
        if place in self.world.slow:
            assert self.world.slow[place].wait(DEADLINE_S)
        if place in self.world.trouble:
            raise self.world.trouble[place]
        return [self.world.systems[place].apply(_slices(w)) for w in batch]

    def close(self) -> None: ...


def _slices(write: Write) -> Write:
    columns = {n: (from_value(v, 0)[0], from_value(b, 0)[0]) for n, (v, b) in write.columns.items()}
    return dataclasses.replace(write, columns=columns)


def connect(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Let ``memory`` be a connector of this world."""
    for module, kind in ((producers.worker, MemoryProducer), (sinks.runner, MemorySink)):
        made = type(kind.__name__, (kind,), {"world": world})
        point = SimpleNamespace(name="memory", load=lambda made=made: made)
        monkeypatch.setattr(module, "entry_points", lambda group, point=point: [point])


def config_of(
    prefix: str, data: Path, tenants: dict[str, Any], *, bound: Iterable[str] = FIELDS, **options: Any
) -> Config:
    """Return a configuration in which ``crm`` and ``portal`` feed one another, the second of several tenants.

    ``bound``: the fields that the portal has columns for.
    """

    def table(fields: Iterable[str]) -> dict[str, Any]:
        return {ENTITY: {"table": ENTITY, "map": [{"column": f, "field": f} for f in fields]}}

    memory = {"kind": "memory", "capture": "memory"}
    portal = {**memory, "entities": table(bound), "tenants": tenants, "options": options}
    return Config.model_validate(
        {
            "prefix": prefix,
            "partitions": 2,
            "data": str(data),
            "systems": {"crm": {**memory, "entities": table(FIELDS)}, "portal": portal},
            "entities": {ENTITY: {"match": [["email"]], "fields": FIELDS}},
            "flows": [
                {"entity": ENTITY, "from": "crm", "to": "portal"},
                {"entity": ENTITY, "from": "portal", "to": "crm"},
            ],
        }
    )


class Hub:
    """The real workers of an installation, stepped by turns in one thread."""

    MAKE: dict[str, Callable[[Context, str], Any]] = {  # noqa: RUF012 - the roles there are
        "identify": identify, "route": route, "merge": merge, "clock": ClockWorker,
        "capture.crm": CaptureWorker, "capture.portal": CaptureWorker, "sink.crm": SinkWorker, "sink.portal": SinkWorker,
    }  # fmt: skip

    def __init__(self, stack: Stack, config: Config) -> None:
        ends = stack.endpoints()
        self.config = config
        self.clients = KafkaClients(ends.kafka)
        self.codec = Codec(Registry(ends.registry), config.prefix)
        ensure_topics(self.clients.admin(), all_topics(config))
        self.topics = self._context("cli").topics
        self.workers: dict[str, Any] = {}

    def _context(self, role: str) -> Context:
        return Context(self.config, self.clients, self.codec, role)

    def start(self, *roles: str) -> None:
        """Start these workers, or all."""
        for role in roles or self.MAKE:
            self.workers[role] = self.MAKE[role](self._context(role), role.partition(".")[2])

    def stop(self, *roles: str) -> None:
        """Stop these workers, or all."""
        for role in roles or list(self.workers):
            self.workers.pop(role).close()

    def until(self, condition: Callable[[], bool], what: str = "it") -> None:
        """Let all workers step until a condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen in time"
            for worker in list(self.workers.values()):
                worker.step(0.01)

    def decoded(self, *topics: str) -> Iterable[dict[str, Any]]:
        """Return the decoded values of topics."""
        found = read_all(self.clients, list(topics), idle_s=DEADLINE_S)
        return [self.codec.decode(m.value()) for m in found if m.value() is not None]

    def alerts(self) -> list[tuple[str, str, str]]:
        """Return kind, severity and subject of all alerts."""
        return [(a["kind"], a["severity"], a["subject"]) for a in self.decoded(self.topics.ops("alerts"))]

    def standing(self) -> dict[str, bytes]:
        """Return what stands in ``ops.signals`` of tenants."""
        found = read_latest(self.clients, [self.topics.ops("signals")])
        return {k.decode(): m.value() or b"" for k, m in found.items() if k.startswith(b"tenant/")}

    def dead(self) -> int:
        """Return how many dead letters there are."""
        names = [t.name for t in all_topics(self.config) if ".dlq." in f".{t.name}"]
        return len(list(read_all(self.clients, names, idle_s=DEADLINE_S)))

    def close(self) -> None:
        """Stop everything."""
        self.stop()
        self.codec.registry.close()
