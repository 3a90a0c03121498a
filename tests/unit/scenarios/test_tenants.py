"""Several tenants of one system: where a record goes, how an edit gets from one to another, and what a tenant that is gone leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.scene import Scene, configure
from tests.model.systems import System
from tidelock.envelopes import TENANT_OFF, TENANT_WAITS, Entry, Write

NORTH, SOUTH = "portal/north", "portal/south"
BOTH_WAYS = ({"from": "crm", "to": "portal"}, {"from": "portal", "to": "crm"})
BY_CITY = {NORTH: {"when": "city == 'Oslo'"}, SOUTH: {"when": "city == 'Rome'"}}


def scene(*more: str | System, **options: Any) -> Scene:
    """Return a system of one tenant and one of two, each feeding the other."""
    return Scene("crm", NORTH, SOUTH, *more, **({"flows": BOTH_WAYS} | options))


@pytest.mark.parametrize("editor", ["crm", NORTH, SOUTH])
def test_an_edit_in_any_tenant_reaches_all_of_them_once(editor: str) -> None:
    """Through the system that feeds them and that they feed; at rest nothing grows."""
    s = scene()
    s.seed("crm")
    before = len(s.world.writes)
    s[editor].update(s.key(editor), {"name": "Ada"})
    s.run()
    assert s.golden["name"] == "Ada"
    s.agree()
    assert {x: len(s.writes(x, before)) for x in ("crm", NORTH, SOUTH)} == {
        x: int(x != editor) for x in ("crm", NORTH, SOUTH)
    }
    at_rest = s.messages()
    s.settle()
    assert s.messages() == at_rest, "topics grow at rest"


def test_two_tenants_edit_different_fields_at_once() -> None:
    """Nobody's edit is lost, and nothing is a conflict."""
    s = scene()
    s.seed("crm")
    s[NORTH].update(s.key(NORTH), {"name": "Ada"})
    s[SOUTH].update(s.key(SOUTH), {"city": "Bath"})
    s.run()
    assert (s.golden["name"], s.golden["city"]) == ("Ada", "Bath")
    s.agree()
    assert s.conflicts() == []


@pytest.mark.parametrize(("first", "winner"), [(NORTH, "north"), (SOUTH, "north")])
def test_of_two_tenants_the_one_that_is_named_first_wins(first: str, winner: str) -> None:
    """`priority` names systems: their tenants rank together, in the order of the file; the conflict says which of them it was."""
    s = scene(priority=["portal", "crm"], policy="priority")
    s.seed("crm")
    for tenant in (first, SOUTH if first == NORTH else NORTH):
        s[tenant].update(s.key(tenant), {"city": tenant.removeprefix("portal/")})
        s.run("sink")
    s.run()
    assert s.golden["city"] == winner
    s.agree()
    (conflict,) = s.conflicts()
    assert {conflict["system"], conflict["against"]} == {NORTH, SOUTH}


def test_tenants_that_feed_nobody_who_feeds_them_stay_apart() -> None:
    """A system on both sides of a flow does not feed itself: what one tenant says reaches another only through a third party."""
    flows = [{"from": "crm", "to": "portal"}, {"from": "portal", "to": "shop"}]
    s = scene("shop", flows=flows)
    s.seed("crm")
    s[NORTH].update(s.key(NORTH), {"name": "Ada"})
    s.settle()
    assert {x: s.row(x)["name"] for x in ("crm", NORTH, SOUTH, "shop")} == {
        "crm": "n",
        NORTH: "Ada",
        SOUTH: "n",
        "shop": "Ada",
    }


def test_a_system_on_both_sides_of_one_flow_is_not_excluded_from_its_round_trip() -> None:
    """`from` and `to` both name portal and crm: every pair of different systems is a flow, so tenants meet through crm."""
    s = scene(flows=[{"from": ["crm", "portal"], "to": ["crm", "portal"]}])
    key = s[NORTH].create({"email": "p@x", "name": "n"})
    s.run()
    s[NORTH].update(key, {"city": "Oslo"})
    s.run()
    s.agree()
    assert len(s.world.linked()) == 3


