"""Rows as the Web API shows them: selected properties, annotations, expanded rows, links."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from simulators.dynamics.errors import bad_query, no_property
from simulators.dynamics.query import Expand, Options, Query
from simulators.dynamics.schema import Column, Table
from simulators.dynamics.store import Row, Store, Values
from simulators.dynamics.values import formatted

FORMATTED = "OData.Community.Display.V1.FormattedValue"
LOOKUP_TABLE = "Microsoft.Dynamics.CRM.lookuplogicalname"
NAVIGATION = "Microsoft.Dynamics.CRM.associatednavigationproperty"
_MAX_EXPAND = 15


@dataclass(frozen=True, slots=True)
class Annotations:
    """Which annotations a client asked for by ``Prefer: odata.include-annotations``."""

    patterns: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str | None) -> Annotations:
        """Return what the preference names."""
        return cls(tuple(p.strip() for p in (text or "").split(",") if p.strip()))

    def want(self, name: str) -> bool:
        """Return whether an annotation is wanted; a pattern with a minus takes away."""
        hit = False
        for pattern in self.patterns:
            if pattern.startswith("-") and fnmatchcase(name, pattern[1:]):
                return False
            hit = hit or pattern == "*" or fnmatchcase(name, pattern)
        return hit


def etag(values: Values) -> str:
    """Return the etag of a row."""
    return f'W/"{values["versionnumber"]}"'


class Renderer:
    """Shows rows of one organisation; ``root`` is the address of the Web API, with a slash at its end."""

    def __init__(self, store: Store, root: str, annotations: Annotations) -> None:
        self._store = store
        self._schema = store.schema
        self._root = root
        self._wanted = annotations
        self._formats = annotations.want(FORMATTED)
        self._tables = annotations.want(LOOKUP_TABLE)
        self._navigations = annotations.want(NAVIGATION)

    def columns(self, table: Table, select: list[str]) -> list[Column]:
        """Return the columns that are shown. Raises ODataError if one is not there."""
        if not select:
            return list(table.columns.values())
        out = {table.primary_id: table.columns[table.primary_id]}
        for name in select:
            column = table.properties.get(name)
            if column is None and name in table.links:
                column = table.links[name][0]
            if column is None:
                raise no_property(name, table.name)
            out[column.name] = column
        return list(out.values())

    def check(self, table: Table, options: Options) -> None:
        """Raise ODataError for a select or expand of what is not there."""
        self.columns(table, options.select)
        if len(options.expand) > _MAX_EXPAND:
            raise bad_query(f"Total number of $expand options in query exceeded maximum limit of {_MAX_EXPAND}.")
        for expand in options.expand:
            target = self._target(table, expand.navigation)
            self.columns(target, expand.options.select)

    def rows(self, table: Table, found: list[tuple[Row, Values]], options: Options) -> list[dict[str, Any]]:
        """Return rows as JSON objects."""
        columns = self.columns(table, options.select)
        return [self.row(table, values, columns, options.expand) for _, values in found]

    def row(self, table: Table, values: Values, columns: list[Column], expands: list[Expand]) -> dict[str, Any]:
        """Return one row as a JSON object."""
        out: dict[str, Any] = {"@odata.etag": etag(values)}
        annotated = self._formats or self._tables or self._navigations
        for column in columns:
            prop = column.property
            value = out[prop] = values.get(prop)
            if annotated and value is not None:
                self._annotate(out, column, prop, value, values)
        for expand in expands:
            self._expand(out, table, values, expand)
        return out

    def _annotate(self, out: dict[str, Any], column: Column, prop: str, value: Any, values: Values) -> None:
        if column.is_lookup:
            target = target_of(column, values)
            if self._formats:
                label = self.name_of(target, str(value))
                if label is not None:
                    out[f"{prop}@{FORMATTED}"] = label
            if self._navigations:
                out[f"{prop}@{NAVIGATION}"] = next(
                    (n for n, t in column.navigations().items() if t == target), column.navigation
                )
            if self._tables:
                out[f"{prop}@{LOOKUP_TABLE}"] = target
        elif self._formats and (text := formatted(column, value)) is not None:
            out[f"{prop}@{FORMATTED}"] = text

    def name_of(self, table_name: str, row_id: str) -> str | None:
        """Return the name of a row that a lookup shows."""
        table = self._schema.tables.get(table_name)
        row = self._store.get(table, row_id) if table is not None else None
        return None if row is None or table is None else row.values.get(table.primary_name)

    def _target(self, table: Table, navigation: str) -> Table:
        if navigation in table.links:
            return self._schema.tables[table.links[navigation][1]]
        if (relationship := self._schema.collection(table, navigation)) is not None:
            return self._schema.tables[relationship.many]
        if (many := self._schema.association(table, navigation)) is not None:
            return self._schema.tables[many.other(table.name)]
        raise no_property(navigation, table.name)

    def _expand(self, out: dict[str, Any], table: Table, values: Values, expand: Expand) -> None:
        target = self._target(table, expand.navigation)
        columns = self.columns(target, expand.options.select)
        if expand.navigation in table.links:
            row = self._linked(table, values, expand.navigation)
            out[expand.navigation] = (
                None if row is None else self.row(target, row.values, columns, expand.options.expand)
            )
            return
        options = Options(filter=expand.options.filter, order=expand.options.order)
        related = self.related(table, str(values[table.primary_id]), expand.navigation)
        wanted = {row.id for row in related}
        if options.filter is None and not options.order:
            chosen = [(row, row.values) for row in related]
        else:
            ids = ("in", ("prop", target.primary_id), [("lit", "guid", i) for i in wanted])
            options.filter = ids if options.filter is None else ("and", ids, options.filter)
            chosen = Query(self._store, target, options).page(len(wanted) or 1).rows
        if expand.options.top is not None:
            chosen = chosen[: expand.options.top]
        out[expand.navigation] = [self.row(target, v, columns, expand.options.expand) for _, v in chosen]
        out[f"{expand.navigation}@odata.nextLink"] = (
            f"{self._root}{table.set_name}({values[table.primary_id]})/{expand.navigation}"
            + (f"?$select={','.join(expand.options.select)}" if expand.options.select else "")
        )

    def _linked(self, table: Table, values: Values, navigation: str) -> Row | None:
        column, target = table.links[navigation]
        row_id = values.get(column.property)
        if row_id is None or (len(column.navigations()) > 1 and target_of(column, values) != target):
            return None
        actual = self._schema.tables[target_of(column, values)]
        return self._store.get(actual, str(row_id))

    def related(self, table: Table, row_id: str, navigation: str) -> list[Row]:
        """Return the rows behind a collection-valued navigation property. Raises ODataError if there is no such one."""
        relationship = self._schema.collection(table, navigation)
        if relationship is not None:
            many = self._schema.tables[relationship.many]
            data = self._store.data(many)
            column = many.columns[relationship.column]
            ids = data.index(column.property).get(row_id, {})
            rows = [data.rows[i] for i in ids if target_of(column, data.rows[i].values) == relationship.one]
            return sorted(rows, key=lambda r: r.number)
        many_to_many = self._schema.association(table, navigation)
        if many_to_many is None:
            raise no_property(navigation, table.name)
        target = self._schema.tables[many_to_many.other(table.name)]
        pairs = self._store.links.get(many_to_many.name, set())
        left = many_to_many.left == table.name
        found = {b if left else a for a, b in pairs if (a if left else b) == row_id}
        return [row for i in sorted(found) if (row := self._store.get(target, i)) is not None]


def target_of(column: Column, values: Values) -> str:
    """Return the table that a lookup's value refers to."""
    return str(values.get(f"{column.property}!") or column.targets[0])
