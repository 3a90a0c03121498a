"""Signing in at Microsoft Entra as a person: what `tidelock tenants connect` does, and working with what it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from tests.contract.dynamicsorg import Organisation, bound
from tests.sinking import SYSTEM
from tidelock.apis.connecting import Connecting, vendor_of
from tidelock.apis.dynamics_access import LOGIN, SIGN_IN, grant
from tidelock.errors import Fatal, Revoked

TABLES = {"contact": bound("contact", "lastname")}
REDIRECT = "http://localhost:8765/callback"


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(DynamicsSimulator()) as server:
        yield server


@pytest.fixture
def o(running: Running, tmp_path: Path) -> Iterator[Organisation]:
    organisation = Organisation(running, tmp_path, TABLES, {})
    yield organisation
    organisation.close()


def back(url: str) -> dict[str, str]:
    """Open the address as a browser would; return what the vendor sends it back with."""
    got = httpx.get(url)
    assert got.status_code == 302, got.text
    return {n: v[0] for n, v in parse_qs(urlsplit(got.headers["location"]).query).items()}


def test_a_person_signs_in_and_the_tenant_works_in_their_name(o: Organisation, running: Running) -> None:
    vendor = vendor_of(o.context.config.systems[SYSTEM])
    assert vendor is SIGN_IN
    signing = Connecting(o.tenant, vendor, REDIRECT)
    asked = {n: v[0] for n, v in parse_qs(urlsplit(signing.url).query).items()}
    assert asked["scope"] == f"{running.http}/.default offline_access"
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert running.ready["credentials"]["client_secret"] not in signing.url
    kept = signing.finish(back(signing.url))
    assert set(kept) == {"refresh_token"}
    person = dataclasses.replace(o.tenant, credentials={**o.tenant.credentials, **kept})
    with httpx.Client() as client:
        token, changed = grant(person).fetch(person, client)
    assert set(changed) == {"refresh_token"}, "Entra replaces it with every use"
    assert changed["refresh_token"] != kept["refresh_token"]
    headers = {"Authorization": f"Bearer {token.value}"}
    who = httpx.get(f"{running.http}/api/data/v9.2/WhoAmI", headers=headers).json()
    assert who["UserId"] == running.ready["credentials"]["user"]


def test_a_person_who_declines_is_told_so(o: Organisation) -> None:
    o.post("/faults", {"kind": "denied", "times": 1})
    signing = Connecting(o.tenant, SIGN_IN, REDIRECT)
    with pytest.raises(Revoked, match="declined"):
        signing.finish(back(signing.url))


def test_a_grant_that_was_taken_back_asks_for_a_new_sign_in(o: Organisation, running: Running, tmp_path: Path) -> None:
    """S28: the person's grant is gone; the tenant is stopped, and the message says how to connect it again."""
    signing = Connecting(o.tenant, SIGN_IN, REDIRECT)
    kept = signing.finish(back(signing.url))
    o.post("/faults", {"kind": "revoke", "times": None})
    person = Organisation(running, tmp_path, TABLES, {}, credentials={**o.tenant.credentials, **kept})
    try:
        with pytest.raises(Revoked) as caught:
            person.columns("contact")
        assert f"tidelock tenants connect {SYSTEM} default" in str(caught.value.hint)
        assert kept["refresh_token"] not in f"{caught.value} {caught.value.hint}"
    finally:
        person.close()


def test_without_a_directory_it_is_said_what_is_missing(o: Organisation, running: Running, tmp_path: Path) -> None:
    given = {n: v for n, v in o.tenant.credentials.items() if n != "tenant"}
    with pytest.raises(Fatal, match="directory"):
        Organisation(running, tmp_path, TABLES, {}, credentials=given)


def test_in_earnest_it_is_microsofts_own_sign_in(running: Running, tmp_path: Path) -> None:
    organisation = Organisation(running, tmp_path, TABLES, {}, options={"login": LOGIN})
    try:
        directory = organisation.tenant.credentials["tenant"]
        url = Connecting(organisation.tenant, SIGN_IN, REDIRECT).url
        assert url.startswith(f"https://login.microsoftonline.com/{directory}/oauth2/v2.0/authorize?")
    finally:
        organisation.close()
