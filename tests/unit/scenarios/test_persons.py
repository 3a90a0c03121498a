"""What follows when a person decides which records are one: nothing is left lying about, unlinked and unreported."""

from __future__ import annotations

import pytest

from tests.model.scene import Scene
from tests.model.systems import System


def apart(*systems: str | System) -> tuple[Scene, str, str]:
    """Two records, of alpha and of beta, that are created nowhere else; return the scene and their ids."""
    flows = [{"from": "alpha", "to": "beta", "create": False}, {"from": "beta", "to": "alpha", "create": False}]
    s = Scene(*(systems or ("alpha", "beta")), flows=flows)
    a = s["alpha"].create({"email": "p@x", "name": "Ada", "city": "Bath"})
    b = s["beta"].create({"email": "q@x", "name": "Ada L.", "points": 7})
    s.settle()
    linked = s.world.linked()
    return s, linked["alpha", a], linked["beta", b]


def reported(s: Scene, kind: str) -> set[str]:
    return {a["subject"] for a in s.alerts() if a["kind"] == kind}


def test_what_is_unlinked_is_reported_at_once() -> None:
    """Nobody has to change it first."""
    s = Scene("alpha", "beta")
    s.seed()
    b = s.key("beta")
    s.enter("unlink", system="beta", native_key=b, identity=True)
    s.settle()
    assert ("beta", b) not in s.world.linked()
    assert reported(s, "unlinked") == {b}


def test_what_is_split_off_lives_on_at_once() -> None:
    """Its values are those that were captured of it; it is a record beside the other one."""
    s = Scene("alpha", "beta")
    s.seed(name="one")
    b = s.key("beta")
    s["beta"].update(b, {"city": "York"})
    s.run()
    s.enter("split", system="beta", native_key=b, identity=True)
    s.settle()
    linked = s.world.linked()
    assert linked["beta", b] != linked["alpha", "alpha1"]
    golden = s.world.golden()[linked["beta", b]]
    assert {f: golden[f] for f in ("email", "name", "city", "points")} == {
        "email": "p@x", "name": "one", "city": "York", "points": 10,
    }  # fmt: skip


def test_what_was_captured_while_a_write_was_under_way_goes_with_it() -> None:
    """An edit that waited for the fate of our write is not lost with the link."""
    s = Scene("alpha", "beta")
    a = s.seed(name="one")
    b = s.key("beta")
    s["alpha"].update(a, {"name": "ours"})
    s.run("receipt:beta")
    s["beta"].update(b, {"name": "theirs", "points": 11})
    s.run("receipt:beta")
    s.enter("split", system="beta", native_key=b, identity=True)
    s.run("receipt:beta")
    s.settle()
    linked = s.world.linked()
    golden = s.world.golden()
    assert golden[linked["beta", b]]["name"] == "theirs"
    assert golden[linked["beta", b]]["points"] == 11
    assert golden[linked["alpha", a]]["name"] == "ours"
    assert s["beta"].rows[b].values["name"] == "theirs"


def test_a_copy_that_was_deleted_while_a_write_was_under_way_has_left() -> None:
    """There is nothing to be reported of a row that is not there any more."""
    s = Scene("alpha", "beta")
    a = s.seed()
    b = s.key("beta")
    s["alpha"].update(a, {"name": "ours"})
    s.run("receipt:beta")
    s["beta"].delete(b)
    s.run("receipt:beta")
    s.enter("unlink", system="beta", native_key=b, identity=True)
    s.run("receipt:beta")
    s.settle()
    topic = s.world.cdc["beta"]
    for p in range(len(s.world.topics[topic])):
        s.world.cursors["route", topic, p] = 0  # its old changes come once more, behind its delete
    s.run("receipt:beta", "learn")
    s.settle()
    assert ("beta", b) not in s.world.linked()
    assert s.alerts() == []


def test_unlinked_and_linked_again_it_is_as_before() -> None:
    """The second decision counts, even before the first has taken effect."""
    s = Scene("alpha", "beta")
    a = s.seed()
    b, cid = s.key("beta"), s.cid
    s.enter("unlink", system="beta", native_key=b, identity=True)
    s.run("merge")
    s.enter("link", cid, "beta", native_key=b, identity=True)
    s.settle()
    assert s.world.linked() == {("alpha", a): cid, ("beta", b): cid}
    s.agree()


