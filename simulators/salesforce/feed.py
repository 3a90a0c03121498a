"""Change events: what happened in each transaction, kept for 72 hours and handed to whoever listens."""

from __future__ import annotations

import hashlib
import uuid
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulators.salesforce.schema import Field, Kind
from simulators.salesforce.tables import Row
from simulators.salesforce.times import bulk

RETENTION_S = 72 * 3600.0
_MOST_IDS = 1000
_QUIET = frozenset({"Id", "IsDeleted", "SystemModstamp", "MasterRecordId"})


@dataclass(slots=True)
class Change:
    """One change of one record, as a transaction leaves it."""

    kind: Kind
    type: str
    id: str
    row: Row
    changed: tuple[str, ...] = ()


@dataclass(slots=True)
class Event:
    """One change event; its message is made when somebody wants it."""

    replay: int
    at: float
    kind: Kind
    type: str
    ids: list[str]
    row: Row
    changed: tuple[str, ...]
    origin: str
    user: str
    transaction: str
    sequence: int
    commit: int

    def data(self) -> dict[str, Any]:
        """Return what a subscriber gets."""
        header = {
            "entityName": self.kind.name,
            "recordIds": self.ids,
            "changeType": self.type,
            "changeOrigin": self.origin,
            "transactionKey": self.transaction,
            "sequenceNumber": self.sequence,
            "commitTimestamp": int(self.at * 1000),
            "commitNumber": self.commit,
            "commitUser": self.user,
            "nulledFields": [],
            "diffFields": [],
            "changedFields": [],
        }
        payload: dict[str, Any] = {"ChangeEventHeader": header}
        if self.type == "UPDATE":
            header["changedFields"] = [_spelt(self.kind, name) for name in self.changed]
            header["nulledFields"] = [_spelt(self.kind, name) for name in self.changed if self.row.get(name) is None]
            _fill(payload, self.kind, self.row, self.changed, nulls=True)
        elif self.type in {"CREATE", "UNDELETE"}:
            _fill(payload, self.kind, self.row, tuple(n for n in self.kind.fields if n not in _QUIET), nulls=False)
        return {
            "schema": schema_of(self.kind),
            "payload": payload,
            "event": {"replayId": self.replay},
        }


def schema_of(kind: Kind) -> str:
    """Return the id of the schema of an object's events; it changes with its fields."""
    return hashlib.sha256(" ".join(kind.fields).encode()).hexdigest()[:22]


def _parent(kind: Kind, name: str) -> Field | None:
    part_of = kind.fields[name].part_of
    return kind.fields.get(part_of) if part_of else None


def _inner(kind: Kind, name: str) -> str:
    whole = _parent(kind, name)
    return name.removeprefix(whole.name.removesuffix("Address")) if whole is not None and whole.compound else name


def _spelt(kind: Kind, name: str) -> str:
    whole = _parent(kind, name)
    return f"{whole.name}.{_inner(kind, name)}" if whole is not None else name


def _fill(payload: dict[str, Any], kind: Kind, row: Row, names: Sequence[str], *, nulls: bool) -> None:
    """Put fields into a payload, parts of a compound field inside it."""
    for name in names:
        described = kind.fields[name]
        if described.compound or described.parts:
            continue
        value = row.get(name)
        if value is None and not nulls:
            continue
        if described.type == "datetime" and value is not None:
            value = bulk(value).replace(".000", "")
        whole = _parent(kind, name)
        if whole is None:
            payload[name] = value
        else:
            payload.setdefault(whole.name, {})[_inner(kind, name)] = value


@dataclass(slots=True)
class Feed:
    """The org's event log. ``heard`` is called with every new event."""

    heard: Callable[[Event], None] = lambda _: None
    events: list[Event] = field(default_factory=list)
    next_replay: int = 1000
    next_commit: int = 10_000_000_000
    oldest: int = 1000
    """Replay ids below it are out of the retention."""

    def publish(
        self, changes: Sequence[Change], at: float, origin: str, user: str, *, instead: str | None = None
    ) -> None:
        """Add a transaction's changes; with ``instead``, a gap or an overflow is told in their place."""
        if not changes:
            return
        if self.events and self.events[0].at < at - RETENTION_S:
            self.trim(at)
        transaction, commit = str(uuid.uuid4()), self.next_commit
        self.next_commit += 1
        sequence, same, events = 0, dict[Any, Event](), list[Event]()
        if instead == "overflow":
            firsts = {c.kind.name: c for c in changes}
            changes = [Change(c.kind, "GAP_OVERFLOW", f"{c.kind.prefix}*", c.row) for c in firsts.values()]
        for change in changes:
            type_ = f"GAP_{change.type}" if instead == "gap" else change.type
            key = (change.kind.name, type_, *((n, change.row.get(n)) for n in change.changed))
            if (
                type_ not in {"CREATE", "GAP_OVERFLOW"}
                and (one := same.get(key)) is not None
                and len(one.ids) < _MOST_IDS
            ):
                one.ids.append(change.id)
                continue
            sequence += 1
            event = Event(
                self.next_replay,
                at,
                change.kind,
                type_,
                [change.id],
                change.row,
                change.changed,
                origin,
                user,
                transaction,
                sequence,
                commit,
            )
            self.next_replay += 1
            same[key] = event
            events.append(event)
        self.events += events  # only now, since ids were being added to them
        for event in events:
            self.heard(event)

    def trim(self, now: float) -> None:
        """Drop what is older than the retention."""
        cut = bisect_right(self.events, now - RETENTION_S, key=lambda e: e.at)
        if cut:
            self.oldest = self.events[cut - 1].replay + 1
            del self.events[:cut]

    def since(self, replay: int, now: float) -> list[Event] | None:
        """Return the retained events after a replay id (-1: none, -2: all); None if the id is not a valid one any more."""
        self.trim(now)
        if replay == -1:
            return []
        if replay == -2:
            return list(self.events)
        if replay < self.oldest - 1 or replay >= self.next_replay:
            return None
        return self.events[bisect_right(self.events, replay, key=lambda e: e.replay) :]
