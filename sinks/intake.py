"""Reading writes as a member of the sink's consumer group, from exactly where the sink says.

The group may give and take partitions within any poll, so its callbacks only take note; the worker looks at `gained` after each `read`
and calls `start`. Every change of position is one `assign` with explicit offsets, which also drops what was fetched ahead.
"""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicCollection, TopicPartition

from sinks.base import Scope
from tidelock.context import Context
from tidelock.errors import Fatal
from tidelock.kafka import Batches, translate


class Intake:
    """Partitions of one worker. Not thread-safe."""

    def __init__(self, context: Context, group: str, topics: list[str], most: int) -> None:
        self._context = context
        self._topics = topics
        self._consumer: Consumer = context.kafka.consumer(
            context.name, group, group_instance_id=context.name, max_poll_interval_ms=900_000
        )
        self._batches = Batches(self._consumer, most=most)
        self._ids: dict[str, str] = {}
        self.owned: set[Scope] = set()  # given by the group
        self._moves = 0
        self.gained: set[Scope] = set()  # given by the group, not started
        self.next: dict[Scope, int] = {}  # started: the offset of the next message to be taken
        self._consumer.subscribe(topics, on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.owned = {(p.topic, p.partition) for p in partitions}
        self.gained = set(self.owned)
        self.next.clear()
        self._moves += 1
        consumer.assign([])

    def _taken(self, consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self.owned.clear()
        self.gained.clear()
        self.next.clear()
        self._moves += 1
        consumer.unassign()

    def read(self, wait_s: float) -> list[Message]:
        """Return messages of started partitions, waiting up to ``wait_s`` for the first. Raises Retry or Fatal.

        What was read before a move within the same call is dropped: it may be somebody else's now.
        """
        moves = self._moves
        try:
            messages = self._batches.next(wait_s)
        except KafkaException as error:
            raise translate(error, "reading") from error
        return messages if moves == self._moves else []

    def topic_ids(self) -> dict[Scope, str]:
        """Return the ids of the topics of gained partitions: a topic made anew has another one. Raises Retry or Fatal."""
        if missing := sorted({t for t, _ in self.gained} - self._ids.keys()):
            try:
                admin = self._context.kafka.admin()  # kept until the answers are there: a destroyed client gives none
                for name, future in admin.describe_topics(TopicCollection(missing)).items():
                    self._ids[name] = str(future.result(30).topic_id)
            except KafkaException as error:
                raise translate(error, "looking at topics") from error
        return {scope: self._ids[scope[0]] for scope in self.gained}

    def committed(self) -> dict[Scope, int]:
        """Return where the group goes on in gained partitions, -1 where it never was. Raises Retry or Fatal."""
        asked = [TopicPartition(t, p) for t, p in sorted(self.gained)]
        try:
            answer = self._consumer.committed(asked, timeout=30.0)
        except KafkaException as error:
            raise translate(error, "asking for committed offsets") from error
        for p in answer:
            if p.error is not None:
                raise translate(KafkaException(p.error), f"asking for the committed offset of {p.topic}/{p.partition}")
        return {(p.topic, p.partition): max(p.offset, -1) for p in answer}

    def start(self, positions: Mapping[Scope, int]) -> None:
        """Begin to read gained partitions at these offsets (-1: at their beginning)."""
        self.gained -= positions.keys()
        self.next.update({s: o if o >= 0 else OFFSET_BEGINNING for s, o in positions.items()})
        self._assign()

    def stop(self) -> None:
        """Read nothing until partitions are started again; they stay this worker's."""
        self.next.clear()
        self.gained = set(self.owned)
        self._consumer.assign([])

    def commit(self, ends: Mapping[Scope, int]) -> None:
        """Tell the group how far this worker has come. Raises Retry or Fatal."""
        if not ends:
            return
        offsets = [TopicPartition(t, p, offset) for (t, p), offset in ends.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise translate(error, "committing offsets") from error

    def close(self) -> None:
        """Leave; a static member's partitions stay reserved for it until its session times out."""
        try:
            self._consumer.close()
        except KafkaException as error:
            raise Fatal(f"Kafka, leaving the group: {error}") from error

    def _assign(self) -> None:
        self._consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in self.next.items()])
