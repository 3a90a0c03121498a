"""HubSpot through hubspot-api-client, the vendor's older client, on https with the simulator's certificate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hubspot
import pytest
from hubspot.crm.associations.v4 import AssociationSpec, BatchInputPublicFetchAssociationsBatchRequest
from hubspot.crm.contacts import (
    ApiException,
    BatchInputSimplePublicObjectBatchInput,
    BatchInputSimplePublicObjectBatchInputForCreate,
    BatchInputSimplePublicObjectBatchInputUpsert,
    BatchInputSimplePublicObjectId,
    BatchReadInputSimplePublicObjectId,
    Filter,
    FilterGroup,
    PublicGdprDeleteInput,
    PublicMergeInput,
    PublicObjectSearchRequest,
    SimplePublicObjectInput,
    SimplePublicObjectInputForCreate,
)
from hubspot.crm.properties import PropertyCreate
from hubspot.webhooks import SettingsChangeRequest, SubscriptionCreateRequest, SubscriptionPatchRequest

from tests.simulators.hubspotting import Portal
from tests.simulators.hubspotting import portal as serving


@pytest.fixture
def portal() -> Iterator[Portal]:
    with serving() as running:
        yield running


@pytest.fixture
def client(portal: Portal) -> Any:
    return _client(portal, portal.credentials["private_token"])


def _client(portal: Portal, token: str | None, **more: Any) -> Any:
    return hubspot.Client(access_token=token, host=portal.running.https, ssl_ca_cert=portal.running.ca, **more)


def _created(client: Any, **properties: str) -> Any:
    made = SimplePublicObjectInputForCreate(properties=properties, associations=[])
    return client.crm.contacts.basic_api.create(made)


def test_a_contact_is_made_read_changed_and_archived(client: Any) -> None:
    api = client.crm.contacts.basic_api
    made = _created(client, email="Ada@Example.com", firstname="Ada")
    assert made.properties["email"] == "ada@example.com"
    assert api.get_by_id("ada@example.com", id_property="email").id == made.id
    changed = api.update(made.id, SimplePublicObjectInput(properties={"firstname": "Augusta"}))
    assert changed.properties["firstname"] == "Augusta"
    assert changed.updated_at > made.updated_at
    read = api.get_by_id(made.id, properties=["firstname", "city"], properties_with_history=["firstname"])
    assert read.properties["city"] is None
    assert [v.value for v in read.properties_with_history["firstname"]] == ["Augusta", "Ada"]
    api.archive(made.id)
    with pytest.raises(ApiException) as gone:
        api.get_by_id(made.id)
    assert gone.value.status == 404
    assert api.get_by_id(made.id, archived=True).archived_at is not None


def test_pages_of_a_list_hold_every_contact_once(portal: Portal, client: Any) -> None:
    ids = portal.order("/load/contacts", [{"email": f"u{n}@example.com"} for n in range(120)])["ids"]
    assert [c.id for c in client.crm.contacts.get_all()] == ids
    page = client.crm.contacts.basic_api.get_page(limit=10)
    assert page.paging.next.link.startswith(portal.running.https)


def test_batches_are_created_read_changed_upserted_and_archived(portal: Portal, client: Any) -> None:
    api = client.crm.contacts.batch_api
    inputs = [{"properties": {"email": f"b{n}@example.com", "firstname": "B"}, "associations": []} for n in range(3)]
    made = api.create(BatchInputSimplePublicObjectBatchInputForCreate(inputs=inputs))
    assert made.status == "COMPLETE"
    ids = [r.id for r in made.results]
    changes = [{"id": i, "properties": {"firstname": "C"}} for i in ids]
    assert len(api.update(BatchInputSimplePublicObjectBatchInput(inputs=changes)).results) == 3
    wanted = [{"id": ids[0]}, {"id": "999"}]
    read = api.read(
        BatchReadInputSimplePublicObjectId(inputs=wanted, properties=["firstname"], properties_with_history=[])
    )
    assert read.num_errors == 1
    assert read.errors[0].category == "OBJECT_NOT_FOUND"
    assert read.errors[0].context["ids"] == ["999"]
    assert read.results[0].properties["firstname"] == "C"
    portal.unique_property()
    upserts = [
        {"idProperty": "tidelock_id", "id": t, "properties": {"tidelock_id": t, "city": "Bonn"}} for t in ("t1", "t2")
    ]
    first = api.upsert(BatchInputSimplePublicObjectBatchInputUpsert(inputs=upserts))
    again = api.upsert(BatchInputSimplePublicObjectBatchInputUpsert(inputs=upserts))
    assert [r.new for r in first.results] == [True, True]
    assert [(r.new, r.id) for r in again.results] == [(False, r.id) for r in first.results]
    api.archive(BatchInputSimplePublicObjectId(inputs=[{"id": i} for i in ids]))
    assert {c.id for c in client.crm.contacts.get_all()} == {r.id for r in first.results}


def test_a_search_filters_sorts_and_pages(portal: Portal, client: Any) -> None:
    people = [{"email": f"s{n}@example.com", "firstname": "S" if n % 2 else "T", "lastname": str(n)} for n in range(8)]
    portal.order("/load/contacts", people)
    groups = [FilterGroup(filters=[Filter(property_name="firstname", operator="EQ", value="s")])]
    wish = PublicObjectSearchRequest(filter_groups=groups, sorts=["-lastname"], properties=["lastname"], limit=3)
    found = client.crm.contacts.search_api.do_search(wish)
    assert (found.total, [r.properties["lastname"] for r in found.results]) == (4, ["7", "5", "3"])
    wish.after = found.paging.next.after
    assert [r.properties["lastname"] for r in client.crm.contacts.search_api.do_search(wish).results] == ["1"]


def test_merged_contacts_get_a_new_id_and_the_old_ones_lead_to_it(client: Any) -> None:
    one, two = _created(client, email="one@example.com"), _created(client, email="two@example.com", city="Bonn")
    wish = PublicMergeInput(primary_object_id=one.id, object_id_to_merge=two.id)
    left = client.crm.contacts.basic_api.merge(wish)
    assert left.id not in (one.id, two.id)
    names = ["hs_merged_object_ids", "hs_additional_emails", "city", "email"]
    for old in (one.id, two.id):
        read = client.crm.contacts.basic_api.get_by_id(old, properties=names)
        assert read.id == left.id
    assert read.properties["hs_merged_object_ids"] == f"{one.id};{two.id}"
    assert read.properties["hs_additional_emails"] == "two@example.com"
    assert (read.properties["city"], read.properties["email"]) == ("Bonn", "one@example.com")


def test_an_erased_contact_is_in_no_list(client: Any) -> None:
    made = _created(client, email="gone@example.com")
    wish = PublicGdprDeleteInput(object_id="gone@example.com", id_property="email")
    client.crm.contacts.basic_api.purge(wish)
    with pytest.raises(ApiException):
        client.crm.contacts.basic_api.get_by_id(made.id, archived=True)


def test_companies_deals_products_and_line_items_are_there_too(client: Any) -> None:
    values = {
        "companies": {"name": "Acme", "numberofemployees": "12"},
        "deals": {"dealname": "Big", "dealstage": "closedwon", "amount": "12.50"},
        "products": {"name": "Bolt", "price": "1.20", "hs_sku": "B-1"},
        "line_items": {"name": "Bolt", "price": "1.20", "quantity": "10"},
        "tickets": {"subject": "Help", "hs_pipeline_stage": "1"},
    }
    for kind, properties in values.items():
        api = getattr(client.crm, kind).basic_api
        made = api.create({"properties": properties, "associations": []})
        read = api.get_by_id(made.id, properties=[*properties, "hs_lastmodifieddate", "amount"])
        assert {n: read.properties[n] for n in properties} == properties
        assert read.properties["hs_lastmodifieddate"]
        assert client.crm.objects.basic_api.get_by_id(kind, made.id).id == made.id


def test_associations_are_made_and_read_from_both_ends(client: Any) -> None:
    contact = _created(client, email="a@example.com")
    company = client.crm.companies.basic_api.create({"properties": {"name": "Acme"}, "associations": []})
    api = client.crm.associations.v4.basic_api
    primary = AssociationSpec(association_category="HUBSPOT_DEFINED", association_type_id=1)
    made = api.create("contacts", contact.id, "companies", company.id, [primary])
    assert made.labels == ["Primary"]
    found = api.get_page("companies", company.id, "contacts").results
    assert [(f.to_object_id, {t.type_id for t in f.association_types}) for f in found] == [(contact.id, {2, 280})]
    wanted = BatchInputPublicFetchAssociationsBatchRequest(inputs=[{"id": contact.id}, {"id": "77"}])
    batch = client.crm.associations.v4.batch_api.get_page("contacts", "companies", wanted)
    assert batch.results[0].to[0].to_object_id == company.id
    assert batch.errors[0].sub_category == "crm.associations.NO_ASSOCIATIONS_FOUND"
    shown = client.crm.contacts.basic_api.get_by_id(contact.id, associations=["companies"]).associations
    assert {a.type for a in shown["companies"].results} == {"contact_to_company", "contact_to_company_unlabeled"}
    api.archive("contacts", contact.id, "companies", company.id)
    assert api.get_page("contacts", contact.id, "companies").results == []


def test_properties_are_made_and_listed(client: Any) -> None:
    api = client.crm.properties.core_api
    assert "tidelock_id" not in {p.name for p in api.get_all("contacts").results}
    options = [{"label": "Gold", "value": "gold", "displayOrder": 0, "hidden": False}]
    wish = PropertyCreate(
        name="tier",
        label="Tier",
        type="enumeration",
        field_type="select",
        group_name="contactinformation",
        options=options,
    )
    assert api.create("contacts", wish).modification_metadata.archivable
    _created(client, email="t@example.com", tier="gold")
    with pytest.raises(ApiException) as wrong:
        _created(client, email="u@example.com", tier="tin")
    assert "INVALID_OPTION" in wrong.value.body
    api.archive("contacts", "tier")
    assert [p.name for p in api.get_all("contacts", archived=True).results] == ["tier"]
    assert client.crm.properties.groups_api.get_all("deals").results[0].name == "dealinformation"


def test_tokens_are_refreshed_looked_at_and_revoked(portal: Portal) -> None:
    names = portal.credentials
    api = _client(portal, None).oauth
    form = {"client_id": names["client_id"], "client_secret": names["client_secret"]}
    got = api.tokens_api.create(grant_type="refresh_token", refresh_token=names["refresh_token"], **form)
    assert (got.token_type, got.expires_in, got.refresh_token) == ("bearer", 1800, names["refresh_token"])
    about = api.access_tokens_api.get(got.access_token)
    assert (about.hub_id, about.app_id) == (names["portal_id"], names["app_id"])
    assert "crm.objects.contacts.read" in about.scopes
    assert _client(portal, got.access_token).crm.contacts.basic_api.get_page().results == []
    assert api.refresh_tokens_api.get(names["refresh_token"]).client_id == names["client_id"]
    api.refresh_tokens_api.archive(names["refresh_token"])
    with pytest.raises(hubspot.oauth.ApiException) as refused:
        api.tokens_api.create(grant_type="refresh_token", refresh_token=names["refresh_token"], **form)
    assert '"status":"BAD_REFRESH_TOKEN"' in refused.value.body


def test_webhooks_are_set_up_with_the_developers_key(portal: Portal) -> None:
    client = _client(portal, None, api_key=portal.credentials["developer_key"])
    app, api = portal.credentials["app_id"], client.webhooks
    wish = SettingsChangeRequest(throttling={"maxConcurrentRequests": 3}, target_url="https://example.com/hook")
    assert api.settings_api.configure(app, wish).throttling.max_concurrent_requests == 3
    wish = SubscriptionCreateRequest(event_type="contact.propertyChange", property_name="email", active=True)
    made = api.subscriptions_api.create(app, wish)
    assert [s.id for s in api.subscriptions_api.get_all(app).results] == [made.id]
    assert api.subscriptions_api.update(int(made.id), app, SubscriptionPatchRequest(active=False)).active is False
    batch = api.subscriptions_api.update_batch(app, {"inputs": [{"id": int(made.id), "active": True}]})
    assert batch.results[0].active
    api.subscriptions_api.archive(int(made.id), app)
    assert api.subscriptions_api.get_all(app).results == []


def test_owners_and_pipelines_are_read(client: Any) -> None:
    owner = client.crm.owners.owners_api.get_page().results[0]
    assert client.crm.owners.owners_api.get_by_id(owner.id).email == owner.email
    stages = client.crm.pipelines.pipelines_api.get_all("deals").results[0].stages
    assert "closedwon" in {s.id for s in stages}
    _created(client, email="o@example.com", hubspot_owner_id=owner.id)