@pytest.mark.parametrize("city", ["Oslo", "Rome", "Bath", None])
def test_a_record_goes_to_the_tenants_whose_condition_it_meets(city: str | None) -> None:
    s = scene(tenants=BY_CITY)
    s.seed("crm", city=city)
    assert len(s.rows(NORTH)) == (city == "Oslo")
    assert len(s.rows(SOUTH)) == (city == "Rome")
    assert "release" not in s.entries(), "creates where few belong are not granted in advance"
    identity = s.world.topics[s.world.context.topics.identity("contact")][0]
    assert not any(b"release" in (m.value() or b"") for m in identity)


def test_a_condition_of_the_tenant_comes_on_top_of_the_flows() -> None:
    flows = [{"from": "crm", "to": "portal", "when": "points > 5"}, {"from": "portal", "to": "crm"}]
    s = scene(tenants=BY_CITY, flows=flows)
    a = s.seed("crm", city="Oslo", points=1)
    assert s.rows(NORTH) == s.rows(SOUTH) == []
    s["crm"].update(a, {"points": 6})
    s.run()
    assert len(s.rows(NORTH)) == 1
    assert s.rows(SOUTH) == []


@pytest.mark.parametrize(
    ("on_exit", "left"), [("keep", ("n", "Oslo")), ("delete", None), ("disable", ("gone", "Oslo"))]
)
@pytest.mark.parametrize("other", ["flow", "tenant"])
def test_a_record_that_moves_leaves_one_tenant_and_comes_to_the_other(
    on_exit: str, left: tuple[str, str] | None, other: str
) -> None:
    """`on_exit` applies when the tenant's condition stops holding, or the flow's; the record lives on in the other systems."""
    condition = "city == 'Oslo'" if other == "flow" else None
    flows = [{"from": "crm", "to": "portal", "on_exit": on_exit, "when": condition}, BOTH_WAYS[1]]
    tenants = BY_CITY if other == "tenant" else {NORTH: {}, SOUTH: {"when": "points > 99"}}
    s = scene(tenants=tenants, flows=flows, tables={"portal": {"disable": {"name": "gone"}}})
    a = s.seed("crm", city="Oslo")
    assert len(s.rows(NORTH)) == 1
    s["crm"].update(a, {"city": "Rome"})
    s.settle()
    assert [(r["name"], r["city"]) for r in s.rows(NORTH)] == ([left] if left else [])
    assert [r["city"] for r in s.rows(SOUTH)] == (["Rome"] if other == "tenant" else [])
    assert s.row("crm")["city"] == "Rome"
    s["crm"].update(a, {"city": "Oslo"})
    s.settle()
    assert [r["city"] for r in s.rows(NORTH)] == ["Oslo"]


@pytest.mark.parametrize("on_exit", ["keep", "disable"])
@pytest.mark.parametrize("whose", ["flow", "tenant"])
def test_a_record_that_comes_back_gets_what_it_has_missed(on_exit: str, whose: str) -> None:
    """While it is out nothing is written to it; then everything that differs is, not only what brought it back."""
    condition = "city == 'Oslo'" if whose == "flow" else None
    flows = [{"from": "crm", "to": "portal", "on_exit": on_exit, "when": condition}, BOTH_WAYS[1]]
    s = scene(tenants={} if whose == "flow" else BY_CITY, flows=flows, tables={"portal": {"disable": {"points": 0}}})
    a = s.seed("crm", city="Oslo")
    for values in ({"city": "Bath"}, {"name": "Ada"}, {"city": "Oslo"}):
        s["crm"].update(a, values)
        s.settle()
    assert [(r["name"], r["city"], r["points"]) for r in s.rows(NORTH)] == [("Ada", "Oslo", 10)]


def test_what_stands_in_several_tenants_is_one_record() -> None:
    """Records are unique per system and tenant: the same e-mail in two tenants is found, twice in one of them is reported."""
    s = Scene("crm", System(NORTH, unique=True), System(SOUTH, unique=True), flows=BOTH_WAYS)
    for tenant in (NORTH, SOUTH):
        s[tenant].create({"email": "p@x", "name": "n"})
    s.settle()
    assert len(s.world.golden()) == 1
    assert {name for name, _ in s.world.linked()} == {"crm", NORTH, SOUTH}
    double = s[SOUTH].create({"email": "p@x", "name": "another"})
    s.settle()
    assert {a["subject"] for a in s.alerts() if a["kind"] == "ambiguous_match"} == {double}


