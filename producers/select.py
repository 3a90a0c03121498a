"""Reading tables and views of PostgreSQL by SELECT, in snapshots, as the same text that the log gives.

Shared by the captures that do not read the log. Values leave libpq as the server wrote them and go through the converters of
`producers.rows`, so that one value is always encoded to the same bytes, whichever way it was read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from producers.base import Guard
from producers.catalog import TableName
from producers.rows import Names, RowPlan, SourceColumn
from producers.walsender import connect
from tidelock.change import DELETE, OURS, ChangeWriter
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Retry, TidelockError
from tidelock.nativekey import split_native_key

Connection = psycopg.Connection[Any]
Row = list[bytes | None]

_CATALOG = """
select c.relkind::text, a.attname, case when t.typtype = 'd' then t.typbasetype else a.atttypid end::int8,
       format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1), c.reltuples::int8
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by a.attnum
"""


def quote(name: str) -> str:
    """Quote an identifier for a query that is executed with parameters."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def run(connection: Connection, query: str, parameters: Sequence[Any] = (), *, prepare: bool | None = None) -> Any:
    """Execute a query that was put together here, and return the cursor. Values are always parameters."""
    return connection.execute(query.encode(), parameters, prepare=prepare)


def rows_of(cursor: psycopg.Cursor[Any]) -> list[Row]:
    """Return a result as the server's own text."""
    result = cursor.pgresult
    assert result is not None
    get, width = result.get_value, range(result.nfields)
    return [[get(r, c) for c in width] for r in range(result.ntuples)]


def open_source(context: Context, system: str, purpose: str) -> Connection:
    """Connect to a system. Raises Fatal if it has no connection string or refuses us, Retry if it does not answer."""
    dsn = context.config.systems[system].dsn
    if dsn is None:
        raise Fatal(
            f"system {system} has no connection string", hint=f"set `dsn` of system {system} in the configuration"
        )
    return connect(dsn.get_secret_value(), f"tidelock {purpose} {system}", system)


def translate(error: psycopg.Error, system: str, doing: str) -> TidelockError:
    """Turn an error of the source into Retry (it may pass) or Fatal (somebody must mend something)."""
    state = error.sqlstate or ""
    text = f"system {system}, {doing}: {' '.join(str(error).split()) or type(error).__name__}"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return Fatal(text, hint="let its owner run there: GRANT SELECT ON <the table> TO <the user of `dsn`>;")
    if isinstance(error, psycopg.errors.InvalidSchemaName | psycopg.errors.UndefinedTable):
        return Fatal(text, hint="check `table` of the entity; for capture by triggers: `tidelock outbox install`")
    if isinstance(error, psycopg.errors.UndefinedColumn):
        return Retry(text, hint="the table is being changed; its columns are read again at the next attempt")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or state[:2] in _PASSING:
        return Retry(text, hint="check that the server is up and reachable; capture goes on by itself")
    return Fatal(text, hint="correct the configuration of this entity or the source, and start again")


# connection, resources, intervention, rollback, object in use, and "cached plan must not change result type"
_PASSING = {"08", "53", "57", "40", "55", "0A", "25", "58"}


