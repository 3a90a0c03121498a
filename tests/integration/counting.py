"""A counting stage, the context of a worker, and the worker itself as a process that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Message, TopicPartition

from processors.engine import Engine
from processors.stage import Overlay, Row
from tests.patience import DEADLINE_S
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.kafka import KafkaClients, TopicSpec, ensure_topics
from tidelock.registry import Registry

PARTITIONS = 4


def make_context(kafka: str, registry: str, prefix: str, data: Path, role: str, slot: int = 0) -> Context:
    """Make the context of one worker on the embedded stack, with two systems and one entity."""
    table = {"table": "contact", "map": [{"column": "email", "field": "email"}]}
    config = Config.model_validate(
        {
            "prefix": prefix,
            "partitions": PARTITIONS,
            "data": str(data),
            "systems": {name: {"entities": {"contact": table}} for name in ("crm", "erp")},
            "entities": {"contact": {"fields": {"email": {}}}},
            "flows": [{"entity": "contact", "from": "crm", "to": "erp"}],
        }
    )
    return Context(config, KafkaClients(kafka), Codec(Registry(registry), prefix), role, slot)


def make_topics(context: Context) -> None:
    """Create the topics of the counting stage."""
    t = context.topics
    ensure_topics(
        context.kafka.admin(),
        [
            TopicSpec(t.journal("contact"), PARTITIONS),
            TopicSpec(t.sync("crm", "contact"), PARTITIONS),
            TopicSpec(t.state("count", "contact"), PARTITIONS, compact=True),
            TopicSpec(t.dlq("count", "hub", "contact"), 1),
            TopicSpec(t.ops("activity"), 1),
        ],
    )


class Counting:
    """Count the messages of each key, and say the count of every message once: a gap or a double shows in the output."""

    name = "count"

    def __init__(self, context: Context) -> None:
        self._topics = context.topics
        self.inputs: tuple[str, ...] = (self._topics.journal("contact"),)
        self.forgotten = self.applications = 0
        self.before: Callable[[list[Message]], None] = lambda _batch: None

    def changelog(self, _topic: str) -> str:
        return self._topics.state("count", "contact")

    def process(self, batch: list[Message], state: Overlay) -> Sequence[Row]:
        self.before(batch)
        rows: list[Row] = []
        for message in batch:
            scope = (str(message.topic()), int(message.partition() or 0))
            key, value = message.key() or b"", message.value() or b""
            count = int(state.get(*scope, key) or b"0") + 1
            state.put(*scope, key, b"%d" % count)
            if value == b"poison":
                raise ValueError("a message that cannot be taken")
            rows.append((self._topics.sync("crm", "contact"), key, b"%d %s" % (count, value), scope[1], None))
        return rows

    def forget(self) -> None:
        self.forgotten += 1

    def applied(self) -> None:
        self.applications += 1


def until(condition: Callable[[], Any], doing: Callable[[], Any], timeout_s: float = DEADLINE_S) -> None:
    """Do something again and again until a condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come to hold in time"
        doing()


def read_all(context: Context, topic: str) -> list[Message]:
    """Read a whole topic as it is committed now."""
    consumer = context.kafka.consumer("test-reader", f"{topic}-test", enable_partition_eof=True)
    try:
        parts = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, 0) for p in parts])
        left, out = set(parts), []
        end = time.monotonic() + DEADLINE_S
        while left:
            assert time.monotonic() < end, f"the end of {topic} was not reached"
            for message in consumer.consume(1000, 0.05):
                if message.error() is None:
                    out.append(message)
                else:
                    left.discard(message.partition())
        return out
    finally:
        consumer.close()


def spawn(
    context: Context, messages: int, fault: str = "", *, slot: int = 0, most: int = 50
) -> subprocess.Popen[bytes]:
    """Run the counting worker as a process until it has seen the end of so many input messages, or until ``fault`` kills it."""
    spec = {
        "kafka": context.kafka.bootstrap,
        "registry": context.codec.registry.url,
        "prefix": context.config.prefix,
        "data": str(context.config.data),
        "slot": slot,
        "messages": messages,
        "most": most,
    }
    env = {k: v for k, v in os.environ.items() if k != "TIDELOCK_FAULT"} | ({"TIDELOCK_FAULT": fault} if fault else {})
    return subprocess.Popen([sys.executable, "-m", "tests.integration.counting", json.dumps(spec)], env=env)


def main(spec: dict[str, Any]) -> None:
    """Be the worker: take batches until the group's offsets say that everything is done."""
    context = make_context(spec["kafka"], spec["registry"], spec["prefix"], Path(spec["data"]), "count", spec["slot"])
    stage = Counting(context)
    engine = Engine(context, stage, most=spec["most"])
    group = context.kafka.consumer("progress", f"{context.config.prefix}count")
    parts = [TopicPartition(stage.inputs[0], p) for p in range(PARTITIONS)]
    while True:
        if engine.step(0.2) == 0 and sum(max(p.offset, 0) for p in group.committed(parts, 30)) >= spec["messages"]:
            break
    group.close()
    engine.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
