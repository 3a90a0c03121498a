"""Several tenants of one system through the whole hub, on the real stack: what one of them suffers is nobody else's business."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from processors import troubles
from sinks import circuits
from tests.tenants import ENTITY, Hub, World, config_of, connect
from tidelock.embedded import Stack
from tidelock.envelopes import TENANT_OFF, TENANT_WAITS
from tidelock.errors import Fatal, Retry, Revoked, SwitchedOff

pytestmark = pytest.mark.stack

CRM, NORTH, SOUTH, WEST = "crm/default", "portal/north", "portal/south", "portal/west"
TENANTS: dict[str, Any] = {"north": {}, "south": {}, "west": {"when": "city == 'Oslo'"}}
Make = Callable[..., Hub]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Return the systems; circuits and the clock are in a hurry."""
    monkeypatch.setattr(circuits, "_OPEN_S", 0.3)
    monkeypatch.setattr(circuits, "_OPEN_MOST_S", 0.3)
    monkeypatch.setattr(troubles, "ASK_AGAIN_S", 3.0)
    made = World(CRM, NORTH, SOUTH, WEST)
    connect(monkeypatch, made)
    return made


@pytest.fixture
def make(stack: Stack, topic_prefix: str, tmp_path: Path, world: World) -> Iterator[Make]:
    """Return a factory: a hub with the tenants as configured, all workers started."""
    made: list[Hub] = []

    def build(tenants: dict[str, Any] = TENANTS, **options: Any) -> Hub:
        hub = Hub(stack, config_of(topic_prefix, tmp_path / f"h{len(made)}", tenants, **({"hold_s": 0.0} | options)))
        made.append(hub)
        hub.start()
        return hub

    yield build
    for hub in made:
        hub.close()


def rows(world: World, place: str) -> dict[str, tuple[Any, Any]]:
    """Return name and city by e-mail of what lives in a place."""
    living = (r.values for r in world.systems[place].rows.values() if r.alive)
    return {v["email"]: (v["name"], v["city"]) for v in living}


def key(world: World, place: str, email: str) -> str:
    return next(k for k, r in world.systems[place].rows.items() if r.alive and r.values["email"] == email)


def test_records_come_to_the_tenants_they_belong_to_and_edits_from_any_reach_all(make: Make, world: World) -> None:
    hub = make()
    world.systems[CRM].create({"email": "a@x", "name": "Ada", "city": "Oslo"})
    world.systems[SOUTH].create({"email": "b@x", "name": "Bob", "city": "Rome"})
    both = {"a@x": ("Ada", "Oslo"), "b@x": ("Bob", "Rome")}
    hub.until(lambda: all(rows(world, p) == both for p in (CRM, NORTH, SOUTH)), "the first sync")
    hub.until(lambda: rows(world, WEST) == {"a@x": ("Ada", "Oslo")}, "the create in the west")
    world.systems[WEST].update(key(world, WEST, "a@x"), {"name": "Ada II"})
    hub.until(lambda: all(rows(world, p)["a@x"] == ("Ada II", "Oslo") for p in world.systems), "the edit")
    packs = list(hub.decoded(hub.topics.ops("audit")))
    for pack in packs:
        assert {hub.codec.decode(i["write"])["tenant"] for i in pack["items"]} == {pack["tenant"]}
    assert {p["tenant"] for p in packs} == {"default", "north", "south", "west"}
    assert hub.dead() == 0


