"""What captures have in common that look at a table now and then: runs by schedule, positions, differences, seeding.

A position is (xmin of the snapshot, time of the reading): every transaction below xmin is over, so one of our own writes, whose
landing is told as (its transaction id + 1, 0), is at or before the position exactly when it surely was visible.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from producers.base import Progress, Publisher
from producers.schedule import RunLog, Schedule
from producers.seeding import Seed, Seeding
from producers.seen import Seen, open_seen
from producers.select import Connection, Row, Table, declare, fetch, open_source, seed_query, snapshot, translated
from tidelock.change import CREATE, DELETE, SNAPSHOT, UPDATE, position
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, TidelockError
from tidelock.nativekey import split_native_key

FETCH_KEYS = 10_000


@dataclass(slots=True)
class Job:
    """One entity's state: its table, what was seen, when which kind of run began last, and the stored watermark."""

    table: Table
    schedules: dict[str, Schedule]
    seen: Seen
    ran: dict[str, float]
    watermark: str | None = None
    last: tuple[int, int] = (0, 0)
    failures: int = 0
    not_before: float = 0.0
    dirty: bool = False


@dataclass(slots=True)
class Pass:
    """One run that is going on."""

    job: Job
    kind: str
    due: float
    started: float
    pages: Iterator[int] = field(default_factory=lambda: iter(()))
    read: int = 0
    published: int = 0
    position: bytes = b""
    source_time: int = 0


