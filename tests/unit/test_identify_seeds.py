"""Creates wait until everything a place held at the start has been looked at, are told of, and are then decided, once."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from processors import identity_seeds
from processors.identify import IdentifyStage
from processors.identity_seeds import Gate, Gates
from tests.unit.test_identify import PARTITIONS, Bench, Message, entry, first_id, of
from tidelock.change import position
from tidelock.envelopes import Entry

ONE = first_id("crm", "17")


@pytest.fixture
def bench() -> Bench:
    """Return a stage that has not seen the end of any seed."""
    return Bench(seeded=False)


def ask(cid: str = ONE, system: str = "erp", payload: bytes = b"a create") -> Entry:
    return Entry("create", cid, system, "default", payload=payload)


def marks(bench: Bench, system: str = "erp", partitions: int = PARTITIONS) -> list[Entry]:
    return [Entry("seeded", system=system, tenant="default", partition=p, offset=partitions) for p in range(partitions)]


def waiting(rows: list[Any]) -> list[tuple[bytes, int | None]]:
    """Return what is told of waiting creates: (key, how many)."""
    return [(r[1], None if r[2] is None else json.loads(r[2])["creates"]) for r in of(rows, "ops.signals")]


def test_a_new_record_may_not_be_created_where_the_seed_is_not_through(bench: Bench) -> None:
    (linked, *_) = bench.new("crm", "17", "ann@example.org")
    assert entry(linked).keys == ()
    bench.put(*marks(bench))
    (linked, *_) = bench.new("crm", "18", "bob@example.org")
    assert entry(linked).keys == ("erp/default",)


def test_a_create_waits_for_the_mark_of_every_partition_and_is_then_written_as_it_came(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    assert waiting(bench.put(ask())) == [(b"waiting/contact/erp/default", 1)]
    *most, last = marks(bench)
    assert bench.put(*most, *most) == []
    rows = bench.put(last)
    assert of(rows, "sync.erp.contact") == [("sync.erp.contact", ONE.encode(), b"a create", -1, None)]
    assert waiting(rows) == [(b"waiting/contact/erp/default", None)]
    assert bench.put(*marks(bench)) == []


def test_a_record_that_the_seed_finds_there_is_linked_and_never_created(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.put(ask())
    rows = bench.new("erp", "900", "ann@example.org")
    assert [(r[0], entry(r).kind, r[1]) for r in of(rows, "journal.contact")] == [
        ("journal.contact", "linked", ONE.encode()),
        ("journal.contact", "no_create", ONE.encode()),
    ]
    assert entry(of(rows, "journal.contact")[1]).payload == b"a create"
    assert waiting(rows) == [(b"waiting/contact/erp/default", None)]
    assert bench.put(*marks(bench)) == []


def test_of_two_creates_of_one_record_only_the_newer_waits(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    assert waiting(bench.put(ask(payload=b"old"), ask(payload=b"new"))) == [(b"waiting/contact/erp/default", 1)]
    assert [r[2] for r in of(bench.put(*marks(bench)), "sync.erp.contact")] == [b"new"]


def test_a_record_that_died_while_its_create_waited_is_not_created(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.put(ask(), Entry("left", ONE, "crm", "default", "17", position(9)), Entry("dying", ONE))
    rows = bench.put(*marks(bench))
    assert not of(rows, "sync.erp.contact")
    assert [entry(r).kind for r in of(rows, "journal.contact")] == ["no_create"]


def test_many_that_waited_are_decided_in_portions_in_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_seeds, "PORTION", 2)
    ids = [first_id("crm", str(k)) for k in range(5)]
    for k in range(5):
        bench.new("crm", str(k), f"{k}@example.org")
    bench.put(*(ask(cid, payload=cid.encode()) for cid in ids))
    rows = bench.put(*marks(bench))
    written: list[bytes] = []
    told: list[int | None] = []
    portions = 0
    while rows:
        portions += 1
        written += [r[2] for r in of(rows, "sync.erp.contact")]
        told += [n for _, n in waiting(rows)]
        again = [entry(r) for r in of(rows, "identity.contact")]
        assert {e.kind for e in again} <= {"drain"}
        rows = bench.put(*again) if again else []
    assert written == [cid.encode() for cid in ids]
    assert portions == 3
    assert told == [3, 1, None]
    assert not [k for k in bench.state.stored if k[:2] in (b"c:", b"C:")]
    assert bench.put(Entry("drain", system="erp", tenant="default")) == []


def test_a_stray_portion_does_not_open_a_place(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.put(ask())
    assert bench.put(Entry("drain", system="erp", tenant="default")) == []
    assert [r[2] for r in of(bench.put(*marks(bench)), "sync.erp.contact")] == [b"a create"]


def test_marks_for_fewer_partitions_than_there_are_now_open_nothing(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.put(ask())
    grown = marks(bench, partitions=2 * PARTITIONS)
    assert bench.put(*grown[:3], *marks(bench)) == []
    assert [r[0] for r in bench.put(*grown)] == ["sync.erp.contact", "ops.signals"]


def test_one_place_does_not_wait_for_another_and_one_that_is_gone_is_passed_over(bench: Bench) -> None:
    bench.put(*marks(bench, "crm"))
    assert bench.put(*marks(bench, "legacy")) == []
    (linked, *_) = bench.new("erp", "900", "ann@example.org")
    assert entry(linked).keys == ("crm/default",)


def test_an_aborted_batch_and_a_restart_in_the_middle_change_nothing(bench: Bench) -> None:
    bench.new("crm", "17", "ann@example.org")
    bench.put(ask())
    *most, last = marks(bench)
    bench.put(*most)
    whole = bench.put(last)
    other = Bench(seeded=False)
    other.new("crm", "17", "ann@example.org")
    other.put(ask())
    for e in most:
        other.put(e)
    other.stage.process(cast("Any", [Message(other.header + last.encode())]), other.state)
    other.state.new = {}
    other.stage = IdentifyStage(other.context, other.plans)
    assert [r[:4] for r in other.put(last)] == [r[:4] for r in whole]


def test_a_gate_comes_back_as_it_was() -> None:
    for gate in (Gate(), Gate(True, 12, 0xFFF, 3, 70_000, 5), Gate(False, 300, 1 << 299, 0, 1, 1)):
        assert Gate.decode(gate.encode()) == gate


def test_open_gates_cost_one_look_per_place_and_batch() -> None:
    class Rows(dict[bytes, bytes]):
        looks = 0

        def get(self, key: bytes, default: Any = None) -> Any:
            self.looks += 1
            return super().get(key, default)

    rows = Rows({b"d:a/t": Gate(open=True).encode(), b"d:b/t": Gate(open=True).encode()})
    gates = Gates(frozenset({"a/t", "b/t"}), rows, None)  # type: ignore[arg-type]
    places = ("a/t", "b/t")
    assert all(gates.opened(places) is places for _ in range(1000))
    assert all(gates.open(p) and gates.take_back(f"{n}", p) is None for n in range(1000) for p in places)
    assert rows.looks == 2
