"""The shop's records in memory: by id, by the fields that lists ask for, and in the order of their last change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulators.places import Log, Place
from simulators.shop.resources import Resource


@dataclass(slots=True)
class Row:
    """One record: what a client sees, when it was changed, and from when on lists show it."""

    data: dict[str, Any]
    at_ms: int
    visible_ms: int = 0

    @property
    def id(self) -> int:
        """Return the record's id."""
        return int(self.data["id"])


class Table:
    """The records of one resource. Whoever changes one takes it out (`take`) and puts it back (`put`)."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.rows: dict[int, Row] = {}
        self._next = 1001
        self.log = Log(self._current)
        self.waiting = Log(self._unexported)
        """Those whose `exported` is not 1."""
        self._by: dict[str, dict[Any, dict[int, None]]] = {name: {} for name in resource.indexed}

    def new_id(self) -> int:
        """Return the next id."""
        self._next += 1
        return self._next - 1

    def put(self, row: Row) -> None:
        """Enter a record into all orders and indexes."""
        place = (row.at_ms, row.id)
        self.rows[row.id] = row
        self.log.add(place)
        if self.resource.exported and row.data.get("exported") != 1:
            self.waiting.add(place)
        for name, ids in self._by.items():
            if (value := row.data.get(name)) is not None:
                ids.setdefault(value, {})[row.id] = None

    def take(self, row: Row) -> None:
        """Remove a record from all orders and indexes."""
        del self.rows[row.id]
        self.log.left()
        if self.resource.exported and row.data.get("exported") != 1:
            self.waiting.left()
        for name, ids in self._by.items():
            value = row.data.get(name)
            if value is not None and (held := ids.get(value)) is not None:
                held.pop(row.id, None)
                if not held:
                    del ids[value]

    def having(self, name: str, value: Any) -> list[Row]:
        """Return the records whose indexed field has this value, in list order."""
        rows = [self.rows[i] for i in self._by[name].get(value, ())]
        return sorted(rows, key=lambda r: (r.at_ms, r.id))

    def one(self, name: str, value: Any) -> Row | None:
        """Return a record whose indexed field has this value."""
        ids = self._by[name].get(value)
        return self.rows[next(iter(ids))] if ids else None

    def _current(self, place: Place) -> bool:
        row = self.rows.get(place[1])
        return row is not None and row.at_ms == place[0]

    def _unexported(self, place: Place) -> bool:
        row = self.rows.get(place[1])
        return row is not None and row.at_ms == place[0] and row.data.get("exported") != 1