def test_what_is_unlinked_stays_apart_where_the_system_keeps_our_id() -> None:
    """The record is created there anew; the row that still carries its id is met, and is not taken for the new one."""
    s = Scene("alpha", System("beta", external_id=True))
    s.seed()
    b = s.key("beta")
    s.enter("unlink", system="beta", native_key=b, identity=True)
    s.settle()
    s["alpha"].update("alpha1", {"name": "later"})
    s.settle()
    assert ("beta", b) not in s.world.linked()
    assert s["beta"].rows[b].values["name"] == "n"


def test_an_old_receipt_told_again_is_not_that_of_a_new_create() -> None:
    """The copy is let go, made anew, and wanted back, while a sink that crashed tells what became of the first create."""
    s = Scene("alpha", "beta")
    a = s.seed()
    b, cid = s.key("beta"), s.cid
    first = s["beta"].told[0]
    s.enter("unlink", system="beta", native_key=b, identity=True)
    s.run("sink:beta")
    s.enter("link", cid, "beta", native_key=b, identity=True)
    s.world.tell_again(s["beta"], first)
    s.run("sink:beta")
    s["beta"].update(b, {"name": "later"})
    s.settle()
    linked = s.world.linked()
    assert linked["alpha", a] == cid
    assert [k for k in s["beta"].rows if linked.get(("beta", k)) == cid] != []
    assert reported(s, "ambiguous_match") | {k for system, k in linked if system == "beta"} == set(s["beta"].rows)


def test_merged_records_are_one_without_waiting_for_a_change() -> None:
    """The loser's copy becomes the winner's at once, and what it alone knew is taken."""
    s, winner, loser = apart()
    s.enter("merge", winner, identity=True, keys=(loser,))
    s.settle()
    assert set(s.world.linked().values()) == {winner}
    assert s.golden["points"] == 7
    assert s.golden["city"] == "Bath"
    s.agree()
    assert s.alerts() == []


def test_a_copy_that_the_winner_has_no_room_for_is_reported_at_once() -> None:
    """It stays as it is, and is held as another copy of the winner."""
    s = Scene("alpha", "beta")
    a = s["alpha"].create({"email": "p@x", "name": "Ada"})
    other = s["alpha"].create({"email": "q@x", "name": "Ada L."})
    s.settle()
    linked = s.world.linked()
    winner, loser = linked["alpha", a], linked["alpha", other]
    s.enter("merge", winner, identity=True, keys=(loser,))
    s.settle()
    assert list(s.world.golden()) == [winner]
    theirs = {other} | {k for (system, k), cid in linked.items() if system == "beta" and cid == loser}
    assert reported(s, "ambiguous_match") == theirs
    assert {r["name"] for r in s.rows("alpha")} == {"Ada", "Ada L."}


def test_a_merged_record_leaves_the_places_that_are_only_written() -> None:
    """A store of merged records has no row of what is no record any more."""
    s = Scene("alpha", System("store", captured_at_all=False), flows=[{"from": "alpha", "to": "store"}])
    a = s["alpha"].create({"email": "p@x", "name": "Ada"})
    other = s["alpha"].create({"email": "q@x", "name": "Ada L."})
    s.settle()
    linked = s.world.linked()
    assert len(s.rows("store")) == 2
    s.enter("merge", linked["alpha", a], identity=True, keys=(linked["alpha", other],))
    s.settle()
    assert [r["name"] for r in s.rows("store")] == ["Ada"]


@pytest.mark.parametrize("external_id", [False, True])
@pytest.mark.parametrize("first", ["receipt", "capture"])
def test_what_is_made_for_a_loser_is_the_winners_or_reported(external_id: bool, first: str) -> None:
    """Whichever of its capture and its receipt comes first, it is not born again, and nothing is created for it."""
    s = Scene("alpha", System("beta", external_id=external_id))
    a = s["alpha"].create({"email": "p@x", "name": "Ada"})
    s.run()
    other = s["alpha"].create({"email": "q@x", "name": "Ada L."})
    hold = "capture:beta" if first == "receipt" else "receipt:beta"
    s.run(hold)
    linked = s.world.linked()
    winner, loser = linked["alpha", a], linked["alpha", other]
    s.enter("merge", winner, identity=True, keys=(loser,))
    s.run(hold)
    s.settle()
    assert list(s.world.golden()) == [winner]
    (made,) = (k for k in s["beta"].rows if ("beta", k) not in s.world.linked())
    assert reported(s, "ambiguous_match") == {other, made}
    assert (len(s.rows("alpha")), len(s.rows("beta"))) == (2, 2)
