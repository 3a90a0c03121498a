"""The rows of an organisation: versions, unique keys, indexes, the log of changes, and transactions that can be undone."""

from __future__ import annotations

import random
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from simulators.clock import Clock
from simulators.dynamics.errors import key_taken
from simulators.dynamics.schema import Key, Schema, Table
from simulators.dynamics.values import folded, stamp

Values = dict[str, Any]
_FIRST_VERSION = 1_000_000


@dataclass(slots=True)
class Row:
    """One row. While ``hidden_until`` has not come, queries see ``before`` (None: nothing) instead of ``values``."""

    id: str
    number: int
    values: Values
    version: int = 0
    alive: bool = True
    hidden_until: float = 0.0
    before: Values | None = None


@dataclass(slots=True)
class Entry:
    """One change in the log; it is the row's current one as long as the versions agree."""

    version: int
    modified: str
    row: Row

    @property
    def current(self) -> bool:
        """Return whether no later change of the row has taken its place."""
        return self.row.alive and self.row.version == self.version


@dataclass(slots=True)
class Gone:
    """One deleted row."""

    version: int
    at: float
    id: str
    values: Values


@dataclass(slots=True)
class Data:
    """What one table holds."""

    table: Table
    rows: dict[str, Row] = field(default_factory=dict)
    order: list[Row] = field(default_factory=list)
    """By number, which is the order of creation; dead ones are cleared away from time to time."""
    log: list[Entry] = field(default_factory=list)
    """By version, and thereby by modifiedon; entries that are not current are cleared away from time to time."""
    gone: list[Gone] = field(default_factory=list)
    unique: dict[str, dict[tuple[Any, ...], str]] = field(default_factory=dict)
    indexes: dict[str, dict[Any, dict[str, None]]] = field(default_factory=dict)
    hidden: dict[str, Row] = field(default_factory=dict)

    def index(self, prop: str) -> dict[Any, dict[str, None]]:
        """Return the ids by value of a property; made at the first use, kept up from then on."""
        found = self.indexes.get(prop)
        if found is None:
            found = self.indexes[prop] = {}
            for row in self.rows.values():
                if (value := row.values.get(prop)) is not None:
                    found.setdefault(folded(value), {})[row.id] = None
        return found


