"""Offsets kept by a PostgreSQL destination, in the same transactions as the rows: the table, taking over, moving on.

A row per consumer group, topic and partition. ``epoch`` grows with every owner, so that one who lost the partition cannot commit any more;
``topic_id`` tells a topic made anew, whose offsets start again.
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

from sinks.base import Kept, Lost, Scope
from sinks.pgcatalog import Connection
from tidelock.errors import Fatal
from tidelock.pgtypes import array

TABLE = """
create schema if not exists tidelock;
create table if not exists tidelock.offsets (
    consumer text not null,
    topic text not null,
    topic_id text not null,
    partition integer not null,
    next_offset bigint not null default -1,
    since_offset bigint not null default -1,
    epoch bigint not null default 1,
    pending bytea not null default '',
    updated_at timestamptz not null default now(),
    primary key (consumer, topic, partition)
) with (fillfactor = 50);
alter table tidelock.offsets alter column pending set storage external;
"""
_THERE = "select to_regclass('tidelock.offsets') is not null"
_CLAIM = """
insert into tidelock.offsets as o (consumer, topic, topic_id, partition)
select %s, v.topic, v.topic_id, v.partition from unnest(%s::text[], %s::text[], %s::int[]) as v(topic, topic_id, partition)
order by v.topic, v.partition
on conflict (consumer, topic, partition) do update set
    epoch = o.epoch + 1,
    next_offset = case when o.topic_id = excluded.topic_id then o.next_offset else -1 end,
    since_offset = case when o.topic_id = excluded.topic_id then o.since_offset else -1 end,
    pending = case when o.topic_id = excluded.topic_id then o.pending else ''::bytea end,
    topic_id = excluded.topic_id
returning topic, partition, next_offset, since_offset, epoch, pending
"""
_MOVE = """
update tidelock.offsets o set next_offset = v.next, since_offset = v.since, pending = v.pending, updated_at = now()
from unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bigint[]) as v(topic, partition, next, since, pending, epoch)
where o.consumer = %s and o.topic = v.topic and o.partition = v.partition and o.epoch = v.epoch
"""


class Offsets:
    """The partitions of one worker in one destination."""

    def __init__(self, system: str) -> None:
        self._system = system
        self._consumer = ""
        self._epochs: dict[Scope, int] = {}

    def setup(self, db: Connection) -> None:
        """Create the table if it is missing. Raises Fatal with the SQL if that is not allowed."""
        row = db.execute(_THERE.encode()).fetchone()
        if row is not None and row[0]:
            return
        try:
            db.execute(TABLE.encode())
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject):
            return  # another worker made it at the same time
        except psycopg.errors.InsufficientPrivilege as error:
            user = db.info.user
            raise Fatal(
                f"system {self._system}: user {user} may not create the table tidelock.offsets, which keeps what has been written",
                hint=f"let the owner of the database run there:{TABLE}"
                f'GRANT USAGE ON SCHEMA tidelock TO "{user}"; GRANT SELECT, INSERT, UPDATE ON tidelock.offsets TO "{user}";',
            ) from error

    def claim(self, db: Connection, consumer: str, scopes: Mapping[Scope, str]) -> dict[Scope, Kept]:
        """Take partitions over and return what is known of each."""
        self._consumer = consumer
        self._epochs = {}
        out: dict[Scope, Kept] = {}
        ordered = sorted(scopes)
        values = ([t for t, _ in ordered], [scopes[s] for s in ordered], [p for _, p in ordered])
        for topic, partition, following, since, epoch, pending in db.execute(
            _CLAIM.encode(), (consumer, *values)
        ).fetchall():
            self._epochs[topic, partition] = epoch
            out[topic, partition] = Kept(following, since, bytes(pending))
        return out

    def move(self, db: Connection, kept: Mapping[Scope, Kept]) -> None:
        """Store where this transaction has come to. Raises Lost if a partition has another owner by now."""
        ordered = sorted(kept)
        pending = array([b"\\x" + kept[s].memo.hex().encode() for s in ordered]).decode()
        values = (
            [t for t, _ in ordered],
            [p for _, p in ordered],
            [kept[s].next for s in ordered],
            [kept[s].since for s in ordered],
            pending,
            [self._epochs.get(s, 0) for s in ordered],
        )
        if db.execute(_MOVE.encode(), (*values, self._consumer), prepare=True).rowcount != len(ordered):
            raise Lost(
                f"system {self._system}: another worker has taken over partitions of this one; nothing of this batch was written",
                hint="this passes by itself after a move; if it does not, two installations use the same prefix and destination",
            )
