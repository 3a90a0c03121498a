"""SOQL, its pages, and the changed and deleted records of a window of time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from simulators.salesforce import SalesforceSimulator
from tests.simulators.orgs import Org, org, refused

PEOPLE = (
    {"LastName": "Adler", "FirstName": "Ada", "Email": "ada@x.example", "LeadSource": "Web", "Birthdate": "1990-05-01"},
    {
        "LastName": "brandt",
        "FirstName": "Ben",
        "Email": "ben@x.example",
        "LeadSource": "Other",
        "Birthdate": "1985-01-31",
    },
    {"LastName": "Conti", "Email": "chiara_c@x.example", "LeadSource": "Web"},
    {"LastName": "O'Neil", "FirstName": "Dan", "DoNotCall": True},
)


@pytest.fixture(scope="module")
def sf() -> Iterator[Org]:
    with org() as serving:
        first, second = serving.load(
            "Account",
            {"Name": "Acme", "AnnualRevenue": 100},
            {"Name": "Bond", "AnnualRevenue": 300, "Tidelock_Id__c": "b"},
        )
        people: list[dict[str, Any]] = [dict(p) for p in PEOPLE]
        people[0]["AccountId"], people[1]["AccountId"], people[2]["AccountId"] = first, first, second
        serving.load("Contact", *people)
        gone = serving.load("Contact", {"LastName": "Gone"})
        serving.act("/delete/Contact", gone)
        yield serving


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("LastName = 'BRANDT'", ["brandt"]),
        ("LastName = 'O\\'Neil'", ["O'Neil"]),
        ("LastName != 'Adler'", ["brandt", "Conti", "O'Neil"]),
        ("LastName > 'b' AND LastName < 'd'", ["brandt", "Conti"]),
        ("Email LIKE 'chiara\\_c%' OR Email LIKE '%BEN@%'", ["brandt", "Conti"]),
        ("Email LIKE '_da@x.example'", ["Adler"]),
        ("Email IN ('ada@x.example', 'BEN@x.example')", ["Adler", "brandt"]),
        ("Email NOT IN ('ada@x.example')", ["brandt", "Conti", "O'Neil"]),
        ("Email = null", ["O'Neil"]),
        ("FirstName != null", ["Adler", "brandt", "O'Neil"]),
        ("DoNotCall = true", ["O'Neil"]),
        ("NOT (LeadSource = 'Web')", ["brandt", "O'Neil"]),
        ("LeadSource = 'Web' AND (FirstName = 'Ada' OR Email = 'nobody@x.example')", ["Adler"]),
        ("Birthdate >= 1990-05-01", ["Adler"]),
        ("Birthdate < 1990-05-01", ["brandt"]),
        ("CreatedDate = TODAY", ["Adler", "brandt", "Conti", "O'Neil"]),
        ("CreatedDate = LAST_N_DAYS:7 AND CreatedDate > YESTERDAY", ["Adler", "brandt", "Conti", "O'Neil"]),
        ("CreatedDate < LAST_MONTH", []),
        ("Birthdate < LAST_N_YEARS:3", ["Adler", "brandt"]),
        ("Account.Name = 'acme'", ["Adler", "brandt"]),
        ("Account.AnnualRevenue >= 300", ["Conti"]),
        ("Account.Owner.Name LIKE 'Sam%'", ["Adler", "brandt", "Conti"]),
        ("AccountId IN (SELECT Id FROM Account WHERE AnnualRevenue < 200)", ["Adler", "brandt"]),
        (
            "SystemModstamp >= 2000-01-01T00:00:00Z AND SystemModstamp <= 2999-01-01T00:00:00.000+01:00",
            ["Adler", "brandt", "Conti", "O'Neil"],
        ),
        ("SystemModstamp < 2000-01-01T00:00:00Z", []),
        ("CALENDAR_YEAR(Birthdate) = 1985", ["brandt"]),
        ("SystemModstamp >= 2999-01-01T00:00:00Z OR LastName = 'Conti'", ["Conti"]),
        (
            "SystemModstamp >= 2999-01-01T00:00:00Z OR SystemModstamp >= 2000-01-01T00:00:00Z",
            ["Adler", "brandt", "Conti", "O'Neil"],
        ),
    ],
)
def test_conditions_find(sf: Org, where: str, found: list[str]) -> None:
    assert sf.values(f"SELECT LastName FROM Contact WHERE {where} ORDER BY LastName") == found


def test_picklists_of_several_values_hold_each(fresh: Org) -> None:
    fresh.act(
        "/fields/Contact",
        {"name": "Likes__c", "type": "multipicklist", "values": ["tea", "coffee", "milk"], "restricted": True},
    )
    fresh.load(
        "Contact", {"LastName": "A", "Likes__c": "tea;milk"}, {"LastName": "B", "Likes__c": "coffee"}, {"LastName": "C"}
    )
    find = "SELECT LastName FROM Contact WHERE Likes__c {} ORDER BY LastName"
    assert fresh.values(find.format("INCLUDES ('tea;milk', 'coffee')")) == ["A", "B"]
    assert fresh.values(find.format("INCLUDES ('tea;coffee')")) == []
    assert fresh.values(find.format("EXCLUDES ('milk')")) == ["B", "C"]
    wrong = fresh.client.post("/sobjects/Contact", json={"LastName": "D", "Likes__c": "tea;rum"})
    refused(wrong, 400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST")


def test_order_limits_and_nulls(sf: Org) -> None:
    assert sf.values("SELECT FirstName FROM Contact ORDER BY FirstName") == [None, "Ada", "Ben", "Dan"]
    assert sf.values("SELECT FirstName FROM Contact ORDER BY FirstName DESC NULLS LAST") == ["Dan", "Ben", "Ada", None]
    assert sf.values("SELECT LastName FROM Contact ORDER BY LeadSource NULLS LAST, LastName DESC LIMIT 2 OFFSET 1") == [
        "Conti",
        "Adler",
    ]
    assert sf.values(
        "SELECT LastName FROM Contact c WHERE c.LastName != 'x' ORDER BY Account.Name NULLS LAST, c.LastName LIMIT 3"
    ) == ["Adler", "brandt", "Conti"]


def test_parents_and_children_come_nested(sf: Org) -> None:
    row = sf.query("SELECT LastName, Account.Name, Account.Owner.Name FROM Contact WHERE LastName = 'Conti'")[0]
    assert (row["Account"]["Name"], row["Account"]["attributes"]["type"], row["Account"]["Owner"]["Name"]) == (
        "Bond",
        "Account",
        "Sam Seller",
    )
    assert sf.query("SELECT Account.Name FROM Contact WHERE LastName = 'O\\'Neil'")[0]["Account"] is None
    rows = sf.query(
        "SELECT Name, (SELECT LastName FROM Contacts WHERE FirstName != null ORDER BY LastName DESC LIMIT 1) FROM Account ORDER BY Name"
    )
    assert [r["LastName"] for r in rows[0]["Contacts"]["records"]] == ["brandt"]
    assert rows[1]["Contacts"] is None


def test_aggregates_count_and_group(sf: Org) -> None:
    assert sf.client.get("/query/", params={"q": "SELECT COUNT() FROM Contact"}).json() == {
        "totalSize": 4,
        "done": True,
        "records": [],
    }
    assert sf.query("SELECT COUNT(Email), MAX(Birthdate) last FROM Contact") == [
        {"attributes": {"type": "AggregateResult"}, "expr0": 3, "last": "1990-05-01"}
    ]
    rows = sf.query(
        "SELECT LeadSource, COUNT(Id) n FROM Contact GROUP BY LeadSource ORDER BY COUNT(Id) DESC, LeadSource"
    )
    assert [(r["LeadSource"], r["n"]) for r in rows] == [("Web", 2), (None, 1), ("Other", 1)]
    rows = sf.query(
        "SELECT Account.Name, COUNT_DISTINCT(LastName) FROM Contact GROUP BY Account.Name HAVING COUNT(Id) > 1"
    )
    assert [(r["Name"], r["expr0"]) for r in rows] == [("Acme", 2)]
    rows = sf.query("SELECT SUM(AnnualRevenue), AVG(AnnualRevenue), MIN(AnnualRevenue) FROM Account")
    assert [(r["expr0"], r["expr1"], r["expr2"]) for r in rows] == [(400.0, 200.0, 100.0)]


def test_fields_by_group(sf: Org) -> None:
    row = sf.query("SELECT FIELDS(ALL) FROM Account WHERE Name = 'Bond' LIMIT 1")[0]
    assert (row["Tidelock_Id__c"], row["Name"]) == ("b", "Bond")
    assert "Tidelock_Id__c" not in sf.query("SELECT FIELDS(STANDARD) FROM Account")[0]
    assert set(sf.query("SELECT Id, FIELDS(CUSTOM) FROM Account LIMIT 200")[0]) == {
        "attributes",
        "Id",
        "Tidelock_Id__c",
    }
    refused(sf.client.get("/query", params={"q": "SELECT FIELDS(ALL) FROM Account"}), 400, "MALFORMED_QUERY")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (
            "SELECT Nose FROM Contact",
            "INVALID_FIELD",
            "ERROR at Row:1:Column:8\nNo such column 'Nose' on entity 'Contact'. If you are attempting to use a custom field",
        ),
        ("SELECT Id FROM Nothing", "INVALID_TYPE", "sObject type 'Nothing' is not supported"),
        ("SELECT Id FROM Contact WHERE", "MALFORMED_QUERY", "unexpected token: '<EOF>'"),
        (
            "SELECT Id FROM Contact WHERE Id = 'x' OR Name = 'y' AND Name = 'z'",
            "MALFORMED_QUERY",
            "unexpected token: 'AND'",
        ),
        ("SELECT Id FROM Contact WHERE Id = 'x'", "INVALID_QUERY_FILTER_OPERATOR", "invalid ID field: x"),
        (
            "SELECT Id FROM Contact WHERE CreatedDate > '2026-01-01'",
            "INVALID_FIELD",
            "must be of type dateTime and should not be enclosed in quotes",
        ),
        (
            "SELECT Id FROM Contact WHERE LastName = 5",
            "INVALID_FIELD",
            "must be of type string and should be enclosed in quotes",
        ),
        ("SELECT Id FROM Contact OFFSET 2001", "NUMBER_OUTSIDE_VALID_RANGE", "Maximum SOQL offset allowed is 2000"),
        ("SELECT LastName, COUNT(Id) FROM Contact", "MALFORMED_QUERY", "Field must be grouped or aggregated: LastName"),
        ("SELECT Id, Id FROM Contact", "MALFORMED_QUERY", "duplicate field selected: Id"),
        ("SELECT Id FROM Contact WHERE Nose.Name = 'x'", "INVALID_FIELD", "Didn't understand relationship 'Nose'"),
        ("SELECT Id, (SELECT Id FROM Noses) FROM Account", "INVALID_TYPE", "Didn't understand relationship 'Noses'"),
    ],
)
def test_what_a_query_must_not_say(sf: Org, text: str, code: str, said: str) -> None:
    assert said in refused(sf.client.get("/query", params={"q": text}), 400, code)["message"]


def test_deleted_records_are_seen_by_query_all_alone(sf: Org) -> None:
    assert sf.query("SELECT Id FROM Contact WHERE LastName = 'Gone'") == []
    assert [r["IsDeleted"] for r in sf.query("SELECT IsDeleted FROM Contact WHERE LastName = 'Gone'", "/queryAll")] == [
        True
    ]
    counts = sf.client.get("/limits/recordCount", params={"sObjects": "Contact,Account"}).json()
    assert counts == {"sObjects": [{"count": 4, "name": "Contact"}, {"count": 2, "name": "Account"}]}


@pytest.fixture
def big() -> Iterator[Org]:
    with org(records="4500") as serving:
        yield serving


def _pages(sf: Org, first: httpx.Response) -> Iterator[dict[str, Any]]:
    page = first.json()
    yield page
    while not page["done"]:
        page = sf.client.get(f"{sf.http}{page['nextRecordsUrl']}").json()
        yield page


def test_pages_hold_two_thousand_or_as_hinted_and_lose_nothing(big: Org) -> None:
    text = "SELECT Id FROM Contact ORDER BY SystemModstamp, Id"
    pages = list(_pages(big, big.client.get("/query", params={"q": text})))
    assert [len(p["records"]) for p in pages] == [2000, 2000, 500]
    assert {p["totalSize"] for p in pages} == {4500}
    assert pages[0]["nextRecordsUrl"].startswith("/services/data/v68.0/query/")
    assert len({r["Id"] for p in pages for r in p["records"]}) == 4500
    hinted = big.client.get("/queryAll", params={"q": text}, headers={"Sforce-Query-Options": "batchSize=500"})
    assert [len(p["records"]) for p in _pages(big, hinted)] == [500] * 9


def test_a_keyset_walks_through_one_second_without_looking_at_all(big: Org) -> None:
    seen: list[str] = []
    at, last = "2000-01-01T00:00:00.000+0000", ""
    while True:
        after = f" OR (SystemModstamp = {at} AND Id > '{last}')" if last else ""
        rows = big.query(
            f"SELECT Id, SystemModstamp FROM Contact WHERE SystemModstamp > {at}{after} ORDER BY SystemModstamp, Id LIMIT 700"
        )
        if not rows:
            break
        seen += [r["Id"] for r in rows]
        at, last = rows[-1]["SystemModstamp"], rows[-1]["Id"]
    assert len(seen) == len(set(seen)) == 4500


def test_a_locator_goes_stale_with_time_by_order_or_when_there_are_too_many(big: Org) -> None:
    def begin() -> str:
        return str(big.client.get("/query", params={"q": "SELECT Id FROM Contact"}).json()["nextRecordsUrl"])

    big.fault("stale_locator")
    refused(big.client.get(big.http + begin()), 400, "INVALID_QUERY_LOCATOR")
    url = begin()
    for _ in range(50):
        begin()
    refused(big.client.get(big.http + url), 400, "INVALID_QUERY_LOCATOR")
    url = begin()
    big.advance(2 * 86400 + 1)
    with big.signed_in() as again:
        refused(again.get(big.http + url), 400, "INVALID_QUERY_LOCATOR")


# getUpdated and getDeleted.


def _moment(sf: Org, ahead_s: float = 0.0) -> str:
    at = datetime.fromtimestamp(sf.simulator.clock.now(), UTC) + timedelta(seconds=ahead_s)
    return at.isoformat(timespec="seconds")


@pytest.fixture
def fresh() -> Iterator[Org]:
    with org(updated_ids="3") as serving:
        yield serving


def _window(sf: Org, what: str, back_s: float = 600.0, ahead_s: float = 0.0) -> httpx.Response:
    return sf.client.get(
        f"/sobjects/Contact/{what}", params={"start": _moment(sf, -back_s), "end": _moment(sf, ahead_s)}
    )


def test_changed_and_deleted_ids_of_a_window(fresh: Org) -> None:
    a, b = fresh.load("Contact", {"LastName": "A"}, {"LastName": "B"})
    fresh.act("/delete/Contact", [b])
    fresh.advance(120)
    got = _window(fresh, "updated/")
    assert got.json()["ids"] == [a]
    assert got.json()["latestDateCovered"] == got.json()["latestDateCovered"][:17] + "00.000+0000"
    gone = _window(fresh, "deleted").json()
    assert [r["id"] for r in gone["deletedRecords"]] == [b]
    assert gone["earliestDateAvailable"] < gone["latestDateCovered"]
    fresh.act("/undelete/Contact", [b])
    assert _window(fresh, "deleted", ahead_s=60).json()["deletedRecords"] == []
    assert _window(fresh, "updated", ahead_s=60).json()["ids"] == [a, b]


def test_windows_have_rules(fresh: Org) -> None:
    for back_s, ahead_s, what in (
        (600, -900, "updated"),
        (60, 0, "updated"),
        (31 * 86400, 0, "updated"),
        (16 * 86400, 0, "deleted"),
    ):
        refused(_window(fresh, what, back_s, ahead_s), 400, "INVALID_REPLICATION_DATE")
    assert _window(fresh, "deleted", 14 * 86400).status_code == 200
    fresh.act("/trim-deletions", {"keep_s": 3600})
    refused(_window(fresh, "deleted", 14 * 86400), 400, "INVALID_REPLICATION_DATE")
    assert _window(fresh, "deleted", 1800).status_code == 200
    fresh.load("Contact", *({"LastName": f"N{n}"} for n in range(4)))
    fresh.advance(120)
    refused(_window(fresh, "updated"), 400, "EXCEEDED_ID_LIMIT")
    refused(fresh.client.get("/sobjects/Contact/updated"), 400, "MISSING_ARGUMENT")


def test_what_commits_late_is_stamped_early_and_holds_the_covered_date_back(fresh: Org) -> None:
    old = fresh.load("Contact", {"LastName": "Old"})[0]
    fresh.advance(300)
    fresh.fault("late", delay_s=900, times=2)
    late = fresh.create("Contact", LastName="Late")
    assert fresh.client.patch(f"/sobjects/Contact/{old}", json={"LastName": "Changed"}).status_code == 204
    stamped = fresh.simulator.org.tables["Contact"].rows[late]["SystemModstamp"]
    fresh.advance(600)
    refused(fresh.client.get(f"/sobjects/Contact/{late}"), 404, "NOT_FOUND")
    assert fresh.values("SELECT LastName FROM Contact") == ["Old"]
    assert fresh.values(f"SELECT LastName FROM Contact WHERE SystemModstamp < {stamped}") == ["Old"]
    got = _window(fresh, "updated", 1200, 60).json()
    assert (got["ids"], got["latestDateCovered"]) == ([old], stamped)
    again = fresh.client.patch(f"/sobjects/Contact/{late}", json={"Phone": "1"})
    assert again.status_code == 204  # who wrote it knows its id, whatever readers see
    assert fresh.control.get("/events").json()[-1]["payload"]["ChangeEventHeader"]["recordIds"] == [old]
    fresh.advance(301)
    assert fresh.values("SELECT LastName FROM Contact ORDER BY LastName") == ["Changed", "Late"]
    got = _window(fresh, "updated", 1800, 60).json()
    assert got["ids"] == sorted([old, late])
    assert got["latestDateCovered"] > stamped
    types = [e["payload"]["ChangeEventHeader"]["changeType"] for e in fresh.control.get("/events").json()]
    assert types == ["CREATE", "CREATE", "UPDATE", "UPDATE"]


def test_the_sample_data_is_the_same_for_the_same_seed() -> None:
    one, two, other = (SalesforceSimulator(seed=s, records="20") for s in (1, 1, 2))
    names = [[r["Name"] for r in s.dump("Contact")] for s in (one, two, other)]
    assert names[0] == names[1]
    assert names[0] != names[2]
