"""The clock: the one worker that looks at the time for the merge. It puts ``wake`` and ``retry`` entries into journals when they are due.

It also tells people of creates that wait for a seed too long (`processors.overdue`).

The merge never reads a clock, so that a journal can be replayed; it asks for timers through ``ops.signals`` (compacted; key
``timer/<entity>/<canonical id>/<place>``). A timer that has fired leaves a tombstone. Firing twice is harmless: a wake-up only looks again.
"""

from __future__ import annotations

import heapq
import json
import time

from confluent_kafka import TopicPartition

from processors.overdue import Overdue
from tidelock.context import Context
from tidelock.envelopes import Entry
from tidelock.kafka import Batches, close, flush

_LOOK_S = 5.0


class ClockWorker:
    """Keep pending timers in memory, rebuilt from the topic at start."""

    def __init__(self, context: Context, _system: str = "") -> None:
        self._context = context
        self._signals = context.topics.ops("signals")
        self._consumer = context.kafka.consumer(context.name, f"{context.config.prefix}clock", queued_min_messages=1000)
        self._consumer.assign([TopicPartition(self._signals, 0, 0)])
        self._batches = Batches(self._consumer)
        self._producer = context.kafka.producer(context.name)
        self._header = context.codec.header("entry")
        self._pending: dict[bytes, tuple[float, dict[str, str]]] = {}
        self._due: list[tuple[float, bytes]] = []
        self._overdue = Overdue(context.config)
        self._looked = time.time()

    def step(self, wait_s: float) -> int:
        """Take new timers and fire those that are due."""
        now = time.time()
        if self._due:
            wait_s = max(0.0, min(wait_s, self._due[0][0] - now))
        for message in self._batches.next(wait_s):
            key = message.key() or b""
            value = message.value()
            if not key.startswith(b"timer/"):
                self._overdue.take(key, value, message.timestamp()[1] / 1000)
                continue
            if value is None:
                self._pending.pop(key, None)
                continue
            body = json.loads(value)
            at = message.timestamp()[1] / 1000 + float(body["delay_s"])
            self._pending[key] = (at, body)
            heapq.heappush(self._due, (at, key))
        fired = self._fire()
        if now - self._looked > _LOOK_S:
            self._looked = now
            self._tell(now)
        self._context.activity.publish(self._producer, self._context.codec, self._context.topics)
        return fired

    def _fire(self) -> int:
        fired: list[bytes] = []
        now = time.time()
        while self._due and self._due[0][0] <= now:
            at, key = heapq.heappop(self._due)
            known = self._pending.get(key)
            if known is None or known[0] != at:
                continue
            body = known[1]
            entry = Entry(body["entry"], body["canonical_id"], body["system"], body["tenant"])
            self._producer.produce(
                self._context.topics.journal(body["entity"]),
                key=body["canonical_id"].encode(),
                value=self._header + entry.encode(),
            )
            fired.append(key)
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