def test_contacts_of_customers_with_one_address_stay_apart_and_change_hands(make: Make, world: World) -> None:
    """Each portal is a customer's, and has no column that says so; the CRM's column `city` does."""
    customers = {"north": "Oslo", "south": "Rome", "west": "Bath"}
    tenants = {t: {"fields": {"city": customer}} for t, customer in customers.items()}
    hub = make(tenants, bound=("email", "name", "points"))

    def held(place: str) -> list[tuple[Any, Any]]:
        living = (r.values for r in world.systems[place].rows.values() if r.alive)
        return sorted((v["name"], v["city"]) for v in living)

    def names(place: str) -> list[str]:
        return sorted(r.values["name"] for r in world.systems[place].rows.values() if r.alive)

    world.systems[NORTH].create({"email": "p@x", "name": "Ada"})
    world.systems[SOUTH].create({"email": "p@x", "name": "Bob"})
    hub.until(lambda: held(CRM) == [("Ada", "Oslo"), ("Bob", "Rome")], "both records in the CRM")
    (ada,) = (k for k, r in world.systems[CRM].rows.items() if r.values["name"] == "Ada")
    world.systems[CRM].update(ada, {"name": "Ada II"})
    hub.until(lambda: names(NORTH) == ["Ada II"], "the edit")
    assert names(SOUTH) == ["Bob"]
    assert names(WEST) == []
    world.systems[CRM].update(ada, {"city": "Bath"})
    hub.until(lambda: names(WEST) == ["Ada II"], "the create with the other customer")
    world.systems[NORTH].update(key(world, NORTH, "p@x"), {"name": "kept"})
    hub.until(lambda: any(c["rule"] == "tenant" for c in hub.decoded(hub.topics.ops("conflicts"))), "the conflict")
    assert held(CRM) == [("Ada II", "Bath"), ("Bob", "Rome")]
    assert {p: names(p) for p in (NORTH, SOUTH, WEST)} == {NORTH: ["kept"], SOUTH: ["Bob"], WEST: ["Ada II"]}
    assert hub.dead() == 0


def test_s9_a_tenant_that_is_down_gets_what_it_missed_when_it_is_back(make: Make, world: World) -> None:
    """The others go on; there is one alert, one record while it lasts, no dead letter, and no loop of retries."""
    hub = make()
    crm = world.systems[CRM]
    for n in range(20):
        crm.create({"email": f"{n}@x", "name": "n"})
    hub.until(lambda: all(len(rows(world, p)) == 20 for p in (NORTH, SOUTH)), "the first sync")
    world.trouble[NORTH] = Retry("the portal does not answer")
    for n in range(20):
        crm.update(key(world, CRM, f"{n}@x"), {"name": "edited"})
    crm.create({"email": "new@x", "name": "new"})
    hub.until(lambda: set(rows(world, SOUTH).values()) == {("edited", None), ("new", None)}, "the edits in the south")
    hub.until(lambda: NORTH in "".join(hub.standing()), "the record of the trouble")
    asked = world.asked.count(NORTH)
    hub.until(lambda: world.asked.count(NORTH) >= asked + 4, "a few more attempts")
    assert len(set(rows(world, NORTH).values()) - {("n", None)}) == 0
    receipts = [r for r in hub.decoded(hub.topics.journal(ENTITY)) if r.get("tenant") == "north" and "items" in r]
    kinds = [i["kind"] for r in receipts for i in r["items"] if i["kind"]]
    assert set(kinds) == {TENANT_WAITS}
    assert len(kinds) < 40, "each was answered once, and one of them tried now and then"
    record = json.loads(hub.standing()[f"tenant/{NORTH}"])
    assert (record["state"], record["message"]) == ("waits", "the portal does not answer")
    del world.trouble[NORTH]
    hub.until(lambda: rows(world, NORTH) == rows(world, SOUTH) == rows(world, CRM), "the north's recovery")
    hub.until(lambda: hub.standing() == {}, "the end of the record")
    assert hub.alerts() == [("tenant_waits", "warning", NORTH), ("tenant_waits", "info", NORTH)]
    assert hub.dead() == 0


