"""Having a person sign in: PKCE, one state, one answer, and what is said when it goes wrong."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.responses import JSONResponse

from tests.access import SECRETS, make_config
from tests.apiserver import Api, serving
from tests.patience import DEADLINE_S
from tidelock.apis.connecting import Connecting, Receiver, SignIn, Vendor, query_of, vendor_of
from tidelock.config import SystemSpec
from tidelock.errors import Fatal, Revoked
from tidelock.tenants import Tenant, Tenants


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    server.reset()
    server.rotating = True  # its answer has a refresh token
    return server


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    return Tenants(make_config(tmp_path), None).get("shop", "north")


def asked(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def vendor(api: Api) -> SignIn:
    return SignIn(f"{api.url}/authorise?fixed=1", f"{api.url}/token", ("crm", "offline"), {"prompt": "consent"})


def test_the_address_asks_for_a_code_with_state_and_challenge(api: Api, tenant: Tenant) -> None:
    one, other = (Connecting(tenant, vendor(api), "http://localhost:8765/callback") for _ in range(2))
    query = asked(one.url)
    assert {k: v for k, v in query.items() if k not in ("state", "code_challenge")} == {
        "fixed": "1", "response_type": "code", "client_id": "app", "scope": "crm offline", "prompt": "consent",
        "redirect_uri": "http://localhost:8765/callback", "code_challenge_method": "S256",
    }  # fmt: skip
    assert SECRETS[0] not in one.url
    assert query["state"] != asked(other.url)["state"]
    assert query["code_challenge"] != asked(other.url)["code_challenge"]
    assert len(query["state"]) >= 43


def test_the_code_is_exchanged_with_the_verifier(api: Api, tenant: Tenant) -> None:
    signing = Connecting(tenant, vendor(api), "http://localhost:8765/callback")
    query = asked(signing.url)
    assert signing.finish({"code": "c0de", "state": query["state"]}) == {"refresh_token": "r3fresh-token-1"}
    (login,) = api.logins
    verifier = login.form.pop("code_verifier")
    digest = hashlib.sha256(verifier.encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == query["code_challenge"]
    assert login.form == {
        "grant_type": "authorization_code", "code": "c0de", "redirect_uri": "http://localhost:8765/callback",
        "client_id": "app", "client_secret": SECRETS[0],
    }  # fmt: skip


def test_what_goes_wrong_is_said(api: Api, tenant: Tenant) -> None:
    signing = Connecting(tenant, vendor(api), "http://localhost:8765/callback")
    state = asked(signing.url)["state"]
    for other in ({"code": "x", "state": "another"}, {"code": "x"}):
        with pytest.raises(Fatal, match="belongs to another sign-in"):
            signing.finish(other)
    denied = {"state": state, "error": "access_denied", "error_description": f"no\n{SECRETS[0]}"}
    with pytest.raises(Revoked, match=r"did not let the person through: no \*\*\*"):
        signing.finish(denied)
    assert api.logins == []
    api.sign_in = lambda _: JSONResponse({"error": "invalid_grant", "error_description": "code expired"}, 400)
    with pytest.raises(Revoked, match=r"invalid_grant: code expired(.|\n)*run the command again"):
        signing.finish({"code": "x", "state": state})
    api.sign_in = lambda _: JSONResponse({"access_token": "short"})
    with pytest.raises(Fatal, match=r"gave no refresh_token(.|\n)*offline_access") as found:
        signing.finish({"code": "x", "state": state})
    assert "short" not in str(found.value)


def test_an_answer_is_taken_once_and_only_with_the_right_state() -> None:
    with Receiver(0) as receiver, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receiver.wait, lambda query: query.get("state") == "right", DEADLINE_S)
        url = receiver.redirect.replace("localhost", "127.0.0.1")
        with httpx.Client() as browser:
            while True:  # until it waits, every answer is another one's
                wrong = browser.get(url, params={"code": "evil<script>", "state": "wrong"})
                assert wrong.status_code == 400
                assert "evil" not in wrong.text
                right = browser.get(url, params={"code": "good", "state": "right"})
                if right.status_code == 200:
                    break
            assert right.headers["Cache-Control"] == "no-store"
            assert browser.get(url, params={"code": "late", "state": "right"}).status_code == 410
            assert browser.post(url).status_code == 405
        assert waiting.result(DEADLINE_S) == {"code": "good", "state": "right"}


def test_nobody_comes() -> None:
    with Receiver(0) as receiver:
        assert receiver.wait(lambda _: True, 0.05) is None


def test_a_port_that_is_taken_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Fatal, match=rf"port {port}(.|\n)*--port"), Receiver(port):
            pass


def test_an_address_that_was_copied() -> None:
    assert query_of(" http://localhost:8765/callback?code=a%2Fb&state=s \n") == {"code": "a/b", "state": "s"}


def test_a_system_may_say_itself_how_people_sign_in() -> None:
    options = {"authorise_url": "https://a", "token_url": "https://t", "scopes": "one two"}
    assert vendor_of(SystemSpec(options=options)) == SignIn("https://a", "https://t", ("one", "two"))
    assert isinstance(vendor_of(SystemSpec(options=options)), Vendor)
    with pytest.raises(Fatal, match=r"kind postgres(.|\n)*authorise_url"):
        vendor_of(SystemSpec())
