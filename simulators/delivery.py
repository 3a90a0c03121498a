"""Deliveries of webhooks by a simulator: retried on a schedule, and lost, doubled, late or out of order when a fault says so.

Kinds of faults, to be merged into a simulator's `fault_kinds`; their ``path`` is matched with the target URL:

    webhook_lost      the delivery never happens, and is not tried again
    webhook_twice     it is made twice
    webhook_late      it is made ``delay_s`` later
    webhook_shuffled  deliveries wait until ``count`` have come together, then leave in reverse order
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from simulators.base import Simulator

FAULTS = {
    "webhook_lost": "the delivery never happens, and is not tried again",
    "webhook_twice": "the delivery is made twice",
    "webhook_late": "the delivery is made `delay_s` seconds later",
    "webhook_shuffled": "deliveries wait until `count` have come together, then leave in reverse order",
}
_KEPT = 1000


@dataclass(slots=True)
class Delivery:
    """One message to one receiver. ``sign`` gives the headers of an attempt (from 0), which may hold its time.

    ``body_of`` is for vendors who say in the message which attempt it is: it gives the body of an attempt, before ``sign`` is asked.
    """

    url: str
    body: bytes
    sign: Callable[[int], Mapping[str, str]]
    method: str = "POST"
    body_of: Callable[[int], bytes] | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    state: str = "waiting"
    """waiting, done, failed (given up) or lost."""


class Deliveries:
    """The queue of one simulator. ``retries_s`` are the pauses before the second, third, … attempt; then it is given up.

    ``jitter`` is the share by which a pause may be shorter at random; ``concurrency`` is how many attempts go on at once (0: any number).
    """

    def __init__(
        self,
        simulator: Simulator,
        retries_s: Sequence[float],
        timeout_s: float,
        *,
        jitter: float = 0.0,
        concurrency: int = 0,
        seed: int = 0,
    ) -> None:
        self._simulator = simulator
        self._retries_s = tuple(retries_s)
        self._client = httpx.AsyncClient(timeout=timeout_s, follow_redirects=False)
        simulator.at_end.append(self._client.aclose)
        self._held: list[Delivery] = []
        self._jitter = jitter
        self._random = random.Random(seed)
        self._slots = asyncio.Semaphore(concurrency) if concurrency else None
        self.made: deque[Delivery] = deque(maxlen=_KEPT)

    def send(self, delivery: Delivery) -> None:
        """Deliver in the background, as the faults allow."""
        simulator, path = self._simulator, delivery.url
        self.made.append(delivery)
        if simulator.faults.take("webhook_lost", delivery.method, path) is not None:
            delivery.state = "lost"
            return
        if (shuffled := simulator.faults.take("webhook_shuffled", delivery.method, path)) is not None:
            self._held.append(delivery)
            if len(self._held) >= int(shuffled.more.get("count", 2)):
                held, self._held = self._held, []
                simulator.background(self._in_order(held[::-1]))
            return
        late = simulator.faults.take("webhook_late", delivery.method, path)
        delay_s = float(late.more.get("delay_s", 1.0)) if late is not None else 0.0
        simulator.background(self._deliver(delivery, delay_s))
        if simulator.faults.take("webhook_twice", delivery.method, path) is not None:
            simulator.background(self._deliver(delivery, delay_s))

    def shown(self) -> list[dict[str, Any]]:
        """Return the latest deliveries with their attempts, for the control API."""
        return [
            {"url": d.url, "body": d.body.decode(errors="replace"), "state": d.state, "attempts": d.attempts}
            for d in self.made
        ]

    def forget(self) -> None:
        """Drop what is remembered and held back."""
        self.made.clear()
        self._held.clear()

    async def _in_order(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await self._deliver(delivery, 0.0)

    async def _deliver(self, delivery: Delivery, delay_s: float) -> None:
        clock = self._simulator.clock
        if delay_s:
            await clock.until(clock.now() + delay_s)
        for number in range(len(self._retries_s) + 1):
            if number:
                pause_s = self._retries_s[number - 1] * (1.0 - self._jitter * self._random.random())
                await clock.until(clock.now() + pause_s)
            status = await self._attempt(delivery, number)
            if 200 <= status < 300:
                delivery.state = "done"
                return
        delivery.state = "failed"

    def limit(self, concurrency: int) -> None:
        """Let this many attempts go on at once from now on (0: any number); those under way are not counted."""
        self._slots = asyncio.Semaphore(concurrency) if concurrency else None

    async def _attempt(self, delivery: Delivery, number: int) -> int:
        if self._slots is None:
            return await self._request(delivery, number)
        async with self._slots:
            return await self._request(delivery, number)

    async def _request(self, delivery: Delivery, number: int) -> int:
        if delivery.body_of is not None:
            delivery.body = delivery.body_of(number)
        headers = {"content-type": "application/json", **delivery.sign(number)}
        entry: dict[str, Any] = {"at": self._simulator.clock.now(), "number": number}
        try:
            got = await self._client.request(delivery.method, delivery.url, content=delivery.body, headers=headers)
            entry["status"] = got.status_code
        except httpx.HTTPError as error:
            entry["error"] = type(error).__name__
        delivery.attempts.append(entry)
        return int(entry.get("status", 0))
