"""Jobs of captures: what is to be read of which tenant, through Kafka, so that any number of workers share the work.

There are two lanes. ``increments`` carries polls and single records to be read again, ``loads`` the parts of first loads. Each has hands
of its own (`producers.crew`), and every job is bounded, so that a large load never delays the others' increments. A job's key is its
tenant and entity: those of one begin in order.

How far a capture is stands in compacted records on ``ops.signals`` (`State`, `Load`). A job carries the state that it begins with. It is
done when its worker has written the next one; until then its offset is not committed, and whoever takes over does it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidelock.context import Context
from tidelock.kafka import translate

Lane = Literal["increments", "loads"]
LANES: tuple[Lane, ...] = ("increments", "loads")
BOUND_S = 10.0
"""A job lets go after so long, and goes on behind the others."""


class State(msgspec.Struct, omit_defaults=True):
    """How far the capture of one entity of one tenant is. ``cursors`` by kind of run, ``ran`` the due times of finished runs."""

    seq: int = 0
    cursors: dict[str, dict[str, Any]] = {}
    ran: dict[str, float] = {}
    more: str | None = None
    """The kind of run that is in the middle of its pages."""
    failures: int = 0
    not_before: float = 0.0
    error: str | None = None


class Load(msgspec.Struct, omit_defaults=True):
    """How far one part of a first load is."""

    id: str
    part: int
    parts: int
    cursor: dict[str, Any]
    where: str | None = None
    rows: int = 0
    done: bool = False
    seq: int = 0
    failures: int = 0
    not_before: float = 0.0
    error: str | None = None


class Job(msgspec.Struct, omit_defaults=True):
    """One piece of work. ``kind``: a kind of run, ``load``, ``read`` (keys), or ``told`` (records that came with a webhook).

    ``hidden``: the sensitive columns of ``records`` are hidden already, and must not be hashed a second time.
    """

    kind: str
    tenant: str
    entity: str
    due: float = 0.0
    state: State | None = None
    load: Load | None = None
    keys: list[str] = []
    records: list[dict[str, Any]] = []
    hidden: bool = False
    at: float = 0.0
    tries: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class Taken:
    """A job, and where it stands in its topic."""

    job: Job
    lane: Lane
    partition: int
    offset: int


_NOT_OURS = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
}
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Job)


def encode(job: Job) -> bytes:
    """Return a job's message."""
    return _encoder.encode(job)


def _decoded(message: Message) -> Job:
    try:
        return _decoder.decode(message.value() or b"")
    except msgspec.DecodeError:
        return Job("none", "", "")


def key_of(tenant: str, entity: str) -> bytes:
    """Return the key of the jobs of one entity of one tenant."""
    return f"{tenant}/{entity}".encode()


def to_json(struct: msgspec.Struct) -> dict[str, Any]:
    """Return a state as plain JSON data."""
    data: dict[str, Any] = msgspec.to_builtins(struct)
    return data


class Queue:
    """The jobs of one lane of one system, as a member of its group. Not thread-safe."""

    def __init__(self, context: Context, system: str, lane: Lane) -> None:
        self.lane: Lane = lane
        self._topic = context.topics.jobs(lane, system)
        group = f"{context.config.prefix}capture.{system}.{lane}"
        self.owned: set[int] = set()
        self.dropped: set[int] = set()
        """Partitions that were taken away since somebody last looked."""
        self._paused = False
        # Cooperative: a worker that comes or goes moves only what has to be moved, so that few jobs are done twice.
        self._consumer: Consumer = context.kafka.consumer(
            f"{context.name}-{lane}",
            group,
            partition_assignment_strategy="cooperative-sticky",
            queued_min_messages=100,
        )
        self._consumer.subscribe([self._topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    def _given(self, _: Consumer, partitions: list[Any]) -> None:
        self.owned |= {p.partition for p in partitions}

    def _taken(self, _: Consumer, partitions: list[Any]) -> None:
        self.owned -= {p.partition for p in partitions}
        self.dropped |= {p.partition for p in partitions}

    @property
    def leads(self) -> bool:
        """Return whether this worker says what is to be done: it is the one that has the first partition."""
        return 0 in self.owned

    def take(self, wait_s: float, most: int = 100) -> list[Taken]:
        """Return the next jobs, waiting up to ``wait_s`` for the first; none of ``most`` is 0, but the group hears of us.

        A message that is no job comes as one of kind ``none``. Raises Retry or Fatal.
        """
        self._hold(most <= 0)
        try:
            first = self._consumer.poll(wait_s)
            found = [] if first is None else [first]
            if found and most > 1:
                found += self._consumer.consume(most - 1, 0.0)
        except KafkaException as error:
            raise translate(error, f"reading {self._topic}") from error
        out = []
        for message in found:
            trouble = message.error()
            if trouble is not None:
                if trouble.fatal():
                    raise translate(KafkaException(trouble), f"reading {self._topic}")
                continue  # passing trouble, which librdkafka mends
            if message.partition() in self.owned:
                out.append(
                    Taken(_decoded(message), self.lane, int(message.partition() or 0), int(message.offset() or 0))
                )
        return out

    def _hold(self, full: bool) -> None:
        """Stop the flow of messages, or let it go on."""
        if full == self._paused:
            return
        try:
            parts = self._consumer.assignment()
            (self._consumer.pause if full else self._consumer.resume)(parts)
        except KafkaException as error:
            raise translate(error, f"reading {self._topic}") from error
        self._paused = full

    def done(self, upto: Mapping[int, int]) -> None:
        """Tell the group how far it is: the next offset by partition. What is no longer ours somebody else does again. Raises Retry."""
        mine = [TopicPartition(self._topic, p, offset) for p, offset in upto.items() if p in self.owned]
        if not mine:
            return
        try:
            self._consumer.commit(offsets=mine, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in _NOT_OURS:
                return  # they were taken away just now: done again elsewhere, which is harmless
            raise translate(error, f"committing {self._topic}") from error

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def pause_s(failures: int) -> float:
    """Return how long to leave a tenant alone after so many failures in a row: 1, 2, 4, … seconds, at most five minutes."""
    return float(min(300.0, 2.0 ** min(failures - 1, 9)))
