"""Capture by last-modified time: a table or view is asked for what changed since the newest value that it showed itself.

Every reading asks for ``modified >= watermark``, never ``>``: rows that share the newest timestamp may come in several readings.
What is read again is compared with the digest of what was published, and only differences leave; so re-reading is cheap for
everybody behind, and at rest nothing is written. Rows come by a cursor in one snapshot, sorted by (modified, key): any number
of rows may share a timestamp, and a run that breaks off goes on at the last watermark that Kafka acknowledged.

A row that becomes visible late with an older value (its transaction took long) is behind the watermark: a nightly reading goes
back `TableSpec.overlap_s` from it. Deletes leave no modified time; ``options.find_deletes`` (a cron expression) compares all keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from producers.columns import ENCODERS
from producers.periodic import FETCH_KEYS, Job, Pass, PeriodicProducer
from producers.rows import compose_key
from producers.schedule import Schedule
from producers.select import Connection, Row, Table, declare, fetch, quote, rows_of, run
from tidelock.avro import FieldType, decode_long
from tidelock.errors import Fatal
from tidelock.pgtypes import TYPES

_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")


class PollingProducer(PeriodicProducer):
    """Capture a system by last-modified time."""

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return the runs of an entity: polls, the nightly overlap, and the search for deletes if it is wanted."""
        spec, where = self.spec.entities[entity], f"entity {entity} of system {self.system}"
        out = {
            "poll": Schedule(spec.schedule, spec.every_s, self.zone, what=where),
            "overlap": Schedule(spec.overlap_schedule, 0.0, self.zone, what=where),
        }
        deletes = self.spec.options.get("find_deletes")
        if deletes:
            out["deletes"] = Schedule(
                str(deletes), 0.0, self.zone, what=f"options.find_deletes of system {self.system}"
            )
        return out

    def check(self, job: Job) -> None:
        """Check that there is a last-modified column. Raises Fatal."""
        if job.table.spec.modified is None:
            raise Fatal(
                f"entity {job.table.entity} of system {self.system} is polled, but has no last-modified column",
                hint="set `modified` to the column that the system sets on every change, or `capture: rowhash` without one",
            )
        job.table.type_of(job.table.spec.modified)

    def pages(self, connection: Connection, going: Pass) -> Iterator[int]:
        """Read one poll, overlap or comparison of keys."""
        if going.kind == "deletes":
            yield from self._deletes(connection, going)
            return
        job, table = going.job, going.job.table
        first = job.watermark is None
        modified = quote(str(table.spec.modified))
        kind = table.type_of(str(table.spec.modified))
        low, parameters = self._low(job, kind, overlap=going.kind == "overlap")
        fresh = "true" if first else f"t.{modified} >= %s::{kind}"
        query = (
            f"select {table.columns_sql}, {self.digest(table)}, t.{modified}, {fresh} from {table.sql_name} t "
            f"where {table.condition} and {low} order by t.{modified}, {table.key_sql}"
        )
        declare(connection, "tidelock_poll", query, [*([] if first else [job.watermark]), *parameters])
        while rows := fetch(connection, "tidelock_poll", self.spec.batch):
            count = self.changed(going, [r[:-2] for r in rows])
            at = rows[-1][-2]
            if rows[-1][-1] == b"t" and at is not None and at.decode() != job.watermark:
                job.watermark, job.dirty = at.decode(), True
                if len(rows) == self.spec.batch:  # more to come: a crash need not read this page again
                    self._save(job)
            yield count
        if first or going.kind == "overlap":
            yield from self._never_modified(connection, going, modified)
            job.seen.set_ready()

    def first_watermark(self, connection: Connection, table: Table) -> str | None:
        """Return the newest value there is."""
        query = f"select max(t.{quote(str(table.spec.modified))}) from {table.sql_name} t where {table.condition}"
        newest = rows_of(run(connection, query, prepare=False))[0][0]
        return None if newest is None else newest.decode()

    def time_of(self, table: Table, row: Row, otherwise: int) -> int:
        """Return the last-modified time, if it is one."""
        at = next(i for i, c in enumerate(table.source) if c.name == table.spec.modified)
        kind, text = TYPES.get(table.source[at].oid), row[at]
        if text is None or kind not in (FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP):
            return otherwise
        return decode_long(ENCODERS[kind](text), 1)[0]

    def _low(self, job: Job, kind: str, *, overlap: bool) -> tuple[str, list[object]]:
        """Return where a reading starts, as a condition with its parameters."""
        if job.watermark is None:
            return f"t.{quote(str(job.table.spec.modified))} is not null", []
        modified = quote(str(job.table.spec.modified))
        back_s = job.table.spec.overlap_s if overlap else float(self.spec.options.get("margin_s", 0.0))
        if not back_s:
            return f"t.{modified} >= %s::{kind}", [job.watermark]
        if kind in _TIMES:
            return f"t.{modified} >= %s::{kind} - make_interval(secs => %s)", [job.watermark, back_s]
        # A version number has no length in seconds: the insurance is then to read everything.
        return ("true", []) if overlap else (f"t.{modified} >= %s::{kind}", [job.watermark])

    def _never_modified(self, connection: Connection, going: Pass, modified: str) -> Iterator[int]:
        table = going.job.table
        query = (
            f"select {table.columns_sql}, {self.digest(table)} from {table.sql_name} t "
            f"where {table.condition} and t.{modified} is null order by {table.key_sql}"
        )
        declare(connection, "tidelock_null", query)
        while rows := fetch(connection, "tidelock_null", self.spec.batch):
            yield self.changed(going, rows)

    def _deletes(self, connection: Connection, going: Pass) -> Iterator[int]:
        """Compare all keys with those that were published: what is not there any more was deleted."""
        job, table = going.job, going.job.table
        job.seen.begin_sweep()
        declare(connection, "tidelock_keys", f"select {table.key_sql} from {table.sql_name} t where {table.condition}")
        while rows := fetch(connection, "tidelock_keys", FETCH_KEYS):
            going.read += len(rows)
            keys = [compose_key(tuple(row)) for row in rows]
            for value in job.seen.values(keys):
                if value is not None:
                    job.seen.mark(value)
            yield 0
        yield from self.publish_deletes(going)
