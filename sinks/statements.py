"""The SQL of writing many rows at once: one statement per (table, operation, set of columns), its values as array parameters.

Parameters of every statement, in order: old keys ``k…`` (or none), values ``c…``, bases ``b…``, and flags ``f…`` that say for which rows
a column is meant at all. In the statements a row of parameters is ``v``, its number ``v.n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sinks.pgcatalog import PgColumn, PgTable, ident


@dataclass(frozen=True, slots=True)
class Param:
    """One array parameter: its name in ``v`` and the column whose type it has (None: a flag)."""

    name: str
    column: PgColumn | None

    @property
    def cast(self) -> str:
        """Return the array's type."""
        if self.column is None:
            return "boolean[]"
        return f"{self.column.cast.replace('%', '%%')}[]" if self.column.array else "text[]"

    @property
    def value(self) -> str:
        """Return the expression of one row's value, of the column's type."""
        column = self.column
        if column is None or column.array:
            return f"v.{self.name}"
        return f"v.{self.name}::{column.cast.replace('%', '%%')}"

    @property
    def text(self) -> str:
        """Return the expression of one row's value as text."""
        return f"v.{self.name}::text"


def rows(params: Sequence[Param]) -> str:
    """Return the FROM item that makes rows of the parameters."""
    arrays = ", ".join(f"%s::{p.cast}" for p in params)
    return f"unnest({arrays}) with ordinality as v({', '.join(p.name for p in params)}, n)"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a statement writes: columns of a table, with their parameters."""

    table: PgTable
    names: tuple[str, ...]
    flags: bool = False

    def _params(self, letter: str, names: Sequence[str]) -> list[Param]:
        return [Param(f"{letter}{i}", self.table.columns[name]) for i, name in enumerate(names)]

    @property
    def keys(self) -> list[Param]:
        """Return the parameters of the keys."""
        return self._params("k", self.table.key)

    @property
    def values(self) -> list[Param]:
        """Return the parameters of the values."""
        return self._params("c", self.names)

    @property
    def bases(self) -> list[Param]:
        """Return the parameters of the bases."""
        return self._params("b", self.names)

    @property
    def marks(self) -> list[Param]:
        """Return the parameters that say whether a column is meant, if there are any."""
        return [Param(f"f{i}", None) for i in range(len(self.names))] if self.flags else []

    def on_key(self) -> str:
        """Return the condition that finds a row."""
        return " and ".join(f"t.{ident(k)} = {p.value}" for k, p in zip(self.table.key, self.keys, strict=True))

    def unmoved(self, i: int) -> str:
        """Return the condition that nobody else has changed a column: it has its base.

        A column that has what is to be written already was changed by somebody all the same: two people who each count one up
        write the same number, and both must count.
        """
        name, base = self.names[i], self.bases[i]
        own = f"t.{ident(name)}"
        if self.table.columns[name].comparable:
            same = f"{own} is not distinct from {base.value}"
        else:
            same = f"{own}::text is not distinct from {base.text}"
        return f"(not v.f{i} or {same})" if self.flags else same

    def assignments(self) -> str:
        """Return the SET list."""
        out = []
        for i, (name, p) in enumerate(zip(self.names, self.values, strict=True)):
            value = f"case when v.f{i} then {p.value} else t.{ident(name)} end" if self.flags else p.value
            out.append(f"{ident(name)} = {value}")
        return ", ".join(out)

    def standing(self) -> str:
        """Return the columns as they stand in a row: the key, then what is written."""
        return ", ".join(f"t.{ident(name)}" for name in (*self.table.key, *self.names))

    def update(self, *, checked: bool, returning: bool) -> str:
        """Return an UPDATE; ``checked``: only of rows in which nobody else has changed any of the columns."""
        params = [*self.keys, *self.values, *(self.bases if checked else ()), *self.marks]
        where = [self.on_key(), *(self.unmoved(i) for i in range(len(self.names)) if checked)]
        back = f" returning v.n, {self.standing()}" if returning else ""
        return f"update {self.table.quoted} t set {self.assignments()} from {rows(params)} where {' and '.join(where)}{back}"

    def look(self) -> str:
        """Return a SELECT that locks rows and says for each column whether it may be written, and what stands there."""
        params = [*self.keys, *self.values, *self.bases, *self.marks]
        fits = "".join(f", {self.unmoved(i)}" for i in range(len(self.names)))
        return f"select v.n{fits}, {self.standing()} from {rows(params)} join {self.table.quoted} t on {self.on_key()} order by v.n for update of t"

    def present(self) -> str:
        """Return a SELECT that says which rows are there, by number."""
        return f"select v.n from {rows(self.keys)} join {self.table.quoted} t on {self.on_key()}"

    def insert(self, *, conflict: str | None, returning: bool) -> str:
        """Return an INSERT in the order of the parameters; ``conflict``: None, ``nothing`` or ``update``, on the table's key."""
        table = self.table
        values = []
        for i, (name, p) in enumerate(zip(self.names, self.values, strict=True)):
            default = (table.columns[name].default or "null").replace("%", "%%")
            values.append(f"case when v.f{i} then {p.value} else {default} end" if self.flags else p.value)
        params = [*self.values, *self.marks]
        always = "overriding system value " if any(table.columns[n].always_identity for n in self.names) else ""
        head = f"insert into {table.quoted} as t ({', '.join(map(ident, self.names))}) {always}"
        body = f"select {', '.join(values)} from {rows(params)} order by v.n"
        tail = ""
        if conflict is not None:
            tail = f" on conflict ({', '.join(map(ident, table.key))}) do "
            rest = [n for n in self.names if n not in table.key]
            sets = [f"{ident(n)} = excluded.{ident(n)}" for n in rest]
            tail += f"update set {', '.join(sets)}" if conflict == "update" and rest else "nothing"
        return f"{head}{body}{tail}{f' returning {self.standing()}' if returning else ''}"

    def delete(self) -> str:
        """Return a DELETE by key."""
        return f"delete from {self.table.quoted} t using {rows(self.keys)} where {self.on_key()}"
