"""What a periodic capture has seen: per key a digest of the row, in a local store, so that only real differences are published.

The store may be lost at any time. Then it starts with the keys that the change topic knows (so that deletes are still found) and
without digests: every row is published once more, and merge, which compares by value, finds that nothing happened.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from rocksdict import Options, Rdict, WriteBatch

from tidelock.change import DELETE
from tidelock.context import Context
from tidelock.errors import Fatal, Retry
from tidelock.kafka import translate

UNKNOWN = bytes(16)
_NEXT = b"\xff next"  # keys are UTF-8, which never starts with FF
_READY = b"\xff ready"


class Seen:
    """Digests by native key. A value is 16 bytes of digest and 8 of the key's number, which marks it in a sweep's bitmap."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(8_000_000)
        options.set_max_open_files(64)
        try:
            self._store = Rdict(str(path), options)
        except Exception as error:  # rocksdict raises plain Exception
            if "lock" in str(error).lower():
                raise Retry(
                    f"the local store {path} is in use by another process",
                    hint="stop the other worker of this system, or run only one",
                ) from error
            shutil.rmtree(path, ignore_errors=True)  # damaged: it is only a memory of what was published
            self._store = Rdict(str(path), options)
        self._next = int.from_bytes(self._store.get(_NEXT) or b"", "big")
        self.ready = self._store.get(_READY) is not None
        self._marks = bytearray()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what is stored of each key; its first 16 bytes are the digest."""
        return list(self._store.get(list(keys)) or []) if keys else []

    def put(self, digests: Iterable[tuple[bytes, bytes]]) -> None:
        """Store (key, digest) pairs; new keys are numbered and count as marked."""
        pairs = dict(digests)
        batch = WriteBatch(raw_mode=True)
        for (key, digest), known in zip(pairs.items(), self.values(list(pairs)), strict=True):
            if known is None:
                number, self._next = self._next, self._next + 1
                self._mark(number)
            else:
                number = int.from_bytes(known[16:], "big")
            batch.put(key, digest + number.to_bytes(8, "big"))
        batch.put(_NEXT, self._next.to_bytes(8, "big"))
        self._store.write(batch)

    def forget(self, keys: Iterable[bytes]) -> None:
        """Remove keys."""
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(key)
        self._store.write(batch)

    def set_ready(self) -> None:
        """Note that every row has been looked at once."""
        self._store[_READY] = b"\x01"
        self.ready = True

    def begin_sweep(self) -> None:
        """Forget all marks."""
        self._marks = bytearray(self._next // 8 + 1)

    def mark(self, value: bytes) -> bool:
        """Mark the key of a stored value; return whether it was marked before (the key stands there twice)."""
        return self._mark(int.from_bytes(value[16:], "big"))

    def unmarked(self) -> Iterator[bytes]:
        """Return the keys that no mark was set for since `begin_sweep`."""
        marks, size = self._marks, len(self._marks)
        for key, value in self._store.items():
            if key[:1] == b"\xff":
                continue
            number = int.from_bytes(value[16:], "big")
            if number // 8 >= size or not marks[number // 8] & (1 << number % 8):
                yield key

    def __len__(self) -> int:
        return sum(1 for key in self._store.keys() if key[:1] != b"\xff")  # noqa: SIM118 - Rdict is no mapping

    def _mark(self, number: int) -> bool:
        at, bit = number // 8, 1 << number % 8
        if at >= len(self._marks):
            self._marks.extend(bytes(at + 1024 - len(self._marks)))
        known = bool(self._marks[at] & bit)
        self._marks[at] |= bit
        return known


def open_seen(context: Context, system: str, entity: str) -> Seen:
    """Open the store of one entity, filled with the keys that were published before if it is new. Raises Retry or Fatal."""
    path = context.data / "seen" / f"{system}.{entity}"
    fresh = not path.exists()
    seen = Seen(path)
    if not fresh and seen.values([_NEXT]) != [None]:
        return seen
    prefix = f"{context.config.systems[system].only_tenant}/".encode()
    keys: dict[bytes, bytes] = {}

    def take(key: bytes, value: bytes | None) -> None:
        if not key.startswith(prefix):
            return
        name = key[len(prefix) :]
        if value is None or (len(value) > 37 and value[37] >> 1 == DELETE):
            keys.pop(name, None)
        else:
            keys[name] = UNKNOWN

    try:
        each_message(context, context.topics.cdc(system, entity), take)
        seen.put(keys.items())
    except BaseException:
        seen.close()
        shutil.rmtree(path, ignore_errors=True)  # half filled would miss deletes later
        raise
    return seen


def each_message(
    context: Context, topic: str, take: Callable[[bytes, bytes | None], None], timeout_s: float = 30.0
) -> None:
    """Call ``take(key, value)`` for everything that a topic holds now. Raises Fatal if it does not exist, Retry if Kafka is quiet."""
    consumer = context.kafka.consumer(f"{context.name}-read", f"{context.name}-read", enable_partition_eof=True)
    try:
        known = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if known.error is not None or not known.partitions:
            raise Fatal(f"topic {topic} does not exist", hint="run `tidelock up`, which creates all topics")
        consumer.assign([TopicPartition(topic, p, 0) for p in known.partitions])
        waiting = set(known.partitions)
        end = time.monotonic() + timeout_s
        while waiting:
            if time.monotonic() > end:
                raise Retry(f"Kafka did not give the end of {topic} within {timeout_s:.0f} s")
            for message in consumer.consume(5000, 0.1):
                error = message.error()
                if error is None:
                    take(message.key() or b"", message.value())
                    end = time.monotonic() + timeout_s
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
    except KafkaException as error:
        raise translate(error, f"reading {topic}") from error
    finally:
        consumer.close()
