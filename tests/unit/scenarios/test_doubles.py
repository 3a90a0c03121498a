"""S25 across two vendors: Dynamics lets contacts share an e-mail address, HubSpot does not. And S22: what Dynamics keeps differently."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.scene import Scene
from tests.model.systems import System


class Dynamics(System):
    """Keeps an empty text as nothing."""

    def stored(self, column: str, value: Any) -> Any:
        return None if value == "" else super().stored(column, value)


def two_with_one_address() -> tuple[Scene, str, str]:
    """Return mother and child in Dynamics under one address, with HubSpot beside it, everything at rest."""
    s = Scene(Dynamics("dynamics", log=False, external_id=True), System("hubspot", log=False, unique=True))
    mother = s["dynamics"].create({"email": "p@x", "name": "Mother", "city": "Bath"})
    child = s["dynamics"].create({"email": "p@x", "name": "Child", "city": "York"})
    s.settle()
    return s, mother, child


def people(s: Scene, system: str) -> dict[str, tuple[str, str]]:
    """Return name and city by e-mail address and key."""
    return {k: (r.values["name"], r.values["city"]) for k, r in s[system].rows.items() if r.alive}


def test_s25_neither_of_two_dynamics_contacts_overwrites_the_other_through_hubspot() -> None:
    """S25: the first is synced, the second is held for a person, and both records are named in the alert."""
    s, mother, child = two_with_one_address()
    (contact,) = s.rows("hubspot")
    assert (contact["email"], contact["name"]) == ("p@x", "Mother")
    s["hubspot"].update(s.key("hubspot"), {"city": "Hull"})
    s["dynamics"].update(child, {"name": "Child II"})
    s.settle()
    assert people(s, "dynamics") == {mother: ("Mother", "Hull"), child: ("Child II", "York")}
    assert list(people(s, "hubspot").values()) == [("Mother", "Hull")]
    (alert,) = (a for a in s.alerts() if a["kind"] == "ambiguous_match")
    assert alert["subject"] == child
    assert mother in alert["message"]
    assert child in alert["message"]
    parked = s.world.context.topics.dlq("identify", "dynamics", "contact")
    assert sum(len(m) for m in s.world.topics[parked]) >= 1, "what is held is a dead letter, too"


@pytest.mark.parametrize("who", ["the one that is held", "the one that is synced"])
def test_s25_a_change_of_address_sets_both_free(who: str) -> None:
    """S25: as soon as the addresses differ there are two contacts in HubSpot, each with its own values; nothing else has moved."""
    s, mother, child = two_with_one_address()
    s["dynamics"].update(child if who == "the one that is held" else mother, {"email": "q@x"})
    s.settle()
    assert sorted(people(s, "hubspot").values()) == [("Child", "York"), ("Mother", "Bath")]
    assert people(s, "dynamics") == {mother: ("Mother", "Bath"), child: ("Child", "York")}
    by_address = {r["email"]: r["name"] for r in s.rows("hubspot")}
    assert by_address == {r["email"]: r["name"] for r in s.rows("dynamics")}
    assert len(by_address) == 2
    quiet = s.messages()
    s.settle()
    assert s.messages() == quiet


def test_s25_an_address_taken_from_somebody_in_hubspot_is_not_forced_on_it() -> None:
    """S25: two synced contacts come to share an address in Dynamics; HubSpot refuses it, and keeps both as they were."""
    s = Scene(Dynamics("dynamics", log=False, external_id=True), System("hubspot", log=False, unique=True))
    s["dynamics"].create({"email": "p@x", "name": "Mother", "city": "Bath"})
    child = s["dynamics"].create({"email": "q@x", "name": "Child", "city": "York"})
    s.settle()
    s["dynamics"].update(child, {"email": "p@x"})
    s.settle()
    assert {r["email"]: r["name"] for r in s.rows("hubspot")} == {"p@x": "Mother", "q@x": "Child"}
    s["dynamics"].update(child, {"email": "r@x"})
    s.settle()
    assert {r["email"]: r["name"] for r in s.rows("hubspot")} == {"p@x": "Mother", "r@x": "Child"}


def test_s22_an_empty_text_that_dynamics_keeps_as_nothing_does_not_come_back() -> None:
    """S22: HubSpot holds an empty text, Dynamics holds nothing: both rest, and no further write is made."""
    s = Scene(Dynamics("dynamics", log=False, external_id=True), System("hubspot", log=False, unique=True))
    s["hubspot"].create({"email": "p@x", "name": "Ann", "city": "Bath"})
    s.settle()
    s["hubspot"].update(s.key("hubspot"), {"city": ""})
    s.settle()
    assert s.row("dynamics")["city"] is None
    assert s.row("hubspot")["city"] == ""
    quiet = s.messages()
    for system in ("dynamics", "hubspot"):
        s[system].reread(s.key(system))
    s.settle()
    assert (s.row("dynamics")["city"], s.row("hubspot")["city"]) == (None, "")
    assert s.messages() - quiet <= 4, "the readings themselves, through capture and journal"
    assert not s.conflicts()
