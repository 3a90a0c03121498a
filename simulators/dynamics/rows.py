"""The requests on entity sets and single rows: the rules of Prefer, If-Match and If-None-Match, and the bulk messages."""

from __future__ import annotations

import re
from typing import Any

from simulators.dynamics.errors import (
    ODataError,
    already_there,
    bad_payload,
    bad_query,
    missing,
    missing_key,
    no_segment,
    not_allowed,
    version_mismatch,
)
from simulators.dynamics.messages import Ask, Reply, answered, located, named
from simulators.dynamics.query import parse_options
from simulators.dynamics.reading import Reader
from simulators.dynamics.rendering import Renderer, etag
from simulators.dynamics.schema import Table
from simulators.dynamics.store import Row, Store, Values
from simulators.dynamics.writes import Context, Writer

_BOUND = "Microsoft.Dynamics.CRM."
_GUID_KEY = re.compile(r"\s*'?[0-9a-fA-F-]{36}'?\s*$")


class Rows:
    """Carries out requests whose path begins with an entity set. Every method raises ODataError."""

    def __init__(self, store: Store, reader: Reader, writer: Writer) -> None:
        self._store = store
        self._reader = reader
        self._writer = writer

    def handle(self, ask: Ask, parts: list[str], context: Context) -> Reply:
        """Answer a request."""
        set_name, key = named(parts[0])
        table = self._store.schema.by_set(set_name)
        rest = parts[1:]
        if key is None:
            return self._collection(ask, table, rest, context)
        if not rest:
            return self._row(ask, table, key, context)
        return self._below(ask, table, self._existing(table, key), rest, context)

    def _collection(self, ask: Ask, table: Table, rest: list[str], context: Context) -> Reply:
        if rest == ["$count"] and ask.method == "GET":
            return self._reader.count(ask, table)
        if rest and rest[0].startswith(_BOUND) and ask.method == "POST":
            return self._bulk(ask, table, rest[0].removeprefix(_BOUND), context)
        if rest:
            raise no_segment(rest[0])
        if ask.method == "GET":
            return self._reader.many(ask, table)
        if ask.method == "POST":
            row = self._writer.create(table, ask.json(table.set_name), context)
            return self._written(ask, table, row, created=True)
        raise not_allowed(ask.method)

    def _existing(self, table: Table, key: str) -> Row:
        row, _, row_id = self._writer.find(table, key)
        if row is None:
            raise missing(table.name, row_id) if row_id else missing_key(table.name)
        return row

    def _row(self, ask: Ask, table: Table, key: str, context: Context) -> Reply:
        if ask.method == "GET":
            return self._reader.one(ask, table, self._existing(table, key))
        if ask.method == "DELETE":
            row = self._existing(table, key)
            self._matches(ask, row)
            self._writer.delete(table, row, context)
            return Reply(204)
        if ask.method in ("PATCH", "PUT"):
            return self._upsert(ask, table, key, context)
        raise not_allowed(ask.method)

    def _upsert(self, ask: Ask, table: Table, key: str, context: Context) -> Reply:
        """Update the row that the key names, or create it unless the conditions forbid that."""
        row, given, row_id = self._writer.find(table, key)
        body = ask.json(table.set_name)
        if row is None:
            if ask.if_match is not None:
                raise missing(table.name, row_id) if row_id else missing_key(table.name)
            row, created = self._writer.create(table, body, context, given), True
        else:
            if ask.if_none_match == "*":
                raise already_there()
            self._matches(ask, row)
            row, created = self._writer.update(table, row, body, context, drop=given), False
        by_id = _GUID_KEY.match(key) is not None
        return self._written(ask, table, row, created=created, location=None if by_id else key)

    @staticmethod
    def _matches(ask: Ask, row: Row) -> None:
        if ask.if_match not in (None, "*", etag(row.values)):
            raise version_mismatch()

    def _written(self, ask: Ask, table: Table, row: Row, *, created: bool, location: str | None = None) -> Reply:
        """Answer a write; one by an alternate key is answered with that key's address, not with the id."""
        url = f"{ask.root}{table.set_name}({location or row.id})"
        if not ask.wants_body:
            return Reply(204, b"", {"OData-EntityId": url, "Location": url})
        reply = self._reader.one(ask, table, row, parse_options(ask.parameters), 201 if created else 200)
        reply.headers.update({"OData-EntityId": url, "Location": url})
        return reply

    # Below a row.

    def _below(self, ask: Ask, table: Table, row: Row, rest: list[str], context: Context) -> Reply:
        name, inner = named(rest[0])
        if rest[-1] == "$ref":
            return self._reference(ask, table, row, name, inner, context)
        if name in table.properties and inner is None:
            return self._property(ask, table, row, name, rest[1:], context)
        if name in table.links:
            column, target_name = table.links[name]
            row_id = row.values.get(column.property)
            target = self._store.schema.tables[str(row.values.get(f"{column.property}!") or target_name)]
            if row_id is None or (len(column.navigations()) > 1 and target.name != target_name):
                return Reply(204)
            found = self._store.get(target, str(row_id))
            if found is None:
                return Reply(204)
            return (
                self._reader.one(ask, target, found)
                if len(rest) == 1
                else self._below(ask, target, found, rest[1:], context)
            )
        return self._related(ask, table, row, name, inner, rest, context)

    def _related(
        self, ask: Ask, table: Table, row: Row, name: str, inner: str | None, rest: list[str], context: Context
    ) -> Reply:
        relationship = self._store.schema.collection(table, name)
        many = self._store.schema.association(table, name)
        if relationship is None and many is None:
            raise no_segment(name)
        other = relationship.many if relationship is not None else many.other(table.name) if many else ""
        target = self._store.schema.tables[other]
        if ask.method == "POST" and relationship is not None and len(rest) == 1:
            bind = {f"{relationship.navigation}@odata.bind": f"{table.set_name}({row.id})"}
            made = self._writer.create(target, {**ask.json(target.set_name), **bind}, context)
            return self._written(ask, target, made, created=True)
        if ask.method != "GET":
            raise not_allowed(ask.method)
        rows = Renderer(self._store, ask.root, ask.annotations).related(table, row.id, name)
        if inner is not None:
            found = next((r for r in rows if r.id == inner.strip("'").lower()), None)
            if found is None:
                raise missing(target.name, inner)
            return self._reader.one(ask, target, found)
        if rest[1:] == ["$count"]:
            return Reply(200, f"\ufeff{len(rows)}".encode(), {"Content-Type": "text/plain"})
        return self._reader.answer_query(ask, target, parse_options(ask.parameters), rows)

    def _reference(self, ask: Ask, table: Table, row: Row, name: str, inner: str | None, context: Context) -> Reply:
        if ask.method in ("POST", "PUT"):
            reference = ask.json(table.set_name).get("@odata.id")
            if not isinstance(reference, str):
                raise bad_payload(table.set_name, "A reference needs '@odata.id'.")
            self._writer.link(table, row, name, self._writer.refer(reference, context), context)
            return Reply(204)
        if ask.method == "DELETE":
            other = inner.strip("'").lower() if inner is not None else None
            if other is None and (reference := ask.parameters.get("$id")) is not None:
                other = self._writer.refer(reference, context)[1]
            self._writer.unlink(table, row, name, other, context)
            return Reply(204)
        if ask.method != "GET":
            raise not_allowed(ask.method)
        context_url = f"{ask.root}$metadata#"
        if name in table.links:
            column, target_name = table.links[name]
            target = self._store.schema.tables[str(row.values.get(f"{column.property}!") or target_name)]
            row_id = row.values.get(column.property)
            if row_id is None:
                return Reply(204)
            return answered(
                {"@odata.context": f"{context_url}$ref", "@odata.id": f"{ask.root}{target.set_name}({row_id})"}
            )
        rows = Renderer(self._store, ask.root, ask.annotations).related(table, row.id, name)
        relationship = self._store.schema.collection(table, name)
        many = self._store.schema.association(table, name)
        other_name = relationship.many if relationship is not None else many.other(table.name) if many else ""
        set_name = self._store.schema.tables[other_name].set_name
        value = [{"@odata.id": f"{ask.root}{set_name}({r.id})"} for r in rows]
        return answered({"@odata.context": f"{context_url}Collection($ref)", "value": value})

    def _property(self, ask: Ask, table: Table, row: Row, name: str, rest: list[str], context: Context) -> Reply:
        if ask.method == "GET":
            return self._reader.property(ask, table, row, name, raw=rest == ["$value"])
        self._matches(ask, row)
        column = table.properties[name]
        if ask.method == "PUT":
            body = ask.json(table.set_name)
            if "value" not in body:
                raise bad_payload(table.set_name, 'A single property is set by {"value": …}.')
            self._writer.update(table, row, {name: body["value"]}, context)
        elif ask.method == "DELETE":
            navigation = next(iter(column.navigations()), "")
            self._writer.update(table, row, {navigation or name: None}, context)
        else:
            raise not_allowed(ask.method)
        return Reply(204)

    # Bulk messages: all rows or none.

    def _bulk(self, ask: Ask, table: Table, message: str, context: Context) -> Reply:
        if message not in ("CreateMultiple", "UpdateMultiple", "UpsertMultiple"):
            raise no_segment(f"{_BOUND}{message}")
        targets = ask.json(table.set_name).get("Targets")
        if not isinstance(targets, list) or not targets:
            raise bad_payload(table.set_name, f"The parameter 'Targets' of {message} is missing or empty.")
        ids = []
        for target in targets:
            if not isinstance(target, dict) or not str(target.get("@odata.type", "")).endswith(f"CRM.{table.name}"):
                raise bad_payload(
                    table.set_name,
                    f"Each target of {message} needs '@odata.type': 'Microsoft.Dynamics.CRM.{table.name}'.",
                )
            ids.append(self._one_of_many(table, message, target, context).id)
        if message == "CreateMultiple":
            response = f"{ask.root}$metadata#Microsoft.Dynamics.CRM.CreateMultipleResponse"
            return answered({"@odata.context": response, "Ids": ids})
        return Reply(204)

    def _one_of_many(self, table: Table, message: str, target: dict[str, Any], context: Context) -> Row:
        if message == "CreateMultiple":
            return self._writer.create(table, target, context)
        row, given, row_id = self._addressed(table, target)
        if row is None and message == "UpdateMultiple":
            raise missing(table.name, row_id) if row_id else missing_key(table.name)
        if row is None:
            return self._writer.create(table, target, context, given)
        return self._writer.update(table, row, target, context, drop=given)

    def _addressed(self, table: Table, target: dict[str, Any]) -> tuple[Row | None, Values, str]:
        """Return the row that a target of a bulk message names: by @odata.id, or by its primary key in the body."""
        reference = target.get("@odata.id")
        if isinstance(reference, str):
            absolute = located(reference)
            set_name, key = named(absolute[1] if absolute is not None else reference.lstrip("/"))
            if set_name != table.set_name or key is None:
                raise bad_query(f"'{reference}' is no row of '{table.set_name}'.")
            return self._writer.find(table, key)
        row_id = target.get(table.primary_id)
        if not isinstance(row_id, str):
            raise ODataError(
                400, "0x80040203", f"A target names no row: '{table.primary_id}' or '@odata.id' is missing."
            )
        return self._writer.find(table, row_id)
