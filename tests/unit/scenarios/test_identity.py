"""Scenarios of DESIGN section 12 that are about which record it is: deletes, doubles, unique values, re-exports."""

from __future__ import annotations

import pytest

from tests.model.scene import Scene, columns
from tests.model.systems import System
from tidelock.envelopes import Receipt, Write


@pytest.mark.parametrize("rule", ["delete_wins", "edit_wins"])
@pytest.mark.parametrize("external_id", [False, True])
def test_s3_delete_in_one_system_edit_in_another(rule: str, external_id: bool) -> None:
    """A delete meets an edit its system has not seen: the rule decides, the conflict is recorded, both systems end alike."""
    s = Scene(System("alpha", external_id=external_id), "beta", delete_against_edit=rule)
    a = s.seed()
    s["beta"].update(s.key("beta"), {"name": "edited"})
    s.run("sink:alpha")
    s["alpha"].delete(a)
    s.settle()
    (conflict,) = s.conflicts()
    assert (conflict["field"], conflict["rule"]) == ("name", rule)
    assert '"edited"' in (conflict["golden"], conflict["theirs"])
    if rule == "delete_wins":
        assert s.world.golden() == {}
        assert s.rows("alpha") == s.rows("beta") == []
        assert s.world.linked() == {}
    else:
        assert s.golden["name"] == "edited"
        s.agree()
        assert s.key("alpha") != a, "it came back as a new record"
        assert "no_create" not in s.entries(), "the place is left before it is asked for again"
        assert set(s.world.linked()) == {("alpha", s.key("alpha")), ("beta", s.key("beta"))}


@pytest.mark.parametrize("rule", ["delete_wins", "edit_wins"])
def test_s3_a_delete_of_what_was_seen_is_no_conflict(rule: str) -> None:
    """Whoever deletes has seen the last edit: the record goes everywhere, under either rule."""
    s = Scene("alpha", "beta", delete_against_edit=rule)
    a = s.seed()
    s["beta"].update(s.key("beta"), {"name": "edited"})
    s.run()
    s["alpha"].delete(a)
    s.settle()
    assert s.world.golden() == {}
    assert s.rows("beta") == []
    assert s.conflicts() == []


@pytest.mark.parametrize("log", [True, False])
def test_s3_an_edit_that_comes_behind_the_delete_is_recorded(log: bool) -> None:
    """The record has died when the edit is captured, and the delete is on its way: the edit lost, and that is on record."""
    s = Scene("alpha", System("beta", log=log))
    a = s.seed()
    b = s.key("beta")
    s["alpha"].delete(a)
    s.run("sink:beta")
    s["beta"].update(b, {"name": "late"})
    s.run("sink:beta")
    s.settle()
    assert s.world.golden() == {}
    assert s.rows("beta") == []
    (conflict,) = s.conflicts()
    assert (conflict["field"], conflict["theirs"], conflict["golden"]) == ("name", '"late"', "null")


def test_s3_an_edit_where_the_delete_was_refused_is_recorded() -> None:
    """The record is dead everywhere else, and its row cannot go because others refer to it: the edit goes nowhere, and says so."""
    beta = System("beta", refuse=lambda write, _: "foreign_key" if write.op == "delete" else None)
    s = Scene("alpha", beta)
    a = s.seed()
    s["alpha"].delete(a)
    s.settle()
    beta.update(s.key("beta"), {"name": "late"})
    s.settle()
    assert s.world.golden() == {}
    assert [(c["field"], c["theirs"], c["golden"]) for c in s.conflicts()] == [("name", '"late"', "null")]
    beta.refuse = None
    s.settle()
    assert s.rows("beta") == [], "the delete is tried again until it can be done"


@pytest.mark.parametrize("seen", ["nothing", "create", "write"])
def test_s4_create_then_delete_before_the_first_sync(seen: str) -> None:
    """A record that lived for a moment leaves nothing behind, however far news of it had come."""
    s = Scene("alpha", "beta")
    alpha = s["alpha"]
    a = alpha.create({"email": "p@x", "name": "brief"})
    if seen != "nothing":
        s.run("sink:beta" if seen == "create" else "receipt:beta")
    alpha.delete(a)
    s.settle()
    assert s.rows("alpha") == s.rows("beta") == []
    assert s.world.golden() == {}
    assert s.world.linked() == {}
    at_rest = s.messages()
    s.settle()
    assert s.messages() == at_rest


def test_s4_the_same_person_comes_back_afterwards() -> None:
    """After create, delete, create the second record is the one that lives, in both systems."""
    s = Scene("alpha", System("beta", unique=True))
    alpha = s["alpha"]
    first = alpha.create({"email": "p@x", "name": "first"})
    s.run("sink:beta")
    alpha.delete(first)
    second = alpha.create({"email": "p@x", "name": "second"})
    s.settle()
    assert s.key("alpha") == second
    assert s.golden["name"] == "second"
    s.agree()


def swap_scene() -> tuple[Scene, str, str]:
    """Two records with a code each, the code unique in beta."""
    kinds = columns(email="string", name="string", code="string")
    beta = System("beta", columns=kinds, unique=True, unique_on="code")
    s = Scene(System("alpha", columns=kinds), beta, fields={"email": {}, "name": {}, "code": {}})
    p = s["alpha"].create({"email": "p@x", "code": "1"})
    q = s["alpha"].create({"email": "q@x", "code": "2"})
    s.run()
    return s, p, q


