"""Read topics from one end to the other, for commands that look: dead letters, traces, links, conflicts."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Message, TopicPartition

from tidelock.errors import Retry
from tidelock.kafka import KafkaClients


def read_all(
    kafka: KafkaClients, topics: list[str], *, since_ms: int | None = None, idle_s: float = 15.0
) -> Iterator[Message]:
    """Yield every committed message of topics, from their beginning or from a time, up to where they end now.

    Topics that do not exist are passed over. Raises Retry if nothing comes for ``idle_s`` before the end is reached.
    """
    consumer = kafka.consumer("tidelock-cli", "tidelock-cli", enable_partition_eof=True)
    try:
        known = consumer.list_topics(timeout=10).topics
        starts: list[TopicPartition] = []
        ends: dict[tuple[str, int], int] = {}
        for topic in topics:
            for p in known[topic].partitions if topic in known else ():
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
                if high > low:
                    ends[topic, p] = high
                    starts.append(TopicPartition(topic, p, low if since_ms is None else since_ms))
        if since_ms is not None and starts:
            starts = [tp for tp in consumer.offsets_for_times(starts, timeout=10) if tp.offset >= 0]
            ends = {(tp.topic, tp.partition): ends[tp.topic, tp.partition] for tp in starts}
        consumer.assign(starts)
        heard = time.monotonic()
        while ends:
            for message in consumer.consume(5000, 0.2):
                heard = time.monotonic()
                scope = (message.topic(), message.partition())
                if message.error() is None:
                    if scope in ends and message.offset() < ends[scope]:
                        yield message
                    if scope in ends and message.offset() + 1 >= ends[scope]:
                        del ends[scope]
                else:
                    ends.pop(scope, None)  # the end of the partition, control records included
            if time.monotonic() - heard > idle_s:
                raise Retry(
                    f"{len(ends)} partitions did not answer for {idle_s:.0f} s",
                    hint="check the brokers: `tidelock status`",
                )
    finally:
        consumer.close()


def read_latest(kafka: KafkaClients, topics: list[str]) -> dict[bytes, Message]:
    """Return the last message per key of compacted topics; keys whose last message is a tombstone are left out."""
    out: dict[bytes, Message] = {}
    for message in read_all(kafka, topics):
        key = message.key() or b""
        if message.value() is None:
            out.pop(key, None)
        else:
            out[key] = message
    return out
