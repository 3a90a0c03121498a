"""Webhooks of HubSpot: which events there are, how they are signed, batched, repeated and lost."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest
from hubspot.utils.signature import Signature

from tests.patience import until
from tests.simulators.hubspotting import CONTACTS, Portal, Receiver
from tests.simulators.hubspotting import portal as serving
from tests.simulators.hubspotting import receiver as listening


@pytest.fixture
def portal() -> Iterator[Portal]:
    with serving() as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as found:
        yield found


def _subscribe(portal: Portal, receiver: Receiver, *wanted: str, **more: Any) -> None:
    listed = []
    for one in wanted:
        event_type, _, name = one.partition(" ")
        listed.append({"eventType": event_type, **({"propertyName": name} if name else {})})
    portal.order("/webhooks", {"targetUrl": receiver.url, "subscriptions": listed, **more})


def test_a_write_is_told_property_by_property_with_its_origin(portal: Portal, receiver: Receiver) -> None:
    _subscribe(portal, receiver, "contact.creation", "contact.propertyChange email", "contact.propertyChange city")
    one = portal.contact(email="a@example.com", city="Bonn", firstname="Ada")
    events = receiver.wait(3)
    told = {(e["subscriptionType"], e.get("propertyName"), e.get("propertyValue")) for e in events}
    assert told == {
        ("contact.creation", None, None),
        ("contact.propertyChange", "email", "a@example.com"),
        ("contact.propertyChange", "city", "Bonn"),
    }
    for event in events:
        assert (event["portalId"], event["appId"]) == (portal.credentials["portal_id"], portal.credentials["app_id"])
        assert (event["objectId"], event["attemptNumber"]) == (int(one), 0)
        assert (event["changeSource"], event["sourceId"]) == ("INTEGRATION", str(portal.credentials["app_id"]))
        assert event["occurredAt"] > 1_700_000_000_000
    portal.order("/edit/contacts", [{"id": one, "city": "", "firstname": "Eve"}])
    edited = receiver.wait(4)[3]
    assert (edited["propertyName"], edited["propertyValue"], edited["changeSource"]) == ("city", "", "CRM_UI")
    assert edited["sourceId"].startswith("userId:")


def test_deletion_restore_merge_and_erasure_are_told(portal: Portal, receiver: Receiver) -> None:
    kinds = ("deletion", "restore", "merge", "privacyDeletion")
    _subscribe(portal, receiver, *(f"contact.{k}" for k in kinds))
    one, two = portal.contact(email="a@example.com"), portal.contact(email="b@example.com", city="Bonn")
    portal.order("/delete/contacts", [one])
    assert receiver.wait(1)[0]["changeFlag"] == "DELETED"
    portal.order("/restore/contacts", [one])
    assert receiver.wait(2)[1]["subscriptionType"] == "contact.restore"
    left = portal.order("/merge/contacts", {"primary": one, "other": two})["id"]
    merge = receiver.wait(3)[2]
    assert (merge["primaryObjectId"], merge["mergedObjectIds"], merge["newObjectId"]) == (
        int(one),
        [int(two)],
        int(left),
    )
    assert merge["numberOfPropertiesMoved"] == 2
    portal.call("POST", f"{CONTACTS}/gdpr-delete", {"objectId": left}, expect=204)
    last = receiver.wait(5)[3:]
    assert {e["subscriptionType"] for e in last} == {"contact.deletion", "contact.privacyDeletion"}


def test_an_association_is_told_at_both_ends(portal: Portal, receiver: Receiver) -> None:
    _subscribe(portal, receiver, "contact.associationChange", "company.associationChange")
    one = portal.contact(email="a@example.com")
    company = portal.call("POST", "/crm/v3/objects/companies", {"properties": {"name": "A"}}, expect=201)["id"]
    place = f"/crm/v4/objects/contacts/{one}/associations"
    portal.call("PUT", f"{place}/default/companies/{company}")
    events = receiver.wait(2)
    assert {e["associationType"] for e in events} == {"CONTACT_TO_COMPANY", "COMPANY_TO_CONTACT"}
    assert {(e["fromObjectId"], e["toObjectId"]) for e in events} == {
        (int(one), int(company)),
        (int(company), int(one)),
    }
    assert not any(e["associationRemoved"] for e in events)
    portal.call("DELETE", f"{place}/companies/{company}", expect=204)
    assert all(e["associationRemoved"] for e in receiver.wait(4)[2:])


def test_generic_subscriptions_name_the_kind_by_its_type_id(portal: Portal, receiver: Receiver) -> None:
    wanted = [
        {"eventType": "object.creation", "objectTypeId": "0-7"},
        {"eventType": "object.propertyChange", "objectTypeId": "0-7", "propertyName": "price"},
    ]
    portal.order("/webhooks", {"targetUrl": receiver.url, "subscriptions": wanted})
    portal.contact(email="a@example.com")
    portal.call("POST", "/crm/v3/objects/products", {"properties": {"name": "Bolt", "price": "2"}}, expect=201)
    events = receiver.wait(2)
    assert {e["objectTypeId"] for e in events} == {"0-7"}
    assert {e["subscriptionType"] for e in events} == {"object.creation", "object.propertyChange"}


@pytest.mark.parametrize("old", ["v1", "v2"])
def test_deliveries_are_signed_as_the_vendors_own_client_verifies(receiver: Receiver, old: str) -> None:
    with serving(signature=old) as portal:
        _subscribe(portal, receiver, "contact.creation")
        portal.contact(email="a@example.com")
        receiver.wait(1)
        (heard,), secret = receiver.heard, portal.credentials["client_secret"]
        stamp, decoded = heard.headers["x-hubspot-request-timestamp"], heard.uri.replace("%3A", ":").replace("%3a", ":")
        assert "a%20b:c" in decoded
        signed = {"request_body": heard.body, "http_uri": decoded, "signature_version": "v3", "timestamp": stamp}
        assert Signature.is_valid(heard.headers["x-hubspot-signature-v3"], secret, **signed)
        assert not Signature.is_valid(heard.headers["x-hubspot-signature-v3"], "another", **signed)
        assert heard.headers["x-hubspot-signature-version"] == old
        parts = heard.body if old == "v1" else f"POST{heard.uri}{heard.body}"
        expected = hashlib.sha256((secret + parts).encode()).hexdigest()
        assert hmac.compare_digest(heard.headers["x-hubspot-signature"], expected)
        until(lambda: portal.control.get("/deliveries").json()[0]["state"] == "done")


def test_events_leave_together_but_never_a_hundred(portal: Portal, receiver: Receiver) -> None:
    _subscribe(portal, receiver, "contact.creation")
    inputs = [{"properties": {"firstname": str(n)}} for n in range(100)]
    for _ in range(2):
        portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=201)
    events = receiver.wait(200)
    assert len({e["objectId"] for e in events}) == 200
    assert max(len(h.events) for h in receiver.heard) <= 99
    assert len(receiver.heard) < 20


def test_a_failed_delivery_is_tried_again_ten_times_within_a_day(portal: Portal, receiver: Receiver) -> None:
    receiver.answers = [500] * 11
    _subscribe(portal, receiver, "contact.creation")
    portal.contact(email="a@example.com")
    for attempt in range(10):
        until(lambda n=attempt: len(receiver.heard) == n + 1)  # type: ignore[misc]
        until(lambda n=attempt: len(portal.control.get("/deliveries").json()[0]["attempts"]) == n + 1)  # type: ignore[misc]
        portal.advance(25_201)
    events = receiver.wait(11)
    assert [e["attemptNumber"] for e in events] == list(range(11))
    until(lambda: portal.control.get("/deliveries").json()[0]["state"] == "failed")
    attempts = portal.control.get("/deliveries").json()[0]["attempts"]
    assert [a["status"] for a in attempts] == [500] * 11
    stamps = {h.headers["x-hubspot-request-timestamp"] for h in receiver.heard}
    assert len(stamps) == 11


def test_the_pauses_between_attempts_fit_into_a_day() -> None:
    from simulators.hubspot.events import RETRIES_S, TIMEOUT_S

    assert len(RETRIES_S) == 10
    assert sum(RETRIES_S) + 11 * TIMEOUT_S <= 24 * 3600


def test_no_more_deliveries_go_on_at_once_than_the_app_allows(receiver: Receiver) -> None:
    with serving(webhook_batch="1") as portal:
        receiver.hold.clear()
        _subscribe(portal, receiver, "contact.creation", maxConcurrentRequests=2)
        inputs = [{"properties": {"firstname": str(n)}} for n in range(6)]
        portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=201)
        until(lambda: receiver.at_once == 2)
        until(lambda: len(portal.control.get("/deliveries").json()) == 6)
        receiver.hold.set()
        receiver.wait(6)
        assert receiver.most_at_once == 2


def test_deliveries_are_lost_doubled_mixed_and_out_of_order_when_a_fault_says_so(receiver: Receiver) -> None:
    with serving(webhook_delay_s="0") as portal:
        _subscribe(portal, receiver, "contact.creation")
        portal.fault("webhook_lost")
        portal.contact(firstname="lost")
        until(lambda: [d["state"] for d in portal.control.get("/deliveries").json()] == ["lost"])
        portal.fault("webhook_twice")
        twice = portal.contact(firstname="twice")
        assert [e["objectId"] for e in receiver.wait(2)] == [int(twice)] * 2
        portal.fault("webhook_shuffled", times=2)
        first = portal.contact(firstname="first")
        until(lambda: len(portal.control.get("/deliveries").json()) == 3)
        second = portal.contact(firstname="second")
        assert [e["objectId"] for e in receiver.wait(4)[2:]] == [int(second), int(first)]


def test_the_events_of_one_delivery_come_in_any_order_when_a_fault_says_so(portal: Portal, receiver: Receiver) -> None:
    _subscribe(portal, receiver, "contact.creation")
    portal.fault("webhook_mixed")
    inputs = [{"properties": {"firstname": str(n)}} for n in range(50)]
    portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=201)
    ids = [e["objectId"] for e in receiver.wait(50)]
    assert ids != sorted(ids)
    assert len(set(ids)) == 50


def test_a_subscription_that_is_off_or_of_another_property_tells_nothing(portal: Portal, receiver: Receiver) -> None:
    wanted = [
        {"eventType": "contact.propertyChange", "propertyName": "city", "active": False},
        {"eventType": "contact.propertyChange", "propertyName": "firstname"},
        {"eventType": "contact.deletion"},
    ]
    portal.order("/webhooks", {"targetUrl": receiver.url, "subscriptions": wanted})
    one = portal.contact(city="Bonn", lastname="L")
    portal.call("DELETE", f"{CONTACTS}/{one}", expect=204)
    assert [e["subscriptionType"] for e in receiver.wait(1)] == ["contact.deletion"]
    unknown = {"targetUrl": receiver.url, "subscriptions": [{"eventType": "planet.creation"}]}
    assert portal.control.post("/webhooks", json=unknown).status_code == 400
