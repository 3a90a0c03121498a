"""What stands in the topics: everything from the beginning to the present end, for the verification and for the report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from tidelock.codec import Codec
from tidelock.envelopes import SEEDED
from tidelock.errors import Retry
from tidelock.kafka import KafkaClients, translate
from tidelock.registry import Registry
from tidelock.topics import Topics


class Observer:
    """Read the installation's topics from outside, as any other consumer could."""

    def __init__(self, bootstrap: str, registry_url: str, prefix: str) -> None:
        self.kafka = KafkaClients(bootstrap)
        self.registry = Registry(registry_url)
        self.codec = Codec(self.registry, prefix)
        self.topics = Topics(prefix)
        self.prefix = prefix
        self.admin = self.kafka.admin()

    def close(self) -> None:
        """Close all connections; an admin client that lives on would complain about every server that stops."""
        self.registry.close()
        del self.admin

    def names(self) -> list[str]:
        """List the installation's topics."""
        try:
            found = self.admin.list_topics(timeout=10).topics
        except KafkaException as error:
            raise translate(error, "listing topics") from error
        return sorted(name for name in found if name.startswith(self.prefix))

    def messages(self, names: Iterable[str], starts: dict[TopicPartition, int] | None = None) -> Iterator[Message]:
        """Yield what the topics hold now, per partition in order. Raises Retry if Kafka goes quiet."""
        wanted = set(names)
        consumer = self.kafka.consumer("demo-observer", f"{self.prefix}demo-observer", enable_partition_eof=True)
        try:
            known = consumer.list_topics(timeout=10).topics
            parts = [
                TopicPartition(name, number, 0 if starts is None else starts.get(TopicPartition(name, number), 0))
                for name in sorted(wanted & set(known))
                for number in known[name].partitions
            ]
            open_parts = {(p.topic, p.partition) for p in parts}
            consumer.assign(parts)
            deadline = time.monotonic() + 30
            while open_parts:
                if time.monotonic() > deadline:
                    raise Retry(f"Kafka did not give the end of {len(open_parts)} partitions within 30 s")
                for message in consumer.consume(2000, 0.2):
                    error = message.error()
                    if error is None:
                        deadline = time.monotonic() + 30
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_parts.discard((message.topic(), message.partition()))
                    elif not error.retriable():
                        raise translate(KafkaException(error), f"reading {message.topic()}")
        finally:
            consumer.close()

    def golden(self, entity: str) -> dict[str, dict[str, Any] | None]:
        """Return the newest golden record by canonical id; None stands for one that is gone."""
        out: dict[str, dict[str, Any] | None] = {}
        for message in self.messages([self.topics.hub(entity)]):
            value = message.value()
            out[(message.key() or b"").decode()] = None if value is None else self.codec.decode(value)
        return out

    def links(self, entity: str) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], set[str]]]:
        """Return (present links, all links there ever were) by system (with its tenant where there are several) and native key."""
        now: dict[tuple[str, str], str] = {}
        ever: dict[tuple[str, str], set[str]] = {}
        names: dict[bytes, tuple[str, str]] = {}
        for message in self.messages([self.topics.links(entity)]):
            key, value = message.key() or b"", message.value()
            if key.startswith(b"barrier/"):
                continue
            if value is None:
                now.pop(names.get(key, ("", "")), None)
                continue
            link = self.codec.decode(value)
            place = link["system"] if link["tenant"] == "default" else f"{link['system']}/{link['tenant']}"
            name = names[key] = (place, link["native_key"])
            now[name] = link["canonical_id"]
            ever.setdefault(name, set()).add(link["canonical_id"])
        return now, ever

    def decoded(self, name: str) -> list[dict[str, Any]]:
        """Return what one of the ``ops`` topics holds."""
        return [self.codec.decode(m.value()) for m in self.messages([self.topics.ops(name)]) if m.value() is not None]

    def dead_letters(self) -> list[tuple[dict[str, str], bytes]]:
        """Return every dead letter: stage, system, entity, key and the reason from its headers; and its original bytes."""
        out = []
        start = f"{self.prefix}dlq."
        for message in self.messages(n for n in self.names() if n.startswith(start)):
            stage, system, entity = str(message.topic()).removeprefix(start).split(".", 2)
            headers = {k: (v or b"").decode(errors="replace") for k, v in message.headers() or ()}
            letter = {
                "stage": stage,
                "system": system,
                "entity": entity,
                "key": (message.key() or b"").decode(errors="replace"),
                "kind": headers.get("tidelock.kind", headers.get("dlq.kind", "")),
                "message": headers.get("tidelock.message", headers.get("dlq.message", "")),
            }
            out.append((letter, message.value() or b""))
        return out

    def count(self, start: str) -> dict[str, int]:
        """Return the number of records by topic, for topics whose name (without prefix) starts so."""
        names = [n for n in self.names() if n.startswith(self.prefix + start)]
        counts = dict.fromkeys(names, 0)
        for message in self.messages(names):
            if SEEDED not in (message.headers() or ()):  # the mark of a seed's end is no record
                counts[str(message.topic())] += 1
        return counts

    def signals(self) -> dict[str, dict[str, Any]]:
        """Return the last record by key of what workers tell one another."""
        out: dict[str, dict[str, Any]] = {}
        for message in self.messages([self.topics.ops("signals")]):
            key, value = (message.key() or b"").decode(errors="replace"), message.value()
            if value is None:
                out.pop(key, None)
            else:
                out[key] = json.loads(value)
        return out

    def timers(self) -> dict[str, float]:
        """Return the wake-ups that are still to come: when they are due (seconds since 1970), by key."""
        out: dict[str, float] = {}
        for message in self.messages([self.topics.ops("signals")]):
            key, value = (message.key() or b"").decode(errors="replace"), message.value()
            if not key.startswith("timer/"):
                continue
            if value is None:
                out.pop(key, None)
            else:
                out[key] = message.timestamp()[1] / 1000 + float(json.loads(value)["delay_s"])
        return out
