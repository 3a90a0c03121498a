"""What the tests of captures share: a configuration, a context on the stack, and what came out in Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tests.patience import DEADLINE_S
from tidelock.change import Change
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.envelopes import Entry
from tidelock.kafka import KafkaClients, TopicSpec, ensure_topics, flush
from tidelock.registry import Registry

SYSTEM, ENTITY = "erp", "contact"


def config_of(
    capture: str, dsn: str, table: dict[str, Any], *, prefix: str = "", data: Path = Path(".tidelock"), **system: Any
) -> Config:
    """Return a configuration of one captured system ``erp`` with one entity ``contact``, feeding ``crm``."""
    mapped = [{"column": "name", "field": "name"}]
    system["options"] = {"seed_on_start": False, **system.get("options", {})}
    return Config.model_validate(
        {
            "prefix": prefix,
            "partitions": 2,
            "data": data,
            "systems": {
                SYSTEM: {"capture": capture, "dsn": dsn, "entities": {ENTITY: {"map": mapped, **table}}, **system},
                "crm": {"capture": "none", "entities": {ENTITY: {"table": "contact", "map": mapped}}},
            },
            "entities": {ENTITY: {"fields": {"name": {}}}},
            "flows": [{"entity": ENTITY, "from": SYSTEM, "to": "crm"}],
        }
    )


class Rig:
    """One captured system on the stack, with a reader of everything that it publishes."""

    def __init__(self, stack: Stack, config: Config) -> None:
        ends = stack.endpoints()
        self.config = config
        self.registry = Registry(ends.registry)
        self.codec = Codec(self.registry, config.prefix)
        self.clients = KafkaClients(ends.kafka)
        self.context = self.fresh_context()
        topics = self.context.topics
        self.topic = topics.cdc(SYSTEM, ENTITY)
        wanted = [TopicSpec(self.topic, config.partitions)]
        wanted += [
            TopicSpec(topics.ops(n), 1, compact=n == "signals") for n in ("signals", "runs", "alerts", "activity")
        ]
        wanted.append(TopicSpec(topics.dlq("capture", SYSTEM, ENTITY), 1))
        ensure_topics(self.clients.admin(), wanted)

    def fresh_context(self) -> Context:
        """Return the context of a restarted worker."""
        return Context(self.config, self.clients, self.codec, "capture")

    def changes(self) -> list[Change]:
        """Return all changes that were published so far, per key in order."""
        return [self.codec.change_reader(v).read(v) for key, v in self.messages(self.topic) if key]

    def marks(self) -> list[int]:
        """Return the partitions whose end-of-seed marks were given, in order."""
        return sorted(Entry.decode(v).partition for key, v in self.messages(self.topic) if not key)

    def rows(self) -> list[tuple[str, str, dict[str, bytes] | None]]:
        """Return (op, key, row as slices) of all changes so far, per key in order."""
        names = ("create", "update", "delete", "snapshot")
        out = []
        for change in self.changes():
            row = change.after
            named = None if row is None else dict(zip([c.name for c in change.columns], row, strict=True))
            out.append((names[change.op], change.native_key, named))
        return out

    def ops(self, what: str) -> list[dict[str, Any]]:
        """Return the JSON records of an ops topic."""
        return [json.loads(v) for _, v in self.messages(self.context.topics.ops(what))]

    def messages(self, topic: str) -> list[tuple[bytes, bytes]]:
        """Return (key, value) of all that a topic holds; tombstones are left out."""
        from producers.seen import each_message

        out: list[tuple[bytes, bytes]] = []

        def take(key: bytes, value: bytes | None) -> None:
            if value is not None:
                out.append((key, value))

        each_message(self.context, topic, take)
        return out

    def seeds(self) -> list[str]:
        """Return the states that seeds went through."""
        return [str(r.get("state")) for r in self.ops("signals") if r.get("kind") == "seed_progress"]

    def ask_seed(self, where: str | None = None) -> None:
        """Ask for a seed as `tidelock seed` does."""
        request = {"kind": "seed", "system": SYSTEM, "entity": ENTITY, "where": where, "id": "one"}
        producer = self.clients.producer("test")
        topic = self.context.topics.ops("signals")
        producer.produce(topic, key=f"request/seed/{SYSTEM}/{ENTITY}".encode(), value=json.dumps(request).encode())
        flush(producer)

    def close(self) -> None:
        """Close the registry's connections."""
        self.registry.close()


def sql(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each in a transaction of its own, and return the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        return rows


def until(step: Callable[[], int], done: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Step until a condition holds."""
    end = time.monotonic() + deadline_s
    while not done():
        assert time.monotonic() < end, "the condition did not come true in time"
        step()
