"""Reading the rows of one table in chunks, each between two watermarks in the log, in a thread of its own."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from psycopg import sql

from producers.catalog import Connection, table_columns
from producers.columns import unescape_copy
from producers.rows import SourceColumn, compose_key
from producers.stream import WATERMARK
from producers.tables import Table
from tidelock.config import TableSpec
from tidelock.errors import Fatal
from tidelock.nativekey import split_native_key

OPEN_CHUNKS = 3
"""Chunks of one table that may be read ahead of the stream: they are held in memory."""


@dataclass
class Chunk:
    """Rows of one table that were read at once; a window of the stream lies open on it between its marks."""

    number: str
    job: Job
    keys: tuple[str, ...] | None = None  # read again: these native keys
    low: int = 0
    source_time: int = 0
    rows: dict[bytes, bytes] = field(default_factory=dict)
    source: tuple[SourceColumn, ...] = ()
    snapshot: str = ""
    last: tuple[str, ...] | None = None
    struck: set[bytes] = field(default_factory=set)
    partial: set[bytes] = field(default_factory=set)
    emptied: bool = False

    def seen(self, key: bytes, *, partial: bool) -> None:
        """Strike a key: the stream knows better."""
        self.struck.add(key)
        if partial:
            self.partial.add(key)
        else:
            self.partial.discard(key)

    def void(self) -> None:
        """Strike everything that was read: the table was emptied."""
        self.emptied = True
        self.partial.clear()


@dataclass
class Job:
    """One table being seeded; ``after`` is the key behind which the next chunk starts."""

    table: Table
    spec: TableSpec
    number: str
    where: str | None
    after: tuple[str, ...] | None = None
    rows: int = 0
    estimate: int | None = None
    chunks: dict[str, Chunk] = field(default_factory=dict)
    again: set[bytes] = field(default_factory=set)
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(OPEN_CHUNKS))
    idle: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None
    read_all: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)  # of `again` and `chunks`
    failures: int = 0


class Reader:
    """Read the chunks of one job in a thread of its own; everything but reading is left to the capture's thread."""

    def __init__(self, job: Job, connect: Callable[[], Connection], publication: str, chunk_rows: int) -> None:
        self._job = job
        self._connect = connect
        self._publication = publication
        self._chunk_rows = chunk_rows
        names = secrets.token_hex(4)  # marks of an earlier reader must not be taken for ours
        self._numbers = (f"{job.number}.{names}.{n}" for n in itertools.count())

    def run(self) -> None:
        """Read to the end of the table, then what has to be read again, until nothing is left or the job is stopped."""
        job = self._job
        with self._connect() as db:
            if job.estimate is None and job.where is None:
                job.estimate = _estimate(db, job)
            after = job.after
            while not job.stop.is_set() and not job.read_all:
                if not job.room.acquire(timeout=0.2):
                    continue
                chunk = Chunk(next(self._numbers), job)
                with job.lock:
                    job.chunks[chunk.number] = chunk
                last = self._read(db, chunk, after)
                if last is None:
                    job.read_all = True
                else:
                    after = last
            while not job.stop.is_set():
                if job.chunks:
                    job.idle.wait(0.2)
                    job.idle.clear()
                    continue
                with job.lock:
                    keys = sorted(job.again)[: self._chunk_rows]
                    if not keys:
                        return
                    job.again.difference_update(keys)
                    chunk = Chunk(next(self._numbers), job, tuple(k.decode() for k in keys))
                    job.chunks[chunk.number] = chunk
                job.room.acquire()
                self._read(db, chunk, None)

    def _read(self, db: Connection, chunk: Chunk, after: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Read one chunk between its marks; return the key it ends at, or None at the end of the table."""
        job = self._job
        _mark(db, "low", chunk)
        with db.transaction():
            db.execute("set transaction isolation level repeatable read, read only")
            chunk.snapshot = str(_one(db, "select pg_current_snapshot()::text"))
            chunk.source = table_columns(db, job.table.name, self._publication)
            query = self._query(chunk, after)
            with db.cursor().copy(query) as copy:
                lines = b"".join(copy).split(b"\n")[:-1]
        key_at = _positions(chunk.source, job.spec.key)
        rows: dict[bytes, bytes] = {}
        for line in lines:
            fields = line.split(b"\t")
            rows[compose_key(tuple(unescape_copy(fields[i]) for i in key_at))] = line
        chunk.rows = rows
        if lines and chunk.keys is None:
            fields = lines[-1].split(b"\t")
            chunk.last = tuple((unescape_copy(fields[i]) or b"").decode() for i in key_at)
        _mark(db, "high", chunk)
        return chunk.last if len(lines) >= self._chunk_rows else None

    def _query(self, chunk: Chunk, after: tuple[str, ...] | None) -> sql.Composed:
        job = self._job
        key = sql.SQL(", ").join(map(sql.Identifier, job.spec.key))
        conditions: list[sql.Composable] = [
            sql.SQL("({})").format(sql.SQL(w)) for w in (job.spec.where, job.where) if w
        ]
        if after is not None:
            conditions.append(sql.SQL("({}) > ({})").format(key, _literals(after)))
        if chunk.keys is not None:
            parts = [split_native_key(k, len(job.spec.key)) for k in chunk.keys]
            wanted = sql.SQL(", ").join(sql.SQL("({})").format(_literals(p)) for p in parts)
            conditions.append(sql.SQL("({}) in ({})").format(key, wanted))
        return sql.SQL("copy (select {} from {}{} order by {} limit {}) to stdout").format(
            sql.SQL(", ").join(sql.Identifier(c.name) for c in chunk.source),
            job.table.name.quoted(),
            sql.SQL(" where {}").format(sql.SQL(" and ").join(conditions)) if conditions else sql.SQL(""),
            key,
            sql.Literal(self._chunk_rows),
        )


def _positions(source: Sequence[SourceColumn], key: Sequence[str]) -> list[int]:
    names = [c.name for c in source]
    try:
        return [names.index(k) for k in key]
    except ValueError as error:
        raise Fatal(f"the table has no column {error}", hint="correct `key` of this entity") from error


def _literals(values: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Literal, values))


def _mark(db: Connection, which: str, chunk: Chunk) -> None:
    db.execute("select pg_logical_emit_message(true, %s, %s)", (WATERMARK, f"{which}:{chunk.number}"))


def _estimate(db: Connection, job: Job) -> int | None:
    name = job.table.name.quoted().as_string(db)
    found = db.execute(
        "select sum(greatest(c.reltuples, 0))::bigint from pg_partition_tree(to_regclass(%s)) t join pg_class c on c.oid = t.relid",
        (name,),
    ).fetchone()
    return int(found[0]) if found and found[0] else None


def _one(db: Connection, query: str) -> object:
    found = db.execute(query.encode()).fetchone()
    return found[0] if found else None
