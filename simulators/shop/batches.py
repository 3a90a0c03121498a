"""Asynchronous batches: a queue worked off in order, states, results per record that are kept for a while, idempotency keys."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from simulators.base import Simulator
from simulators.shop.problems import Problem
from simulators.shop.resources import RESOURCES, Resource
from simulators.shop.store import OPERATIONS, Done, Store, Writer
from simulators.shop.values import stamp

MOST_RECORDS = 5000
KEEPS_BATCHES_S = 7 * 86_400.0
KEEPS_KEYS_S = 86_400.0
_AT_ONCE = 100
"""Records written before other requests get their turn."""


@dataclass(slots=True)
class Batch:
    """One batch, from its submission to its oblivion."""

    id: str
    resource: Resource
    operation: str
    representation: bool
    records: list[dict[str, Any]]
    writer: Writer
    created_ms: int
    state: str = "queued"
    """queued, processing, done or failed."""
    started_ms: int | None = None
    finished_ms: int | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    succeeded: int = 0
    lost: bool = False
    error: dict[str, Any] | None = None


class Batches:
    """The queue of one shop. ``delay_s`` passes before a batch is begun; results are kept for ``retention_s``."""

    def __init__(
        self, simulator: Simulator, store: Store, seed: int, delay_s: float, retention_s: float, most_waiting: int
    ) -> None:
        self._simulator, self._store = simulator, store
        self._random = random.Random(f"batches-{seed}")
        self._delay_s, self._retention_s, self._most_waiting = delay_s, retention_s, most_waiting
        self._more = asyncio.Event()
        self._released = asyncio.Event()
        self.reset()

    def reset(self) -> None:
        """Forget all batches and keys."""
        self.held: dict[str, Batch] = {}
        self._keys: dict[str, tuple[str, str, int]] = {}
        self._queue: deque[Batch] = deque()

    def submit(self, envelope: dict[str, Any], raw: bytes, key: str | None, writer: Writer) -> Batch:
        """Queue a batch, or return the one that this idempotency key has made already. Raises Problem."""
        self._forget_old()
        digest = hashlib.sha256(raw).hexdigest()
        if key is not None and (known := self._keys.get(key)) is not None:
            if known[1] != digest:
                raise Problem(
                    409, "idempotency_key_reused", "This key came with another body; use a new key for a new batch."
                )
            return self.held[known[0]]
        resource, operation, representation, records = _read(envelope)
        if sum(b.state in ("queued", "processing") for b in self.held.values()) >= self._most_waiting:
            raise Problem(
                429, "queue_full", "Too many batches wait; send this one again later.", headers={"retry-after": "5"}
            )
        batch = Batch(
            f"bat_{self._random.getrandbits(96):024x}",
            resource,
            operation,
            representation,
            records,
            writer,
            self._store.now_ms(),
        )
        self.held[batch.id] = batch
        if key is not None:
            self._keys[key] = (batch.id, digest, batch.created_ms)
        self._queue.append(batch)
        self._more.set()
        return batch

    def get(self, batch_id: str) -> Batch:
        """Return a batch. Raises Problem."""
        batch = self.held.get(batch_id)
        if batch is None or self._old(batch):
            raise Problem(404, "not_found", f"There is no batch {batch_id}; they are kept for 7 days.")
        return batch

    def newest(self) -> list[Batch]:
        """Return all batches that are kept, the newest first."""
        self._forget_old()
        return list(reversed(self.held.values()))

    def results(self, batch: Batch) -> list[dict[str, Any]]:
        """Return the results of a batch that has ended. Raises Problem."""
        if batch.finished_ms is None:
            raise Problem(
                409, "batch_not_done", f"The batch is {batch.state}; ask again later.", headers={"retry-after": "1"}
            )
        if batch.lost or self._store.now_ms() >= self._expiry_ms(batch.finished_ms):
            raise Problem(
                410, "results_expired", "The results are gone: find out by external_ref what was written, then decide."
            )
        return batch.results

    def shown(self, batch: Batch) -> dict[str, Any]:
        """Return a batch as an answer shows it."""
        ended = batch.finished_ms
        return {
            "id": batch.id,
            "resource": batch.resource.name,
            "operation": batch.operation,
            "state": batch.state,
            "records": len(batch.records),
            "processed": len(batch.results),
            "succeeded": batch.succeeded,
            "failed": len(batch.results) - batch.succeeded,
            "created_at": stamp(batch.created_ms),
            "started_at": None if batch.started_ms is None else stamp(batch.started_ms),
            "finished_at": None if ended is None else stamp(ended),
            "results_expire_at": None if ended is None else stamp(self._expiry_ms(ended)),
            "error": batch.error,
        }

    def release(self) -> None:
        """Let batches that a fault keeps in `processing` go on."""
        released, self._released = self._released, asyncio.Event()
        released.set()

    async def work(self) -> None:
        """Work the queue off, one batch after the other, until the simulator stops."""
        clock = self._simulator.clock
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
            batch = self._queue.popleft()
            await clock.until(batch.created_ms / 1000 + self._delay_s)
            batch.state, batch.started_ms = "processing", self._store.now_ms()
            faults, name = self._simulator.faults, batch.resource.name
            if (slow := faults.take("slow_batch", batch.operation, name)) is not None:
                await clock.until(clock.now() + float(slow.more.get("delay_s", 10)))
            if faults.take("stuck_batch", batch.operation, name) is not None:
                self._simulator.background(self._stuck(batch))
                continue
            await self._process(batch)

    async def _stuck(self, batch: Batch) -> None:
        await self._released.wait()
        await self._process(batch)

    async def _process(self, batch: Batch) -> None:
        faults, name = self._simulator.faults, batch.resource.name
        failing = faults.take("failed_batch", batch.operation, name)
        most = int(failing.more.get("after", 0)) if failing is not None else len(batch.records)
        for index, data in enumerate(batch.records[:most]):
            if batch.id not in self.held:
                return  # everything was reset meanwhile
            result = entry(self._store, batch.resource, batch.operation, index, data, batch.writer)
            batch.succeeded += result["status"] != "failed"
            if not batch.representation:
                result["record"] = None
            batch.results.append(result)
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        if failing is not None:
            detail = "The batch broke off; records without a result were not looked at. Submit them again."
            batch.error = Problem(500, "batch_failed", detail).shown()
        batch.lost = faults.take("lost_results", batch.operation, name) is not None
        batch.state = "done" if failing is None else "failed"
        batch.finished_ms = self._store.now_ms()

    def _expiry_ms(self, finished_ms: int) -> int:
        return finished_ms + int(self._retention_s * 1000)

    def _old(self, batch: Batch) -> bool:
        return batch.finished_ms is not None and self._store.now_ms() - batch.finished_ms >= KEEPS_BATCHES_S * 1000

    def _forget_old(self) -> None:
        oldest_ms = self._store.now_ms() - int(KEEPS_KEYS_S * 1000)
        while self._keys and next(iter(self._keys.values()))[2] <= oldest_ms:
            del self._keys[next(iter(self._keys))]
        for batch_id in [batch.id for batch in self.held.values() if self._old(batch)]:
            del self.held[batch_id]


def entry(
    store: Store, resource: Resource, operation: str, index: int, data: dict[str, Any], writer: Writer
) -> dict[str, Any]:
    """Carry out one record of a call with several; return its result, which a failure is too."""
    ref = data.get("external_ref")
    result: dict[str, Any] = {
        "index": index,
        "id": None,
        "external_ref": ref if isinstance(ref, str) else None,
        "status": "failed",
        "http_status": 200,
        "version": None,
        "record": None,
        "error": None,
    }
    try:
        done: Done = store.apply(resource, operation, data, writer)
    except Problem as problem:
        named = data.get("id")
        result["id"] = named if isinstance(named, int) and not isinstance(named, bool) else None
        result |= {"http_status": problem.status, "error": problem.shown()}
        return result
    result |= {"id": done.data["id"], "external_ref": done.data["external_ref"], "status": done.result}
    result |= {"http_status": done.http, "version": done.data["version"], "record": done.data}
    return result


def _read(envelope: dict[str, Any]) -> tuple[Resource, str, bool, list[dict[str, Any]]]:
    unknown = sorted(set(envelope) - {"resource", "operation", "return", "records"})
    if unknown:
        raise Problem(400, "malformed_envelope", f"A batch has no member {unknown[0]!r}.")
    resource, operation = envelope.get("resource"), envelope.get("operation")
    if not isinstance(resource, str) or resource not in RESOURCES:
        raise Problem(400, "malformed_envelope", f"resource is one of {', '.join(RESOURCES)}.")
    if operation not in OPERATIONS:
        raise Problem(400, "malformed_envelope", f"operation is one of {', '.join(OPERATIONS)}.")
    wanted = envelope.get("return", "minimal")
    if wanted not in ("minimal", "representation"):
        raise Problem(400, "malformed_envelope", "return is minimal or representation.")
    return RESOURCES[resource], str(operation), wanted == "representation", records_of(envelope, MOST_RECORDS)


def records_of(envelope: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Return the records of an envelope. Raises Problem if there are none, too many, or one is no object."""
    records = envelope.get("records")
    if not isinstance(records, list) or not records or not all(isinstance(r, dict) for r in records):
        raise Problem(400, "malformed_envelope", "records is an array of objects with at least one.")
    if len(records) > most:
        raise Problem(413, "too_many_records", f"{len(records)} records were sent; at most {most} fit into one call.")
    return records
