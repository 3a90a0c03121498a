"""The connector of Dynamics 365 against its simulator: the contracts, delta links that have expired, batches, duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from producers.dynamics import DynamicsSource
from producers.source import Source
from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from sinks.base import Sink
from sinks.dynamics import DynamicsSink
from tests.contract.api_contract import ApiSubject, SourceContract, TargetContract, drain
from tests.contract.simulated import Simulated
from tidelock.envelopes import APPLIED, REJECTED

NAMES = {"email": "emailaddress1", "name": "firstname"}
TABLE = {
    "table": "contact",
    "key": ["contactid"],
    "canonical_id": "td_tidelockid",
    "map": [{"column": "emailaddress1", "field": "email"}, {"column": "firstname", "field": "name"}],
}


class DynamicsSubject(Simulated):
    """A simulated environment."""

    kind = "dynamics"
    make_source = DynamicsSource
    make_sink = DynamicsSink

    def __init__(self, running: Running, data: Path, **options: Any) -> None:
        given = running.ready["credentials"]
        credentials = {n: given[n] for n in ("tenant", "client_id", "client_secret")}
        options = {"token_url": running.http + given["token_path"], "page": 100, **options}
        super().__init__(running, data, TABLE, credentials, options=options)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands there."""
        return {
            r["contactid"]: {"email": r.get("emailaddress1"), "name": r.get("firstname")}
            for r in self.held("contact")
            if not r.get("@deleted")
        }

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Make contacts."""
        return self.load("contact", [{"lastname": "Person", **_own(p)} for p in people])

    def edit_there(self, key: str, **values: Any) -> None:
        """Change a contact."""
        got = self.control.post("/edit/contact", json=[{"id": key, **_own(values)}])
        assert got.status_code == 200, got.text

    def delete_there(self, key: str) -> None:
        """Delete a contact."""
        got = self.control.post("/delete/contact", json=[key])
        assert got.status_code == 200, got.text

    def settle(self) -> None:
        """What is written is told by the next delta."""

    def revoke(self) -> None:
        """Let the secret be refused for good."""
        self.fault(kind="revoke", times=None)


def _own(values: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(n, n): v for n, v in values.items()}


@pytest.fixture
def dynamics(tmp_path: Path) -> Iterator[DynamicsSubject]:
    with Running(DynamicsSimulator()) as running:
        subject = DynamicsSubject(running, tmp_path)
        yield subject
        subject.close()


class TestSource(SourceContract):
    """What every source does."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    MANY: ClassVar[int] = 230
    READS_ALL_FIRST: ClassVar[bool] = True

    @pytest.fixture
    def subject(self, dynamics: DynamicsSubject) -> ApiSubject:
        """Return the environment."""
        return dynamics

    def test_an_expired_delta_link_leads_to_a_reading_of_everything_that_shows_what_was_deleted(
        self, source: Source, dynamics: DynamicsSubject
    ) -> None:
        """S16: seven days of silence."""
        a, b = dynamics.create_there([{"email": "a@example.com", "name": "A"}, {"email": "b@example.com", "name": "B"}])
        task, cursor = self.begin(dynamics, source)
        dynamics.delete_there(a)
        dynamics.edit_there(b, name="B2")
        dynamics.advance(8 * 86_400)
        records, cursor, pages = drain(source.run(task, "poll", cursor))
        assert all(p.whole for p in pages)
        assert [(r.key, r.values["firstname"]) for r in records] == [(b, "B2")]
        (gone,) = source.read(task, [a])
        assert gone.deleted
        assert gone.version > records[0].version
        assert drain(source.run(task, "poll", cursor))[0] == []

    def test_a_row_that_was_made_and_deleted_between_two_polls_is_told_as_deleted(
        self, source: Source, dynamics: DynamicsSubject
    ) -> None:
        """S4."""
        task, cursor = self.begin(dynamics, source)
        (key,) = dynamics.create_there([{"email": "brief@example.com", "name": "Brief"}])
        dynamics.delete_there(key)
        records, _, _ = drain(source.run(task, "poll", cursor))
        assert [(r.key, r.deleted) for r in records] == [(key, True)]


class TestTarget(TargetContract):
    """What every target does."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    UNIQUE_EMAIL: ClassVar[bool] = False
    CREATE_PATH: ClassVar[str] = "batch"
    BAD: ClassVar[dict[str, Any]] = {"name": "x" * 200}

    def write(self, who: object, op: str = "update", key: object = None, version: int = 1, /, **columns: Any) -> Any:
        """Make a write; a contact has to have a last name."""
        more = {"lastname": "Person"} if op == "create" else {}
        return super().write(who, op, key, version, **columns, **more)

    @pytest.fixture
    def subject(self, dynamics: DynamicsSubject) -> ApiSubject:
        """Return the environment."""
        return dynamics

    def test_an_edit_between_the_look_and_the_write_is_seen_by_the_version(
        self, sink: Sink, dynamics: DynamicsSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (key,) = self.created(sink, "a")
        from sinks.dynamics import DynamicsTarget

        read, once = DynamicsTarget.read, [1]

        def meddling(self: DynamicsTarget, *args: Any) -> Any:
            found = read(self, *args)
            if once:
                once.clear()
                dynamics.edit_there(key, name="Theirs")
            return found

        monkeypatch.setattr(DynamicsTarget, "read", meddling)
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("Ours", "a"))])
        assert (receipt.outcome, receipt.refused) == (APPLIED, ("firstname",))
        assert dynamics.rows()[key]["name"] == "Theirs"

    def test_two_contacts_may_share_an_address_there(self, sink: Sink, dynamics: DynamicsSubject) -> None:
        """S25: Dynamics does not mind, and a write touches the one it names."""
        one, two = dynamics.create_there(
            [{"email": "both@example.com", "name": "One"}, {"email": "both@example.com", "name": "Two"}]
        )
        self.done(sink, [self.write("a", "update", one, 2, name=("Uno", "One"))])
        assert dynamics.rows() == {
            one: {"email": "both@example.com", "name": "Uno"},
            two: {"email": "both@example.com", "name": "Two"},
        }

    def test_service_protection_is_waited_out(self, sink: Sink, dynamics: DynamicsSubject) -> None:
        (key,) = self.created(sink, "a")
        dynamics.fault(kind="limit_requests", times=1, retry_after_s=1)
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("A2", "a"))])
        assert receipt.outcome == APPLIED

    def test_a_text_that_is_too_long_is_refused_with_its_column(self, sink: Sink) -> None:
        (key,) = self.created(sink, "a")
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("x" * 200, "a"))])
        assert (receipt.outcome, receipt.kind, receipt.refused) == (REJECTED, "too_long", ("firstname",))