@contextmanager
def translated(system: str, doing: str) -> Iterator[None]:
    """Translate errors of psycopg on the way out."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, system, doing) from error


@contextmanager
def snapshot(connection: Connection, *, moment: bool = True) -> Iterator[tuple[int, int]]:
    """Open one read-only snapshot and give (its xmin, the server's clock in µs since 1970), or zeros if nobody wants to know.

    Every transaction below xmin is over, and what it wrote is visible in the snapshot.
    """
    run(connection, "begin isolation level repeatable read read only")
    try:
        row = (
            run(
                connection,
                "select pg_snapshot_xmin(pg_current_snapshot())::text::int8, (extract(epoch from clock_timestamp()) * 1000000)::int8",
            ).fetchone()
            if moment
            else (0, 0)
        )
        yield int(row[0]), int(row[1])
    except BaseException:
        if not connection.closed and not connection.broken:
            connection.rollback()
        raise
    run(connection, "commit")


@dataclass(slots=True)
class Table:
    """One entity's table or view: how its rows are asked for and how they become changes."""

    context: Context
    system: str
    entity: str
    spec: TableSpec
    names: Names
    relkind: str = ""
    source: tuple[SourceColumn, ...] = ()
    types: tuple[str, ...] = ()
    estimate: int | None = None
    plan: RowPlan | None = None
    writer: ChangeWriter | None = None
    _key_at: tuple[int, ...] = ()

    @classmethod
    def of(cls, context: Context, system: str, entity: str) -> Table:
        """Make the reader of a configured entity; `refresh` must be called before anything else."""
        spec = context.config.systems[system]
        return cls(context, system, entity, spec.entities[entity], Names(system, spec.only_tenant, entity))

    @property
    def sql_name(self) -> str:
        """Return the quoted name with its schema."""
        name = TableName.parse(self.spec.table)
        return f"{quote(name.schema)}.{quote(name.table)}"

    @property
    def condition(self) -> str:
        """Return the configured filter as a condition of SQL."""
        return f"({self.spec.where.replace('%', '%%')})" if self.spec.where else "true"

    @property
    def columns_sql(self) -> str:
        """Return the columns of a row in the order that `change` expects."""
        return ", ".join(f"t.{quote(c.name)}" for c in self.source)

    @property
    def key_sql(self) -> str:
        """Return the key's columns, for sorting."""
        return ", ".join(f"t.{quote(k)}" for k in self.spec.key)

    @property
    def keyed(self) -> RowPlan:
        """Return the plan. Only valid after `refresh`."""
        assert self.plan is not None
        return self.plan

    def digest_sql(self, *, touched: bool = False) -> str:
        """Return an expression for the 16-byte digest of a row's shown columns, in hexadecimal.

        With ``touched`` it also changes when a row was written anew with the values that it had.
        """
        shown = ", ".join(f"t.{quote(c.name)}" for c in self.keyed.columns)
        more = " || t.xmin::text" if touched and self.relkind in ("r", "p", "m") else ""
        return f"md5(row({shown})::text{more})"

    def type_of(self, column: str) -> str:
        """Return the name of a column's type, without its length. Raises Fatal if there is no such column."""
        for known, kind in zip(self.source, self.types, strict=True):
            if known.name == column:
                return kind
        raise Fatal(
            f"system {self.system}: {self.spec.table} has no column {column}",
            hint=f"it has {', '.join(c.name for c in self.source)}; correct entity {self.entity}",
        )

    def refresh(self, connection: Connection) -> bool:
        """Read the catalog; if the columns are not what they were, make a new plan and register the schema.

        Returns whether that was so. Raises Fatal if the table or a key column is missing.
        """
        name = TableName.parse(self.spec.table)
        found = run(connection, _CATALOG, (name.schema, name.table)).fetchall()
        if not found:
            raise Fatal(
                f"system {self.system} has no table or view {name} (entity {self.entity})",
                hint="correct `table` of the entity, or let its owner run: GRANT USAGE ON SCHEMA … and GRANT SELECT ON … TO <the user of `dsn`>;",
            )
        source = tuple(SourceColumn(str(r[1]), int(r[2]), str(r[3])) for r in found)
        self.estimate = max(0, int(found[0][5])) if found[0][0] in ("r", "p", "m") else None
        if self.plan is not None and source == self.source:
            return False
        plan = RowPlan(
            self.names,
            source,
            self.spec.key,
            Guard(self.context.config.prefix, self.spec),
            actor=self.spec.actor,
        )
        topic = self.context.topics.cdc(self.system, self.entity)
        self.writer = self.context.codec.change_writer(topic, self.system, self.names.tenant, self.entity, plan.columns)
        at = {c.name: i for i, c in enumerate(source)}
        self._key_at = tuple(at[k] for k in self.spec.key)
        self.relkind, self.source, self.plan = str(found[0][0]), source, plan
        self.types = tuple(str(r[4]) for r in found)
        return True

    def probe(self, connection: Connection) -> None:
        """Ask for no row at all, so that a bad filter or a missing right is known at the start. Raises Fatal or Retry."""
        try:
            run(connection, f"select {self.columns_sql} from {self.sql_name} t where {self.condition} limit 0")
        except psycopg.errors.UndefinedColumn as error:
            raise Fatal(
                f"system {self.system}: the filter of entity {self.entity} does not work: {error.diag.message_primary}",
                hint="correct `where` of the entity",
            ) from error
        except psycopg.Error as error:
            raise translate(error, self.system, f"reading {self.spec.table}") from error

    def key_of(self, row: Row) -> bytes:
        """Return a row's native key. Raises Reject if a part of it is null."""
        return self.keyed.key_of(row)

    def by_key(self, connection: Connection, keys: Sequence[str], extra: str = "") -> list[Row]:
        """Read the rows of native keys that are there now; ``extra`` is one more expression behind the columns."""
        parts = [split_native_key(k, len(self.spec.key)) for k in keys]
        arrays = [[p[i] for p in parts] for i in range(len(self.spec.key))]
        kinds = [self.types[i] for i in self._key_at]
        unnest = ", ".join(f"%s::text[]::{kind}[]" for kind in kinds)
        names = ", ".join(f"k{i}" for i in range(len(kinds)))
        on = " and ".join(f"t.{quote(k)} = k.k{i}" for i, k in enumerate(self.spec.key))
        query = (
            f"select {self.columns_sql}{', ' + extra if extra else ''} from unnest({unnest}) as k({names}) "
            f"join {self.sql_name} t on {on} where {self.condition}"
        )
        return rows_of(run(connection, query, arrays, prepare=False))

    def change(
        self,
        key: bytes,
        row: Row | None,
        position: bytes,
        op: int,
        source_time: int,
        *,
        actor: str | None = None,
        write_id: str | None = None,
        ours: bool = False,
    ) -> bytes:
        """Return the Kafka value of a row at a position; without a row, of a delete. Raises Reject for values beyond Avro."""
        plan, writer = self.keyed, self.writer
        assert writer is not None
        if row is None:
            op = DELETE
        elif self.spec.actor:
            actor = plan.actor_of(row)
        return writer.write(
            plan.event_id(key, position),
            position,
            op,
            source_time,
            time.time_ns() // 1000,
            key,
            None if row is None else plan.slices_of(row),
            origin=OURS if ours else None,
            write_id=write_id,
            actor=actor,
        )

    def show(self, row: Row) -> bytes:
        """Spell a row that cannot be encoded as JSON, for the dead letter; hidden columns stay hidden."""
        shown = {c.name for c in self.keyed.columns}
        guard = Guard(self.context.config.prefix, self.spec)
        out: dict[str, str | None] = {}
        for column, text in zip(self.source, row, strict=True):
            if column.name in shown:
                replace = guard.replacing(column.name)
                out[column.name] = None if text is None else (replace or bytes)(text).decode(errors="replace")
        return json.dumps(out).encode()


def fetch(connection: Connection, cursor: str, count: int) -> list[Row]:
    """Fetch the next rows of a cursor declared in SQL."""
    return rows_of(run(connection, f"fetch forward {count} from {cursor}"))


def declare(connection: Connection, cursor: str, query: str, parameters: Sequence[Any] = ()) -> None:
    """Declare a cursor, so that a table of any size is read in pieces within one snapshot."""
    run(connection, f"declare {cursor} no scroll cursor for {query}", parameters, prepare=False)


def seed_query(table: Table, where: str | None, after: Sequence[str] | None, extra: str) -> tuple[str, list[Any]]:
    """Return (query, parameters) that reads a table in the order of its key, behind the key ``after`` if one is given."""
    conditions, parameters = [table.condition], list[Any]()
    if where:
        conditions.append(f"({where.replace('%', '%%')})")
    if after is not None:
        kinds = [table.type_of(k) for k in table.spec.key]
        conditions.append(f"({table.key_sql}) > ({', '.join(f'%s::{kind}' for kind in kinds)})")
        parameters += after
    query = f"select {table.columns_sql}{extra} from {table.sql_name} t where {' and '.join(conditions)} order by {table.key_sql}"
    return query, parameters
