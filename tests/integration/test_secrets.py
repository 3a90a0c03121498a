"""No secret stands anywhere but in sealed columns: an installation is run into every trouble that could tell one, and then searched."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from simulators.dynamics.tokens import Grant
from tests.fix_installation import wait
from tests.integration.secretscene import FORGED, HIDDEN, WRONG, Scene, opened
from tests.secrecy import Secrets, files
from tidelock.embedded import Stack
from tidelock.kafka import flush

pytestmark = pytest.mark.stack


def until(scene: Scene, condition: Callable[[], bool], what: str) -> None:
    wait(condition, lambda: f"{what}\n{scene.said()}")


def everything_happens(scene: Scene) -> None:
    """Run through it all; every step waits until what it is about has happened."""
    both_ways(scene)
    tenants_added_at_run_time(scene)
    webhooks(scene)
    answers_that_quote(scene)
    refusals(scene)
    scene.cli("status", "--json")
    scene.cli("tenants", "ls", "--json")
    scene.cli("tenants", "ls")
    scene.cli("dlq", "ls", "--all", "--json")
    scene.cli("check")


def both_ways(scene: Scene) -> None:
    scene.insert("first@example.com")
    until(
        scene,
        lambda: all("first@example.com" in scene.held(s) for s in (scene.shop, scene.doomed, scene.dynamics)),
        "first",
    )
    scene.control(scene.shop, "POST", "/load/customers", [{
        "email": "shopper@example.com", "last_name": "Shopper", "country": "USA",
        "notes": HIDDEN["shop.notes (drop)"], "phone": HIDDEN["shop.phone (mask)"],
    }])  # fmt: skip
    scene.control(scene.dynamics, "POST", "/load/contact", [{
        "emailaddress1": "buyer@example.com", "lastname": "Buyer",
        "description": HIDDEN["dynamics.description (drop)"], "jobtitle": HIDDEN["dynamics.jobtitle (mask)"],
    }])  # fmt: skip
    until(
        scene,
        lambda: {"shopper@example.com", "buyer@example.com"} <= scene.crm(),
        "what people in shop and dynamics entered",
    )


def tenants_added_at_run_time(scene: Scene) -> None:
    app = scene.shop_later.ready["credentials"]
    scene.cli(
        "tenants", "add", "shop", "later", "--url", scene.shop_later.http, "--credential", "client_id", "--credential",
        "client_secret", stdin=f"{app['client_id']}\n{app['client_secret']}\n",
    )  # fmt: skip
    app = scene.dynamics_later.ready["credentials"]
    directory = scene.dynamics_later.simulator.directory  # type: ignore[attr-defined]
    scope = f"{scene.dynamics_later.http}/.default offline_access"
    refresh = directory.refreshable(Grant(app["client_id"], directory.person, 0.0, scope, delegated=True))
    scene.cli(
        "tenants", "add", "dynamics", "later", "--url", scene.dynamics_later.http, "--option",
        f"token_url={scene.dynamics_later.http}{app['token_path']}", "--credential", "tenant", "--credential", "client_id",
        "--credential", "client_secret", "--credential", "refresh_token",
        stdin=f"{app['tenant']}\n{app['client_id']}\n{app['client_secret']}\n{refresh}\n",
    )  # fmt: skip
    entered: list[float] = []

    def arrived() -> bool:
        """Enter somebody every few seconds: what is entered before the hub has noticed a tenant does not go there by itself."""
        if not entered or time.monotonic() > entered[-1] + 3.0:
            entered.append(time.monotonic())
            scene.insert(f"second{len(entered)}@example.com")
        return all(scene.held(s) for s in (scene.shop_later, scene.dynamics_later))

    until(scene, arrived, "somebody in the tenants that were added")
    for token in scene.shop_later.simulator.access.tokens:  # type: ignore[attr-defined]
        scene.secrets.add("shop/later: access token", token)
    assert {"contoso: access token", "fabrikam: access token", "fabrikam: refresh token"} <= scene.secrets.names


def webhooks(scene: Scene) -> None:
    data = {
        "id": 7, "email": "member@example.com", "name": "Member", "card": HIDDEN["loyalty.card (drop)"],
        "pin": HIDDEN["loyalty.pin (mask)"], "born": HIDDEN["loyalty.born (hash)"],
    }  # fmt: skip
    event = {"type": "member.updated", "timestamp": "2026-09-21T10:00:00Z", "data": data}
    refused = scene.hook(event, FORGED)
    assert refused.status_code == 401
    scene.outputs.append(("answer to a webhook", refused.content))
    assert scene.hook(event).status_code == 200
    until(scene, lambda: "member@example.com" in scene.crm(), "the member of a webhook")
    # What is no record becomes a dead letter that must not show more than a change would.
    broken = {
        "type": "member.updated",
        "timestamp": "2026-09-21T10:00:00Z",
        "data": {**data, "id": 8, "email": ["no", "text"]},
    }
    assert scene.hook(broken).status_code == 200


def answers_that_quote(scene: Scene) -> None:
    """The other side tells what it was sent: of a write it refuses, of a read it cannot answer, at sign-in."""
    key = scene.shop.ready["credentials"]["api_key"]
    bearer = next(token for name, token in scene.issued if name == "contoso: access token")
    gone = [
        scene.faulty(scene.shop, 422, f"not with X-Api-Key {key}", method="POST", path="/customers"),
        scene.faulty(scene.dynamics, 400, f"not with {bearer}", method="POST", path="batch"),
    ]
    scene.insert("third@example.com")
    until(scene, lambda: scene.heard("dlq.sink.").count(b"not with") >= 2, "dead letters that quote")
    for end in gone:
        end()
    gone = [
        scene.faulty(scene.shop, 500, f"broken by X-Api-Key {key}", method="GET", path="/customers"),
        scene.faulty(scene.dynamics, 503, f"broken by {bearer}", method="GET", path="/contacts"),
    ]
    until(scene, lambda: scene.heard("ops.signals").count(b"broken by") >= 2, "readings that failed and quote")
    for end in gone:
        end()


def refusals(scene: Scene) -> None:
    until(scene, lambda: scene.states().get("dynamics/refused", ("", ""))[0] == "revoked", "the refused sign-in")
    scene.faulty(scene.doomed, 401, f"revoked: {scene.doomed.ready['credentials']['api_key']}", path="/api/v1")
    secret = scene.shop_later.ready["credentials"]["client_secret"]
    scene.faulty(scene.shop_later, 400, f"no client has the secret {secret}", path="/oauth/token")
    scene.control(scene.shop_later, "POST", "/revoke", {"what": "tokens"})
    until(
        scene,
        lambda: all(scene.states().get(t, ("", ""))[0] == "revoked" for t in ("shop/doomed", "shop/later")),
        "revoked",
    )


def test_no_secret_stands_anywhere_outside_sealed_columns(stack: Stack, tmp_path: Path) -> None:
    with opened(stack, tmp_path) as scene:
        everything_happens(scene)
        assert b"***" in scene.heard("dlq.sink."), "what was quoted was struck out, not left out by chance"
        assert "***" in scene.states()["shop/later"][1]
        assert scene.secrets.search(scene.places()) == {}
        scene._stop()
        assert scene.secrets.search(files(tmp_path / "data")) == {}, "what was written at the end"


def test_the_search_finds_secrets_where_they_are_not_kept(stack: Stack, tmp_path: Path) -> None:
    """The same, with what strikes secrets out and hides columns switched off: a test that could not fail proves nothing."""
    with opened(stack, tmp_path, careless=True) as scene:
        everything_happens(scene)
        found = scene.secrets.search(scene.places())
        names = set().union(*found.values())
        assert set(HIDDEN) <= names
        assert {
            "shop/main: api key",
            "shop/later: client secret",
            "contoso: access token",
        } <= names
        for place in (
            "topic dlq.sink.shop.contact",
            "topic dlq.sink.dynamics.contact",
            "topic jobs.increments.loyalty",
            "topic ops.signals",
            "log",
            "output of tenants ls",
            "table tidelock.tenant",
        ):
            assert place in found, place


def test_every_place_is_searched(stack: Stack, tmp_path: Path) -> None:
    """What is planted is found, in whatever spelling; no other place is blamed."""
    decoy = Secrets({"decoy": WRONG})
    with opened(stack, tmp_path) as scene:
        producer = scene.kafka.producer("test")
        producer.produce(f"{scene.prefix}ops.signals", b"{}", b"k", headers=[("x", f"a{WRONG}b".encode())])
        flush(producer)
        (tmp_path / "data" / "deep").mkdir()
        (tmp_path / "data" / "deep" / "file").write_bytes(WRONG.encode().hex().encode())
        with scene.log.open("a") as log:
            log.write(f"Authorization: Basic {base64.b64encode(f'app:{WRONG}'.encode()).decode()}\n")
        with psycopg.connect(scene.dsn["central"]) as db:
            db.execute("create schema if not exists tidelock; create table tidelock.planted (data bytea)")
            db.execute("insert into tidelock.planted values (%s)", (WRONG.encode(),))
        scene.outputs.append(("output", quote(WRONG, safe="").encode()))
        assert set(decoy.search(scene.places())) == {
            "topic ops.signals",
            "file deep/file",
            "log",
            "table tidelock.planted",
            "output",
        }
