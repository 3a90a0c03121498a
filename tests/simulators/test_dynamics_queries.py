"""Queries and change tracking of the Dynamics simulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from tests.simulators.dynamics_access import control, web_api

TRACK = {"Prefer": "odata.track-changes"}


def _load(there: httpx.Client, kind: str, *records: dict[str, Any]) -> list[str]:
    got = there.post(f"/load/{kind}", json=list(records))
    assert got.status_code == 200, got.text
    ids: list[str] = got.json()["ids"]
    return ids


def _names(got: httpx.Response, column: str = "name") -> list[str]:
    assert got.status_code == 200, got.text
    return [r[column] for r in got.json()["value"]]


def _firms(there: httpx.Client) -> list[str]:
    return _load(
        there,
        "accounts",
        {"name": "Alpha", "revenue": 10, "numberofemployees": 1, "industrycode": 1, "donotemail": True},
        {"name": "beta", "revenue": 20, "numberofemployees": 2, "emailaddress1": "b+1@example.com"},
        {"name": "Gamma O'Neil", "revenue": 30, "industrycode": 2},
        {"name": "delta", "numberofemployees": 4, "websiteurl": "https://delta.example"},
    )


@pytest.fixture
def firms(there: httpx.Client) -> list[str]:
    return _firms(there)


@pytest.fixture(scope="module")
def stock() -> Iterator[httpx.Client]:
    """The Web API of an organisation that no test changes."""
    with Running(DynamicsSimulator()) as running, web_api(running) as client, control(running) as there:
        _firms(there)
        yield client


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name eq 'ALPHA'", "A"),
        ("name ne 'alpha'", "bGd"),
        ("revenue gt 10", "bG"),
        ("revenue ge 10 and revenue lt 30", "Ab"),
        ("revenue eq null", "d"),
        ("not (revenue ne null)", "d"),
        ("contains(name,'o''neil')", "G"),
        ("startswith(name,'a') or endswith(name,'TA')", "Abd"),
        ("(name eq 'alpha' or name eq 'beta') and numberofemployees le 1", "A"),
        ("name in ('alpha','delta')", "Ad"),
        ("Microsoft.Dynamics.CRM.In(PropertyName='name',PropertyValues=['beta','delta'])", "bd"),
        ("Microsoft.Dynamics.CRM.NotIn(PropertyName='industrycode',PropertyValues=[1])", "bGd"),
        ("Microsoft.Dynamics.CRM.Between(PropertyName='revenue',PropertyValues=['15','35'])", "bG"),
        ("industrycode eq 2", "G"),
        ("donotemail eq true", "A"),
        ("emailaddress1 eq 'b+1@example.com'", "b"),
        ("createdon gt 2000-01-01T00:00:00Z and modifiedon ge 2000-01-01", "AbGd"),
        ("modifiedon gt 2999-01-01T00:00:00.5Z", ""),
        ("createdby/fullname eq 'Dana Admin'", "AbGd"),
        ("createdby/fullname eq 'nobody'", ""),
    ],
)
def test_filters(stock: httpx.Client, text: str, expected: str) -> None:
    got = stock.get("accounts", params={"$filter": text, "$select": "name"})
    assert "".join(n[0] for n in _names(got)) == expected


def test_filters_by_id_lookup_and_children(api: httpx.Client, there: httpx.Client, firms: list[str]) -> None:
    bind = {"parentcustomerid_account@odata.bind": f"accounts({firms[0]})"}
    _load(there, "contacts", {"lastname": "C", "jobtitle": "Boss", **bind}, {"lastname": "D"})
    assert _names(api.get(f"accounts?$filter=accountid eq {firms[1]} or accountid eq '{firms[2]}'")) == [
        "beta",
        "Gamma O'Neil",
    ]
    assert _names(api.get(f"contacts?$filter=_parentcustomerid_value eq {firms[0]}"), "lastname") == ["C"]
    assert _names(api.get("contacts?$filter=parentcustomerid_account/name eq 'alpha'"), "lastname") == ["C"]
    anyone = "accounts?$filter=contact_customer_accounts/any(c:c/jobtitle eq 'boss')"
    assert _names(api.get(anyone)) == ["Alpha"]
    expanded = api.get("contacts?$select=lastname&$expand=parentcustomerid_account($select=name)").json()["value"]
    assert [c["parentcustomerid_account"] and c["parentcustomerid_account"]["name"] for c in expanded] == [
        "Alpha",
        None,
    ]


@pytest.mark.parametrize(
    "query",
    [
        "$filter=nothing eq 1",
        "$filter=name eq 1",
        "$filter=name eq",
        "$filter=lower(name) eq 'a'",
        "$select=nothing",
        "$orderby=nothing",
        "$expand=nothing",
        "$skip=1",
        "$search=a",
        "$format=json",
        "$top=none",
    ],
)
def test_what_is_not_supported_or_not_there_is_refused(stock: httpx.Client, query: str) -> None:
    got = stock.get(f"accounts?{query}")
    assert (got.status_code, got.json()["error"]["code"]) == (400, "0x80060888")


def test_500_conditions_are_the_most(api: httpx.Client) -> None:
    def asked(count: int) -> httpx.Response:
        return api.get("contacts", params={"$filter": " or ".join(f"lastname eq 'n{n}'" for n in range(count))})

    assert asked(500).status_code == 200
    assert asked(501).json()["error"]["code"] == "0x8004430C"
    assert api.get("contacts", params={"$filter": f"lastname eq '{'x' * 33_000}'"}).status_code == 414


def test_order_top_and_count(api: httpx.Client, firms: list[str]) -> None:
    assert [n[0] for n in _names(api.get("accounts?$orderby=name desc"))] == ["G", "d", "b", "A"]
    assert [n[0] for n in _names(api.get("accounts?$orderby=revenue,name"))] == ["d", "A", "b", "G"]
    top = api.get("accounts?$orderby=revenue desc&$top=2&$count=true").json()
    assert ([r["name"][0] for r in top["value"]], top["@odata.count"], "@odata.nextLink" in top) == (
        ["G", "b"],
        4,
        False,
    )
    assert api.get("accounts/$count?$filter=revenue gt 15").content.decode("utf-8-sig") == "2"


@pytest.mark.parametrize(
    "order", ["", "&$orderby=modifiedon", "&$orderby=modifiedon,contactid desc", "&$orderby=department,lastname desc"]
)
def test_pages_hold_every_row_once(api: httpx.Client, there: httpx.Client, order: str) -> None:
    _load(there, "contacts", *({"lastname": f"N{n:02}", "department": "ab"[n % 2]} for n in range(23)))
    there.post("/clock", json={"advance_s": 5})
    _load(there, "contacts", *({"lastname": f"N{n:02}"} for n in range(23, 30)))
    size = {"Prefer": "odata.maxpagesize=7"}
    whole = _names(api.get(f"contacts?$select=lastname{order}"), "lastname")
    got = api.get(f"contacts?$select=lastname{order}&$filter=contains(lastname,'N')", headers=size)
    assert got.headers["preference-applied"] == "odata.maxpagesize=7"
    pages = [_names(got, "lastname")]
    while (link := got.json().get("@odata.nextLink")) is not None:
        assert "$skiptoken=%3Ccookie%20pagenumber%3D%22" in link
        got = api.get(link, headers=size)
        pages.append(_names(got, "lastname"))
    assert [len(p) for p in pages] == [7, 7, 7, 7, 2]
    assert [n for p in pages for n in p] == whole
    assert set(whole) == {f"N{n:02}" for n in range(30)}
    assert api.get(f"{api.base_url}contacts?$skiptoken=nonsense").status_code == 400


def test_aggregates(api: httpx.Client, firms: list[str]) -> None:
    def applied(text: str) -> list[dict[str, Any]]:
        got = api.get("accounts", params={"$apply": text})
        assert got.status_code == 200, got.text
        value: list[dict[str, Any]] = got.json()["value"]
        return value

    assert applied("aggregate(revenue with sum as total,$count as n)") == [{"total": 60, "n": 4}]
    groups = applied("filter(revenue ne null)/groupby((industrycode),aggregate(revenue with max as most))")
    assert {(g["industrycode"], g["most"]) for g in groups} == {(1, 10), (None, 20), (2, 30)}


# Change tracking.


def _changes(api: httpx.Client, link: str) -> tuple[list[dict[str, Any]], str]:
    """Follow pages to the delta link; return all rows and the link."""
    rows: list[dict[str, Any]] = []
    while True:
        got = api.get(link, headers={"Prefer": "odata.maxpagesize=4"})
        assert got.status_code == 200, got.text
        rows += got.json()["value"]
        if "@odata.deltaLink" in got.json():
            assert "@odata.nextLink" not in got.json()
            return rows, got.json()["@odata.deltaLink"]
        link = got.json()["@odata.nextLink"]


def test_a_delta_link_gives_the_changes_since_deletions_last(api: httpx.Client, there: httpx.Client) -> None:
    ids = _load(there, "contacts", *({"lastname": f"N{n}"} for n in range(10)))
    first = api.get("contacts?$select=lastname,versionnumber", headers=TRACK)
    assert (len(first.json()["value"]), first.headers["preference-applied"]) == (10, "odata.track-changes")
    link = first.json()["@odata.deltaLink"]
    assert "deltatoken=" in link
    assert _changes(api, link)[0] == []
    there.post("/delete/contact", json=[ids[0]])
    there.post("/edit/contact", json=[{"id": i, "lastname": "Later"} for i in ids[5:8]])
    there.post("/edit/contact", json=[{"id": ids[5], "lastname": "Latest"}])
    (brief,) = _load(there, "contacts", {"lastname": "Brief"})
    there.post("/delete/contact", json=[brief])
    count = api.get(link.replace("contacts?", "contacts/$count?"))
    assert count.content.decode("utf-8-sig") == "5"
    rows, after = _changes(api, link)
    changed, gone = rows[:3], rows[3:]
    assert [(r["contactid"], r["lastname"]) for r in changed] == [
        (ids[6], "Later"),
        (ids[7], "Later"),
        (ids[5], "Latest"),
    ]
    assert [r["versionnumber"] for r in changed] == sorted(r["versionnumber"] for r in changed)
    assert [(g["id"], g["reason"]) for g in gone] == [(ids[0], "deleted"), (brief, "deleted")]
    assert all(g["@odata.context"].endswith("#contacts/$deletedEntity") for g in gone)
    assert api.get(link).json()["@odata.context"].endswith("/$delta")
    assert _changes(api, after)[0] == []
    assert len(_changes(api, link)[0]) == 5  # a link may be used again


def test_what_changes_between_pages_of_a_delta_comes_in_the_next(api: httpx.Client, there: httpx.Client) -> None:
    link = api.get("contacts?$select=lastname", headers=TRACK).json()["@odata.deltaLink"]
    ids = _load(there, "contacts", *({"lastname": f"N{n}"} for n in range(6)))
    first = api.get(link, headers={"Prefer": "odata.maxpagesize=4"}).json()
    there.post("/edit/contact", json=[{"id": ids[5], "lastname": "Moved"}, {"id": ids[0], "lastname": "Again"}])
    rest, after = _changes(api, first["@odata.nextLink"])
    assert [r["lastname"] for r in [*first["value"], *rest]] == ["N0", "N1", "N2", "N3", "N4"]
    assert [r["lastname"] for r in _changes(api, after)[0]] == ["Moved", "Again"]


@pytest.mark.parametrize("option", ["$filter=name eq 'a'", "$orderby=name", "$top=1", "$expand=primarycontactid"])
def test_tracking_refuses_other_options(stock: httpx.Client, option: str) -> None:
    got = stock.get(f"accounts?{option}", headers=TRACK)
    name = option.partition("=")[0]
    assert got.status_code == 400
    expected = f'The "{name}" query parameter isn\'t supported when Change Tracking is enabled.'
    assert got.json()["error"]["message"] == expected


def test_a_delta_link_expires_after_seven_days(api: httpx.Client, dynamics: Running, there: httpx.Client) -> None:
    link = api.get("accounts?$select=name", headers=TRACK).json()["@odata.deltaLink"]
    there.post("/clock", json={"advance_s": 7 * 86_400 - 60})
    with web_api(dynamics) as later:
        assert later.get(link).status_code == 200
        there.post("/clock", json={"advance_s": 120})
    with web_api(dynamics) as latest:
        expired = latest.get(link)
        assert (expired.status_code, expired.json()["error"]["code"]) == (400, "0x80044352")


def test_a_table_without_tracking_says_so(api: httpx.Client, there: httpx.Client) -> None:
    there.post("/tracking/account", json={"enabled": False})
    assert api.get("accounts", headers=TRACK).status_code == 400
    shown = api.get("EntityDefinitions(LogicalName='account')?$select=ChangeTrackingEnabled").json()
    assert shown["ChangeTrackingEnabled"] is False


def test_a_late_row_is_missed_by_its_time_but_not_by_change_tracking(api: httpx.Client, there: httpx.Client) -> None:
    link = api.get("contacts?$select=lastname", headers=TRACK).json()["@odata.deltaLink"]
    there.post("/faults", json={"kind": "late", "delay_s": 60})
    api.post("contacts", json={"lastname": "Late"})
    there.post("/clock", json={"advance_s": 5})
    api.post("contacts", json={"lastname": "Prompt"})
    seen = api.get("contacts?$filter=modifiedon ge 2000-01-01T00:00:00Z&$orderby=modifiedon").json()["value"]
    assert [c["lastname"] for c in seen] == ["Prompt"]
    rows, link = _changes(api, link)
    assert rows == []  # nothing is told past a change that is not there yet
    there.post("/clock", json={"advance_s": 60})
    since = api.get(f"contacts?$filter=modifiedon ge {seen[0]['modifiedon']}").json()["value"]
    assert [c["lastname"] for c in since] == ["Prompt"]
    assert [r["lastname"] for r in _changes(api, link)[0]] == ["Late", "Prompt"]


def test_page_size_and_made_up_rows_are_options() -> None:
    path = "contacts?$select=fullname,_parentcustomerid_value"
    with Running(DynamicsSimulator(page_size="10", accounts="4", contacts="25", seed=3)) as running:
        with web_api(running) as api, control(running) as there:
            got = api.get(path).json()
            assert (len(got["value"]), "@odata.nextLink" in got) == (10, True)
            there.post("/reset")
        with web_api(running) as fresh:
            again = fresh.get(path).json()["value"]
    assert [(c["contactid"], c["fullname"]) for c in again] == [(c["contactid"], c["fullname"]) for c in got["value"]]
