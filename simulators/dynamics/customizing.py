"""Changes of the schema by clients: tables, columns, alternate keys, relationships; and their deletion."""

from __future__ import annotations

from typing import Any

from simulators.dynamics.errors import ODataError, bad_payload, no_segment
from simulators.dynamics.messages import Ask, Reply, named
from simulators.dynamics.metadata import Metadata
from simulators.dynamics.schema import Column, Key, ManyToMany, Relationship, Schema, Table, metadata_id
from simulators.dynamics.store import Store
from simulators.dynamics.syntax import parse_key

_KINDS = {
    "String": "string",
    "Memo": "memo",
    "Integer": "integer",
    "BigInt": "bigint",
    "Decimal": "decimal",
    "Double": "double",
    "Money": "money",
    "Boolean": "boolean",
    "DateTime": "datetime",
    "Picklist": "picklist",
    "MultiSelectPicklist": "multi",
    "Lookup": "lookup",
}
_FIRST_CODE = 10_500


class Customizer:
    """Changes the schema."""

    def __init__(self, schema: Schema, store: Store, metadata: Metadata) -> None:
        self._schema = schema
        self._store = store
        self._metadata = metadata
        self._codes = _FIRST_CODE

    def handle(self, ask: Ask, parts: list[str]) -> Reply:
        """Carry out a POST, PUT or DELETE on metadata. Raises ODataError."""
        name, key_text = named(parts[0])
        body = ask.json(name) if ask.method != "DELETE" else {}
        if name == "CreateEntities":
            for definition in body.get("Entities", []):
                self.create_table(definition)
            return Reply(204)
        if name == "RelationshipDefinitions":
            return self._relationship(ask, key_text, body)
        if key_text is None:
            table = self.create_table(body)
            return _made(ask, f"EntityDefinitions({metadata_id(table.name)})")
        table = self._metadata.table(key_text)
        if len(parts) == 1:
            if ask.method == "DELETE":
                self._schema.remove(table)
                self._store.drop(table)
            elif "ChangeTrackingEnabled" in body:
                table.tracked = bool(body["ChangeTrackingEnabled"]) or table.tracked  # it cannot be switched off
            return Reply(204)
        kind, inner = named(parts[1])
        if kind == "Attributes":
            return self._attribute(ask, table, inner, body)
        if kind == "Keys":
            return self._key(ask, table, inner, body)
        raise no_segment(kind)

    def create_table(self, definition: dict[str, Any]) -> Table:
        """Add a table. Raises ODataError."""
        schema_name = str(definition.get("SchemaName", ""))
        if "_" not in schema_name:
            raise bad_payload("EntityDefinitions", f"The schema name '{schema_name}' of a custom table needs a prefix.")
        name = schema_name.lower()
        if name in self._schema.tables:
            raise ODataError(
                400,
                "0x80044363",
                f"An entity with the specified name {schema_name} already exists. Specify a unique name.",
            )
        columns = [column_of(a) for a in definition.get("Attributes", [])]
        primary = next(
            (c.name for c, a in zip(columns, definition.get("Attributes", []), strict=True) if a.get("IsPrimaryName")),
            "",
        )
        if not primary:
            raise bad_payload("EntityDefinitions", "A table needs a column with IsPrimaryName.")
        self._codes += 1
        status = Column("statuscode", "status", options={1: "Active", 2: "Inactive"}, states={1: 0, 2: 1})
        fixed = [
            Column(f"{name}id", "uniqueidentifier", f"{schema_name}Id", updatable=False),
            Column("createdon", "datetime", creatable=False, updatable=False),
            Column("modifiedon", "datetime", creatable=False, updatable=False),
            Column("versionnumber", "bigint", creatable=False, updatable=False),
            Column("overriddencreatedon", "datetime", updatable=False),
            Column("statecode", "state", options={0: "Active", 1: "Inactive"}, creatable=False),
            status,
            *(
                Column(n, "lookup", targets=("systemuser",), creatable=False, updatable=False)
                for n in ("createdby", "modifiedby", "createdonbehalfby", "modifiedonbehalfby")
            ),
            Column("ownerid", "owner", targets=("systemuser", "team")),
        ]
        table = Table(
            name,
            f"{name}es"
            if name.endswith(("s", "x", "ch", "sh"))
            else f"{name[:-1]}ies"
            if name.endswith("y")
            else f"{name}s",
            schema_name,
            primary,
            self._codes,
            {c.name: c for c in [*fixed, *columns]},
            custom=True,
            tracked=bool(definition.get("ChangeTrackingEnabled", False)),
            label=_text(definition.get("DisplayName")) or schema_name,
        )
        self._schema.add(table)
        return table

    def add_column(self, table: Table, column: Column) -> None:
        """Add a column. Raises ODataError."""
        if column.name in table.columns:
            raise ODataError(
                400,
                "0x80044153",
                f"An attribute with the specified name {column.name} already exists for entity {table.name}.",
            )
        table.add(column)

    def add_key(self, table: Table, key: Key) -> None:
        """Add an alternate key. Raises ODataError."""
        unknown = [c for c in key.columns if c not in table.columns]
        if unknown or not key.columns:
            raise ODataError(
                400,
                "0x80040203",
                f"The key {key.name} names columns that {table.name} does not have: {', '.join(unknown)}.",
            )
        self._store.add_key(table, key)

    def _attribute(self, ask: Ask, table: Table, inner: str | None, body: dict[str, Any]) -> Reply:
        if inner is None:
            column = column_of(body)
            self.add_column(table, column)
            return _made(
                ask, f"EntityDefinitions({metadata_id(table.name)})/Attributes({metadata_id(table.name, column.name)})"
            )
        column = self._column(table, inner)
        if ask.method == "DELETE":
            if not column.custom:
                raise ODataError(
                    400, "0x8004f01f", f"The column '{column.name}' is a part of the system and cannot be deleted."
                )
            table.remove(column.name)
            return Reply(204)
        column.max_length = int(body.get("MaxLength", column.max_length))
        column.minimum = body.get("MinValue", column.minimum)
        column.maximum = body.get("MaxValue", column.maximum)
        column.precision = int(body.get("Precision", column.precision))
        column.label = _text(body.get("DisplayName")) or column.label
        return Reply(204)

    @staticmethod
    def _column(table: Table, key_text: str) -> Column:
        wanted = parse_key(key_text)
        name = str(wanted.get("LogicalName", "")).lower() if isinstance(wanted, dict) else ""
        for column in table.columns.values():
            if column.name == name or metadata_id(table.name, column.name) == wanted:
                return column
        raise ODataError(
            404, "0x80044331", f"Could not find an attribute with the specified name ({key_text}) in {table.name}."
        )

    def _key(self, ask: Ask, table: Table, inner: str | None, body: dict[str, Any]) -> Reply:
        if inner is None:
            name = str(body.get("SchemaName", ""))
            key = Key(
                name, tuple(str(c) for c in body.get("KeyAttributes", [])), _text(body.get("DisplayName")) or name
            )
            self.add_key(table, key)
            return _made(
                ask, f"EntityDefinitions({metadata_id(table.name)})/Keys({metadata_id(table.name, 'key', name)})"
            )
        wanted = parse_key(inner)
        for key in list(table.keys.values()):
            by_name = isinstance(wanted, dict) and str(wanted.get("LogicalName", "")).lower() == key.name.lower()
            if by_name or metadata_id(table.name, "key", key.name) == wanted:
                del table.keys[key.name]
                self._store.data(table).unique.pop(key.name, None)
                return Reply(204)
        raise ODataError(404, "0x80060888", f"Could not find a key ({inner}) of {table.name}.")

    def _relationship(self, ask: Ask, key_text: str | None, body: dict[str, Any]) -> Reply:
        schema = self._schema
        if key_text is not None:
            wanted = parse_key(key_text)
            name = wanted.get("SchemaName", wanted.get("LogicalName", "")) if isinstance(wanted, dict) else ""
            for relationship in list(schema.relationships):
                if name == relationship.name or metadata_id("relationship", relationship.name) == wanted:
                    schema.relationships.remove(relationship)
                    schema.tables[relationship.many].remove(relationship.column)
                    return Reply(204)
            kept = [m for m in schema.many if name != m.name and metadata_id("relationship", m.name) != wanted]
            if len(kept) == len(schema.many):
                raise ODataError(404, "0x80060888", f"Could not find a relationship ({key_text}).")
            schema.many = kept
            return Reply(204)
        name = str(body.get("SchemaName", ""))
        if "Entity1LogicalName" in body:
            schema.many.append(ManyToMany(name, str(body["Entity1LogicalName"]), str(body["Entity2LogicalName"])))
        else:
            one, many = str(body.get("ReferencedEntity", "")), str(body.get("ReferencingEntity", ""))
            if one not in schema.tables or many not in schema.tables:
                raise bad_payload(
                    "RelationshipDefinitions", f"There is no table '{one if one not in schema.tables else many}'."
                )
            lookup = column_of(
                {**body.get("Lookup", {}), "@odata.type": "Microsoft.Dynamics.CRM.LookupAttributeMetadata"}
            )
            lookup.targets = (one,)
            self.add_column(schema.tables[many], lookup)
            cascade = body.get("CascadeConfiguration") or {}
            on_delete = str(cascade.get("Delete", "RemoveLink"))
            schema.relate(Relationship(name, one, many, lookup.name, lookup.navigation, name, on_delete))
        return _made(ask, f"RelationshipDefinitions({metadata_id('relationship', name)})")


