"""Scenarios of DESIGN section 12 that are about what is merged: edits, echoes, partial and late knowledge, blanks, clocks."""

from __future__ import annotations

import pytest

from tests.model.scene import FIELD_SPECS, Scene, configure
from tests.model.systems import Seen, System


def test_s1_two_systems_edit_different_fields_at_once() -> None:
    """Both edits arrive everywhere, each with one write of one column, and nothing is a conflict."""
    s = Scene("alpha", "beta")
    a = s.seed()
    before = len(s.world.writes)
    s["alpha"].update(a, {"name": "Ada"})
    s["beta"].update(s.key("beta"), {"city": "Bath"})
    s.run()
    assert (s.golden["name"], s.golden["city"]) == ("Ada", "Bath")
    s.agree()
    assert [set(w.columns) for w in s.writes("beta", before)] == [{"name"}]
    assert [set(w.columns) for w in s.writes("alpha", before)] == [{"city"}]
    assert s.conflicts() == []


@pytest.mark.parametrize("first", ["capture:beta", "receipt:beta"])
@pytest.mark.parametrize("reformat", [False, True])
def test_s2_two_quick_edits_while_the_first_echo_is_in_flight(first: str, reformat: bool) -> None:
    """The second edit waits for the first write's receipt, is written once, and the echo of the first takes nothing back."""
    s = Scene("alpha", System("beta", reformat=reformat))
    a = s.seed()
    before = len(s.world.writes)
    s["alpha"].update(a, {"name": "one"})
    s.run("capture:beta", "receipt:beta")
    s["alpha"].update(a, {"name": "two"})
    s.run("capture:beta", "receipt:beta")
    assert len(s.writes("beta", before)) == 1, "one write is in flight at most"
    s.run("receipt:beta" if first == "capture:beta" else "capture:beta")
    s.run()
    assert s.golden["name"] == "two"
    s.agree()
    assert len(s.writes("beta", before)) == 2
    assert s.writes("alpha", before) == []
    assert s.conflicts() == []


def test_s2_an_edit_behind_our_write_is_not_taken_for_its_echo() -> None:
    """A user sets back at once what we have just written: that is an edit, though the value stood there before."""
    s = Scene("alpha", "beta")
    a = s.seed()
    s["alpha"].update(a, {"name": "new"})
    s.run("capture:beta", "receipt:beta")
    s["beta"].update(s.key("beta"), {"name": "n"})
    s.run("receipt:beta")  # the capture has shown both states before anybody knows that our write landed
    s.run()
    assert s.golden["name"] == "n"
    s.agree()


def test_s5_a_ring_carries_an_edit_round_once() -> None:
    """One edit is written once per other system, never comes back, and at rest nothing grows."""
    ring = [{"from": "alpha", "to": "beta"}, {"from": "beta", "to": "gamma"}, {"from": "gamma", "to": "alpha"}]
    s = Scene("alpha", System("beta", log=False), System("gamma", reformat=True), flows=ring)
    a = s.seed()
    before = len(s.world.writes)
    s["alpha"].update(a, {"name": "Ada", "points": 11})
    s.run()
    assert {x: len(s.writes(x, before)) for x in ("alpha", "beta", "gamma")} == {"alpha": 0, "beta": 1, "gamma": 1}
    s.agree()
    at_rest = s.messages()
    s.settle()
    assert s.messages() == at_rest, "topics grow at rest"


def test_s6_a_partial_event_does_not_null_the_rest() -> None:
    """A change that carries one column only changes that field only."""
    s = Scene("alpha", "beta")
    a = s.seed()
    before = len(s.world.writes)
    alpha = s["alpha"]
    alpha.drift(a, {"name": "Ada"})
    alpha.clock += 1
    values = {"id": a, "name": "Ada"}
    alpha.captured.append(Seen(a, alpha.clock, values, absent=("email", "city", "points", "hub_id")))
    s.run()
    assert s.golden | {"name": "Ada", "email": "p@x", "city": "c", "points": 10} == s.golden
    assert [set(w.columns) for w in s.writes("beta", before)] == [{"name"}]
    s.agree()


