"""A PostgreSQL source captured into real topics: what the tests of log capture share."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import TopicPartition

from producers.postgres import PostgresProducer
from tests.patience import DEADLINE_S
from tidelock.avro import decode_slice
from tidelock.change import DELETE, ZERO_POSITION, Change
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.envelopes import SEEDED
from tidelock.errors import Retry
from tidelock.kafka import KafkaClients, TopicSpec, ensure_topics
from tidelock.registry import Registry

pytestmark = pytest.mark.stack
CONTACT = "create table contact (id int primary key, name text, balance numeric(12,2), at timestamptz)"


@dataclass
class World:
    """One captured database with its topics; producers made here are closed at the end."""

    stack: Stack
    prefix: str
    dsn: str
    folder: Path
    db: psycopg.Connection[Any]
    options: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)
    producers: list[PostgresProducer] = field(default_factory=list)
    registries: list[Registry] = field(default_factory=list)

    def context(self, **tables: Any) -> Context:
        specs = {
            entity: {"table": entity, "map": [{"column": "id", "field": "x"}], **(spec or {})}
            for entity, spec in tables.items()
        }
        system = {"dsn": self.dsn, "entities": specs, "options": self.options, "heartbeat_s": 0.2, **self.system}
        config = Config.model_validate(
            {
                "prefix": self.prefix,
                "data": str(self.folder),
                "systems": {"crm": system},
                "entities": {entity: {"fields": {"x": {}}} for entity in tables},
                "flows": [{"entity": entity, "from": "crm", "to": "crm"} for entity in tables],
            }
        )
        endpoints = self.stack.endpoints()
        kafka = KafkaClients(endpoints.kafka)
        registry = Registry(endpoints.registry)
        self.registries.append(registry)
        context = Context(config, kafka, Codec(registry, self.prefix), "capture")
        names = context.topics
        specs_of_topics = [TopicSpec(names.ops("signals"), 1, compact=True)]
        specs_of_topics += [TopicSpec(names.ops(n), 1) for n in ("alerts", "activity")]
        for entity in tables:
            specs_of_topics += [
                TopicSpec(n, 4)
                for n in (names.cdc("crm", entity), names.journal(entity), names.dlq("capture", "crm", entity))
            ]
            specs_of_topics.append(TopicSpec(names.links(entity), 4, compact=True))
        ensure_topics(kafka.admin(), specs_of_topics)
        return context

    def producer(self, context: Context) -> PostgresProducer:
        producer = PostgresProducer(context, "crm")
        self.producers.append(producer)
        return producer

    def capture(self, **tables: Any) -> tuple[PostgresProducer, Topic]:
        """Set capture up and return it with the reader of the first entity's change topic."""
        context = self.context(**tables)
        producer = self.producer(context)
        producer.setup()
        return producer, Topic(context, context.topics.cdc("crm", next(iter(tables))))

    def close(self) -> None:
        for producer in self.producers:
            producer.close()
        for registry in self.registries:
            registry.close()
        self.db.close()


class Topic:
    """Everything in one topic, read anew with every question."""

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name

    def messages(self) -> list[Any]:
        """Return all but the marks of seeds' ends."""
        return [m for m in self.everything() if SEEDED not in (m.headers() or ())]

    def everything(self) -> list[Any]:
        reader = self.context.kafka.consumer(f"test-{secrets.token_hex(4)}", "test")
        try:
            parts = reader.list_topics(self.name, timeout=30).topics[self.name].partitions
            ends = {}
            for number in parts:
                low, high = reader.get_watermark_offsets(TopicPartition(self.name, number), timeout=30)
                if high > low:
                    ends[number] = high
            reader.assign([TopicPartition(self.name, n, 0) for n in ends])
            out: list[Any] = []
            while any(
                p.offset < ends[p.partition] for p in reader.position([TopicPartition(self.name, n) for n in ends])
            ):
                out += [m for m in reader.consume(1000, 0.1) if m.error() is None]
            return out
        finally:
            reader.close()

    def marks(self) -> list[int]:
        """Return the partitions whose end-of-seed marks were given, in order."""
        return sorted(m.partition() for m in self.everything() if SEEDED in (m.headers() or ()))

    def changes(self) -> list[Change]:
        """Return the changes in order of their positions."""
        values = [m.value() for m in self.messages()]
        changes = [self.context.codec.change_reader(v).read(v, before=True) for v in values]
        return sorted(changes, key=lambda c: c.position)


def row(change: Change) -> dict[str, Any]:
    assert change.after is not None
    return {c.name: decode_slice(c.type, s) for c, s in zip(change.columns, change.after, strict=True)}


def step_until(producer: PostgresProducer, done: Callable[[], bool]) -> None:
    """Step until a condition holds, calling again after Retry as a worker does."""
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end, "the condition did not come true"
        with contextlib.suppress(Retry):
            producer.step(0.05)


def step_changes(producer: PostgresProducer, wanted: int) -> None:
    """Step until so many changes were published and the server was told."""
    end = time.monotonic() + DEADLINE_S
    count = 0
    while count < wanted:
        assert time.monotonic() < end, f"{count} of {wanted} changes came"
        count += producer.step(0.05)
    producer.settle()


def fold(topic: Topic) -> dict[str, dict[str, Any]]:
    """Take the topic's changes as merge would: in the order of arrival, none that is not newer, absent columns kept."""
    rows: dict[str, dict[str, Any]] = {}
    last: dict[str, bytes] = {}
    for message in topic.messages():
        change = topic.context.codec.change_reader(message.value()).read(message.value())
        key = change.native_key
        if change.position <= last.get(key, ZERO_POSITION):
            continue
        last[key] = change.position
        if change.op == DELETE:
            rows.pop(key, None)
            continue
        new = row(change)
        rows[key] = {n: rows.get(key, {}).get(n) if n in change.absent else v for n, v in new.items()}
    return rows


@pytest.fixture
def world(
    stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """Return a factory of captured databases: it runs some SQL in a new one; ``seed`` says whether capture starts with a seed."""
    worlds: list[World] = []

    def make(ddl: str, *, seed: bool = False, **system: Any) -> World:
        dsn = database("capture")
        db = psycopg.connect(dsn, autocommit=True)
        db.execute(ddl.encode())
        options = {"seed_on_start": seed, **system.pop("options", {})}
        worlds.append(World(stack, topic_prefix, dsn, tmp_path, db, options, system))
        return worlds[-1]

    yield make
    for made in worlds:
        made.close()