def column_of(definition: dict[str, Any]) -> Column:
    """Return the column that a definition describes. Raises ODataError."""
    kind = (
        str(definition.get("@odata.type", ""))
        .rpartition(".")[2]
        .removesuffix("AttributeMetadata")
        .removeprefix("Complex")
    )
    if kind not in _KINDS:
        raise bad_payload("Attributes", f"Columns of type '{kind}' are not known.")
    schema_name = str(definition.get("SchemaName", ""))
    options: dict[int, str] = {}
    given = definition.get("OptionSet") or {}
    for option in given.get("Options") or []:
        options[int(option["Value"])] = _text(option.get("Label")) or str(option["Value"])
    for word in ("FalseOption", "TrueOption"):
        if word in given:
            options[int(given[word]["Value"])] = _text(given[word].get("Label")) or word
    required = (definition.get("RequiredLevel") or {}).get("Value", "None")
    date_only = kind == "DateTime" and definition.get("Format") == "DateOnly"
    return Column(
        schema_name.lower(),
        "date" if date_only else _KINDS[kind],
        schema_name,
        _text(definition.get("DisplayName")) or schema_name,
        max_length=int(definition.get("MaxLength") or 100),
        minimum=definition.get("MinValue"),
        maximum=definition.get("MaxValue"),
        precision=int(definition.get("Precision") or 2),
        options=options,
        targets=tuple(definition.get("Targets") or ()),
        custom=True,
        required=str(required),
    )


def _text(label: Any) -> str:
    labels = (label or {}).get("LocalizedLabels") or []
    return str(labels[0].get("Label", "")) if labels else ""


def _made(ask: Ask, path: str) -> Reply:
    url = f"{ask.root}{path}"
    return Reply(204, b"", {"OData-EntityId": url, "Location": url})
