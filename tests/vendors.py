"""An installation on the real stack between a database and a simulated vendor, for integration tests."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg

from simulators.server import Running
from tests.tenants import Hub
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack


class VendorHub(Hub):
    """The real workers, stepped by turns, with a connection to the database and one to the simulator's control API."""

    def __init__(self, stack: Stack, config: Config, running: Running, dsn: str) -> None:
        self._contexts: list[Context] = []
        super().__init__(stack, config)
        self.control = httpx.Client(base_url=f"{running.http}/_control", timeout=60.0)
        self.db = psycopg.connect(dsn, autocommit=True)

    def _context(self, role: str) -> Context:
        made = super()._context(role)
        self._contexts.append(made)
        return made

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run SQL in the database."""
        cursor = self.db.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def post(self, path: str, body: Any) -> Any:
        """Act at the vendor as a person."""
        got = self.control.post(path, json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def close(self) -> None:
        """Stop everything."""
        super().close()
        for context in self._contexts:
            context.close_access()
        self.control.close()
        self.db.close()
