"""Fixtures for tests that need servers: the embedded stack once per session, databases and topic names per test."""

from __future__ import annotations

import gc
import re
import secrets
from collections.abc import Callable, Iterator

import pytest

from tidelock.embedded import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run Kafka, registry and PostgreSQL in a temporary folder for the whole session."""
    servers = Stack(tmp_path_factory.mktemp("stack"), ephemeral=True)
    try:
        servers.start()
        yield servers
    finally:
        gc.collect()  # Kafka clients that only a cycle keeps (an exception's traceback) would dial the dead broker, and log it
        servers.remove()


@pytest.fixture
def database(stack: Stack) -> Iterator[Callable[[str], str]]:
    """Return a factory: it creates an empty database with a name like the one wished for, and returns its URI."""
    made: list[str] = []

    def create(like: str = "db") -> str:
        name = f"{re.sub(r'[^a-z0-9_]', '_', like.lower())[:40]}_{secrets.token_hex(4)}"
        uri = stack.postgres.create_database(name)
        made.append(name)
        return uri

    yield create
    for name in made:
        stack.postgres.drop_database(name)


@pytest.fixture
def topic_prefix() -> str:
    """Return a prefix for topics that no other test uses."""
    return f"t{secrets.token_hex(4)}."
