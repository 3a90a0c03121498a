"""Writing rows of one table of PostgreSQL: creates, updates and deletes of many records, and what became of each.

Rows go in the order of their keys, so that two writers that meet the same rows do not wait for each other. Nothing here ends a
transaction; the caller undoes what an error leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from sinks.instructions import text_value
from sinks.pgcatalog import Connection, PgTable, ident, index_columns
from sinks.statements import Param, Shape, rows
from tidelock.avro import NULL, VALUE_TAGS, FieldType
from tidelock.config import TableSpec
from tidelock.envelopes import APPLIED, MISSING, REJECTED, TAKEN, Receipt, Write
from tidelock.errors import Fatal, Reject
from tidelock.nativekey import native_key, split_native_key
from tidelock.pgtypes import TYPES, array, from_text, to_text, to_texts

MOST_SHAPES = (
    8  # more sets of columns than this in a batch are written by one statement that says per row which are meant
)

Values = dict[str, bytes]
Raw = list[bytes | None]
Wanted = tuple[int, Write, Values]  # place in the batch, the write, what is written of it


class Literal(bytes):
    """An array as PostgreSQL's own text."""


class _LiteralDumper(Dumper):
    format = Format.TEXT
    oid = 0

    def dump(self, obj: Any) -> bytes:
        """Hand the text over as it is."""
        return bytes(obj)


def adapt(db: Connection) -> None:
    """Teach a connection about `Literal`."""
    db.adapters.register_dumper(Literal, _LiteralDumper)


