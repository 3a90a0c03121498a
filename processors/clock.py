"""The clock: the one worker that looks at the time for the merge. It puts ``wake`` and ``retry`` entries into journals when they are due.

It also tells people of creates that wait for a seed too long (`processors.overdue`), and lets what waits for a tenant that takes no
writes wait until it does (`processors.troubles`).

The merge never reads a clock, so that a journal can be replayed; it asks for timers through ``ops.signals`` (compacted; key
``timer/<entity>/<canonical id>/<place>``). A timer that has fired leaves a tombstone. Firing twice is harmless: a wake-up only looks again.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import stamina
from confluent_kafka import KafkaException, Message, TopicPartition

from processors.overdue import Overdue
from processors.troubles import Place, Troubles, spread
from tidelock.context import Context
from tidelock.envelopes import Entry
from tidelock.errors import Retry
from tidelock.kafka import Batches, close, flush, translate

_LOOK_S = 5.0
_QUIET_S = 2.0  # behind the last record of a topic may stand what no reader is given
_MOST = 5000  # entries that are sent together


class ClockWorker:
    """Keep pending timers in memory, rebuilt from the topic at start. Nothing fires before all of it has been read. Raises Retry."""

    def __init__(self, context: Context, _system: str = "") -> None:
        self._context = context
        self._signals = context.topics.ops("signals")
        self._consumer = context.kafka.consumer(context.name, f"{context.config.prefix}clock", queued_min_messages=1000)
        low, self._end = self._stands()
        self._consumer.assign([TopicPartition(self._signals, 0, 0)])
        self._batches = Batches(self._consumer)
        self._producer = context.kafka.producer(context.name)
        self._header = context.codec.header("entry")
        self._pending: dict[bytes, tuple[float, dict[str, Any]]] = {}
        self._due: list[tuple[float, bytes]] = []
        self._overdue = Overdue(context.config)
        self._troubles = Troubles(context.config)
        self._looked = time.time()
        self._heard: float | None = None
        self._ready = self._end <= low

    def _stands(self) -> tuple[int, int]:
        """Return where the topic begins and ends."""
        # A topic that was made a moment ago may have no leader yet.
        for attempt in stamina.retry_context(on=Retry, attempts=8, timeout=30.0, wait_initial=0.1, wait_max=2.0):
            with attempt:
                try:
                    low, high = self._consumer.get_watermark_offsets(TopicPartition(self._signals, 0), timeout=30.0)
                    return int(low), int(high)
                except KafkaException as error:
                    raise translate(error, f"reading {self._signals}") from error
        raise AssertionError("the last attempt raises or returns")

    def step(self, wait_s: float) -> int:
        """Take new timers and fire those that are due."""
        now = time.time()
        if self._ready and self._due:
            wait_s = max(0.0, min(wait_s, self._due[0][0] - now))
        messages = self._batches.next(wait_s)
        for message in messages:
            self._take(message)
        if not self._ready:
            self._catch_up(bool(messages))
        fired = self._fire() if self._ready else 0
        if now - self._looked > _LOOK_S:
            self._looked = now
            self._tell(now)
        self._context.activity.publish(self._producer, self._context.codec, self._context.topics)
        return fired

    def _take(self, message: Message) -> None:
        key, value, sent_at = message.key() or b"", message.value(), message.timestamp()[1] / 1000
        if not key.startswith(b"timer/"):
            self._overdue.take(key, value, sent_at)
            self._schedule(self._troubles.take(key, value), time.time())
        elif value is not None:
            body = json.loads(value)
            self._put(key, sent_at + float(body["delay_s"]), body)
        elif not self._ready:
            self._pending.pop(key, None)
        elif (
            key in self._pending
        ):  # it was asked for anew before the tombstone of the one that has fired was written: write it again
            at, body = self._pending[key]
            body = {**body, "delay_s": max(0.0, at - time.time())}
            self._producer.produce(self._signals, key=key, value=json.dumps(body).encode())

    def _put(self, key: bytes, at: float, body: dict[str, Any]) -> None:
        self._pending[key] = (at, body)
        heapq.heappush(self._due, (at, key))

    def _schedule(self, keys: Sequence[bytes], now: float) -> None:
        """Let timers of one place fire one after the other."""
        alive = [key for key in keys if key in self._pending]
        for key, at in zip(alive, spread(len(alive), now), strict=True):
            self._put(key, at, self._pending[key][1])

    def _catch_up(self, read: bool) -> None:
        """Note whether all that stood in the topic at the start has been read; what is overdue then is let go little by little."""
        now = time.time()
        if read:
            self._heard = now
        (at,) = self._consumer.position([TopicPartition(self._signals, 0)])
        if at.offset < self._end and (self._heard is None or now - self._heard < _QUIET_S):
            return
        self._ready = True
        overdue: dict[Place, list[bytes]] = defaultdict(list)
        for key, (due, body) in self._pending.items():
            if due <= now:
                overdue[_place(body)].append(key)
        for keys in overdue.values():
            self._schedule(keys, now)

    def _fire(self) -> int:
        now = time.time()
        fired = dict.fromkeys(self._troubles.attempts(now, self._pending))
        while self._due and self._due[0][0] <= now and len(fired) < _MOST:
            at, key = heapq.heappop(self._due)
            known = self._pending.get(key)
            if known is not None and known[0] == at and not self._troubles.holds(_place(known[1]), key):
                fired[key] = None
        for key in fired:
            body = self._pending[key][1]
            entry = Entry(body["entry"], body["canonical_id"], body["system"], body["tenant"])
            self._producer.produce(
                self._context.topics.journal(body["entity"]),
                key=body["canonical_id"].encode(),
                value=self._header + entry.encode(),
            )
        if fired:
            flush(self._producer)  # first the entries, then the tombstones: a crash between fires again
            for key in fired:
                del self._pending[key]
                self._producer.produce(self._signals, key=key, value=None)
            flush(self._producer)
        return len(fired)

    def _tell(self, now: float) -> None:
        context = self._context
        for alert in self._overdue.alerts(now):
            value = context.codec.encode("alert", alert)
            self._producer.produce(context.topics.ops("alerts"), key=alert["fingerprint"].encode(), value=value)

    def close(self) -> None:
        """Stop; pending timers are in the topic."""
        self._consumer.close()
        close(self._producer)


def _place(body: dict[str, Any]) -> Place:
    return body["system"], body["tenant"]
