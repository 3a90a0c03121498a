"""What a PostgreSQL server says of itself: rights and settings for logical replication, tables, columns, keys.

Every requirement that is not met is a Fatal with the SQL that mends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from producers.rows import SourceColumn
from tidelock.config import TableSpec
from tidelock.errors import Fatal

Connection = psycopg.Connection[tuple[Any, ...]]
OLDEST = 140000  # logical messages in the stream


@dataclass(frozen=True, slots=True)
class TableName:
    """A table with its schema."""

    schema: str
    table: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read ``table`` or ``schema.table``."""
        schema, _, table = text.rpartition(".")
        return cls(schema or "public", table)

    def quoted(self) -> sql.Composable:
        """Return it for use in SQL."""
        return sql.Identifier(self.schema, self.table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


def check_server(db: Connection, system: str) -> None:
    """Check version, ``wal_level`` and the user's right to replicate. Raises Fatal."""
    if db.info.server_version < OLDEST:
        raise Fatal(
            f"the server of system {system} is PostgreSQL {db.info.server_version // 10000}; replication capture needs 14",
            hint=f"upgrade it, or set `capture: outbox` or `capture: polling` for system {system}",
        )
    level, user, may = _row(
        db,
        "select current_setting('wal_level'), current_user, rolreplication or rolsuper from pg_roles where rolname = current_user",
    )
    if level != "logical":
        raise Fatal(
            f"the server of system {system} runs with wal_level = {level}; capture by replication needs logical",
            hint="let a superuser run there: ALTER SYSTEM SET wal_level = logical;  and restart the server",
        )
    if not may:
        raise Fatal(
            f"user {user} of system {system} may not replicate",
            hint=f'let a superuser run there: ALTER ROLE "{user}" REPLICATION;',
        )


def check_table(db: Connection, system: str, entity: str, spec: TableSpec) -> None:
    """Check that a table exists, is no view, and that old keys will be in the log. Raises Fatal."""
    name = TableName.parse(spec.table)
    found = db.execute(
        "select c.oid, c.relkind, c.relreplident, c.relpersistence from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s",
        (name.schema, name.table),
    ).fetchone()
    where = f"entities.{entity}.table of system {system}"
    if found is None:
        raise Fatal(f"{where}: there is no table {name}", hint="check the name, its schema, and the database in `dsn`")
    oid, kind, identity, persistence = found
    if kind not in ("r", "p") or persistence != "p":
        what = {"v": "a view", "m": "a materialised view", "f": "a foreign table"}.get(kind, "not an ordinary table")
        raise Fatal(
            f"{where}: {name} is {what if persistence == 'p' else 'unlogged'}, which has no replication log",
            hint="capture the tables behind it, or set `capture: polling` or `capture: rowhash`",
        )
    if identity == "f":
        return
    in_log = {
        r[0]
        for r in db.execute(
            "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
            " where i.indrelid = %s and case when %s = 'i' then i.indisreplident else i.indisprimary end",
            (oid, identity),
        ).fetchall()
    }
    lacking = [k for k in spec.key if k not in in_log] if identity != "n" else list(spec.key)
    if lacking:
        raise Fatal(
            f"{where}: the log of {name} does not tell {', '.join(lacking)} of deleted rows (its replica identity has "
            f"{', '.join(sorted(in_log)) or 'no columns'})",
            hint=f"give the table a primary key on {', '.join(spec.key)}, or run there: "
            f"ALTER TABLE {name} REPLICA IDENTITY FULL;",
        )


def table_columns(db: Connection, name: TableName, publication: str) -> tuple[SourceColumn, ...]:
    """Return the columns that the publication sends, in the stream's order; empty if the table is gone."""
    version = db.info.server_version
    listed: Sequence[str] | None = None
    if version >= 150000:
        found = db.execute(
            "select attnames::text[] from pg_publication_tables where pubname = %s and schemaname = %s and tablename = %s",
            (publication, name.schema, name.table),
        ).fetchone()
        listed = found[0] if found else None
    rows = db.execute(
        "select a.attname, a.atttypid::bigint, format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''"
        " from pg_attribute a where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum",
        (name.quoted().as_string(db),),
    ).fetchall()
    return tuple(
        SourceColumn(n, oid, text)
        for n, oid, text, generated in rows
        if (listed is None or n in listed) and (not generated or (version >= 180000 and listed is not None))
    )


def type_names(db: Connection, types: Sequence[tuple[int, int]]) -> list[str]:
    """Spell types given as (type id, modifier): ``numeric(12,2)``."""
    rows = db.execute(
        "select format_type(t, m) from unnest(%s::bigint[], %s::int[]) with ordinality u(t, m, i) order by i",
        ([t for t, _ in types], [m for _, m in types]),
    ).fetchall()
    return [str(r[0]) for r in rows]


def _row(db: Connection, query: str) -> tuple[Any, ...]:
    found = db.execute(query.encode()).fetchone()
    assert found is not None
    return found
