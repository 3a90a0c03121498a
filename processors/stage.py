"""What a stage is to the engine: a pure function of (state, messages) → (state, outputs), and the names of its topics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from confluent_kafka import Message

Headers = list[tuple[str, bytes]]
# What the engine produces. A plain tuple of this shape is the cheap spelling of an `Output`, for the hot path.
Row = tuple[str, bytes | None, bytes | None, int, Headers | None]


class Output(NamedTuple):
    """One message to produce; partition -1 lets the key decide (murmur2, as every other client)."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1
    headers: Headers | None = None


class Overlay(Protocol):
    """What a stage sees of its state: the local store and, over it, what this batch has changed.

    A scope is one partition of one input topic; keys of different scopes never meet. The engine's own is in
    `processors.store`.
    """

    def load(self, topic: str, partition: int, keys: Iterable[bytes]) -> Mapping[bytes, bytes | None]:
        """Fetch many keys at once, so that `get` finds them in memory; return all that is in memory, to be read only."""
        ...

    def get(self, topic: str, partition: int, key: bytes) -> bytes | None:
        """Return a value, None if there is none."""
        ...

    def put(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Set a value; None deletes. It reaches the store and the changelog only if the batch's transaction commits."""
        ...

    def update(self, topic: str, partition: int, changes: Mapping[bytes, bytes | None]) -> None:
        """Do `put` for many keys."""
        ...

    def scan(self, topic: str, partition: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys that start with ``prefix``, in order, with their values; what is put while scanning is not seen."""
        ...


class Stage(Protocol):
    """One stage of the pipeline. ``name`` goes into group, transactional id and dead letter topics.

    `process` decides from state and messages alone: never from the clock or at random. It may be called again with messages it
    has seen, after `forget`, when a transaction was aborted. A message it cannot read is an output to a dead letter topic; if it
    raises all the same, the engine finds the message that does it and dead-letters that one.
    """

    name: str
    inputs: tuple[str, ...]

    def changelog(self, topic: str) -> str:
        """Name the compacted topic that keeps the state of an input topic; both have the same number of partitions."""
        ...

    def process(self, batch: list[Message], state: Overlay) -> Sequence[Row]:
        """Return what to produce for a batch, in order; state changes go into ``state``."""
        ...

    def forget(self) -> None:
        """Drop every object derived from the overlay of the last `process`: its transaction was aborted, or partitions moved."""
        ...

    def applied(self) -> None:
        """Take note that what the last `process` did is committed and stands in the local store."""
        ...
