"""What a sink says to the rest of the world: receipts, audit, dead letters, alerts, spans."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

from opentelemetry.trace import SpanKind

from sinks.packs import Fate, audit_bodies, logged, receipts_bodies
from sinks.plan import Item
from tidelock.context import Context
from tidelock.deadletter import dead_letter
from tidelock.envelopes import OUTCOMES, REJECTED, TENANT_OFF, TENANT_WAITS, UNSEEN_EDIT, Entry
from tidelock.errors import Retry, Revoked
from tidelock.tracing import Headers, Tracing

# What merge parks and tries again by itself when what blocks it has moved: no dead letters.
WAITING = frozenset({"missing_parent", "foreign_key", TENANT_WAITS, TENANT_OFF, UNSEEN_EDIT})
IDENTITY = "identity:"  # before the entity in a logged pack: it is the fate of a create, for the identity topic


Pack = tuple[str, str, int]  # entity, tenant, journal partition: what one pack is about


def tenant_of(item: Item) -> str:
    """Return the tenant of a message that could be read."""
    assert item.write is not None
    return item.write.tenant


class Produce(Protocol):
    """Send one message."""

    def __call__(
        self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Headers | None = None
    ) -> None: ...


class Reports:
    """Make and send the reports of one worker."""

    def __init__(self, context: Context, system: str, produce: Produce, tracing: Tracing) -> None:
        self._context = context
        self._system = system
        spec = context.config.systems[system]
        self._captured = spec.capture != "none"
        self._produce = produce
        self._tracing = tracing
        self._receipts = context.codec.header("receipts")
        self._audit = context.codec.header("audit")
        self._entry = context.codec.header("entry")

    def send(self, items: Sequence[Item], *, receipts: bool, attempts: int = 1) -> None:
        """Produce receipts (unless the destination's log carries them), audit, dead letters and spans."""
        now = time.time_ns() // 1000
        t, produce = self._context.topics, self._produce
        if receipts:
            creates, packs = self._sorted(items)
            plain = not self._captured and all(
                i.write is not None and i.fate is not None and i.fate.plain for i in items
            )
            for (entity, tenant, partition), encoded in packs.items():
                for body in receipts_bodies(self._system, tenant, entity, now, encoded, plain=plain):
                    produce(t.journal(entity), None, self._receipts + body, partition)
            for item, fate in creates:
                produce(t.identity(item.entity), None, self._created(item, fate, now), 0)
        worker = self._context.name
        for (entity, tenant, _), done in self._by_partition(items).items():
            for body in audit_bodies(self._system, tenant, entity, worker, now, done):
                produce(t.ops("audit"), worker.encode(), self._audit + body)
        for item in items:
            if item.trouble is not None or (
                item.fate is not None and item.fate.outcome == REJECTED and item.fate.kind not in WAITING
            ):
                self._dead(item, attempts)
        if self._tracing.bound:
            self._trace(items, now)

    def for_log(self, items: Sequence[Item]) -> bytes:
        """Return all receipts as the content of a logical message (`sinks.packs.logged`)."""
        now = time.time_ns() // 1000
        creates, packs = self._sorted(items)
        out = [
            logged(entity, partition, body)
            for (entity, tenant, partition), encoded in packs.items()
            for body in receipts_bodies(self._system, tenant, entity, now, encoded)
        ]
        for item, fate in creates:
            body = receipts_bodies(self._system, tenant_of(item), item.entity, now, [fate.receipt])[0]
            out.append(logged(IDENTITY + item.entity, item.scope[1], body))
        return b"".join(out)

    def outage(self, error: Retry) -> None:
        """Tell people that a destination does not take writes."""
        hint = error.hint or "look at the destination; writing goes on by itself, nothing is lost"
        self._down("warning", str(error.message), hint)

    def recovered(self) -> None:
        """Tell people that it does again."""
        self._down("info", f"system {self._system} takes writes again", "nothing to do")

    def revoked(self, error: Revoked | None) -> None:
        """Tell people that the credentials are no longer good, or (None) that they are again."""
        severity, text, hint = "info", f"the credentials of system {self._system} are good again", "nothing to do"
        if error is not None:
            severity, text = "critical", f"system {self._system} takes no writes: {error.message}"
            hint = error.hint or "sign in again, or correct `credentials`; nothing is lost, writing goes on by itself"
        kind = "credentials_revoked"
        self.alert(kind, f"{kind}/{self._system}", self._system, severity, text, hint)

    def signal(self, key: str, content: dict[str, Any] | None) -> None:
        """Write one JSON record (or a tombstone) to ``ops.signals``."""
        value = None if content is None else json.dumps(content, separators=(",", ":")).encode()
        self._produce(self._context.topics.ops("signals"), key.encode(), value)

    def _sorted(self, items: Sequence[Item]) -> tuple[list[tuple[Item, Fate]], dict[Pack, list[bytes]]]:
        """Return the fates of creates that identify has to hear first, and the other receipts by pack."""
        creates: list[tuple[Item, Fate]] = []
        packs: dict[Pack, list[bytes]] = {}
        for item in items:
            if item.write is None or item.fate is None:
                continue
            if self._captured and item.write.op == "create":
                creates.append((item, item.fate))
            else:
                packs.setdefault((item.entity, item.write.tenant, item.scope[1]), []).append(item.fate.receipt)
        return creates, packs

    def _by_partition(self, items: Sequence[Item]) -> dict[Pack, list[tuple[int, bytes]]]:
        out: dict[Pack, list[tuple[int, bytes]]] = {}
        for item in items:
            if item.fate is not None:
                pack = item.entity, tenant_of(item), item.scope[1]
                out.setdefault(pack, []).append((item.fate.outcome, item.value))
        return out

    def _created(self, item: Item, fate: Fate, now: int) -> bytes:
        assert item.write is not None
        body = receipts_bodies(self._system, item.write.tenant, item.entity, now, [fate.receipt])[0]
        entry = Entry(
            "created",
            item.write.canonical_id,
            self._system,
            item.write.tenant,
            fate.native_key or "",
            partition=item.scope[1],
            payload=self._receipts + body,
        )
        return self._entry + entry.encode()

    def _dead(self, item: Item, attempts: int) -> None:
        trouble, fate, write = item.trouble, item.fate, item.write
        kind, text, field = (trouble.kind, str(trouble), trouble.field) if trouble is not None else ("", "", None)
        if fate is not None:
            kind, text, field = fate.kind or OUTCOMES[fate.outcome], fate.message, fate.field or None
        letter = dead_letter(
            self._context.topics,
            item.message,
            "sink",
            self._system,
            item.entity,
            kind,
            text,
            field=field,
            canonical_id=write.canonical_id if write is not None else None,
            trace=write.event_id.hex() if write is not None else None,
            attempts=attempts,
        )
        topic, key, value, partition, headers = letter
        self._produce(topic, key, value, partition, headers)
        self._context.activity.count("dead_letters", self._system, item.entity)

    def _trace(self, items: Sequence[Item], now: int) -> None:
        for item in items:
            write, fate = item.write, item.fate
            if write is None or fate is None or not self._tracing.sampled(write.event_id):
                continue
            headers = [(n, v) for n, v in item.message.headers() or () if isinstance(v, bytes)]
            outcome = OUTCOMES[fate.outcome]
            self._tracing.step(
                write.event_id,
                f"write {self._system}",
                SpanKind.CONSUMER,
                int(item.message.timestamp()[1]) * 1000 or now,
                now,
                headers,
                {
                    "tidelock.outcome": outcome,
                    "tidelock.entity": item.entity,
                    "tidelock.canonical_id": write.canonical_id,
                },
                None if outcome in ("applied", "stale") else fate.kind or outcome,
            )

    def _down(self, severity: str, message: str, hint: str) -> None:
        kind = "destination_down"
        self.alert(kind, f"{kind}/{self._system}", self._system, severity, message, hint)

    def alert(self, kind: str, fingerprint: str, subject: str, severity: str, message: str, hint: str) -> None:
        """Tell people: one record on ``ops.alerts``; equal fingerprints are the same trouble."""
        value = self._context.codec.encode(
            "alert",
            {
                "fingerprint": fingerprint,
                "kind": kind,
                "severity": severity,
                "system": self._system,
                "entity": "",
                "subject": subject,
                "message": message,
                "hint": hint,
                "at": time.time_ns() // 1000,
            },
        )
        self._produce(self._context.topics.ops("alerts"), fingerprint.encode(), value)
