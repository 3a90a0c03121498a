"""Bring a worker's local state up to date from the changelog before its partitions are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from processors.reader import SMALL_FETCHES
from processors.store import Changes, Mark, Scope, Store
from tidelock.errors import Retry
from tidelock.kafka import KafkaClients, translate

log = structlog.get_logger()

# Kafka's default of delete.retention.ms: how long a compacted topic keeps a tombstone. Older state may have missed one.
DELETE_RETENTION_S = 86_400.0
_WRITE_RECORDS = 20_000


@dataclass(slots=True)
class _Log:
    """One changelog partition: which topic, where it begins and ends, and how far our state is."""

    topic: str
    topic_id: str
    start: int
    end: int
    at: int = 0


class Restorer:
    """Restore scopes of a store from changelog partitions of the same number; one per worker."""

    def __init__(
        self, kafka: KafkaClients, name: str, store: Store, *, delete_retention_s: float = DELETE_RETENTION_S
    ) -> None:
        self._kafka = kafka
        self._name = name
        self._store = store
        self._delete_retention_s = delete_retention_s
        self._admin = kafka.admin()

    def restore(self, changelogs: Mapping[Scope, str], timeout_s: float = 600.0) -> int:
        """Read what is missing of each scope from its changelog topic; return how many records. Raises Retry or Fatal.

        The goal is the end of the log as the broker sees it, open transactions included. A read_committed reader gets there
        only when they are decided, so what an earlier owner of the partition was just committing is not missed.
        """
        begun = time.monotonic()
        logs = self.check(changelogs)
        behind = {scope: part for scope, part in logs.items() if part.at < part.end}
        records = self._read(behind, timeout_s) if behind else 0
        now = time.time()
        self._store.write({}, {s: Mark(part.at, at=now, topic_id=part.topic_id) for s, part in logs.items()})
        log.info(
            "local state is up to date",
            worker=self._name,
            partitions=len(logs),
            behind=len(behind),
            records=records,
            seconds=round(time.monotonic() - begun, 2),
        )
        return records

    def check(self, changelogs: Mapping[Scope, str]) -> dict[Scope, _Log]:
        """Compare what is here with the changelogs, and wipe the scopes that could not be brought up to date."""
        if not changelogs:
            return {}
        ids = topic_ids(self._admin, set(changelogs.values()))
        parts = {scope: TopicPartition(topic, scope[1]) for scope, topic in changelogs.items()}
        starts = list_offsets(self._admin, parts.values(), OffsetSpec.earliest())
        ends = list_offsets(self._admin, parts.values(), OffsetSpec.latest())
        logs = {
            scope: _Log(topic, ids[topic], starts[topic, scope[1]], ends[topic, scope[1]])
            for scope, topic in changelogs.items()
        }
        for scope, part in logs.items():
            part.at = self._position(scope, part)
        return logs

    def _position(self, scope: Scope, part: _Log) -> int:
        mark = self._store.mark(scope)
        if mark is None:
            return part.start
        if mark.topic_id != part.topic_id:
            reason = "its changelog is another topic now"
        elif mark.changelog > part.end:
            reason = "it is ahead of its changelog"
        elif mark.changelog == part.end:
            return mark.changelog
        elif mark.changelog < part.start:
            reason = "its changelog begins later"
        elif time.time() - mark.at > self._delete_retention_s:
            reason = "it is older than deletes are kept"
        else:
            return mark.changelog
        log.warning("local state is thrown away", worker=self._name, topic=scope[0], partition=scope[1], reason=reason)
        self._store.wipe(scope)
        return part.start

    def _read(self, logs: dict[Scope, _Log], timeout_s: float) -> int:
        name = f"{self._name}-restore"
        consumer = self._kafka.consumer(name, name, enable_partition_eof=True, fetch_wait_max_ms=10, **SMALL_FETCHES)
        try:
            consumer.assign([TopicPartition(part.topic, scope[1], part.at) for scope, part in logs.items()])
            return self._drain(consumer, logs, timeout_s)
        finally:
            consumer.close()

    def _drain(self, consumer: Consumer, logs: dict[Scope, _Log], timeout_s: float) -> int:
        """Read until a record or an end-of-partition event says that each end is reached: compaction leaves gaps, and the
        last offsets belong to transaction markers, which no reader sees.
        """
        scopes = {(part.topic, scope[1]): scope for scope, part in logs.items()}
        changes: dict[Scope, Changes] = {scope: {} for scope in logs}
        waiting = set(logs)
        pending = records = 0
        told = time.monotonic()
        deadline = told + timeout_s
        while waiting:
            for message in consumer.consume(5000, 0.05):
                scope = scopes[message.topic(), message.partition()]
                part = logs[scope]
                error = message.error()
                if error is None:
                    changes[scope][message.key()] = message.value()
                    part.at = message.offset() + 1
                    pending += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    part.at = max(part.at, message.offset())
                elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise translate(KafkaException(error), f"restoring {part.topic}/{scope[1]}")
                if part.at >= part.end:
                    waiting.discard(scope)
            now = time.monotonic()
            if pending >= _WRITE_RECORDS or not waiting:
                moment = time.time()
                marks = {s: Mark(part.at, at=moment, topic_id=part.topic_id) for s, part in logs.items()}
                self._store.write(changes, marks)
                records, pending = records + pending, 0
                changes = {scope: {} for scope in logs}
            if now - told > 5:
                told = now
                log.info("restoring local state", worker=self._name, records=records, partitions_left=len(waiting))
            if waiting and now > deadline:
                left = ", ".join(f"{logs[s].topic}/{s[1]} at {logs[s].at} of {logs[s].end}" for s in sorted(waiting))
                raise Retry(
                    f"the local state was not restored within {timeout_s:.0f} s: {left}",
                    hint="an open transaction holds a changelog for `transaction.timeout.ms`; the next try goes on from here",
                )
        return records


def topic_ids(admin: AdminClient, topics: Iterable[str], timeout_s: float = 30.0) -> dict[str, str]:
    """Return Kafka's own ids of topics, which tell a topic from a later one of the same name. Raises Retry or Fatal."""
    futures = admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=timeout_s)
    try:
        return {topic: str(future.result().topic_id) for topic, future in futures.items()}
    except KafkaException as error:
        raise translate(error, "describing changelog topics") from error


def list_offsets(
    admin: AdminClient, parts: Iterable[TopicPartition], spec: OffsetSpec, timeout_s: float = 30.0
) -> dict[Scope, int]:
    """Return the first or last offsets, open transactions included. Raises Retry or Fatal."""
    try:
        futures = admin.list_offsets(
            dict.fromkeys(parts, spec),
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=timeout_s,
        )
        return {(part.topic, part.partition): future.result().offset for part, future in futures.items()}
    except KafkaException as error:
        raise translate(error, "asking for the ends of changelogs") from error
