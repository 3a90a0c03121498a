"""The connector of HubSpot against its simulator: the contracts, signed in either way, and its entry points."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from simulators.hubspot import HubSpotSimulator
from simulators.server import Running
from sinks.hubspot import HubSpotTarget
from sinks.target import Creation
from tests.contract.api_contract import ApiSubject, SourceContract, TargetContract
from tests.contract.hubspot_portal import NAMES, HubSpotSubject
from tidelock.apis.connecting import Connecting, query_of
from tidelock.apis.hubspot_access import SIGN_IN


@pytest.fixture
def running() -> Iterator[Running]:
    options: dict[str, Any] = {"burst": "0", "oauth_burst": "0", "daily": "0", "search_per_s": "0"}
    with Running(HubSpotSimulator(**options)) as made:
        yield made


class Sources(SourceContract):
    """What every source does; subclasses say how it signs in."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    MANY: ClassVar[int] = 450
    EMPTY: ClassVar[str] = "name"
    OPTIONS: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def subject(self, running: Running, tmp_path: Path) -> Iterator[ApiSubject]:
        """Return a portal."""
        made = HubSpotSubject(running, tmp_path, **self.OPTIONS)
        yield made
        made.close()


class TestSource(Sources):
    """By a private app's token."""


class TestSourceByOAuth(Sources):
    """By an app that somebody has connected, with first loads in parts."""

    OPTIONS: ClassVar[dict[str, Any]] = {"oauth": True, "load_in_parts_above": 0}


class TestSourceWithoutTheBin(Sources):
    """Deletes by a look at every id."""

    SEES_DELETES: ClassVar[bool] = False
    OPTIONS: ClassVar[dict[str, Any]] = {"bin_every_s": 1e12}


class TestTarget(TargetContract):
    """What every target does."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    CREATE_PATH: ClassVar[str] = "/batch/create"
    MARKS_OURS: ClassVar[bool] = False

    @pytest.fixture
    def subject(self, running: Running, tmp_path: Path) -> Iterator[ApiSubject]:
        """Return a portal."""
        made = HubSpotSubject(running, tmp_path)
        yield made
        made.close()


def test_it_is_found_by_its_entry_points() -> None:
    for group in ("tidelock.producers", "tidelock.sinks", "tidelock.apis"):
        (point,) = entry_points(group=group, name="hubspot")
        assert point.load() is not None


def test_a_person_connects_a_portal(running: Running, tmp_path: Path) -> None:
    """What `tidelock tenants connect` keeps is good for reading and writing."""
    subject = HubSpotSubject(running, tmp_path, oauth=True)
    signing = Connecting(subject.tenant, SIGN_IN, "http://localhost:8765/callback")
    back = httpx.get(signing.url)
    assert back.status_code == 302
    kept = signing.finish(query_of(back.headers["location"]))
    assert set(kept) == {"refresh_token"}
    connected = dataclasses.replace(subject.tenant, credentials={**subject.tenant.credentials, **kept})
    target = HubSpotTarget(subject.context, connected)
    assert "email" in target.columns(subject.table)
    (made,) = target.create(subject.table, [Creation("a-canonical-id", {"email": "a@example.com"})])
    assert made.error is None
    target.close()
    subject.close()
