"""Searches: operators, groups, limits, the walk past ten thousand rows, and the lag behind writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.patience import until
from tests.simulators.hubspotting import CONTACTS, Portal
from tests.simulators.hubspotting import portal as serving


@pytest.fixture
def portal() -> Iterator[Portal]:
    with serving() as running:
        yield running


_COMPANIES: list[dict[str, Any]] = [
    {"name": "Blue Water Ltd", "domain": "blue.example.com", "numberofemployees": "9", "type": "PROSPECT"},
    {"name": "Red Rock", "domain": "red.example.com", "numberofemployees": "10", "type": "PARTNER"},
    {"name": "Blue Sky", "numberofemployees": "100", "type": "VENDOR"},
    {"name": "Nameless"},
]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (("name", "EQ", "red rock"), {1}),
        (("name", "NEQ", "red rock"), {0, 2, 3}),
        (("numberofemployees", "LT", "10"), {0}),
        (("numberofemployees", "LTE", "10"), {0, 1}),
        (("numberofemployees", "GT", "9"), {1, 2}),
        (("numberofemployees", "GTE", "10"), {1, 2}),
        (("numberofemployees", "EQ", "10.0"), {1}),
        (("numberofemployees", "BETWEEN", "9", "10"), {0, 1}),
        (("type", "IN", ["PARTNER", "VENDOR"]), {1, 2}),
        (("type", "NOT_IN", ["PARTNER", "VENDOR"]), {0, 3}),
        (("domain", "HAS_PROPERTY"), {0, 1}),
        (("domain", "NOT_HAS_PROPERTY"), {2, 3}),
        (("name", "CONTAINS_TOKEN", "blue"), {0, 2}),
        (("domain", "CONTAINS_TOKEN", "*.example.com"), {0, 1}),
        (("name", "NOT_CONTAINS_TOKEN", "blue"), {1, 3}),
    ],
)
def test_operators(portal: Portal, condition: tuple[Any, ...], found: set[int]) -> None:
    ids = portal.order("/load/companies", _COMPANIES)["ids"]
    body = portal.search("companies", filters=[condition])
    assert {r["id"] for r in body["results"]} == {ids[n] for n in found}
    assert body["total"] == len(found)


def test_groups_are_alternatives_and_filters_conditions(portal: Portal) -> None:
    ids = portal.order("/load/companies", _COMPANIES)["ids"]
    groups = [
        {
            "filters": [
                {"propertyName": "name", "operator": "CONTAINS_TOKEN", "value": "blue"},
                {"propertyName": "type", "operator": "EQ", "value": "VENDOR"},
            ]
        },
        {"filters": [{"propertyName": "numberofemployees", "operator": "NOT_HAS_PROPERTY"}]},
    ]
    body = portal.call("POST", "/crm/v3/objects/companies/search", {"filterGroups": groups, "properties": ["name"]})
    assert [r["id"] for r in body["results"]] == [ids[2], ids[3]]
    assert portal.search("companies", query="blue lt")["total"] == 1


def test_equal_values_are_found_after_they_have_moved(portal: Portal) -> None:
    one = portal.contact(email="a@example.com", city="Bonn")
    bonn = [("city", "EQ", "Bonn")]
    assert portal.search(filters=bonn)["total"] == 1
    portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"city": "Kiel"}})
    assert portal.search(filters=bonn)["total"] == 0
    assert portal.search(filters=[("city", "IN", ["kiel"])])["total"] == 1
    portal.call("DELETE", f"{CONTACTS}/{one}", expect=204)
    assert portal.search()["total"] == 0


@pytest.mark.parametrize(
    ("more", "filters"),
    [
        ({"limit": 201}, []),
        ({"limit": 0}, []),
        ({"after": "9999", "limit": 2}, []),
        ({"sorts": ["city", "email"]}, []),
        ({"sorts": ["nonsense"]}, []),
        ({"query": "x" * 3001}, []),
        ({}, [("nonsense", "EQ", "1")]),
        ({}, [("city", "LIKE", "1")]),
        ({}, [("city", "EQ")]),
        ({}, [("city", "IN")]),
        ({}, [("lastmodifieddate", "GT", "yesterday")]),
        ({}, [("city", "EQ", str(n)) for n in range(7)]),
    ],
)
def test_what_a_search_does_not_do(portal: Portal, more: dict[str, Any], filters: list[Any]) -> None:
    assert portal.search(filters=filters, **more, expect=400)["category"] == "VALIDATION_ERROR"


def test_the_number_of_groups_and_filters_is_an_option() -> None:
    groups = [{"filters": [{"propertyName": "city", "operator": "EQ", "value": str(n)}]} for n in range(6)]
    body = {"filterGroups": groups}
    with serving() as portal:
        portal.call("POST", f"{CONTACTS}/search", body, expect=400)
    with serving(search_groups="10", search_group_filters="10", search_filters="25") as portal:
        portal.call("POST", f"{CONTACTS}/search", body)


def test_a_walk_by_id_within_a_window_of_time_goes_past_ten_thousand_rows(portal: Portal) -> None:
    ids = portal.order("/load/contacts", [{"firstname": str(n)} for n in range(10_250)])["ids"]
    end = portal.order("/clock", {})["now"] * 1000
    seen: list[str] = []
    last, pages = "0", 0
    while True:
        window = [("lastmodifieddate", "BETWEEN", "0", str(int(end))), ("hs_object_id", "GT", last)]
        page = portal.search(filters=window, sorts=["hs_object_id"], limit=200, properties=["firstname"])
        pages += 1
        if not page["results"]:
            break
        assert page["total"] == len(ids) - len(seen)
        seen += [r["id"] for r in page["results"]]
        last = seen[-1]
    assert seen == ids
    assert pages == 53
    deep = portal.search(limit=200, after="9800")
    assert deep["total"] == 10_250
    portal.search(limit=200, after=deep["paging"]["next"]["after"], expect=400)


def test_changes_since_a_moment_come_in_order_of_time(portal: Portal) -> None:
    ids = portal.order("/load/contacts", [{"firstname": str(n)} for n in range(5)])["ids"]
    portal.advance(10)
    moment = int(portal.order("/clock", {})["now"] * 1000)
    for n in (3, 1):
        portal.order("/edit/contacts", [{"id": ids[n], "city": "Bonn"}])
        portal.advance(1)
    sorts = [{"propertyName": "lastmodifieddate", "direction": "ASCENDING"}]
    body = portal.search(filters=[("lastmodifieddate", "GTE", str(moment))], sorts=sorts)
    assert [r["id"] for r in body["results"]] == [ids[3], ids[1]]
    assert body["results"][0]["updatedAt"] == body["results"][0]["properties"]["lastmodifieddate"]


def test_a_search_follows_writes_after_a_while_and_shows_what_stood_then() -> None:
    with serving(search_lag_s="3600") as portal:
        one = portal.contact(email="a@example.com", city="Bonn")
        assert portal.search()["total"] == 0
        portal.advance(3000)
        portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"city": "Kiel"}})
        assert portal.values(one, "city")["city"] == "Kiel"
        portal.advance(1000)
        assert portal.search(properties=["city"])["results"][0]["properties"]["city"] == "Bonn"
        portal.advance(3000)
        assert portal.search(properties=["city"])["results"][0]["properties"]["city"] == "Kiel"


def test_the_usual_lag_is_a_second() -> None:
    with serving(search_lag_s="1") as portal:
        portal.contact(email="a@example.com")
        until(lambda: portal.search()["total"] == 1)


def test_a_record_can_be_held_back_longer_than_a_later_one(portal: Portal) -> None:
    portal.fault("search_late", delay_s=3600)
    late = portal.contact(email="late@example.com")
    soon = portal.contact(email="soon@example.com")
    assert [r["id"] for r in portal.search()["results"]] == [soon]
    portal.advance(3601)
    assert [r["id"] for r in portal.search()["results"]] == [late, soon]


def test_five_searches_a_second_pass_without_headers_that_say_so() -> None:
    with serving(search_per_s="5", burst="100", daily="1000") as portal:
        got: list[httpx.Response] = []
        for _ in range(40):
            got.append(portal.client.post(f"{CONTACTS}/search", json={}))
            if got[-1].status_code == 429:
                break
        limited = got[-1]
        assert limited.status_code == 429
        assert limited.json()["message"] == "You have reached your secondly limit."
        assert limited.json()["policyName"] == "SECONDLY"
        assert not [h for g in got for h in g.headers if "ratelimit" in h.lower() or h.lower() == "retry-after"]
        portal.advance(1)
        portal.search()
