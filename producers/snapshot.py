"""Seeding: what stands in the tables now, in chunks between watermarks, while the stream goes on.

After DBLog (Andreakis, Papapanagiotou 2020): a reader writes a low mark into the log, reads a chunk, writes a high mark. The stream
meets both; keys that change between them are struck from the chunk, and what is left is published at the high mark, at the
position of the low one. Two things are added. A row whose streamed change lacked a large column is read again, because the change
alone does not tell the column. And a chunk is read again if its snapshot did not see a transaction that stands before the low mark:
PostgreSQL makes commits visible a moment after they stand in the log.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from producers.catalog import Connection
from producers.chunks import Chunk, Job, Reader
from producers.columns import unescape_copy
from producers.pgoutput import Text
from producers.rows import SourceColumn
from producers.seeded import REREAD, Marks
from producers.signals import Signal
from producers.tables import Plan, Table
from tidelock.avro import FieldType, decode_long
from tidelock.change import SNAPSHOT, position
from tidelock.config import TableSpec
from tidelock.errors import Fatal, Reject

_MOST_AGAIN = 10_000
_MOST_FAILURES = 20
_HOPELESS = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.SyntaxError,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
)


class Seeds:
    """The seeds of one system, driven by the capture's thread.

    ``plan`` gives the compiled plan of a table's version; ``marks`` are given at the end of a seed of all there is.
    """

    def __init__(
        self,
        system: str,
        publication: str,
        connect: Callable[[], Connection],
        plan: Callable[[str, Sequence[SourceColumn]], Plan],
        marks: Marks,
        *,
        readers: int = 2,
        chunk_rows: int = 5000,
    ) -> None:
        self._system = system
        self._publication = publication
        self._connect = connect
        self._plan = plan
        self._marks = marks
        self._chunk_rows = chunk_rows
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix=f"seed-{system}")
        self.jobs: dict[str, Job] = {}
        self.failed: dict[str, Fatal] = {}
        self._ended: dict[str, Job] = {}  # read to the end, but not known to be safe in Kafka
        self._touched: set[str] = set()  # entities with keys to be read again that no record tells of
        self._records: dict[str, Signal] = {}
        self._safe: dict[str, Signal] = {}

    def start(
        self, table: Table, spec: TableSpec, number: str | None, where: str | None, cursor: Signal | None
    ) -> None:
        """Start a seed, or go on with the one that a progress record tells of; one that runs for the entity is stopped."""
        self.abandon(table.entity)
        self.failed.pop(table.entity, None)
        job = Job(table, spec, number or secrets.token_hex(8), where)
        if cursor is not None:
            job.after = tuple(cursor["after"]) if cursor.get("after") else None
            job.rows, job.estimate = int(cursor.get("rows", 0)), cursor.get("estimate")
            job.again = {k.encode() for k in cursor.get("again", [])}
            job.read_all = bool(cursor.get("read_all"))
        self.jobs[table.entity] = job
        self._record(job, "running")
        self._safe[table.entity] = cursor or {}
        self._read(job)

    def begun(self, entity: str) -> tuple[str, Signal]:
        """Return the key and the record of a seed that was just started: it tells of nothing read, so it may be written at once."""
        key = f"seed/{self._system}/{entity}"
        return key, self._records[key]

    def restart(self) -> None:
        """Go back with every running seed to where its rows are safe: the stream is read again, and what was sent may be lost."""
        for entity, job in (self._ended | self.jobs).items():
            self.start(job.table, job.spec, job.number, job.where, self._safe.get(entity))
        self._records.clear()
        self._touched.clear()

    def _read(self, job: Job) -> None:
        reader = Reader(job, self._connect, self._publication, self._chunk_rows)
        job.future = self._pool.submit(reader.run)

    def again(self, table: Table, spec: TableSpec, key: bytes) -> None:
        """Read one row once more, as part of the running seed of its table or as a small one of its own."""
        ended = self._ended.pop(table.entity, None)
        job = self.jobs.get(table.entity, ended)
        if job is not None:
            with job.lock:
                job.again.add(key)
            self._touched.add(table.entity)
            if job is ended:
                self.jobs[table.entity] = job
                self._read(job)
            return
        cursor = {"again": [key.decode()], "read_all": True}
        self.start(table, spec, f"{REREAD}{secrets.token_hex(4)}", None, cursor)

    def watermark(self, content: str, lsn: int, source_time: int, xids: dict[int, int], captured_at: int) -> int:
        """Take a mark met in the stream; return the number of rows published."""
        which, _, number = content.partition(":")
        job = next((j for j in self.jobs.values() if number in j.chunks), None)
        if job is None:
            return 0  # of an earlier run, or of a chunk that was published before the stream was read again
        chunk = job.chunks[number]
        if which == "low":
            chunk.low, chunk.source_time = lsn, source_time
            chunk.struck.clear()
            if chunk not in job.table.windows:
                job.table.windows.append(chunk)
            return 0
        if not chunk.low:
            return 0
        return self._publish(chunk, _unseen(chunk.snapshot, chunk.low, xids), captured_at)

    def _publish(self, chunk: Chunk, unseen: bool, captured_at: int) -> int:
        job = chunk.job
        count = 0
        job.table.windows.remove(chunk)
        again = set(chunk.partial)
        if unseen and not chunk.emptied:
            again.update(k for k in chunk.rows if k not in chunk.struck)
        elif not chunk.emptied:
            count = _send(chunk, self._plan(job.table.entity, chunk.source), captured_at)
        job.rows += count
        if chunk.last is not None:
            job.after = chunk.last
        with job.lock:
            job.again |= again
            del job.chunks[chunk.number]
        self._record(job, "running")
        job.room.release()
        job.idle.set()
        return count

    def check(self) -> None:
        """Finish what is done, and take up again, a little later, what has failed. What fails at the source never raises: capture
        goes on. Raises Retry or Fatal if Kafka does not take the marks; then the seed goes on from where it is safe.
        """
        for job in list(self.jobs.values()):
            if job.future is None or not job.future.done():
                continue
            error = job.future.exception()
            if error is not None:
                self._failed(job, error)
            elif job.again or job.chunks:
                self._read(job)  # asked for while the reader was going home
            else:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        entity, reread = job.table.entity, job.number.startswith(REREAD)
        if job.where is None and not reread:
            self._marks.give(entity, "seed")
        self._record(job, "done")
        self._ended[entity] = self.jobs.pop(entity)
        if job.where is not None and not self._marks.given(entity):  # it has taken the place of the first one
            self.start(job.table, job.spec, None, None, None)

    def take_records(self) -> dict[str, Signal]:
        """Hand out the progress records that have changed. Write them once what was published until now is acknowledged."""
        for job in [self.jobs[e] for e in self._touched if e in self.jobs]:
            self._record(job, "running")
        self._touched.clear()
        records, self._records = self._records, {}
        return records

    def written(self, records: dict[str, Signal]) -> None:
        """Take note that rows and progress are safe up to these records."""
        for record in records.values():
            entity = record["entity"]
            running = self.jobs.get(entity)
            if running is not None and running.number != record["id"]:
                continue  # of a seed that another one has replaced meanwhile
            self._safe[entity] = record
            if record["state"] == "done":
                self._ended.pop(entity, None)

    def abandon(self, entity: str) -> None:
        """Stop a seed without a trace in its progress."""
        self._ended.pop(entity, None)
        job = self.jobs.pop(entity, None)
        if job is None:
            return
        job.stop.set()
        for chunk in job.chunks.values():
            if chunk in job.table.windows:
                job.table.windows.remove(chunk)

    def close(self) -> None:
        """Stop every reader and wait for its end."""
        for entity in list(self.jobs):
            self.abandon(entity)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _record(self, job: Job, state: str, message: str | None = None) -> None:
        with job.lock:
            again = {k.decode() for k in job.again} | {k for c in job.chunks.values() for k in c.keys or ()}
        whole = len(again) > _MOST_AGAIN  # too many to write down: a restart would read the table once more
        self._records[f"seed/{self._system}/{job.table.entity}"] = {
            "kind": "seed_progress",
            "system": self._system,
            "entity": job.table.entity,
            "id": job.number,
            "where": job.where,
            "state": state,
            "message": message,
            "after": list(job.after) if job.after and not whole else None,
            "again": [] if whole else sorted(again),
            "read_all": job.read_all and not whole and not any(c.keys is None for c in job.chunks.values()),
            "rows": job.rows,
            "estimate": job.estimate,
            "at": int(time.time()),
        }

    def _failed(self, job: Job, error: BaseException) -> None:
        job.failures += 1
        where = f"seeding {job.table.name} of system {self._system}"
        hopeless = isinstance(error, (*_HOPELESS, Fatal)) or job.failures > _MOST_FAILURES
        if not hopeless:
            cursor = self._safe.get(job.table.entity)
            self.start(job.table, job.spec, job.number, job.where, cursor)
            fresh = self.jobs[job.table.entity]
            fresh.failures = job.failures
            return
        fatal = Fatal(
            f"{where} failed: {' '.join(str(error).split())}",
            hint=f"let the owner run there: GRANT SELECT ON {job.table.name} TO the user of `dsn`;  or correct the condition of "
            f"the seed; then `tidelock seed {self._system} {job.table.entity}`; "
            "until then nothing is created there, if it was the first",
        )
        self.failed[job.table.entity] = fatal
        job.table.publisher.alert("seed_failed", job.table.entity, self._system, fatal.message, fatal.hint or "")
        self._record(job, "failed", fatal.message)
        self.abandon(job.table.entity)


def _send(chunk: Chunk, plan: Plan, captured_at: int) -> int:
    table, pos = chunk.job.table, position(chunk.low, 0)
    modified = _modified(plan, chunk.job.spec)
    count = 0
    for key, line in chunk.rows.items():
        if key in chunk.struck:
            continue
        texts: list[Text] = [unescape_copy(f) for f in line.split(b"\t")]
        try:
            slices = plan.slices_of(texts)
        except (Reject, ValueError, OverflowError) as error:
            reason = (
                error if isinstance(error, Reject) else Reject(f"a value cannot be read: {error}", kind="bad_value")
            )
            table.reject(key, line, reason)
            continue
        when = chunk.source_time
        if modified is not None and slices[modified] != b"\x00":
            when = min(when, decode_long(slices[modified], 1)[0])
        event = plan.event_id(key, pos)
        table.send(
            key,
            plan.writer.write(event, pos, SNAPSHOT, when, captured_at, key, slices, actor=plan.actor_of(texts)),
        )
        count += 1
    table.captured += count
    return count


def _modified(plan: Plan, spec: TableSpec) -> int | None:
    """Return where the last-modified time stands, the best source time of a row that is read."""
    for i, column in enumerate(plan.columns):
        if column.name == spec.modified and column.type in (FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP):
            return i
    return None


def _unseen(snapshot: str, low: int, xids: dict[int, int]) -> bool:
    """Return whether a transaction that stands before the low mark was still in progress for the chunk's snapshot."""
    _, xmax, running = snapshot.split(":")
    after = int(xmax) & 0xFFFFFFFF
    listed = {int(x) & 0xFFFFFFFF for x in running.split(",") if x}
    return any(lsn < low and (xid in listed or ((xid - after) & 0xFFFFFFFF) < 0x80000000) for xid, lsn in xids.items())
