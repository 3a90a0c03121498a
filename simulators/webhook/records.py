"""The records of the webhook system: any kind, any fields, with a version, a time and who wrote them last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simulators.base import Simulator
from simulators.places import Log, Place

OWN = frozenset({"id", "version", "created_at", "updated_at", "origin", "deleted"})
"""What the system writes itself; in what is written to it, it is left out, except for the id of a new record."""
_KEPT = 100_000


@dataclass(slots=True)
class Record:
    """One record; one that was deleted stays as a tombstone."""

    kind: str
    id: str
    fields: dict[str, Any]
    version: int
    created_ms: int
    at_ms: int
    origin: str | None
    """Who wrote it last: a name that the writer gave, or null for a user."""
    deleted: bool = False

    def shown(self) -> dict[str, Any]:
        """Return it as lists and full messages show it."""
        done = {"id": self.id, **self.fields, "version": self.version}
        done |= {"created_at": stamp(self.created_ms), "updated_at": stamp(self.at_ms), "origin": self.origin}
        return {**done, "deleted": True} if self.deleted else done


@dataclass(frozen=True, slots=True)
class Happened:
    """One change: created, updated or deleted."""

    operation: str
    record: Record
    shown: dict[str, Any]
    at_ms: int


def stamp(ms: int) -> str:
    """Return milliseconds since 1970 as RFC 3339 in UTC."""
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}Z"  # strftime pads no years


class Records:
    """All records. ``resolution_ms`` cuts the times, so that many records share one; ``indexed`` fields can be asked for."""

    def __init__(self, simulator: Simulator, resolution_ms: int, indexed: tuple[str, ...]) -> None:
        self._simulator = simulator
        self._resolution_ms = max(1, resolution_ms)
        self.indexed = indexed
        self.told: Callable[[Happened], None] = lambda _: None
        """Whom changes are told."""
        self._last_ms = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.kinds: dict[str, dict[str, Record]] = {}
        self._logs: dict[str, Log] = {}
        self._by: dict[tuple[str, str, Any], dict[str, None]] = {}
        self.changes: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._next = 0

    def get(self, kind: str, record_id: str) -> Record | None:
        """Return a living record."""
        record = self.kinds.get(kind, {}).get(record_id)
        return None if record is None or record.deleted else record

    def new_id(self, kind: str) -> str:
        """Return an id that nobody has."""
        while True:
            self._next += 1
            record_id = f"{singular(kind)}_{self._next:06d}"
            if record_id not in self.kinds.get(kind, {}):
                return record_id

    def put(self, kind: str, record_id: str, fields: dict[str, Any], origin: str | None, *, whole: bool) -> str:
        """Create a record or change it; ``whole`` removes fields that are not given. Return created, updated or unchanged."""
        record = self.get(kind, record_id)
        values = {name: value for name, value in fields.items() if name not in OWN}
        if record is not None:
            merged = values if whole else {**record.fields, **values}
            if merged == record.fields:
                return "unchanged"
            self._leave(record)
            record.fields, record.version = merged, record.version + 1
        else:
            grave = self.kinds.get(kind, {}).get(record_id)
            if grave is not None:
                self._leave(grave)
            version = 1 if grave is None else grave.version + 1
            record = Record(kind, record_id, values, version, self._now_ms(), 0, origin)
        operation = "created" if record.at_ms == 0 else "updated"
        record.origin = origin
        self._enter(record, operation)
        return operation

    def delete(self, record: Record, origin: str | None) -> None:
        """Delete a record; a tombstone stays."""
        self._leave(record)
        record.deleted, record.origin, record.version = True, origin, record.version + 1
        self._enter(record, "deleted")

    def since(self, kind: str, place: Place, *, deleted: bool) -> Iterator[Record]:
        """Yield the records of a kind behind a place, in order."""
        log = self._logs.get(kind)
        for _, record_id in log.after(place) if log is not None else ():
            record = self.kinds[kind][record_id]
            if deleted or not record.deleted:
                yield record

    def having(self, kind: str, name: str, value: str) -> list[Record]:
        """Return the living records whose indexed field has this value, in order."""
        ids = self._by.get((kind, name, value), {})
        return sorted((self.kinds[kind][i] for i in ids), key=lambda r: (r.at_ms, r.id))

    def _now_ms(self) -> int:
        self._last_ms = max(self._last_ms, int(self._simulator.clock.now() * 1000))
        return self._last_ms // self._resolution_ms * self._resolution_ms

    def _leave(self, record: Record) -> None:
        self._logs[record.kind].left()
        record_id = record.id
        if not record.deleted:
            for name in self.indexed:
                self._by.get((record.kind, name, str(record.fields.get(name))), {}).pop(record_id, None)

    def _enter(self, record: Record, operation: str) -> None:
        kind = record.kind
        record.at_ms = self._now_ms()
        held = self.kinds.setdefault(kind, {})
        held[record.id] = record
        if kind not in self._logs:
            self._logs[kind] = Log(lambda place: held[place[1]].at_ms == place[0])
        self._logs[kind].add((record.at_ms, record.id))
        if not record.deleted:
            for name in self.indexed:
                if record.fields.get(name) is not None:
                    self._by.setdefault((kind, name, str(record.fields[name])), {})[record.id] = None
        shown = record.shown()
        self.changes.append({"operation": operation, "kind": kind, "record": shown})
        self.told(Happened(operation, record, shown, record.at_ms))


def singular(kind: str) -> str:
    """Return the word for one of a kind: contacts → contact, companies → company."""
    if kind.endswith("ies"):
        return kind[:-3] + "y"
    return kind.removesuffix("s")


def plural(word: str) -> str:
    """Return the kind of a word for one: contact → contacts; one that is plural stays."""
    if word.endswith("s"):
        return word
    return word[:-1] + "ies" if word.endswith("y") else word + "s"