@pytest.mark.parametrize("folded", [False, True])
def test_s18_a_unique_value_swapped_between_two_rows(folded: bool) -> None:
    """Two records swap a value that must be unique, by way of a third: whoever is refused is tried again, and both end right."""
    s, p, q = swap_scene()
    s["alpha"].update(q, {"code": "1"})
    s.run("sink:beta")
    if folded:
        s.run("receipt:beta")  # refused before the value on the way is there
    s["alpha"].update(p, {"code": "3"})
    s.run("receipt:beta")
    s["alpha"].update(p, {"code": "2"})
    s.settle()
    for system in ("alpha", "beta"):
        assert {r["email"]: r["code"] for r in s.rows(system)} == {"p@x": "2", "q@x": "1"}
    assert all(copy.parked == {} for cid in s.world.golden() for copy in s.record(cid).copies.values())


def test_s18_a_swap_without_a_value_on_the_way_is_parked_and_tells_no_lies() -> None:
    """Each of two records is refused because of the other: nothing is overwritten, nothing loops, and an edit sets both free."""
    s, p, q = swap_scene()
    s["alpha"].update(p, {"code": "2"})
    s["alpha"].update(q, {"code": "1"})
    s.run("sink:beta")
    s.settle()
    assert {r["email"]: r["code"] for r in s.rows("beta")} == {"p@x": "1", "q@x": "2"}
    kinds = {p.kind for cid in s.world.golden() for p in s.record(cid).copies["beta/default"].parked.values()}
    assert kinds == {"unique"}
    s["alpha"].update(p, {"code": "3"})
    s.run()
    s["alpha"].update(p, {"code": "2"})
    s.settle()
    assert {r["email"]: r["code"] for r in s.rows("beta")} == {"p@x": "2", "q@x": "1"}


def test_s25_two_records_of_one_system_with_one_e_mail_stay_two() -> None:
    """The second is held for a person; neither takes a value of the other, now or after further edits."""
    s = Scene("alpha", "beta")
    first = s.seed(name="Mother", city="Bath")
    second = s["alpha"].create({"email": "p@x", "name": "Child", "city": "York"})
    s.settle()
    s["alpha"].update(second, {"name": "Child II"})
    s["beta"].update(s.key("beta"), {"city": "Hull"})
    s.settle()
    rows = s["alpha"].rows
    assert (rows[first].values["name"], rows[first].values["city"]) == ("Mother", "Hull")
    assert (rows[second].values["name"], rows[second].values["city"]) == ("Child II", "York")
    assert s.row("beta")["name"] == "Mother"
    assert s.golden["name"] == "Mother"
    held = [a for a in s.alerts() if a["kind"] == "ambiguous_match"]
    assert {a["subject"] for a in held} == {second}
    assert ("alpha", second) not in s.world.linked()


def test_s25_in_separate_mode_both_live_beside_each_other() -> None:
    """`ambiguous: separate` makes the second one a record of its own, and still homogenises nothing."""
    s = Scene("alpha", "beta", ambiguous="separate")
    s.seed(name="Mother")
    s["alpha"].create({"email": "p@x", "name": "Child"})
    s.settle()
    assert {r["name"] for r in s.rows("alpha")} == {r["name"] for r in s.rows("beta")} == {"Mother", "Child"}
    assert len(s.world.golden()) == 2


def test_s7_a_held_record_keeps_what_a_partial_change_leaves_out() -> None:
    """A record that waits for a person is changed, its large column absent; when it is linked at last, the column is there."""
    s = Scene(System("alpha", partial=True), "beta")
    first = s.seed(name="Mother", city="Bath")
    second = s["alpha"].create({"email": "p@x", "name": "Child", "city": "York"})
    s.settle()
    s["alpha"].update(second, {"name": "Child II"})
    s.settle()
    s["alpha"].delete(first)
    s.settle()
    assert (s.golden["name"], s.golden["city"]) == ("Child II", "York")
    s.agree()


@pytest.mark.parametrize("how", ["the same event", "the same row", "a new row"])
def test_s26_a_re_exported_order_is_not_duplicated(how: str) -> None:
    """An order that is exported a second time makes no second order anywhere."""
    fields: dict[str, dict[str, str]] = {"number": {}, "status": {}}
    kinds = columns(number="string", status="string")
    shop, erp = System("shop", columns=kinds), System("erp", columns=kinds)
    s = Scene(shop, erp, fields=fields, match=[["number"]])
    key = shop.create({"number": "4711", "status": "new"})
    s.run()
    before = len(s.world.writes)
    if how == "the same event":
        s.world.cursors["route", s.world.cdc["shop"], 0] = s.world.cursors["route", s.world.cdc["shop"], 1] = 0
    elif how == "the same row":
        shop.reread(key)
    else:
        shop.create({"number": "4711", "status": "new"})
    s.settle()
    assert [r["number"] for r in s.rows("erp")] == ["4711"]
    assert len(s.world.golden()) == 1
    assert s.world.writes[before:] == []
    assert bool(s.alerts()) == (how == "a new row"), "a second row with the same number is for a person to look at"


def test_what_is_told_late_from_before_our_delete_is_no_record_that_has_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A web hook of our last write arrives behind the delete, whose answer did not say when it was."""
    s = Scene("alpha", "beta")
    beta = s["beta"]
    a = s.seed()
    s["alpha"].update(a, {"name": "written"})
    s.run("capture:beta")
    (late,) = beta.captured
    late.ours = False  # nothing there says whose it was
    beta.captured.clear()
    apply = beta.apply

    def silent(write: Write) -> Receipt:
        receipt = apply(write)
        if write.op == "delete":
            receipt.position = None
        return receipt

    monkeypatch.setattr(beta, "apply", silent)
    s["alpha"].delete(a)
    s.run("capture:beta")
    assert s.rows("beta") == []
    beta.captured[:] = [late]  # nobody tells of the delete itself
    s.settle()
    assert s.world.golden() == {}
    assert s.rows("alpha") == s.rows("beta") == []
