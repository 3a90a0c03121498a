"""The capture worker: one system's producer, found by entry point, in the loop that every worker runs in."""

from __future__ import annotations

from importlib.metadata import entry_points

from producers.base import Producer
from tidelock.context import Context
from tidelock.errors import Fatal
from tidelock.kafka import close

GROUP = "tidelock.producers"


class CaptureWorker:
    """Step a producer and tell what it did."""

    def __init__(self, context: Context, system: str) -> None:
        self._context = context
        kind = context.config.systems[system].capture
        points = {p.name: p for p in entry_points(group=GROUP)}
        if kind not in points:
            raise Fatal(
                f"there is no capture {kind!r} for system {system}",
                hint=f"installed: {', '.join(sorted(points))}; set `systems.{system}.capture`",
            )
        self._producer: Producer = points[kind].load()(context, system)
        self._activity_producer = context.kafka.producer(f"{context.name}-activity")
        self._producer.setup()

    def step(self, wait_s: float) -> int:
        """Capture one bounded batch."""
        done = self._producer.step(wait_s)
        self._context.activity.publish(self._activity_producer, self._context.codec, self._context.topics)
        return done

    def close(self) -> None:
        """Close the source's connections."""
        self._producer.close()
        close(self._activity_producer)
