"""Signing in to the Dynamics simulator, its limits, faults, metadata and webhooks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msal  # type: ignore[import-untyped]
import pytest

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from tests.patience import until
from tests.simulators.dynamics_access import simulator, token, web_api


@pytest.mark.parametrize(
    ("form", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": ""}, 401, "invalid_client", 7000218),
        ({"client_id": "unknown"}, 400, "unauthorized_client", 700016),
        ({"scope": "https://elsewhere.example/.default"}, 400, "invalid_resource", 500011),
        ({"scope": "http://127.0.0.1/user_impersonation"}, 400, "invalid_scope", 1002012),
        ({"scope": ""}, 400, "invalid_request", 900144),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant", 9002313),
    ],
)
def test_the_token_endpoint_says_what_is_wrong(
    dynamics: Running, form: dict[str, str], status: int, error: str, number: int
) -> None:
    got = token(dynamics, **form)
    body = got.json()
    assert (got.status_code, body["error"], body["error_codes"]) == (status, error, [number])
    assert body["error_description"].startswith(f"AADSTS{number}: ")
    assert {"timestamp", "trace_id", "correlation_id"} <= set(body)
    assert dynamics.ready["credentials"]["client_secret"] not in got.text


def test_a_token_works_until_it_expires(dynamics: Running, api: httpx.Client, there: httpx.Client) -> None:
    got = token(dynamics).json()
    assert (got["token_type"], got["expires_in"], got["ext_expires_in"]) == ("Bearer", 3599, 3599)
    assert api.get("WhoAmI").json()["UserId"] == dynamics.ready["credentials"]["integration_user"]
    there.post("/clock", json={"advance_s": 3600})
    late = api.get("WhoAmI")
    assert (late.status_code, late.content) == (401, b"")
    assert "authorization_uri=" in late.headers["www-authenticate"]
    assert httpx.get(f"{dynamics.http}/api/data/v9.2/WhoAmI").status_code == 401
    with web_api(dynamics) as fresh:
        assert fresh.get("WhoAmI").status_code == 200
        assert fresh.get(f"{dynamics.http}/api/data/v9.0/RetrieveVersion()").json()["Version"].startswith("9.2.")
        assert fresh.get(f"{dynamics.http}/api/data/v8.2/WhoAmI").status_code == 404


def test_an_expired_or_revoked_token_is_refused_when_a_fault_says_so(
    dynamics: Running, api: httpx.Client, there: httpx.Client
) -> None:
    there.post("/faults", json={"kind": "expire_token"})
    assert [api.get("accounts").status_code for _ in range(2)] == [401, 401]
    there.post("/faults", json={"kind": "revoke", "times": 1, "path": "oauth2"})
    refused = token(dynamics)
    assert (refused.status_code, refused.json()["error_codes"]) == (401, [7000222])
    with web_api(dynamics) as fresh:
        assert fresh.get("accounts").status_code == 200
        there.post("/faults", json={"kind": "revoke", "path": "accounts"})
        assert [fresh.get("accounts").status_code, fresh.get("WhoAmI").status_code] == [401, 401]


def test_an_application_needs_a_user_in_the_organisation(
    dynamics: Running, api: httpx.Client, there: httpx.Client
) -> None:
    there.post("/apps", json={"client_id": "stranger", "client_secret": "s"})
    access = token(dynamics, client_id="stranger", client_secret="s").json()["access_token"]
    got = httpx.get(f"{dynamics.http}/api/data/v9.2/WhoAmI", headers={"Authorization": f"Bearer {access}"})
    assert (got.status_code, got.json()["error"]["code"]) == (403, "0x80072560")
    user = dynamics.ready["credentials"]["integration_user"]
    there.post("/users", json={"id": user, "disabled": True})
    assert (api.get("WhoAmI").status_code, api.get("WhoAmI").json()["error"]["code"]) == (403, "0x80040225")
    there.post("/users", json={"id": user, "remove": True})
    assert api.get("WhoAmI").json()["error"]["code"] == "0x80072560"


def _code(dynamics: Running, **more: str) -> dict[str, list[str]]:
    known = dynamics.ready["credentials"]
    given = {
        "client_id": known["client_id"],
        "response_type": "code",
        "redirect_uri": "http://localhost:8400/back",
        "scope": f"{dynamics.http}/user_impersonation offline_access",
        "state": "s1",
        **more,
    }
    got = httpx.get(f"{dynamics.http}{known['authorize_path']}", params=given)
    assert got.status_code == 302, got.text
    return parse_qs(urlsplit(got.headers["location"]).query)


def test_a_person_signs_in_by_code_with_pkce_and_the_grant_is_refreshed(dynamics: Running, there: httpx.Client) -> None:
    verifier = "v" * 43
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    back = _code(dynamics, code_challenge=challenge, code_challenge_method="S256")
    assert back["state"] == ["s1"]
    form = {"grant_type": "authorization_code", "code": back["code"][0], "redirect_uri": "http://localhost:8400/back"}
    wish = {**form, "scope": f"{dynamics.http}/user_impersonation offline_access"}
    assert token(dynamics, **wish, code_verifier="w" * 43).json()["error_codes"] == [501481]
    got = token(dynamics, **wish, code_verifier=verifier).json()
    assert token(dynamics, **wish, code_verifier=verifier).json()["error_codes"] == [54005]
    headers = {"Authorization": f"Bearer {got['access_token']}"}
    who = httpx.get(f"{dynamics.http}/api/data/v9.2/WhoAmI", headers=headers).json()
    assert who["UserId"] == dynamics.ready["credentials"]["user"]
    refresh = {"grant_type": "refresh_token", "scope": f"{dynamics.http}/.default"}
    again = token(dynamics, **refresh, refresh_token=got["refresh_token"]).json()
    assert again["refresh_token"] != got["refresh_token"]
    there.post("/faults", json={"kind": "revoke", "path": "oauth2"})
    assert token(dynamics, **refresh, refresh_token=again["refresh_token"]).json()["error_codes"] == [50173]
    assert token(dynamics, **refresh, refresh_token=again["refresh_token"]).json()["error_codes"] == [50173]


def test_the_authorize_page_sends_errors_back_or_keeps_them(dynamics: Running, there: httpx.Client) -> None:
    there.post("/faults", json={"kind": "denied"})
    assert _code(dynamics)["error"] == ["access_denied"]
    path = f"{dynamics.http}{dynamics.ready['credentials']['authorize_path']}"
    client = dynamics.ready["credentials"]["client_id"]
    foreign = httpx.get(path, params={"client_id": client, "redirect_uri": "https://evil.example/"})
    assert (foreign.status_code, "AADSTS50011" in foreign.text) == (400, True)


def test_msal_signs_a_person_in_with_discovery_and_an_id_token(
    dynamics: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", dynamics.ca)
    known = dynamics.ready["credentials"]
    authority = f"{dynamics.https.replace('127.0.0.1', 'localhost')}/{known['tenant']}"
    app = msal.ConfidentialClientApplication(
        known["client_id"],
        client_credential=known["client_secret"],
        authority=authority,
        instance_discovery=False,
    )
    flow = app.initiate_auth_code_flow(
        [f"{dynamics.https}/user_impersonation"], redirect_uri="http://localhost:1/back", response_mode="form_post"
    )
    page = httpx.get(
        flow["auth_uri"].replace(urlsplit(authority).netloc, urlsplit(dynamics.http).netloc).replace("https", "http", 1)
    )
    back = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
    got = app.acquire_token_by_auth_code_flow(flow, back)
    assert got.get("id_token_claims", {}).get("name") == "Dana Admin", got
    silent = app.acquire_token_silent(
        [f"{dynamics.https}/user_impersonation"], app.get_accounts()[0], force_refresh=True
    )
    assert silent is not None
    assert silent["access_token"] != got["access_token"]


# Limits and faults.


def test_requests_over_the_limit_wait_as_long_as_they_are_told() -> None:
    with Running(DynamicsSimulator(limit_requests="5")) as running, web_api(running) as api:
        left = [api.get("accounts").headers["x-ms-ratelimit-burst-remaining-xrm-requests"] for _ in range(5)]
        assert left == ["4", "3", "2", "1", "0"]
        refused = [api.get("accounts") for _ in range(3)]
        waits = [int(r.headers["retry-after"]) for r in refused]
        assert {r.status_code for r in refused} == {429}
        assert refused[0].json()["error"]["code"] == "0x80072322"
        assert waits == sorted(waits)
        assert 290 <= waits[0] < waits[-1]
        running.simulator.clock.advance(310)
        assert api.get("accounts").status_code == 200


def test_execution_time_and_concurrency_have_limits_too() -> None:
    with Running(DynamicsSimulator(limit_execution_s="2", execution_ms="1100")) as running, web_api(running) as api:
        assert [api.get("accounts").status_code for _ in range(3)] == [200, 200, 429]
        assert api.get("accounts").json()["error"]["code"] == "0x80072321"
    with Running(DynamicsSimulator(limit_concurrent="0")) as running, web_api(running) as api:
        assert api.get("accounts").json()["error"]["code"] == "0x80072326"


@pytest.mark.parametrize(
    ("fault", "method", "status", "code"),
    [
        ({"kind": "limit_execution"}, "GET", 429, "0x80072321"),
        ({"kind": "limit_concurrent"}, "POST", 429, "0x80072326"),
        ({"kind": "unavailable", "retry_after_s": 5}, "GET", 503, "0x80072328"),
        ({"kind": "deadlock"}, "POST", 500, "0x80044150"),
        ({"kind": "sql_timeout"}, "GET", 500, "0x80044151"),
        ({"kind": "forbidden"}, "POST", 403, "0x80040220"),
        ({"kind": "plugin", "message": "No."}, "POST", 400, "0x80040265"),
        ({"kind": "delete_restricted"}, "DELETE", 405, "0x80040227"),
    ],
)
def test_faults_hit_once_and_do_nothing(
    api: httpx.Client, there: httpx.Client, fault: dict[str, Any], method: str, status: int, code: str
) -> None:
    (row,) = there.post("/load/accounts", json=[{"name": "A"}]).json()["ids"]
    path = f"accounts({row})" if method == "DELETE" else "accounts"
    body = {"name": "B"} if method == "POST" else None
    assert there.post("/faults", json=fault).status_code == 200
    got = api.request(method, path, json=body)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert len(api.get("accounts").json()["value"]) == 1
    assert api.request(method, path, json=body).status_code < 300


def test_a_create_that_is_lost_after_it_was_done_is_found_by_its_key(api: httpx.Client, there: httpx.Client) -> None:
    there.post("/faults", json={"kind": "lost", "method": "PATCH"})
    with pytest.raises(httpx.RemoteProtocolError):
        api.patch("accounts(td_tidelockid='c1')", json={"name": "A"})
    assert (
        api.patch(
            "accounts(td_tidelockid='c1')", json={"name": "A"}, headers={"Prefer": "return=representation"}
        ).status_code
        == 200
    )
    assert len(api.get("accounts").json()["value"]) == 1


# Metadata.


def test_metadata_in_json_and_xml(api: httpx.Client, there: httpx.Client) -> None:
    there.post(
        "/columns/account",
        json=[{"name": "td_tier", "schema_name": "td_Tier", "kind": "picklist", "options": {"1": "Gold"}}],
    )
    definition = "EntityDefinitions(LogicalName='account')"
    one = api.get(f"{definition}?$select=EntitySetName&$expand=Keys($select=KeyAttributes)").json()
    assert (one["EntitySetName"], one["Keys"][0]["KeyAttributes"]) == ("accounts", ["td_tidelockid"])
    cast = "Microsoft.Dynamics.CRM.PicklistAttributeMetadata"
    choices = api.get(f"{definition}/Attributes/{cast}?$select=LogicalName&$expand=OptionSet($select=Options)").json()[
        "value"
    ]
    tier = next(c for c in choices if c["LogicalName"] == "td_tier")
    assert tier["OptionSet"]["Options"][0]["Label"]["UserLocalizedLabel"]["Label"] == "Gold"
    single = api.get(
        f"{definition}/Attributes(LogicalName='statuscode')/Microsoft.Dynamics.CRM.StatusAttributeMetadata/OptionSet"
    )
    assert [(o["Value"], o["State"]) for o in single.json()["Options"]] == [(1, 0), (2, 1)]
    listed = api.get("EntityDefinitions?$select=LogicalName&$filter=EntitySetName eq 'opportunities'").json()["value"]
    assert [e["LogicalName"] for e in listed] == ["opportunity"]
    assert api.get("EntityDefinitions(LogicalName='nothing')").status_code == 404
    tree = ET.fromstring(api.get("$metadata?annotations=true").content)
    space = "{http://docs.oasis-open.org/odata/ns/edm}"
    types = {t.get("Name"): t for t in tree.iter(f"{space}EntityType")}
    assert "td_tier" in {p.get("Name") for p in types["account"].iter(f"{space}Property")}
    navigations = {n.get("Name") for n in types["contact"].iter(f"{space}NavigationProperty")}
    assert {"parentcustomerid_account", "parentcustomerid_contact"} <= navigations
    assert b"Capabilities.V1.ChangeTracking" in api.get("$metadata?annotations=true").content
    assert {"name": "accounts", "kind": "EntitySet", "url": "accounts"} in api.get("").json()["value"]


# Webhooks.


def test_a_webhook_tells_what_changed_with_the_tag_of_the_request(
    dynamics: Running, api: httpx.Client, there: httpx.Client
) -> None:
    with Running(DynamicsSimulator()) as receiver:
        url = f"{receiver.http}/hook"
        there.post(
            "/endpoints",
            json={"url": url, "auth": "header", "headers": {"x-key": "k"}, "tables": ["accounts"], "images": True},
        )
        there.post("/endpoints", json={"url": url, "value": "c0de", "messages": ["Update"], "filtering": ["name"]})
        receiver.simulator.faults.order({"kind": "status", "status": 200, "times": None, "path": "/hook"})
        (row,) = there.post("/load/account", json=[{"name": "A", "revenue": 5}]).json()["ids"]
        api.patch(f"accounts({row})?tag=cdc-hub", json={"name": "B", "customertypecode": 3})
        api.patch(f"accounts({row})", json={"telephone1": "1"})
        api.delete(f"accounts({row})", headers={"MSCRM.BypassBusinessLogicExecution": "CustomSync,CustomAsync"})
        until(lambda: [d["state"] for d in there.get("/deliveries").json()] == ["done"] * 4)
        seen = there.get("/deliveries").json()
        assert [("code=c0de" in d["url"]) for d in seen] == [False, False, True, False]
        create, update = json.loads(seen[0]["body"]), json.loads(seen[1]["body"])
        assert (create["MessageName"], create["PrimaryEntityName"], create["PrimaryEntityId"]) == (
            "Create",
            "account",
            row,
        )
        assert {"key": "tag", "value": "cdc-hub"} in update["SharedVariables"]
        assert not [v for v in create["SharedVariables"] if v["key"] == "tag"]
        target = {a["key"]: a["value"] for a in update["InputParameters"][0]["value"]["Attributes"]}
        assert target["name"] == "B"
        assert target["customertypecode"]["Value"] == 3
        assert target["modifiedon"].startswith("/Date(")
        assert "revenue" not in target
        before = {a["key"]: a["value"] for a in update["PreEntityImages"][0]["value"]["Attributes"]}
        assert (before["name"], before["revenue"]["Value"]) == ("A", 5)


def test_a_webhook_that_is_too_large_leaves_the_row_out_and_says_so(
    dynamics: Running, api: httpx.Client, there: httpx.Client
) -> None:
    sent: list[dict[str, str]] = []
    deliveries = simulator(dynamics).service.events.deliveries
    assert deliveries is not None
    there.post("/columns/account", json=[{"name": "td_long", "kind": "memo", "max_length": 1_000_000}])
    there.post("/endpoints", json={"url": f"{dynamics.http}/nowhere", "tables": ["account"]})
    api.post("accounts", json={"name": "A", "td_long": "x" * 300_000})
    until(lambda: bool(deliveries.made and deliveries.made[0].attempts))
    sent.append(dict(deliveries.made[0].sign(0)))
    body = json.loads(deliveries.made[0].body)
    assert sent[0]["x-ms-dynamics-msg-size-exceeded"] == "true"
    assert sent[0]["x-ms-dynamics-request-name"] == "Create"
    assert "InputParameters" not in body
    assert body["PrimaryEntityName"] == "account"
