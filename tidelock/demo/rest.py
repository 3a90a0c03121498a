"""When the installation is at rest: nothing waits to be read, nothing grows, no wake-up is near."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tidelock.demo.topics import Observer
from tidelock.kafka import translate

QUIET_S = 1.5
NEAR_S = 12.0  # a wake-up further away than this belongs to something that is blocked for longer
EVERYTHING = ("cdc.", "journal.", "identity.", "sync.")  # topics that somebody has to read to their end
_NOISE = ("ops.activity", "ops.signals", "ops.runs", "jobs.")  # those that grow with every poll


@dataclass(frozen=True)
class Motion:
    """What still moves: ``why`` is empty at rest."""

    ends: dict[tuple[str, int], int]
    lag: dict[str, int]
    why: str


class Rest:
    """Look at one installation. Sinks keep their offsets in their own databases; the ERP's queue table must be empty too."""

    def __init__(self, observer: Observer, dsns: dict[str, str]) -> None:
        self._observer = observer
        self._dsns = dsns

    def look(self) -> Motion:
        """Return what moves now. Raises Retry."""
        try:
            ends = self.ends()
            committed = self._committed()
        except KafkaException as error:
            raise translate(error, "asking for offsets") from error
        behind = {
            part: committed.get(part, 0)
            for part, end in ends.items()
            if part[0].removeprefix(self._observer.prefix).startswith(EVERYTHING) and committed.get(part, 0) < end
        }
        lag = self._really(behind)
        if lag:
            worst = max(lag, key=lambda name: lag[name])
            return Motion(
                ends, lag, f"{sum(lag.values())} records to read, most in {worst.removeprefix(self._observer.prefix)}"
            )
        waiting = self._queue()
        if waiting:
            return Motion(ends, {}, f"{waiting} rows in the ERP's queue table")
        near = [due for due in self._observer.timers().values() if due < time.time() + NEAR_S]
        if near:
            return Motion(ends, {}, f"{len(near)} wake-ups due within {NEAR_S:.0f} s")
        return Motion(ends, {}, "")

    def wait(
        self,
        timeout_s: float,
        since: Callable[[], float],
        say: Callable[[Motion], None],
        *,
        check: Callable[[], None],
    ) -> bool:
        """Wait until nothing has moved for a while, and not before ``since()`` (monotonic); return whether that came in time.

        ``check`` is called between two looks and raises if waiting makes no sense any more.
        """
        deadline = time.monotonic() + timeout_s
        quiet_since, before = 0.0, None
        while time.monotonic() < deadline:
            check()
            motion = self.look()
            say(motion)
            now = time.monotonic()
            if motion.why or motion.ends != before:
                quiet_since, before = now, motion.ends
            elif now - quiet_since >= QUIET_S and now >= since():
                return True
            time.sleep(0.4)
        return False

    def ends(self) -> dict[tuple[str, int], int]:
        """Return the end of every partition that counts."""
        admin = self._observer.admin
        prefix = self._observer.prefix
        known = admin.list_topics(timeout=10).topics
        asked = {
            TopicPartition(name, number): OffsetSpec.latest()
            for name in known
            if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_NOISE)
            for number in known[name].partitions
        }
        if not asked:
            return {}
        futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=10)
        return {(p.topic, p.partition): future.result().offset for p, future in futures.items()}

    def _committed(self) -> dict[tuple[str, int], int]:
        """Return how far any group has read, by partition: every topic here has one group that works on it."""
        admin = self._observer.admin
        groups = [g.group_id for g in admin.list_consumer_groups(request_timeout=10).result().valid]
        out: dict[tuple[str, int], int] = {}
        for group in groups:
            if not group.startswith(self._observer.prefix):
                continue
            answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=10)
            for part in answer[group].result().topic_partitions or ():
                key = (part.topic, part.partition)
                out[key] = max(out.get(key, 0), part.offset)
        for dsn in self._dsns.values():
            with (
                contextlib.suppress(psycopg.errors.UndefinedTable),
                psycopg.connect(dsn, connect_timeout=5) as connection,
            ):
                rows = connection.execute("select topic, partition, next_offset from tidelock.offsets").fetchall()
                for topic, number, offset in rows:
                    out[topic, number] = max(out.get((topic, number), 0), offset)
        return out

    def _really(self, behind: dict[tuple[str, int], int]) -> dict[str, int]:
        """Count what a reader would get: the end of a topic also counts marks of transactions, which nobody reads."""
        if not behind:
            return {}
        consumer = self._observer.kafka.consumer(
            "demo-rest", f"{self._observer.prefix}demo-rest", enable_partition_eof=True
        )
        lag: dict[str, int] = {}
        try:
            consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in behind.items()])
            open_parts, deadline = set(behind), time.monotonic() + 10
            while open_parts and time.monotonic() < deadline:
                for message in consumer.consume(1000, 0.2):
                    if message.error() is None:
                        lag[str(message.topic())] = lag.get(str(message.topic()), 0) + 1
                    else:
                        open_parts.discard((str(message.topic()), int(message.partition() or 0)))
        finally:
            consumer.close()
        return lag

    def _queue(self) -> int:
        try:
            with psycopg.connect(self._dsns["erp"], connect_timeout=5) as connection:
                row = connection.execute(
                    "select count(*) from tidelock.queue where status in ('new', 'in-progress', 'error')"
                ).fetchone()
        except psycopg.errors.UndefinedTable:
            return 0
        return int(row[0]) if row else 0
