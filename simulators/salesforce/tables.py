"""The rows of one object, found by id, by indexed value and by time without looking at all of them.

A row is never changed in place: whoever holds one keeps what it saw. Rows may be hidden for a while (a transaction that commits late):
then readers see what stood there before, while constraints already see the new row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Any

from simulators.salesforce.schema import Field, Kind

Row = dict[str, Any]


def folded(value: Any) -> Any:
    """Return a value as the index spells it: case is lost, except in ids, which tell records apart by it."""
    return value.lower() if isinstance(value, str) else value


class Log:
    """Pairs of time and id in order. What comes is nearly always the latest; what went is only passed over until many have gone."""

    def __init__(self) -> None:
        self._pairs: list[tuple[str, str]] = []
        self._now: dict[str, str] = {}

    def add(self, at: str, id_: str) -> None:
        """Put an id at a time, wherever it was before."""
        if self._now.get(id_) == at:
            return
        self._now[id_] = at
        insort(self._pairs, (at, id_))
        if len(self._pairs) > 2 * len(self._now) + 1000:
            self._pairs = sorted((at, id_) for id_, at in self._now.items())

    def discard(self, id_: str) -> None:
        """Forget an id."""
        self._now.pop(id_, None)

    def between(self, low: str | None, high: str | None) -> Iterator[tuple[str, str]]:
        """Yield pairs in order, both bounds included."""
        pairs, now = self._pairs, self._now
        start = bisect_left(pairs, (low, "")) if low is not None else 0
        end = bisect_right(pairs, (high, "\x7f")) if high is not None else len(pairs)
        last = None
        for at in range(start, end):
            pair = pairs[at]
            if pair != last and now.get(pair[1]) == pair[0]:
                last = pair
                yield pair


class Table:
    """All rows of an object, deleted ones included."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.rows: dict[str, Row] = {}
        self.ids: list[str] = []
        self.stamps = Log()
        self.deletions = Log()
        self.hidden: dict[str, tuple[float, Row | None]] = {}
        """What is not to be seen yet: until when, and what is seen instead."""
        self.live = 0
        self._indexes: dict[str, dict[Any, dict[str, None]]] = {}
        self._exact: set[str] = set()
        for field in kind.fields.values():
            if field.indexed and field.name != "Id":
                self.index(field)

    def index(self, field: Field) -> None:
        """Find rows by this field quickly from now on."""
        if field.name in self._indexes or field.name == "Id":
            return
        if field.type in {"reference", "id"}:
            self._exact.add(field.name)
        found: dict[Any, dict[str, None]] = {}
        for id_, row in self.rows.items():
            if (value := row.get(field.name)) is not None:
                found.setdefault(self._key(field.name, value), {})[id_] = None
        self._indexes[field.name] = found

    def add_field(self, field: Field) -> None:
        """Add a field to the object and to all its rows."""
        self.kind.add(field)
        for id_, row in self.rows.items():
            self.rows[id_] = {**row, field.name: field.default}
        if field.indexed:
            self.index(field)

    def has_index(self, name: str) -> bool:
        """Return whether rows are found by this field quickly."""
        return name in self._indexes

    def put(self, row: Row) -> Row | None:
        """Store a row and return the one it replaces."""
        id_: str = row["Id"]
        old = self.rows.get(id_)
        self._unindex(id_, old)
        self.rows[id_] = row
        if old is None:
            insort(self.ids, id_)
        self.stamps.add(row["SystemModstamp"], id_)
        self.live += not row["IsDeleted"]
        if row["IsDeleted"]:
            self.deletions.add(row["SystemModstamp"], id_)
        for name, index in self._indexes.items():
            if (value := row.get(name)) is not None:
                key = self._key(name, value)
                if (ids := index.get(key)) is None:
                    index[key] = {id_: None}
                else:
                    ids[id_] = None
        return old

    def remove(self, id_: str) -> None:
        """Forget a row altogether."""
        old = self.rows.pop(id_, None)
        if old is not None:
            self._unindex(id_, old)
            self.stamps.discard(id_)
            del self.ids[bisect_left(self.ids, id_)]
        self.hidden.pop(id_, None)

    def _unindex(self, id_: str, old: Row | None) -> None:
        if old is None:
            return
        self.live -= not old["IsDeleted"]
        if old["IsDeleted"]:
            self.deletions.discard(id_)
        for name, index in self._indexes.items():
            if (value := old.get(name)) is not None:
                key = self._key(name, value)
                if (ids := index.get(key)) is not None:
                    ids.pop(id_, None)
                    if not ids:
                        del index[key]

    def with_value(self, name: str, value: Any) -> list[str]:
        """Return the ids of rows, hidden and deleted ones included, in which an indexed field has the value."""
        if name == "Id":
            return [value] if value in self.rows else []
        return list(self._indexes[name].get(self._key(name, value), ()))

    def seen(self, id_: str) -> Row | None:
        """Return a row as readers see it."""
        if self.hidden and (held := self.hidden.get(id_)) is not None:
            return held[1]
        return self.rows.get(id_)

    def all_seen(self, ids: Iterable[str] | None = None) -> Iterator[Row]:
        """Yield rows as readers see them, in the order of the ids given or of all ids."""
        for id_ in self.ids if ids is None else ids:
            if (row := self.seen(id_)) is not None:
                yield row

    def stamped(self, low: str | None, high: str | None) -> Iterator[str]:
        """Yield ids by ascending time of modification, both bounds included."""
        for _, id_ in self.stamps.between(low, high):
            yield id_

    def deleted_between(self, low: str, high: str) -> Iterator[tuple[str, str]]:
        """Yield time and id of deletions, both bounds included."""
        yield from self.deletions.between(low, high)

    def _key(self, name: str, value: Any) -> Any:
        return value if name in self._exact else folded(value)
