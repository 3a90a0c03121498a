"""Capture by triggers: a queue table in the source says which records changed; their rows are read as they are now.

A batch is claimed, then in one snapshot the newest queue row and the present row of every claimed record are read: the position is
that queue row's id, which fits the row exactly, because both come from one snapshot. After Kafka has acknowledged, the claimed
queue rows are completed. A crash in between leaves them in progress; the next run takes them again, and merge drops by position
what comes twice. A change counts as our own only if nobody else's change is folded into it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from producers import outbox_sql as sql
from producers.base import Progress, Publisher
from producers.catalog import TableName
from producers.seeding import Seed, Seeding
from producers.select import (
    Connection,
    Row,
    Table,
    declare,
    fetch,
    open_source,
    run,
    seed_query,
    snapshot,
    translated,
)
from producers.walsender import connect
from tidelock import faults
from tidelock.change import CREATE, DELETE, SNAPSHOT, UPDATE, position
from tidelock.config import Config
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry
from tidelock.nativekey import split_native_key

_OPS = {"add": CREATE, "edit": UPDATE, "delete": DELETE}
_LOCK = 0x7469646C  # "tidl": one reader per database
_CLEAN_EVERY_S = 60.0
_KEEP_S = 30 * 86_400.0


@dataclass(slots=True)
class Claimed:
    """A queue row that this run has taken."""

    id: int
    table: str
    key: str
    retries: int


@dataclass(slots=True)
class Newest:
    """The newest change of a record that a snapshot shows."""

    id: int
    op: int
    at: int
    write_id: str | None
    actor: str | None
    edited: bool


class OutboxProducer:
    """Capture a system by its queue table."""

    def __init__(self, context: Context, system: str) -> None:
        self.context, self.system = context, system
        self.spec = context.config.systems[system]
        self.publisher = Publisher(context, system)
        self._tables: dict[str, list[Table]] = defaultdict(list)
        for entity, spec in self.spec.entities.items():
            self._tables[str(TableName.parse(spec.table))].append(Table.of(context, system, entity))
        self._seeding = Seeding(context, system, self.publisher, self._seed_pages)
        self._closed = False
        self._connection: Connection | None = None
        self._reading = False
        self._cleaned = 0.0

    def setup(self) -> None:
        """Check queue, triggers and tables, and register schemas. Raises Fatal if something is not installed, or Retry."""
        try:
            with translated(self.system, "looking at the tables"):
                self._check(self._connect())
        except BaseException:
            self._drop()
            raise
        self._seeding.load(on_start=bool(self.spec.options.get("seed_on_start", True)))

    def step(self, wait_s: float) -> int:
        """Publish at most one batch of changed records; wait up to ``wait_s`` for a notification. Raises Retry or Fatal."""
        self.publisher.tick()
        try:
            with translated(self.system, "reading the queue"):
                connection = self._reader()
                self._clean(connection)
                claimed = self._claim(connection)
                seeded = self._seeding.step()
                if not claimed and wait_s > 0 and seeded is None:
                    for _ in connection.notifies(timeout=wait_s, stop_after=1):
                        pass
                    claimed = self._claim(connection)
                return (self._take(connection, claimed) if claimed else 0) + (seeded or 0)
        except BaseException:
            self._drop()  # claimed rows are taken again by the next connection
            raise

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        """Publish the table with op snapshot, each row at the position of its newest change. Resumes. Raises Retry or Fatal."""
        return self._seeding.run(entity, where, progress)

    def close(self) -> None:
        """Let go of the connection; what was claimed and not completed is taken again by the next run."""
        if self._closed:
            return
        self._closed = True
        self._seeding.close()
        self._drop()
        self.publisher.close()

    # One batch.

    def _claim(self, connection: Connection) -> list[Claimed]:
        values = {"retries": self.spec.max_retries, "most": self.spec.batch, "tables": list(self._tables)}
        rows = connection.execute(sql.CLAIM.encode(), values).fetchall()
        return [Claimed(int(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in rows]

    def _take(self, connection: Connection, claimed: list[Claimed]) -> int:
        if faults.ENABLED:
            faults.point("outbox:claimed")
        by_table: dict[str, list[Claimed]] = defaultdict(list)
        for row in claimed:
            by_table[row.table].append(row)
        failed: dict[int, Reject] = {}
        shown: dict[int, tuple[Table, bytes]] = {}
        count = 0
        with snapshot(connection, moment=False):
            for name, rows in by_table.items():
                newest = self._newest(connection, name, [r.key for r in rows])
                for table in self._tables[name]:
                    table.refresh(connection)
                    present = {table.key_of(r): r for r in table.by_key(connection, [r.key for r in rows])}
                    count += self._publish(table, rows, newest, present, failed, shown)
        self.publisher.flush()
        if faults.ENABLED:
            faults.point("outbox:published")
        connection.execute(sql.COMPLETE.encode(), ([r.id for r in claimed if r.id not in failed],))
        for number, reason in failed.items():
            self._fail(connection, number, reason, *shown[number])
        return count

    def _newest(self, connection: Connection, name: str, keys: Sequence[str]) -> dict[str, Newest]:
        rows = run(connection, sql.NEWEST, (name, list(keys))).fetchall()
        return {str(r[0]): Newest(int(r[1]), _OPS[r[2]], int(r[3]), r[4], r[5], bool(r[6])) for r in rows}

    def _publish(
        self,
        table: Table,
        claimed: list[Claimed],
        newest: dict[str, Newest],
        present: dict[bytes, Row],
        failed: dict[int, Reject],
        shown: dict[int, tuple[Table, bytes]],
    ) -> int:
        send, count = self.publisher.sender(table.entity), 0
        for i, item in enumerate(claimed):
            last, key = newest.get(item.key), item.key.encode()
            if last is None:
                continue  # removed from the queue by somebody's hand
            row = present.get(key)
            ours = last.write_id is not None and not last.edited
            # A row is there again after a delete only by a later change, which is then the newest: ops fit.
            op = DELETE if row is None else (CREATE if last.op == CREATE else UPDATE)
            try:
                value = table.change(
                    key,
                    row,
                    position(last.id),
                    op,
                    last.at,
                    actor=last.actor,
                    write_id=last.write_id if ours else None,
                    ours=ours,
                )
            except (Reject, ValueError) as error:
                failed[item.id] = error if isinstance(error, Reject) else Reject(str(error), kind="bad_value")
                shown[item.id] = (table, table.show(row or []))
                continue
            send(key, value)
            count += 1
            if i % 500 == 499:
                self.publisher.poll()
        if count:
            self.context.activity.count("captured", self.system, table.entity, count)
        return count

    def _fail(self, connection: Connection, number: int, reason: Reject, table: Table, shown: bytes) -> None:
        """Note a record that could not be published; at the limit it becomes a dead letter and stays in error."""
        wait_s = float(self.spec.options.get("retry_wait_s", 5.0))
        values = {"id": number, "message": str(reason)[:4000], "wait_s": wait_s}
        found = connection.execute(sql.FAIL.encode(), values).fetchone()
        self.context.activity.count("retries", self.system, table.entity)
        if found is not None and found[1] == "error" and int(found[0]) >= self.spec.max_retries:
            self.publisher.dead_letter(table.entity, str(found[2]).encode(), shown, reason)
            self.publisher.flush()

    def _seed_pages(self, seed: Seed) -> Iterator[int]:
        connection = open_source(self.context, self.system, "seed")
        try:
            with translated(self.system, f"seeding {seed.entity}"), snapshot(connection) as (_, now):
                table = Table.of(self.context, self.system, seed.entity)  # the stream's own may change meanwhile
                table.refresh(connection)
                seed.estimate = table.estimate
                query, parameters = seed_query(table, seed.where, seed.after, "")
                declare(connection, "tidelock_seed", query, parameters)
                while rows := fetch(connection, "tidelock_seed", self.spec.batch):
                    count = self._seed_page(connection, table, rows, now)
                    seed.after = split_native_key(table.key_of(rows[-1]).decode(), len(table.spec.key))
                    yield count
        finally:
            connection.close()

    def _seed_page(self, connection: Connection, table: Table, rows: list[Row], now: int) -> int:
        keys = [table.key_of(r) for r in rows]
        values = {"table": str(TableName.parse(table.spec.table)), "keys": [k.decode() for k in keys]}
        at = {str(k): int(n) for k, n in connection.execute(sql.POSITIONS.encode(), values).fetchall()}
        beginning = int(run(connection, sql.BEGINNING).fetchone()[0])
        good = 0
        for key, row in zip(keys, rows, strict=True):
            try:
                value = table.change(key, row, position(at.get(key.decode(), beginning)), SNAPSHOT, now)
            except (Reject, ValueError) as error:
                reason = error if isinstance(error, Reject) else Reject(str(error), kind="bad_value")
                self.publisher.dead_letter(table.entity, key, table.show(row), reason)
                continue
            self.publisher.publish(table.entity, key, value)
            good += 1
        self.publisher.flush()
        self.context.activity.count("captured", self.system, table.entity, good)
        return good

    # Connection and cleaning.

    def _check(self, connection: Connection) -> None:
        for table in self._all():
            table.refresh(connection)
            table.probe(connection)
        there = {str(r[0]) for r in run(connection, sql.INSTALLED).fetchall()}
        queue = run(connection, f"select to_regclass('{sql.SCHEMA}.queue') is not null").fetchone()[0]
        missing = [name for name in self._tables if name not in there]
        if missing or not queue:
            raise Fatal(
                f"system {self.system} is captured by triggers, but {', '.join(missing)} has none"
                if missing
                else f"system {self.system} is captured by triggers, but has no queue table",
                hint=f"run `tidelock outbox install {self.system}` (with --dry-run it shows the SQL for a database administrator)",
            )

    def _clean(self, connection: Connection) -> None:
        """Move completed rows to the archive, a bounded number at a time, and prune the archive."""
        now, after_s = time.monotonic(), self.spec.archive_after_s
        if now - self._cleaned < min(_CLEAN_EVERY_S, max(0.2, after_s / 4)):
            return
        most = 5000
        moved = connection.execute(sql.ARCHIVE.encode(), {"after_s": after_s, "most": most}).rowcount
        if moved < most:
            self._cleaned = now
            run(connection, sql.PRUNE, (float(self.spec.options.get("archive_keep_s", _KEEP_S)) + after_s,))

    def _reader(self) -> Connection:
        """Return a connection that is the queue's only reader; rows that a crashed run left in progress are new again."""
        connection = self._connect()
        if not self._reading:
            if not run(connection, "select pg_try_advisory_lock(%s, 0)", (_LOCK,)).fetchone()[0]:
                raise Retry(
                    f"the queue of system {self.system} is being read by another process",
                    hint="run one capture per system; a crashed one's session ends by itself within a minute",
                )
            run(connection, f"listen {sql.CHANNEL}")
            run(connection, sql.RECOVER)
            self._reading = True
        return connection

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection, self._reading = open_source(self.context, self.system, "outbox"), False
        return self._connection

    def _drop(self) -> None:
        connection, self._connection, self._reading = self._connection, None, False
        if connection is not None:
            connection.close()

    def _all(self) -> Iterator[Table]:
        for tables in self._tables.values():
            yield from tables

    # What `tidelock outbox` does.

    @staticmethod
    def script(config: Config, system: str, *, remove: bool = False) -> str:
        """Return the SQL that installs (or removes) queue and triggers. Raises Fatal if the system is not captured by them."""
        tables = _captured(config, system)
        return sql.remove_sql(tables) if remove else sql.install_sql(tables)

    @staticmethod
    def execute(config: Config, system: str, script: str) -> None:
        """Run a script in one transaction. Raises Fatal or Retry, and then nothing has changed."""
        with translated(system, "changing triggers"), _open(config, system) as connection:
            try:
                with connection.transaction():
                    connection.execute("set local lock_timeout = '10s'")
                    connection.execute(script.encode())
            except psycopg.errors.InsufficientPrivilege as error:
                raise Fatal(
                    f"system {system}: the user of `dsn` may not do this: {error.diag.message_primary}",
                    hint="give --dry-run and let the owner of the tables run the SQL, then: GRANT USAGE ON SCHEMA tidelock, "
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidelock TO <the user of `dsn`>;",
                ) from error
            except psycopg.errors.WrongObjectType as error:
                raise Fatal(
                    f"system {system}: {error.diag.message_primary}",
                    hint="triggers work on tables; capture the tables behind a view, or set `capture: polling`",
                ) from error

    @staticmethod
    def status(config: Config, system: str) -> dict[str, Any]:
        """Return what is installed and what is in the queue. Raises Fatal or Retry."""
        tables = _captured(config, system)
        with translated(system, "reading the queue"), _open(config, system) as connection:
            installed = {str(r[0]) for r in run(connection, sql.INSTALLED).fetchall()}
            queue = run(connection, f"select to_regclass('{sql.SCHEMA}.queue') is not null").fetchone()[0]
            rows = run(connection, sql.STATUS).fetchall() if queue else []
        return {
            "system": system,
            "queue": bool(queue),
            "tables": {t.name: t.name in installed for t in tables},
            "statuses": {str(r[0]): {"rows": int(r[1]), "oldest": r[2].isoformat(), "error": r[3]} for r in rows},
        }


def _open(config: Config, system: str) -> Connection:
    dsn = config.systems[system].dsn
    if dsn is None:
        raise Fatal(f"system {system} has no connection string", hint=f"set `dsn` of system {system}")
    return connect(dsn.get_secret_value(), f"tidelock outbox {system}", system)


def _captured(config: Config, system: str) -> list[sql.Captured]:
    spec = config.systems.get(system)
    if spec is None or spec.capture != "outbox":
        names = [n for n, s in config.systems.items() if s.capture == "outbox"]
        raise Fatal(
            f"system {system} is not captured by triggers" if spec else f"there is no system {system}",
            hint=f"with `capture: outbox` are: {', '.join(names) or 'none'}",
        )
    out: dict[str, sql.Captured] = {}
    for entity, table in spec.entities.items():
        name = TableName.parse(table.table)
        known = out.setdefault(str(name), sql.Captured(name.schema, name.table, table.key))
        if known.key != table.key:
            raise Fatal(
                f"entity {entity} of system {system} has another key than the other entity on {name}",
                hint="one table has one trigger and one key: give both entities the same `key`",
            )
    return list(out.values())
