"""The central data store: golden records as ordinary typed tables on PostgreSQL, which this sink makes and widens itself.

Every table has ``canonical_id`` as its key, a column for every bound field, ``version`` (of the last write) and ``updated_at``. With
``options: {keep_deleted: true}`` a deleted record stays, marked in ``deleted``; otherwise its row goes.
"""

from __future__ import annotations

import psycopg

from sinks.pgcatalog import Connection, ident, read_table, split_name
from sinks.postgres import PostgresSink
from sinks.rows import Rows, Values
from sinks.statements import Shape
from tidelock.avro import FieldType, encode_long
from tidelock.config import EntitySpec, TableSpec
from tidelock.context import Context
from tidelock.envelopes import APPLIED, Receipt, Write
from tidelock.errors import Fatal
from tidelock.pgtypes import COLUMN_TYPES

KEY = "canonical_id"


class StoreSink(PostgresSink):
    """Write golden records into tables of our own."""

    def __init__(self, context: Context, system: str) -> None:
        super().__init__(context, system)
        if self._captured:
            raise Fatal(
                f"system {system} is a store, which is never captured",
                hint="set `capture: none` for it; a database in which people work is of `kind: postgres`",
            )
        self._keep_deleted = bool(self.spec.options.get("keep_deleted", False))

    def prepare(self, db: Connection) -> None:
        """Make the tables, and add the columns of fields that were bound later. Raises psycopg.Error, Fatal."""
        for entity, spec in self.spec.entities.items():
            if spec.key != (KEY,) and spec.key != ("id",):
                raise Fatal(
                    f"system {self._system}: `key` of {entity} is {', '.join(spec.key)}, but a store's tables are keyed by {KEY}",
                    hint=f"leave `key` and `key_from` out, or set them to {KEY}",
                )
            if self._complete(db, spec, self._context.config.entities[entity]):
                continue  # looking takes no lock, ALTER TABLE would
            for statement in table_sql(spec, self._context.config.entities[entity], keep_deleted=self._keep_deleted):
                try:
                    db.execute(statement.encode())
                except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable):
                    continue  # another worker made it at the same time
                except psycopg.errors.InsufficientPrivilege as error:
                    raise Fatal(
                        f"system {self._system}: the user of `dsn` may not make the tables of the store: {error.diag.message_primary}",
                        hint=f"let the owner of the database run there: {statement};",
                    ) from error

    def _complete(self, db: Connection, spec: TableSpec, entity: EntitySpec) -> bool:
        names = {
            *column_types(spec, entity),
            KEY,
            "version",
            "updated_at",
            *(["deleted"] if self._keep_deleted else []),
        }
        found = db.execute(
            "select attname from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid "
            "join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = %s and c.relname = %s and not a.attisdropped",
            split_name(spec.write_table or spec.table),
        ).fetchall()
        return names <= {row[0] for row in found}

    def make_rows(self, db: Connection, entity: str, spec: TableSpec) -> Rows:
        """Return the writer of an entity's table."""
        spec = spec.model_copy(update={"key": (KEY,), "key_from": KEY, "canonical_id": None})
        table = read_table(db, self._system, entity, spec.write_table or spec.table, spec.key)
        return _StoreRows(db, self._system, spec, table, captured=False, keep_deleted=self._keep_deleted)


class _StoreRows(Rows):
    """Rows with a version and a time."""

    def __init__(self, *args: object, captured: bool, keep_deleted: bool) -> None:
        super().__init__(*args, captured=captured)  # type: ignore[arg-type]
        self._keep_deleted = keep_deleted
        # A table that was there before us and lacks these is served without them.
        self._versioned, self._timed = ("version" in self.table.columns), ("updated_at" in self.table.columns)

    def extras(self, write: Write) -> Values:
        """Return version and time of a write."""
        out: Values = {}
        if self._versioned and "version" not in write.columns:
            out["version"] = b"\x04" + encode_long(write.version)
        if self._timed and "updated_at" not in write.columns:
            out["updated_at"] = b"\x04" + encode_long(write.source_time)
        if self._keep_deleted and write.op == "create":
            out["deleted"] = b"\x08\x00"
        return out

    def deletes(self, todo: list[tuple[int, Write]], found: dict[int, Receipt]) -> None:
        """Delete rows, or mark them as deleted."""
        if not self._keep_deleted:
            super().deletes(todo, found)
            return
        for i, w in todo:
            found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key)
        marked = [(i, w, {**self.extras(w), "deleted": b"\x08\x01"}) for i, w in todo]
        marked.sort(key=lambda item: item[1].native_key or "")
        shape = Shape(self.table, tuple(marked[0][2]))
        self._run(shape.update(checked=False, returning=False), shape, marked, keyed=True)


def table_sql(spec: TableSpec, entity: EntitySpec, *, keep_deleted: bool) -> list[str]:
    """Return the statements that make a table of the store, or bring it up to date; nothing that is there is changed."""
    schema, table = split_name(spec.write_table or spec.table)
    quoted = f"{ident(schema)}.{ident(table)}".replace("%%", "%")
    columns = {name: kind for name, kind in column_types(spec, entity).items() if name != KEY}
    columns |= {"version": "bigint", "updated_at": "timestamptz"}
    if keep_deleted:
        columns["deleted"] = "boolean not null default false"
    out = [] if schema == "public" else [f"create schema if not exists {ident(schema)}"]
    out.append(f"create table if not exists {quoted} ({KEY} uuid primary key)")
    added = ", ".join(f"add column if not exists {ident(n)} {kind}".replace("%%", "%") for n, kind in columns.items())
    return [*out, f"alter table {quoted} {added}"]


def column_types(spec: TableSpec, entity: EntitySpec) -> dict[str, str]:
    """Return the type of every bound column: that of its field where one column holds one field as it is, else text."""
    out: dict[str, str] = {}
    for binding in spec.map:
        kind = FieldType.STRING
        plain = not (
            binding.separator != " " or binding.values or binding.date_format or binding.path or binding.country
        )
        if binding.field is not None and len(binding.column_names) == 1 and plain:
            kind = entity.fields[binding.field].type
        if binding.minor_units:
            kind = FieldType.INTEGER
        out |= dict.fromkeys(binding.column_names, COLUMN_TYPES[kind])
    return out
