"""HubSpot through hubspot-sdk, the vendor's newer client, on date-versioned paths; it checks answers strictly."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
import pytest
from hubspot_sdk import ConflictError, HubSpot, NotFoundError, RateLimitError
from hubspot_sdk.types.auth import AccessTokenResponse, PublicAccessTokenInfoResponse

from tests.simulators.hubspotting import Portal
from tests.simulators.hubspotting import portal as serving


@pytest.fixture
def portal() -> Iterator[Portal]:
    with serving(unset="absent") as running:
        yield running


@pytest.fixture
def client(portal: Portal) -> Iterator[HubSpot]:
    trusting = ssl.create_default_context(cafile=portal.running.ca)
    with httpx.Client(verify=trusting) as http:
        yield HubSpot(
            access_token=portal.credentials["private_token"],
            developer_api_key=portal.credentials["developer_key"],
            base_url=portal.running.https,
            http_client=http,
            max_retries=0,
            _strict_response_validation=True,
        )


def test_a_contact_is_made_read_changed_and_archived(client: HubSpot) -> None:
    api = client.crm.objects.contacts
    made = api.create(associations=[], properties={"email": "ada@example.com", "firstname": "Ada"})
    assert api.update(made.id, properties={"firstname": "Augusta"}).updated_at >= made.updated_at
    read = api.get(made.id, properties=["firstname", "email"], properties_with_history=["firstname"])
    assert read.properties["firstname"] == "Augusta"
    assert read.properties_with_history is not None
    assert [v.source_type for v in read.properties_with_history["firstname"]] == ["INTEGRATION"] * 2
    with pytest.raises(ConflictError, match=f"Existing ID: {made.id}"):
        api.create(associations=[], properties={"email": "Ada@example.com"})
    api.delete(made.id)
    with pytest.raises(NotFoundError):
        api.get(made.id)
    assert api.get(made.id, archived=True).archived


def test_lists_page_by_themselves(portal: Portal, client: HubSpot) -> None:
    ids = portal.order("/load/contacts", [{"email": f"u{n}@example.com"} for n in range(25)])["ids"]
    assert [c.id for c in client.crm.objects.contacts.list(limit=10, properties=["email", "city"])] == ids


def test_batches_are_created_read_changed_upserted_and_archived(portal: Portal, client: HubSpot) -> None:
    api = client.crm.objects.contacts.batch
    inputs = [{"properties": {"email": f"b{n}@example.com"}, "associations": []} for n in range(3)]
    ids = [r.id for r in api.create(inputs=inputs).results]  # type: ignore[arg-type]
    api.update(inputs=[{"id": i, "properties": {"city": "Bonn"}} for i in ids])
    read = api.get(inputs=[{"id": i} for i in ids], properties=["city"], properties_with_history=[])
    assert {r.properties["city"] for r in read.results} == {"Bonn"}
    portal.unique_property()
    done = api.upsert(inputs=[{"id": "t1", "id_property": "tidelock_id", "properties": {"city": "Kiel"}}])
    assert [r.new for r in done.results] == [True]
    api.delete(inputs=[{"id": i} for i in ids])
    assert [c.id for c in client.crm.objects.contacts.list()] == [done.results[0].id]


def test_custom_objects_paths_take_names_and_type_ids(client: HubSpot) -> None:
    made = client.crm.objects.custom.create("0-2", associations=[], properties={"name": "Acme"})
    assert client.crm.objects.custom.get(made.id, object_type="companies").id == made.id
    product = client.crm.objects.products.create(associations=[], properties={"name": "Bolt", "price": "2"})
    assert client.crm.objects.products.get(product.id, properties=["price"]).properties["price"] == "2"


def test_a_search_and_its_pages(portal: Portal, client: HubSpot) -> None:
    portal.order("/load/companies", [{"name": f"C{n}", "numberofemployees": str(n)} for n in range(9)])
    found = client.crm.objects.companies.search(
        after="0",
        filter_groups=[{"filters": [{"property_name": "numberofemployees", "operator": "GTE", "value": "3"}]}],
        limit=4,
        properties=["name"],
        sorts=["numberofemployees"],
    )
    assert (found.total, [r.properties["name"] for r in found.results]) == (6, ["C3", "C4", "C5", "C6"])
    assert found.paging is not None


def test_a_merge_and_an_erasure(client: HubSpot) -> None:
    api = client.crm.objects.contacts
    one, two = (api.create(associations=[], properties={"email": f"{n}@example.com"}) for n in ("m1", "m2"))
    left = api.merge(primary_object_id=one.id, object_id_to_merge=two.id)
    assert api.get(two.id).id == left.id
    api.gdpr_delete(object_id=left.id)
    with pytest.raises(NotFoundError):
        api.get(one.id)


def test_associations_by_default_and_by_label(client: HubSpot) -> None:
    contact = client.crm.objects.contacts.create(associations=[], properties={"email": "a@example.com"})
    company = client.crm.objects.companies.create(associations=[], properties={"name": "Acme"})
    api = client.crm.associations
    made = api.create(company.id, from_object_type="contacts", from_object_id=contact.id, to_object_type="companies")
    assert {r.association_spec.association_type_id for r in made.results} == {279, 280}
    labels = [{"association_category": "HUBSPOT_DEFINED", "association_type_id": 1}]
    place = {"object_type": "contacts", "object_id": contact.id, "to_object_type": "companies"}
    assert api.update_labels(company.id, **place, body=labels).labels == ["Primary"]  # type: ignore[arg-type]
    found = list(api.list("companies", object_type="contacts", object_id=contact.id))
    assert [f.to_object_id for f in found] == [company.id]
    read = api.batch.get("companies", from_object_type="contacts", inputs=[{"id": contact.id}])
    assert read.results[0].to[0].to_object_id == company.id
    api.delete(company.id, object_type="contacts", object_id=contact.id, to_object_type="companies")
    assert list(api.list("companies", object_type="contacts", object_id=contact.id)) == []


def test_properties_groups_owners_pipelines_and_the_account(client: HubSpot, portal: Portal) -> None:
    names = {"field_type": "text", "group_name": "contactinformation", "label": "Our id", "name": "our_id"}
    made = client.crm.properties.create("contacts", type="string", has_unique_value=True, **names)  # type: ignore[arg-type]
    assert made.has_unique_value
    assert client.crm.properties.get("our_id", object_type="contacts").name == "our_id"
    assert client.crm.properties.update("our_id", object_type="contacts", label="Theirs").label == "Theirs"
    assert len(client.crm.properties.list("contacts").results) > 20
    assert client.crm.properties.groups.list("contacts").results[0].name == "contactinformation"
    client.crm.properties.delete("our_id", object_type="contacts")
    owner = next(iter(client.crm.owners.list()))
    assert client.crm.owners.get(int(owner.id)).email == owner.email
    assert client.crm.pipelines.list("deals").results[0].stages[0].write_permissions
    assert client.account.get().portal_id == portal.credentials["portal_id"]
    assert client.account.get_daily_private_apps_usage().results[0].current_usage > 0


def test_tokens_by_the_date_versioned_paths(client: HubSpot, portal: Portal) -> None:
    names = {n: portal.credentials[n] for n in ("client_id", "client_secret")}
    token = client.auth.oauth.create_token(
        grant_type="refresh_token", refresh_token=portal.credentials["refresh_token"], **names
    )
    assert isinstance(token, AccessTokenResponse)
    about = client.auth.oauth.introspect_token(token=token.access_token, **names)
    assert isinstance(about, PublicAccessTokenInfoResponse)
    assert about.hub_id == portal.credentials["portal_id"]
    theirs = client.with_options(access_token=token.access_token)
    assert list(theirs.crm.objects.contacts.list()) == []
    client.auth.oauth.revoke_token(token=token.access_token, **names)
    assert portal.call("POST", "/oauth/v3/token/introspect", expect=400)["status"] == "BAD_CLIENT_ID"


def test_webhook_subscriptions(portal: Portal) -> None:
    app = portal.credentials["app_id"]
    with HubSpot(
        developer_api_key=portal.credentials["developer_key"],
        base_url=portal.running.http,
        _strict_response_validation=True,
    ) as client:
        hooks = client.webhooks
        throttling = {"max_concurrent_requests": 5}
        assert hooks.update_settings(app, target_url="https://example.com/h", throttling=throttling).target_url  # type: ignore[arg-type]
        made = hooks.create_event_subscription(app, active=True, event_type="object.creation", object_type_id="0-1")
        assert [s.id for s in hooks.list_event_subscriptions(app).results] == [made.id]
        hooks.delete_event_subscription(int(made.id), app_id=app)
        hooks.delete_settings(app)


def test_the_client_waits_and_tries_again_when_told_so(client: HubSpot, portal: Portal) -> None:
    portal.fault("rate_limit", policy="TEN_SECONDLY_ROLLING", retry_after_s=0.01)
    with pytest.raises(RateLimitError, match="ten_secondly_rolling"):
        client.crm.objects.contacts.list()
    portal.fault("rate_limit", policy="SECONDLY", retry_after_s=0.01)
    assert list(client.with_options(max_retries=2).crm.objects.contacts.list()) == []
