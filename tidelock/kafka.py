"""Kafka as this product uses it: client settings, topics, batches, partitions. The engine and the workers build on it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tidelock.errors import Fatal, Retry, TidelockError

# librdkafka's default partitioner is CRC32; every other client library hashes keys by murmur2 (DESIGN section 3).
_PRODUCER = {
    "partitioner": "murmur2_random",
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 8,
    "batch.size": 1_000_000,
    "batch.num.messages": 20_000,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 65_536,
    "delivery.report.only.error": True,
    "message.timeout.ms": 120_000,
}
_CONSUMER = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 50,
    "fetch.queue.backoff.ms": 10,
    "fetch.max.bytes": 16_777_216,
    "max.partition.fetch.bytes": 4_194_304,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 16_384,
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
    "allow.auto.create.topics": False,
}


_LARGE = 100  # messages: a batch after which waiting for more costs less than it saves


@dataclass(frozen=True)
class KafkaClients:
    """Make clients for one cluster; ``settings`` are librdkafka's own names and go into every client."""

    bootstrap: str
    settings: dict[str, Any] = field(default_factory=dict)

    def _base(self, client_id: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": client_id,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": 60_000,
            "log_level": 3,
            **self.settings,
        }

    def producer(self, client_id: str, **settings: Any) -> Producer:
        """Make an idempotent producer; ``settings`` use ``_`` for ``.``."""
        return Producer({**self._base(client_id), **_PRODUCER, **_dotted(settings)})

    def consumer(self, client_id: str, group: str, **settings: Any) -> Consumer:
        """Make a read_committed consumer that commits only what it is told to."""
        return Consumer({**self._base(client_id), **_CONSUMER, "group.id": group, **_dotted(settings)})

    def admin(self) -> AdminClient:
        """Make an admin client."""
        return AdminClient(self._base("tidelock-admin"))


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in settings.items()}


@dataclass(frozen=True)
class TopicSpec:
    """A topic to be there: how many partitions, ``compact`` or ``delete``, and its retention (-1: for ever)."""

    name: str
    partitions: int
    compact: bool = False
    retention_s: int = -1
    replication: int = 1
    settings: dict[str, str] = field(default_factory=dict)


def ensure_topics(admin: AdminClient, specs: Iterable[TopicSpec], timeout_s: float = 30.0) -> list[str]:
    """Create what is missing and return its names. Raises Fatal if one exists with another number of partitions."""
    wanted = {s.name: s for s in specs}
    try:
        existing = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise translate(error, "listing topics") from error
    for name, spec in wanted.items():
        if name in existing and len(existing[name].partitions) != spec.partitions:
            raise Fatal(
                f"topic {name} has {len(existing[name].partitions)} partitions, not {spec.partitions}",
                hint="all topics of one entity need the same number: set `partitions` to what is there, or use another `prefix`",
            )
    missing = [s for n, s in wanted.items() if n not in existing]
    if not missing:
        return []
    futures = admin.create_topics(
        [
            NewTopic(
                s.name,
                num_partitions=s.partitions,
                replication_factor=s.replication,
                config={
                    "cleanup.policy": "compact" if s.compact else "delete",
                    **({} if s.compact else {"retention.ms": str(s.retention_s * 1000 if s.retention_s > 0 else -1)}),
                    **s.settings,
                },
            )
            for s in missing
        ],
        operation_timeout=timeout_s,
    )
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translate(error, f"creating topic {name}") from error
    return [s.name for s in missing]


def translate(error: KafkaException, doing: str) -> TidelockError:
    """Turn a Kafka error into Retry or Fatal."""
    inner = error.args[0] if error.args else None
    text = f"Kafka, {doing}: {inner.str() if isinstance(inner, KafkaError) else error}"
    if isinstance(inner, KafkaError) and not inner.fatal() and inner.code() not in _FINAL:
        if inner.code() in _AUTHORISATION:
            return Fatal(text, hint="check the credentials under `kafka.settings` and the rights of that user")
        return Retry(text, hint="check that the brokers in `kafka.bootstrap` are up (`tidelock status`)")
    return Fatal(text, hint="restart this worker; it goes on from its last committed offset")


_AUTHORISATION = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
# The client itself is done for: only a new one helps, and a worker that ends gets one. (A consumer's fatal error does not say `fatal()`.)
_FINAL = {KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError.TOPIC_EXCEPTION}
# Passing troubles that librdkafka reports through the queue and mends by itself.
_PASSING = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._PARTITION_EOF,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._RESOLVE,
    KafkaError._MAX_POLL_EXCEEDED,
}


class Batches:
    """Read batches that are bounded in count and in time and grow with the backlog.

    librdkafka's ``consume(n, timeout)`` waits for its whole timeout unless it gets n messages; so this polls for the first
    message and then drains what is there. After a large batch it waits ``linger_s`` for more, because tiny batches at a high rate
    cost twice per event; after a small one it does not wait, so that a lone event leaves at once.
    """

    def __init__(self, consumer: Consumer, *, most: int = 5000, linger_s: float = 0.005) -> None:
        self._consumer = consumer
        self._most = most
        self._linger_s = linger_s
        self._last = 0

    def next(self, wait_s: float) -> list[Message]:
        """Return the messages that are there, waiting up to ``wait_s`` for the first. Raises Retry or Fatal on errors."""
        first = self._consumer.consume(1, wait_s)
        if not first:
            self._last = 0
            return []
        out: list[Message] = first + self._consumer.consume(
            self._most - 1, self._linger_s if self._last > _LARGE else 0.0
        )
        self._last = len(out)
        for message in out:
            error = message.error()
            if error is not None:
                if error.code() not in _PASSING:
                    raise translate(KafkaException(error), "reading")
                return [m for m in out if m.error() is None]
        return out


def flush(producer: Producer, timeout_s: float = 60.0) -> None:
    """Wait until everything produced so far is acknowledged. Raises Retry if it is not in time."""
    end = time.monotonic() + timeout_s
    while producer.flush(min(1.0, timeout_s)):
        if time.monotonic() > end:
            raise Retry(f"Kafka did not acknowledge {len(producer)} messages within {timeout_s:.0f} s")


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Return the partition that Java clients and ``murmur2_random`` choose for a key."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Hash as Kafka's Utils.murmur2 does (Austin Appleby's MurmurHash2, seed 0x9747b28c)."""
    length = len(data)
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
