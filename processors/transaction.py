"""A transactional producer whose every call ends in one of three ways: done, aborted, or Fatal.

librdkafka sorts transactional errors into retriable (call again), abortable and fatal; this is where that is acted on
(librdkafka's INTRODUCTION.md, "Transactional producer").
"""

from __future__ import annotations

import contextlib
import faulthandler
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tidelock.errors import Fatal, Retry
from tidelock.kafka import KafkaClients, translate

TIMEOUT_MS = 30_000
OVERDUE_S = 30  # librdkafka's own limits are 10 s; after a broker was killed a call has been seen never to come back


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """End the process if a call hangs: by the commit order that is safe at any point, and the supervisor starts it again.

    faulthandler's timer is a thread of C, so it fires whatever holds the interpreter; it prints where the call hung.
    """
    faulthandler.dump_traceback_later(OVERDUE_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Transaction:
    """One worker slot's transactional producer. Making it fences every earlier one of the same id and ends its transaction."""

    def __init__(self, kafka: KafkaClients, name: str, transactional_id: str, stop: threading.Event) -> None:
        self._stop = stop
        self.producer: Producer = kafka.producer(
            name,
            transactional_id=transactional_id,
            transaction_timeout_ms=TIMEOUT_MS,
            message_timeout_ms=TIMEOUT_MS - 5_000,  # librdkafka asks for less than the transaction's
            linger_ms=1,
            # A transaction that begins while the markers of the last one are being written is told to come again: after
            # librdkafka's default of 100 ms, that was most of a lone event's time.
            retry_backoff_ms=5,
            delivery_report_only_error=False,  # the engine asks for the offset of the last changelog record
        )
        self._open = False
        self._call("starting the transactional producer", self.producer.init_transactions, 10.0)

    def begin(self) -> None:
        """Begin. Raises Retry after an abort, Fatal."""
        self._open = True
        self._call("beginning a transaction", self.producer.begin_transaction)

    def produce(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Queue rows of (topic, key, value, partition, headers). Raises Retry if the transaction has failed, Fatal."""
        produce = self.producer.produce
        for topic, key, value, partition, headers in rows:
            while True:
                try:
                    if headers:
                        produce(topic, value, key, partition, headers=headers)
                    else:
                        produce(topic, value, key, partition)
                    break
                except BufferError:
                    self.producer.poll(0.05)
                except KafkaException as error:
                    raise self._failed(error, f"producing to {topic}") from error

    def produce_marked(
        self, topic: str, partition: int, key: bytes, value: bytes | None, done: Callable[[Any, Any], None]
    ) -> None:
        """Queue one message and have its delivery reported. Raises Retry if the transaction has failed, Fatal."""
        while True:
            try:
                self.producer.produce(topic, value, key, partition, on_delivery=done)
                return
            except BufferError:
                self.producer.poll(0.05)
            except KafkaException as error:
                raise self._failed(error, f"producing to {topic}") from error

    def send_offsets(self, offsets: list[TopicPartition], consumer: Consumer) -> None:
        """Make input offsets part of the transaction. The group's metadata is fetched here, as late as can be: it goes stale."""
        self._call(
            "sending offsets to the transaction",
            lambda: self.producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 10.0),
        )

    def commit(self) -> None:
        """Deliver everything and commit. Raises Retry after an abort, Fatal."""
        self._call("committing", self.producer.commit_transaction, 10.0)
        self._open = False

    def abort(self) -> None:
        """Abort what is open; nothing happens if nothing is. Raises Fatal."""
        if self._open:
            self._call("aborting", self.producer.abort_transaction, 10.0)
            self._open = False

    def close(self) -> None:
        """Abort what is open, as far as the broker can be reached; the next one of the same id does it otherwise."""
        if self._open:
            with contextlib.suppress(KafkaException):
                self.producer.abort_transaction(5.0)
        self._open = False

    def _call(self, doing: str, call: Callable[..., Any], *args: Any) -> None:
        """Call until it is done: a retriable error (also a timeout) leaves the outcome open, and only calling again settles it."""
        while True:
            try:
                with _limited():
                    call(*args)
                return
            except KafkaException as error:
                inner = error.args[0]
                if inner.fatal() or inner.txn_requires_abort() or not inner.retriable():
                    raise self._failed(error, doing) from error
                if self._stop.wait(0.1):
                    raise Fatal(f"Kafka, {doing}: asked to stop while waiting ({inner.str()})") from error

    def _failed(self, error: KafkaException, doing: str) -> Retry | Fatal:
        """Say what an error that is not retriable means: Retry if an abort mends it, else Fatal."""
        inner = error.args[0]
        if not inner.fatal() and (inner.txn_requires_abort() or inner.code() == KafkaError._STATE):
            return Retry(f"Kafka, {doing}: {inner.str()}", hint="the transaction is aborted and its batch taken again")
        known = translate(error, doing)
        if isinstance(known, Fatal):
            return known
        return Fatal(known.message, hint="restart this worker; it goes on from its last committed offset")