def test_s28_revoked_credentials_are_told_once_and_survive_a_restart(make: Make, world: World) -> None:
    hub = make()
    world.systems[CRM].create({"email": "a@x", "name": "Ada"})
    hub.until(lambda: "a@x" in rows(world, NORTH), "the first sync")
    world.trouble[NORTH] = Revoked("the refresh token is refused", hint="connect it again")
    world.systems[CRM].update(key(world, CRM, "a@x"), {"name": "Eve"})
    hub.until(lambda: f"tenant/{NORTH}" in hub.standing(), "the record of the trouble")
    for _ in range(2):
        hub.stop("sink.portal", "clock", "merge")
        hub.start("sink.portal", "clock", "merge")
        asked = world.asked.count(NORTH)
        hub.until(lambda asked=asked: world.asked.count(NORTH) > asked, "another attempt")  # type: ignore[misc]
    assert hub.alerts() == [("credentials_revoked", "critical", NORTH)]
    assert json.loads(hub.standing()[f"tenant/{NORTH}"])["state"] == "revoked"
    del world.trouble[NORTH]
    hub.until(lambda: rows(world, NORTH) == rows(world, SOUTH), "the recovery")
    assert hub.alerts()[1:] == [("credentials_revoked", "info", NORTH)]


def test_a_tenant_that_is_switched_off_while_all_runs_waits_without_an_alert(make: Make, world: World) -> None:
    hub = make()
    world.systems[CRM].create({"email": "a@x", "name": "Ada"})
    hub.until(lambda: "a@x" in rows(world, NORTH), "the first sync")
    world.trouble[NORTH] = SwitchedOff("portal/north is switched off: moving house")
    world.systems[CRM].update(key(world, CRM, "a@x"), {"name": "Eve"})
    hub.until(lambda: f"tenant/{NORTH}" in hub.standing(), "the record")
    assert json.loads(hub.standing()[f"tenant/{NORTH}"])["state"] == "off"
    hub.stop("sink.portal")
    hub.start("sink.portal")
    del world.trouble[NORTH]
    hub.until(lambda: rows(world, NORTH)["a@x"][0] == "Eve", "the edit in the north")
    hub.until(lambda: hub.standing() == {}, "the end of the record")
    assert hub.alerts() == []


def test_what_only_a_person_can_mend_in_one_tenant_stops_no_worker(make: Make, world: World) -> None:
    hub = make()
    world.trouble[NORTH] = Fatal("the user may not write contacts", hint="grant it")
    world.systems[CRM].create({"email": "a@x", "name": "Ada"})
    hub.until(lambda: "a@x" in rows(world, SOUTH), "the create in the south")
    hub.until(lambda: f"tenant/{NORTH}" in hub.standing(), "the record of the trouble")
    del world.trouble[NORTH]
    hub.until(lambda: "a@x" in rows(world, NORTH), "the recovery")


def test_a_tenant_that_is_switched_off_is_left_alone_until_it_is_on_again(make: Make, world: World) -> None:
    first = make({**TENANTS, "south": {"enabled": False}})
    world.systems[SOUTH].create({"email": "s@x", "name": "Sue"})
    world.systems[CRM].create({"email": "a@x", "name": "Ada"})
    first.until(lambda: "a@x" in rows(world, NORTH), "the create in the north")
    assert SOUTH not in world.asked
    first.close()
    first.workers.clear()
    second = make()
    both = {"a@x": ("Ada", None), "s@x": ("Sue", None)}
    second.until(lambda: all(rows(world, p) == both for p in (CRM, NORTH, SOUTH)), "the rest")
    assert second.dead() == 0


@pytest.mark.parametrize("others", [TENANTS, {}], ids=["one of several", "the only one"])
def test_an_edit_for_a_tenant_that_is_switched_off_is_parked_and_comes_later(
    make: Make, world: World, others: dict[str, Any]
) -> None:
    on, off = {**others, "south": {}}, {**others, "south": {"enabled": False}}
    first = make(on)
    world.systems[CRM].create({"email": "a@x", "name": "Ada"})
    first.until(lambda: "a@x" in rows(world, SOUTH), "the first sync")
    first.close()
    first.workers.clear()
    asked = world.asked.count(SOUTH)
    second = make(off)
    world.systems[CRM].update(key(world, CRM, "a@x"), {"name": "Eve"})
    journal = second.topics.journal(ENTITY)
    second.until(
        lambda: any(i["kind"] == TENANT_OFF for r in second.decoded(journal) if "items" in r for i in r["items"]),
        "the receipt",
    )
    assert world.asked.count(SOUTH) == asked
    second.close()
    second.workers.clear()
    third = make(on)
    third.until(lambda: rows(world, SOUTH)["a@x"][0] == "Eve", "the edit in the south")
    assert third.dead() == 0


