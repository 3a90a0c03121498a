"""Single records: read, create, change, delete and upsert, by id or by an external id."""

from __future__ import annotations

from typing import Any

from simulators.salesforce.asking import Ask, Reply, names
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal, not_found, unknown_column
from simulators.salesforce.ids import normal
from simulators.salesforce.schema import Field
from simulators.salesforce.selection import Selection, whole
from simulators.salesforce.soql import Compare, Group, Literal, Path, Query
from simulators.salesforce.tables import Row, Table
from simulators.salesforce.unit import Unit
from simulators.salesforce.values import coerced

_CREATED_FLAG_FROM = 46


class Records:
    """The handlers under ``sobjects/{type}``."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._org = context.org
        add = context.router.add
        add("sobjects/*", GET=self._recent, POST=self._create)
        add(
            "sobjects/*/*",
            GET=self._read,
            HEAD=self._read,
            PATCH=self._update,
            DELETE=self._delete,
            POST=self._create_by_id,
        )
        add(
            "sobjects/*/*/*",
            GET=self._read_by_key,
            HEAD=self._read_by_key,
            PATCH=self._upsert,
            DELETE=self._delete_by_key,
            POST=self._create_by_id,
        )

    def _recent(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[1])
        latest = [
            row for id_ in reversed(table.ids[-200:]) if (row := table.seen(id_)) is not None and not row["IsDeleted"]
        ]
        shown = [table.kind.fields["Id"], table.kind.fields[table.kind.name_field]]
        from simulators.salesforce.describe import brief

        return Reply(
            data={
                "objectDescribe": brief(table.kind, ask.version),
                "recentItems": [whole(table, r, ask.version, shown) for r in latest[:5]],
            }
        )

    def _read(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[1])
        return Reply(data=self._shown(ask, table, self._visible(table, ask.parts[2])))

    def _visible(self, table: Table, text: str) -> Row:
        known = normal(text)
        row = table.seen(known) if known is not None else None
        if row is None or row["IsDeleted"]:
            if known is None:
                raise not_found("Provided external ID field does not exist or is not accessible: " + text)
            raise not_found()
        return row

    def _shown(self, ask: Ask, table: Table, row: Row) -> dict[str, Any]:
        return whole(table, row, ask.version, wanted(table, ask.query["fields"]) if "fields" in ask.query else None)

    def _create(self, ask: Ask) -> Reply:
        table, given = self._org.resource(ask.parts[1]), ask.object()
        id_ = self._context.write(ask, lambda unit: unit.create(table, given))
        location = {"Location": f"/services/data/v{ask.version}/sobjects/{table.kind.name}/{id_}"}
        return Reply(201, {"id": id_, "success": True, "errors": []}, location)

    def _create_by_id(self, ask: Ask) -> Reply:
        """Create by ``POST …/{type}/Id``, which is what an upsert without an external id comes to."""
        if ask.parts[2].lower() != "id":
            raise Refusal(
                "METHOD_NOT_ALLOWED", "HTTP Method 'POST' not allowed. Allowed are HEAD,GET,PATCH,DELETE", 405
            )
        return self._create(ask)

    def _update(self, ask: Ask) -> Reply:
        table, given = self._org.resource(ask.parts[1]), ask.object()
        self._context.write(ask, lambda unit: unit.update(table, ask.parts[2], given))
        return Reply(204)

    def _delete(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[1])
        self._context.write(ask, lambda unit: unit.delete(table, ask.parts[2]))
        return Reply(204)

    # By an external id.

    def _read_by_key(self, ask: Ask) -> Reply:
        table, name = self._org.resource(ask.parts[1]), ask.parts[2]
        if table.kind.find(name) is None and normal(name) is not None:
            return self._related(ask, table, self._visible(table, name), ask.parts[3])
        found = self._keyed(ask)
        if isinstance(found, Reply):
            return found
        if found is None:
            raise not_found()
        return Reply(data=self._shown(ask, table, self._visible(table, found["Id"])))

    def _keyed(self, ask: Ask) -> Row | Reply | None:
        """Return the record with an external id, None if there is none, or the answer that names several."""
        table = self._org.resource(ask.parts[1])
        field = key_field(table, ask.parts[2])
        found = matching(table, field, coerced(field, ask.parts[3], text=True))
        if len(found) > 1:
            base = f"/services/data/v{ask.version}/sobjects/{table.kind.name}/"
            return Reply(300, [base + row["Id"] for row in found])
        return found[0] if found else None

    def _upsert(self, ask: Ask) -> Reply:
        table, given = self._org.resource(ask.parts[1]), ask.object()
        field = key_field(table, ask.parts[2])
        if any(name.lower() == field.name.lower() for name in given):
            raise Refusal("INVALID_FIELD", f"The {field.name} field should not be specified in the sobject data.")
        found = self._keyed(ask)
        if isinstance(found, Reply):
            return found
        if found is None:
            if ask.flag("updateOnly") or field.name == "Id":
                raise not_found()
            key = {field.name: coerced(field, ask.parts[3], text=True)}
            id_ = self._context.write(ask, lambda unit: unit.create(table, {**given, **key}))
            return Reply(201, {"id": id_, "success": True, "errors": [], "created": True})
        self._context.write(ask, lambda unit: unit.update(table, found["Id"], given))
        if int(ask.version.partition(".")[0]) < _CREATED_FLAG_FROM:
            return Reply(204)
        return Reply(200, {"id": found["Id"], "success": True, "errors": [], "created": False})

    def _delete_by_key(self, ask: Ask) -> Reply:
        table, found = self._org.resource(ask.parts[1]), self._keyed(ask)
        if isinstance(found, Reply):
            return found
        if found is None:
            raise not_found()
        self._context.write(ask, lambda unit: unit.delete(table, found["Id"]))
        return Reply(204)

    # Along a relationship.

    def _related(self, ask: Ask, table: Table, row: Row, name: str) -> Reply:
        relation = table.kind.relations.get(name.lower())
        if relation is not None:
            parent = self._org.row_of(row[relation.name]) if row[relation.name] is not None else None
            if parent is None or parent["IsDeleted"]:
                raise not_found(f"The requested resource does not exist: {name}")
            return Reply(data=self._shown(ask, self._org.prefixes[parent["Id"][:3]], parent))
        for children in self._org.tables.values():
            for field in children.kind.fields.values():
                if (field.children or "").lower() == name.lower() and table.kind.name in field.refers:
                    chosen = (
                        [Path((f.name,)) for f in wanted(children, ask.query["fields"])]
                        if "fields" in ask.query
                        else []
                    )
                    query = Query(
                        fields=[*chosen] or [Group("all")],
                        source=children.kind.name,
                        where=Compare(Path((field.name,)), "=", Literal("string", row["Id"])),
                        limit=200 if not chosen else None,
                    )
                    found = Selection(self._org, query, ask.version, False).run()
                    records = [found.show(r) for r in found.rows]
                    return Reply(data={"totalSize": len(records), "done": True, "records": records})
        raise not_found()


def wanted(table: Table, text: str) -> list[Field]:
    """Return the fields that a ``fields`` parameter names. Raises Refusal (INVALID_FIELD)."""
    out = []
    for name in names(text):
        field = table.kind.find(name)
        if field is None:
            raise unknown_column(name, table.kind.name)
        out.append(field)
    return out


def key_field(table: Table, name: str) -> Field:
    """Return a field by which records are found: an external id, one that may be looked up, or Id. Raises Refusal (404)."""
    field = table.kind.find(name)
    if field is None or not (field.external or field.lookup):
        raise not_found(f"Provided external ID field does not exist or is not accessible: {name}")
    return field


def matching(table: Table, field: Field, value: Any) -> list[Row]:
    """Return the living records whose key field has the value, hidden ones included: they would be doubles."""
    if value is None:
        return []
    if field.name == "Id":
        value = normal(value)
    return [row for i in table.with_value(field.name, value) if not (row := table.rows[i])["IsDeleted"]]


def upserted(unit: Unit, table: Table, field: Field, given: dict[str, Any]) -> tuple[str, bool]:
    """Create or update by the value of a key field in the record itself; return the id and whether it was created."""
    key = next((k for k in given if k.lower() == field.name.lower()), None)
    value = given.get(key) if key is not None else None
    if field.name == "Id":
        rest = {k: v for k, v in given.items() if k != key}
        if value:
            unit.update(table, str(value), rest)
            return unit.existing(table, str(value))["Id"], False
        return unit.create(table, rest), True
    if value is None or value == "":
        raise Refusal("MISSING_ARGUMENT", f"{field.name} not specified", fields=[])
    found = matching(table, field, coerced(field, value, text=True))
    if len(found) > 1:
        shown = ", ".join(row["Id"] for row in found)
        raise Refusal(
            "DUPLICATE_EXTERNAL_ID",
            f"{field.name}: more than one record found for external id field: [{shown}]",
            fields=[],
        )
    if not found:
        return unit.create(table, given), True
    unit.update(table, found[0]["Id"], {k: v for k, v in given.items() if k != key})
    return found[0]["Id"], False
