"""What all producers share: their contract, publishing to Kafka, and hiding sensitive columns before a topic sees them."""

from __future__ import annotations

import dataclasses
import hmac
import json
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message
from opentelemetry.trace import SpanKind

from tidelock.avro import decode_long
from tidelock.config import Sensitive, SystemSpec, TableSpec
from tidelock.context import Context
from tidelock.deadletter import fingerprint
from tidelock.errors import Fatal, Reject
from tidelock.kafka import close, flush, translate

_PUSH_S = 0.005

Progress = Callable[[str, int, int | None], None]
"""Called with (entity, rows so far, estimated rows or None)."""


class Producer(Protocol):
    """Capture one system. Found by entry point ``tidelock.producers`` under the name in `SystemSpec.capture`."""

    def __init__(self, context: Context, system: str) -> None: ...

    def setup(self) -> None:
        """Create or check what capture needs in the source and register schemas. Raises Fatal with the way out, or Retry."""

    def step(self, wait_s: float) -> int:
        """Capture at most one bounded batch, waiting up to ``wait_s`` for the first change; return the number of changes.

        The source is told only after Kafka has acknowledged. Raises Retry (call again later; the producer reconnects by
        itself) or Fatal.
        """

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        """Publish what is there now with op snapshot, in chunks; return the number of rows. Resumes an interrupted seed."""

    def close(self) -> None:
        """Let go of every connection; what was published is acknowledged first where possible."""


