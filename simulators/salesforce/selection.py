"""Queries carried out: which rows are looked at, which are taken, in which order, and how they are shown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from simulators.salesforce.conditions import Getter, Scope, plain, test
from simulators.salesforce.errors import Refusal
from simulators.salesforce.grouping import grouped
from simulators.salesforce.org import Org
from simulators.salesforce.schema import TEXT, Field
from simulators.salesforce.soql import Call, Compare, Condition, Group, Join, Literal, Order, Path, Query, parse
from simulators.salesforce.tables import Row, Table
from simulators.salesforce.values import value_of

Shown = dict[str, Any]
_MOST_OFFSET = 2000
_MOST_TEXT = 100_000


@dataclass(slots=True)
class Selected:
    """What a query found: rows still to be shown, so that a page costs only its own rows."""

    rows: list[Any]
    show: Callable[[Any], Shown]
    total: int
    columns: list[tuple[str, ...]]
    """The names of the fields, as the query spells them."""


def select(org: Org, text: str, version: str, *, deleted: bool = False) -> Selected:
    """Carry out a query; with ``deleted``, records in the Recycle Bin are seen too. Raises Refusal."""
    if len(text) > _MOST_TEXT:
        raise Refusal("QUERY_TOO_COMPLICATED", f"SOQL statements may not be longer than {_MOST_TEXT} characters")
    return Selection(org, parse(text), version, deleted).run()


def check(org: Org, text: str, version: str) -> None:
    """Refuse a query that cannot be carried out, without looking at any row. Raises Refusal."""
    Selection(org, parse(text), version, False).check()


class Selection:
    """One query of one object."""

    def __init__(
        self, org: Org, query: Query, version: str, deleted: bool, table: Table | None = None, text: str = ""
    ) -> None:
        self._org = org
        self._query = query
        self._version = version
        self._deleted = deleted
        query.text = query.text or text
        self._table = table if table is not None else org.typed(query.source)
        self._scope = Scope(org, self._table.kind, query, self._values)
        if query.offset > _MOST_OFFSET:
            raise Refusal("NUMBER_OUTSIDE_VALID_RANGE", f"Maximum SOQL offset allowed is {_MOST_OFFSET}")

    def run(self) -> Selected:
        """Find the rows."""
        query, table = self._query, self._table
        fields = query.fields
        if len(fields) == 1 and isinstance(fields[0], Call) and fields[0].name == "count" and fields[0].path is None:
            whole = query.where is None and query.limit is None and not table.hidden and not self._deleted
            total = table.live if whole else len(self._rows())
            return Selected([], lambda row: row, total, [])
        if query.aggregated:
            found = grouped(self._scope, self._matching(self._candidates()[0]))
            end = None if query.limit is None else query.offset + query.limit
            return Selected(found[query.offset : end], lambda row: row, len(found[query.offset : end]), [])
        if any(isinstance(f, Group) and f.name != "standard" for f in fields) and (
            query.limit is None or query.limit > 200
        ):
            raise Refusal("MALFORMED_QUERY", "The SOQL FIELDS function must have a LIMIT of at most 200")
        show, columns = self._shower()
        rows = self._rows()
        return Selected(rows, show, len(rows), columns)

    def check(self) -> None:
        """Refuse what `run` would refuse."""
        self._shower()
        if self._query.where is not None:
            test(self._scope, self._query.where)
        for term in self._query.order:
            self._scope.getter(term.what)

    # Which rows.

    def _matching(self, ids: Iterable[str] | None) -> Iterator[Row]:
        fits = test(self._scope, self._query.where) if self._query.where is not None else None
        for row in self._table.all_seen(ids):
            if (self._deleted or not row["IsDeleted"]) and (fits is None or fits(row)):
                yield row

    def _rows(self, only: list[str] | None = None) -> list[Row]:
        query = self._query
        ids, order = (only, "") if only is not None else self._candidates()
        keys = [self._scope.getter(o.what) for o in query.order]
        found = self._matching(ids)
        end = None if query.limit is None else query.offset + query.limit
        if order and end is not None and _follows(query.order, order):
            rows = [row for row, _ in zip(found, range(end), strict=False)]
        else:
            rows = list(found)
            for (read, field), term in reversed(list(zip(keys, query.order, strict=True))):
                _sort(rows, read, field, term)
        return rows[query.offset : end]

    def _candidates(self) -> tuple[Iterable[str] | None, str]:
        """Return the ids to look at (None: all) and what they are in the order of: Id or SystemModstamp."""
        table, where = self._table, self._query.where
        for part in _all_of(where):
            if (ids := self._indexed(part)) is not None:
                return sorted(ids), "Id"
        low, high = self._bounds(where, "SystemModstamp")
        for earlier in ("LastModifiedDate", "CreatedDate"):  # neither is ever later than the system's own stamp
            least, _ = self._bounds(where, earlier)
            low = max((x for x in (low, least) if x is not None), default=None)
        by_time = bool(self._query.order) and _follows(self._query.order, "SystemModstamp")
        if low is not None or high is not None or (by_time and self._query.limit is not None):
            stamped = table.stamped(low, high)
            if table.hidden:
                return list(dict.fromkeys([*stamped, *table.hidden])), ""
            return stamped, "SystemModstamp"
        low, _ = self._bounds(where, "Id")
        if low is not None:
            return table.ids[bisect_left(table.ids, low) :], "Id"
        return None, "Id"

    def _indexed(self, part: Condition) -> set[str] | None:
        """Return the ids that can fulfil a condition, if an index knows them."""
        if not isinstance(part, Compare) or not isinstance(part.left, Path) or part.op not in {"=", "in"}:
            return None
        way, field, _ = self._scope.resolve(part.left)
        table, value = self._table, part.value
        if way or (field.name != "Id" and not table.has_index(field.name)):
            return None
        if isinstance(value, Query):
            wanted = list(self._values(value))
        else:
            literals = value if isinstance(value, list) else [value]
            if any(v.kind in {"literal", "null"} for v in literals):
                return None
            wanted = [plain(field, v) for v in literals]
        out = {i for w in wanted if w is not None for i in table.with_value(field.name, w)}
        return out | set(table.hidden) if field.name != "Id" else out

    def _bounds(self, condition: Condition | None, name: str) -> tuple[str | None, str | None]:
        """Return between which values a field must be for a condition to hold, as far as that can be told."""
        if isinstance(condition, Join):
            lows, highs = zip(*(self._bounds(p, name) for p in condition.parts), strict=True)
            if condition.op == "and":
                return (
                    max((x for x in lows if x is not None), default=None),
                    min((x for x in highs if x is not None), default=None),
                )
            return (None if None in lows else min(lows), None if None in highs else max(highs))
        if not isinstance(condition, Compare) or not isinstance(condition.left, Path):
            return None, None
        names = self._scope.names(condition.left)
        if len(names) != 1 or names[0].lower() != name.lower() or not isinstance(condition.value, Literal):
            return None, None
        if condition.value.kind == "literal":
            return None, None
        value = plain(self._table.kind.fields[name], condition.value)
        if value is None:
            return None, None
        return (
            value if condition.op in {">", ">=", "="} else None,
            value if condition.op in {"<", "<=", "="} else None,
        )

    def _values(self, query: Query) -> set[Any]:
        """Return what a query inside a condition finds: the values of its one field."""
        if len(query.fields) != 1 or not isinstance(query.fields[0], Path):
            raise Refusal("MALFORMED_QUERY", "a query inside a condition selects exactly one field")
        inner = Selection(self._org, query, self._version, self._deleted, text=self._query.text)
        read, _ = inner._scope.getter(query.fields[0])
        return {read(row) for row in inner._rows()}

    # How they are shown.

    def _shower(self) -> tuple[Callable[[Row], Shown], list[tuple[str, ...]]]:
        kind, parts, columns = self._table.kind, list[tuple[str, Getter]](), list[tuple[str, ...]]()
        parents: dict[str, tuple[Field, Query]] = {}
        for field in self._query.fields:
            if isinstance(field, Query):
                parts.append(self._children(field))
                continue
            if isinstance(field, Group):
                for f in kind.fields.values():
                    if field.name == "all" or f.custom is (field.name == "custom"):
                        parts.append((f.name, self._scope.getter(Path((f.name,)))[0]))
                        columns.append((f.name,))
                continue
            read, described = self._scope.getter(field)
            path = field.path if isinstance(field, Call) else field
            assert path is not None
            names = self._scope.names(path)
            columns.append(names)
            if len(names) == 1 or isinstance(field, Call):
                parts.append((field.alias if isinstance(field, Call) and field.alias else described.name, read))
                continue
            relation = kind.relations[names[0].lower()]
            if relation.name not in parents:
                parents[relation.name] = (relation, Query(source=relation.refers[0], text=self._query.text))
                parts.append((relation.relation or names[0], self._parent(*parents[relation.name])))
            parents[relation.name][1].fields.append(Path(names[1:], path.at))
        shown = _unique([n for n, _ in parts])
        if shown is not None:
            raise Refusal("MALFORMED_QUERY", f"duplicate field selected: {shown}")
        base, type_ = f"/services/data/v{self._version}/sobjects/{kind.name}/", kind.name

        def show(row: Row) -> Shown:
            out: Shown = {"attributes": {"type": type_, "url": base + row["Id"]}}
            for name, read in parts:
                out[name] = read(row)
            return out

        return show, columns

    def _parent(self, relation: Field, query: Query) -> Getter:
        made: list[Callable[[Row], Shown]] = []
        org = self._org

        def read(row: Row) -> Any:
            if not made:  # only now are all its fields known
                made.append(Selection(org, query, self._version, True)._shower()[0])
            id_ = row[relation.name]
            parent = org.row_of(id_) if id_ is not None else None
            return made[0](parent) if parent is not None else None

        return read

    def _children(self, query: Query) -> tuple[str, Getter]:
        kind = self._table.kind
        for table in self._org.tables.values():
            for field in table.kind.fields.values():
                if field.children and field.children.lower() == query.source.lower() and kind.name in field.refers:
                    return field.children, self._child_reader(table, field, query)
        raise Refusal(
            "INVALID_TYPE",
            f"Didn't understand relationship '{query.source}' in FROM part of query call. If you are attempting to use a custom "
            "relationship, be sure to append the '__r' after the custom relationship name. Please reference your WSDL or the "
            "describe call for the appropriate names.",
        )

    def _child_reader(self, table: Table, field: Field, query: Query) -> Getter:
        inner = Selection(self._org, query, self._version, self._deleted, table, self._query.text)
        show, _ = inner._shower()

        def read(row: Row) -> Any:
            rows = inner._rows(sorted(table.with_value(field.name, row["Id"])))
            return {"totalSize": len(rows), "done": True, "records": [show(r) for r in rows]} if rows else None

        return read


def whole(table: Table, row: Row, version: str, names: list[Field] | None = None) -> Shown:
    """Return a record as a read of it answers: all its fields, or those named."""
    kind = table.kind
    out: Shown = {
        "attributes": {"type": kind.name, "url": f"/services/data/v{version}/sobjects/{kind.name}/{row['Id']}"}
    }
    for field in kind.fields.values() if names is None else names:
        out[field.name] = value_of(field, row)
    if names is not None:
        out["Id"] = row["Id"]
    return out


def _all_of(condition: Condition | None) -> list[Condition]:
    if condition is None:
        return []
    if isinstance(condition, Join) and condition.op == "and":
        return [x for p in condition.parts for x in _all_of(p)]
    return [condition]


def _follows(order: list[Order], by: str) -> bool:
    """Return whether rows that come by Id, or by SystemModstamp and Id, are in the order wanted."""
    names = [o.what.names[-1].lower() if isinstance(o.what, Path) and len(o.what.names) == 1 else "" for o in order]
    if any(o.descending for o in order):
        return False
    return names in ([["id"], []] if by == "Id" else [["systemmodstamp"], ["systemmodstamp", "id"]])


def _sort(rows: list[Row], read: Getter, field: Field, term: Order) -> None:
    """Sort by one term; terms before it are sorted after it, which keeps this order among equals."""
    fold = field.type in TEXT
    empty = [r for r in rows if read(r) is None]
    filled = [r for r in rows if read(r) is not None]
    filled.sort(key=(lambda r: read(r).lower()) if fold else read, reverse=term.descending)
    rows[:] = empty + filled if term.nulls_first else filled + empty


def _unique(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