class Rows:
    """Write the records of one entity into its table."""

    def __init__(self, db: Connection, system: str, spec: TableSpec, table: PgTable, *, captured: bool) -> None:
        self._db = db
        self._system = system
        self._spec = spec
        self.table = table
        self._captured = captured
        self._tags = {n: VALUE_TAGS[TYPES.get(c.oid, FieldType.STRING)][0] for n, c in table.columns.items()}
        self._oids = {n: c.oid for n, c in table.columns.items()}
        self._sql: dict[tuple[object, ...], bytes] = {}

    def extras(self, _write: Write) -> Values:
        """Return columns that go with every create and update beyond those of the write, as generic values."""
        return {}

    def write(self, batch: Sequence[Write]) -> list[Receipt]:
        """Carry out a batch; see `sinks.base.Sink.write`. Raises psycopg.Error and Reject."""
        found: dict[int, Receipt] = {}
        for op, carry_out in (("create", self._creates), ("update", self._updates), ("delete", self.deletes)):
            todo = [(i, w) for i, w in enumerate(batch) if w.op == op]
            for part in _distinct(todo):
                carry_out(part, found)
        return [found[i] for i in range(len(batch))]

    # ------------------------------------------------------------------------------------------------ creates

    def _creates(self, todo: list[tuple[int, Write]], found: dict[int, Receipt]) -> None:
        own = self._spec.canonical_id
        if own is not None:
            there = self._ours(own, [w.canonical_id for _, w in todo])
            known = [(i, w, there[w.canonical_id]) for i, w in todo if w.canonical_id in there]
            todo = [(i, w) for i, w in todo if w.canonical_id not in there]
            for i, w, key in known:  # made before, by us: whatever the batch did then, it says so now
                again = [(i, Write(**{**_fields(w), "op": "update", "native_key": key}))]
                if self._captured:
                    self._standing_of(again, found)
                else:
                    self._updates(again, found)
        wanted = [(i, w, self._create_values(w)) for i, w in todo]
        for names, part, flags in self._shapes(wanted):
            self._insert(Shape(self.table, names, flags), part, found)

    def _create_values(self, write: Write) -> Values:
        values = {name: value for name, (value, _) in write.columns.items()}
        if self._spec.canonical_id is not None:
            values[self._spec.canonical_id] = text_value(write.canonical_id)
        if self._spec.key_from == "canonical_id" and len(self.table.key) == 1:
            values[self.table.key[0]] = text_value(write.canonical_id)
        return {**values, **self.extras(write)}

    def _insert(self, shape: Shape, part: list[Wanted], found: dict[int, Receipt]) -> None:
        known = set(self.table.key) <= set(shape.names)
        if not self._captured and known and self.table.key_unique:
            if shape.flags:
                part = self._update_there(shape, part, found)
            if part:
                self._run(shape.insert(conflict="nothing" if shape.flags else "update", returning=False), shape, part)
            for i, w, values in part:
                found[i] = Receipt(w.canonical_id, w.version, APPLIED, self._key_of(values))
            return
        conflict = "nothing" if known and self.table.key_unique else None
        back = _raws(self._run(shape.insert(conflict=conflict, returning=True), shape, part))
        if len(back) == len(part):
            for (i, w, values), raw in zip(part, back, strict=True):
                found[i] = self._applied(w, shape, values, raw, created=True)
        elif len(part) > 1:
            raise Reject(
                f"{len(part) - len(back)} of {len(part)} new rows are there already in {self.table.name}", kind="taken"
            )
        else:
            self._met(part[0], found, known=known)

    def _met(self, item: Wanted, found: dict[int, Receipt], *, known: bool) -> None:
        """A single row was not inserted: its key is there, or a trigger has swallowed it."""
        i, w, values = item
        if not known:
            found[i] = Receipt(
                w.canonical_id,
                w.version,
                REJECTED,
                kind="swallowed",
                message=f"a trigger of {self.table.name} let no row come into being",
            )
            return
        key = self._key_of(values)
        if self._spec.key_from == "canonical_id":
            self._standing_of([(i, Write(**{**_fields(w), "op": "update", "native_key": key}))], found)
            return
        named = ", ".join(self.table.key)
        found[i] = Receipt(
            w.canonical_id,
            w.version,
            TAKEN,
            key,
            kind="unique",
            message=f"a row with {named} = {key} is there already in {self.table.name}",
        )

    def _update_there(self, shape: Shape, part: list[Wanted], found: dict[int, Receipt]) -> list[Wanted]:
        """Update the rows that are there already, of an upsert with many sets of columns; return the others."""
        keys = [[to_text(v[k], self._oids[k]) for _, _, v in part] for k in self.table.key]
        there = {int(r[0]) - 1 for r in self._execute(shape.present(), keys).fetchall()}
        old = [item for n, item in enumerate(part) if n in there]
        if old:
            as_updates = [(i, Write(**{**_fields(w), "native_key": self._key_of(v)}), v) for i, w, v in old]
            self._run(shape.update(checked=False, returning=False), shape, as_updates, keyed=True)
            for i, w, _ in as_updates:
                found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key)
        return [item for n, item in enumerate(part) if n not in there]

    def _ours(self, column: str, ids: list[str]) -> dict[str, str]:
        """Return the native keys of rows that carry our canonical ids."""
        if column not in self.table.columns:
            raise self._no_column(column)
        param = Param("c0", self.table.columns[column])
        keys = ", ".join(f"t.{ident(k)}" for k in self.table.key)
        query = f"select t.{ident(column)}, {keys} from {rows([param])} join {self.table.quoted} t on t.{ident(column)} = {param.value}"
        raws = _raws(self._execute(query, [[i.encode() for i in ids]]))
        return {(r[0] or b"").decode(): self._spell(r[1:]) for r in raws}

    # ------------------------------------------------------------------------------------------------ updates

    def _updates(self, todo: list[tuple[int, Write]], found: dict[int, Receipt]) -> None:
        wanted = []
        for i, w in todo:
            values = {name: value for name, (value, _) in w.columns.items()} | self.extras(w)
            if values:
                wanted.append((i, w, values))
            else:
                found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key)
        for names, part, flags in self._shapes(wanted):
            shape = Shape(self.table, names, flags)
            if self._captured:
                self._checked(shape, part, found)
            else:
                self._blind(shape, part, found)

    def _blind(self, shape: Shape, part: list[Wanted], found: dict[int, Receipt]) -> None:
        """Update rows that nobody else writes."""
        hit = self._run(shape.update(checked=False, returning=False), shape, part, keyed=True).rowcount
        there = set(range(len(part)))
        moved = not set(self.table.key).isdisjoint(shape.names)
        if hit != len(part) and not moved:
            there = {int(r[0]) - 1 for r in self._execute(shape.present(), self._keys(part)).fetchall()}
        elif hit != len(part):
            if len(part) > 1:
                raise Reject("a row whose key is to change is not there", kind="missing")
            there = set()
        for n, (i, w, values) in enumerate(part):
            key = self._key_of({**self._key_values(w), **values}) if moved else w.native_key
            found[i] = Receipt(
                w.canonical_id, w.version, APPLIED if n in there else MISSING, key if n in there else w.native_key
            )

    def _checked(self, shape: Shape, part: list[Wanted], found: dict[int, Receipt]) -> None:
        """Update rows whose columns nobody else has changed; look closer at the others."""
        query = shape.update(checked=True, returning=True)
        for raw in _raws(self._run(query, shape, part, keyed=True, based=True)):
            i, w, values = part[int(raw[0] or 0) - 1]
            found[i] = self._applied(w, shape, values, raw[1:])
        rest = [item for item in part if item[0] not in found]
        if rest:
            self._one_by_one(shape, rest, found)

    def _one_by_one(self, shape: Shape, part: list[Wanted], found: dict[int, Receipt]) -> None:
        """Lock what is left and write, row by row, only the columns that still have their base."""
        width = len(shape.names)
        writable: list[Wanted] = []
        refused: dict[int, Values] = {}
        for raw in _raws(self._run(shape.look(), shape, part, keyed=True, based=True)):
            i, w, values = part[int(raw[0] or 0) - 1]
            fits, standing = raw[1 : 1 + width], raw[1 + width + len(self.table.key) :]
            refused[i] = {
                name: from_text(text, self._oids[name])
                for name, fit, text in zip(shape.names, fits, standing, strict=True)
                if fit != b"t" and name in values
            }
            rest = {n: v for n, v in values.items() if n not in refused[i]}
            if rest:
                writable.append((i, w, rest))
            else:
                found[i] = Receipt(
                    w.canonical_id, w.version, APPLIED, w.native_key, None, tuple(refused[i]), refused[i]
                )
        if writable:
            each = Shape(self.table, shape.names, flags=True)
            for raw in _raws(self._run(each.update(checked=False, returning=True), each, writable, keyed=True)):
                i, w, values = writable[int(raw[0] or 0) - 1]
                receipt = found[i] = self._applied(w, each, values, raw[1:])
                receipt.refused = tuple(refused[i])
                receipt.values |= refused[i]
        for i, w, _ in part:
            if i not in found:
                found[i] = Receipt(w.canonical_id, w.version, MISSING, w.native_key)

    def _standing_of(self, todo: list[tuple[int, Write]], found: dict[int, Receipt]) -> None:
        """Answer writes to rows that are ours already with what stands there."""
        for i, w in todo:
            values = {name: value for name, (value, _) in w.columns.items()}
            standing = self.standing(w, tuple(values))
            differing = {} if standing is None else {n: v for n, v in standing.items() if v != values[n]}
            found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key, None, (), differing)

    def standing(self, write: Write, names: tuple[str, ...]) -> Values | None:
        """Lock a row and return what stands in its columns; None if it is not there."""
        if write.native_key is None or not names:
            return None
        shape = Shape(self.table, names)
        query = f"select {shape.standing()} from {rows(shape.keys)} join {self.table.quoted} t on {shape.on_key()} for update of t"
        raws = _raws(self._execute(query, self._keys([(0, write, {})])))
        if not raws:
            return None
        standing = raws[0][len(self.table.key) :]
        return {n: from_text(text, self._oids[n]) for n, text in zip(names, standing, strict=True)}

    # ------------------------------------------------------------------------------------------------ deletes

    def deletes(self, todo: list[tuple[int, Write]], found: dict[int, Receipt]) -> None:
        """Delete rows; one that is gone already is as good."""
        part: list[Wanted] = sorted([(i, w, {}) for i, w in todo], key=_by_key)
        self._execute(Shape(self.table, ()).delete(), self._keys(part))
        for i, w, _ in part:
            found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key)

    # ------------------------------------------------------------------------------------------------ what they share

    def _applied(self, w: Write, shape: Shape, values: Values, raw: Raw, *, created: bool = False) -> Receipt:
        """Make the receipt of a row as it stands now: key first, then the columns of the shape."""
        width = len(self.table.key)
        key = w.native_key
        if created or not set(self.table.key).isdisjoint(shape.names):
            key = self._spell(raw[:width])
        differing: Values = {}
        for name, text in zip(shape.names, raw[width:], strict=True):
            pair = w.columns.get(name)
            if pair is None or name not in values:
                continue
            value, tag = pair[0], pair[0][0]
            if text is None:
                if tag:
                    differing[name] = NULL
            elif tag != self._tags[name] or to_text(value, self._oids[name]) != text:
                stands = from_text(text, self._oids[name])
                if stands != value:
                    differing[name] = stands
        return Receipt(w.canonical_id, w.version, APPLIED, key, None, (), differing)

    def holder(self, write: Write, constraint: str | None) -> str | None:
        """Return the native key of the row that holds the values which a unique constraint did not allow twice."""
        names = index_columns(self._db, self.table, constraint) if constraint else None
        if not names:
            return None
        values = self._create_values(write) if write.op == "create" else {n: v for n, (v, _) in write.columns.items()}
        given = [n for n in names if n in values]
        params = [Param(f"c{n}", self.table.columns[name]) for n, name in enumerate(given)]
        texts = [[to_text(values[n], self._oids[n])] for n in given]
        where = [f"t.{ident(n)} = {p.value}" for n, p in zip(given, params, strict=True)]
        if not params or (len(given) < len(names) and write.native_key is None):
            return None
        source = rows(params)
        if write.native_key is not None:
            keys = Shape(self.table, ()).keys
            source = rows([*params, *keys])
            texts += self._keys([(0, write, {})])
            same = " and ".join(f"m.{ident(k)} = {p.value}" for k, p in zip(self.table.key, keys, strict=True))
            source += f" left join {self.table.quoted} m on {same}"
            where += [f"t.{ident(n)} = m.{ident(n)}" for n in names if n not in values]
        keys_of = ", ".join(f"t.{ident(k)}" for k in self.table.key)
        raws = _raws(
            self._execute(
                f"select {keys_of} from {source} join {self.table.quoted} t on {' and '.join(where)} limit 1", texts
            )
        )
        return self._spell(raws[0]) if raws else None

    def let_go(self, batch: Sequence[Write], constraint: str) -> bool:
        """Set the columns of a unique constraint to null in the rows of those updates that write them; False if they cannot be null."""
        names = [n for n in index_columns(self._db, self.table, constraint) or () if n not in self.table.key]
        for name in names:
            part: list[Wanted] = [(i, w, {name: NULL}) for i, w in enumerate(batch) if name in w.columns]
            if part and not self.table.columns[name].not_null:
                shape = Shape(self.table, (name,))
                self._run(shape.update(checked=False, returning=False), shape, sorted(part, key=_by_key), keyed=True)
                return True
        return False

    def _shapes(self, wanted: list[Wanted]) -> Iterator[tuple[tuple[str, ...], list[Wanted], bool]]:
        groups: dict[tuple[str, ...], list[Wanted]] = {}
        for item in wanted:
            groups.setdefault(tuple(item[2]), []).append(item)
        for names in groups:
            self._check(names)
        if len(groups) <= MOST_SHAPES:
            for names, part in groups.items():
                part.sort(key=_by_key)
                yield names, part, False
            return
        every = tuple(dict.fromkeys(n for names in groups for n in names))
        yield every, sorted(wanted, key=_by_key), True

    def _check(self, names: tuple[str, ...]) -> None:
        for name in names:
            column = self.table.columns.get(name)
            if column is None:
                raise self._no_column(name)
            if column.generated:
                raise Fatal(
                    f"system {self._system}: column {name} of {self.table.name} is computed by the database and cannot be written",
                    hint="set `direction: read` for its binding",
                )

    def _no_column(self, name: str) -> Fatal:
        return Fatal(
            f"system {self._system}: table {self.table.name} has no column {name}",
            hint=f"correct the mapping or add the column; there are: {', '.join(self.table.columns)}",
        )

    def _run(
        self,
        query: str,
        shape: Shape,
        part: list[Wanted],
        *,
        keyed: bool = False,
        based: bool = False,
    ) -> psycopg.Cursor[Any]:
        texts: list[list[bytes | None]] = self._keys(part) if keyed else []
        for name in shape.names:
            column = [v.get(name, NULL) for _, _, v in part] if shape.flags else [v[name] for _, _, v in part]
            texts.append(to_texts(column, self._oids[name]))
        if based:
            for name in shape.names:
                column = [w.columns[name][1] if name in w.columns else NULL for _, w, _ in part]
                texts.append(to_texts(column, self._oids[name]))
        if shape.flags:
            texts += [[b"t" if name in v else b"f" for _, _, v in part] for name in shape.names]
        return self._execute(query, texts)

    def _execute(self, query: str, texts: list[list[bytes | None]]) -> psycopg.Cursor[Any]:
        return self._db.execute(query.encode(), [Literal(array(column)) for column in texts], prepare=True)

    def _keys(self, part: Sequence[Wanted]) -> list[list[bytes | None]]:
        if len(self.table.key) == 1:
            return [[(w.native_key or "").encode() for _, w, _ in part]]
        try:
            keys = [split_native_key(w.native_key or "", len(self.table.key)) for _, w, _ in part]
        except ValueError as error:
            raise Reject(
                str(error), kind="bad_key", hint=f"`key` of {self.table.name} has changed; seed the system again"
            ) from error
        return [[k[n].encode() for k in keys] for n in range(len(self.table.key))]

    def _key_values(self, write: Write) -> Values:
        parts = split_native_key(write.native_key or "", len(self.table.key))
        return {k: text_value(p) for k, p in zip(self.table.key, parts, strict=True)}

    def _key_of(self, values: Values) -> str:
        return self._spell([to_text(values[k], self._oids[k]) for k in self.table.key])

    def _spell(self, parts: Sequence[bytes | None]) -> str:
        return native_key([(p or b"").decode() for p in parts])


def _distinct(todo: list[tuple[int, Write]]) -> Iterator[list[tuple[int, Write]]]:
    """Cut a batch so that no part names a native key twice: one statement writes a row once."""
    while todo:
        seen: set[str] = set()
        part, rest = [], []
        for item in todo:
            key = item[1].native_key
            if key is not None and key in seen:
                rest.append(item)
            else:
                part.append(item)
                if key is not None:
                    seen.add(key)
        yield part
        todo = rest


def _by_key(item: Wanted) -> str:
    return item[1].native_key or item[1].canonical_id


def _fields(write: Write) -> dict[str, Any]:
    return {name: getattr(write, name) for name in Write.__slots__}


def _raws(cursor: psycopg.Cursor[Any]) -> list[Raw]:
    """Return a result as the server's own text."""
    result = cursor.pgresult
    if result is None:
        return []
    get, width = result.get_value, range(result.nfields)
    return [[get(r, c) for c in width] for r in range(result.ntuples)]