class Publisher:
    """Publish the changes of one system. Delivery failures surface in `flush`, `settled` or the next `publish`.

    Methods that concern one tenant take its name; a system that has only one need not name it. One that is not configured is a KeyError.
    """

    def __init__(self, context: Context, system: str) -> None:
        self._context = context
        self._system = system
        self._spec: SystemSpec = context.config.systems[system]
        self._failure: tuple[str, KafkaError] | None = None
        self.lost = 0  # messages that could not be delivered, since the beginning
        self._closed = False
        settings = {**context.kafka.settings, "on_delivery": self._delivered}
        clients = dataclasses.replace(context.kafka, settings=settings)
        self.producer = clients.producer(f"{context.name}-{system}")
        tenants = tuple(self._spec.all_tenants)
        self._heads: dict[str | None, bytes] = {t: f"{t}/".encode() for t in tenants}  # of keys, by tenant
        self._several = len(tenants) > 1
        if not self._several:
            self._heads[None] = self._heads[tenants[0]]
        self._sampled = context.tracing.bound
        self._topics = {entity: context.topics.cdc(system, entity) for entity in self._spec.entities}

    def publish(self, entity: str, native_key: bytes, value: bytes, tenant: str | None = None) -> None:
        """Send one change; it blocks while the local queue is full. A change too large for Kafka becomes a dead letter."""
        topic = self._topics[entity]
        key = self._heads[tenant] + native_key
        try:
            if int.from_bytes(value[5:7], "big") < self._sampled:
                self._produce(topic, value, key, self._traced(topic, value))
            else:
                self._produce(topic, value, key)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise translate(error, f"writing to {topic}") from error
            self.dead_letter(
                entity,
                native_key,
                value[:100_000],
                Reject(
                    f"the change of {entity} {native_key.decode(errors='replace')} has {len(value)} bytes, more than Kafka takes",
                    kind="too_large",
                    hint="raise `message.max.bytes` in `kafka.settings` and on the brokers, or drop the large column",
                ),
                tenant,
            )

    def _traced(self, topic: str, value: bytes) -> list[tuple[str, bytes]]:
        """Record the capture of a change as a span that begins at the source's commit; return the headers to send along."""
        source_time, at = decode_long(value, 38)
        captured_at, _ = decode_long(value, at)
        facts: dict[str, str | int] = {"messaging.destination.name": topic, "messaging.operation.type": "send"}
        return self._context.tracing.step(
            value[5:21], f"send {topic}", SpanKind.PRODUCER, source_time, max(captured_at, source_time), None, facts
        )

    def sender(self, entity: str, tenant: str | None = None) -> Callable[[bytes, bytes], None]:
        """Return `publish` for one entity of one tenant, for hot loops: a plain produce call unless a full queue or a trace asks for more.

        Call `poll` every few hundred changes.
        """
        topic, prefix, produce, publish, sampled = (
            self._topics[entity],
            self._heads[tenant],
            self.producer.produce,
            self.publish,
            self._sampled,
        )
        from_bytes = int.from_bytes

        def send(native_key: bytes, value: bytes) -> None:
            if sampled and from_bytes(value[5:7], "big") < sampled:
                publish(entity, native_key, value, tenant)
                return
            try:
                produce(topic, value, prefix + native_key)
            except (BufferError, KafkaException):
                publish(entity, native_key, value, tenant)

        return send

    def raw(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int = -1,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        """Send to any topic, for receipts, signals and marks."""
        try:
            self._produce(topic, value, key, headers, partition)
        except KafkaException as error:
            raise translate(error, f"writing to {topic}") from error

    def alert(
        self,
        kind: str,
        entity: str,
        subject: str,
        message: str,
        hint: str,
        *,
        severity: str = "warning",
        tenant: str | None = None,
    ) -> None:
        """Tell people: one record on ``ops.alerts``; the same kind, tenant, entity and subject are the same trouble.

        ``tenant``: whose trouble it is; that of the whole system unless given. The message has to name it, too.
        """
        place = f"{self._system}/{tenant}" if self._several and tenant is not None else self._system
        fingerprint = f"{kind}/{place}/{entity}/{subject}"
        value = self._context.codec.encode(
            "alert",
            {
                "fingerprint": fingerprint,
                "kind": kind,
                "severity": severity,
                "system": self._system,
                "entity": entity,
                "subject": subject,
                "message": message,
                "hint": hint,
                "at": time.time_ns() // 1000,
            },
        )
        self.raw(self._context.topics.ops("alerts"), fingerprint.encode(), value)

    def dead_letter(
        self, entity: str, native_key: bytes, original: bytes, reason: Reject, tenant: str | None = None
    ) -> None:
        """Keep what could not be captured, with the reason in its headers, and count it."""
        now = b"%d" % (time.time_ns() // 1000)
        headers = {
            "dlq.stage": b"capture",
            "dlq.kind": reason.kind.encode(),
            "dlq.message": str(reason)[:4000].encode(),
            "dlq.field": (reason.field or "").encode(),
            "dlq.fingerprint": fingerprint("capture", self._system, entity, reason.kind, reason.field).encode(),
            "dlq.attempts": b"1",
            "dlq.first_failed": now,
            "dlq.last_failed": now,
        }
        topic = self._context.topics.dlq("capture", self._system, entity)
        self._produce(topic, original, self._heads[tenant] + native_key, list(headers.items()))
        self._context.activity.count("dead_letters", self._system, entity)

    def signal(self, key: str, content: dict[str, Any] | None) -> None:
        """Write one JSON record (or a tombstone) to ``ops.signals``."""
        value = None if content is None else json.dumps(content, separators=(",", ":")).encode()
        self.raw(self._context.topics.ops("signals"), key.encode(), value)

    def poll(self) -> None:
        """Serve delivery reports. Raises Retry or Fatal if a message could not be delivered."""
        self.producer.poll(0)
        self._check()

    def push(self) -> None:
        """Send what is queued now rather than after the linger time; for a handful of changes with nothing behind them."""
        self.producer.flush(_PUSH_S)

    def settled(self) -> bool:
        """Return whether Kafka has acknowledged everything so far, without waiting. Raises as `flush` does."""
        self.producer.poll(0)
        self._check()
        return len(self.producer) == 0

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until Kafka has acknowledged everything. Raises Retry if it did not, Fatal if it never will."""
        flush(self.producer, timeout_s)
        self._check()

    def tick(self) -> None:
        """Send the counters of `Context.activity` when it is time (about once a second)."""
        self._context.activity.publish(self.producer, self._context.codec, self._context.topics)

    def close(self) -> None:
        """Flush what is left, without complaint: what is not acknowledged is captured again. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            close(self.producer, 10.0)
            self.producer.close()

    def _produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: list[tuple[str, bytes]] | None = None,
        partition: int = -1,
    ) -> None:
        while True:
            try:
                if headers is None:
                    self.producer.produce(topic, value, key, partition)
                else:
                    self.producer.produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:
                self.producer.poll(0.1)
                self._check()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.lost += 1
            self._failure = self._failure or (str(message.topic()), error)

    def _check(self) -> None:
        if self._failure is None:
            return
        (topic, error), self._failure = self._failure, None
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise Fatal(f"topic {topic} does not exist", hint="run `tidelock up`, which creates all topics")
        raise translate(KafkaException(error), f"writing to {topic}")


class Guard:
    """Hide one table's sensitive columns: which are left out, and how the text of others is replaced.

    Hashes are HMAC-SHA-256 under ``TIDELOCK_SALT``, or the installation's prefix if that is not set: equal values stay
    equal within an installation, so that they can still be compared. Raises Fatal if a key column is sensitive.
    """

    def __init__(self, prefix: str, table: TableSpec) -> None:
        self._salt = os.environ.get("TIDELOCK_SALT", f"tidelock/{prefix}").encode()
        self._how: dict[str, Sensitive] = {
            column: binding.sensitive for binding in table.map if binding.sensitive for column in binding.column_names
        }
        for column in table.key:
            if column in self._how:
                raise Fatal(
                    f"column {column} of {table.table} is sensitive and part of the key",
                    hint="a record's key is its address and stands in every topic: choose another `key`, or do not mark it",
                )

    @property
    def active(self) -> bool:
        """Return whether the table has any sensitive column."""
        return bool(self._how)

    def dropped(self, column: str) -> bool:
        """Return whether the column must not leave the source at all."""
        return self._how.get(column) is Sensitive.DROP

    def replacing(self, column: str) -> Callable[[bytes], bytes] | None:
        """Return what turns the column's UTF-8 text into what may be shown (then its type is STRING), or None."""
        how = self._how.get(column)
        if how is Sensitive.MASK:
            return lambda _: b"***"
        if how is Sensitive.HASH:
            return lambda text: hmac.digest(self._salt, text, "sha256").hex().encode()
        return None