def test_s6_a_null_that_was_captured_does_clear() -> None:
    """Absent and null are never confused: what was captured as null is null."""
    s = Scene("alpha", "beta")
    a = s.seed()
    s["alpha"].update(a, {"city": None})
    s.run()
    assert s.golden["city"] is None
    s.agree()


@pytest.mark.parametrize("written", [False, True])
def test_s7_an_unchanged_toasted_column_reverts_nothing(written: bool) -> None:
    """A row whose large column was not captured leaves alone what another system has put there meanwhile."""
    s = Scene(System("alpha", partial=True), "beta")
    a = s.seed()
    s["beta"].update(s.key("beta"), {"city": "long text"})
    s.run("receipt:alpha" if written else "sink:alpha")  # the write is under way, or has landed and nobody knows it yet
    s["alpha"].update(a, {"name": "Ada"})
    s.run("receipt:alpha" if written else "sink:alpha")
    s.run()
    assert (s.golden["name"], s.golden["city"]) == ("Ada", "long text")
    s.agree()
    assert s.conflicts() == []


def overtaken(s: Scene, system: str) -> None:
    """Let the last two changes of a system, not routed yet, change places, as if the older had been with another record first."""
    topic = s.world.cdc[system]
    (waiting,) = (s.world.topics[topic][p] for p in s.world.behind("route", topic))
    waiting[-2:] = reversed(waiting[-2:])


@pytest.mark.parametrize("in_flight", [False, True])
def test_s7_a_change_that_was_overtaken_counts_in_what_the_newer_one_left_out(in_flight: bool) -> None:
    """Its other columns do not: the newer change has told them."""
    s = Scene(System("alpha", partial=True), "beta")
    a = s.seed(name="one", city="Bath", points=1)
    if in_flight:
        s["beta"].update(s.key("beta"), {"points": 5})
        s.run("receipt:alpha")
    s["alpha"].update(a, {"name": "two", "city": "York"})
    s["alpha"].update(a, {"name": "three"})
    s.run("route", "receipt")
    overtaken(s, "alpha")
    s.run("receipt:alpha")
    s.run()
    assert (s.golden["name"], s.golden["city"]) == ("three", "York")
    s.agree()
    at_rest = s.messages()
    s.world.cursors["route", s.world.cdc["alpha"], 0] = s.world.cursors["route", s.world.cdc["alpha"], 1] = 0
    s.run()
    assert (s.golden["name"], s.golden["city"]) == ("three", "York")
    assert s.world.decoded(s.world.context.topics.ops("conflicts")) == []
    assert s.messages() > at_rest, "delivered again, to no effect"


@pytest.mark.parametrize(("later_s", "winner"), [(60.0, "from alpha"), (600.0, "from beta")])
def test_s20_a_clock_that_is_ahead_wins_no_more_than_its_skew(later_s: float, winner: str) -> None:
    """`newest` believes a source time only as far ahead of its capture as `max_skew_s`."""
    fields = {**FIELD_SPECS, "name": {"policy": "newest"}}
    s = Scene(System("alpha", skew=3_600_000_000), "beta", fields=fields, max_skew_s=300, priority=["beta", "alpha"])
    a = s.seed()
    s.world.advance(7200)
    s["alpha"].update(a, {"name": "from alpha"})
    s.run("sink:beta")
    s.world.advance(later_s)
    s["beta"].update(s.key("beta"), {"name": "from beta"})
    s.run()
    assert s.golden["name"] == winner
    s.agree()
    (conflict,) = s.conflicts()
    assert (conflict["rule"], conflict["field"]) == ("newest", "name")


@pytest.mark.parametrize(("blank", "left"), [("clear", None), ("unknown", "from beta")])
def test_s21_the_winners_field_is_blank(blank: str, left: str | None) -> None:
    """A blank of the system that wins clears the field, or says nothing, as its binding says; both systems end alike."""
    table = {"map": [{"column": f, "field": f} | ({"blank": blank} if f == "city" else {}) for f in FIELD_SPECS]}
    s = Scene("alpha", "beta", tables={"alpha": table}, policy="priority")
    a = s.seed()
    s["beta"].update(s.key("beta"), {"city": "from beta"})
    s.run("sink:alpha")
    s["alpha"].update(a, {"city": None})
    s.settle()
    assert s.golden["city"] == left
    s.agree()