def test_the_same_key_in_two_tenants_is_two_records() -> None:
    """Each tenant counts its own records: number 1 here is not number 1 there."""
    s = scene()
    for tenant, email in ((NORTH, "p@x"), (SOUTH, "q@x")):
        system = s[tenant]
        key = system.create({"email": email, "name": email})
        row = system.rows.pop(key)
        system.rows["1"], row.values["id"], system.captured[-1].key = row, "1", "1"
        assert system.captured[-1].values is not None
    s.settle()
    assert len(s.world.golden()) == 2
    for tenant in (NORTH, SOUTH):
        assert {r["email"]: r["name"] for r in s.rows(tenant)} == {"p@x": "p@x", "q@x": "q@x"}


@pytest.mark.parametrize("who", ["crm", NORTH])
def test_a_delete_anywhere_is_a_delete_everywhere(who: str) -> None:
    s = scene()
    s.seed("crm")
    s[who].delete(s.key(who))
    s.settle()
    assert s.world.golden() == {}
    assert s.rows("crm") == s.rows(NORTH) == s.rows(SOUTH) == []
    assert s.world.linked() == {}


def test_a_tenant_that_has_not_been_read_yet_holds_up_nobody_but_itself() -> None:
    """Creates wait for the first seed of the tenant they go to."""
    s = scene()
    fresh = System("portal/west")
    s.world.systems[fresh.name] = fresh
    for topics in (s.world.cdc, s.world.sync):
        topics[fresh.name] = topics[NORTH]
    s.world.reconfigure(configure(list(s.world.systems.values()), flows=BOTH_WAYS))
    s.seed("crm")
    assert len(s.rows(NORTH)) == len(s.rows(SOUTH)) == 1
    assert s.rows("portal/west") == []
    s.world.end_seed(fresh)
    s.run()
    s.agree()


def test_a_tenant_that_is_configured_no_more_counts_for_what_it_said() -> None:
    """What it had captured is still on its way and is taken; its values flow on; nothing is written to it; to be put back is no trouble."""
    s = scene()
    key = s[NORTH].create({"email": "p@x", "name": "n", "city": "Oslo"})
    s.run()
    s[NORTH].update(key, {"name": "Ada"})
    s.run("merge", "sink", "receipt")
    left = [x for x in s.world.systems.values() if x.name != NORTH]
    s.world.reconfigure(configure(left, flows=BOTH_WAYS))
    before = len(s.world.writes)
    s.settle()
    assert s.golden["name"] == s.row("crm")["name"] == s.row(SOUTH)["name"] == "Ada"
    s["crm"].update(s.key("crm"), {"name": "Grace"})
    s.settle()
    assert s.row(SOUTH)["name"] == "Grace"
    assert s.writes(NORTH, before) == []
    s.world.reconfigure(configure(list(s.world.systems.values()), flows=BOTH_WAYS))
    s.enter("resync", system=NORTH)
    s.settle()
    s.agree()


def test_what_only_a_former_tenant_has_said_goes_on_flowing() -> None:
    """A record that came from a tenant that is gone is created in a system that joins later, with all it holds."""
    s = Scene("crm", NORTH, flows=[{"from": "portal", "to": "crm", "create": False}])
    s[NORTH].create({"email": "p@x", "name": "Ada", "city": "Oslo"})
    s.settle()
    s.world.systems["portal/west"] = System("portal/west")
    for topics in (s.world.cdc, s.world.sync):
        topics["portal/west"] = topics[NORTH]
    left = [x for x in s.world.systems.values() if x.name != NORTH]
    s.world.reconfigure(configure(left, flows=BOTH_WAYS))
    s.enter("resync", system="crm")
    s.settle()
    assert [(r["email"], r["name"], r["city"]) for r in s.rows("crm")] == [("p@x", "Ada", "Oslo")]


