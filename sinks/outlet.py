"""What a sink worker sends to Kafka: one producer, and whether everything has arrived."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tidelock.context import Context
from tidelock.errors import TidelockError
from tidelock.kafka import close, flush, translate


class Outlet:
    """The producer of one worker. Not thread-safe."""

    def __init__(self, context: Context) -> None:
        self.producer: Producer = context.kafka.producer(context.name)
        self._failure: tuple[str, KafkaError] | None = None

    def produce(
        self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Any = None
    ) -> None:
        """Send one message; it blocks while the local queue is full. Raises Retry or Fatal."""
        while True:
            try:
                self.producer.produce(topic, value, key, partition, on_delivery=self._delivered, headers=headers or [])
                return
            except BufferError:
                self.producer.poll(0.1)
            except KafkaException as error:
                raise translate(error, f"writing to {topic}") from error

    def flush(self) -> TidelockError | None:
        """Wait until Kafka has answered for everything; return why something has not arrived. Raises Retry if it takes too long."""
        flush(self.producer)
        if self._failure is None:
            return None
        (topic, error), self._failure = self._failure, None
        return translate(KafkaException(error), f"writing to {topic}")

    def close(self) -> None:
        """Let go of the producer."""
        close(self.producer)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = (str(message.topic()), error)
