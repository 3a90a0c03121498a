"""The Salesforce connector against its simulator: the contracts, in every mode of capture, with every way of signing in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from simulators.salesforce import SalesforceSimulator
from simulators.server import Running
from tests.contract.api_contract import ApiSubject, SourceContract, TargetContract
from tests.contract.salesforce_org import NAMES, SalesforceSubject


@pytest.fixture
def running() -> Iterator[Running]:
    options: dict[str, Any] = {"bulk_delay_s": "0.01"}
    with Running(SalesforceSimulator(**options)) as made:
        yield made


class Modes(SourceContract):
    """What every source does; subclasses say how changes are read."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    MANY: ClassVar[int] = 2100
    EMPTY: ClassVar[str] = "name"
    OPTIONS: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def subject(self, running: Running, tmp_path: Path) -> Iterator[ApiSubject]:
        """Return an org."""
        made = SalesforceSubject(running, tmp_path, **self.OPTIONS)
        yield made
        made.close()


class TestUpdated(Modes):
    """Changes by getUpdated and getDeleted."""


class TestQuery(Modes):
    """Changes by queries, first loads by a bulk job, signed in by an assertion."""

    OPTIONS: ClassVar[dict[str, Any]] = {"changes": "query", "load": "bulk", "grant": "jwt"}


class TestEvents(Modes):
    """Changes by events, signed in by client credentials."""

    OPTIONS: ClassVar[dict[str, Any]] = {"changes": "events", "grant": "client_credentials", "secret_in": "basic"}


class Writes(TargetContract):
    """What every target does."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    UNIQUE_EMAIL: ClassVar[bool] = True
    CREATE_CALLS: ClassVar[str] = "PATCH"
    CREATE_PATH: ClassVar[str] = "/Tidelock_Id__c$"
    OPTIONS: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def subject(self, running: Running, tmp_path: Path) -> Iterator[ApiSubject]:
        """Return an org in which e-mail addresses are unique."""
        made = SalesforceSubject(running, tmp_path, **self.OPTIONS)
        yield made
        made.close()


class TestCollections(Writes):
    """Writes by 200."""


class TestBulk(Writes):
    """Writes by bulk jobs, however few they are."""

    CREATE_PATH: ClassVar[str] = "/jobs/ingest/[^/]+$"
    OPTIONS: ClassVar[dict[str, Any]] = {"bulk_above": 0}