def test_a_place_that_nobody_captures_is_told_per_tenant() -> None:
    """Two webhooks of one system: both are sent everything, each for itself."""
    hooks = [System(f"hooks/{t}", captured_at_all=False) for t in ("one", "two")]
    s = Scene("crm", *hooks, flows=[{"from": "crm", "to": "hooks"}], tenants={"hooks/two": {"when": "points > 5"}})
    a = s.seed("crm", points=1)
    assert len(s.rows("hooks/one")) == 1
    assert s.rows("hooks/two") == []
    s["crm"].update(a, {"points": 6})
    s.settle()
    s.agree()


def test_an_actor_of_one_tenant_is_not_that_of_another() -> None:
    """The limit on changes per actor counts each tenant for itself: "admin" there is not "admin" here."""
    s = Scene(
        "crm",
        System(NORTH, actor="admin"),
        System(SOUTH, actor="admin"),
        flows=BOTH_WAYS,
        tables={"portal": {"actor_limit_per_min": 4}},
    )
    s.seed("crm")
    for n in range(5):
        s[NORTH].update(s.key(NORTH), {"name": f"n{n}"})
        s.run()
    assert s.golden["name"] == "n1", "two changes per partition and minute"
    s[SOUTH].update(s.key(SOUTH), {"city": "Rome"})
    s.run("sink")
    assert s.golden["city"] == "Rome"
    s.world.advance(60)
    s.enter("release_actor", system=NORTH, keys=("admin",), offset=s.world.now)
    s.run()
    s[NORTH].update(s.key(NORTH), {"name": "later"})
    s.settle()
    assert s.golden["name"] == "later"


class Down:
    """What a sink answers for a tenant that takes no writes, until told otherwise."""

    def __init__(self, kind: str = TENANT_WAITS) -> None:
        self.kind: str | None = kind

    def __call__(self, _write: Write, _values: dict[str, Any]) -> str | None:
        return self.kind


def with_down(kind: str = TENANT_WAITS, **options: Any) -> tuple[Scene, Down]:
    down = Down(kind)
    return Scene("crm", System(NORTH, refuse=down), SOUTH, **({"flows": BOTH_WAYS} | options)), down


@pytest.mark.parametrize("kind", [TENANT_WAITS, TENANT_OFF])
def test_s9_a_tenant_that_is_down_gets_what_it_missed_and_nobody_else_waits(kind: str) -> None:
    """A create, an edit and a delete: parked for that tenant alone, without a dead letter, and made good when it takes writes again."""
    s, down = with_down(kind)
    a = s.seed("crm", email="a@x")
    assert len(s.rows(SOUTH)) == 1
    assert s.rows(NORTH) == []
    down.kind = None
    s.settle()
    b = s["crm"].create({"email": "b@x", "name": "b"})
    s.settle()
    down.kind = kind
    s["crm"].update(a, {"name": "Ada"})
    s["crm"].delete(b)
    c = s["crm"].create({"email": "c@x", "name": "c"})
    s.run()
    assert {r["email"]: r["name"] for r in s.rows(SOUTH)} == {"a@x": "Ada", "c@x": "c"}
    assert {r["email"]: r["name"] for r in s.rows(NORTH)} == {"a@x": "n", "b@x": "b"}
    down.kind = None
    s.settle()
    assert {r["email"]: r["name"] for r in s.rows(NORTH)} == {"a@x": "Ada", "c@x": "c"}
    assert s["crm"].rows[c].alive
    assert s.conflicts() == []
    assert all(not r.parked and not any(x.parked for x in r.copies.values()) for r in map(s.record, s.world.golden()))


def test_s10_what_is_parked_waits_for_one_entry_of_the_clock_however_often_anything_restarts() -> None:
    """One timer for each record, and nothing in the journal until it fires."""
    s, down = with_down()
    for n in range(50):
        s["crm"].create({"email": f"{n}@x", "name": "n"})
    s.run()
    assert s.rows(NORTH) == []
    journal = s.messages()
    for _ in range(3):
        s.world.restart_merge()
        s.world.restart_identify()
        s.run()
    assert s.messages() == journal
    timers = [
        m.key()
        for m in s.world.topics[s.world.context.topics.ops("signals")][0]
        if (m.key() or b"").startswith(b"timer/")
    ]
    assert len(timers) == len(set(timers)) == 50
    down.kind = None
    s.settle(timers=1)
    assert len(s.rows(NORTH)) == 50
    assert len([w for w in s.writes(NORTH) if w.op == "create"]) == 100, "each was tried once before"


