"""What a first sync would do, and duplicates: told from what was captured, by the stages themselves, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from processors.duplicates import duplicates
from processors.preview import Place, preview
from tests.model.scene import Scene
from tests.model.world import ENTITY, World
from tidelock.errors import Fatal


def captured(scene: Scene) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the last change of every record, as the command reads them; nothing of it has been routed."""
    world = scene.world
    for system in world.systems.values():
        while system.captured:
            world.capture(system)
    for topic in dict.fromkeys(world.cdc.values()):
        latest: dict[bytes, bytes] = {}
        for messages in world.topics.get(topic, ()):
            for m in messages:
                if m.key() is not None and m.value() is not None:
                    latest[m.key() or b""] = m.value() or b""
        yield from ((topic, key, value) for key, value in latest.items())


def foreseen(scene: Scene) -> dict[str, Place]:
    """Return what a first sync would do, by place."""
    return {f"{p.system}/{p.tenant}": p for p in preview(scene.world.context, captured(scene))}


def scene(**options: Any) -> Scene:
    """Return two systems that feed each other, before their first sync; crm wins."""
    flows = [{"from": ["crm", "shop"], "to": ["crm", "shop"]}]
    made = Scene("crm", "shop", **({"flows": flows, "policy": "priority", "priority": ["crm", "shop"]} | options))
    made.world = World(made.config, list(made.world.systems.values()), seeded=False)
    return made


def test_it_says_what_would_be_made_changed_and_left_alone() -> None:
    s = scene()
    s["crm"].create({"email": "same@x", "name": "Same"})
    s["shop"].create({"email": "same@x", "name": "Same"})
    s["crm"].create({"email": "differs@x", "name": "As the crm has it"})
    s["shop"].create({"email": "differs@x", "name": "As the shop has it"})
    s["crm"].create({"email": "new@x", "name": "New"})
    found = foreseen(s)
    crm, shop = found["crm/default"], found["shop/default"]
    assert (crm.held, crm.planned) == (3, [])
    assert (shop.held, shop.count("create"), shop.count("update"), shop.untouched) == (2, 1, 1, 1)
    (update,) = [p for p in shop.planned if p.op == "update"]
    assert update.columns == {"name": ("As the shop has it", "As the crm has it")}
    (create,) = [p for p in shop.planned if p.op == "create"]
    assert create.key is None
    assert create.columns["email"] == (None, "new@x")


def test_it_foresees_what_then_happens() -> None:
    s = scene()
    for i in range(6):
        s["crm"].create({"email": f"{i}@x", "name": f"crm {i}"})
        s["shop"].create({"email": f"{i + 3}@x", "name": f"shop {i + 3}", "city": "Oslo"})
    before = {name: {r["email"]: dict(r) for r in s.rows(name)} for name in ("crm", "shop")}
    found = foreseen(s)
    s.run()  # nothing is made yet: not all is known to have been looked at
    for system in s.world.systems.values():
        s.world.end_seed(system)
    s.run()
    for name in ("crm", "shop"):
        then = {r["email"]: r for r in s.rows(name)}
        changed = {e: r for e, r in then.items() if r != before[name].get(e)}
        planned = {
            p.columns["email"][1] if p.op == "create" else s[name].rows[str(p.key)].values["email"]: p
            for p in found[f"{name}/default"].planned
        }
        assert planned.keys() == changed.keys()
        for email, p in planned.items():
            assert (p.op == "create") is (email not in before[name])
            assert {n: new for n, (_, new) in p.columns.items() if n != "hub_id"}.items() <= changed[email].items()


def test_records_that_share_a_key_are_shown_as_kept_aside() -> None:
    """S25."""
    s = scene()
    s["crm"].create({"email": "both@x", "name": "One"})
    s["crm"].create({"email": "both@x", "name": "Two"})
    s["shop"].create({"email": "both@x", "name": "Only"})
    found = foreseen(s)
    kept = found["crm/default"].refused + found["shop/default"].refused
    assert kept["ambiguous_match"] >= 1
    assert found["shop/default"].count("create") == 0


def test_duplicates_are_grouped_by_the_most_certain_key() -> None:
    s = scene()
    a = s["crm"].create({"email": "Both@X", "name": "One"})
    b = s["crm"].create({"email": "both@x", "name": "Two"})
    s["crm"].create({"email": "alone@x", "name": "Three"})
    groups, looked = duplicates(s.world.context, "crm", ENTITY, captured(s))
    assert looked == 3
    (group,) = groups
    assert group.match == ("email",)
    assert group.value == ("both@x",)
    assert set(group.records) == {a, b}
    assert group.records[b]["name"] == "Two"


def test_an_entity_without_match_keys_has_no_duplicates_to_look_for() -> None:
    s = scene(match=[])
    with pytest.raises(Fatal, match="no match keys"):
        duplicates(s.world.context, "crm", ENTITY, [])


def test_what_two_customers_have_is_no_duplicate_and_what_one_has_twice_is() -> None:
    """Match keys end with whose a record is, where tenants say so."""
    given = {f"org/{c}": {"fields": {"city": c}} for c in ("acme", "bolt")}
    bound = {"org": {"map": [{"column": f, "field": f} for f in ("email", "name", "points")]}}
    s = Scene("crm", *given, tenants=given, tables=bound)
    twice = {s["org/acme"].create({"email": "both@x", "name": name}) for name in ("One", "Two")}
    s["org/bolt"].create({"email": "both@x", "name": "Three"})
    groups, looked = duplicates(s.world.context, "org", ENTITY, captured(s))
    assert looked == 3
    (group,) = groups
    assert (group.tenant, group.match, group.value) == ("acme", ("email", "city"), ("both@x", "acme"))
    assert set(group.records) == twice
