"""Ways to sign in against a token endpoint: what is sent, what is kept, and what each refusal means."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.responses import JSONResponse, Response

from tests.access import SECRETS
from tests.apiserver import Api, serving
from tidelock.auth import ClientCredentials, JwtBearer, RefreshToken, Static
from tidelock.errors import Retry, Revoked
from tidelock.httperrors import retry_after_s, scrub, vendor_message
from tidelock.tenants import Tenant

CREDENTIALS = {"client_id": "app", "client_secret": SECRETS[0], "refresh_token": SECRETS[1], "token": SECRETS[2]}


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    server.reset()
    return server


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def tenant(**credentials: str) -> Tenant:
    return Tenant("shop", "north", "https://shop", {}, {**CREDENTIALS, **credentials}, None, "on", None, None)


def test_a_refresh_token_is_exchanged_and_kept_when_it_stays(api: Api, http: httpx.Client) -> None:
    api.expires_in = 1800
    token, changed = RefreshToken(f"{api.url}/token", {"scope": "crm"}).fetch(tenant(), http)
    assert (token.value, changed) == ("token-1", {})
    assert token.expires_at is not None
    assert token.expires_at - token.got_at == pytest.approx(1800)
    assert token.extra["instance_url"] == api.url
    assert "access_token" not in token.extra
    assert api.logins[0].form == {
        "grant_type": "refresh_token", "refresh_token": SECRETS[1], "client_id": "app", "client_secret": SECRETS[0],
        "scope": "crm",
    }  # fmt: skip


def test_a_refresh_token_that_is_replaced_is_told(api: Api, http: httpx.Client) -> None:
    api.rotating = True
    _, changed = RefreshToken(f"{api.url}/token").fetch(tenant(), http)
    assert changed == {"refresh_token": "r3fresh-token-1"}


def test_client_credentials_in_the_body_or_in_the_header(api: Api, http: httpx.Client) -> None:
    ClientCredentials(f"{api.url}/token", parameters=lambda t: {"scope": f"{t.url}/.default"}).fetch(tenant(), http)
    ClientCredentials(f"{api.url}/token", style="basic").fetch(tenant(), http)
    body, basic = api.logins
    assert body.form == {
        "grant_type": "client_credentials", "client_id": "app", "client_secret": SECRETS[0], "scope": "https://shop/.default",
    }  # fmt: skip
    assert "authorization" not in body.headers
    assert basic.form == {"grant_type": "client_credentials"}
    assert base64.b64decode(basic.headers["authorization"].removeprefix("Basic ")).decode() == f"app:{SECRETS[0]}"


def test_an_assertion_is_signed_with_the_private_key(api: Api, http: httpx.Client) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    api.expires_in = None
    grant = JwtBearer(f"{api.url}/token", "https://login.example", lifetime_s=7200)
    token, _ = grant.fetch(tenant(username="sync@example.com", private_key=pem.replace("\n", "\\n")), http)
    assert token.expires_at is not None
    form = api.logins[0].form
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    decoded = jwt.decode(form["assertion"], RSAKey.import_key(public), algorithms=["RS256"])
    assert decoded.header["alg"] == "RS256"
    assert (decoded.claims["iss"], decoded.claims["sub"], decoded.claims["aud"]) == (
        "app", "sync@example.com", "https://login.example",
    )  # fmt: skip
    assert 0 < decoded.claims["exp"] - decoded.claims["iat"] <= 180


def test_a_key_that_is_none_is_this_tenants_trouble(http: httpx.Client) -> None:
    grant = JwtBearer("http://127.0.0.1:1/token", "x")
    with pytest.raises(Revoked, match="no RSA private key") as found:
        grant.fetch(tenant(username="u", private_key="pr1vate nonsense"), http)
    assert "pr1vate" not in str(found.value)


def test_a_static_token_stands_among_the_credentials(http: httpx.Client) -> None:
    token, changed = Static().fetch(tenant(), http)
    assert (token.value, token.expires_at, changed) == (SECRETS[2], None, {})
    with pytest.raises(Revoked, match=r"shop/north has no credential `pat`(.|\n)*--credential pat"):
        Static("pat").fetch(tenant(), http)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": "invalid_grant", "error_description": f"expired {SECRETS[1]}"}),
        (400, {"status": "BAD_REFRESH_TOKEN", "message": f"missing or invalid {SECRETS[1]}", "correlationId": "x"}),
        (401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret\r\nTrace ID: 1"}),
        (302, {}),
        (404, {"message": "nothing here"}),
    ],
)
def test_a_refusal_is_for_a_person(api: Api, http: httpx.Client, status: int, body: dict[str, str]) -> None:
    api.sign_in = lambda _: JSONResponse(body, status, {"location": "https://elsewhere"})
    with pytest.raises(Revoked, match=f"shop/north: .*/token answered {status}") as found:
        RefreshToken(f"{api.url}/token").fetch(tenant(), http)
    assert not [s for s in SECRETS if s in str(found.value)]
    assert "\r" not in found.value.message
    assert "`tidelock tenants connect shop north`" in str(found.value)
    assert len(api.logins) == 1


@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"error": "temporarily_unavailable"}, 400),
        Response("<html>busy</html>", 503, {"Retry-After": "7"}),
        JSONResponse({}, 429, {"Retry-After": "7"}),
        Response("<html>sign in</html>", 200),
        JSONResponse({"no": "token"}),
    ],
)
def test_a_trouble_of_the_endpoint_passes(api: Api, http: httpx.Client, answer: Response) -> None:
    api.sign_in = lambda _: answer
    with pytest.raises(Retry) as found:
        RefreshToken(f"{api.url}/token").fetch(tenant(), http)
    assert not isinstance(found.value, Revoked)
    assert found.value.retry_after_s == (7.0 if "Retry-After" in answer.headers else None)


def test_nobody_there_and_no_address(http: httpx.Client) -> None:
    with pytest.raises(Retry, match=r"127\.0\.0\.1:1/token did not answer the sign-in"):
        RefreshToken("http://127.0.0.1:1/token").fetch(tenant(), http)
    with pytest.raises(Revoked, match=r"no address to sign in at(.|\n)*https://host"):
        RefreshToken("shop.example/token").fetch(tenant(), http)


# ------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]', "INVALID_SESSION_ID: Session expired or invalid"),
        (b'{"status":"error","message":"Contact already exists.","category":"CONFLICT"}', "CONFLICT: Contact already exists."),
        (b'{"error":{"code":"0x80040217","message":"account With Id Does Not Exist"}}', "0x80040217: account With Id Does Not Exist"),
        (b'{"error":{"code":"","message":"no code"}}', "no code"),
        (b'{"title":"Bad","detail":"worse","status":400}', "Bad: worse"),
        (b'"just text"', "just text"),
        (b"plain\n text", "plain text"),
        (b"<html>page</html>", ""),
        (b"[]", ""),
        (b"", ""),
        (b"\xff\xfe", "��"),
    ],
)  # fmt: skip
def test_what_a_vendor_says(body: bytes, said: str) -> None:
    assert vendor_message(body) == said


def test_long_messages_are_cut() -> None:
    assert len(vendor_message(b"x" * 5000)) == 301


def test_retry_after_in_seconds_or_as_a_date_by_the_servers_clock() -> None:
    date = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"}
    assert retry_after_s(httpx.Headers(date)) == 30
    assert retry_after_s(httpx.Headers({"Retry-After": "12"})) == 12
    assert retry_after_s(httpx.Headers({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT"})) == 0
    assert retry_after_s(httpx.Headers({"Retry-After": "soon"})) is None
    assert retry_after_s(httpx.Headers()) is None


def test_secrets_are_struck_out_also_when_they_are_encoded() -> None:
    given = {"client_id": "application-1", "client_secret": "a+b/c=d", "region": "eu"}
    text = scrub("application-1 a+b/c=d a%2Bb%2Fc%3Dd eu token-9", given, ["token-9"])
    assert text == "application-1 *** *** eu ***"


def test_a_secret_that_was_cut_off_with_its_message_is_struck_out() -> None:
    secret = "eyJ" + "x" * 400
    said = vendor_message(b'{"message": "you sent ' + secret.encode() + b'"}')
    assert said.endswith("xxx…")
    assert scrub(f"POST /x answered 400: {said}, tried again", {}, [secret]) == (
        "POST /x answered 400: you sent ***…, tried again"
    )
    assert scrub("it ends with a word…", {"token": "another word"}) == "it ends with a word…"
