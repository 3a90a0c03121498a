"""Batches that do not depend on how Kafka delivers: what a worker reads is held back until all of it is there."""

from __future__ import annotations

from typing import Protocol

from confluent_kafka import Message


class Reading(Protocol):
    """What reads for a worker: `processors.reader.Reader`, `sinks.intake.Intake`."""

    next: dict[tuple[str, int], int]

    def read(self, wait_s: float) -> list[Message]:
        """Return messages of started partitions."""
        ...


class Together:
    """Give a worker what it reads in batches of at least ``wanted`` messages, those of the last topic by name first.

    So a batch of several topics comes in one order, and where entities refer to one another (order, contact) in the harder one.
    """

    def __init__(self, reading: Reading) -> None:
        self.wanted = 1
        self._reading = reading
        self._read = reading.read
        self._held: dict[tuple[str, int, int], Message] = {}
        reading.read = self  # type: ignore[method-assign]

    def __call__(self, wait_s: float) -> list[Message]:
        """Read as the worker would; return nothing until there is enough."""
        for message in self._read(wait_s):
            self._held[str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)] = message
        # What was taken away or is read from elsewhere now is none of its business any more.
        self._held = {
            at: m
            for at, m in self._held.items()
            if at[:2] in self._reading.next and at[2] >= self._reading.next[at[:2]]
        }
        if len(self._held) < self.wanted:
            return []
        out = sorted(self._held.values(), key=lambda m: str(m.topic()), reverse=True)
        self._held.clear()
        return out
