"""What a PostgreSQL destination says of its tables, and what its errors mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors

from sinks.base import Lost
from tidelock.errors import Fatal, Reject, Retry, TidelockError
from tidelock.pgtypes import COMPARABLE

Connection = psycopg.Connection[tuple[Any, ...]]

_COLUMNS = """
select a.attname, case when t.typtype = 'd' then t.typbasetype else a.atttypid end::bigint, format_type(a.atttypid, -1),
       t.typarray <> 0 and t.typtype in ('b', 'e', 'd') and t.typcategory <> 'A' and not (t.typtype = 'd' and bt.typcategory = 'A'),
       a.attnotnull, a.attgenerated <> '', a.attidentity = 'a', pg_get_expr(d.adbin, d.adrelid)
from pg_catalog.pg_attribute a
join pg_catalog.pg_type t on t.oid = a.atttypid
left join pg_catalog.pg_type bt on bt.oid = t.typbasetype
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum and a.attgenerated = ''
where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_UNIQUE = """
select array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_index i
join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indrelid = to_regclass(%s) and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
group by i.indexrelid
"""
_INDEX = """
select array_agg(a.attname::text order by a.attnum), i.indpred is not null or i.indexprs is not null from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indrelid = to_regclass(%s) and c.relname = %s group by i.indexrelid, i.indpred, i.indexprs
"""


@dataclass(frozen=True, slots=True)
class PgColumn:
    """A column: its name, base type, how to cast a text to it (without length: assigning must fail, not cut), and its habits."""

    name: str
    oid: int
    cast: str
    array: bool
    not_null: bool
    generated: bool
    always_identity: bool
    default: str | None

    @property
    def comparable(self) -> bool:
        """Tell whether ``=`` of the type says whether two values are the same."""
        return self.oid in COMPARABLE


@dataclass(frozen=True, slots=True)
class PgTable:
    """A table to be written to."""

    name: str
    quoted: str
    key: tuple[str, ...]
    columns: dict[str, PgColumn]
    key_unique: bool


def ident(name: str) -> str:
    """Quote an identifier for a query with parameters."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def split_name(text: str) -> tuple[str, str]:
    """Read ``table`` or ``schema.table``."""
    schema, _, table = text.rpartition(".")
    return schema or "public", table


def read_table(db: Connection, system: str, entity: str, name: str, key: tuple[str, ...]) -> PgTable:
    """Read what is needed of a table. Raises Fatal if it or its key is not there."""
    schema, table = split_name(name)
    quoted = f"{ident(schema)}.{ident(table)}"
    plain = quoted.replace("%%", "%")
    columns = {row[0]: PgColumn(*row) for row in db.execute(_COLUMNS, (plain,)).fetchall()}
    if not columns:
        raise Fatal(
            f"system {system}: there is no table {schema}.{table} to write {entity} to",
            hint="check `table` (or `write_table`) of this entity, the database in `dsn`, and that its user may see the table",
        )
    missing = [k for k in key if k not in columns]
    if missing:
        raise Fatal(
            f"system {system}: table {schema}.{table} has no column {', '.join(missing)}, which `key` of {entity} names",
            hint=f"its columns are {', '.join(columns)}",
        )
    unique = any(set(row[0]) == set(key) for row in db.execute(_UNIQUE, (plain,)).fetchall())
    return PgTable(f"{schema}.{table}", quoted, key, columns, unique)


def index_columns(db: Connection, table: PgTable, constraint: str) -> list[str] | None:
    """Return the columns of a unique index; None if it is partial, on expressions, or not there."""
    row = db.execute(_INDEX, (table.quoted.replace("%%", "%"), constraint)).fetchone()
    return None if row is None or row[1] or not row[0] else list(row[0])


def translate(error: psycopg.Error, system: str, table: PgTable | None, doing: str) -> TidelockError:
    """Say what an error of the destination means: bad data is a Reject, an outage is a Retry, the rest somebody must mend."""
    state, diag = error.sqlstate or "", error.diag
    said = diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    detail = f" ({diag.message_detail})" if diag.message_detail else ""
    where = table.name if table is not None else (diag.table_name or "")
    text = f"system {system}, {doing}{f' {where}' if where else ''}: {said}{detail}"
    if state[:2] in _DATA or state in _DATA_STATES:
        return _reject(error, text, state)
    if isinstance(error, errors.DeadlockDetected | errors.SerializationFailure | errors.LockNotAvailable):
        return Retry(text, hint="somebody else holds the rows; the batch is tried again by itself")
    if state[:2] == "28" or state in ("3D000", "42501"):
        return Fatal(
            text, hint=f"check user and password in `dsn` of system {system}, and that this user may write to the table"
        )
    if state == "42P01" or state == "42703":
        return Fatal(text, hint=f"check table and columns of system {system} in the configuration against the database")
    if state in ("53100", "53200", "58030"):
        return Lost(
            text, hint="the destination has no room left: free some; writing goes on by itself, nothing is lost"
        )
    if state == "25006":
        return Lost(
            text, hint="the server is read-only (a standby?): `dsn` must lead to the primary; writing goes on by itself"
        )
    if state[:2] in _PASSING or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return _connection(text, system)
    if state == "0A000":
        return Retry(text, hint="the table was changed; it is looked at again")
    if not state:
        return Lost(text, hint="the connection is made again by itself")
    return Fatal(text, hint="correct the configuration of this entity, or the destination, and start again")


def _connection(text: str, system: str) -> TidelockError:
    if re.search(
        r"password authentication failed|no pg_hba.conf entry|role .* does not exist|database .* does not exist", text
    ):
        return Fatal(text, hint=f"check user, password and database in `dsn` of system {system}")
    return Lost(text, hint="check that the server is up and reachable; writing goes on by itself, nothing is lost")


def _reject(error: psycopg.Error, text: str, state: str) -> Reject:
    diag = error.diag
    kinds = {
        "23505": "unique",
        "23503": "foreign_key",
        "23502": "not_null",
        "23514": "check",
        "23P01": "exclusion",
        "22001": "too_long",
    }
    kinds |= {
        "22003": "out_of_range",
        "22008": "bad_date",
        "22007": "bad_date",
        "22P02": "bad_value",
        "22021": "bad_text",
        "21000": "same_key_twice",
    }
    field = diag.column_name
    hint = "correct the value in the system it comes from; the other records flow"
    if diag.constraint_name:
        text += f" [constraint {diag.constraint_name}]"
    if field is None and diag.message_detail:
        found = re.match(r"Key \(([^)]*)\)=", diag.message_detail)
        field = found[1] if found else None
    return Reject(text, kind=kinds.get(state, "refused"), field=field, hint=hint)


# Data exceptions, integrity violations, cardinality, checks of views; and what a trigger's RAISE gives.
_DATA = {"21", "22", "23", "44"}
_DATA_STATES = {"P0001", "P0004", "54000", "428C9"}
# Connection, resources, operator intervention, not in the state for it, limits, object in use, system error.
_PASSING = {"08", "53", "57", "55", "58", "XX", "F0"}
