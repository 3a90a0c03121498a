"""The publication and the replication slot of one system: made once, checked at every start, never silently made anew.

Kafka holds how far this system was published (``ops.signals``, key ``slot/<system>``), written before the server is told. So a
slot that is missing, invalid, moved on by somebody else, or of another server is noticed before anything is lost silently.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from producers.catalog import Connection, TableName
from producers.walsender import parse_lsn, show_lsn
from tidelock.config import SystemSpec, TableSpec
from tidelock.errors import Fatal, Retry

Signal = dict[str, Any]


def default_name(prefix: str, system: str) -> str:
    """Return a name that is allowed for slots: at most 63 of ``a-z0-9_``."""
    return re.sub(r"[^a-z0-9_]", "_", f"{prefix}tidelock_{system}".lower())[:63]


def ensure_publication(db: Connection, name: str, system: str, spec: SystemSpec) -> None:
    """Create the publication, or bring its tables up to date if it is ours (``spec.publication`` not given). Raises Fatal."""
    wanted = {TableName.parse(t.table): t for t in spec.entities.values()}
    try:
        found = db.execute(
            "select pubviaroot, puballtables, pubinsert and pubupdate and pubdelete from pg_publication where pubname = %s",
            (name,),
        ).fetchone()
        with db.transaction():
            if found is None:
                db.execute(
                    sql.SQL("create publication {} for table {} with (publish_via_partition_root = true)").format(
                        sql.Identifier(name), _tables(db, wanted)
                    )
                )
            elif spec.publication is None:
                db.execute(
                    sql.SQL("alter publication {} set table {}").format(sql.Identifier(name), _tables(db, wanted))
                )
            else:
                _check_given(db, name, system, wanted, found)
            for table, table_spec in wanted.items():
                _check_updatable(db, table, table_spec)
    except psycopg.errors.InsufficientPrivilege as error:
        statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true);").format(
            sql.Identifier(name), _tables(db, wanted)
        )
        raise Fatal(
            f"publication {name} of system {system} cannot be made or changed: {error.diag.message_primary}",
            hint=f"let the owner of the tables run there: {statement.as_string(db)}  and set `publication: {name}` for {system}",
        ) from error
    except _REFUSED as error:
        raise Fatal(
            f"publication {name} of system {system} is refused: {error.diag.message_primary} {error.diag.message_detail or ''}",
            hint="correct `where` of the entity: a condition on columns of the key, or run "
            "ALTER TABLE … REPLICA IDENTITY FULL; there for others",
        ) from error


_REFUSED = (
    psycopg.errors.SyntaxError,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.DatatypeMismatch,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidColumnReference,  # a condition on columns outside the replica identity
    psycopg.errors.ObjectNotInPrerequisiteState,  # no replica identity
)


def _tables(db: Connection, wanted: Mapping[TableName, TableSpec]) -> sql.Composable:
    out: list[sql.Composable] = []
    for table, spec in wanted.items():
        if spec.where and db.info.server_version < 150000:
            raise Fatal(
                f"`where` on {table} needs PostgreSQL 15",
                hint="leave it out and put the condition into the flow's `when`",
            )
        condition = sql.SQL(" where ({})").format(sql.SQL(spec.where)) if spec.where else sql.SQL("")
        out.append(sql.SQL("{}{}").format(table.quoted(), condition))
    return sql.SQL(", ").join(out)


def _check_given(db: Connection, name: str, system: str, wanted: Mapping[TableName, TableSpec], found: Any) -> None:
    via_root, _, all_changes = found
    have = {
        TableName(*r)
        for r in db.execute(
            "select schemaname, tablename from pg_publication_tables where pubname = %s", (name,)
        ).fetchall()
    }
    lacking = [t for t in wanted if t not in have]
    quoted = sql.Identifier(name).as_string(db)
    if lacking:
        listed = ", ".join(t.quoted().as_string(db) for t in lacking)
        raise Fatal(
            f"publication {name} of system {system} does not contain {', '.join(map(str, lacking))}",
            hint=f"run there: ALTER PUBLICATION {quoted} ADD TABLE {listed};  (partitioned tables also need publish_via_partition_root)",
        )
    if not (via_root and all_changes):
        raise Fatal(
            f"publication {name} of system {system} does not publish every change by the root of partitioned tables",
            hint=f"run there: ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);",
        )


def _check_updatable(db: Connection, table: TableName, spec: TableSpec) -> None:
    """Raise what the owner's own updates would meet with this publication: it must never break the source's application."""
    try:
        with db.transaction():
            key = sql.Identifier(spec.key[0])
            db.execute(sql.SQL("explain update {} set {} = {} where false").format(table.quoted(), key, key))
    except psycopg.errors.InsufficientPrivilege:
        return  # a user who only reads cannot try; replica identity has been looked at before


def ensure_slot(db: Connection, slot: str, system: str, recorded: Signal | None, *, recreate: bool = False) -> int:
    """Create the slot at the very first start, check it at every later one; return the LSN it stands at.

    ``recorded`` is what `slot_record` made last. Raises Fatal (lost, moved or foreign), Retry if it cannot be looked at now.
    """
    way_out = (
        f"changes since then are not in the log any more: run `tidelock seed {system} --recreate-slot`, which makes a new slot and "
        "reads every table again; rows deleted meanwhile are found by a comparison (`tidelock check`)"
    )
    identity = _identity(db)
    if recreate:
        _drop(db, slot, system)
        return _create(db, slot, system)
    columns = "database, plugin, confirmed_flush_lsn::text, wal_status, active_pid"
    found = db.execute(f"select {columns} from pg_replication_slots where slot_name = %s".encode(), (slot,)).fetchone()
    last = int(recorded["lsn"]) if recorded else None
    if found is None:
        if last is None or recorded is None:
            return _create(db, slot, system)
        raise Fatal(
            f"replication slot {slot} of system {system} is gone; it had been read up to {show_lsn(last)} "
            f"({_when(recorded)})",
            hint=way_out,
        )
    database, plugin, confirmed, status, _ = found
    if plugin != "pgoutput" or database != db.info.dbname:
        raise Fatal(
            f"replication slot {slot} of system {system} is for {plugin} in database {database}, not for pgoutput in {db.info.dbname}",
            hint=f"choose another name as `slot` of system {system}",
        )
    if status == "lost" or confirmed is None:
        raise Fatal(
            f"replication slot {slot} of system {system} is lost: the server removed log that was not read yet "
            f"(max_slot_wal_keep_size){_up_to(recorded)}",
            hint=way_out,
        )
    if recorded is not None and last is not None:
        if recorded.get("server") and identity and recorded["server"] != identity:
            raise Fatal(
                f"system {system} is another server than the one captured before (system identifier {identity}, not {recorded['server']})",
                hint="correct `dsn`; if the database was moved on purpose, " + way_out,
            )
        now = parse_lsn(str(_one(db, "select pg_current_wal_flush_lsn()::text")))
        if last > now:
            raise Fatal(
                f"the log of system {system} ends at {show_lsn(now)}, before {show_lsn(last)}, which was captured already: "
                "the server was set back (a restored backup or a stale replica)",
                hint="go back to the right server, or " + way_out,
            )
        if parse_lsn(confirmed) > last:
            raise Fatal(
                f"replication slot {slot} of system {system} stands at {confirmed}, beyond {show_lsn(last)}, the last that was "
                f"published ({_when(recorded)}): it was recreated or read by somebody else",
                hint=way_out,
            )
    return parse_lsn(confirmed)


def slot_record(db_identity: str, slot: str, system: str, lsn: int) -> Signal:
    """Make the record that says how far a system was published."""
    return {"kind": "slot", "system": system, "slot": slot, "lsn": lsn, "server": db_identity, "at": int(time.time())}


def server_identity(db: Connection) -> str:
    """Return the cluster's system identifier, or an empty text if the user may not read it."""
    return _identity(db) or ""


