"""Many of Salesforce's records in one call: collections, composite, batch, tree and graph, and what is taken back when some fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulators.orgs import Org, org, refused


@pytest.fixture
def sf() -> Iterator[Org]:
    with org() as serving:
        yield serving


def contact(name: str | None, **more: Any) -> dict[str, Any]:
    return {"attributes": {"type": "Contact"}, "LastName": name, **more}


def test_a_collection_has_one_result_per_record_in_order(sf: Org) -> None:
    body = {
        "allOrNone": False,
        "records": [contact("A"), contact(None), {"attributes": {"type": "Account"}, "Name": "X"}, {"LastName": "B"}],
    }
    results = sf.client.post("/composite/sobjects", json=body).json()
    assert [r["success"] for r in results] == [True, False, True, False]
    assert results[1]["errors"] == [
        {
            "statusCode": "REQUIRED_FIELD_MISSING",
            "message": "Required fields are missing: [LastName]",
            "fields": ["LastName"],
        }
    ]
    assert results[2]["id"].startswith("001")
    assert results[3]["errors"][0]["statusCode"] == "INVALID_TYPE"
    ids = [results[0]["id"], results[2]["id"]]
    changes = [
        {"attributes": {"type": "Contact"}, "Id": ids[0], "Phone": "1"},
        {"attributes": {"type": "Contact"}, "id": "003000000000009", "Phone": "1"},
    ]
    results = sf.client.patch("/composite/sobjects", json={"records": changes}).json()
    assert [r["success"] for r in results] == [True, False]
    assert results[1]["errors"][0]["statusCode"] == "INVALID_CROSS_REFERENCE_KEY"
    results = sf.client.delete("/composite/sobjects", params={"ids": ",".join([*ids, ids[0]])}).json()
    assert [r["success"] for r in results] == [True, True, False]
    assert results[2]["errors"][0]["statusCode"] == "ENTITY_IS_DELETED"


def test_all_or_none_takes_everything_back(sf: Org) -> None:
    body = {"allOrNone": True, "records": [contact("A"), contact(None), contact("C")]}
    got = sf.client.post("/composite/sobjects", json=body)
    assert got.status_code == 200
    codes = [r["errors"][0]["statusCode"] for r in got.json()]
    assert codes == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "REQUIRED_FIELD_MISSING", "ALL_OR_NONE_OPERATION_ROLLED_BACK"]
    assert sf.query("SELECT Id FROM Contact", "/queryAll") == []
    assert sf.control.get("/events").json() == []
    assert sf.control.get("/writes").json() == []


def test_what_a_failed_record_had_begun_is_taken_back_and_not_told(sf: Org) -> None:
    account = sf.load("Account", {"Name": "Acme"})[0]
    inside, other = sf.load("Contact", {"LastName": "A", "AccountId": account}, {"LastName": "B"})
    before = len(sf.control.get("/events").json())
    sf.fault("lock", method="DELETE", skip=2)
    second = sf.load("Contact", {"LastName": "C", "AccountId": account})[0]
    results = sf.client.delete("/composite/sobjects", params={"ids": f"{account},{other}"}).json()
    assert [r["success"] for r in results] == [False, True]
    events = [e["payload"]["ChangeEventHeader"] for e in sf.control.get("/events").json()][before + 1 :]
    assert [(e["changeType"], e["recordIds"]) for e in events] == [("DELETE", [other])]
    assert sf.values("SELECT Id FROM Contact ORDER BY Id") == [inside, second]


@pytest.mark.parametrize("key", ["Tidelock_Id__c", "Email", "Id"])
def test_upserts_go_by_any_field_that_finds_records(sf: Org, key: str) -> None:
    values = {"Tidelock_Id__c": "t1", "Email": "a@x.example", "Id": None}
    path = f"/composite/sobjects/Contact/{key}"
    created = sf.client.patch(path, json={"records": [contact("A", **{key: values[key]})]}).json()[0]
    assert (created["success"], created["created"]) == (True, True)
    again = contact("B", **{key: values[key] or created["id"]})
    changed = sf.client.patch(path, json={"records": [again, contact("C", **{key: values[key]}), contact(None)]}).json()
    assert (changed[0]["id"], changed[0]["created"]) == (created["id"], False)
    assert changed[2]["success"] is False


def test_records_are_read_in_the_order_asked_for(sf: Org) -> None:
    a, b = sf.load("Contact", {"LastName": "A"}, {"LastName": "B"})
    sf.act("/delete/Contact", [a])
    wanted = {"ids": [b, a, "003000000000009"], "fields": ["LastName"]}
    for got in (
        sf.client.post("/composite/sobjects/Contact", json=wanted),
        sf.client.get("/composite/sobjects/Contact", params={k: ",".join(v) for k, v in wanted.items()}),
    ):
        assert [r and r["LastName"] for r in got.json()] == ["B", None, None]


def test_collections_have_limits(sf: Org) -> None:
    many = [contact(f"N{n}") for n in range(201)]
    refused(sf.client.post("/composite/sobjects", json={"records": many}), 400, "EXCEEDED_ID_LIMIT")
    assert len(sf.client.post("/composite/sobjects", json={"records": many[:200]}).json()) == 200
    mixed = [contact("A"), {"attributes": {"type": "Account"}, "Name": "X"}] * 6
    refused(sf.client.post("/composite/sobjects", json={"records": mixed}), 400, "INVALID_INPUT")
    refused(sf.client.post("/composite/sobjects", json={"records": "x"}), 400, "JSON_PARSER_ERROR")


def call(method: str, path: str, name: str, body: Any = None) -> dict[str, Any]:
    return {
        "method": method,
        "url": f"/services/data/v60.0{path}",
        "referenceId": name,
        **({"body": body} if body is not None else {}),
    }


def test_a_composite_call_refers_to_what_came_before(sf: Org) -> None:
    calls = [
        call("POST", "/sobjects/Account", "firm", {"Name": "Acme"}),
        call("POST", "/sobjects/Contact", "person", {"LastName": "A", "AccountId": "@{firm.id}"}),
        call("GET", "/query?q=SELECT+Id,+AccountId+FROM+Contact+WHERE+Id='@{person.id}'", "found"),
        call("PATCH", "/sobjects/Account/@{found.records[0].AccountId}", "change", {"Site": "of @{person.id}"}),
        call("GET", "/sobjects/Account/@{nowhere.id}", "lost"),
    ]
    got = sf.client.post("/composite", json={"compositeRequest": calls}).json()["compositeResponse"]
    assert [(r["referenceId"], r["httpStatusCode"]) for r in got] == [
        ("firm", 201),
        ("person", 201),
        ("found", 200),
        ("change", 204),
        ("lost", 400),
    ]
    assert got[0]["httpHeaders"]["Location"].startswith("/services/data/v60.0/sobjects/Account/")
    assert got[4]["body"][0]["errorCode"] == "PROCESSING_HALTED"
    assert sf.values("SELECT Site FROM Account") == [f"of {got[1]['body']['id']}"]


def test_a_composite_call_is_taken_back_as_a_whole_if_wanted(sf: Org) -> None:
    calls = [
        call("POST", "/sobjects/Account", "one", {"Name": "Acme"}),
        call("POST", "/sobjects/Account", "two", {}),
        call("POST", "/sobjects/Account", "three", {"Name": "Bond"}),
    ]
    got = sf.client.post("/composite", json={"allOrNone": True, "compositeRequest": calls}).json()["compositeResponse"]
    assert [r["httpStatusCode"] for r in got] == [400, 400, 400]
    assert [r["body"][0]["errorCode"] for r in got] == [
        "PROCESSING_HALTED",
        "REQUIRED_FIELD_MISSING",
        "PROCESSING_HALTED",
    ]
    assert sf.query("SELECT Id FROM Account", "/queryAll") == []
    got = sf.client.post("/composite", json={"compositeRequest": calls}).json()["compositeResponse"]
    assert [r["httpStatusCode"] for r in got] == [201, 400, 201]


def test_composite_calls_have_limits(sf: Org) -> None:
    reads = [call("GET", "/limits", f"r{n}") for n in range(26)]
    refused(sf.client.post("/composite", json={"compositeRequest": reads}), 400, "BAD_REQUEST")
    queries = [call("GET", "/query?q=SELECT+Id+FROM+User", f"r{n}") for n in range(6)]
    refused(sf.client.post("/composite", json={"compositeRequest": queries}), 400, "BAD_REQUEST")
    assert sf.client.post("/composite", json={"compositeRequest": queries[:5]}).status_code == 200
    refused(sf.client.post("/composite", json={"compositeRequest": [reads[0], reads[0]]}), 400, "BAD_REQUEST")


def test_a_batch_goes_on_or_halts(sf: Org) -> None:
    calls = [
        {"method": "POST", "url": "v60.0/sobjects/Account", "richInput": {"Name": "Acme"}},
        {"method": "GET", "url": "v60.0/sobjects/Account/001000000000009"},
        {"method": "GET", "url": "/services/data/v60.0/query?q=SELECT+Id+FROM+Account"},
    ]
    got = sf.client.post("/composite/batch", json={"batchRequests": calls}).json()
    assert (got["hasErrors"], [r["statusCode"] for r in got["results"]]) == (True, [201, 404, 200])
    assert got["results"][2]["result"]["totalSize"] == 1
    got = sf.client.post("/composite/batch", json={"haltOnError": True, "batchRequests": calls}).json()
    assert [r["statusCode"] for r in got["results"]] == [201, 404, 412]
    assert got["results"][2]["result"][0]["errorCode"] == "BATCH_PROCESSING_HALTED"


def test_a_tree_plants_parents_with_their_children_or_nothing(sf: Org) -> None:
    def tree(name: str | None) -> dict[str, Any]:
        child = {"attributes": {"type": "Contact", "referenceId": "c1"}, "LastName": name}
        return {
            "records": [
                {
                    "attributes": {"type": "Account", "referenceId": "a1"},
                    "Name": "Acme",
                    "Contacts": {"records": [child]},
                }
            ]
        }

    failed = sf.client.post("/composite/tree/Account", json=tree(None))
    assert (failed.status_code, failed.json()["hasErrors"], failed.json()["results"][0]["referenceId"]) == (
        400,
        True,
        "c1",
    )
    assert sf.query("SELECT Id FROM Account") == []
    done = sf.client.post("/composite/tree/Account", json=tree("A"))
    assert (done.status_code, [r["referenceId"] for r in done.json()["results"]]) == (201, ["a1", "c1"])
    assert sf.values("SELECT AccountId FROM Contact") == [done.json()["results"][0]["id"]]


def test_each_graph_stands_or_falls_alone(sf: Org) -> None:
    good = [
        call("POST", "/sobjects/Account", "a", {"Name": "Acme"}),
        call("POST", "/sobjects/Contact", "c", {"LastName": "A", "AccountId": "@{a.id}"}),
    ]
    bad = [call("POST", "/sobjects/Account", "a", {"Name": "Bond"}), call("POST", "/sobjects/Contact", "c", {})]
    graphs = [{"graphId": "g1", "compositeRequest": good}, {"graphId": "g2", "compositeRequest": bad}]
    got = sf.client.post("/composite/graph", json={"graphs": graphs}).json()["graphs"]
    assert [(g["graphId"], g["isSuccessful"]) for g in got] == [("g1", True), ("g2", False)]
    assert sf.values("SELECT Name FROM Account") == ["Acme"]