def test_s21_an_unknown_blank_at_first_sight_erases_nothing() -> None:
    """A record that is found in a second system with blanks does not blank the first."""
    s = Scene("alpha", System("beta", unique=True))
    a = s["alpha"].create({"email": "p@x", "name": "Ada", "city": "Bath", "points": 5})
    s["beta"].create({"email": "p@x"})
    s.settle()
    assert s.golden | {"name": "Ada", "city": "Bath", "points": 5} == s.golden
    s.agree()
    assert s["alpha"].rows[a].values["name"] == "Ada"


def test_s22_a_destination_that_reformats_makes_no_edits() -> None:
    """What a system spells its own way is no edit; a real edit there is one."""
    s = Scene("alpha", System("beta", reformat=True))
    a = s.seed()
    before = len(s.world.writes)
    s["alpha"].update(a, {"name": "Ada", "city": "Bath"})
    s.settle()
    assert (s.golden["name"], s.row("beta")["name"]) == ("Ada", "ADA")
    assert len(s.writes("beta", before)) == 1
    assert s.writes("alpha", before) == []
    s["beta"].reread(s.key("beta"))  # and a full re-read tells nothing new
    s.settle()
    assert s.golden["name"] == "Ada"
    s["beta"].update(s.key("beta"), {"name": "grace"})
    s.settle()
    assert s.golden["name"] == "GRACE"
    assert s.golden["city"] == "Bath"
    assert s.row("alpha")["name"] == "GRACE"


def test_s23_a_mapping_added_later_brings_the_old_values() -> None:
    """After a restart with one more field, a seed carries what stood there all along; nothing is nulled before it."""
    narrow = {f: spec for f, spec in FIELD_SPECS.items() if f != "city"}
    s = Scene("alpha", "beta", fields=narrow)
    a = s.seed(city="Bath")
    assert s.row("beta")["city"] is None
    s.world.reconfigure(configure(list(s.world.systems.values())))
    s["alpha"].update(a, {"name": "Ada"})  # a change that carries the column brings it as well
    s.run("route:alpha")
    s["alpha"].reread(a)
    s["beta"].reread(s.key("beta"))
    s.settle()
    assert (s.golden["city"], s.golden["name"], s.golden["points"]) == ("Bath", "Ada", 10)
    s.agree()
    assert s.row("alpha")["city"] == "Bath"


def test_s23_two_old_values_under_a_new_mapping_are_a_conflict_not_a_coin_toss() -> None:
    """Where both systems had a value before the field was mapped, the policy decides and says so."""
    narrow = {f: spec for f, spec in FIELD_SPECS.items() if f != "city"}
    s = Scene("alpha", "beta", fields=narrow, priority=["beta", "alpha"])
    a = s.seed(city="Bath")
    b = s.key("beta")
    s["beta"].drift(b, {"city": "York"})
    s.world.reconfigure(configure(list(s.world.systems.values()), priority=["beta", "alpha"]))
    s["alpha"].reread(a)
    s.run("sink")
    s["beta"].reread(b)
    s.settle()
    assert s.golden["city"] == "York"
    s.agree()
    assert [(c["field"], c["outcome"]) for c in s.conflicts()] == [("city", "theirs")]


def test_s24_drift_that_a_later_reading_finds() -> None:
    """A value that changed without a captured event is an edit as soon as any reading shows it."""
    s = Scene("alpha", "beta")
    s.seed()
    b = s.key("beta")
    s["beta"].drift(b, {"city": "drifted"})
    s.settle()
    assert s.golden["city"] == "c", "nobody has announced it yet"
    s["beta"].reread(b)
    s.settle()
    assert s.golden["city"] == "drifted"
    s.agree()


def test_s24_drift_that_a_write_meets() -> None:
    """A write whose base does not stand there any more overwrites nothing: what it met is judged as an edit."""
    s = Scene("alpha", "beta", policy="keep_golden")
    a = s.seed()
    b = s.key("beta")
    s["beta"].drift(b, {"city": "drifted"})
    s["alpha"].update(a, {"city": "edited"})
    s.settle()
    (conflict,) = s.conflicts()
    assert (conflict["golden"], conflict["theirs"], conflict["outcome"]) == ('"edited"', '"drifted"', "golden")
    assert s.golden["city"] == "edited"
    s.agree()
