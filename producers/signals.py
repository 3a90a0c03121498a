"""The producers' side of ``ops.signals``: the last record of every key at the start, requests as they come."""

from __future__ import annotations

import json
import time
from typing import Any

import stamina
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tidelock.context import Context
from tidelock.errors import Fatal, Retry
from tidelock.kafka import translate

Signal = dict[str, Any]


class Signals:
    """Read ``ops.signals``; ``last`` is the last content by key. Records that are no JSON objects are passed over."""

    def __init__(self, context: Context, reader: str) -> None:
        self._topic = context.topics.ops("signals")
        self._consumer: Consumer = context.kafka.consumer(
            f"{reader}-signals", f"{reader}-signals", queued_min_messages=100
        )
        self.last: dict[str, Signal] = {}

    def load(self, timeout_s: float = 30.0) -> None:
        """Read everything that is there. Raises Fatal if the topic does not exist, Retry if Kafka does not answer."""
        # A topic that was made a moment ago may have no leader yet.
        for attempt in stamina.retry_context(on=Retry, attempts=8, timeout=timeout_s, wait_initial=0.1, wait_max=2.0):
            with attempt:
                self._load(timeout_s)

    def _load(self, timeout_s: float) -> None:
        try:
            known = self._consumer.list_topics(self._topic, timeout=timeout_s).topics[self._topic]
            if known.error is not None or not known.partitions:
                raise Fatal(f"topic {self._topic} does not exist", hint="run `tidelock up`, which creates all topics")
            ends: dict[int, int] = {}
            starts = []
            for number in known.partitions:
                part = TopicPartition(self._topic, number)
                low, high = self._consumer.get_watermark_offsets(part, timeout=timeout_s)
                starts.append(TopicPartition(self._topic, number, low))
                if high > low:
                    ends[number] = high
            self._consumer.assign(starts)
        except KafkaException as error:
            raise translate(error, f"reading {self._topic}") from error
        end = time.monotonic() + timeout_s
        while ends:
            self.poll(0.2)
            for part in self._consumer.position([TopicPartition(self._topic, n) for n in ends]):
                if part.offset >= ends[part.partition]:
                    del ends[part.partition]
            if time.monotonic() > end:
                raise Retry(f"{self._topic} could not be read within {timeout_s:.0f} s")

    def poll(self, wait_s: float = 0.0) -> list[tuple[str, Signal]]:
        """Return the records that came since the last call, as (key, content)."""
        out: list[tuple[str, Signal]] = []
        for message in self._consumer.consume(500, wait_s):
            if message.error() is not None:
                continue  # passing trouble; librdkafka goes on by itself
            key, value = (message.key() or b"").decode(errors="replace"), message.value()
            if value is None:
                self.last.pop(key, None)
                continue
            try:
                content = json.loads(value)
            except ValueError:
                continue
            if isinstance(content, dict):
                self.last[key] = content
                out.append((key, content))
        return out

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()
