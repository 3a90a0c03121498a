"""What HubSpot makes of writes: values, unique addresses, batches that fail in part, history, merges, associations by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulators.hubspotting import CONTACTS, Portal
from tests.simulators.hubspotting import portal as serving


@pytest.fixture
def portal() -> Iterator[Portal]:
    with serving() as running:
        yield running


@pytest.mark.parametrize(
    ("kind", "name", "value", "code"),
    [
        ("contacts", "nonsense", "1", "PROPERTY_DOESNT_EXIST"),
        ("contacts", "email", "not an address", "INVALID_EMAIL"),
        ("contacts", "lifecyclestage", "friend", "INVALID_OPTION"),
        ("contacts", "hubspot_owner_id", "1", "INVALID_OWNER_ID"),
        ("contacts", "lastmodifieddate", "2026-01-01", "READ_ONLY_VALUE"),
        ("companies", "numberofemployees", "many", "INVALID_NUMBER"),
        ("companies", "is_public", "perhaps", "INVALID_OPTION"),
        ("deals", "closedate", "soon", "INVALID_LONG"),
        ("deals", "dealstage", "somewhere", "INVALID_OPTION"),
    ],
)
def test_a_wrong_value_is_refused_with_a_json_text_in_the_message(
    portal: Portal, kind: str, name: str, value: str, code: str
) -> None:
    body = portal.call("POST", f"/crm/v3/objects/{kind}", {"properties": {name: value}}, expect=400)
    assert body["category"] == "VALIDATION_ERROR"
    before, told = body["message"].split(": ", 1)
    assert before == "Property values were not valid"
    assert [(t["name"], t["error"], t["isValid"]) for t in json.loads(told)] == [(name, code, False)]
    assert body["errors"][0]["code"] == code


@pytest.mark.parametrize(
    ("kind", "name", "given", "stored"),
    [
        ("contacts", "email", " Ada@Example.COM ", "ada@example.com"),
        ("contacts", "firstname", " Ada ", " Ada "),
        ("contacts", "firstname", 12, "12"),
        ("companies", "numberofemployees", 12.5, "12.5"),
        ("companies", "is_public", True, "true"),
        ("deals", "closedate", 1_767_225_600_123, "2026-01-01T00:00:00.123Z"),
        ("deals", "closedate", "2026-01-01", "2026-01-01T00:00:00.000Z"),
        ("deals", "closedate", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.000Z"),
        ("contacts", "firstname", "", None),
        ("contacts", "firstname", None, None),
    ],
)
def test_values_are_stored_as_strings_in_the_vendors_spelling(
    portal: Portal, kind: str, name: str, given: Any, stored: str | None
) -> None:
    made = portal.call("POST", f"/crm/v3/objects/{kind}", {"properties": {name: given}}, expect=201)
    assert portal.values(made["id"], name, kind=kind)[name] == stored


def test_a_day_is_read_at_midnight_only(portal: Portal) -> None:
    body = {"name": "born", "label": "Born", "type": "date", "fieldType": "date", "groupName": "contactinformation"}
    portal.call("POST", "/crm/v3/properties/contacts", body, expect=201)
    one = portal.contact(born="2026-01-02")
    assert portal.values(one, "born")["born"] == "2026-01-02"
    portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"born": 1_767_225_600_000}})
    assert portal.values(one, "born")["born"] == "2026-01-01"
    wrong = portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"born": 1_767_225_602_000}}, expect=400)
    assert "is at 0:0:2.0 UTC, not midnight!" in wrong["message"]


def test_several_options_replace_or_are_added(portal: Portal) -> None:
    kind = "tickets"
    made = {"subject": "x", "hs_pipeline_stage": "1", "hs_ticket_category": "BILLING_ISSUE"}
    number = portal.call("POST", "/crm/v3/objects/tickets", {"properties": made}, expect=201)["id"]
    portal.call("PATCH", f"/crm/v3/objects/tickets/{number}", {"properties": {"hs_ticket_category": ";PRODUCT_ISSUE"}})
    assert portal.values(number, "hs_ticket_category", kind=kind)["hs_ticket_category"] == "BILLING_ISSUE;PRODUCT_ISSUE"
    missing = portal.call("POST", "/crm/v3/objects/tickets", {"properties": {"subject": "x"}}, expect=400)
    assert missing["errors"][0]["context"]["properties"] == ["hs_pipeline_stage"]


def test_an_address_is_unique_over_first_and_further_ones(portal: Portal) -> None:
    one = portal.contact(email="a@example.com", hs_additional_emails="b@example.com;c@example.com")
    for taken in ("A@example.com", "b@example.com"):
        body = portal.call("POST", CONTACTS, {"properties": {"email": taken}}, expect=409)
        assert body["message"] == f"Contact already exists. Existing ID: {one}"
        assert (body["status"], body["category"]) == ("error", "CONFLICT")
    two = portal.contact(email="d@example.com")
    portal.call("PATCH", f"{CONTACTS}/{two}", {"properties": {"hs_additional_emails": "c@example.com"}}, expect=409)
    portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"hs_additional_emails": ""}})
    portal.call("PATCH", f"{CONTACTS}/{two}", {"properties": {"hs_additional_emails": "c@example.com"}})
    portal.call("DELETE", f"{CONTACTS}/{one}", expect=204)
    assert portal.contact(email="a@example.com") != one


def test_a_companys_domain_is_not_unique(portal: Portal) -> None:
    for _ in range(2):
        portal.call("POST", "/crm/v3/objects/companies", {"properties": {"domain": "example.com"}}, expect=201)


def test_a_unique_property_of_ones_own_conflicts_as_a_wrong_value(portal: Portal) -> None:
    portal.unique_property()
    one = portal.contact(tidelock_id="T1")
    wrong = portal.call("POST", CONTACTS, {"properties": {"tidelock_id": "T1"}}, expect=400)
    assert wrong["errors"][0]["code"] == "CONFLICTING_UNIQUE_VALUE"
    assert portal.call("GET", f"{CONTACTS}/T1", idProperty="tidelock_id")["id"] == one
    portal.call("GET", f"{CONTACTS}/Ada", idProperty="firstname", expect=400)


def test_only_ten_properties_of_a_kind_are_unique(portal: Portal) -> None:
    for n in range(10):
        portal.unique_property(f"own_{n}")
    body = {"name": "own_10", "label": "x", "type": "string", "fieldType": "text", "groupName": "contactinformation"}
    portal.call("POST", "/crm/v3/properties/contacts", {**body, "hasUniqueValue": True}, expect=400)


def test_a_batch_of_creates_is_all_or_nothing_unless_every_input_has_a_trace_id(portal: Portal) -> None:
    portal.contact(email="taken@example.com")
    inputs: list[dict[str, Any]] = [{"properties": {"email": f"{n}@example.com"}} for n in ("new", "taken")]
    portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=409)
    assert len(portal.call("GET", CONTACTS)["results"]) == 1
    for n, one in enumerate(inputs):
        one["objectWriteTraceId"] = f"trace-{n}"
    body = portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=207)
    assert [r["objectWriteTraceId"] for r in body["results"]] == ["trace-0"]
    assert body["numErrors"] == 1
    assert body["errors"][0]["context"]["objectWriteTraceId"] == ["trace-1"]
    assert body["errors"][0]["category"] == "CONFLICT"


def test_a_batch_does_not_name_one_address_twice(portal: Portal) -> None:
    inputs = [{"properties": {"email": "same@example.com"}}] * 2
    body = portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=400)
    assert "Duplicate IDs found in batch input" in body["message"]
    assert portal.call("GET", CONTACTS)["results"] == []


def test_a_batch_has_at_most_a_hundred_inputs(portal: Portal) -> None:
    for what in ("read", "create", "update", "upsert", "archive"):
        inputs = [{"id": str(n), "properties": {}} for n in range(101)]
        portal.call("POST", f"{CONTACTS}/batch/{what}", {"inputs": inputs}, expect=400)


def test_a_batch_of_updates_goes_on_without_the_ids_that_are_not_there(portal: Portal) -> None:
    one = portal.contact(email="a@example.com")
    inputs = [{"id": one, "properties": {"city": "Bonn"}}, {"id": "404", "properties": {"city": "Kiel"}}]
    body = portal.call("POST", f"{CONTACTS}/batch/update", {"inputs": inputs}, expect=207)
    assert [r["id"] for r in body["results"]] == [one]
    assert body["errors"][0]["context"]["ids"] == ["404"]
    wrong = [{"id": one, "properties": {"lifecyclestage": "friend"}}]
    portal.call("POST", f"{CONTACTS}/batch/update", {"inputs": wrong}, expect=400)


def test_an_upsert_by_address_that_leaves_properties_out_is_counted(portal: Portal) -> None:
    portal.contact(email="a@example.com", firstname="Ada", city="Bonn")
    upsert = f"{CONTACTS}/batch/upsert"
    whole = {"email": "a@example.com", "firstname": "Ada", "city": "Kiel"}
    for properties, counted in ((whole, 0), ({"city": "Bonn"}, 1)):
        inputs = [{"idProperty": "email", "id": "a@example.com", "properties": properties}]
        portal.call("POST", upsert, {"inputs": inputs})
        counts = portal.control.get("/calls").json()["counts"]
        assert counts.get("sparse e-mail upsert", 0) == counted


def test_a_life_cycle_stage_moves_forward_only_unless_it_was_cleared(portal: Portal) -> None:
    one = portal.contact(lifecyclestage="customer")
    place = f"{CONTACTS}/{one}"
    portal.call("PATCH", place, {"properties": {"lifecyclestage": "lead", "city": "Bonn"}})
    assert (
        portal.values(one, "lifecyclestage", "city").items() >= {"lifecyclestage": "customer", "city": "Bonn"}.items()
    )
    portal.call("PATCH", place, {"properties": {"lifecyclestage": ""}})
    portal.call("PATCH", place, {"properties": {"lifecyclestage": "lead"}})
    assert portal.values(one, "lifecyclestage")["lifecyclestage"] == "lead"


def test_history_says_who_wrote_each_value(portal: Portal) -> None:
    (one,) = portal.order("/load/contacts", [{"email": "a@example.com", "city": "Bonn"}])["ids"]
    portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"city": "Kiel"}})
    portal.order("/edit/contacts", [{"id": one, "city": "Jena", "userId": 42}])
    body = portal.call("GET", f"{CONTACTS}/{one}", propertiesWithHistory="city")
    versions = body["propertiesWithHistory"]["city"]
    assert [v["value"] for v in versions] == ["Jena", "Kiel", "Bonn"]
    assert [v["sourceType"] for v in versions] == ["CRM_UI", "INTEGRATION", "CRM_UI"]
    assert versions[0]["updatedByUserId"] == 42
    assert versions[1]["sourceId"] == str(portal.credentials["app_id"])
    listed = portal.call("GET", CONTACTS, propertiesWithHistory="city", limit=50)["results"][0]
    assert listed["propertiesWithHistory"]["city"] == versions
    portal.call("GET", CONTACTS, propertiesWithHistory="city", limit=51, expect=400)


def test_a_write_that_changes_nothing_leaves_the_time_of_the_last_change(portal: Portal) -> None:
    one = portal.contact(city="Bonn")
    before = portal.call("GET", f"{CONTACTS}/{one}")["updatedAt"]
    portal.advance(5)
    assert portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"city": "Bonn"}})["updatedAt"] == before
    assert portal.call("PATCH", f"{CONTACTS}/{one}", {"properties": {"city": "Kiel"}})["updatedAt"] > before


def test_contacts_have_a_name_of_their_own_for_the_time_of_the_last_change(portal: Portal) -> None:
    one = portal.contact(city="Bonn")
    shown = portal.values(one, "hs_lastmodifieddate", "lastmodifieddate")
    assert "hs_lastmodifieddate" not in shown
    assert shown["lastmodifieddate"] == portal.call("GET", f"{CONTACTS}/{one}")["updatedAt"]
    company = portal.call("POST", "/crm/v3/objects/companies", {"properties": {"name": "Acme"}}, expect=201)
    assert company["properties"]["hs_lastmodifieddate"] == company["updatedAt"]


def test_a_portal_in_the_beta_keeps_the_primary_id_in_a_merge() -> None:
    with serving(merge_keeps_id="true") as portal:
        one, two = portal.contact(email="a@example.com"), portal.contact(email="b@example.com")
        body = portal.call("POST", f"{CONTACTS}/merge", {"primaryObjectId": one, "objectIdToMerge": two})
        assert body["id"] == one
        assert portal.call("GET", f"{CONTACTS}/{two}")["id"] == one
        assert portal.call("POST", CONTACTS, {"properties": {"email": "b@example.com"}}, expect=409)


def test_merged_records_hand_their_associations_on(portal: Portal) -> None:
    one, two = portal.contact(email="a@example.com"), portal.contact(email="b@example.com")
    company = portal.call("POST", "/crm/v3/objects/companies", {"properties": {"name": "Acme"}}, expect=201)["id"]
    portal.call("PUT", f"{CONTACTS}/{two}/associations/companies/{company}/contact_to_company")
    portal.call("POST", f"{CONTACTS}/merge", {"primaryObjectId": one, "objectIdToMerge": two})
    left = portal.call("GET", f"{CONTACTS}/{one}")["id"]
    for start, end, number, other in (
        ("companies", "contacts", company, left),
        ("contacts", "companies", left, company),
    ):
        found = portal.call("GET", f"/crm/v3/objects/{start}/{number}/associations/{end}")["results"]
        assert {f["id"] for f in found} == {other}


def test_more_than_250_merges_are_refused(portal: Portal) -> None:
    ids = portal.order("/load/contacts", [{"firstname": str(n)} for n in range(252)])["ids"]
    for other in ids[1:126]:
        portal.call("POST", f"{CONTACTS}/merge", {"primaryObjectId": ids[0], "objectIdToMerge": other})
    body = {"primaryObjectId": ids[0], "objectIdToMerge": ids[130]}
    assert "250 identities" in portal.call("POST", f"{CONTACTS}/merge", body, expect=414)["message"]


def test_archived_records_are_listed_apart_and_come_back_by_a_users_hand(portal: Portal) -> None:
    one, two = portal.contact(email="a@example.com"), portal.contact(email="b@example.com")
    portal.call("DELETE", f"{CONTACTS}/{one}", expect=204)
    portal.call("DELETE", f"{CONTACTS}/{one}", expect=204)
    assert [r["id"] for r in portal.call("GET", CONTACTS)["results"]] == [two]
    (gone,) = portal.call("GET", CONTACTS, archived="true")["results"]
    assert (gone["id"], gone["archived"]) == (one, True)
    assert gone["archivedAt"] >= gone["updatedAt"]
    read = portal.call("POST", f"{CONTACTS}/batch/read", {"inputs": [{"id": one}]}, archived="true")
    assert [r["id"] for r in read["results"]] == [one]
    portal.order("/restore/contacts", [one])
    assert {r["id"] for r in portal.call("GET", CONTACTS)["results"]} == {one, two}


def test_a_new_record_brings_its_associations(portal: Portal) -> None:
    company = portal.call("POST", "/crm/v3/objects/companies", {"properties": {"name": "Acme"}}, expect=201)["id"]
    types = [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 5}]
    wish = {"properties": {"dealname": "Big"}, "associations": [{"to": {"id": company}, "types": types}]}
    deal = portal.call("POST", "/crm/objects/2025-09/0-3", wish, expect=201)["id"]
    shown = portal.call("GET", f"/crm/v3/objects/deals/{deal}", associations="companies")["associations"]
    assert {a["type"] for a in shown["companies"]["results"]} == {"deal_to_company", "deal_to_company_unlabeled"}
    wish["associations"] = [{"to": {"id": "9"}, "types": types}]
    portal.call("POST", "/crm/v3/objects/deals", wish, expect=400)


def test_a_contact_has_one_primary_company(portal: Portal) -> None:
    one = portal.contact(email="a@example.com")
    made = [portal.call("POST", "/crm/v3/objects/companies", {"properties": {"name": n}}, expect=201) for n in "AB"]
    for company in made:
        inputs = [
            {
                "from": {"id": one},
                "to": {"id": company["id"]},
                "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 1}],
            }
        ]
        portal.call("POST", "/crm/v4/associations/contacts/companies/batch/create", {"inputs": inputs}, expect=201)
    found = portal.call("GET", f"/crm/v4/objects/contacts/{one}/associations/companies")["results"]
    types = {f["toObjectId"]: [t["typeId"] for t in f["associationTypes"]] for f in found}
    assert types == {made[0]["id"]: [279], made[1]["id"]: [1, 279]}
    names = {"from": {"id": one}, "to": {"id": made[1]["id"]}, "type": "contact_to_company_unlabeled"}
    portal.call("POST", "/crm/v3/associations/contacts/companies/batch/archive", {"inputs": [names]}, expect=204)
    old = portal.call("POST", "/crm/v3/associations/contacts/companies/batch/read", {"inputs": [{"id": one}]})
    assert {t["type"] for t in old["results"][0]["to"]} == {"contact_to_company", "contact_to_company_unlabeled"}


def test_what_makes_no_sense_is_told(portal: Portal) -> None:
    assert "Unable to infer object type" in portal.call("GET", "/crm/v3/objects/planets", expect=400)["message"]
    got = portal.client.post(CONTACTS, content=b"{", headers={"content-type": "application/json"})
    assert (got.status_code, got.json()["category"]) == (400, "VALIDATION_ERROR")
    got = portal.client.post(CONTACTS, content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
    assert got.status_code == 415
    portal.call("GET", f"{CONTACTS}/404", expect=404)
    portal.call("GET", CONTACTS, limit=101, expect=400)
    portal.call("GET", "/crm/v9/nothing", expect=404)


def test_the_control_api_shows_what_clients_wrote_and_starts_anew(portal: Portal) -> None:
    one = portal.contact(city="Bonn")
    (write,) = portal.control.get("/writes").json()
    assert (write["what"], write["id"], write["changed"]) == ("create", one, {"city": "Bonn"})
    (record,) = portal.control.get("/records/contacts").json()
    assert record["properties"]["city"] == "Bonn"
    assert portal.control.post("/edit/contacts", json=[{"id": "1"}]).status_code == 400
    portal.order("/reset")
    assert portal.control.get("/records/contacts").json() == []
    assert portal.call("GET", CONTACTS)["results"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"properties": 3}),
        ("", {"properties": {"city": {"a": 1}}}),
        ("", {"associations": True}),
        ("", {"associations": [3]}),
        ("", [1]),
        ("/batch/read", {"inputs": [{"id": "1"}], "idProperty": {}}),
        ("/batch/read", {"inputs": [{"id": "1"}], "properties": 3}),
        ("/batch/update", {"inputs": [{"properties": {}}]}),
        ("/batch/create", {"inputs": {"a": 1}}),
        ("/batch/create", {}),
        ("/search", {"sorts": [[]]}),
        ("/search", {"filterGroups": [3]}),
        ("/search", {"filterGroups": [{"filters": [None]}]}),
        ("/search", {"limit": "ten"}),
        ("/merge", {"primaryObjectId": "1"}),
        ("/gdpr-delete", {}),
    ],
)
def test_a_body_of_the_wrong_shape_is_a_400_and_never_worse(portal: Portal, path: str, body: Any) -> None:
    assert portal.call("POST", f"{CONTACTS}{path}", body, expect=400)["category"] == "VALIDATION_ERROR"