class Store:
    """All tables' rows. A change is part of the transaction that is open, or one of its own."""

    def __init__(self, schema: Schema, clock: Clock, seed: int = 0) -> None:
        self.schema = schema
        self._random = random.Random(seed)
        self._clock = clock
        self._data: dict[str, Data] = {}
        self._undo: list[Callable[[], None]] = []
        self._depth = 0
        self._touched: set[str] = set()
        self.version = _FIRST_VERSION
        self._numbers = 0
        self.links: dict[str, set[tuple[str, str]]] = {}
        """Many-to-many relationship → pairs of ids, left and right."""

    def data(self, table: Table) -> Data:
        """Return what a table holds."""
        found = self._data.get(table.name)
        if found is None:
            found = self._data[table.name] = Data(table)
            for key in table.keys.values():
                found.unique[key.name] = {}
        return found

    def get(self, table: Table, row_id: str) -> Row | None:
        """Return a row by its id."""
        return self.data(table).rows.get(row_id)

    def by_key(self, table: Table, key: Key, values: dict[str, Any]) -> Row | None:
        """Return the row that holds these values of an alternate key."""
        row_id = self.data(table).unique[key.name].get(self._key(table, key, values) or ())
        return None if row_id is None else self.data(table).rows[row_id]

    def add_key(self, table: Table, key: Key) -> None:
        """Add an alternate key over what is there. Raises ODataError if two rows share its values."""
        holders: dict[tuple[Any, ...], str] = {}
        for row in self.data(table).rows.values():
            parts = self._key(table, key, row.values)
            if parts is not None and holders.setdefault(parts, row.id) != row.id:
                raise key_taken(key.label or key.name, ", ".join(key.columns))
        table.keys[key.name] = key
        self.data(table).unique[key.name] = holders

    def drop(self, table: Table) -> None:
        """Forget a table's rows."""
        self._data.pop(table.name, None)

    # Transactions.

    def begin(self) -> int:
        """Open a transaction, or a part of the one that is open; return where it begins."""
        self._depth += 1
        return len(self._undo)

    def commit(self) -> None:
        """End the part; with the outermost, everything stays."""
        self._depth -= 1
        if self._depth == 0:
            self._undo.clear()
            for name in self._touched:
                self._clear_away(self._data[name])
            self._touched.clear()

    def rollback(self, mark: int) -> None:
        """Take back everything since the part began, and end it."""
        while len(self._undo) > mark:
            self._undo.pop()()
        self.commit()

    # Changes.

    def insert(self, table: Table, row_id: str, values: Values, hidden_until: float = 0.0) -> Row:
        """Add a row. Raises ODataError if another one holds an alternate key of it."""
        data = self.data(table)
        self._check(data, row_id, values, {})
        self._numbers += 1
        row = Row(row_id, self._numbers, values, hidden_until=hidden_until)
        data.rows[row_id] = row
        data.order.append(row)
        self._enter(data, row, {}, values)
        self._versioned(data, row)
        if hidden_until:
            data.hidden[row_id] = row

        def undo() -> None:
            row.alive = False
            del data.rows[row_id]
            data.hidden.pop(row_id, None)
            self._enter(data, row, row.values, {})

        self._undone_by(data, undo)
        return row

    def update(self, table: Table, row: Row, values: Values, hidden_until: float = 0.0) -> None:
        """Give a row new values, all of them. Raises ODataError if another one holds an alternate key of them."""
        data, old, version = self.data(table), row.values, row.version
        self._check(data, row.id, values, old)
        self._enter(data, row, old, values)
        row.values = values
        self._versioned(data, row)
        if hidden_until:
            row.hidden_until, row.before = hidden_until, old
            data.hidden[row.id] = row

        def undo() -> None:
            self._enter(data, row, row.values, old)
            row.values, row.version, row.hidden_until, row.before = old, version, 0.0, None
            data.hidden.pop(row.id, None)

        self._undone_by(data, undo)

    def delete(self, table: Table, row: Row) -> None:
        """Delete a row; its id and what it held stay known to change tracking and to whoever looks."""
        data = self.data(table)
        del data.rows[row.id]
        data.hidden.pop(row.id, None)
        row.alive = False
        self._enter(data, row, row.values, {})
        self.version += 1
        data.gone.append(Gone(self.version, self._clock.now(), row.id, row.values))

        def undo() -> None:
            row.alive = True
            data.rows[row.id] = row
            self._enter(data, row, {}, row.values)
            data.gone.pop()

        self._undone_by(data, undo)

    def associate(self, relationship: str, pair: tuple[str, str]) -> None:
        """Add a pair of ids to a many-to-many relationship."""
        pairs = self.links.setdefault(relationship, set())
        if pair not in pairs:
            pairs.add(pair)
            if self._depth:
                self._undo.append(lambda: pairs.discard(pair))

    def dissociate(self, relationship: str, pair: tuple[str, str]) -> None:
        """Take a pair of ids from a many-to-many relationship."""
        pairs = self.links.get(relationship, set())
        if pair in pairs:
            pairs.discard(pair)
            if self._depth:
                self._undo.append(lambda: pairs.add(pair))

    def _undone_by(self, data: Data, undo: Callable[[], None]) -> None:
        self._touched.add(data.table.name)
        if self._depth:
            self._undo.append(undo)
        else:
            self._clear_away(data)

    def _versioned(self, data: Data, row: Row) -> None:
        self.version += 1
        row.version = row.values["versionnumber"] = self.version
        modified = row.values.get("modifiedon") or stamp(self._clock.moment())
        data.log.append(Entry(self.version, modified, row))

    def _check(self, data: Data, row_id: str, values: Values, old: Values) -> None:
        for key in data.table.keys.values():
            parts = self._key(data.table, key, values)
            if parts is None or parts == self._key(data.table, key, old):
                continue
            if data.unique[key.name].get(parts, row_id) != row_id:
                raise key_taken(key.label or key.name, ", ".join(key.columns))

    def _enter(self, data: Data, row: Row, old: Values, new: Values) -> None:
        """Bring unique keys and indexes from a row's old values to its new ones."""
        for key in data.table.keys.values():
            before, after = self._key(data.table, key, old), self._key(data.table, key, new)
            if before != after:
                if before is not None and data.unique[key.name].get(before) == row.id:
                    del data.unique[key.name][before]
                if after is not None:
                    data.unique[key.name][after] = row.id
        for prop, index in data.indexes.items():
            was, now = folded(old.get(prop)), folded(new.get(prop))
            if was == now:
                continue
            if was is not None:
                index[was].pop(row.id, None)
            if now is not None:
                index.setdefault(now, {})[row.id] = None

    @staticmethod
    def _key(table: Table, key: Key, values: Values) -> tuple[Any, ...] | None:
        """Return the values of a key as they are compared; None if one is missing: such rows are not held to it."""
        parts = []
        for name in key.columns:
            value = values.get(table.columns[name].property)
            if value is None:
                return None
            parts.append(folded(value))
        return tuple(parts)

    @staticmethod
    def _clear_away(data: Data) -> None:
        if len(data.log) > 1000 and len(data.log) > 3 * len(data.rows):
            data.log = [e for e in data.log if e.current]
        if len(data.order) > 1000 and len(data.order) > 3 * len(data.rows):
            data.order = [r for r in data.order if r.alive]

    # Reading.

    def seen(self, data: Data, row: Row) -> Values | None:
        """Return what queries see of a row at this moment."""
        if not row.hidden_until:
            return row.values
        if row.hidden_until <= self._clock.now():
            row.hidden_until, row.before = 0.0, None
            data.hidden.pop(row.id, None)
            return row.values
        return row.before

    def since(self, data: Data, version: int) -> Iterator[Row]:
        """Return the rows changed after a version, in the order of their latest change."""
        start = bisect_right(data.log, version, key=lambda e: e.version)
        for number in range(start, len(data.log)):
            if (entry := data.log[number]).current:
                yield entry.row

    def modified_since(self, data: Data, moment: str) -> Iterator[Row]:
        """Return the rows whose modifiedon is not before a moment, in the order of their latest change."""
        start = bisect_left(data.log, moment, key=lambda e: e.modified)
        for number in range(start, len(data.log)):
            if (entry := data.log[number]).current:
                yield entry.row

    def after(self, data: Data, number: int) -> Iterator[Row]:
        """Return the rows made after one, in the order of creation."""
        for place in range(bisect_right(data.order, number, key=lambda r: r.number), len(data.order)):
            if (row := data.order[place]).alive:
                yield row

    def safe_version(self, data: Data) -> int:
        """Return the latest version before which nothing is still hidden: where a delta may end."""
        for row in list(data.hidden.values()):
            self.seen(data, row)
        return min((r.version - 1 for r in data.hidden.values()), default=self.version)

    def new_id(self) -> str:
        """Return the id of a new row."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
