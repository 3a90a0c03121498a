"""The index that searches read: it follows the writes after a while, so that what was just written is not found yet."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from typing import Any

from simulators.hubspot.kinds import Kind
from simulators.hubspot.records import Origin, Record


class Side:
    """What searches know of one kind: values by id, ids in order, changes in order of time, and ids by value where that was asked."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.documents: dict[int, dict[str, str]] = {}
        self.modified: dict[int, int] = {}
        self.ids: list[int] = []
        self.results: dict[Any, list[int]] = {}
        """What searches found, until something changes."""
        self._log: list[tuple[int, int]] = []
        self._by_value: dict[str, dict[str, set[int]]] = {}

    def put(self, number: int, values: dict[str, str] | None, modified_ms: int) -> None:
        """Take a record over as it was, or forget it (None)."""
        self.results.clear()
        before = self.documents.pop(number, None)
        for name, index in self._by_value.items():
            old = "" if before is None else before.get(name, "")
            new = "" if values is None else values.get(name, "")
            if old != new:
                if old:
                    index[old.lower()].discard(number)
                if new:
                    index.setdefault(new.lower(), set()).add(number)
        if values is None:
            if before is not None:
                del self.ids[bisect_left(self.ids, number)]
                del self.modified[number]
            return
        if before is None:
            insort(self.ids, number)
        self.documents[number] = values
        if self.modified.get(number) != modified_ms or before is None:
            self.modified[number] = modified_ms
            insort(self._log, (modified_ms, number))
        if len(self._log) > 2 * len(self.ids) + 1000:
            self._log = [(ms, n) for ms, n in self._log if self.modified.get(n) == ms]

    def having(self, name: str, values: Iterable[str]) -> set[int]:
        """Return the ids of the records whose property is one of the values (in lower case)."""
        index = self._by_value.get(name)
        if index is None:
            index = self._by_value[name] = {}
            for number, document in self.documents.items():
                if value := document.get(name):
                    index.setdefault(value.lower(), set()).add(number)
        return set().union(*(index.get(v, ()) for v in values))

    def changed(self, low_ms: int | None, high_ms: int | None) -> list[int]:
        """Return the ids of the records that were last changed in a span of time, both ends included."""
        low = 0 if low_ms is None else bisect_left(self._log, (low_ms, 0))
        high = len(self._log) if high_ms is None else bisect_right(self._log, (high_ms, 1 << 62))
        return list(dict.fromkeys(n for ms, n in self._log[low:high] if self.modified.get(n) == ms))


class SearchIndex:
    """A watcher of the store that takes changes over once they are old enough."""

    def __init__(
        self, kinds: Iterable[Kind], now_ms: Callable[[], int], lag_s: float, late_s: Callable[[], float]
    ) -> None:
        self.sides = {kind.name: Side(kind) for kind in kinds}
        self._now_ms = now_ms
        self._lag_ms = round(lag_s * 1000)
        self._late_s = late_s
        self._waiting: list[tuple[int, int, str, int, dict[str, str] | None, int]] = []
        self._count = 0
        self._newest: dict[int, int] = {}

    def side(self, kind: Kind) -> Side:
        """Return what searches know of a kind by now."""
        self.follow()
        return self.sides[kind.name]

    def follow(self) -> None:
        """Take over what has become old enough."""
        now_ms, waiting = self._now_ms(), self._waiting
        while waiting and waiting[0][0] <= now_ms:
            _, count, kind, number, values, modified_ms = heapq.heappop(waiting)
            if self._newest.get(number, 0) < count:  # else a later state has overtaken one that was held back
                self._newest[number] = count
                self.sides[kind].put(number, values, modified_ms)

    def created(self, record: Record, changed: dict[str, str], origin: Origin) -> None:  # noqa: ARG002
        """Take a new record over, later."""
        self._note(record)

    def updated(self, record: Record, changed: dict[str, str], origin: Origin) -> None:  # noqa: ARG002
        """Take a changed record over, later."""
        self._note(record)

    def archived(self, record: Record, origin: Origin, *, erased: bool) -> None:  # noqa: ARG002
        """Forget a record, later."""
        self._note(record)

    def restored(self, record: Record, origin: Origin) -> None:  # noqa: ARG002
        """Take a record over again, later."""
        self._note(record)

    def merged(self, record: Record, primary: int, other: int, moved: int, origin: Origin) -> None:  # noqa: ARG002
        """Take the one that is left over and forget the others, later."""
        self._note(record)
        for number in {primary, other} - {record.id}:
            self._wait(record.kind.name, number, None, 0)

    def _note(self, record: Record) -> None:
        values = dict(record.values) if record.archived_ms is None else None
        self._wait(record.kind.name, record.id, values, record.updated_ms)

    def _wait(self, kind: str, number: int, values: dict[str, str] | None, modified_ms: int) -> None:
        self._count += 1
        due_ms = self._now_ms() + self._lag_ms + round(self._late_s() * 1000)
        heapq.heappush(self._waiting, (due_ms, self._count, kind, number, values, modified_ms))
        self.follow()
