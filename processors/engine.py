"""Exactly once between topics: one consumer, one transactional producer, one local store, one stage.

The commit order, with the fault points (`tidelock.faults`) between its steps:

1.  read a batch                                                                    → ``engine.consumed``
    process it into an overlay on the local store                                   → ``engine.processed``
2.  begin a transaction                                                             → ``engine.begun``
    produce the outputs, and one changelog record per changed key                   → ``engine.produced``
3.  send the input offsets (last + 1) to the transaction                            → ``engine.offsets_sent``
    commit                                                                          → ``engine.committed``
4.  apply overlay, changelog offset and input offset to the local store in one atomic write → ``engine.applied``

The local store never holds what is not committed. So an abort drops the overlay and goes back to the last taken offset; a death
before the commit leaves nothing (the transactional id is the slot's own, the next start ends what is open); a death after it
leaves a store that is a little older than its changelog, which the restore replays before anything is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog
from confluent_kafka import Message, TopicPartition

from processors.reader import SMALL_FETCHES, Reader
from processors.restore import DELETE_RETENTION_S, Restorer
from processors.stage import Row, Stage
from processors.store import Mark, Overlay, Scope, Store
from processors.transaction import Transaction
from tidelock import faults
from tidelock.context import Context
from tidelock.deadletter import dead_letter
from tidelock.errors import Fatal, Reject, Retry
from tidelock.kafka import close

log = structlog.get_logger()

# So many messages in a row that raise are no bad records: the stage or the configuration is broken. They may come in several
# batches; then those before the last one are dead letters already, fewer than this, and committed as such.
BAD_RUN = 100
_TOUCH_S = 60.0
_FLUSH_S = 600.0


class Engine:
    """Run one stage: call `step` in a loop, `close` at the end. Both raise Fatal only; passing troubles are waited out in `step`."""

    def __init__(
        self, context: Context, stage: Stage, *, most: int = 4000, delete_retention_s: float = DELETE_RETENTION_S
    ) -> None:
        self._context = context
        self._stage = stage
        name = context.name
        group = f"{context.config.prefix}{stage.name}"
        # First of all: whatever an earlier life of this slot left open ends here, and holds up no reader.
        self._transaction = Transaction(context.kafka, name, f"{group}-{context.slot}", context.stop)
        self.store = Store(context.data)
        self._plain = context.kafka.producer(f"{name}-activity")
        self._restorer = Restorer(context.kafka, name, self.store, delete_retention_s=delete_retention_s)
        self._reader = Reader(
            context.kafka.consumer(name, group, group_instance_id=name, **SMALL_FETCHES, max_poll_interval_ms=900_000),
            stage.inputs,
            most=most,
        )
        self._moves = 0
        self._ids: dict[Scope, str] = {}
        self._ends: dict[Scope, int] = {}  # changelog offsets reported by the broker for the open transaction
        self._bad_run = self._bad_committed = (
            0  # messages in a row that raised, as far as processed and as far as committed
        )
        self._failures = 0
        self._touched = self._flushed = time.monotonic()

    @property
    def partitions(self) -> frozenset[Scope]:
        """Return the input partitions that are restored and read now."""
        return frozenset(self._reader.next)

    def step(self, wait_s: float) -> int:
        """Take one batch, waiting up to ``wait_s`` for its first message; return how many messages are done. Raises Fatal."""
        try:
            messages = self._reader.read(wait_s)
            if self._moves != self._reader.moves:
                self._moves = self._reader.moves
                self._stage.forget()
            if self._reader.gained:
                self._restore()
            elif messages:
                self._batch(messages)
            self._failures = 0
            self._housekeeping()
        except Retry as error:
            self._again(error)
            return 0
        return len(messages) if self._reader.next else 0

    def close(self) -> None:
        """Stop in order: nothing is open between two steps, so there is nothing to wait for."""
        self._transaction.close()
        self.store.touch(self.partitions)
        self._reader.close()
        self.store.close()
        self._context.activity.publish(self._plain, self._context.codec, self._context.topics, force=True)
        close(self._plain)

    def _restore(self) -> None:
        """Bring the state of newly gained partitions up to date, and only then read them."""
        scopes = set(self._reader.gained)
        # The order matters: committed() waits for transactions that are being committed, so the changelog's end comes after it.
        positions = self._reader.committed(scopes)
        self._restorer.restore({scope: self._stage.changelog(scope[0]) for scope in scopes})
        self._reader.start(positions)

    def _batch(self, messages: list[Message]) -> None:
        ends = self._reader.take(messages)
        if faults.ENABLED:
            faults.point("engine.consumed")
        overlay = Overlay(self.store)
        rows = self._process(messages, overlay)
        if faults.ENABLED:
            faults.point("engine.processed")
        self._commit(rows, overlay, ends)
        if faults.ENABLED:
            faults.point("engine.committed")
        now = time.time()
        self.store.write(
            overlay.changes,
            {scope: self._mark(scope, end, now) for scope, end in ends.items()},
        )
        self._reader.next.update(ends)
        self._bad_committed = self._bad_run
        self._stage.applied()
        if faults.ENABLED:
            faults.point("engine.applied")

    def _commit(self, rows: Sequence[Row], overlay: Overlay, ends: dict[Scope, int]) -> None:
        transaction = self._transaction
        self._ends = {}
        transaction.begin()
        if faults.ENABLED:
            faults.point("engine.begun")
        transaction.produce(rows)
        for scope, changes in overlay.changes.items():
            self._log_changes(scope, list(changes.items()))
        if faults.ENABLED:
            faults.point("engine.produced")
        offsets = [TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()]
        transaction.send_offsets(offsets, self._reader.consumer)
        if faults.ENABLED:
            faults.point("engine.offsets_sent")
        transaction.commit()

    def _log_changes(self, scope: Scope, changes: list[tuple[bytes, bytes | None]]) -> None:
        """Queue one changelog record per changed key; only the last one's offset is asked for."""
        if not changes:
            return
        topic, partition = self._stage.changelog(scope[0]), scope[1]
        self._transaction.produce((topic, key, value, partition, None) for key, value in changes[:-1])

        def done(error: Any, message: Message) -> None:
            if error is None:
                self._ends[scope] = message.offset() + 1

        self._transaction.produce_marked(topic, partition, *changes[-1], done)

    def _mark(self, scope: Scope, end: int, now: float) -> Mark:
        """Say how far the store will reach. Without a new changelog offset the old one stays, which is never too far."""
        before = self.store.mark(scope)
        assert before is not None, f"{scope} is read but was never restored"
        return Mark(self._ends.get(scope, before.changelog), end, now, before.topic_id)

    def _process(self, messages: list[Message], overlay: Overlay) -> Sequence[Row]:
        try:
            rows = self._stage.process(messages, overlay)
        except (Retry, Fatal):
            raise
        except Exception as error:  # noqa: BLE001 -- one message's trouble must not stop the others
            log.warning("a batch raised; taking its messages one by one", worker=self._context.name, error=repr(error))
            rows = self._one_by_one(messages, overlay)
        else:
            self._bad_run = 0
        return rows

    def _one_by_one(self, messages: list[Message], overlay: Overlay) -> list[Row]:
        """Process a batch that raised message by message, and send to the dead letters those that raise by themselves."""
        self._stage.forget()
        overlay.clear()
        rows: list[Row] = []
        for message in messages:
            overlay.savepoint()
            try:
                rows += self._stage.process([message], overlay)
                self._bad_run = 0
            except (Retry, Fatal):
                raise
            except Exception as error:  # noqa: BLE001 -- the same
                self._stage.forget()
                overlay.undo()
                rows.append(self._dead_letter(message, error))
        return rows

    def _dead_letter(self, message: Message, error: Exception) -> Row:
        """Make the dead letter of a message that the stage cannot take. Raises Fatal if too many in a row cannot be taken."""
        where = f"{message.topic()}/{message.partition()}@{message.offset()}"
        self._bad_run += 1
        if self._bad_run >= BAD_RUN:
            raise Fatal(
                f"{self._stage.name} failed on {BAD_RUN} messages in a row, the last one {where}: {error!r}",
                hint="this is no bad record: look at the configuration and the version; nothing of this batch was committed, "
                "and what failed in batches before it is in the dead letters",
            ) from error
        entity = str(message.topic()).rsplit(".", 1)[-1]
        self._context.activity.count("dead_letters", "hub", entity)
        log.error("dead letter", worker=self._context.name, message=where, error=repr(error))
        kind = error.kind if isinstance(error, Reject) else f"bug.{type(error).__name__}"
        return dead_letter(self._context.topics, message, self._stage.name, "hub", entity, kind, str(error))

    def _again(self, error: Retry) -> None:
        """Abort what is open, forget what was derived from it, wait a little longer each time, and go back."""
        self._transaction.abort()
        self._stage.forget()
        self._bad_run = self._bad_committed  # the same messages come again
        self._failures += 1
        wait_s = error.retry_after_s or min(0.1 * 2 ** min(self._failures - 1, 6), 5.0)
        log.warning("trying again", worker=self._context.name, error=str(error), seconds=wait_s)
        self._context.stop.wait(wait_s)
        self._reader.rewind()

    def _housekeeping(self) -> None:
        """Publish activity; keep the marks of idle partitions young; put the store on disk once in a while."""
        context = self._context
        context.activity.publish(self._plain, context.codec, context.topics)
        now = time.monotonic()
        if now - self._touched > _TOUCH_S:
            self._touched = now
            self.store.touch(self.partitions)
        if now - self._flushed > _FLUSH_S:
            self._flushed = now
            self.store.flush()