def test_a_tenant_that_answers_slowly_holds_up_no_other(make: Make, world: World) -> None:
    hub = make()
    world.systems[CRM].create({"email": "a@x", "name": "Ada"})
    hub.until(lambda: all("a@x" in rows(world, p) for p in (NORTH, SOUTH)), "the first sync")
    world.slow[NORTH] = threading.Event()
    try:
        for name in ("one", "two", "three"):
            world.systems[CRM].update(key(world, CRM, "a@x"), {"name": name})
            hub.until(lambda name=name: rows(world, SOUTH)["a@x"][0] == name, name)  # type: ignore[misc]
        assert rows(world, NORTH)["a@x"][0] == "Ada"
        assert hub.standing() == {}, "it is slow, not down"
    finally:
        world.slow[NORTH].set()
    hub.until(lambda: rows(world, NORTH)["a@x"][0] == "three", "the edits in the north")


def test_writes_that_are_held_are_not_passed_by_the_group_and_come_again_after_a_death(
    make: Make, world: World
) -> None:
    """Nothing of the tenant that is down is lost, whatever the others have got done meanwhile."""
    hub = make(hold_s=600.0)
    for n in range(4):
        world.systems[CRM].create({"email": f"{n}@x", "name": "n"})
    hub.until(lambda: all(len(rows(world, p)) == 4 for p in (NORTH, SOUTH)), "the first sync")
    world.trouble[NORTH] = Retry("down")
    for n in range(4):
        world.systems[CRM].update(key(world, CRM, f"{n}@x"), {"name": "edited"})
    hub.until(lambda: set(rows(world, SOUTH).values()) == {("edited", None)}, "the edits in the south")
    assert hub.standing() == {}, "it may pass by itself"
    dead = hub.workers.pop("sink.portal")
    del world.trouble[NORTH]
    dead._said.clear()  # a death: nothing is finished, nobody is told
    dead._intake.close()
    dead._outlet.close()
    hub.start("sink.portal")
    hub.until(lambda: set(rows(world, NORTH).values()) == {("edited", None)}, "the edits in the north")
    assert hub.alerts() == []


def test_s28_where_there_is_one_tenant_the_offsets_stay_and_one_alert_says_why(make: Make, world: World) -> None:
    hub = make()
    world.systems[NORTH].create({"email": "a@x", "name": "Ada"})
    hub.until(lambda: "a@x" in rows(world, CRM), "the first sync")
    world.trouble[CRM] = Revoked("the token is refused", hint="sign in again")
    asked = world.asked.count(CRM)
    world.systems[NORTH].update(key(world, NORTH, "a@x"), {"name": "Eve"})
    hub.until(lambda: hub.alerts() != [] and world.asked.count(CRM) > asked + 5, "the outage")
    del world.trouble[CRM]
    hub.until(lambda: rows(world, CRM)["a@x"][0] == "Eve", "the edit in the CRM")
    hub.until(lambda: ("credentials_revoked", "info", "crm") in hub.alerts(), "the end of the outage")
    assert [a for a in hub.alerts() if a[0] == "credentials_revoked"] == [
        ("credentials_revoked", "critical", "crm"),
        ("credentials_revoked", "info", "crm"),
    ]
    kinds = [i["kind"] for r in hub.decoded(hub.topics.journal(ENTITY)) if "items" in r for i in r["items"]]
    assert set(kinds) == {None}, "nothing was answered that was not written"
    assert hub.dead() == 0
