"""Signing in to Salesforce: every grant, what ends it, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import RSAKey

from tests.simulators.orgs import VERSION, Org, org, refused

BACK = "http://localhost:8000/callback"
JWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture
def sf() -> Iterator[Org]:
    with org() as serving:
        yield serving


def app(sf: Org) -> dict[str, str]:
    return {"client_id": sf.credentials["client_id"], "client_secret": sf.credentials["client_secret"]}


def denied(got: httpx.Response, error: str, description: str | None = None) -> None:
    assert got.status_code == 400, got.text
    assert got.json()["error"] == error
    assert description in {None, got.json()["error_description"]}


def alive(sf: Org, token: str) -> bool:
    got = httpx.get(f"{sf.http}/services/data/v{VERSION}/limits", headers={"authorization": f"Bearer {token}"})
    return got.status_code == 200


def test_a_refresh_token_gives_access_tokens_without_saying_when_they_end(sf: Org) -> None:
    got = sf.refresh()
    answer = got.json()
    assert set(answer) == {"access_token", "signature", "scope", "instance_url", "id", "token_type", "issued_at"}
    assert answer["instance_url"] == sf.http
    assert answer["id"] == f"{sf.http}/id/{sf.credentials['org_id']}/{sf.credentials['user_id']}"
    assert answer["issued_at"].isdigit()
    assert alive(sf, answer["access_token"])
    denied(
        sf.token(grant_type="refresh_token", refresh_token="5Aepwrong", **app(sf)),
        "invalid_grant",
        "expired access/refresh token",
    )


def test_client_credentials_come_in_the_body_or_as_basic(sf: Org) -> None:
    in_body = sf.token(grant_type="client_credentials", **app(sf)).json()
    assert "refresh_token" not in in_body
    pair = (sf.credentials["client_id"], sf.credentials["client_secret"])
    basic = httpx.post(f"{sf.http}/services/oauth2/token", data={"grant_type": "client_credentials"}, auth=pair).json()
    assert alive(sf, in_body["access_token"])
    assert alive(sf, basic["access_token"])
    wrong = {**app(sf), "client_secret": "no"}
    denied(sf.token(grant_type="client_credentials", **wrong), "invalid_client", "invalid client credentials")
    denied(sf.token(grant_type="client_credentials", client_id="no", client_secret="no"), "invalid_client_id")
    denied(sf.token(grant_type="telepathy", **app(sf)), "unsupported_grant_type", "grant type not supported")


def assertion(sf: Org, **claims: Any) -> str:
    key = RSAKey.import_key(sf.credentials["private_key"])
    whole = {
        "iss": sf.credentials["client_id"],
        "sub": sf.credentials["username"],
        "aud": "https://login.salesforce.com",
        "exp": str(int(time.time()) + 180),
        **claims,
    }
    import json

    return jws.serialize_compact({"alg": "RS256"}, json.dumps(whole).encode(), key)


def test_a_signed_assertion_gives_a_token_and_a_wrong_one_none(sf: Org) -> None:
    got = sf.token(grant_type=JWT, assertion=assertion(sf))
    assert alive(sf, got.json()["access_token"])
    assert sf.token(grant_type=JWT, assertion=assertion(sf, exp=int(time.time()) + 60, aud=sf.http)).status_code == 200
    denied(sf.token(grant_type=JWT, assertion=assertion(sf, exp=int(time.time()) - 60)), "invalid_grant")
    denied(sf.token(grant_type=JWT, assertion=assertion(sf, exp=int(time.time()) + 3600)), "invalid_grant")
    denied(
        sf.token(grant_type=JWT, assertion=assertion(sf, aud="https://example.com")),
        "invalid_grant",
        "audience is invalid",
    )
    denied(sf.token(grant_type=JWT, assertion=assertion(sf, iss="other")), "invalid_client_id")
    denied(
        sf.token(grant_type=JWT, assertion=assertion(sf, sub="who@x")),
        "invalid_grant",
        "user hasn't approved this consumer",
    )
    forged = assertion(sf).rsplit(".", 1)[0] + "." + base64.urlsafe_b64encode(b"x" * 256).decode().rstrip("=")
    denied(sf.token(grant_type=JWT, assertion=forged), "invalid_grant", "invalid assertion")


def test_passwords_are_off_unless_switched_on() -> None:
    for options, status in (({}, 400), ({"passwords": "on"}, 200)):
        with org(**options) as sf:
            c = sf.credentials
            form = {"grant_type": "password", "username": c["username"], **app(sf)}
            got = sf.token(**form, password=c["password"] + c["security_token"])
            assert got.status_code == status
            denied(sf.token(**form, password="wrong"), "invalid_grant", "authentication failure")


def authorised(sf: Org, **more: str) -> dict[str, list[str]]:
    asked = {
        "response_type": "code",
        "client_id": sf.credentials["client_id"],
        "redirect_uri": BACK,
        "state": "s1",
        **more,
    }
    got = httpx.get(f"{sf.http}/services/oauth2/authorize", params=asked)
    assert got.status_code == 302, got.text
    assert got.headers["location"].startswith(BACK)
    return parse_qs(urlsplit(got.headers["location"]).query)


def test_an_authorisation_gives_a_code_for_one_use_and_only_to_who_began_it(sf: Org) -> None:
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")

    def code() -> str:
        back = authorised(sf, code_challenge=challenge, code_challenge_method="S256", scope="api refresh_token")
        assert back["state"] == ["s1"]
        return back["code"][0]

    form = {"grant_type": "authorization_code", "redirect_uri": BACK, "client_id": sf.credentials["client_id"]}
    denied(sf.token(**form, code=code(), code_verifier="w" * 50), "invalid_grant", "invalid code verifier")
    denied(sf.token(**form, client_secret=app(sf)["client_secret"], code=code()), "invalid_request")
    once = code()
    got = sf.token(**form, code=once, code_verifier=verifier).json()
    assert alive(sf, got["access_token"])
    again = sf.token(grant_type="refresh_token", refresh_token=got["refresh_token"], **app(sf))
    assert alive(sf, again.json()["access_token"])
    denied(sf.token(**form, code=once, code_verifier=verifier), "invalid_grant", "expired authorization code")
    late = code()
    sf.advance(901)
    denied(sf.token(**form, code=late, code_verifier=verifier), "invalid_grant", "expired authorization code")


def test_an_authorisation_goes_back_only_where_the_app_lives(sf: Org) -> None:
    asked = {"response_type": "code", "client_id": sf.credentials["client_id"], "redirect_uri": "https://evil.example/"}
    denied(httpx.get(f"{sf.http}/services/oauth2/authorize", params=asked), "redirect_uri_mismatch")
    denied(httpx.get(f"{sf.http}/services/oauth2/authorize", params={**asked, "client_id": "x"}), "invalid_client_id")
    sf.fault("deny")
    assert authorised(sf)["error"] == ["access_denied"]
    with org(callback="https://app.example/back") as strict:
        asked = {**asked, "client_id": strict.credentials["client_id"], "redirect_uri": BACK}
        denied(httpx.get(f"{strict.http}/services/oauth2/authorize", params=asked), "redirect_uri_mismatch")


def test_the_sixth_grant_ends_the_oldest(sf: Org) -> None:
    first = sf.refresh().json()["access_token"]
    logins = [sf.token(grant_type="client_credentials", **app(sf)).json()["access_token"] for _ in range(4)]
    assert alive(sf, first)
    sf.token(grant_type="client_credentials", **app(sf))
    assert not alive(sf, first)
    denied(sf.refresh(), "invalid_grant", "expired access/refresh token")
    assert all(alive(sf, token) for token in logins)
    fresh = sf.act("/grant", None)["refresh_token"]
    assert sf.token(grant_type="refresh_token", refresh_token=fresh, **app(sf)).status_code == 200


def test_tokens_end_when_idle_when_revoked_and_by_order(sf: Org) -> None:
    token = sf.refresh().json()["access_token"]
    sf.advance(7000)
    assert alive(sf, token)
    sf.advance(7201)
    got = httpx.get(f"{sf.http}/services/data/v{VERSION}/limits", headers={"authorization": f"Bearer {token}"})
    assert refused(got, 401, "INVALID_SESSION_ID")["message"] == "Session expired or invalid"
    token = sf.refresh().json()["access_token"]
    assert httpx.post(f"{sf.http}/services/oauth2/revoke", data={"token": token}).status_code == 200
    assert not alive(sf, token)
    denied(httpx.post(f"{sf.http}/services/oauth2/revoke", data={"token": token}), "unsupported_token_type")
    token = sf.refresh().json()["access_token"]
    sf.fault("expire_tokens")
    assert not alive(sf, token)
    token = sf.refresh().json()["access_token"]
    assert (
        httpx.get(f"{sf.http}/services/oauth2/revoke", params={"token": sf.credentials["refresh_token"]}).status_code
        == 200
    )
    assert not alive(sf, token)
    denied(sf.refresh(), "invalid_grant")


def test_revoked_grants_refuse_every_way_back_in(sf: Org) -> None:
    token = sf.refresh().json()["access_token"]
    sf.fault("revoke", times=2)
    denied(sf.refresh(), "invalid_grant", "expired access/refresh token")
    assert not alive(sf, token)
    denied(sf.token(grant_type="client_credentials", **app(sf)), "invalid_grant")
    denied(sf.refresh(), "invalid_grant")


def test_introspection_tells_when_a_token_ends(sf: Org) -> None:
    token = sf.refresh().json()["access_token"]
    pair = (sf.credentials["client_id"], sf.credentials["client_secret"])
    url = f"{sf.http}/services/oauth2/introspect"
    got = httpx.post(url, data={"token": token, "token_type_hint": "access_token"}, auth=pair).json()
    assert (got["active"], got["username"]) == (True, sf.credentials["username"])
    assert got["exp"] == pytest.approx(sf.simulator.clock.now() + 7200, abs=60)
    assert httpx.post(url, data={"token": "x", **app(sf)}).json() == {"active": False}
    assert httpx.post(url, data={"token": token}).status_code == 401


def test_identity_and_userinfo_tell_who_is_signed_in(sf: Org) -> None:
    answer = sf.refresh().json()
    headers = {"authorization": f"Bearer {answer['access_token']}"}
    who = httpx.get(answer["id"], headers=headers).json()
    assert (who["user_id"], who["organization_id"]) == (sf.credentials["user_id"], sf.credentials["org_id"])
    assert "{version}" in who["urls"]["rest"]
    info = httpx.get(f"{sf.http}/services/oauth2/userinfo", headers=headers).json()
    assert info["preferred_username"] == sf.credentials["username"]
    assert (httpx.get(answer["id"]).status_code, httpx.get(answer["id"]).text) == (403, "Bad_OAuth_Token")
    assert httpx.get(f"{sf.http}/id/00D000000000001/{who['user_id']}", headers=headers).text == "Wrong_Org"


def test_no_call_passes_without_a_token(sf: Org) -> None:
    url = f"{sf.http}/services/data/v{VERSION}/sobjects"
    refused(httpx.get(url), 401, "INVALID_SESSION_ID")
    refused(httpx.get(url, headers={"authorization": "Bearer nonsense"}), 401, "INVALID_SESSION_ID")
    refused(httpx.get(url, headers={"authorization": "Basic eDp5"}), 401, "INVALID_AUTH_HEADER")
    token = sf.client.headers["authorization"].removeprefix("Bearer ")
    assert httpx.get(url, headers={"authorization": f"OAuth {token}"}).status_code == 200
