"""Jobs of captures: what is to be read of which tenant, through Kafka, so that any number of workers share the work.

There are two lanes. ``increments`` carries polls and single records to be read again, ``loads`` the parts of first loads; a worker takes
from ``loads`` only when ``increments`` is empty, and every job is bounded, so that a large load never delays the others' increments. A
job's key is its tenant and entity: those of one stay in order.

How far a capture is stands in compacted records on ``ops.signals`` (`State`, `Load`). A job carries the state that it begins with. It is
done when its worker has written the next one; until then its offset is not committed, and whoever takes over does it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from confluent_kafka import Consumer, KafkaException, Message

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
    columns: tuple[str, ...] = ()
    """The columns that were captured; with others than these everything has to be read once more."""
    whole_since: float | None = None
    """A reading that meets everything is going on: what it has not met since then is gone."""
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
    """One piece of work. ``kind``: a kind of run, ``load``, ``read`` (keys), or ``told`` (records that came with a webhook)."""

    kind: str
    tenant: str
    entity: str
    due: float = 0.0
    state: State | None = None
    load: Load | None = None
    keys: list[str] = []
    records: list[dict[str, Any]] = []
    at: float = 0.0
    tries: int = 0


@dataclass(slots=True)
class Taken:
    """A job with the message it came in."""

    job: Job
    lane: Lane
    message: Message


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Job)


def encode(job: Job) -> bytes:
    """Return a job's message."""
    return _encoder.encode(job)


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
        self._consumer: Consumer = context.kafka.consumer(
            f"{context.name}-{lane}", group, max_poll_interval_ms=900_000, queued_min_messages=10
        )
        self._consumer.subscribe([self._topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    def _given(self, _: Consumer, partitions: list[Any]) -> None:
        self.owned |= {p.partition for p in partitions}

    def _taken(self, _: Consumer, partitions: list[Any]) -> None:
        self.owned -= {p.partition for p in partitions}

    @property
    def leads(self) -> bool:
        """Return whether this worker says what is to be done: it is the one that has the first partition."""
        return 0 in self.owned

    def take(self, wait_s: float) -> Taken | None:
        """Return the next job, waiting up to ``wait_s``. A message that is no job is passed over. Raises Retry or Fatal."""
        try:
            message = self._consumer.poll(wait_s)
            if message is None:
                return None
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise translate(KafkaException(error), f"reading {self._topic}")
                return None
        except KafkaException as error:
            raise translate(error, f"reading {self._topic}") from error
        try:
            return Taken(_decoder.decode(message.value() or b""), self.lane, message)
        except msgspec.DecodeError:
            self.done(message)
            return None

    def done(self, message: Message) -> None:
        """Tell the group that a job is done. What is no longer ours somebody else does again, which is harmless. Raises Retry."""
        if message.partition() not in self.owned:
            return
        try:
            self._consumer.commit(message=message, asynchronous=False)
        except KafkaException as error:
            raise translate(error, f"committing {self._topic}") from error

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def pause_s(failures: int) -> float:
    """Return how long to leave a tenant alone after so many failures in a row: 1, 2, 4, … seconds, at most five minutes."""
    return float(min(300.0, 2.0 ** min(failures - 1, 9)))
