"""Capture of PostgreSQL by logical replication.

One process reads one slot. A step publishes while it reads, so that a transaction of any size takes no memory. The server is told
how far it may forget only after Kafka has acknowledged everything up to there, and ``ops.signals`` holds the same position before
that. What is published twice after a crash has the same position again, and merge drops it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import structlog

from producers.base import Progress, Publisher
from producers.catalog import Connection, check_server, check_table, table_columns, type_names
from producers.pgoutput import Relation
from producers.seeded import Marks
from producers.signals import Signal, Signals
from producers.slot import default_name, drop, ensure_publication, ensure_slot, server_identity, slot_record
from producers.snapshot import Seeds
from producers.stream import Stream
from producers.tables import Table, Tables
from producers.truncate import known_keys
from producers.walsender import WalSender, connect, connection_error
from tidelock import faults
from tidelock.config import SystemSpec
from tidelock.context import Context
from tidelock.errors import Fatal, TidelockError

log = structlog.get_logger()

BATCH = 5000
FEW = 200  # changes read at once, with nothing behind them: they are sent right away
FEEDBACK_S = 10.0
ACKNOWLEDGE_S = 0.2
FORCE_S = 5.0  # under steady load Kafka's queue is never empty: then wait for it this often
SIGNALS_S = 0.5
HEARTBEAT = "tidelock.heartbeat"

T = TypeVar("T")


class PostgresProducer:
    """Capture one PostgreSQL system. Options: ``seed_on_start`` (true), ``seed_readers`` (2), ``seed_chunk_rows`` (5000),
    ``truncate`` (``delete``: a TRUNCATE deletes every known record; ``alert``: it only raises an alert).
    """

    def __init__(self, context: Context, system: str) -> None:
        self._context = context
        self._system = system
        self._spec: SystemSpec = context.config.systems[system]
        if self._spec.dsn is None:
            raise Fatal(
                f"system {system} has no `dsn`",
                hint=f"give systems.{system}.dsn, postgresql://user:password@host/database",
            )
        self._dsn = self._spec.dsn.get_secret_value()
        name = default_name(context.config.prefix, system)
        self.slot = self._spec.slot or name
        self.publication = self._spec.publication or name
        self._options = self._spec.options
        self._publisher = Publisher(context, system)
        self._signals = Signals(context, f"{context.name}-{system}")
        self._tables = Tables(context, system, self._publisher)
        self._marks = Marks(context, system, self._publisher, self._signals.last)
        self._seeds = Seeds(
            system,
            self.publication,
            lambda: connect(self._dsn, f"tidelock-{system}-seed", system),
            self._tables.plan,
            self._marks,
            readers=int(self._options.get("seed_readers", 2)),
            chunk_rows=int(self._options.get("seed_chunk_rows", 5000)),
        )
        self._db: Connection | None = None
        self._sender: WalSender | None = None
        self._stream: Stream | None = None
        self._record_key = f"slot/{system}"
        self._recorded: Signal | None = None
        self._identity = ""
        self._closed = False
        self._acked = self._acked_commits = 0
        self._pending: tuple[int, int, dict[str, Signal], float] | None = None
        self._kept = 0  # LSN up to which Kafka has everything, whatever the server has been told
        self._lost = 0  # deliveries that had failed when the stream began
        self._xids: dict[int, int] = {}
        self._last_feedback = self._last_ack = self._last_beat = self._last_signals = 0.0

    def recreate_slot(self) -> None:
        """Make a lost slot anew and leave word that every table is to be read again: the next capture does that.

        The word stands in Kafka before the slot does, so that nobody goes on from the new slot without it.
        """
        self._signals.load()
        self._recorded = self._signals.last.get(self._record_key)
        for entity in self._tables.by_entity:
            request = {"kind": "seed", "system": self._system, "entity": entity, "id": secrets.token_hex(16)}
            self._publisher.signal(f"request/seed/{self._system}/{entity}", request)
        self._publisher.flush()
        self._on_side(lambda db: self._prepare(db, recreate_slot=True))

    def setup(self) -> None:
        """Check server, tables, publication and slot, make what is missing, register schemas, start or resume seeds."""
        self._signals.load()
        self._recorded = self._signals.last.get(self._record_key)
        self._on_side(lambda db: self._prepare(db, recreate_slot=False))
        for entity, table in self._tables.by_entity.items():
            cursor = self._signals.last.get(f"seed/{self._system}/{entity}")
            on_start = bool(self._options.get("seed_on_start", True))
            if self._marks.starting(entity, cursor, on_start=on_start):
                self._seeds.start(table, self._spec.entities[entity], None, None, None)
            elif cursor is not None and cursor.get("state") == "running":
                where = cursor.get("where")
                self._seeds.start(table, self._spec.entities[entity], cursor.get("id"), where, cursor)
        for key, request in list(self._signals.last.items()):
            self._requested(key, request)

    def step(self, wait_s: float) -> int:
        """Publish what the server has sent, at most one batch, waiting up to ``wait_s`` for the first of it."""
        try:
            sender, stream = self._connected()
            count = 0
            if stream.more or sender.wait(self._patience(wait_s)):
                count = stream.drain(sender, BATCH)
                stream.count()
                if count < FEW and not stream.more:
                    self._publisher.push()
            self._chores(sender, stream, busy=stream.more)
        except TidelockError:
            self._disconnect()
            raise
        except psycopg.Error as error:
            self._disconnect()
            raise connection_error(str(error), error.sqlstate, self._system) from error
        return count

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        """Seed one entity, capturing meanwhile; return its rows. An interrupted seed with the same condition is resumed."""
        if entity not in self._tables.by_entity:
            raise Fatal(
                f"system {self._system} has no entity {entity}", hint=f"it has {', '.join(self._tables.by_entity)}"
            )
        running = self._seeds.jobs.get(entity)
        if running is None or running.where != where:
            self._seeds.start(self._tables.by_entity[entity], self._spec.entities[entity], None, where, None)
        job = self._seeds.jobs[entity]
        said = -1
        while entity in self._seeds.jobs:
            job = self._seeds.jobs[entity]
            self.step(0.05)
            if progress is not None and job.rows != said:
                said = job.rows
                progress(entity, job.rows, job.estimate)
        if entity in self._seeds.failed:
            raise self._seeds.failed[entity]
        self.settle()
        return job.rows

    def close(self) -> None:
        """Acknowledge what Kafka has taken, then let go of every connection. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._seeds.close()
        try:
            if self._stream is not None and not self._stream.open:
                self.settle()
        except TidelockError:
            pass  # it is captured again at the next start
        finally:
            self._disconnect(restart_seeds=False)
            self._close_side()
            self._signals.close()
            self._publisher.close()

    def drop(self) -> None:
        """Remove slot and publication from the server and their record, for taking the system out of service."""
        self._disconnect()
        self._on_side(
            lambda db: drop(db, self.slot, self.publication if self._spec.publication is None else None, self._system)
        )
        self._publisher.signal(self._record_key, None)
        self._publisher.flush()

    # --- the listener of the stream -----------------------------------------------------------------------------------

    def types(self, relation: Relation) -> list[str]:
        """Spell the types of a relation's columns."""
        return self._on_side(lambda db: type_names(db, [(c.oid, c.typmod) for c in relation.columns]))

    def watermark(self, content: str, lsn: int, source_time: int) -> int:
        """Take a mark of a seed."""
        assert self._stream is not None
        return self._seeds.watermark(content, lsn, source_time, self._stream.xids, time.time_ns() // 1000)

    def truncated(self, table: Table, kept: set[bytes]) -> list[bytes]:
        """Find what a TRUNCATE has removed, and tell people."""
        delete = self._options.get("truncate", "delete") == "delete"
        gone: list[bytes] = []
        if delete:
            self._publisher.flush()
            gone = sorted(known_keys(self._context, self._system, table.entity, self._alive) - kept)
        self._publisher.alert(
            "truncate",
            table.entity,
            str(table.name),
            f"table {table.name} of system {self._system} was truncated"
            + (
                f"; its {len(gone)} known records were taken as deleted"
                if delete
                else "; nothing was deleted elsewhere"
            ),
            f"if that was not wanted, restore the rows there from a backup: capture takes them in again; set `on_delete` of "
            f"the entity, or `options: {{truncate: alert}}` of system {self._system}, for the next time",
            severity="critical",
        )
        return gone

    def reread(self, entity: str, key: bytes) -> None:
        """Read a row again, because a change did not carry all of it."""
        self._seeds.again(self._tables.by_entity[entity], self._spec.entities[entity], key)

    # --- connections --------------------------------------------------------------------------------------------------

    def _prepare(self, db: Connection, *, recreate_slot: bool) -> None:
        check_server(db, self._system)
        for entity, spec in self._spec.entities.items():
            check_table(db, self._system, entity, spec)
        self._tables.check_utf8 = db.info.parameter_status("server_encoding") == "SQL_ASCII"
        ensure_publication(db, self.publication, self._system, self._spec)
        for entity, table in self._tables.by_entity.items():
            table.use(self._tables.plan(entity, table_columns(db, table.name, self.publication)))
        self._identity = server_identity(db)
        self._acked = ensure_slot(db, self.slot, self._system, self._recorded, recreate=recreate_slot)
        self._kept = 0
        if self._recorded is None or recreate_slot:
            self._write_record(self._acked)
            self._publisher.flush()

    def _connected(self) -> tuple[WalSender, Stream]:
        if self._sender is not None and self._stream is not None:
            return self._sender, self._stream
        done = self._on_side(lambda db: ensure_slot(db, self.slot, self._system, self._recorded))
        done = max(done, self._kept)
        sender = WalSender(self._dsn, self._system)
        try:
            sender.start(self.slot, self.publication, done)
        except TidelockError:
            sender.close()
            raise
        self._acked = self._acked_commits = done
        self._lost = self._publisher.lost
        self._sender = sender
        self._stream = Stream(self._context, self._system, self._publisher, self._tables, self, done, self._xids)
        self._last_feedback = time.monotonic()
        return sender, self._stream

    def _keep(self) -> None:
        """Hold on to what a broken stream has published: it is safe once Kafka has it, whatever became of the connection.

        Without this, a connection that breaks faster than progress is acknowledged would never let a seed come to its end.
        """
        stream = self._stream
        if stream is None:
            return
        records = (self._pending[2] if self._pending is not None else {}) | self._seeds.take_records()
        try:
            self._write_record(stream.done)
            self._publisher.flush(FORCE_S)
            if self._publisher.lost != self._lost:
                return  # all of it is read again, from where it was safe before
            for key, record in records.items():
                self._publisher.signal(key, record)
        except TidelockError as error:
            log.warning("what was captured last is read again", system=self._system, error=str(error))
            return
        self._seeds.written(records)
        self._kept = stream.done

    def _disconnect(self, *, restart_seeds: bool = True) -> None:
        if restart_seeds:
            self._keep()
        if self._sender is not None:
            self._sender.close()
        self._sender = self._stream = self._pending = None
        for table in self._tables.by_entity.values():
            table.windows.clear()
        if restart_seeds:
            self._seeds.restart()

    def _on_side(self, work: Callable[[Connection], T]) -> T:
        """Do something on the ordinary connection, opening it if need be. Raises Retry if it breaks."""
        if self._db is None or self._db.closed:
            self._db = connect(self._dsn, f"tidelock-{self._system}", self._system)
        try:
            return work(self._db)
        except psycopg.Error as error:
            self._close_side()
            raise connection_error(str(error), error.sqlstate, self._system) from error

    def _close_side(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    # --- acknowledging and chores -------------------------------------------------------------------------------------

    def _patience(self, wait_s: float) -> float:
        if self._pending is not None:
            return min(wait_s, 0.01)
        return min(wait_s, ACKNOWLEDGE_S) if self._seeds.jobs else min(wait_s, SIGNALS_S)

    def _chores(self, sender: WalSender, stream: Stream, *, busy: bool) -> None:
        now = time.monotonic()
        self._acknowledge(sender, stream, now, busy=busy)
        if now - self._last_feedback > FEEDBACK_S or (stream.reply_wanted and self._pending is None):
            self._feedback(sender, stream)
        if now - self._last_beat > self._spec.heartbeat_s:
            self._last_beat = now
            if stream.committed == self._acked_commits:
                self._on_side(lambda db: db.execute("select pg_logical_emit_message(false, %s, '')", (HEARTBEAT,)))
        if now - self._last_signals > SIGNALS_S:
            self._last_signals = now
            for key, request in self._signals.poll():
                self._requested(key, request)
        self._seeds.check()
        self._publisher.tick()

    def _acknowledge(self, sender: WalSender, stream: Stream, now: float, *, busy: bool) -> None:
        """Move on by one part of the way: note the position, wait for Kafka without blocking, tell the server."""
        if self._pending is None:
            moved = stream.committed > self._acked_commits
            every = ACKNOWLEDGE_S if moved else 0.0 if stream.reply_wanted else self._spec.heartbeat_s
            if now - self._last_ack < every:
                return
            records = self._seeds.take_records()
            if stream.done <= self._acked and not records:
                return
            self._write_record(stream.done)
            self._pending = (stream.done, stream.committed, records, now)
        lsn, commits, records, since = self._pending
        if now - since > (FORCE_S / 5 if busy else FORCE_S):
            self._publisher.flush()
        elif not self._publisher.settled():
            return
        if faults.ENABLED:
            faults.point("capture.before_feedback")
        for key, record in records.items():
            self._publisher.signal(key, record)
        self._seeds.written(records)
        self._acked, self._acked_commits, self._pending, self._last_ack = lsn, commits, None, now
        self._feedback(sender, stream)

    def _feedback(self, sender: WalSender, stream: Stream) -> None:
        sender.acknowledge(self._acked)
        stream.reply_wanted = False
        self._last_feedback = time.monotonic()

    def settle(self) -> None:
        """Acknowledge everything that has been published, waiting for Kafka."""
        if self._sender is None or self._stream is None:
            return
        for _ in range(2):  # what is on its way, then what came after it
            self._publisher.flush()
            self._last_ack = 0.0
            self._acknowledge(self._sender, self._stream, time.monotonic(), busy=False)
            if self._pending is not None:
                self._publisher.flush()
                self._acknowledge(self._sender, self._stream, time.monotonic(), busy=False)
        self._publisher.flush()

    def _alive(self) -> None:
        if self._sender is not None and time.monotonic() - self._last_feedback > FEEDBACK_S:
            self._sender.acknowledge(self._acked)
            self._last_feedback = time.monotonic()

    def _write_record(self, lsn: int) -> None:
        self._recorded = slot_record(self._identity, self.slot, self._system, lsn)
        self._publisher.signal(self._record_key, self._recorded)

    def _requested(self, key: str, request: Signal) -> None:
        """Take a request to seed: ``{"kind": "seed", "system": …, "entity": … or null, "where": …, "id": …}``."""
        if request.get("kind") != "seed" or request.get("system") != self._system:
            return
        wanted = [request["entity"]] if request.get("entity") else list(self._tables.by_entity)
        for entity in wanted:
            table = self._tables.by_entity.get(entity)
            progress: dict[str, Any] = self._signals.last.get(f"seed/{self._system}/{entity}", {})
            if table is None or (request.get("id") and progress.get("id") == request["id"]):
                continue
            self._seeds.start(table, self._spec.entities[entity], request.get("id"), request.get("where"), None)
            self._publisher.signal(*self._seeds.begun(entity))
        self._publisher.signal(key, None)  # last: a request is gone only when its seed stands on record
