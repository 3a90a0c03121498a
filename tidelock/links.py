"""A view of links: which canonical id a native record has, and which native record a canonical id has in a system.

Reads ``links.<entity>`` into a small database on disk, both ways, so that memory stays bounded; it may be lost at any time.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from rocksdict import Options, Rdict

from tidelock.avro import decode_string
from tidelock.context import Context
from tidelock.errors import Retry
from tidelock.kafka import translate

_OFFSET, _FORWARD, _BACK = b"o", b"f", b"b"
_BARRIER = b"barrier/"


class LinkView:
    """Links of one entity. Not thread-safe; one worker, one view per entity."""

    def __init__(self, context: Context, entity: str) -> None:
        self._entity = entity
        self._topic = context.topics.links(entity)
        self._folder = context.data / f"links-{entity}"
        self._store = _open(self._folder)
        self._consumer: Consumer = context.kafka.consumer(
            f"{context.name}-links-{entity}", f"{context.name}-links-{entity}", enable_partition_eof=True
        )
        self._ends: dict[int, bool] = {}
        self._assign()

    def canonical_id(self, system: str, tenant: str, native_key: str) -> str | None:
        """Return the canonical id of a native record, if it is known here yet."""
        found: bytes | None = self._store.get(_FORWARD + f"{system}/{tenant}/{native_key}".encode())
        return None if found is None else found.decode()

    def native_key(self, canonical_id: str, system: str, tenant: str) -> str | None:
        """Return the native key of a record in a system, if it is known here yet."""
        found: bytes | None = self._store.get(_back(canonical_id, system, tenant))
        return None if found is None else found.decode()

    def refresh(self, wait_s: float = 0.0) -> int:
        """Take what has come, waiting up to ``wait_s`` for the first; return how many links. Raises Retry or Fatal."""
        taken = 0
        try:
            while messages := self._consumer.consume(2000, wait_s if not taken else 0.0):
                for message in messages:
                    partition = message.partition() or 0
                    if message.error() is None:
                        self._take(message.key() or b"", message.value())
                        self._store[_OFFSET + b"%d" % partition] = b"%d" % ((message.offset() or 0) + 1)
                        taken += 1
                    else:
                        self._ends[partition] = True
        except KafkaException as error:
            raise translate(error, f"reading {self._topic}") from error
        return taken

    def catch_up(self, timeout_s: float = 60.0) -> None:
        """Read until the end has been seen once in every partition. Raises Retry if it takes longer."""
        end = time.monotonic() + timeout_s
        while not all(self._ends.values()):
            self.refresh(0.2)
            if time.monotonic() > end:
                raise Retry(
                    f"{self._topic} was not read to its end within {timeout_s:.0f} s",
                    hint="it goes on from there by itself",
                )

    def close(self) -> None:
        """Let go of topic and disk."""
        self._consumer.close()
        self._store.close()

    def _assign(self) -> None:
        try:
            known = self._consumer.list_topics(self._topic, timeout=10).topics[self._topic].partitions
        except KafkaException as error:
            raise translate(error, f"looking at {self._topic}") from error
        starts = []
        for partition in known:
            self._ends[partition] = False
            at: bytes | None = self._store.get(_OFFSET + b"%d" % partition)
            starts.append(TopicPartition(self._topic, partition, OFFSET_BEGINNING if at is None else int(at)))
        self._consumer.assign(starts)

    def _take(self, key: bytes, value: bytes | None) -> None:
        if key.startswith(_BARRIER):
            return
        forward = _FORWARD + key
        system, tenant, native_key = [*key.decode().split("/", 2), "", ""][:3]
        before: bytes | None = self._store.get(forward)
        canonical_id = decode_string(value, 5)[0] if value is not None else None
        if before is not None and before.decode() != canonical_id:
            back = _back(before.decode(), system, tenant)
            if self._store.get(back) == native_key.encode():
                del self._store[back]
        if canonical_id is None:
            if before is not None:
                del self._store[forward]
            return
        self._store[forward] = canonical_id.encode()
        self._store[_back(canonical_id, system, tenant)] = native_key.encode()


def _open(folder: Path) -> Rdict:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _rdict(folder)
    except Exception as error:
        if "lock" in str(error).lower():
            raise Retry(
                f"{folder} is in use: {error}", hint="end the other worker of this name; it goes on by itself then"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        return _rdict(folder)


def _rdict(folder: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(8 << 20)
    return Rdict(str(folder), options)


def _back(canonical_id: str, system: str, tenant: str) -> bytes:
    return _BACK + f"{canonical_id}/{system}/{tenant}".encode()
