"""Our own sinks against the contract of all sinks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sinks.base import Sink
from sinks.postgres import PostgresSink
from sinks.store import StoreSink
from tests.contract.sink_contract import SinkContract
from tests.sinking import SYSTEM, TABLES, config_of
from tidelock.codec import Codec
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry

pytestmark = pytest.mark.stack


class Database:
    """A database of PostgreSQL as the destination."""

    def __init__(self, stack: Stack, dsn: str, data: Path, capture: str, kind: str) -> None:
        ends = stack.endpoints()
        self._dsn = dsn
        self._made: list[Sink] = []
        table = {"table": "contact", "map": [{"column": c, "field": c} for c in ("email", "name")]}
        config = config_of(dsn, capture, data=data, kind=kind, entities={"contact": table})
        self._context = Context(config, KafkaClients(ends.kafka), Codec(Registry(ends.registry)), f"sink.{SYSTEM}")
        self._make = StoreSink if kind == "store" else PostgresSink
        self._key = "canonical_id" if kind == "store" else "id"
        if kind != "store":
            with psycopg.connect(dsn, autocommit=True) as db:
                db.execute(TABLES.encode())

    def sink(self) -> Sink:
        """Make a sink."""
        return self._make(self._context, SYSTEM)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands there."""
        with psycopg.connect(self._dsn, autocommit=True) as db:
            found = db.execute(f"select {self._key}::text, email, name from contact".encode()).fetchall()
        return {key: {"email": email, "name": name} for key, email, name in found}

    def interrupted(self) -> Callable[[], None]:
        """Close the database to everybody."""
        server, _, name = self._dsn.rpartition("/")

        def run(allow: bool) -> None:
            with psycopg.connect(f"{server}/postgres", autocommit=True) as db:
                db.execute(f'alter database "{name}" allow_connections {str(allow).lower()}'.encode())
                db.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))

        run(False)
        return lambda: run(True)


class TestPostgres(SinkContract):
    """PostgreSQL, captured in every way."""

    @pytest.fixture(params=["none", "polling", "replication"])
    def subject(
        self, stack: Stack, database: Callable[[str], str], tmp_path: Path, request: pytest.FixtureRequest
    ) -> Database:
        """Return the destination."""
        return Database(stack, database("contract"), tmp_path, request.param, "postgres")


class TestStore(SinkContract):
    """The central data store."""

    @pytest.fixture
    def subject(self, stack: Stack, database: Callable[[str], str], tmp_path: Path) -> Database:
        """Return the destination."""
        return Database(stack, database("contract"), tmp_path, "none", "store")
