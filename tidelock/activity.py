"""What a worker did: counts and latencies, gathered in memory and sent to ``ops.activity`` about once a second.

The hot path adds to a dictionary per batch, never per event; see DESIGN section 3.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from confluent_kafka import Producer

from tidelock.codec import Codec
from tidelock.topics import Topics

# Upper bounds of latency buckets in milliseconds; the last bucket is open.
BUCKETS_MS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000, 30000, 60000)


class Activity:
    """Count what happens by name, system and entity, and publish the differences.

    Names in use: captured, routed, unknown, linked, read, duplicates, echoes, edits, conflicts, parked, flagged, writes, written,
    refused, rejected, held (its tenant takes no writes), stale, dead_letters, retries, api_calls (every request to an API, also those that failed), hooks_accepted,
    hooks_repeated, hooks_ignored, hooks_refused_<why> (`producers.hooks`).
    """

    def __init__(self, worker: str, role: str, every_s: float = 1.0) -> None:
        self.worker = worker
        self.role = role
        self._every_s = every_s
        self._lock = threading.Lock()  # some workers have threads
        self._counts: dict[tuple[str, str, str], int] = defaultdict(int)
        self._latency: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * (len(BUCKETS_MS) + 1))
        self._last = time.monotonic()
        self.totals: dict[str, int] = defaultdict(int)

    def count(self, name: str, system: str, entity: str, n: int = 1) -> None:
        """Add to a count. Any thread may."""
        with self._lock:
            self._counts[name, system, entity] += n
            self.totals[name] += n

    def latency(self, system: str, entity: str, micros: int) -> None:
        """Add one source-commit-to-answer time; call it for a sample of each batch."""
        ms = micros / 1000
        at = next((i for i, bound in enumerate(BUCKETS_MS) if ms <= bound), -1)
        with self._lock:
            self._latency[system, entity][at] += 1

    def publish(self, producer: Producer, codec: Codec, topics: Topics, *, force: bool = False) -> None:
        """Send what came since the last time, if it is time; a heartbeat when nothing came. Not part of any transaction."""
        now = time.monotonic()
        if not force and now - self._last < self._every_s:
            return
        window_s, self._last = now - self._last, now
        with self._lock:
            counts, latencies = list(self._counts.items()), list(self._latency.items())
            self._counts.clear()
            self._latency.clear()
        value = codec.encode(
            "activity",
            {
                "worker": self.worker,
                "role": self.role,
                "at": time.time_ns() // 1000,
                "window_s": window_s,
                "counts": [{"name": n, "system": s, "entity": e, "value": v} for (n, s, e), v in counts],
                "latencies": [{"system": s, "entity": e, "buckets": b} for (s, e), b in latencies],
            },
        )
        producer.produce(topics.ops("activity"), key=self.worker.encode(), value=value)
        producer.poll(0)
