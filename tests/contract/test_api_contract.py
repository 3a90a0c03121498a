"""The contracts of API connectors against a vendor in memory, and what the frames around a target do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from producers.apirows import wanted
from producers.source import Source, Task
from sinks.base import Sink
from sinks.target import Result
from tests.contract.api_contract import ApiSubject, SourceContract, TargetContract
from tests.sinking import ENTITIES, SYSTEM
from tests.vendor import COLUMNS, OFFICES, Office, VendorSink, VendorSource, VendorTarget
from tidelock.change import position
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import APPLIED, REJECTED
from tidelock.errors import Fatal, Lost, Reject, Retry
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry

NOWHERE = "http://127.0.0.1:9"
TOKEN = "t0ken-of-the-vendor"
TABLE = {
    "table": "people",
    "key": ["id"],
    "canonical_id": "tidelock_id",
    "map": [{"column": c, "field": c} for c in ("email", "name")],
}


def context_of(data: Path, **system: Any) -> Context:
    """Return the surroundings of a sink or source that needs no Kafka."""
    config = Config.model_validate(
        {
            "data": str(data),
            "systems": {
                SYSTEM: {
                    "kind": "vendor",
                    "capture": "vendor",
                    "options": {"delete_wait_s": 0},
                    "entities": {"contact": TABLE},
                    **system,
                },
                "crm": {"capture": "replication", "entities": {"contact": {"table": "contact", "map": TABLE["map"]}}},
            },
            "entities": ENTITIES,
            "flows": [{"entity": "contact", "from": "crm", "to": SYSTEM}],
        }
    )
    return Context(config, KafkaClients("127.0.0.1:9"), Codec(Registry(NOWHERE)), f"sink.{SYSTEM}")


class Memory:
    """The vendor in memory as a subject of both contracts."""

    def __init__(self, data: Path) -> None:
        self.office = OFFICES[SYSTEM, "default"] = Office()
        self.context = context_of(data, credentials={"token": TOKEN})
        self.context.access.central = self.context.access.tenants.central = None  # the tenant is the file's
        self.tenant = self.context.access.tenants.get(SYSTEM, "default")

    def sink(self) -> Sink:
        """Make a sink."""
        return VendorSink(self.context, SYSTEM)

    def source(self) -> Source:
        """Make a source."""
        return VendorSource(self.context, self.tenant)

    def task(self, source: Source) -> Task:
        """Return the task."""
        table = self.context.config.systems[SYSTEM].entities["contact"]
        columns = source.columns(table)
        return Task("contact", table, {n: columns[n] for n in wanted(table)})

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands there."""
        return {
            k: {"email": r.values["email"], "name": r.values["name"]}
            for k, r in self.office.rows.items()
            if not r.deleted
        }

    def interrupted(self) -> Callable[[], None]:
        """Take the system down."""
        self.office.down = True

        def restore() -> None:
            self.office.down = False

        return restore

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Make records."""
        return [self.office.create(dict(p)) for p in people]

    def edit_there(self, key: str, **values: Any) -> None:
        """Change a record."""
        self.office.edit(key, values)

    def delete_there(self, key: str) -> None:
        """Delete a record."""
        self.office.delete(key)

    def settle(self) -> None:
        """Nothing has to settle in memory."""

    def fault(self, **fault: Any) -> None:
        """Lose answers."""
        assert fault["kind"] == "lost"
        self.office.lose = int(fault["times"])

    def revoke(self) -> None:
        """Take the key away."""
        self.office.revoked = True


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    made = Memory(tmp_path)
    yield made
    made.context.access.close()
    OFFICES.clear()


class TestSource(SourceContract):
    """The source in memory."""

    @pytest.fixture
    def subject(self, memory: Memory) -> ApiSubject:
        """Return the vendor."""
        return memory


class TestTarget(TargetContract):
    """The target in memory."""

    @pytest.fixture
    def subject(self, memory: Memory) -> ApiSubject:
        """Return the vendor."""
        return memory

    def test_an_edit_between_the_look_and_the_write_is_seen_by_the_version(self, sink: Sink, memory: Memory) -> None:
        (key,) = self.created(sink, "a")
        memory.office.between = lambda: memory.office.edit(key, {"name": "Theirs"})
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("Ours", "a"))])
        assert (receipt.outcome, receipt.refused) == (APPLIED, ("name",))
        assert memory.rows()[key]["name"] == "Theirs"

    def test_a_record_that_changes_at_every_look_is_given_up_and_said_to_be(self, sink: Sink, memory: Memory) -> None:
        (key,) = self.created(sink, "a")

        def again() -> None:
            memory.office.edit(key, {"email": "restless@example.com"})
            memory.office.between = again

        memory.office.between = again
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("Ours", "a"))])
        assert (receipt.outcome, receipt.kind) == (REJECTED, "contention")

    def test_values_are_told_as_they_were_spelt_only_where_nobody_has_written_since(
        self, sink: Sink, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (key,) = self.created(sink, "a")
        shouting = memory.office.edit

        def edit(key: str, values: dict[str, Any], *, ours: bool = False) -> None:
            shouting(key, {n: v.upper() for n, v in values.items()}, ours=ours)

        monkeypatch.setattr(memory.office, "edit", edit)
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, name=("Ours", "a"))])
        assert receipt.values == {"name": b"\x02\x08OURS"}

    def test_what_a_vendor_says_of_a_record_is_told_without_what_it_was_signed_in_with(
        self, sink: Sink, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quoted = Result(error=Reject(f"sent with {TOKEN}", kind="wrong"))
        monkeypatch.setattr(VendorTarget, "create", lambda _self, _table, items: [quoted for _ in items])
        (receipt,) = self.done(sink, [self.write("a", "create", email="a@example.com", name="A")])
        assert (receipt.outcome, receipt.message) == (REJECTED, "sent with ***")

        def broken(*_: object) -> None:
            raise Retry(f"broken by {TOKEN}", hint="tried again by itself")

        monkeypatch.setattr(VendorTarget, "create", broken)
        with pytest.raises(Retry, match=r"broken by \*\*\*"):
            self.done(sink, [self.write("b", "create", email="b@example.com", name="B")])

    def test_an_edit_behind_a_create_whose_answer_was_lost_is_no_spelling_of_ours(
        self, sink: Sink, memory: Memory
    ) -> None:
        memory.office.lose = 1
        create = self.write("a", "create", email="a@example.com", name="a")
        with pytest.raises(Lost):
            self.done(sink, [create])
        (key,) = memory.office.rows
        memory.office.edit(key, {"name": "Theirs"})
        (receipt,) = self.done(sink, [create])
        assert (receipt.outcome, receipt.native_key, receipt.values) == (APPLIED, key, {})
        assert receipt.position == position(memory.office.rows[key].version, 0), (
            "their edit is captured there, and judged as one"
        )
        assert memory.rows()[key]["name"] == "Theirs"

    def test_a_column_that_is_made_later_is_found_without_a_restart(
        self, sink: Sink, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (key,) = self.created(sink, "a")
        sink.close()
        known = dict(COLUMNS)
        monkeypatch.delitem(COLUMNS, "name")
        rename = [self.write("a", "update", key, 2, name=("Ours", "a"))]
        with pytest.raises(Fatal, match="no property name"):
            self.done(sink, rename)
        COLUMNS.update(known)
        (receipt,) = self.done(sink, rename)
        assert (receipt.outcome, receipt.refused) == (APPLIED, ())
