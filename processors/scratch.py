"""State and messages in memory, for running the stages without Kafka: what would come of something, tried before it is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from processors.stage import Headers


class ScratchMessage:
    """What stages read of a `confluent_kafka.Message`."""

    __slots__ = ("_headers", "_key", "_offset", "_partition", "_topic", "_value")

    def __init__(
        self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Headers | None
    ) -> None:
        self._topic, self._partition, self._offset = topic, partition, offset
        self._key, self._value, self._headers = key, value, headers

    def topic(self) -> str:
        """Return the topic."""
        return self._topic

    def partition(self) -> int:
        """Return the partition."""
        return self._partition

    def offset(self) -> int:
        """Return the offset."""
        return self._offset

    def key(self) -> bytes | None:
        """Return the key."""
        return self._key

    def value(self) -> bytes | None:
        """Return the value."""
        return self._value

    def headers(self) -> Headers | None:
        """Return the headers."""
        return self._headers

    def error(self) -> None:
        """Return that there is no error."""

    def timestamp(self) -> tuple[int, int]:
        """Return the type and a time that is the same at every run."""
        return (1, 0)


class ScratchState:
    """State of one stage with the engine's promise: what a batch puts is there only after `commit` (`processors.stage.Overlay`)."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], dict[bytes, bytes]] = defaultdict(dict)
        self._new: dict[tuple[str, int], dict[bytes, bytes | None]] = defaultdict(dict)

    def load(self, topic: str, partition: int, keys: Iterable[bytes]) -> Mapping[bytes, bytes | None]:
        """Fetch many keys."""
        return {key: self.get(topic, partition, key) for key in keys}

    def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return a value."""
        new = self._new[topic, partition]
        return new[key] if key in new else self.kept[topic, partition].get(key)

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Set a value."""
        self._new[topic, partition][key] = value

    def update(self, topic: str, partition: int, changes: Mapping[bytes, bytes | None]) -> None:
        """Set many values."""
        self._new[topic, partition].update(changes)

    def scan(self, topic: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys with a prefix, in order."""
        merged: dict[bytes, bytes | None] = {**self.kept[topic, partition], **self._new[topic, partition]}
        for key in sorted(k for k in merged if k.startswith(prefix)):
            value = merged[key]
            if value is not None:
                yield key, value

    def commit(self) -> None:
        """Make what was put permanent."""
        for scope, changes in self._new.items():
            for key, value in changes.items():
                if value is None:
                    self.kept[scope].pop(key, None)
                else:
                    self.kept[scope][key] = value
        self._new.clear()

    def abort(self) -> None:
        """Forget what was put."""
        self._new.clear()
