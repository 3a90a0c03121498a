"""What `status` says of one flow: never ok while something is known to stand in its way."""

from __future__ import annotations

import pytest

from tests.model.scene import configure
from tests.model.systems import System
from tidelock.captures import STUCK_AFTER, unread
from tidelock.places import tenant_key
from tidelock.status import Flow, Trouble, _flow, troubles
from tidelock.topics import Topics

CONFIG = configure([System("alpha"), System("beta")])
FULL = "no room left: make some"


@pytest.mark.parametrize(
    ("lag", "letters", "silent", "down", "state"),
    [
        (0, 0, set(), {}, "ok"),
        (7, 0, set(), {}, "ok"),
        (7, 0, set(), {"beta": FULL}, "waits"),
        (7, 2, set(), {"beta": FULL}, "waits"),
        (0, 2, set(), {"beta": FULL}, "degraded"),
        (0, 0, set(), {"beta": FULL}, "ok"),  # nothing is to be written there, so nothing waits
        (7, 0, set(), {"alpha": FULL}, "ok"),
        (7, 0, {"sink.beta"}, {"beta": FULL}, "no signal"),
        (10_001, 0, set(), {}, "late"),
    ],
)
def test_the_state_of_a_flow(lag: int, letters: int, silent: set[str], down: dict[str, str], state: str) -> None:
    topic = Topics(CONFIG.prefix).sync("beta", "contact")
    flow = _flow(
        CONFIG, "beta", "contact", {}, None, {topic: lag}, {("beta", "contact"): letters}, silent, [], down, [], []
    )
    assert flow.state == state
    assert (flow.next == "") == (state == "ok")
    if state == "waits":
        assert flow.next == FULL


TENANTS = configure(
    [System(n) for n in ("crm", "portal/north", "portal/south", "portal/west")],
    flows=[{"from": "crm", "to": "portal"}],
    tenants={"portal/west": {"enabled": False}},
)


def record(state: str, message: str = "it does not answer", hint: str = "look") -> dict[str, object]:
    return {"state": state, "message": message, "hint": hint, "since": 1000.5, "again_at": 1060.0}


def flow(found: list[Trouble], system: str = "portal", lag: int = 0) -> Flow:
    topic = Topics(TENANTS.prefix).sync(system, "contact")
    return _flow(TENANTS, system, "contact", {}, None, {topic: lag}, {}, set(), [], {}, found, [])


def test_tenants_that_take_no_writes_stand_in_signals_and_in_the_configuration() -> None:
    signals = {
        tenant_key("portal", "south"): record("waits"),
        tenant_key("portal", "west"): record("waits"),
        tenant_key("portal", "former"): record("waits"),
        tenant_key("gone", "default"): record("waits"),
    }
    assert troubles(signals, TENANTS) == [
        Trouble("portal", "south", "waits", 1000.5, "it does not answer", "look"),
        Trouble("portal", "west", "off", None, "it is switched off", "set systems.portal.tenants.west.enabled to true"),
    ]
    assert troubles({}, CONFIG) == []


@pytest.mark.parametrize(
    ("states", "state", "tenants"),
    [
        ({"north": "waits"}, "waits", "waits: north; off: west"),
        ({"north": "revoked", "south": "waits"}, "waits", "revoked: north; waits: south; off: west"),
        ({"south": "busy"}, "ok", "busy: south; off: west"),
        ({}, "ok", "off: west"),
    ],
)
def test_a_flow_names_the_tenants_that_take_no_writes(states: dict[str, str], state: str, tenants: str) -> None:
    found = troubles({tenant_key("portal", t): record(s) for t, s in states.items()}, TENANTS)
    row = flow(found)
    assert (row.state, row.tenants) == (state, tenants)
    assert bool(row.next) == (state != "ok")
    if state == "waits":
        assert row.next.startswith("north: it does not answer: look")
    other = flow(found, "crm")
    assert (other.state, other.tenants) == ("ok", "")


def test_of_many_tenants_a_few_are_named() -> None:
    found = [Trouble("portal", f"t{n}", "waits", 1.0, "down", "") for n in range(200)]
    row = flow(found)
    assert row.tenants == "waits: t0, t1, t2, t3, t4 and 195 more"
    assert row.next == "t0: down; and 199 more tenants"


API = configure(
    [System(n) for n in ("crm", "portal/north", "portal/south", "portal/west")],
    flows=[{"from": "portal", "to": "crm"}],
    tenants={"portal/west": {"enabled": False}},
)


def capture_of(failures: int = 0, error: str | None = None) -> dict[str, object]:
    return {"kind": "capture", "state": {"seq": 1, "failures": failures, "error": error}}


@pytest.mark.parametrize(
    ("north", "south", "state", "what"),
    [
        (capture_of(), capture_of(), "ok", ""),
        (capture_of(), None, "no signal", "south: its capture has told nothing yet"),
        (None, None, "no signal", "and 1 more tenants"),
        (capture_of(1, "no connection"), capture_of(), "ok", ""),
        (
            capture_of(STUCK_AFTER, "the key is no longer good\n  → connect"),
            None,
            "waits",
            "north: the key is no longer good",
        ),
    ],
)
def test_a_flow_whose_capture_fails_or_has_told_nothing_is_not_ok(
    north: dict[str, object] | None, south: dict[str, object] | None, state: str, what: str
) -> None:
    records = {f"capture/portal/{t}/contact": r for t, r in (("north", north), ("south", south)) if r is not None}
    row = _flow(API, "portal", "contact", {}, None, {}, {}, set(), [], {}, [], unread(records, API))
    assert row.state == state
    assert what in row.next
    assert bool(row.next) == (state != "ok")
    other = _flow(API, "crm", "contact", {}, None, {}, {}, set(), [], {}, [], unread({}, API))
    assert other.state == "ok", "a database tells by its worker"


def test_a_place_whose_first_seed_has_ended_is_known() -> None:
    seeded: dict[str, dict[str, object]] = {f"seeded/portal/{t}/contact": {} for t in ("north", "south")}
    assert not unread(seeded, API)