class PeriodicProducer:
    """The frame of `producers.polling` and `producers.rowhash`, which say what a run reads."""

    record = "poll"  # the first part of the key on ops.signals
    purpose = "polling"

    def __init__(self, context: Context, system: str) -> None:
        self.context, self.system = context, system
        self.spec = context.config.systems[system]
        self.publisher = Publisher(context, system)
        self.log = RunLog(context, system, self.publisher)
        self.zone = str(self.spec.options.get("timezone", "UTC"))
        self._seeding = Seeding(context, system, self.publisher, self._seed_pages)
        self._closed = False
        self._connection: Connection | None = None
        self._jobs: dict[str, Job] = {}
        self._pass: Pass | None = None

    # What subclasses say.

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return the kinds of runs of an entity and when they are due."""
        raise NotImplementedError

    def pages(self, connection: Connection, going: Pass) -> Iterator[int]:
        """Read within the open snapshot, publish, and yield the number of changes after each page."""
        raise NotImplementedError

    def digest(self, table: Table) -> str:
        """Return the expression of a row's digest."""
        return table.digest_sql()

    def check(self, job: Job) -> None:
        """Check what the configuration asks for against the table. Raises Fatal."""

    def first_watermark(self, connection: Connection, table: Table) -> str | None:  # noqa: ARG002
        """Return the watermark that a seed in this snapshot leaves behind."""
        return None

    # The contract of `producers.base.Producer`.

    def setup(self) -> None:
        """Look at the tables, register schemas, read the stored records. Raises Fatal or Retry."""
        # The first run reads everything anyway, so nothing is seeded at the start unless somebody wants it.
        self._seeding.load(on_start=bool(self.spec.options.get("seed_on_start", False)), reads=True)
        last, now = self._seeding.last, time.time()
        try:
            with translated(self.system, "looking at the tables"):
                connection = self._connect()
                for entity in self.spec.entities:
                    if entity not in self._jobs:
                        self._jobs[entity] = self._open(entity, last.get(self._key(entity), {}), now)
                    job = self._jobs[entity]
                    job.table.refresh(connection)
                    job.table.probe(connection)
                    self.check(job)
                    if job.dirty:
                        self._save(job)
                    self._mark(job)
        except BaseException:
            self._drop()
            self._forget()
            raise
        self.publisher.flush()

    def step(self, wait_s: float) -> int:
        """Do one page of the run that is going on, or wait up to ``wait_s`` for the next to be due. Raises Retry or Fatal."""
        self.publisher.tick()
        if self._pass is None:
            seeded = self._seeding.step()
            if seeded is not None:
                return seeded
            going, due = self._next()
            if going is None:
                self.context.stop.wait(max(0.0, min(wait_s, due - time.time())))
                return 0
            self._begin(going)
        going = self._pass
        assert going is not None
        try:
            with translated(self.system, f"reading {going.job.table.spec.table}"):
                count = next(going.pages, None)
        except TidelockError as error:
            self._end(error)
            raise
        if count is None:
            self._end(None)
        return count or 0

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        """Publish the table with op snapshot; what it does not publish (``where``) still counts as seen.

        An interrupted seed goes on behind the last key that Kafka acknowledged. Raises Retry or Fatal.
        """
        if not self._jobs:
            self.setup()
        return self._seeding.run(entity, where, progress)

    def close(self) -> None:
        """Let go of connection and stores; a run that is going on is broken off and done again."""
        if self._closed:
            return
        self._closed = True
        self._seeding.close()
        self._drop()
        self._forget()
        self.publisher.close()

    def _seed_pages(self, seed: Seed) -> Iterator[int]:
        job, where = self._jobs[seed.entity], seed.where
        connection = open_source(self.context, self.system, "seed")
        try:
            with translated(self.system, f"seeding {job.table.spec.table}"), snapshot(connection) as (xmin, now):
                job.table.refresh(connection)
                seed.estimate = job.table.estimate
                if job.watermark is None and seed.after is None:
                    job.watermark = self.first_watermark(connection, job.table)
                    self._save(job)
                going = self._moment(Pass(job, "seed", time.time(), time.time()), xmin, now)
                selected = f", ({where.replace('%', '%%')})" if where else ", true"
                extra = f", {self.digest(job.table)}{selected}"
                query, parameters = seed_query(job.table, None, seed.after, extra)
                declare(connection, "tidelock_seed", query, parameters)
                while rows := fetch(connection, "tidelock_seed", self.spec.batch):
                    chosen = self.by_key(job.table, [r for r in rows if r[-1] == b"t"]).values()
                    done = self._publish(going, [(r[:-2], r[-2]) for r in chosen], SNAPSHOT)
                    # What the condition leaves out counts as seen: from now on only its changes are published.
                    others = self.by_key(job.table, [r for r in rows if r[-1] != b"t"])
                    job.seen.put([(k, raw_digest(r[-2])) for k, r in others.items()])
                    seed.after = split_native_key(job.table.key_of(rows[-1]).decode(), len(job.table.spec.key))
                    yield done
            job.seen.set_ready()
            self._save(job)
        finally:
            connection.close()

    # Runs.

    def changed(self, going: Pass, rows: list[Row]) -> int:
        """Publish those of a page's rows (columns, then the digest) that differ from what was seen; return their number."""
        job, table = going.job, going.job.table
        going.read += len(rows)
        by_key = self.by_key(table, rows)
        differing: dict[bytes, tuple[Row, bytes | None, bool]] = {}
        for (key, row), value in zip(by_key.items(), job.seen.values(list(by_key)), strict=True):
            if value is None or value[:16] != raw_digest(row[-1]):
                differing[key] = (row[:-1], row[-1], value is not None)
        count = 0
        for op, known in ((UPDATE, True), (CREATE if job.seen.ready else SNAPSHOT, False)):
            count += self._publish(going, [(row, digest) for row, digest, k in differing.values() if k is known], op)
        return count

    def by_key(self, table: Table, rows: list[Row]) -> dict[bytes, Row]:
        """Return rows by native key; rows whose key is null (an outer join in a view) are reported and left out."""
        out: dict[bytes, Row] = {}
        for row in rows:
            try:
                out[table.key_of(row)] = row
            except Reject as error:
                self.publisher.alert(
                    error.kind,
                    table.entity,
                    table.spec.table,
                    f"{table.spec.table} of {self.system} has rows without a key",
                    error.hint or "",
                )
        return out

    def publish_deletes(self, going: Pass) -> Iterator[int]:
        """Publish deletes of the keys that a complete reading did not meet, unless they are suspiciously many."""
        job, entity = going.job, going.job.table.entity
        gone = list(job.seen.unmarked())
        most = float(self.spec.options.get("max_delete_share", 0.5))
        known = len(job.seen)
        if len(gone) > 100 and len(gone) > most * known:
            self.publisher.alert(
                "many_deletes",
                entity,
                job.table.spec.table,
                f"{len(gone)} of {known} records of {entity} are gone from {job.table.spec.table} of {self.system}; nothing was deleted",
                "if that is right, set `options.max_delete_share: 1` of the system for one run",
                severity="critical",
            )
            self.publisher.flush()
            return
        for at in range(0, len(gone), self.spec.batch):
            part = gone[at : at + self.spec.batch]
            for key in part:
                value = job.table.change(key, None, going.position, DELETE, going.source_time)
                self.publisher.publish(entity, key, value)
            self.publisher.flush()
            job.seen.forget(part)
            going.published += len(part)
            self.context.activity.count("captured", self.system, entity, len(part))
            yield len(part)

    def _publish(self, going: Pass, rows: list[tuple[Row, bytes | None]], op: int) -> int:
        """Publish rows with their digests; what cannot be encoded becomes one dead letter per content."""
        job, table = going.job, going.job.table
        send = self.publisher.sender(table.entity)
        seen: list[tuple[bytes, bytes]] = []
        bad = 0
        for i, (row, digest) in enumerate(rows):
            key = table.key_of(row)
            try:
                value = table.change(key, row, going.position, op, self.time_of(table, row, going.source_time))
            except (Reject, ValueError) as error:
                reason = error if isinstance(error, Reject) else Reject(str(error), kind="bad_value")
                self.publisher.dead_letter(table.entity, key, table.show(row), reason)
                bad += 1
            else:
                send(key, value)
            seen.append((key, raw_digest(digest)))
            if i % 500 == 499:
                self.publisher.poll()
        self.publisher.flush()
        job.seen.put(seen)  # only now: what was not acknowledged must be found again
        good = len(rows) - bad
        going.published += good
        if good:
            self.context.activity.count("captured", self.system, table.entity, good)
        return good

    def time_of(self, table: Table, row: Row, otherwise: int) -> int:  # noqa: ARG002
        """Return when a row was changed, in µs since 1970, as far as it says."""
        return otherwise

    def _next(self) -> tuple[Pass | None, float]:
        """Return the run that is due, or None and when the next will be."""
        now, soonest = time.time(), float("inf")
        for job in self._jobs.values():
            for kind, schedule in job.schedules.items():
                due = max(schedule.due(job.ran.get(kind, 0.0)), job.not_before)
                if due <= now:
                    return self.due_now(job, kind, due), due
                soonest = min(soonest, due)
        return None, soonest

    def due_now(self, job: Job, kind: str, due: float | None = None) -> Pass:
        """Return a run of a kind that starts now."""
        now = time.time()
        return Pass(job, kind, now if due is None else due, now)

    def _begin(self, going: Pass) -> None:
        scheduled = going.job.schedules[going.kind].cron is not None
        if scheduled:
            self.log.started(going.job.table.entity, going.kind, going.due, going.started)
        self._pass = going
        going.pages = self._in_snapshot(going)

    def _in_snapshot(self, going: Pass) -> Iterator[int]:
        connection = self._connect()
        with snapshot(connection) as (xmin, now):
            self._moment(going, xmin, now)
            going.job.table.refresh(connection)
            yield from self.pages(connection, going)

    def _moment(self, going: Pass, xmin: int, now: int) -> Pass:
        """Give a run its position, which is never below an earlier one of this table. Raises Fatal if the server was set back."""
        job = going.job
        if xmin < job.last[0]:
            raise Fatal(
                f"system {self.system}: the server's transaction counter stands at {xmin}, behind {job.last[0]} of an earlier reading: "
                "it was restored from a backup, or it is another server",
                hint="connect to the right server; after a restore start over with another `prefix` and `tidelock seed`",
            )
        moment = (xmin, max(now, job.last[1] + 1) if xmin == job.last[0] else now)
        job.last = moment
        going.position, going.source_time = position(*moment), now
        return going

    def _end(self, error: TidelockError | None) -> None:
        going, self._pass = self._pass, None
        assert going is not None
        job, schedule = going.job, going.job.schedules[going.kind]
        if error is None:
            job.failures, job.not_before = 0, 0.0
            job.ran[going.kind] = going.started
            if schedule.cron is not None or job.dirty:
                self._save(job)
        else:
            self._drop()
            job.failures += 1
            job.not_before = time.time() + min(60.0, 0.5 * 2 ** min(job.failures, 8))
        self.log.finished(
            job.table.entity,
            going.kind,
            going.due,
            going.started,
            going.read,
            going.published,
            None if error is None else str(error),
            scheduled=schedule.cron is not None,
        )
        self.publisher.poll()
        self._mark(job)

    def _mark(self, job: Job) -> None:
        """Once everything has been read for the first time, creates need not wait for it any more."""
        marks, entity = self._seeding.marks(), job.table.entity
        if job.seen.ready and not marks.given(entity):
            marks.give(entity, "first reading")

    # Records and connection.

    def _open(self, entity: str, record: dict[str, Any], now: float) -> Job:
        schedules = self.schedules(entity)
        # Nightly runs are counted from the first start; a window that passes while nothing runs is made up for.
        ran = {kind: now for kind, schedule in schedules.items() if schedule.cron is not None}
        dirty = not record
        ran.update({kind: float(at) for kind, at in record.get("ran", {}).items() if kind in schedules})
        last = record.get("last", (0, 0))
        return Job(
            Table.of(self.context, self.system, entity),
            schedules,
            open_seen(self.context, self.system, entity),
            ran,
            record.get("watermark"),
            (int(last[0]), int(last[1])),
            dirty=dirty,
        )

    def _key(self, entity: str) -> str:
        return f"{self.record}/{self.system}/{entity}"

    def _save(self, job: Job) -> None:
        content = {"kind": self.record, "watermark": job.watermark, "last": list(job.last), "ran": job.ran}
        self.publisher.signal(self._key(job.table.entity), content)
        self.publisher.flush()
        job.dirty = False

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = open_source(self.context, self.system, self.purpose)
        return self._connection

    def _forget(self) -> None:
        for job in self._jobs.values():
            job.seen.close()
        self._jobs.clear()

    def _drop(self) -> None:
        self._pass = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def raw_digest(digest: bytes | None) -> bytes:
    """Read a digest that the server wrote in hexadecimal."""
    return bytes.fromhex((digest or b"").decode())
