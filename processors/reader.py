"""A member of a consumer group that reads a partition only once its worker is ready for it, and from exactly where it says.

The group may give and take partitions in the middle of any poll. So the callbacks only take note; the worker looks at `gained`
after each `read`, does what it must (restore state, send a barrier) and calls `start`. Every change of position, at the start, after
an abort and after a rebalance, is one `assign` with explicit offsets: it drops what was fetched ahead, which pause and seek do
not reliably do.
"""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from processors.store import MB, Scope
from tidelock.kafka import Batches, translate

# One worker reads what it can process, a few MB at a time; larger fetches only cost memory, several times their own size.
SMALL_FETCHES = {
    "fetch_max_bytes": 4 * MB,
    "max_partition_fetch_bytes": MB,
    "queued_max_messages_kbytes": 8192,
}


class Reader:
    """Read topics as a group member. Not thread-safe: one worker, one loop."""

    def __init__(self, consumer: Consumer, topics: Iterable[str], *, most: int = 4000) -> None:
        self.consumer = consumer
        self.gained: set[Scope] = set()  # given by the group, not started
        self.next: dict[Scope, int] = {}  # started: the offset of the next message to be taken
        self.moves = 0  # how often partitions came or went
        self._batches = Batches(consumer, most=most)
        self.consumer.subscribe(list(topics), on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.moves += 1
        self.gained = {(p.topic, p.partition) for p in partitions}
        self.next.clear()
        consumer.assign([])

    def _taken(self, consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        """Let go; nothing of these partitions is unfinished, because no transaction is open while the worker reads."""
        self.moves += 1
        self.gained.clear()
        self.next.clear()
        consumer.unassign()

    def read(self, wait_s: float) -> list[Message]:
        """Return messages of started partitions, waiting up to ``wait_s`` for the first. Raises Retry or Fatal.

        What was read before a rebalance within the same call is dropped: it may be somebody else's now.
        """
        moves = self.moves
        try:
            messages = self._batches.next(wait_s)
        except KafkaException as error:
            raise translate(error, "reading") from error
        return messages if moves == self.moves else []

    def committed(self, scopes: Iterable[Scope], timeout_s: float = 30.0) -> dict[Scope, int]:
        """Return where the group goes on in these partitions, `OFFSET_BEGINNING` where it never was. Raises Retry or Fatal.

        It waits for transactions that are about to commit offsets here (KIP-447), so it is never too old.
        """
        asked = [TopicPartition(topic, partition) for topic, partition in scopes]
        try:
            answer = self.consumer.committed(asked, timeout=timeout_s)
        except KafkaException as error:
            raise translate(error, "asking for committed offsets") from error
        for p in answer:
            if p.error is not None:
                raise translate(KafkaException(p.error), f"asking for the committed offset of {p.topic}/{p.partition}")
        return {(p.topic, p.partition): p.offset if p.offset >= 0 else OFFSET_BEGINNING for p in answer}

    def start(self, positions: dict[Scope, int]) -> None:
        """Begin to read gained partitions at these offsets; those that are read already go on where they are."""
        self.gained -= positions.keys()
        self.next.update(positions)
        self.rewind()

    def rewind(self) -> None:
        """Go back to the next message to be taken in every partition."""
        self.consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in self.next.items()])

    def take(self, messages: list[Message]) -> dict[Scope, int]:
        """Return, per partition, the offset behind the last message: where reading goes on once these are done."""
        ends: dict[Scope, int] = {}
        for message in messages:
            ends[message.topic(), message.partition()] = message.offset()
        return {scope: offset + 1 for scope, offset in ends.items()}

    def close(self) -> None:
        """Leave; a static member's partitions stay reserved for it until the session times out."""
        self.consumer.close()
