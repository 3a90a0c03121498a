"""Salesforce's records over REST: written, checked, found, deleted and brought back, as the vendor words it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.simulators.orgs import Org, org, refused


@pytest.fixture
def sf() -> Iterator[Org]:
    with org() as serving:
        yield serving


def test_a_record_is_created_read_changed_and_deleted(sf: Org) -> None:
    got = sf.client.post(
        "/sobjects/Contact/", json={"LastName": "Lovelace", "FirstName": "Ada", "Email": "ada@x.example"}
    )
    assert (got.status_code, got.json()["success"], got.json()["errors"]) == (201, True, [])
    id_ = got.json()["id"]
    assert len(id_) == 18
    assert id_.startswith("003")
    assert got.headers["location"].endswith(f"/services/data/v68.0/sobjects/Contact/{id_}")
    read = sf.client.get(f"/sobjects/Contact/{id_}").json()
    assert read["Name"] == "Ada Lovelace"
    assert read["attributes"] == {"type": "Contact", "url": f"/services/data/v68.0/sobjects/Contact/{id_}"}
    assert read["CreatedById"] == sf.credentials["user_id"]
    assert read["SystemModstamp"].endswith(".000+0000")
    assert (
        sf.client.patch(f"/sobjects/Contact/{id_}", json={"FirstName": None, "MailingCity": "Graz"}).status_code == 204
    )
    few = sf.client.get(f"/sobjects/Contact/{id_[:15]}", params={"fields": "FirstName,Name,MailingAddress"}).json()
    assert (few["FirstName"], few["Name"], few["MailingAddress"]["city"], few["Id"]) == (None, "Lovelace", "Graz", id_)
    assert "Email" not in few
    assert sf.client.delete(f"/sobjects/Contact/{id_}").status_code == 204
    refused(sf.client.get(f"/sobjects/Contact/{id_}"), 404, "NOT_FOUND")
    error = refused(sf.client.patch(f"/sobjects/Contact/{id_}", json={"FirstName": "A"}), 404, "ENTITY_IS_DELETED")
    assert (error["message"], error["fields"]) == ("entity is deleted", [])


def test_every_version_is_answered_with_itself(sf: Org) -> None:
    id_ = sf.create("Account", Name="Acme")
    headers = {"authorization": sf.client.headers["authorization"]}
    for version in ("31.0", "59.0", "68.0"):
        got = httpx.get(f"{sf.http}/services/data/v{version}/sobjects/Account/{id_}", headers=headers)
        assert got.json()["attributes"]["url"] == f"/services/data/v{version}/sobjects/Account/{id_}"
    refused(httpx.get(f"{sf.http}/services/data/v30.0/sobjects", headers=headers), 404, "NOT_FOUND")
    listed = httpx.get(f"{sf.http}/services/data/").json()
    assert (listed[0]["version"], listed[-1]["version"]) == ("31.0", "68.0")
    assert listed[-1]["label"] == "Winter '27"
    resources = sf.client.get("/").json()
    assert resources["sobjects"] == "/services/data/v68.0/sobjects"
    assert resources["identity"].endswith(f"/id/{sf.credentials['org_id']}/{sf.credentials['user_id']}")


def test_an_upsert_creates_once_and_then_changes(sf: Org) -> None:
    path = "/sobjects/Contact/Tidelock_Id__c/a%2Fb%20c"
    created = sf.client.patch(path, json={"LastName": "Lovelace"})
    assert (created.status_code, created.json()["created"]) == (201, True)
    changed = sf.client.patch(path, json={"LastName": "King"})
    assert (changed.status_code, changed.json()["created"]) == (200, False)
    assert changed.json()["id"] == created.json()["id"]
    assert sf.client.get(path).json()["Tidelock_Id__c"] == "a/b c"
    old = httpx.patch(
        f"{sf.http}/services/data/v45.0{path}",
        json={"LastName": "Byron"},
        headers={"authorization": sf.client.headers["authorization"]},
    )
    assert (old.status_code, old.content) == (204, b"")
    error = refused(sf.client.patch(path, json={"Tidelock_Id__c": "x", "LastName": "y"}), 400, "INVALID_FIELD")
    assert "should not be specified in the sobject data" in error["message"]
    missing = sf.client.patch(
        "/sobjects/Contact/Tidelock_Id__c/new", params={"updateOnly": "true"}, json={"LastName": "x"}
    )
    refused(missing, 404, "NOT_FOUND")
    error = refused(sf.client.patch("/sobjects/Contact/Phone/1", json={"LastName": "x"}), 404, "NOT_FOUND")
    assert error["message"] == "Provided external ID field does not exist or is not accessible: Phone"
    assert sf.client.post("/sobjects/Contact/Id", json={"LastName": "New"}).status_code == 201


def test_an_external_id_that_several_have_answers_with_them_and_writes_nothing(sf: Org) -> None:
    ids = sf.load("Contact", {"LastName": "A", "Email": "same@x.example"}, {"LastName": "B", "Email": "same@x.example"})
    got = sf.client.patch("/sobjects/Contact/Email/same@x.example", json={"FirstName": "Z"})
    assert got.status_code == 300
    assert got.json() == [f"/services/data/v68.0/sobjects/Contact/{i}" for i in ids]
    assert sf.values("SELECT FirstName FROM Contact") == [None, None]


@pytest.mark.parametrize(
    ("fields", "code", "message", "named"),
    [
        ({}, "REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName]", ["LastName"]),
        (
            {"LastName": "x" * 81},
            "STRING_TOO_LONG",
            f"Last Name: data value too large: {'x' * 81} (max length=80)",
            ["LastName"],
        ),
        ({"LastName": "x", "Email": "no"}, "INVALID_EMAIL_ADDRESS", "Email: invalid email address: no", ["Email"]),
        ({"LastName": "x", "Nose": "y"}, "INVALID_FIELD", "No such column 'Nose' on sobject of type Contact", None),
        ({"LastName": "x", "Birthdate": "soon"}, "JSON_PARSER_ERROR", None, None),
        ({"LastName": 5}, "JSON_PARSER_ERROR", None, None),
        ({"LastName": "x", "AccountId": "nope"}, "MALFORMED_ID", None, ["AccountId"]),
        ({"LastName": "x", "AccountId": "003000000000001"}, "FIELD_INTEGRITY_EXCEPTION", None, ["AccountId"]),
        (
            {"LastName": "x", "AccountId": "001000000000001"},
            "INVALID_CROSS_REFERENCE_KEY",
            "invalid cross reference id",
            None,
        ),
        ({"LastName": "x", "Name": "y"}, "INVALID_FIELD_FOR_INSERT_UPDATE", None, ["Name"]),
        ({"LastName": "x", "Id": "003000000000001"}, "INVALID_FIELD_FOR_INSERT_UPDATE", None, ["Id"]),
    ],
)
def test_what_a_field_cannot_hold_is_refused(
    sf: Org, fields: dict[str, Any], code: str, message: str | None, named: list[str] | None
) -> None:
    error = refused(sf.client.post("/sobjects/Contact", json=fields), 400, code)
    assert message in {None, error["message"]}
    assert named in (None, error.get("fields"))
    assert sf.values("SELECT COUNT(Id) FROM Contact") == [0]


def test_values_are_trimmed_rounded_and_cut_to_seconds(sf: Org) -> None:
    sf.act(
        "/fields/Contact",
        [
            {"name": "Seen__c", "type": "datetime"},
            {"name": "Rate__c", "type": "currency", "scale": 2},
            {"name": "Vip__c", "type": "boolean"},
        ],
    )
    id_ = sf.create(
        "Contact", LastName="  Lovelace ", Seen__c="2026-01-02T03:04:05.678+02:00", Rate__c=1.005, FirstName=""
    )
    row = sf.client.get(f"/sobjects/Contact/{id_}").json()
    assert (row["LastName"], row["Seen__c"], row["FirstName"]) == ("Lovelace", "2026-01-02T01:04:05.000+0000", None)
    assert (row["Rate__c"], row["Vip__c"]) == (1.0, False)


def test_a_unique_value_is_refused_with_the_short_id_of_who_has_it(sf: Org) -> None:
    first = sf.create("Contact", LastName="A", Tidelock_Id__c="t1")
    second = sf.create("Contact", LastName="B")
    error = refused(
        sf.client.patch(f"/sobjects/Contact/{second}", json={"Tidelock_Id__c": "T1"}), 400, "DUPLICATE_VALUE"
    )
    assert error["message"] == f"duplicate value found: Tidelock_Id__c duplicates value on record with id: {first[:15]}"
    sf.client.delete(f"/sobjects/Contact/{first}")
    assert sf.client.patch(f"/sobjects/Contact/{second}", json={"Tidelock_Id__c": "T1"}).status_code == 204


def test_a_parent_is_named_by_its_external_id(sf: Org) -> None:
    account = sf.create("Account", Name="Acme", Tidelock_Id__c="a1")
    contact = sf.create("Contact", LastName="A", Account={"Tidelock_Id__c": "a1"})
    assert sf.values("SELECT AccountId FROM Contact") == [account]
    wrong = sf.client.post("/sobjects/Contact", json={"LastName": "B", "Account": {"Tidelock_Id__c": "a2"}})
    assert "Foreign key external ID: a2 not found" in refused(wrong, 400, "INVALID_FIELD")["message"]
    assert sf.client.get(f"/sobjects/Contact/{contact}/Account").json()["Name"] == "Acme"
    assert sf.client.get(f"/sobjects/Account/{account}/Contacts").json()["totalSize"] == 1
    sf.client.delete(f"/sobjects/Account/{account}")
    assert sf.query("SELECT Id FROM Contact") == []


def test_restricted_picklists_hold_what_is_allowed_and_others_anything(sf: Org) -> None:
    account = sf.create("Account", Name="Acme", Industry="Beekeeping")
    order = {"AccountId": account, "EffectiveDate": "2026-11-01", "Status": "Lost"}
    error = refused(sf.client.post("/sobjects/Order", json=order), 400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST")
    assert error["message"] == "Status: bad value for restricted picklist field: Lost"
    created = sf.create("Order", **{**order, "Status": "Draft"})
    assert sf.client.get(f"/sobjects/Order/{created}").json()["OrderNumber"] == "00000100"


def test_describe_tells_what_clients_look_at(sf: Org) -> None:
    listed = {o["name"]: o for o in sf.client.get("/sobjects/").json()["sobjects"]}
    assert {"Account", "Contact", "Lead", "Opportunity", "Product2", "Order", "User"} <= set(listed)
    assert listed["Contact"]["urls"]["describe"] == "/services/data/v68.0/sobjects/Contact/describe"
    assert (listed["Contact"]["mergeable"], listed["Product2"]["mergeable"], listed["User"]["deletable"]) == (
        True,
        False,
        False,
    )
    got = sf.client.get("/sobjects/Contact/describe").json()
    fields = {f["name"]: f for f in got["fields"]}
    ours = fields["Tidelock_Id__c"]
    assert (ours["externalId"], ours["unique"], ours["idLookup"], ours["custom"], ours["length"]) == (
        True,
        True,
        True,
        True,
        64,
    )
    assert (fields["LastName"]["nillable"], fields["FirstName"]["nillable"]) == (False, True)
    assert (fields["Name"]["createable"], fields["LastName"]["compoundFieldName"]) == (False, "Name")
    assert fields["AccountId"]["referenceTo"] == ["Account"]
    assert "Web" in [v["value"] for v in fields["LeadSource"]["picklistValues"]]
    children = sf.client.get("/sobjects/Account/describe").json()["childRelationships"]
    assert "Contacts" in [c["relationshipName"] for c in children]
    refused(sf.client.get("/sobjects/Nothing/describe"), 404, "NOT_FOUND")


def test_an_administrator_makes_objects_and_fields(sf: Org) -> None:
    made = sf.act(
        "/objects",
        {
            "name": "Invoice__c",
            "fields": [
                {"name": "Amount__c", "type": "currency", "scale": 2},
                {"name": "Payer__c", "type": "reference", "refers": ["Account"], "children": "Invoices__r"},
            ],
        },
    )
    account = sf.create("Account", Name="Acme")
    id_ = sf.create("Invoice__c", Amount__c=12.5, Payer__c=account)
    assert id_.startswith(made["prefix"])
    assert sf.query("SELECT Amount__c, Payer__r.Name FROM Invoice__c")[0]["Payer__r"]["Name"] == "Acme"
    assert sf.query("SELECT Id, (SELECT Amount__c FROM Invoices__r) FROM Account")[0]["Invoices__r"]["totalSize"] == 1
    assert sf.control.post("/objects", json={"name": "Invoice"}).status_code == 400


def test_what_is_loaded_is_a_persons_and_what_is_written_is_on_record(sf: Org) -> None:
    loaded = sf.load("Contact", {"LastName": "A"})[0]
    written = sf.create("Contact", LastName="B")
    assert sf.row("Contact", loaded)["LastModifiedById"] != sf.credentials["user_id"]
    assert sf.row("Contact", written)["LastModifiedById"] == sf.credentials["user_id"]
    sf.act("/edit/Contact", [{"id": written, "Phone": "1"}])
    assert sf.row("Contact", written)["LastModifiedById"] == sf.row("Contact", loaded)["LastModifiedById"]
    writes = sf.control.get("/writes", params={"clients": "true"}).json()
    assert [(w["op"], w["id"], w["fields"]) for w in writes] == [("create", written, {"LastName": "B"})]
    got = sf.control.post("/load/Contact", json=[{"LastName": "C", "Email": "no"}])
    assert (got.status_code, "INVALID_EMAIL_ADDRESS" in got.json()["error"]) == (400, True)


def test_deleted_records_are_brought_back_and_merged_ones_say_into_what(sf: Org) -> None:
    a, b, c = sf.load("Account", {"Name": "A"}, {"Name": "B"}, {"Name": "C"})
    contact = sf.load("Contact", {"LastName": "X", "AccountId": b})[0]
    sf.act("/delete/Account", [c])
    sf.act("/undelete/Account", [c])
    sf.act("/merge/Account", {"master": a, "losers": [b], "fields": {"Phone": "7"}})
    rows = {r["Name"]: r for r in sf.query("SELECT Name, IsDeleted, MasterRecordId, Phone FROM Account", "/queryAll")}
    assert [(r["IsDeleted"], r["MasterRecordId"]) for r in (rows["A"], rows["B"], rows["C"])] == [
        (False, None),
        (True, a),
        (False, None),
    ]
    assert rows["A"]["Phone"] == "7"
    assert sf.row("Contact", contact)["AccountId"] == a


def test_a_background_process_moves_the_system_stamp_alone(sf: Org) -> None:
    id_ = sf.load("Contact", {"LastName": "A"})[0]
    sf.advance(5)
    sf.act("/touch/Contact", [id_])
    row = sf.row("Contact", id_)
    assert row["SystemModstamp"] > row["LastModifiedDate"]


@pytest.mark.parametrize(
    ("options", "version", "key"),
    [
        ({}, "51.0", "duplicateResut"),
        ({}, "60.0", "duplicateResult"),
        ({"duplicate_key": "duplicateResut"}, "60.0", "duplicateResut"),
    ],
)
def test_doubles_are_refused_under_the_key_of_the_version(options: dict[str, str], version: str, key: str) -> None:
    with org(duplicate_rules="Contact:Email:alert;Lead:Email:block", **options) as sf:
        there = sf.load("Contact", {"LastName": "A", "Email": "a@x.example"})[0]
        headers = {"authorization": sf.client.headers["authorization"]}
        with httpx.Client(base_url=f"{sf.http}/services/data/v{version}", headers=headers) as client:
            double = {"LastName": "B", "Email": "A@x.example"}
            error = refused(client.post("/sobjects/Contact", json=double), 400, "DUPLICATES_DETECTED")
            assert error["message"] == "Use one of these records?"
            assert error[key]["allowSave"] is True
            assert error[key]["matchResults"][0]["matchRecords"][0]["record"]["Id"] == there
            allowed = {"Sforce-Duplicate-Rule-Header": "allowSave=true; includeRecordDetails=true"}
            assert client.post("/sobjects/Contact", json=double, headers=allowed).status_code == 201
            sf.load("Lead", {"LastName": "A", "Company": "X", "Email": "a@x.example"})
            blocked = client.post(
                "/sobjects/Lead", json={"LastName": "B", "Company": "X", "Email": "a@x.example"}, headers=allowed
            )
            assert refused(blocked, 400, "DUPLICATES_DETECTED")[key]["allowSave"] is False


def test_addresses_methods_and_bodies_that_make_no_sense(sf: Org) -> None:
    refused(sf.client.get("/nothing/here"), 404, "NOT_FOUND")
    refused(httpx.get(f"{sf.http}/elsewhere"), 404, "NOT_FOUND")
    refused(sf.client.put("/sobjects/Contact"), 405, "METHOD_NOT_ALLOWED")
    refused(
        sf.client.post("/sobjects/Contact", content=b"{", headers={"content-type": "application/json"}),
        400,
        "JSON_PARSER_ERROR",
    )
    refused(sf.client.post("/sobjects/Contact"), 400, "JSON_PARSER_ERROR")
    refused(
        sf.client.get("/query", params={"q": "SELECT Id FROM Contact WHERE Name = '" + "x" * 17_000 + "'"}),
        414,
        "URI_TOO_LONG",
    )
    refused(sf.client.delete(f"/sobjects/User/{sf.credentials['user_id']}"), 403, "INSUFFICIENT_ACCESS_OR_READONLY")
    id_ = sf.create("Contact", LastName="A")
    assert sf.client.post(f"/sobjects/Contact/{id_}?_HttpMethod=PATCH", json={"Phone": "1"}).status_code == 204
    chunks = sf.client.post("/sobjects/Contact", content=iter([b'{"LastName":', b'"chunked"}']))
    assert chunks.status_code == 201
