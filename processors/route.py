"""Route, the worker around `processors.router`: reads `cdc` and the links, produces, keeps the links in the local store.

At least once, without a transaction: merge drops by position what comes twice. The order, with its fault points:

1. take what has come on the links topics
2. read a batch, produce each change to its journal or to identify      → ``route.produced``
3. wait until all of it is acknowledged                                 → ``route.flushed``
4. commit the input offsets

The router remembers in memory what it sent the long way. So before a partition of `cdc` is read, after a start or a rebalance, a
barrier goes the long way for it. When identify's answer has come back through the links, everything that was sent before has been
looked at, by whoever sent it, and the links are up to date.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

import structlog
from confluent_kafka import KafkaException, Message, TopicPartition

from processors.reader import SMALL_FETCHES, Reader
from processors.restore import Restorer
from processors.router import BARRIER, Router, barrier_key, read_link, sources
from processors.stage import Row
from processors.store import MB, Changes, Mark, Scope, Store
from tidelock import faults
from tidelock.context import Context
from tidelock.errors import Retry
from tidelock.kafka import Batches, close, flush, translate

log = structlog.get_logger()

_TOUCH_S = 60.0
_FLUSH_S = 600.0
_REMIND_S = 30.0


class RouteWorker:
    """Run the router: call `step` in a loop, `close` at the end. Raises Fatal only; passing troubles are waited out in `step`."""

    def __init__(self, context: Context, *, most: int = 4000) -> None:
        self._context = context
        self._sources = sources(context)
        name = context.name
        header = context.codec.header("entry")
        self.store = Store(context.data, buffer_bytes=12 * MB, cache_bytes=16 * MB, recent_bytes=8 * MB)
        self.router = Router(self._sources, header, self.store.get)
        self._restorer = Restorer(context.kafka, name, self.store)
        self._producer = context.kafka.producer(name, linger_ms=1)
        self._links = context.kafka.consumer(f"{name}-links", f"{name}-links", **SMALL_FETCHES)
        self._links_batches = Batches(self._links, most=most)
        self._at: dict[Scope, Mark] = {}  # links partitions that are read, and how far
        self._barriers: dict[tuple[str, int, bytes], tuple[Scope, str]] = {}  # answer → cdc partition that waits, token
        self._ready: list[Scope] = []  # their barrier is answered; not read yet
        self._failed: KafkaException | None = None
        self._failures = 0
        self._moves = 0
        self._touched = self._flushed = self._reminded = time.monotonic()
        group = f"{context.config.prefix}route"
        self._reader = Reader(
            context.kafka.consumer(name, group, group_instance_id=name, **SMALL_FETCHES, max_poll_interval_ms=900_000),
            self._sources,
            most=most,
        )

    @property
    def partitions(self) -> frozenset[Scope]:
        """Return the `cdc` partitions that are read now."""
        return frozenset(self._reader.next)

    def step(self, wait_s: float) -> int:
        """Take one batch, waiting up to ``wait_s`` for its first message; return how many changes are done. Raises Fatal."""
        try:
            # While barriers are out it is their answers that are waited for, and those come through the links.
            messages = self._reader.read(0.0 if self._barriers else wait_s)
            if self._moves != self._reader.moves:
                self._follow()
            self._learn(min(wait_s, 0.1) if self._barriers else 0.0)
            if messages:
                self._batch(messages)
            if self._ready:  # after the batch: to start a partition sets all of them back to what is not done yet
                self._reader.start(self._reader.committed(self._ready))
                self._ready = []
            self._failures = 0
            self._housekeeping()
        except Retry as error:
            self._again(error)
            return 0
        return len(messages)

    def close(self) -> None:
        """Stop in order: nothing is unfinished between two steps."""
        self._write({})
        self._reader.close()
        self._links.close()
        self.store.close()
        self._context.activity.publish(self._producer, self._context.codec, self._context.topics, force=True)
        close(self._producer)

    def _batch(self, messages: list[Message]) -> None:
        ends = self._reader.take(messages)
        self._produce(self.router.route(messages))
        if faults.ENABLED:
            faults.point("route.produced")
        self._flush()
        if self.router.marks:  # behind all that was read before them, for certain
            marks, self.router.marks = self.router.marks, []
            self._produce(marks)
            self._flush()
        if faults.ENABLED:
            faults.point("route.flushed")
        self._reader.next.update(ends)
        offsets = [TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()]
        try:
            self._reader.consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            raise translate(error, "committing offsets") from error
        for (name, system, entity), n in self.router.counts.items():
            self._context.activity.count(name, system, entity, n)
        self.router.counts.clear()

    def _produce(self, rows: Iterable[Row]) -> None:
        produce, failed = self._producer.produce, self._note_failure
        for topic, key, value, partition, headers in rows:
            while True:
                try:
                    if headers:
                        produce(topic, value, key, partition, failed, headers=headers)
                    else:
                        produce(topic, value, key, partition, failed)
                    break
                except BufferError:
                    self._producer.poll(0.05)
                except KafkaException as error:
                    raise translate(error, f"producing to {topic}") from error

    def _note_failure(self, error: Any, _message: Message) -> None:
        if error is not None:
            self._failed = KafkaException(error)

    def _flush(self) -> None:
        """Wait until all of the batch stands in its topics. Raises Retry (then the batch is read again) or Fatal."""
        flush(self._producer)
        if self._failed is not None:
            raise translate(self._failed, "producing") from self._failed

    def _again(self, error: Retry) -> None:
        """Wait a little longer each time, and read the batch again."""
        self._failures += 1
        pause_s = min(0.1 * 2 ** min(self._failures - 1, 6), 5.0)
        log.warning("trying again", worker=self._context.name, error=str(error), seconds=pause_s)
        self._context.stop.wait(pause_s)
        self._failed = None
        self.router.counts.clear()
        self.router.marks.clear()
        self._reader.rewind()

    def _follow(self) -> None:
        """Read the links of the partitions that the group gave us, from where the local store stands, and send the barriers."""
        moves = self._reader.moves
        gained = set(self._reader.gained)
        self._write({})
        mine = {(self._sources[topic].links, partition) for topic, partition in gained}
        for scope in self._at.keys() | mine:
            self.router.forget(scope)
        logs = self._restorer.check({scope: scope[0] for scope in mine})
        self._at = {scope: Mark(part.at, topic_id=part.topic_id) for scope, part in logs.items()}
        self._links.assign([TopicPartition(t, p, mark.changelog) for (t, p), mark in self._at.items()])
        self._barriers, self._ready = {}, []
        rows = []
        for topic, partition in gained:
            source, token = self._sources[topic], uuid.uuid4().hex
            self._barriers[source.links, partition, barrier_key(source.system, partition)] = (topic, partition), token
            rows.append(self.router.barrier(source, partition, token))
        self._produce(rows)
        self._flush()
        self._moves = moves
        if gained:
            log.info("waiting for identify to answer barriers", worker=self._context.name, partitions=len(gained))

    def _learn(self, wait_s: float) -> None:
        """Take what has come on the links topics, and note the partitions whose barrier is answered."""
        while messages := self._links_batches.next(wait_s):
            wait_s = 0.0
            changes: dict[Scope, Changes] = {}
            for message in messages:
                topic, partition, key, value = message.topic(), message.partition(), message.key(), message.value()
                scope = (topic, partition)
                self._at[scope] = Mark(message.offset() + 1, topic_id=self._at[scope].topic_id)
                if not key.startswith(BARRIER):
                    changes.setdefault(scope, {})[key] = value
                elif value is not None and (topic, partition, key) in self._barriers:
                    waiting, token = self._barriers[topic, partition, key]
                    if read_link(value)[1] == token.encode():
                        self._ready.append(waiting)
                        del self._barriers[topic, partition, key]
            self._write(changes)
            for (topic, partition), links in changes.items():
                for key, value in links.items():
                    self.router.learn(topic, partition, key, value)

    def _write(self, changes: dict[Scope, Changes]) -> None:
        """Write links and, for all partitions, how far we are: an idle partition is as fresh as a busy one."""
        now = time.time()
        self.store.write(changes, {s: Mark(m.changelog, at=now, topic_id=m.topic_id) for s, m in self._at.items()})

    def _housekeeping(self) -> None:
        context = self._context
        context.activity.publish(self._producer, context.codec, context.topics)
        now = time.monotonic()
        if now - self._touched > _TOUCH_S:
            self._touched = now
            self._write({})
        if now - self._flushed > _FLUSH_S:
            self._flushed = now
            self.store.flush()
        if self._barriers and now - self._reminded > _REMIND_S:
            self._reminded = now
            waiting = sorted({scope[0] for scope, _ in self._barriers.values()})
            log.warning("still waiting for identify to answer barriers; is it running?", topics=waiting)
