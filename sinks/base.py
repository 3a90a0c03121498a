"""What all sinks share: their contract. Batching, retry, breaker, bisecting, tracing and metrics are around it, not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tidelock.context import Context
from tidelock.envelopes import Receipt, Write
from tidelock.errors import Lost as Lost  # part of a sink's contract, so it can be had from here, too

Outcome = Receipt
Scope = tuple[str, int]  # topic, partition


class Sink(Protocol):
    """Write to one system. Found by entry point ``tidelock.sinks`` under the name in `SystemSpec.kind`."""

    def __init__(self, context: Context, system: str) -> None: ...

    def setup(self) -> None:
        """Connect, and create or check what writing needs. Raises Fatal with the way out, or Retry.

        Of a system with several tenants: nothing that only one of them needs. A tenant that is down at the start holds up no other.
        """

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out writes of one entity in one tenant (`Write.tenant`) and return what became of each, in the same order.

        The batch holds at most one write per record; values are generic Avro values (`sinks.instructions`). An outcome names the
        native key, columns that were left alone, and under ``values`` (generic values) what stands there now where that is not just
        what was written. All or nothing: when it raises, nothing of the batch has happened. Raises Reject if a record of the batch
        is bad (the caller finds out which, by halves), Retry (`Revoked` if only a person can mend it), or Fatal. Where there are several
        tenants, the error is this tenant's alone.
        """

    def close(self) -> None:
        """Let go of every connection."""


@runtime_checkable
class SideBySide(Protocol):
    """A sink whose tenants may be written at the same time, so that a slow one does not hold up the others.

    `Sink.write` is then called from several threads: never by two for one tenant, and never for more than ``tenants_at_once`` of them.
    """

    tenants_at_once: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What the destination remembers of one partition.

    ``next`` is the offset behind the last message that was written there (-1: none), ``since`` the first one of the transaction that
    did it, and ``memo`` what became of these messages where it is not the usual (`sinks.packs`).
    """

    next: int = -1
    since: int = -1
    memo: bytes = b""


@dataclass(frozen=True, slots=True)
class Done:
    """What is stored together with the writes of one step: per partition as `Kept`, and receipts for the system's own log."""

    kept: Mapping[Scope, Kept]
    receipts: bytes = b""


@runtime_checkable
class Transactional(Protocol):
    """A sink that keeps the offsets of what it has written in the same transaction: every write happens once.

    `Sink.write` then only adds to a transaction, which `commit` ends.
    """

    receipts_in_log: bool

    def claim(self, consumer: str, scopes: Mapping[Scope, str]) -> dict[Scope, Kept]:
        """Take over partitions (given with the id of their topic) from whoever had them, and return what is known of them.

        An earlier owner that still writes fails at its `commit`. Raises Retry or Fatal.
        """

    def commit(self, done: Done) -> None:
        """Store and end the transaction. Raises Lost if the partitions are another worker's now or the outcome is unknown."""

    def abort(self) -> None:
        """Undo what has not been committed; the connection is made again at the next use if it is broken."""