def test_people_go_on_editing_what_waits_for_a_tenant_and_its_last_state_comes() -> None:
    s, down = with_down()
    a = s.seed("crm")
    for name in ("one", "two", "three"):
        s["crm"].update(a, {"name": name})
        s.run()
    s[SOUTH].update(s.key(SOUTH), {"city": "Rome"})
    s.run()
    assert s.rows(NORTH) == []
    down.kind = None
    s.settle()
    s.agree()
    assert s.conflicts() == []


@pytest.mark.parametrize("on_exit", ["keep", "delete"])
def test_a_delete_that_a_place_nobody_captures_does_not_take_is_not_forgotten(on_exit: str) -> None:
    """Such a place is told, not asked; but what it has not been told stands there still."""
    down = Down(TENANT_OFF)
    down.kind = None
    hook = System("hooks/one", captured_at_all=False, refuse=down)
    flows = [{"from": "crm", "to": "hooks", "when": "points > 5", "on_exit": on_exit}]
    s = Scene("crm", hook, System("hooks/two", captured_at_all=False), flows=flows)
    a = s.seed("crm")
    down.kind = TENANT_OFF
    s["crm"].update(a, {"name": "Ada"})
    s.run()
    if on_exit == "delete":
        s["crm"].update(a, {"points": 1})
    else:
        s["crm"].delete(a)
    s.run()
    assert s.rows("hooks/two") == []
    assert len(s.rows("hooks/one")) == 1
    s.settle()
    down.kind = None
    s.settle()
    assert s.rows("hooks/one") == []
    at_rest = s.messages()
    s.settle()
    assert s.messages() == at_rest
    if on_exit == "delete":
        s["crm"].update(a, {"points": 6})
        s.settle()
        assert s.row("hooks/one")["name"] == "Ada"


def test_a_create_that_was_never_made_is_not_deleted_where_nobody_captures() -> None:
    """A record that came and went while a tenant was off leaves nothing to do there."""
    down = Down(TENANT_OFF)
    s = Scene("crm", System("hooks/one", captured_at_all=False, refuse=down), flows=[{"from": "crm", "to": "hooks"}])
    a = s.seed("crm")
    s["crm"].delete(a)
    s.settle()
    down.kind = None
    before = len(s.world.writes)
    s.settle()
    assert s.rows("hooks/one") == []
    assert s.world.writes[before:] == []


@pytest.mark.parametrize(
    ("system", "tenant", "tried"),
    [("", "", {NORTH, SOUTH}), ("portal", "", {NORTH, SOUTH}), ("portal", "south", {SOUTH}), ("crm", "", set())],
)
def test_a_resync_lifts_what_is_parked_in_one_tenant_in_all_of_them_or_everywhere(
    system: str, tenant: str, tried: set[str]
) -> None:
    bad = {t: Down("check") for t in (NORTH, SOUTH)}
    s = Scene("crm", *(System(t, refuse=bad[t]) for t in bad), flows=BOTH_WAYS)
    for down in bad.values():
        down.kind = None
    a = s.seed("crm")
    for down in bad.values():
        down.kind = "check"
    s["crm"].update(a, {"name": "Ada"})
    s.settle()
    before = len(s.world.writes)
    for down in bad.values():
        down.kind = None
    s.world.enter(Entry("resync", s.cid, system, tenant))
    s.settle()
    assert {f"{w.system}/{w.tenant}" for w in s.world.writes[before:]} == tried
    assert {t for t in bad if s.row(t)["name"] == "Ada"} == tried


def test_a_resync_of_everything_does_not_hurry_what_is_delayed() -> None:
    s = scene(flows=[{"from": "crm", "to": "portal", "delay_s": 30.0}])
    s.seed("crm")
    s.world.enter(Entry("resync", s.cid))
    s.run()
    assert s.world.writes == []
    s.settle(timers=1)
    s.agree()
