"""Writes to several tenants: whoever is down, slow, full or switched off holds up nobody else (sinks.circuits, sinks.lanes)."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sinks.circuits import BUSY, OFF, REVOKED, WAITS, Circuit, Trouble
from sinks.lanes import Lane, Lanes
from sinks.packs import Fate
from sinks.plan import Item, Planner
from tests.patience import DEADLINE_S
from tests.sinking import config_of, encoded, write
from tidelock.envelopes import APPLIED, REJECTED, TENANT_OFF, TENANT_WAITS, Receipt, Write
from tidelock.errors import Fatal, Lost, Reject, Retry, Revoked, SwitchedOff
from tidelock.topics import Topics

# ------------------------------------------------------------------------------------------------------- circuits


def test_failing_writes_are_held_for_a_while_and_then_answered() -> None:
    circuit, now = Circuit(hold_s=5.0), 100.0
    while not circuit.failed(Retry("down"), now):
        assert circuit.trouble is None
        assert now < circuit.until <= now + 1.0
        now = circuit.until
    assert 104.0 < now <= 105.0
    assert circuit.trouble == Trouble(WAITS, "down")


def test_an_open_circuit_is_tried_more_and_more_rarely_until_a_write_passes() -> None:
    circuit, now, pauses = Circuit(hold_s=0.0), 0.0, []
    for _ in range(6):
        assert circuit.failed(Retry("down"), now)
        pauses.append(circuit.until - now)
        now = circuit.until
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert circuit.passed()
    assert (circuit.trouble, circuit.until) == (None, 0.0)
    assert not circuit.passed(), "only the end of an outage is told"
    assert circuit.failed(Retry("down"), now)
    assert circuit.until - now == 5.0


def test_what_recovers_within_the_hold_was_no_outage() -> None:
    circuit = Circuit(hold_s=5.0)
    assert not circuit.failed(Retry("busy"), 10.0)
    assert not circuit.passed()
    assert not circuit.failed(Retry("busy"), 20.0), "the next one has all of its time again"


def test_what_may_have_happened_is_not_repeated_at_once() -> None:
    circuit = Circuit(hold_s=5.0)
    assert not circuit.failed(Lost("the answer was lost"), 10.0)
    assert circuit.until == 11.0


def test_a_tenant_that_asks_for_a_longer_rest_than_the_hold_gets_it_at_once() -> None:
    circuit = Circuit(hold_s=5.0)
    assert not circuit.failed(Retry("limit", retry_after_s=3.0), 0.0)
    assert circuit.until == 3.0
    assert circuit.failed(Retry("limit", retry_after_s=90.0), 3.0)
    assert circuit.until == 93.0


@pytest.mark.parametrize(
    ("error", "state", "kind"),
    [
        (Revoked("token refused", hint="sign in again"), REVOKED, TENANT_OFF),
        (Fatal("no right", hint="grant it"), WAITS, TENANT_WAITS),
        (SwitchedOff("moving house", hint="enable it"), OFF, TENANT_OFF),
    ],
)
def test_what_only_a_person_can_mend_is_not_held(error: Any, state: str, kind: str) -> None:
    circuit = Circuit(hold_s=5.0)
    assert circuit.failed(error, 0.0)
    assert circuit.trouble == Trouble(state, error.message, error.hint)
    receipt = circuit.trouble.answer("erp/north", write("a", "update", "7", 3))
    assert (receipt.outcome, receipt.kind, receipt.native_key, receipt.version) == (REJECTED, kind, "7", 3)
    assert receipt.message == f"erp/north takes no writes: {error.message}"


# ------------------------------------------------------------------------------------------------------- lanes


class Header:
    """Stands for the codec."""

    def header(self, _name: str) -> bytes:
        return b"\0\0\0\0\1"


class Message:
    """A message of a topic of writes."""

    def __init__(self, value: bytes, offset: int, entity: str) -> None:
        self._all = value, offset, entity

    def value(self) -> bytes:
        return self._all[0]

    def offset(self) -> int:
        return self._all[1]

    def partition(self) -> int:
        return 0

    def topic(self) -> str:
        return f"sync.erp.{self._all[2]}"


SCOPE = ("sync.erp.contact", 0)


class Bench:
    """Lanes of three tenants, the last one switched off, over a sink that remembers and fails as it is told."""

    def __init__(self, *, most: int = 100, hold_s: float = 0.0, at_once: int = 1) -> None:
        context: Any = SimpleNamespace(codec=Header(), topics=Topics(""), config=config_of("postgresql://nowhere"))
        self.planner = Planner(context, "erp", ["contact", "order"])
        self.trouble: dict[str, Exception] = {}
        self.before: Callable[[str], None] = lambda _tenant: None
        self.batches: list[tuple[str, str, list[str]]] = []  # tenant, entity, keys
        self.told: list[tuple[str, str | None]] = []
        lanes = [Lane(t, Circuit(hold_s)) for t in ("north", "south", "west")]
        lanes[2].off = Trouble(OFF, "it is switched off")
        self.lanes = Lanes("erp", lanes, self.carry_out, self.tell, most=most, at_once=at_once)
        self.offsets = itertools.count()

    def carry_out(self, items: list[Item]) -> None:
        for wave in self.planner.waves(items):
            for group in wave:
                folded = [i for i in group if i.folded is not None]
                writes: list[Write] = [i.folded for i in folded if i.folded is not None]
                (tenant,), (entity,) = {w.tenant for w in writes}, {w.entity for w in writes}
                self.before(tenant)
                if tenant in self.trouble:
                    raise self.trouble[tenant]
                self.batches.append((tenant, entity, [str(w.native_key) for w in writes]))
                for item, w in zip(folded, writes, strict=True):
                    for one in (item, *item.instead_of):
                        one.fate = Fate.of(Receipt(w.canonical_id, w.version, APPLIED, w.native_key))

    def tell(self, tenant: str, trouble: Trouble | None, _again_s: float) -> None:
        self.told.append((tenant, trouble.state if trouble is not None else None))

    def item(self, tenant: str, key: object, entity: str = "contact") -> Item:
        w = dataclasses.replace(write(f"{tenant}{key}", "update", key, entity=entity, name="x"), tenant=tenant)
        return self.planner.read(Message(encoded(Header(), w), next(self.offsets), entity))  # type: ignore[arg-type]

    def take(self, *tenants: str) -> None:
        self.lanes.take([self.item(t, n) for n, t in enumerate(tenants)])

    def turn(self) -> list[tuple[str, int, str]]:
        """Return tenant, outcome and kind of what is done."""
        return [(i.write.tenant, i.fate.outcome, i.fate.kind) for i in self.lanes.turn(0.0) if i.write and i.fate]

    def until(self, wanted: int) -> list[tuple[str, int, str]]:
        """Let lanes go on until so many are done."""
        done, deadline = self.turn(), time.monotonic() + DEADLINE_S
        while len(done) < wanted:
            assert time.monotonic() < deadline, f"only {done} in time"
            done += self.turn()
        return done

    def end(self) -> int:
        return self.lanes.ends()[SCOPE]


@pytest.fixture
def parallel() -> Iterator[Bench]:
    bench = Bench(at_once=2)
    yield bench
    bench.lanes.close()


def test_every_batch_is_of_one_tenant_and_one_entity() -> None:
    bench = Bench()
    pairs = [("south", 1, "contact"), ("north", 2, "order"), ("north", 3, "contact"), ("south", 4, "contact")]
    bench.lanes.take([bench.item(*p) for p in pairs])
    assert len(bench.turn()) == 4
    assert sorted(bench.batches) == [
        ("north", "contact", ["3"]),
        ("north", "order", ["2"]),
        ("south", "contact", ["1", "4"]),
    ]


def test_a_tenant_that_is_down_holds_up_no_other_and_no_offset_passes_what_it_holds() -> None:
    bench = Bench(hold_s=60.0)
    bench.trouble["north"] = Retry("down")
    bench.take("south", "north", "south", "north")
    assert bench.turn() == [("south", APPLIED, "")] * 2
    assert bench.end() == 1, "offset 1 is not done"
    bench.take("south")
    assert bench.turn() == [("south", APPLIED, "")]
    assert bench.end() == 1
    assert 0.0 < bench.lanes.patience_s(9.0) <= 1.0, "until the next attempt, unless something comes"
    assert bench.told == []
    del bench.trouble["north"]
    assert bench.until(2) == [("north", APPLIED, "")] * 2
    assert bench.batches[-1] == ("north", "contact", ["1", "3"]), "in their order"
    assert bench.end() == 5
    assert bench.told == [], "nobody needs to know"


def test_after_the_hold_writes_are_answered_at_once_until_one_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.trouble["north"] = Retry("down")
    bench.take("north", "south", "north")
    assert sorted(bench.turn()) == [("north", REJECTED, TENANT_WAITS)] * 2 + [("south", APPLIED, "")]
    assert bench.told == [("north", WAITS)]
    asked: list[str] = []
    bench.before = asked.append
    bench.take("north", "south")
    assert sorted(bench.turn()) == [("north", REJECTED, TENANT_WAITS), ("south", APPLIED, "")]
    assert asked == ["south"]
    assert bench.end() == 5
    bench.lanes._lanes["north"].circuit.until = 0.0  # the pause is over: the next write is let through
    bench.take("north")
    assert bench.turn() == [("north", REJECTED, TENANT_WAITS)]
    assert asked == ["south", "north"]
    assert bench.told == [("north", WAITS)] * 2, "told again, with the time of the next attempt"
    bench.lanes._lanes["north"].circuit.until = 0.0
    del bench.trouble["north"]
    bench.take("north")
    assert bench.turn() == [("north", APPLIED, "")]
    assert bench.told[-1] == ("north", None)


def test_a_tenant_that_is_off_or_gone_is_never_written_to_and_every_write_has_a_receipt() -> None:
    bench = Bench()
    asked: list[str] = []
    bench.before = asked.append
    bench.take("west", "former", "west")
    assert sorted(bench.turn()) == [("former", REJECTED, TENANT_OFF), *[("west", REJECTED, TENANT_OFF)] * 2]
    assert asked == []
    assert bench.end() == 3
    assert bench.told == [], "the configuration says it"


def test_what_was_written_before_the_trouble_is_not_written_again() -> None:
    """The contact is done when the order fails."""
    bench = Bench(hold_s=60.0)
    trouble = iter([None, Retry("busy"), None])

    def before(_tenant: str) -> None:
        error = next(trouble)
        if error is not None:
            raise error

    bench.before = before
    bench.lanes.take([bench.item("north", 1, "order"), bench.item("north", 2)])
    assert bench.turn() == [("north", APPLIED, "")]
    bench.until(1)
    assert bench.batches == [("north", "contact", ["2"]), ("north", "order", ["1"])]


def test_two_writes_of_one_record_stay_in_their_order_over_an_attempt_that_failed() -> None:
    bench = Bench(hold_s=60.0)
    bench.trouble["north"] = Retry("busy")
    first, second = bench.item("north", 1), bench.item("north", 1)
    assert first.write is not None
    assert second.write is not None
    second.write.version = 2
    bench.lanes.take([first, second])
    assert bench.turn() == []
    del bench.trouble["north"]
    assert len(bench.until(2)) == 2
    assert bench.batches == [("north", "contact", ["1"])], "folded into one"


def test_a_message_that_cannot_be_read_is_done_and_belongs_to_no_tenant() -> None:
    bench = Bench()
    item = bench.item("north", 1)
    item.write, item.trouble = None, Reject("?", kind="bad_avro")
    bench.lanes.take([item])
    assert bench.lanes.turn(0.0) == [item]
    assert bench.end() == 1


def test_a_lane_that_is_full_answers_what_comes_until_it_is_nearly_empty() -> None:
    """A bulk edit in one tenant (S29) takes no more memory than its lane has, and nobody else's place."""
    bench = Bench(most=2, hold_s=60.0)
    bench.trouble["north"] = Retry("slow")
    bench.take(*["north"] * 12, "south")
    kinds = [kind for tenant, _, kind in bench.turn() if tenant == "north"]
    assert kinds == [TENANT_WAITS] * 4
    assert bench.told == [("north", BUSY)]
    del bench.trouble["north"]
    bench.until(8)
    assert bench.told == [("north", BUSY), ("north", None)]
    bench.take("north")
    assert bench.turn() == [("north", APPLIED, "")]


