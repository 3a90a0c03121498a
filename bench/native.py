"""PostgreSQL's own logical replication: the practical limit. It only copies; there is nothing between the two tables."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import psycopg
from psycopg import sql

from bench.contestant import Contestant
from bench.machine import Memory, memory, own_cpu_s

_SLOT = "bench_native"


class Native(Contestant):
    """A publication and a subscription between two databases of one server."""

    name: ClassVar[str] = "native"

    def start(self) -> None:
        """Publish and subscribe.

        On one server `create subscription` would wait for the slot it makes itself, and that one for the transaction it
        stands in: so the slot is made first, by function.
        """
        with psycopg.connect(self.scene.source, autocommit=True) as source:
            source.execute("create publication bench_native for table contact")
            source.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [_SLOT])
        statement = sql.SQL(
            "create subscription bench_native connection {} publication bench_native"
            " with (create_slot = false, slot_name = {}, copy_data = false)"
        ).format(sql.Literal(self.scene.source), sql.Literal(_SLOT))
        with psycopg.connect(self.scene.target, autocommit=True) as target:
            target.execute(statement)

    def stop(self) -> None:
        """Drop the subscription; the slot goes with the database."""
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.scene.target, autocommit=True) as target:
            target.execute("alter subscription bench_native disable")
            target.execute("alter subscription bench_native set (slot_name = none)")
            target.execute("drop subscription bench_native")

    def check(self) -> None:
        """Do nothing: the server starts its workers again by itself, and a stall is noticed by who waits."""

    def cpu_s(self) -> float:
        """Return the CPU seconds of the two server processes that do the work: WAL sender and apply worker."""
        return own_cpu_s(self._pids().values())

    def memory(self) -> dict[str, Memory]:
        """Return the memory of these two."""
        return {name: found for name, pid in self._pids().items() if (found := memory(pid)) is not None}

    def _pids(self) -> dict[str, int]:
        with psycopg.connect(self.scene.target, autocommit=True) as target:
            rows = target.execute(
                "select 'apply', pid from pg_stat_subscription where subname = 'bench_native' and pid is not null"
                " union all select 'walsender', active_pid from pg_replication_slots"
                " where slot_name = %s and active_pid is not null",
                [_SLOT],
            ).fetchall()
        return {str(name): int(pid) for name, pid in rows}
