"""State of a record: its bytes, its sources, and its order under another configuration (processors.record)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.record import _MOST_SOURCES, Copy, Flight, Held, Parked, Provenance, Record, decode, encode, reorder
from tests.model.scene import FIELD_SPECS, Scene, configure
from tests.model.systems import System
from tidelock.avro import NULL, FieldType, encode_slice

LAYOUT = b"12345678"
BY = Provenance("crm/default", 5, bytes(16), "ada", "fast_forward")


def text(value: str) -> bytes:
    return encode_slice(FieldType.STRING, value)


def full_record() -> Record:
    """Return a record with something in every part."""
    record = Record.new(2)
    record.set(0, text("a"), BY)
    record.set(1, text("b"), BY)
    copy = Copy("k1", [text("a"), text("x"), b""], bytes(15) + b"\x07", 3)
    copy.flight = Flight(4, 1, 2, {0: text("a"), 2: text("c")}, {1: (text("b"),)})
    copy.landings = {1: [(bytes(16), text("y"))], 2: [(bytes(16), text("z"))]}
    copy.told = {1: ((text("b"),), (text("B"),))}
    copy.held = [Held(bytes(16), False, {0: text("h"), 1: text("i")}, 3, BY)]
    copy.parked = {0: Parked("too_long", (text("a"),), 2)}
    copy.floors = {2: bytes(16)}
    copy.settle()
    record.copies = {"crm/default": copy, "old/default": Copy("k2", [NULL])}
    record.manual = {1: {"crm/default": (text("b"), text("q"))}}
    record.history = {0: [(5, 77)], 1: [(6, 78)]}
    record.timers, record.attempts, record.departed = {"crm/default": "retry"}, {"crm/default": 2}, ["erp/default"]
    return record


WAS = {"fields": ["name", "city"], "columns": {"crm": ["name", "city", "status"], "old": ["name"]}}


def test_a_record_comes_back_as_it_was_and_has_one_spelling() -> None:
    """State is compared and replayed as bytes."""
    record = full_record()
    value = b"\x00\x00\x00\x00\x01" + encode(record, LAYOUT)
    layout, again = decode(value)
    assert (layout, again) == (LAYOUT, record)
    assert encode(again, LAYOUT) == value[5:]
    assert again.copies["crm/default"].rare


def test_a_new_order_moves_everything_by_name() -> None:
    """Fields and columns are found under their names; what is new was never seen; what is gone leaves."""
    record = full_record()
    now = {"fields": ["phone", "city", "name"], "columns": {"crm": ["status", "phone", "name", "city"]}}
    reorder(record, WAS, now)
    assert record.values == [NULL, text("b"), text("a")]
    assert [record.provenance(f) for f in range(3)] == [None, BY, BY]
    assert record.manual == {1: {"crm/default": (text("b"), text("q"))}}
    assert record.history == {2: [(5, 77)], 1: [(6, 78)]}
    assert set(record.copies) == {"crm/default"}, "a system that is configured no more has no copies"
    copy = record.copies["crm/default"]
    assert copy.columns == [b"", b"", text("a"), text("x")]
    assert copy.landings == {3: [(bytes(16), text("y"))], 0: [(bytes(16), text("z"))]}
    assert copy.floors == {0: bytes(16)}
    assert copy.flight is not None
    assert copy.flight.columns == {2: text("a"), 0: text("c")}
    assert copy.held[0].columns == {2: text("h"), 3: text("i")}
    assert (copy.told, copy.parked, copy.flight.told) == ({}, {}, {}), "these refer to bindings, which have moved"


def test_a_dropped_field_takes_what_referred_to_it_along() -> None:
    """Nothing may point past the end."""
    record = full_record()
    reorder(record, WAS, {"fields": ["city"], "columns": {"crm": ["city"]}})
    assert (record.values, len(record.by)) == ([text("b")], 1)
    assert record.manual == {0: {"crm/default": (text("b"), text("q"))}}
    assert record.history == {0: [(6, 78)]}
    copy = record.copies["crm/default"]
    assert copy.columns == [text("x")]
    assert set(copy.landings) == {0}
    assert copy.floors == {}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=60))
def test_every_field_keeps_its_source_though_few_are_kept(sets: list[tuple[int, int]]) -> None:
    """Provenances that no field refers to are dropped, and no other."""
    record, last = Record.new(5), {}
    for f, n in sets:
        by = Provenance(f"s{n % 3}/default", n, bytes(16), None, "fast_forward")
        record.set(f, text(str(n)), by)
        last[f] = (text(str(n)), by)
    for f in range(5):
        assert (record.values[f], record.provenance(f)) == last.get(f, (NULL, None))
    assert len(record.sources) <= max(_MOST_SOURCES, 5) + 1


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_restart_with_other_fields_goes_on_where_it_was(in_flight: bool) -> None:
    """Fields change places and one comes, with a write under way or not: no value is lost, nulled or put into another's place."""
    s = Scene("alpha", System("beta", reformat=True))
    a = s.seed(name="Ada", city="Bath", points=5)
    if in_flight:
        s["alpha"].update(a, {"name": "Grace", "city": "Hull"})
        s.run("receipt:beta")
        s["beta"].update(s.key("beta"), {"points": 6})
        s.run("receipt:beta")
    turned = {f: FIELD_SPECS[f] for f in ("points", "city", "email", "name")}
    s.world.reconfigure(configure(list(s.world.systems.values()), fields=turned))
    s["alpha"].update(a, {"city": "York"})
    s.settle()
    assert (s.golden["city"], s.golden["points"], s.golden["email"]) == ("York", 6 if in_flight else 5, "p@x")
    assert s.golden["name"] in ("Grace", "GRACE") if in_flight else s.golden["name"] in ("Ada", "ADA")
    for f in ("points", "email"):
        assert s.values(f) == {s.golden[f]}
    assert {str(v).upper() for v in s.values("name")} == {"GRACE" if in_flight else "ADA"}
    at_rest = s.messages()
    for system in ("alpha", "beta"):
        s[system].reread(s.key(system))
    s.settle()
    assert s.messages() == at_rest + 4, "two readings through cdc and journal, and nothing else"
