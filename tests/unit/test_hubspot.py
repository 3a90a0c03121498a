"""HubSpot without a portal: what its errors mean, what its values are, what its webhooks name, and how one signs in."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from producers.hubspot import HubSpotProducer
from producers.hubspot_hook import HubSpotHook
from producers.hubspot_parts import conditions_of
from producers.source import Call
from tidelock.apis.connecting import Vendor, vendor_of
from tidelock.apis.hubspot_access import SIGN_IN, scopes_of
from tidelock.apis.hubspot_columns import columns_of
from tidelock.apis.hubspot_errors import code_of, field_of, holder, judge_of, passes, reject, unique
from tidelock.apis.judging import Answer
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry, Revoked
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry
from tidelock.tenants import Tenant

NOWHERE = "127.0.0.1:9"
SECRET = "a-secret-of-the-app"


def answer(status: int, body: Any, **headers: str) -> Answer:
    return Answer(status, httpx.Headers(headers), json.dumps(body).encode())


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("status", "body", "headers", "pause_s"),
    [
        (429, {"policyName": "TEN_SECONDLY_ROLLING"}, {}, 10.0),
        (429, {"policyName": "SECONDLY"}, {}, 1.0),
        (429, {}, {}, 10.0),
        (429, {"policyName": "SECONDLY"}, {"Retry-After": "4"}, 4.0),
        (429, {"policyName": "DAILY"}, {}, 1800.0),
        (423, {}, {}, 2.0),
        (423, {}, {"Retry-After": "1"}, 2.0),
        (477, {}, {"Retry-After": "86400"}, 86400.0),
        (477, {}, {}, 3600.0),
    ],
)
def test_how_long_is_waited(status: int, body: Any, headers: dict[str, str], pause_s: float) -> None:
    """Half past eleven in the portal's zone: the day's budget is back in half an hour."""
    judged = judge_of("US/Eastern", lambda: dt.datetime(2026, 11, 26, 4, 30, tzinfo=dt.UTC))
    error = judged(answer(status, body, **headers), "GET api.hubapi.com/x")
    assert isinstance(error, Retry)
    assert error.retry_after_s == pause_s


def test_a_day_is_as_long_as_it_is_in_the_portals_zone() -> None:
    """An hour is lost in that night; a look is taken every hour at least."""
    night = dt.datetime(2026, 3, 8, 6, 30, tzinfo=dt.UTC)  # half past one, before the clocks are put forward
    error = judge_of("US/Eastern", lambda: night)(answer(429, {"policyName": "DAILY"}), "GET x")
    assert isinstance(error, Retry)
    assert error.retry_after_s == 3600.0


def test_missing_scopes_are_named() -> None:
    body = {
        "category": "MISSING_SCOPES",
        "message": "This app hasn't been granted all required scopes",
        "errors": [{"context": {"requiredGranularScopes": ["crm.objects.deals.read"]}}],
    }
    error = judge_of("UTC")(answer(403, body), "GET api.hubapi.com/crm/v3/objects/deals")
    assert isinstance(error, Fatal)
    assert "crm.objects.deals.read" in str(error.hint)


def test_an_answer_that_says_nothing_is_no_crash() -> None:
    for status in (400, 403, 404, 409, 423, 429, 477):
        assert judge_of("UTC")(Answer(status, httpx.Headers(), b"<html>"), "GET x") is not None


def test_what_an_entry_says() -> None:
    exists = {"category": "CONFLICT", "message": "Contact already exists. Existing ID: 551"}
    assert (holder(exists), unique(exists), passes(exists)) == ("551", True, False)
    text = (
        'Property values were not valid: [{"isValid":false,"message":"no","error":"INVALID_OPTION","name":"industry"}]'
    )
    wrong = {"category": "VALIDATION_ERROR", "message": text}
    assert (field_of(wrong), code_of(wrong), unique(wrong)) == ("industry", "INVALID_OPTION", False)
    refused = reject(wrong, columns_of([{"name": "industry", "type": "enumeration"}]))
    assert (refused.kind, refused.field) == ("invalid_option", "industry")
    assert reject({}, {}).message
    assert passes({"category": "INTERNAL_ERROR"})


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("kind", "spellings", "written"),
    [
        ("number", ["1500.50", "1500.5", "1500.500"], "1500.5"),
        ("datetime", ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00Z", "1767225600000"], "2026-01-01T00:00:00.000Z"),
        ("date", ["2026-01-01", "1767225600000"], "2026-01-01"),
        ("bool", ["true", "TRUE"], "true"),
        ("enumeration", ["a;b"], "a;b"),
    ],
)
def test_one_value_has_one_spelling(kind: str, spellings: list[str], written: str) -> None:
    column = columns_of([{"name": "x", "type": kind}])["x"]
    assert len({column.encode(s) for s in spellings}) == 1
    assert column.json(column.generic(spellings[0])) == written


@pytest.mark.parametrize(("kind", "text"), [("number", "much"), ("datetime", "soon"), ("bool", "perhaps")])
def test_what_is_no_value_names_its_column(kind: str, text: str) -> None:
    with pytest.raises(Reject) as caught:
        columns_of([{"name": "x", "type": kind}])["x"].encode(text)
    assert caught.value.field == "x"


def test_conditions() -> None:
    assert conditions_of(None) == conditions_of(" ") == []
    assert conditions_of("lifecyclestage = 'customer' and createdate >= 2026-01-01") == [
        {"propertyName": "lifecyclestage", "operator": "EQ", "value": "customer"},
        {"propertyName": "createdate", "operator": "GTE", "value": "2026-01-01"},
    ]
    with pytest.raises(Fatal):
        conditions_of("a or b")
    with pytest.raises(Fatal, match="four"):
        conditions_of(" and ".join(f"a{n} = 1" for n in range(5)))


# ------------------------------------------------------------------------------------------------ webhooks


def make_hook(
    tmp_path: Path, tenants: dict[str, Any] | None = None, credentials: dict[str, str] | None = None, **options: Any
) -> HubSpotHook:
    tables = {"contact": "contacts", "company": "companies", "device": "2-123"}
    config = Config.model_validate(
        {
            "data": str(tmp_path),
            "systems": {
                "hub": {
                    "kind": "hubspot",
                    "capture": "hubspot",
                    "credentials": {"client_secret": SECRET} if credentials is None else credentials,
                    "options": options,
                    "tenants": tenants,
                    "entities": {
                        e: {"table": t, "map": [{"column": "name", "field": "name"}]} for e, t in tables.items()
                    },
                },
                "crm": {
                    "capture": "replication",
                    "entities": {"contact": {"table": "contact", "map": [{"column": "name", "field": "name"}]}},
                },
            },
            "entities": {e: {"fields": {"name": {}}} for e in tables},
            "flows": [{"entity": "contact", "from": "hub", "to": "crm"}],
        }
    )
    context = Context(config, KafkaClients(NOWHERE), Codec(Registry(f"http://{NOWHERE}")), "hooks")
    context.access.central = None
    context.access.tenants.central = None
    return HubSpotHook(context, context.access.tenants.all("hub")[0])


def call(events: Any) -> Call:
    return Call("POST", "https://sync.example.com/hooks/hub", {}, json.dumps(events).encode())


def event(kind: str = "contact.propertyChange", number: int | None = 1, **more: Any) -> dict[str, Any]:
    told = {"subscriptionType": kind, "portalId": 62515, "changeSource": "CRM_UI", **more}
    return told if number is None else {**told, "objectId": number}


def named(hook: HubSpotHook, events: Any) -> set[tuple[str | None, str, tuple[str, ...]]]:
    return {(n.tenant, n.entity, tuple(n.keys)) for n in hook.receive(call(events))}


def test_events_are_folded_into_keys_to_read(tmp_path: Path) -> None:
    hook = make_hook(tmp_path)
    events = [event(number=1), event(number=2), event(number=1), event("company.creation", 7)]
    assert named(hook, events) == {(None, "contact", ("1", "2")), (None, "company", ("7",))}


@pytest.mark.parametrize(
    ("one", "keys"),
    [
        (event("contact.deletion", 5), {"contact": ("5",)}),
        (event("contact.privacyDeletion", 5), {"contact": ("5",)}),
        (event("contact.restore", 5), {"contact": ("5",)}),
        (
            event("contact.merge", 5, primaryObjectId=5, mergedObjectIds=[6, 7], newObjectId=9),
            {"contact": ("5", "9", "6", "7")},
        ),
        (event("object.propertyChange", 5, objectTypeId="0-2"), {"company": ("5",)}),
        (event("object.creation", 5, objectTypeId="2-123"), {"device": ("5",)}),
        ({"eventType": "contact.creation", "objectId": 5}, {"contact": ("5",)}),
        (event("contact.associationChange", None, fromObjectId=5, toObjectId=8), {"contact": ("5",)}),
        (event("deal.creation", 5), {}),
    ],
)
def test_which_records_an_event_is_about(tmp_path: Path, one: Any, keys: dict[str, tuple[str, ...]]) -> None:
    assert {e: k for _, e, k in named(make_hook(tmp_path), [one])} == keys


def test_events_belong_to_the_tenant_whose_portal_they_name(tmp_path: Path) -> None:
    tenants = {"east": {"options": {"portal_id": 1}}, "west": {"options": {"portal_id": "2"}}}
    hook = make_hook(tmp_path, tenants)
    events = [event(number=1, portalId=1), event(number=2, portalId=2), event(number=3, portalId=3)]
    assert named(hook, events) == {("east", "contact", ("1",)), ("west", "contact", ("2",))}


def test_our_own_writes_are_not_read_again_but_our_deletes_are(tmp_path: Path) -> None:
    hook = make_hook(tmp_path, app_id=77)
    ours = {"changeSource": "INTEGRATION", "sourceId": "77"}
    events = [
        event(number=1, **ours),
        event("contact.deletion", 2, **ours),
        event(number=3, **{**ours, "sourceId": "78"}),
    ]
    assert named(hook, events) == {(None, "contact", ("2", "3"))}


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[1]", b'[{"subscriptionType":"contact.creation"}]'])
def test_what_makes_no_sense_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(Reject):
        make_hook(tmp_path).receive(Call("POST", "https://x/", {}, body))


def test_secrets_old_and_new(tmp_path: Path) -> None:
    assert make_hook(tmp_path).secrets == [SECRET]
    both = {"client_secret": SECRET, "previous_client_secret": "older"}
    assert make_hook(tmp_path, credentials=both).secrets == [SECRET, "older"]
    with pytest.raises(Revoked, match="client_secret"):
        _ = make_hook(tmp_path, credentials={"token": "pat"}).secrets


def test_the_capture_takes_webhooks() -> None:
    assert HubSpotProducer.hook is HubSpotHook


# ------------------------------------------------------------------------------------------------ signing in


def tenant(url: str | None = None, **options: Any) -> Tenant:
    credentials = {"client_id": "app", "client_secret": SECRET}
    return Tenant("hub", "default", url, options, credentials, None, "on", None, None)


def test_a_person_signs_in_at_hubspots_page() -> None:
    address, query = SIGN_IN.request(tenant())
    assert address == "https://app.hubspot.com/oauth/authorize"
    assert query["client_id"] == "app"
    assert "crm.schemas.contacts.write" in query["scope"].split()
    assert SIGN_IN.request(tenant("https://hub.example.com"))[0] == "https://hub.example.com/oauth/authorize"
    spec = Config.model_validate(
        {
            "systems": {
                "hub": {
                    "kind": "hubspot",
                    "capture": "hubspot",
                    "entities": {"contact": {"table": "contacts", "map": [{"column": "email", "field": "email"}]}},
                },
                "crm": {
                    "entities": {"contact": {"table": "contact", "map": [{"column": "email", "field": "email"}]}},
                },
            },
            "entities": {"contact": {"fields": {"email": {}}}},
            "flows": [{"entity": "contact", "from": "hub", "to": "crm"}],
        }
    ).systems["hub"]
    assert isinstance(vendor_of(spec), Vendor)
    assert vendor_of(spec) is SIGN_IN


def test_scopes_are_those_of_the_objects() -> None:
    assert scopes_of(tenant(objects=["deals", "products"])) == (
        "oauth",
        "crm.objects.deals.read",
        "crm.objects.deals.write",
        "crm.schemas.deals.read",
        "crm.schemas.deals.write",
        "e-commerce",
    )
    assert scopes_of(tenant(scopes="oauth tickets")) == ("oauth", "tickets")
