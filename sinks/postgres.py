"""The sink for PostgreSQL: array-parameter statements, base checks in the statement, offsets in the same transaction.

A step of the runner is one transaction: `write` adds to it under a savepoint, `commit` stores the offsets and, where the system is
captured by its log, the receipts as a transactional logical message, so that capture meets rows, origin and receipts together.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import psycopg
import structlog

from sinks.base import Done, Kept, Lost, Outcome, Scope
from sinks.landings import Landings
from sinks.offsets import Offsets
from sinks.pgcatalog import Connection, PgTable, read_table, translate
from sinks.rows import Rows, adapt
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.envelopes import REJECTED, TAKEN, Receipt, Write
from tidelock.errors import Fatal, Reject, Retry, TidelockError

log = structlog.get_logger()

RECEIPTS = "tidelock.receipts"  # the prefix of our logical messages
# One spelling of every value, no waiting for ever, and plans that do not turn into scans while tables grow.
_SESSION = """
set datestyle = 'ISO, YMD'; set timezone = 'UTC'; set intervalstyle = 'postgres'; set extra_float_digits = 1;
set bytea_output = 'hex'; set standard_conforming_strings = on; set client_encoding = 'UTF8';
set lock_timeout = '10s'; set statement_timeout = '120s'; set idle_in_transaction_session_timeout = '300s';
set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off; set jit = off; set plan_cache_mode = 'force_generic_plan'
"""
_LEAST_VERSION = 130000


class PostgresSink:
    """Write to one system on PostgreSQL (`sinks.base.Sink`, `sinks.base.Transactional`)."""

    def __init__(self, context: Context, system: str) -> None:
        self._context = context
        self._system = system
        self.spec = context.config.systems[system]
        self.receipts_in_log = self.spec.capture == "replication"
        self._captured = self.spec.capture != "none"
        self._db: Connection | None = None
        self._rows: dict[str, Rows] = {}
        self._offsets = Offsets(system)
        self._landings = Landings(self.spec.capture)
        self._open = False
        self._warned = False
        self._deferred = False

    # ------------------------------------------------------------------------------------------------ connection

    def setup(self) -> None:
        """Connect, and make the table of offsets. Raises Fatal or Retry."""
        db = self._connect()
        with self._errors("preparing"):
            self.prepare(db)
            self._offsets.setup(db)

    def prepare(self, db: Connection) -> None:
        """Make what else is needed; nothing where the tables are somebody else's."""

    def close(self) -> None:
        """Let go of the connection; what is not committed has not happened."""
        db, self._db, self._open = self._db, None, False
        self._rows.clear()
        if db is not None:
            with contextlib.suppress(psycopg.Error):
                db.close()

    def _connect(self) -> Connection:
        if self._db is not None and not (self._db.closed or self._db.broken):
            return self._db
        self.close()
        if self.spec.dsn is None:
            raise Fatal(
                f"system {self._system} has no connection string",
                hint=f"set `dsn` of system {self._system} in the configuration",
            )
        with self._errors("connecting"):
            db = psycopg.connect(
                self.spec.dsn.get_secret_value(),
                autocommit=True,
                connect_timeout=10,
                application_name=f"tidelock sink {self._system}",
                prepare_threshold=None,
                keepalives_idle=30,
            )
            if db.info.server_version < _LEAST_VERSION:
                db.close()
                raise Fatal(
                    f"the server of system {self._system} is PostgreSQL {db.info.server_version // 10000}; 13 or newer is needed",
                    hint="upgrade it",
                )
            adapt(db)
            db.execute(_SESSION.encode())
            row = db.execute(b"select exists (select from pg_catalog.pg_constraint where condeferred)").fetchone()
            self._deferred = row is not None and bool(row[0])
            if self.receipts_in_log:
                self._mark(db)
        self._db = db
        return db

    def _mark(self, db: Connection) -> None:
        """Give this connection a replication origin, so that everybody who reads the log sees whose writes these are."""
        prefix = re.sub(r"[^a-z0-9_]", "_", self._context.config.prefix.lower())
        name = f"tidelock_{prefix}{self._system}_{self._context.slot}"
        try:
            db.execute(
                b"select pg_replication_origin_create(%s) where not exists (select from pg_replication_origin where roname = %s)",
                (name, name),
            )
            db.execute(b"select pg_replication_origin_session_setup(%s)", (name,))
        except psycopg.errors.DuplicateObject as error:
            raise Retry(
                f"system {self._system}: the replication origin {name} is just being made", hint="tried again by itself"
            ) from error
        except psycopg.errors.InsufficientPrivilege:
            if not self._warned:
                self._warned = True
                log.warning(
                    "no right to set a replication origin; our writes are marked by logical message only",
                    action="no_origin",
                    system=self._system,
                    hint=f"a superuser may run there: GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), "
                    f'pg_replication_origin_session_setup(text) TO "{db.info.user}"',
                )

    @contextlib.contextmanager
    def _errors(self, doing: str, table: PgTable | None = None) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise translate(error, self._system, table, doing) from error

    # ------------------------------------------------------------------------------------------------ writing

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out writes of one entity within the open transaction; see `sinks.base.Sink.write`."""
        entity = batch[0].entity
        self._begin()
        return self._within(entity, lambda rows: rows.write(batch), list(batch))

    def _begin(self) -> Connection:
        db = self._connect()
        if not self._open:
            with self._errors("beginning"):
                db.execute(b"begin")
                self._open = True
                self._landings.begin(db)
        return db

    def _within(self, entity: str, work: Callable[[Rows], list[Receipt]], batch: list[Write]) -> list[Receipt]:
        db = self._connect()
        table: PgTable | None = None
        try:
            with self._errors("looking at the table"):
                rows = self._rows_of(db, entity)
            table = rows.table
            with self._errors("writing to", table):
                db.execute(b"savepoint w")
                receipts = work(rows)
                if self._deferred:  # now, while it can still be said which record it was
                    db.execute(b"set constraints all immediate")
                db.execute(b"release savepoint w")
        except Reject as error:
            with self._errors("undoing in", table):
                db.execute(b"rollback to savepoint w")
            if len(batch) > 1:
                swapped = self._swap(db, entity, batch, error)
                if swapped is None:
                    raise
                receipts = swapped
            else:
                receipts = [self._refused(db, entity, batch[0], error)]
        except TidelockError as error:
            if not isinstance(error, Lost) and self._db is db:
                self.abort()
            raise
        with self._errors("asking for the position in", table):
            self._landings.put(db, self.spec.entities[entity].table, batch, receipts)
        return receipts

    def _swap(self, db: Connection, entity: str, batch: list[Write], error: Reject) -> list[Receipt] | None:
        """Write updates that pass unique values around among themselves by way of null; None if that does not help.

        Only where nobody captures: in a log the nulls would be seen.
        """
        constraint = _constraint(error)
        if error.kind != "unique" or constraint is None or self._captured or any(w.op != "update" for w in batch):
            return None
        rows = self._rows_of(db, entity)
        try:
            with self._errors("swapping values in", rows.table):
                if not rows.let_go(batch, constraint):
                    return None
                receipts = rows.write(batch)
                db.execute(b"release savepoint w")
        except Reject:
            with self._errors("undoing in", rows.table):
                db.execute(b"rollback to savepoint w")
            return None
        return receipts

    def _refused(self, db: Connection, entity: str, write: Write, error: Reject) -> Receipt:
        """Make the receipt of a write that the destination did not take, with what stands there."""
        rows = self._rows_of(db, entity)
        receipt = Receipt(
            write.canonical_id, write.version, REJECTED, write.native_key, kind=error.kind, message=error.message
        )
        receipt.refused = (error.field,) if error.field in write.columns else ()
        with self._errors("looking at", rows.table):
            if error.kind == "unique":
                receipt.outcome = TAKEN
                receipt.native_key = rows.holder(write, _constraint(error))
            if self._captured and write.op == "update":
                try:
                    receipt.values = rows.standing(write, tuple(write.columns)) or {}
                except (psycopg.DataError, Reject):  # its key is what was wrong
                    db.execute(b"rollback to savepoint w")
        return receipt

    def _rows_of(self, db: Connection, entity: str) -> Rows:
        rows = self._rows.get(entity)
        if rows is None:
            spec = self.spec.entities.get(entity)
            if spec is None:
                raise Fatal(
                    f"system {self._system} has no entity {entity} in the configuration",
                    hint="writes to it are waiting: add it again, or delete its topic of writes",
                )
            rows = self._rows[entity] = self.make_rows(db, entity, spec)
        return rows

    def make_rows(self, db: Connection, entity: str, spec: TableSpec) -> Rows:
        """Return the writer of an entity's table."""
        table = read_table(db, self._system, entity, spec.write_table or spec.table, spec.key)
        return Rows(db, self._system, spec, table, captured=self._captured)

    # ------------------------------------------------------------------------------------------------ the transaction

    def claim(self, consumer: str, scopes: Mapping[Scope, str]) -> dict[Scope, Kept]:
        """Take partitions over; see `sinks.base.Transactional.claim`."""
        self.abort()
        db = self._connect()
        with self._errors("taking over partitions in"):
            return self._offsets.claim(db, consumer, scopes)

    def commit(self, done: Done) -> None:
        """Store offsets and receipts, and commit; see `sinks.base.Transactional.commit`."""
        db = self._begin()
        try:
            with self._errors("storing what was written in"):
                self._offsets.move(db, done.kept)
                if done.receipts:
                    db.execute(b"select pg_logical_emit_message(true, %s, %b)", (RECEIPTS, done.receipts), prepare=True)
                db.execute(b"commit")
                self._open = False
        except Reject as error:  # a constraint that is checked at the end: which record it was, nobody can say
            raise Retry(
                error.message, hint="a deferred constraint refused the whole batch; smaller ones are tried"
            ) from error

    def abort(self) -> None:
        """Roll back what is open."""
        db, was_open, self._open = self._db, self._open, False
        self._rows.clear()
        if db is None or not was_open:
            return
        try:
            db.execute(b"rollback")
        except psycopg.Error:
            self.close()


def _constraint(error: Reject) -> str | None:
    cause = error.__cause__
    return cause.diag.constraint_name if isinstance(cause, psycopg.Error) else None
