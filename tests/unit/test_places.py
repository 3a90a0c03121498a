"""Places: what the tenants of a system share, what is each one's own, and what is known of a tenant that is gone (processors.plan)."""

from __future__ import annotations

from typing import Any

import pytest

from processors.destinations import Choice, destinations
from processors.identify import grants
from processors.mapping import compile_plans
from processors.record import Record
from tests.model.scene import FIELD_SPECS, columns, configure
from tests.model.systems import System
from tidelock.avro import NULL, FieldType, encode_slice
from tidelock.errors import Reject

NORTH, SOUTH = "portal/north", "portal/south"
BOTH_WAYS = ({"from": "crm", "to": "portal"}, {"from": "portal", "to": "crm"})


def test_places_stand_in_the_order_of_the_file_and_rank_with_their_system() -> None:
    systems = [System(n) for n in ("crm", NORTH, SOUTH, "shop")]
    plan = compile_plans(configure(systems, priority=["shop", "portal", "crm"]))["contact"]
    assert list(plan.places) == ["crm/default", NORTH, SOUTH, "shop/default"]
    assert list(plan.systems) == ["crm", "portal", "shop"]
    assert [plan.rank_of(p) for p in ("shop/default", NORTH, SOUTH, "crm/default")] == [0, 1, 2, 3]
    assert plan.rank_of("portal/gone") == 2
    assert plan.rank_of("gone/default") == 4
    assert [plan.shown(p) for p in ("crm/default", NORTH, "portal/gone")] == ["crm", NORTH, "portal/gone"]


def test_a_tenant_that_is_gone_has_a_plan_and_a_system_that_is_gone_has_none() -> None:
    plan = compile_plans(configure([System(n) for n in ("crm", NORTH)]))["contact"]
    gone = plan.places["portal/gone"]
    assert (gone.system, gone.tenant, gone.place) == ("portal", "gone", "portal/gone")
    assert gone is plan.places["portal/gone"]
    assert list(plan.places) == ["crm/default", NORTH]
    with pytest.raises(Reject) as caught:
        plan.places["gone/default"]
    assert caught.value.kind == "unknown_place"


def test_creates_are_granted_in_advance_where_every_record_belongs() -> None:
    systems = [System(n) for n in ("crm", NORTH, SOUTH, "portal/west")]
    plan = compile_plans(configure(systems, tenants={SOUTH: {"when": "points > 5"}}, flows=BOTH_WAYS))["contact"]
    assert grants(plan, "crm/default") == (NORTH, "portal/west")
    assert grants(plan, NORTH) == ("crm/default", "portal/west")
    one_way = compile_plans(configure(systems, flows=BOTH_WAYS[1:]))["contact"]
    assert grants(one_way, NORTH) == ("crm/default",)


def test_every_tenant_has_references_of_its_own() -> None:
    """A key means a record only together with the tenant that knows it."""
    fields = {"email": {}, "boss": {"references": "contact"}}
    kinds = columns(email="string", boss="string")
    systems = [System(n, columns=kinds) for n in ("crm", NORTH, SOUTH)]
    plan = compile_plans(configure(systems, fields=fields))["contact"]
    text = encode_slice(FieldType.STRING, "17")
    read = {
        place: p.reader(kinds).read(
            next(b.index for b in p.bindings if b.columns == (p.columns.index("boss"),)), [text]
        )
        for place, p in plan.places.items()
    }
    assert read == {
        "crm/default": (encode_slice(FieldType.STRING, "crm:17"),),
        NORTH: (encode_slice(FieldType.STRING, "portal/north:17"),),
        SOUTH: (encode_slice(FieldType.STRING, "portal/south:17"),),
    }
    assert plan.places["portal/gone"].reader(kinds).read(1, [text]) == (
        encode_slice(FieldType.STRING, "portal/gone:17"),
    )
    north, south = plan.places[NORTH], plan.places[SOUTH]
    assert [a is b for a, b in zip(north.bindings, south.bindings, strict=True)] == [True, False], "the rest is shared"


def test_two_hundred_tenants_share_what_is_compiled() -> None:
    """Bindings, readers, and what conditions say of a value are there once, not once per tenant."""
    names = [f"portal/t{n}" for n in range(200)]
    tenants = {n: {"when": f"city == '{n}'"} for n in names}
    plan = compile_plans(configure([System(n) for n in ("crm", *names)], tenants=tenants, flows=BOTH_WAYS))["contact"]
    portals = [p for p in plan.places.values() if p.system == "portal"]
    assert len({id(p.bindings) for p in portals}) == 1
    assert len({id(p.reader(System("x").columns)) for p in portals}) == 1
    asked = 0

    def counted(when: Any) -> Any:
        def ask(values: Any) -> bool:
            nonlocal asked
            asked += 1
            return bool(when(values))

        return ask

    for p in portals:
        p.when = counted(p.when)
    choice = Choice(destinations(plan))
    record = Record([NULL] * len(FIELD_SPECS), [0] * len(FIELD_SPECS))
    record.values[plan.field_index["city"]] = encode_slice(FieldType.STRING, "portal/t7")
    for _ in range(50):
        assert [d.place for d in choice.of(record)] == ["crm/default", "portal/t7"]
    assert asked == 200
