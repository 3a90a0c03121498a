"""Which records a TRUNCATE has removed: the log does not say, so the topics are asked.

`links.<entity>` (compacted) knows every record that was ever linked; the change topic knows those that are still on their way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from confluent_kafka import KafkaException, Message, TopicPartition

from tidelock.change import DELETE
from tidelock.codec import schema_id
from tidelock.context import Context
from tidelock.errors import Retry
from tidelock.kafka import translate

_OP_AT = 37  # of a change's wire format: behind header, event id and position


def known_keys(context: Context, system: str, entity: str, alive: Callable[[], None]) -> set[bytes]:
    """Return the native keys of a system's records that are not known to be deleted.

    ``alive`` is called now and then, so that the source does not take a long read for a dead client. Raises Retry.
    """
    prefix = f"{context.config.systems[system].only_tenant}/".encode()
    reader = f"{context.name}-{system}-truncate"
    keys: set[bytes] = set()
    links = context.topics.links(entity)
    for message in _read(context, reader, links, alive):
        key, value = message.key() or b"", message.value()
        own, _, rest = key.partition(b"/")  # system/tenant/native key
        if own != system.encode() or not rest.startswith(prefix):
            continue
        if value is None:
            keys.discard(rest)
        else:
            keys.add(rest)
    for message in _read(context, reader, context.topics.cdc(system, entity), alive):
        key, value = message.key() or b"", message.value()
        if value is not None and key.startswith(prefix) and schema_id(value) and len(value) > _OP_AT:
            (keys.discard if value[_OP_AT] >> 1 == DELETE else keys.add)(key)
    return {key[len(prefix) :] for key in keys}


def _read(context: Context, reader: str, topic: str, alive: Callable[[], None]) -> Iterator[Message]:
    """Read a topic from its start to its present end; nothing if it does not exist."""
    consumer = context.kafka.consumer(reader, reader)
    try:
        known = consumer.list_topics(topic, timeout=30.0).topics[topic]
        starts, ends = [], {}
        for number in known.partitions if known.error is None else ():
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30.0)
            if high > low:
                starts.append(TopicPartition(topic, number, low))
                ends[number] = high
        if not ends:
            return
        consumer.assign(starts)
        last = time.monotonic()
        while ends:
            alive()
            messages = consumer.consume(5000, 0.1)
            for message in messages:
                if message.error() is None:
                    yield message
            for part in consumer.position([TopicPartition(topic, n) for n in ends]):
                if part.offset >= ends[part.partition]:
                    del ends[part.partition]
            if messages:
                last = time.monotonic()
            elif time.monotonic() - last > 60.0:
                raise Retry(f"topic {topic} could not be read to its end")
    except KafkaException as error:
        raise translate(error, f"reading {topic}") from error
    finally:
        consumer.close()
