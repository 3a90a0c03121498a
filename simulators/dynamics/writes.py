"""Creates, updates and deletes as the platform does them: what a body means, states, stamps, cascades, duplicates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulators.clock import Clock
from simulators.dynamics.errors import ODataError, already_there, bad_payload, bad_query, missing, missing_key
from simulators.dynamics.messages import Caller, named
from simulators.dynamics.platform import Platform
from simulators.dynamics.schema import Column, Table
from simulators.dynamics.store import Row, Store, Values
from simulators.dynamics.syntax import parse_key
from simulators.dynamics.values import stored


@dataclass(slots=True)
class Context:
    """What a write needs to know beside its body."""

    caller: Caller
    tag: str | None = None
    correlation: str = ""
    operation: str = ""
    detect_duplicates: bool = False
    bypass: bool = False
    """No custom logic is to be triggered: no webhooks."""
    references: dict[str, str] = field(default_factory=dict)
    hidden_until: float = 0.0


@dataclass(slots=True)
class Event:
    """One message that steps are registered for."""

    message: str
    table: Table
    row_id: str
    changed: Values
    before: Values | None
    after: Values | None
    context: Context


class Writer:
    """Writes rows. ``told`` hears of every change in the transaction, so it must be able to take it back (`Events`)."""

    def __init__(self, store: Store, clock: Clock, told: Callable[[Event], None]) -> None:
        self._store = store
        self._told = told
        self.platform = Platform(store, clock)

    # Finding.

    def find(self, table: Table, key_text: str) -> tuple[Row | None, Values, str]:
        """Return the row that a key in brackets names, the values that the key gives, and its id if it is one.

        Raises ODataError if the key is none of the table's.
        """
        key = parse_key(key_text)
        if isinstance(key, dict) and list(key) == [table.primary_id]:
            key = str(key[table.primary_id]).lower()
        if isinstance(key, str):
            return self._store.get(table, key), {table.primary_id: key}, key
        given: Values = {}
        for name, value in key.items():
            column = table.properties.get(name) or table.columns.get(name)
            if column is None:
                raise bad_query(f"The key property '{name}' is not declared on the type '{table.name}'.")
            if column.kind in ("datetime", "date") or value is None:
                given[column.name] = value
            else:
                given[column.name] = stored(table, column, str(value) if column.kind in ("string", "memo") else value)
        for alternate in table.keys.values():
            if set(alternate.columns) == set(given):
                values = {table.columns[n].property: v for n, v in given.items()}
                return self._store.by_key(table, alternate, values), values, ""
        raise bad_query(
            f"The specified key values of the type '{table.name}' are none of its keys: {', '.join(sorted(given))}."
        )

    def refer(self, reference: str, context: Context) -> tuple[Table, str]:
        """Return table and id that a bind or @odata.id refers to. Raises ODataError if nothing is there."""
        text = reference.strip()
        if text.startswith("$"):
            word, _, _ = text[1:].partition("/")
            if word not in context.references:
                raise bad_query(f"The content ID reference '${word}' is not known in this change set.")
            text = context.references[word]
        if "/api/data/v" in text:
            text = text.partition("/api/data/v")[2].partition("/")[2]
        set_name, key = named(text.lstrip("/"))
        if key is None:
            raise bad_query(f"'{reference}' is not a reference to a row: 'set(id)' is expected.")
        table = self._store.schema.by_set(set_name)
        row, _, row_id = self.find(table, key)
        if row is None:
            raise missing(table.name, row_id) if row_id else missing_key(table.name)
        return table, row.id

    # Writing.

    def create(self, table: Table, body: dict[str, Any], context: Context, given: Values | None = None) -> Row:
        """Create a row; ``given`` are values from the key, which the body's own override. Raises ODataError."""
        later: list[tuple[str, Any]] = []
        assigned = self._assigned(table, body, context, creating=True, later=later)
        values: Values = {**(given or {}), **assigned}
        values = {k: v for k, v in values.items() if v is not None}
        row_id = str(values.get(table.primary_id) or self._store.new_id())
        values[table.primary_id] = row_id
        if row_id in self._store.data(table).rows:
            raise already_there()
        self.platform.states(table, values, values, {}, row_id)
        self.platform.stamps(table, values, context.caller, created=True)
        self.platform.compute(table, values)
        if context.detect_duplicates:
            self.platform.refuse_duplicates(table, values, row_id)
        mark = self._store.begin()
        try:
            row = self._store.insert(table, row_id, values, context.hidden_until)
            for navigation, inner in later:
                self._deep(table, row, navigation, inner, context)
        except BaseException:
            self._store.rollback(mark)
            raise
        self._store.commit()
        self._told(Event("Create", table, row_id, dict(row.values), None, row.values, context))
        return row

    def update(self, table: Table, row: Row, body: dict[str, Any], context: Context, drop: Values | None = None) -> Row:
        """Change a row; values of the key it was found by (``drop``) are left as they are. Raises ODataError."""
        later: list[tuple[str, Any]] = []
        assigned = self._assigned(table, body, context, creating=False, later=later)
        for name in drop or ():
            assigned.pop(name, None)
        assigned.pop(table.primary_id, None)
        values = {**row.values, **assigned}
        values = {k: v for k, v in values.items() if v is not None}
        self.platform.states(table, values, assigned, row.values, row.id)
        self.platform.stamps(table, values, context.caller, created=False)
        self.platform.compute(table, values)
        if context.detect_duplicates:
            self.platform.refuse_duplicates(table, values, row.id)
        before = row.values
        mark = self._store.begin()
        try:
            self._store.update(table, row, values, context.hidden_until)
            for navigation, inner in later:
                self._deep(table, row, navigation, inner, context)
        except BaseException:
            self._store.rollback(mark)
            raise
        self._store.commit()
        self._told(Event("Update", table, row.id, {**assigned}, before, row.values, context))
        return row

    def delete(self, table: Table, row: Row, context: Context) -> None:
        """Delete a row and do to the ones that refer to it what the relationship says. Raises ODataError."""
        mark = self._store.begin()
        try:
            self._delete(table, row, context)
        except BaseException:
            self._store.rollback(mark)
            raise
        self._store.commit()

    def _delete(self, table: Table, row: Row, context: Context) -> None:
        if not row.alive:
            return
        for relationship in self._store.schema.relationships:
            if relationship.one != table.name or relationship.on_delete == "NoCascade":
                continue
            many = self._store.schema.tables[relationship.many]
            column = many.columns[relationship.column]
            data = self._store.data(many)
            if not data.rows:
                continue
            children = [data.rows[i] for i in data.index(column.property).get(row.id, ())]
            for child in children:
                if child.id == row.id and many is table:
                    continue
                if child.values.get(f"{column.property}!", relationship.one) != relationship.one:
                    continue
                if relationship.on_delete == "Restrict":
                    raise restricted()
                if relationship.on_delete == "Cascade":
                    self._delete(many, child, context)
                else:
                    self._unlink(many, child, column, context)
        before = row.values
        self._store.delete(table, row)
        for name, pairs in self._store.links.items():
            for pair in [p for p in pairs if row.id in p]:
                self._store.dissociate(name, pair)
        self._told(Event("Delete", table, row.id, {}, before, None, context))

    def _unlink(self, table: Table, row: Row, column: Column, context: Context) -> None:
        """Clear a lookup because its row goes. The platform stamps the row for it, as any update does."""
        values = {k: v for k, v in row.values.items() if not k.startswith(column.property)}
        self.platform.stamps(table, values, context.caller, created=False)
        self._store.update(table, row, values)

    def link(self, table: Table, row: Row, navigation: str, target: tuple[Table, str], context: Context) -> None:
        """Associate two rows over a navigation property. Raises ODataError."""
        other, other_id = target
        if navigation in table.links:
            column, _ = table.links[navigation]
            self._set_lookup(table, row, column, other, other_id, context)
        elif (relationship := self._store.schema.collection(table, navigation)) is not None:
            child = self._store.data(other).rows[other_id]
            self._set_lookup(other, child, other.columns[relationship.column], table, row.id, context)
        elif (many := self._store.schema.association(table, navigation)) is not None:
            pair = (row.id, other_id) if many.left == table.name else (other_id, row.id)
            self._store.associate(many.name, pair)
            self._told(Event("Associate", table, row.id, {}, row.values, row.values, context))
        else:
            raise bad_query(
                f"Could not find a property named '{navigation}' on type 'Microsoft.Dynamics.CRM.{table.name}'."
            )

    def unlink(self, table: Table, row: Row, navigation: str, other_id: str | None, context: Context) -> None:
        """Dissociate two rows over a navigation property. Raises ODataError."""
        if navigation in table.links:
            _column, _ = table.links[navigation]
            self.update(table, row, {navigation: None}, context)
        elif (relationship := self._store.schema.collection(table, navigation)) is not None and other_id:
            many = self._store.schema.tables[relationship.many]
            child = self._store.get(many, other_id)
            if child is None:
                raise missing(many.name, other_id)
            self.update(many, child, {relationship.navigation: None}, context)
        elif (many_to_many := self._store.schema.association(table, navigation)) is not None and other_id:
            pair = (row.id, other_id) if many_to_many.left == table.name else (other_id, row.id)
            self._store.dissociate(many_to_many.name, pair)
            self._told(Event("Disassociate", table, row.id, {}, row.values, row.values, context))
        else:
            raise bad_query(
                f"Could not find a property named '{navigation}' on type 'Microsoft.Dynamics.CRM.{table.name}'."
            )

    def _set_lookup(
        self, table: Table, row: Row, column: Column, other: Table, other_id: str, context: Context
    ) -> None:
        if other.name not in column.targets:
            raise bad_query(f"A row of '{other.name}' cannot stand in '{column.name}' of '{table.name}'.")
        navigation = next((n for n, t in column.navigations().items() if t == other.name), column.navigation)
        self.update(table, row, {f"{navigation}@odata.bind": f"{other.set_name}({other_id})"}, context)

    # What a body means.

    def _assigned(
        self, table: Table, body: dict[str, Any], context: Context, *, creating: bool, later: list[tuple[str, Any]]
    ) -> Values:
        """Return property → value that a body gives; nested rows that must wait for this one go to ``later``."""
        out: Values = {}
        for name, value in body.items():
            column = table.columns.get(name)
            if column is not None and not column.is_lookup:
                if column.creatable if creating else column.updatable:
                    out[name] = stored(table, column, value)
                continue
            base, at, annotation = name.partition("@")
            if at:
                if annotation == "odata.bind":
                    self._bind(table, base, value, context, out, later)
                continue
            if name in table.links:
                self._nested(table, name, value, context, out)
            elif self._store.schema.collection(table, name) or self._store.schema.association(table, name):
                later.append((name, value))
            elif name in table.properties:
                raise ODataError(
                    400,
                    "0x80048d19",
                    "CRM do not support direct update of Entity Reference properties, Use Navigation properties instead.",
                )
            else:
                raise bad_payload(
                    table.set_name,
                    f"Invalid property '{name}' was found in entity 'Microsoft.Dynamics.CRM.{table.name}'.",
                )
        return out

    def _bind(
        self, table: Table, navigation: str, value: Any, context: Context, out: Values, later: list[tuple[str, Any]]
    ) -> None:
        if navigation not in table.links:
            if isinstance(value, list) and (
                self._store.schema.collection(table, navigation) or self._store.schema.association(table, navigation)
            ):
                later.append((navigation, value))
                return
            raise bad_payload(
                table.set_name,
                f"An undeclared property '{navigation}' which only has property annotations in the payload but no "
                "property value was found in the payload. In OData, only declared navigation properties and declared "
                "named streams can be represented as properties without values.",
            )
        column, _ = table.links[navigation]
        if value is None or value == "":
            self._clear(column, out)
            return
        target, row_id = self.refer(str(value), context)
        self._point(table, column, target, row_id, out)

    def _nested(self, table: Table, navigation: str, value: Any, context: Context, out: Values) -> None:
        column, target_name = table.links[navigation]
        if value is None:
            self._clear(column, out)
        elif isinstance(value, dict):
            target = self._store.schema.tables[target_name]
            self._point(table, column, target, self.create(target, value, context).id, out)
        else:
            raise bad_payload(
                table.set_name,
                "A 'PrimitiveValue' node with non-null value was found when trying to read the value of a navigation "
                f"property ('{navigation}'); however, a 'StartArray' node, a 'StartObject' node, or a 'PrimitiveValue' "
                "node with null value was expected.",
            )

    @staticmethod
    def _clear(column: Column, out: Values) -> None:
        out[column.property] = None
        if len(column.targets) > 1:
            out[f"{column.property}!"] = None

    @staticmethod
    def _point(table: Table, column: Column, target: Table, row_id: str, out: Values) -> None:
        if target.name not in column.targets:
            raise bad_payload(table.set_name, f"A row of '{target.name}' cannot stand in '{column.name}'.")
        out[column.property] = row_id
        if len(column.targets) > 1:
            out[f"{column.property}!"] = target.name

    def _deep(self, table: Table, row: Row, navigation: str, inner: Any, context: Context) -> None:
        """Create or bind the rows of a collection that came with their parent."""
        if not isinstance(inner, list):
            raise bad_payload(table.set_name, f"The collection '{navigation}' must be an array.")
        relationship = self._store.schema.collection(table, navigation)
        for item in inner:
            if isinstance(item, str):
                self.link(table, row, navigation, self.refer(item, context), context)
            elif relationship is not None and isinstance(item, dict):
                many = self._store.schema.tables[relationship.many]
                bind = {f"{relationship.navigation}@odata.bind": f"{table.set_name}({row.id})"}
                self.create(many, {**item, **bind}, context)
            else:
                raise bad_payload(table.set_name, f"Rows cannot be created over '{navigation}'; bind them.")


def restricted() -> ODataError:
    """Return the error for a delete that a relationship forbids."""
    return ODataError(
        405,
        "0x80040227",
        "The record cannot be deleted because it is associated with another record. "
        "The object you tried to delete is associated with another object and cannot be deleted.",
    )