def test_many_lanes_together_hold_no_more_than_there_is_room_for() -> None:
    """Each of them less than it could alone; one that holds nothing always takes something."""
    bench = Bench(most=2, hold_s=60.0)
    tenants = [f"t{n}" for n in range(10)]
    bench.lanes._lanes |= {t: Lane(t, Circuit(60.0)) for t in tenants}
    bench.trouble = dict.fromkeys(tenants, Retry("slow"))
    for _ in range(6):
        bench.take(*tenants)
    held = {t: len(lane.queue) for t, lane in bench.lanes._lanes.items() if lane.queue}
    assert sum(held.values()) <= 32 + len(tenants)
    bench.take("north")
    assert bench.turn().count(("north", APPLIED, "")) == 1
    bench.trouble = {}
    while bench.lanes._open[SCOPE]:
        bench.turn()
    assert {lane.full for lane in bench.lanes._lanes.values()} == {False}


def test_what_is_dropped_is_read_again_by_whoever_has_the_partition_then() -> None:
    bench = Bench(hold_s=60.0)
    bench.trouble["north"] = Retry("down")
    bench.take("north", "south")
    bench.turn()
    bench.lanes.drop()
    assert bench.lanes.ends() == {}
    assert bench.turn() == []


def test_a_slow_tenant_does_not_hold_up_others_where_the_sink_allows_it(parallel: Bench) -> None:
    """Each tenant in a thread of its own, and never two for one tenant."""
    slow, entered = threading.Event(), threading.Event()
    inside: dict[str, int] = {"north": 0, "south": 0}

    def before(tenant: str) -> None:
        inside[tenant] += 1
        assert inside[tenant] == 1
        if tenant == "north":
            entered.set()
            assert slow.wait(DEADLINE_S)
        inside[tenant] -= 1

    parallel.before = before
    try:
        parallel.take("north", "south")
        assert parallel.lanes.patience_s(5.0) == 0.0
        assert parallel.until(1) == [("south", APPLIED, "")]
        assert entered.wait(DEADLINE_S)
        parallel.take("north", "south")
        assert parallel.until(1) == [("south", APPLIED, "")]
        assert parallel.end() == 0
    finally:
        slow.set()
    assert parallel.until(2) == [("north", APPLIED, "")] * 2
    assert parallel.end() == 4


def test_at_the_end_what_runs_is_waited_for_and_nothing_new_is_begun(parallel: Bench) -> None:
    go = threading.Event()

    def before(_tenant: str) -> None:
        assert go.wait(DEADLINE_S)

    parallel.before = before
    parallel.take("north")
    parallel.turn()
    parallel.take("north")
    go.set()
    done = parallel.lanes.close()
    assert [i.offset for i in done] == [0]
    assert parallel.end() == 1


def test_an_error_that_nobody_has_translated_ends_the_worker() -> None:
    bench = Bench()
    bench.trouble["north"] = ZeroDivisionError("a bug")
    bench.take("north")
    with pytest.raises(ZeroDivisionError):
        bench.turn()
