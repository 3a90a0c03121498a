"""Scenarios about HubSpot's habits, without HubSpot: one address per contact, polling, merges, its own spelling of addresses."""

from __future__ import annotations

import pytest

from tests.model.scene import Scene
from tests.model.systems import System


def portal() -> System:
    """Return a system as HubSpot is: polled, one contact per address, with a property for our ids."""
    return System("hubspot", log=False, unique=True, external_id=True)


@pytest.mark.parametrize("ambiguous", ["quarantine", "separate"])
def test_s25_two_contacts_of_dynamics_with_one_address_never_overwrite_each_other(ambiguous: str) -> None:
    """HubSpot can hold only one of them. Neither takes a value of the other by way of it, whoever edits what."""
    s = Scene("dynamics", portal(), ambiguous=ambiguous)
    mother = s.seed("dynamics", name="Mother", city="Bath")
    child = s["dynamics"].create({"email": "p@x", "name": "Child", "city": "York"})
    s.settle()
    assert [r["name"] for r in s.rows("hubspot")] == ["Mother"]
    held = next(iter(s["hubspot"].rows))
    for n in range(3):
        s["hubspot"].update(held, {"city": f"Hull {n}"})
        s["dynamics"].update(child, {"name": f"Child {n}"})
        s.settle()
    s["dynamics"].update(mother, {"name": "Mother II"})
    s.settle()
    s.settle()
    rows = s["dynamics"].rows
    assert (rows[mother].values["name"], rows[mother].values["city"]) == ("Mother II", "Hull 2")
    assert (rows[child].values["name"], rows[child].values["city"]) == ("Child 2", "York")
    assert [(r["name"], r["city"]) for r in s.rows("hubspot")] == [("Mother II", "Hull 2")]
    at_rest = s.messages()
    s.run()
    assert s.messages() == at_rest


def test_of_two_records_that_are_merged_in_hubspot_one_is_left_everywhere() -> None:
    """The capture tells the older key as changed and the other as deleted: the older link stays, and nothing is created anew."""
    s = Scene("crm", portal())
    first = s["crm"].create({"email": "a@x", "name": "A", "city": "Bath"})
    second = s["crm"].create({"email": "b@x", "name": "B", "city": "York"})
    s.settle()
    hub = s["hubspot"]
    keys = {str(r.values["email"]): k for k, r in hub.rows.items()}
    cids = dict(s.world.linked())
    hub.delete(keys["b@x"])
    hub.update(keys["a@x"], {"email": "b@x", "name": "B"})  # the younger one was the primary: its values win
    s.settle()
    assert [(r["email"], r["name"], r["city"]) for r in s.rows("crm")] == [("b@x", "B", "Bath")]
    assert s["crm"].rows[first].alive
    assert not s["crm"].rows[second].alive
    assert s.world.linked() == {k: v for k, v in cids.items() if k in (("crm", first), ("hubspot", keys["a@x"]))}
