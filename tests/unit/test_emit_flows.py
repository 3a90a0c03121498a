"""Where golden values go: conditions, exits, delays, fields, creates (processors.emit)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from processors.emit import retry_delay_s
from tests.model.scene import Scene, columns
from tests.model.systems import System
from tests.model.world import ENTITY
from tidelock.avro import encode_string
from tidelock.envelopes import CREATE_OP, TAKEN, Receipt, Receipts, encode_write_head

KINDS = columns(email="string", name="string", status="string")
FIELDS: dict[str, dict[str, Any]] = {"email": {}, "name": {}, "status": {}}


def scene(flow: dict[str, Any], **options: Any) -> Scene:
    """Return two systems with one flow and a way back that creates nothing."""
    systems = [System("alpha", columns=KINDS, unique=True), System("beta", columns=KINDS, unique=True)]
    flows = [{"from": "alpha", "to": "beta", **flow}, {"from": "beta", "to": "alpha", "create": False}]
    return Scene(*systems, fields=FIELDS, flows=flows, **options)


def born(s: Scene, **values: Any) -> str:
    key = s["alpha"].create({"email": "p@x", "name": "n", "status": "active"} | values)
    s.run()
    return key


ACTIVE = {"when": "status == 'active'"}


def test_a_record_comes_when_it_first_meets_the_condition() -> None:
    """Before, it is not created; then it comes whole."""
    s = scene(ACTIVE)
    a = born(s, status="draft")
    assert s.rows("beta") == []
    s["alpha"].update(a, {"name": "Ada"})
    s.run()
    assert s.rows("beta") == []
    s["alpha"].update(a, {"status": "active"})
    s.run()
    s.agree("email", "name", "status")


def test_a_create_that_is_not_wanted_frees_its_place() -> None:
    """Identify has let us create there, the condition says no: what waited in that system because of it is linked at once."""
    s = scene(ACTIVE)
    s["alpha"].create({"email": "p@x", "name": "Ada", "status": "draft"})
    s.run("merge")  # identify has granted the create; merge has not looked yet
    b = s["beta"].create({"email": "p@x", "name": "Ada", "status": "draft"})
    s.settle()
    assert set(s.world.linked()) == {("alpha", "alpha1"), ("beta", b)}
    assert len(set(s.world.linked().values())) == 1


@pytest.mark.parametrize("kind", ["no_create", "park"])
def test_an_answer_to_an_earlier_ask_does_not_end_the_present_one(kind: str) -> None:
    """Asks and answers cross: only the answer to the create under way ends it, else two would be made, or none be known."""
    s = scene(ACTIVE)
    a = born(s, status="draft")
    s["alpha"].update(a, {"status": "active"})
    s.run("sink:beta")  # asked for, and granted
    asked = s.record().creating["beta/default"].version
    if kind == "no_create":
        names = b"".join(encode_string(x) for x in ("beta", "default", ENTITY))
        head = encode_write_head(
            s.cid.encode(),
            asked - 1,
            CREATE_OP,
            None,
            encode_string("alpha"),
            0,
            bytes(16),
            None,
            encode_string(""),
            names,
        )
        payload = s.world.context.codec.header("write") + head + b"\x00"
    else:
        pack = Receipts("beta", "default", ENTITY, 0, [Receipt(s.cid, asked - 1, TAKEN, kind="taken")])
        payload = s.world.receipts_header + pack.encode()
    s.enter(kind, system="beta", payload=payload)
    s.run("sink:beta")
    assert s.record().creating["beta/default"].version == asked
    s.settle()
    assert len(s.writes("beta")) == 1
    s.agree("email", "name", "status")
    assert len(s.world.linked()) == 2


@pytest.mark.parametrize(("on_exit", "row"), [("keep", ("n", "active")), ("delete", None), ("disable", ("n", "off"))])
def test_a_record_that_stops_meeting_the_condition(on_exit: str, row: tuple[str, str] | None) -> None:
    """It stays as it is, is deleted, or is disabled; further edits do not reach it; nothing comes back as a delete of the record."""
    tables = {"beta": {"disable": {"status": "off"}}} if on_exit == "disable" else {}
    s = scene({**ACTIVE, "on_exit": on_exit}, tables=tables)
    a = born(s)
    s["alpha"].update(a, {"status": "closed"})
    s.settle()
    s["alpha"].update(a, {"name": "Ada"})
    s.settle()
    assert [(r["name"], r["status"]) for r in s.rows("beta")] == ([row] if row else [])
    assert s.row("alpha")["name"] == "Ada"
    assert s.golden["status"] == "closed"


def test_a_record_that_meets_the_condition_again_comes_back() -> None:
    """After an exit that deleted it, it is created anew, with what it is now."""
    s = scene({**ACTIVE, "on_exit": "delete"})
    a = born(s)
    s["alpha"].update(a, {"status": "closed", "name": "Ada"})
    s.settle()
    assert s.rows("beta") == []
    s["alpha"].update(a, {"status": "active"})
    s.settle()
    s.agree("email", "name", "status")


def test_a_delayed_flow_writes_once_what_came_meanwhile() -> None:
    """Nothing is written before the timer; then the last state goes, in one write."""
    s = scene({"delay_s": 30.0})
    a = born(s)
    assert s.world.writes == []
    s.settle()
    assert len(s.world.writes) == 1
    for name in ("x", "y", "z"):
        s["alpha"].update(a, {"name": name})
        s.run()
    assert len(s.world.writes) == 1
    bodies = [json.loads(m.value() or b"") for m in s.world.topics[s.world.context.topics.ops("signals")][0]]
    assert [(b["entry"], b["delay_s"]) for b in bodies] == [("wake", 30.0)] * 2, (
        "one timer for each delay, not for each edit"
    )
    s.settle()
    assert len(s.world.writes) == 2
    s.agree("email", "name", "status")


def test_a_wake_up_that_comes_twice_or_for_nothing_is_harmless() -> None:
    """The clock may fire again after a crash."""
    s = scene({"delay_s": 30.0})
    born(s)
    s.settle()
    before = len(s.world.writes)
    s.enter("wake", system="beta")
    s.enter("wake", system="beta")
    s.settle()
    assert s.world.writes[before:] == []


def test_an_edit_taken_back_within_the_delay_is_never_written() -> None:
    """What is computed when the timer is over is the difference then."""
    s = scene({"delay_s": 30.0})
    a = born(s)
    s.settle()
    before = len(s.world.writes)
    s["alpha"].update(a, {"name": "x"})
    s.run()
    s["alpha"].update(a, {"name": "n"})
    s.settle()
    assert s.world.writes[before:] == []


def test_a_flow_of_some_fields_carries_those_only() -> None:
    """Others are not written there, not even when the record is created."""
    s = scene({"fields": ["email", "name"]})
    a = born(s)
    assert s.row("beta") | {"name": "n", "status": None} == s.row("beta")
    s["alpha"].update(a, {"name": "Ada", "status": "closed"})
    s.settle()
    assert s.row("beta") | {"name": "Ada", "status": None} == s.row("beta")


def test_a_flow_of_some_fields_accepts_those_only() -> None:
    """What its source has in another field is not taken over from there."""
    flows = [{"from": "alpha", "to": "beta"}, {"from": "beta", "to": "alpha", "fields": ["name"]}]
    s = Scene(System("alpha", columns=KINDS), System("beta", columns=KINDS), fields=FIELDS, flows=flows)
    born(s)
    s["beta"].update(s.key("beta"), {"name": "Ada", "status": "mine"})
    s.settle()
    assert (s.golden["name"], s.golden["status"]) == ("Ada", "active")
    assert (s.row("alpha")["name"], s.row("alpha")["status"]) == ("Ada", "active")


def test_create_false_updates_what_is_there_and_creates_nothing() -> None:
    """A record that somebody makes there is linked, and in step from then on."""
    s = scene({"create": False})
    a = born(s)
    assert s.rows("beta") == []
    s["beta"].create({"email": "p@x", "name": "n"})
    s.settle()
    s["alpha"].update(a, {"name": "Ada"})
    s.settle()
    s.agree("email", "name", "status")
    assert {w.op for w in s.world.writes} == {"update"}


def test_a_place_that_is_not_captured_holds_golden_too() -> None:
    """The central store: created without asking, written with nulls, told by its receipts alone."""
    s = Scene("alpha", System("store", captured_at_all=False), flows=[{"from": "alpha", "to": "store"}])
    a = s.seed(city=None)
    s["alpha"].update(a, {"name": "Ada"})
    s.run("receipt:store")
    s["alpha"].update(a, {"name": "Grace", "points": None})
    s.settle()
    s.agree()
    assert s.writes("alpha") == []


def test_retries_come_more_and_more_slowly() -> None:
    """2 s, doubling, at most 10 minutes; also after very many attempts."""
    assert [retry_delay_s(n) for n in (1, 2, 3, 9)] == [2.0, 4.0, 8.0, 512.0]
    assert retry_delay_s(10) == retry_delay_s(5000) == 600.0