def drop(db: Connection, slot: str, publication: str | None, system: str) -> None:
    """Remove slot and publication from the server, for taking a system out of service. Raises Retry while it is in use."""
    _drop(db, slot, system)
    if publication is not None:
        db.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(publication)))


def _create(db: Connection, slot: str, system: str) -> int:
    failover = ", failover => true" if db.info.server_version >= 170000 else ""
    try:
        lsn = _one(db, f"select lsn::text from pg_create_logical_replication_slot('{slot}', 'pgoutput'{failover})")
    except (psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.ObjectNotInPrerequisiteState) as error:
        raise Fatal(
            f"replication slot {slot} of system {system} cannot be made: {error.diag.message_primary}",
            hint="remove a slot that is not used (SELECT * FROM pg_replication_slots;), or let a superuser run: "
            "ALTER SYSTEM SET max_replication_slots = 20;  and restart the server",
        ) from error
    return parse_lsn(str(lsn))


def _drop(db: Connection, slot: str, system: str) -> None:
    try:
        db.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", (slot,))
    except psycopg.errors.ObjectInUse as error:
        raise Retry(
            f"replication slot {slot} of system {system} is in use: {error.diag.message_primary}",
            hint="stop the capture of this system first",
        ) from error


def _identity(db: Connection) -> str | None:
    try:
        return str(_one(db, "select system_identifier::text from pg_control_system()"))
    except psycopg.errors.InsufficientPrivilege:
        return None


def _one(db: Connection, query: str) -> Any:
    found = db.execute(query.encode()).fetchone()
    return found[0] if found else None


def _when(recorded: Signal) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(recorded.get("at", 0)))


def _up_to(recorded: Signal | None) -> str:
    return f"; it had been read up to {show_lsn(int(recorded['lsn']))} ({_when(recorded)})" if recorded else ""
