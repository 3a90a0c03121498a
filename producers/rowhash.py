"""Capture of last resort: the whole table is compared by digests of its rows, and only real differences are published.

A run reads (key, digest) of every row in one snapshot, the digest made by the server, so that unchanged rows do not travel; then,
in the same snapshot, the rows whose digest is another one. What was seen before and is not met is a delete.

Where we also write to the table, a digest of values alone would miss a user who sets our value back between two runs: the row
would look as it did at the last run. There the digest also has the row's ``xmin``, so that every touched row is looked at by
merge; a view has none, and `polling` or `outbox` is the way for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from producers.periodic import FETCH_KEYS, Pass, PeriodicProducer, raw_digest
from producers.rows import compose_key
from producers.schedule import Schedule
from producers.select import Connection, Table, declare, fetch
from tidelock.errors import Reject


class RowhashProducer(PeriodicProducer):
    """Capture a system by comparing whole tables."""

    record = "rowhash"
    purpose = "comparison"

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return the runs of an entity: whole comparisons."""
        spec = self.spec.entities[entity]
        where = f"entity {entity} of system {self.system}"
        return {"scan": Schedule(spec.schedule, spec.every_s, self.zone, what=where)}

    def digest(self, table: Table) -> str:
        """Return the digest, which knows of touched rows where we write too."""
        written = any(f.entity == table.entity and self.system in f.to for f in self.context.config.flows)
        return table.digest_sql(touched=written)

    def pages(self, connection: Connection, going: Pass) -> Iterator[int]:
        """Read one whole comparison."""
        job, table = going.job, going.job.table
        twice = 0
        job.seen.begin_sweep()
        declare(
            connection,
            "tidelock_scan",
            f"select {table.key_sql}, {self.digest(table)} from {table.sql_name} t where {table.condition}",
        )
        while rows := fetch(connection, "tidelock_scan", FETCH_KEYS):
            going.read += len(rows)
            digests: dict[bytes, bytes] = {}
            for *parts, digest in rows:
                try:
                    key = compose_key(tuple(parts))
                except Reject as error:
                    self.publisher.alert(
                        error.kind,
                        table.entity,
                        table.spec.table,
                        f"{table.spec.table} of {self.system} has rows without a key",
                        error.hint or "",
                    )
                    continue
                twice += key in digests
                digests[key] = raw_digest(digest)
            differing: list[bytes] = []
            for key, value in zip(digests, job.seen.values(list(digests)), strict=True):
                if value is not None and job.seen.mark(value):
                    twice += 1
                elif value is None or value[:16] != digests[key]:
                    differing.append(key)
            for at in range(0, len(differing), self.spec.batch):
                part = [key.decode() for key in differing[at : at + self.spec.batch]]
                found = table.by_key(connection, part, self.digest(table))
                going.read -= len(found)  # they are counted above
                yield self.changed(going, found)
            if not differing:
                yield 0
        if twice:
            self.publisher.alert(
                "duplicate_key",
                table.entity,
                table.spec.table,
                f"{twice} keys of {table.spec.table} of {self.system} stand there more than once; which row counts is chance",
                f"`key` of entity {table.entity} must tell rows apart: add a column to it, or correct the view",
            )
        yield from self.publish_deletes(going)
        job.seen.set_ready()
