"""Who may call HubSpot: tokens, consent, scopes; how often; and what a bad day looks like."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.simulators.hubspotting import CONTACTS, Portal
from tests.simulators.hubspotting import portal as serving

_BACK = "http://127.0.0.1:9/callback"


@pytest.fixture
def portal() -> Iterator[Portal]:
    with serving() as running:
        yield running


def _token(portal: Portal, version: str = "v1", **form: str) -> httpx.Response:
    names = {n: str(portal.credentials[n]) for n in ("client_id", "client_secret")}
    return httpx.post(f"{portal.running.http}/oauth/{version}/token", data={**names, **form})


def _refreshed(portal: Portal, version: str = "v1") -> str:
    got = _token(portal, version, grant_type="refresh_token", refresh_token=portal.credentials["refresh_token"])
    assert got.status_code == 200, got.text
    return str(got.json()["access_token"])


def _as(portal: Portal, token: str, path: str = CONTACTS, method: str = "GET", **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.request(method, f"{portal.running.http}{path}", headers=headers, **more)


def _consent(portal: Portal, **query: str) -> dict[str, str]:
    names = {"client_id": portal.credentials["client_id"], "redirect_uri": _BACK, **query}
    got = httpx.get(f"{portal.running.http}/oauth/authorize", params=names)
    assert got.status_code == 302, got.text
    where = urlsplit(got.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == _BACK
    return {name: values[0] for name, values in parse_qs(where.query).items()}


def test_a_call_without_credentials_or_with_unknown_ones_is_refused(portal: Portal) -> None:
    for headers in ({}, {"authorization": "Bearer nobody"}, {"authorization": "Basic YTpi"}):
        got = httpx.get(f"{portal.running.http}{CONTACTS}", headers=headers)
        assert got.status_code == 401
        assert got.json()["category"] == "INVALID_AUTHENTICATION"
        assert got.json()["message"].startswith("Authentication credentials not found")


def test_a_token_expires_by_the_clock_and_says_when(portal: Portal) -> None:
    token = _refreshed(portal)
    assert _as(portal, token).status_code == 200
    portal.advance(1805)
    got = _as(portal, token)
    assert (got.status_code, got.json()["category"]) == (401, "EXPIRED_AUTHENTICATION")
    assert got.json()["context"]["expire time"]
    assert _as(portal, _refreshed(portal)).status_code == 200
    assert _as(portal, portal.credentials["private_token"]).status_code == 200


def test_the_life_of_a_token_is_an_option_and_the_control_api_ends_it() -> None:
    with serving(token_life_s="60") as portal:
        got = _token(portal, grant_type="refresh_token", refresh_token=portal.credentials["refresh_token"]).json()
        assert got["expires_in"] == 60
        assert portal.order("/expire") == {"expired": 1}
        assert _as(portal, got["access_token"]).json()["category"] == "EXPIRED_AUTHENTICATION"


@pytest.mark.parametrize("version", ["v3", "2026-03", "2026-09"])
def test_newer_token_paths_say_more(portal: Portal, version: str) -> None:
    got = _token(portal, version, grant_type="refresh_token", refresh_token=portal.credentials["refresh_token"]).json()
    assert (got["hub_id"], got["token_use"]) == (portal.credentials["portal_id"], "access_token")
    assert got["refresh_token"] == portal.credentials["refresh_token"]
    assert "crm.objects.contacts.write" in got["scopes"]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"grant_type": "refresh_token", "refresh_token": "nobody's"}, "BAD_REFRESH_TOKEN"),
        ({"grant_type": "authorization_code", "code": "nobody's", "redirect_uri": _BACK}, "BAD_AUTH_CODE"),
        ({"grant_type": "password"}, "BAD_GRANT_TYPE"),
        ({"grant_type": "refresh_token", "client_id": "x"}, "BAD_CLIENT_ID"),
        ({"grant_type": "refresh_token", "client_secret": "x"}, "BAD_CLIENT_SECRET"),
    ],
)
def test_the_token_endpoints_errors_have_a_shape_of_their_own(
    portal: Portal, form: dict[str, str], status: str
) -> None:
    got = _token(portal, **form)
    assert got.status_code == 400
    assert got.json()["status"] == status
    assert {"message", "correlationId"} <= set(got.json())


def test_consent_with_a_verifier_gives_tokens_of_a_new_installation(portal: Portal) -> None:
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    back = _consent(
        portal,
        state="s1",
        scope="oauth crm.objects.contacts.read",
        code_challenge=challenge,
        code_challenge_method="S256",
    )
    assert back["state"] == "s1"
    form = {"grant_type": "authorization_code", "code": back["code"], "redirect_uri": _BACK}
    got = _token(portal, "v3", **form, code_verifier=verifier)
    assert got.status_code == 200, got.text
    assert got.json()["refresh_token"] != portal.credentials["refresh_token"]
    assert sorted(got.json()["scopes"]) == ["crm.objects.contacts.read", "oauth"]
    token = got.json()["access_token"]
    assert _as(portal, token).status_code == 200
    assert _as(portal, token, method="POST", json={"properties": {}}).status_code == 403
    assert _token(portal, "v3", **form, code_verifier=verifier).json()["status"] == "BAD_AUTH_CODE"


def test_consent_fails_in_the_ways_it_can(portal: Portal) -> None:
    form = {"grant_type": "authorization_code"}
    other = {"redirect_uri": "http://127.0.0.1:9/other"}
    wrong = _token(portal, **form, code=_consent(portal)["code"], **other)
    assert wrong.json()["status"] == "MISMATCH_REDIRECT_URI_AUTH_CODE"
    code = _consent(portal, code_challenge="abc", code_challenge_method="S256")["code"]
    assert _token(portal, **form, code=code, redirect_uri=_BACK).json()["status"] == "BAD_CODE_VERIFIER"
    late = _consent(portal)["code"]
    portal.advance(61)
    assert _token(portal, **form, code=late, redirect_uri=_BACK).json()["status"] == "BAD_AUTH_CODE"
    assert _consent(portal, scope="files")["error"] == "invalid_scope"
    portal.fault("authorize_denied")
    assert _consent(portal, state="s")["error"] == "access_denied"
    unknown = {"client_id": "x", "redirect_uri": _BACK}
    assert httpx.get(f"{portal.running.http}/oauth/authorize", params=unknown).status_code == 400


def test_an_app_that_was_disconnected_stays_out_until_it_is_connected_again(portal: Portal) -> None:
    token = _refreshed(portal)
    portal.fault("token_revoked")
    assert _as(portal, token).status_code == 401
    assert _as(portal, token).json()["category"] == "INVALID_AUTHENTICATION"
    refused = _token(portal, grant_type="refresh_token", refresh_token=portal.credentials["refresh_token"])
    assert refused.json()["status"] == "BAD_REFRESH_TOKEN"
    portal.order("/reconnect")
    assert _as(portal, _refreshed(portal)).status_code == 200


def test_a_missing_scope_is_named(portal: Portal) -> None:
    portal.order("/scopes", {"scopes": ["crm.objects.contacts.read"]})
    assert portal.client.get(CONTACTS).status_code == 200
    body = portal.call("GET", "/crm/objects/2026-03/companies", expect=403)
    assert body["category"] == "MISSING_SCOPES"
    assert body["errors"][0]["context"]["requiredGranularScopes"] == ["crm.objects.companies.read"]
    assert body["links"]["scopes"]
    portal.call("POST", CONTACTS, {"properties": {}}, expect=403)
    portal.call("GET", "/crm/v3/properties/contacts")
    portal.call("POST", "/crm/v3/properties/contacts", {}, expect=403)
    portal.call("GET", "/crm/v3/owners", expect=403)


def test_the_scopes_of_the_app_are_an_option() -> None:
    with serving(scopes="crm.objects.contacts.read,crm.objects.deals.read") as portal:
        portal.call("GET", "/crm/v3/objects/deals")
        portal.call("GET", "/crm/v3/objects/products", expect=403)


def test_who_and_where_am_i(portal: Portal) -> None:
    details = portal.call("GET", "/account-info/v3/details")
    assert details["portalId"] == portal.credentials["portal_id"]
    assert details["timeZone"] == "US/Eastern"
    assert portal.call("GET", "/integrations/v1/me")["portalId"] == portal.credentials["portal_id"]
    about = portal.call(
        "POST", "/oauth/v2/private-apps/get/access-token-info", {"tokenKey": portal.credentials["private_token"]}
    )
    assert (about["hubId"], about["appId"]) == (portal.credentials["portal_id"], portal.credentials["private_app_id"])


def test_webhook_settings_want_the_developers_key(portal: Portal) -> None:
    place = f"/webhooks/v3/{portal.credentials['app_id']}/subscriptions"
    assert portal.client.get(place).status_code == 401
    key = {"hapikey": portal.credentials["developer_key"]}
    assert httpx.get(f"{portal.running.http}{place}", params=key).json() == {"results": []}
    assert httpx.get(f"{portal.running.http}/webhooks/v3/1/subscriptions", params=key).status_code == 404


def test_the_burst_limit_of_ten_seconds_rolls() -> None:
    with serving(burst="5", daily="1000") as portal:
        got = [portal.client.get(CONTACTS) for _ in range(6)]
        assert [g.status_code for g in got] == [200] * 5 + [429]
        assert [g.headers["x-hubspot-ratelimit-remaining"] for g in got] == ["4", "3", "2", "1", "0", "0"]
        assert got[0].headers["x-hubspot-ratelimit-max"] == "5"
        assert got[0].headers["x-hubspot-ratelimit-interval-milliseconds"] == "10000"
        body = got[5].json()
        assert body["message"] == "You have reached your ten_secondly_rolling limit."
        assert (body["status"], body["errorType"], body["policyName"]) == (
            "error",
            "RATE_LIMIT",
            "TEN_SECONDLY_ROLLING",
        )
        assert "retry-after" not in got[5].headers
        portal.advance(10)
        assert portal.client.get(CONTACTS).status_code == 200


def test_the_days_limit_ends_at_midnight_of_the_portal() -> None:
    with serving(daily="3", time_zone="Asia/Tokyo") as portal:
        got = [portal.client.get(CONTACTS) for _ in range(4)]
        assert [g.status_code for g in got] == [200, 200, 200, 429]
        assert got[1].headers["x-hubspot-ratelimit-daily-remaining"] == "1"
        assert got[3].json()["message"] == "You have reached your daily limit."
        assert got[3].json()["policyName"] == "DAILY"
        portal.advance(24 * 3600)
        assert portal.client.get(CONTACTS).status_code == 200


def test_an_oauth_app_has_a_limit_of_its_own_and_no_daily_headers() -> None:
    with serving(oauth_burst="2", burst="100", daily="1000") as portal:
        token = _refreshed(portal)
        got = [_as(portal, token) for _ in range(3)]
        assert [g.status_code for g in got] == [200, 200, 429]
        assert not [h for h in got[0].headers if "daily" in h]
        assert portal.client.get(CONTACTS).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "headers"),
    [
        ({"kind": "rate_limit", "policy": "DAILY"}, 429, {}),
        ({"kind": "rate_limit", "policy": "SECONDLY", "retry_after_s": 3}, 429, {"retry-after": "3"}),
        ({"kind": "locked"}, 423, {}),
        ({"kind": "migrating", "retry_after_s": 120}, 477, {"retry-after": "120"}),
        ({"kind": "unavailable"}, 502, {"content-type": "text/html; charset=utf-8"}),
        ({"kind": "unavailable", "status": 504}, 504, {}),
        ({"kind": "token_expired"}, 401, {}),
    ],
)
def test_a_bad_day(portal: Portal, fault: dict[str, Any], status: int, headers: dict[str, str]) -> None:
    portal.fault(**{**fault, "method": "POST"})
    got = portal.client.post(CONTACTS, json={"properties": {"email": "a@example.com"}})
    assert got.status_code == status
    assert {n: got.headers[n] for n in headers} == headers
    assert portal.call("GET", CONTACTS)["results"] == []
    assert portal.client.post(CONTACTS, json={"properties": {"email": "a@example.com"}}).status_code == 201


def test_a_batch_that_fails_in_part_and_an_answer_that_is_lost_after_success(portal: Portal) -> None:
    portal.fault("batch_partial", count=1)
    inputs = [{"properties": {"email": f"{n}@example.com"}} for n in range(3)]
    body = portal.call("POST", f"{CONTACTS}/batch/create", {"inputs": inputs}, expect=207)
    assert (len(body["results"]), body["numErrors"]) == (2, 1)
    portal.fault("lost", method="POST")
    with pytest.raises(httpx.RemoteProtocolError):
        portal.client.post(CONTACTS, json={"properties": {"email": "lost@example.com"}})
    assert portal.call("POST", CONTACTS, {"properties": {"email": "lost@example.com"}}, expect=409)


def test_a_wrong_option_is_told() -> None:
    for options in ({"burst": "many"}, {"unset": "maybe"}, {"time_zone": "Mars/Base"}, {"nonsense": "1"}):
        with pytest.raises(ValueError, match=next(iter(options))), serving(**options):
            raise AssertionError("it has started")


def test_a_portal_starts_with_the_records_that_options_ask_for() -> None:
    with serving(contacts="12", companies="3", deals="2", products="1") as portal:
        sizes = {
            k: len(portal.control.get(f"/records/{k}").json()) for k in ("contacts", "companies", "deals", "products")
        }
        assert sizes == {"contacts": 12, "companies": 3, "deals": 2, "products": 1}
        before = portal.control.get("/records/contacts").json()[0]["properties"]["email"]
        portal.contact(email="further@example.com")
        portal.order("/reset")
        after = portal.control.get("/records/contacts").json()
        assert (len(after), after[0]["properties"]["email"]) == (12, before)
