"""The webhook system tells every change, signed as the scheme wants it, and again until somebody takes it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from tests.patience import until
from tests.simulators.hooks import Hooks, Receiver
from tests.simulators.hooks import hooks as serving
from tests.simulators.hooks import receiver as receiving

ADA = {"id": "1", "email": "ada@example.com", "first_name": "Ada"}


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with serving() as running:
        yield running


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def _sha256(secret: str, content: bytes) -> bytes:
    return hmac.new(secret.encode(), content, hashlib.sha256).digest()


def test_the_reference_library_verifies_what_is_sent(hooks: Hooks, there: Receiver) -> None:
    secret = hooks.endpoint(there.url)["secret"]
    assert secret.startswith("whsec_")
    hooks.load("contacts", ADA)
    hooks.control.post("/edit/contacts", json=[{"id": "1", "first_name": "Augusta"}])
    hooks.control.post("/delete/contacts", json=["1"])
    bodies = [Webhook(secret).verify(body, headers) for headers, body in there.wait(3)]
    told = {b["type"]: b["data"] for b in bodies}
    assert set(told) == {"contact.created", "contact.updated", "contact.deleted"}
    assert told["contact.created"]["email"] == "ada@example.com"
    assert told["contact.updated"] | {"first_name": "Augusta", "version": 2, "origin": None} == told["contact.updated"]
    assert told["contact.deleted"]["id"] == "1"
    assert "email" not in told["contact.deleted"]
    assert len({headers["webhook-id"] for headers, _ in there.got}) == 3
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(there.got[0][1] + b" ", there.got[0][0])


def test_a_thin_message_tells_the_id_alone(hooks: Hooks, there: Receiver) -> None:
    hooks.endpoint(there.url, content="thin")
    hooks.load("contacts", ADA)
    body = json.loads(there.wait(1)[0][1])
    assert (body["type"], body["data"]) == ("contact.created", {"id": "1"})


def test_both_secrets_sign_while_a_rotation_goes_on(hooks: Hooks, there: Receiver) -> None:
    endpoint = hooks.endpoint(there.url)
    rotated = hooks.client.post(f"/api/webhooks/{endpoint['id']}/rotate", json={"overlap_s": 60}).json()
    assert rotated["secret"] != endpoint["secret"]
    hooks.load("contacts", ADA)
    headers, body = there.wait(1)[0]
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (endpoint["secret"], rotated["secret"]):
        Webhook(secret).verify(body, headers)
    hooks.advance(61)
    hooks.load("contacts", {**ADA, "id": "2"})
    assert len(there.wait(2)[1][0]["webhook-signature"].split(" ")) == 1


def test_an_asymmetric_signature_is_verified_with_the_public_key(hooks: Hooks, there: Receiver) -> None:
    endpoint = hooks.endpoint(there.url, scheme="standard_ed25519")
    assert endpoint["secret"].startswith("whsk_")
    hooks.load("contacts", ADA)
    headers, body = there.wait(1)[0]
    version, mark = headers["webhook-signature"].split(",")
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(endpoint["public_key"].removeprefix("whpk_")))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key.verify(base64.b64decode(mark), content)
    assert version == "v1a"


@pytest.mark.parametrize(("scheme", "prefix"), [("shopify", "x-shopify-"), ("shopify_events", "shopify-")])
def test_shopify_signs_the_body_and_names_topic_and_ids_in_headers(
    hooks: Hooks, there: Receiver, scheme: str, prefix: str
) -> None:
    secret = hooks.endpoint(there.url, scheme=scheme)["secret"]
    hooks.load("orders", {"id": "7", "total": "5.00"})
    headers, body = there.wait(1)[0]
    assert headers[f"{prefix}hmac-sha256"] == base64.b64encode(_sha256(secret, body)).decode()
    assert headers[f"{prefix}topic"] == "orders/create"
    assert headers[f"{prefix}webhook-id"] != headers[f"{prefix}event-id"]
    assert json.loads(body)["total"] == "5.00"
    assert ("shopify-resource-id" in headers) is (scheme == "shopify_events")


def test_stripe_github_and_static_styles(hooks: Hooks, there: Receiver) -> None:
    secrets = {
        scheme: hooks.endpoint(there.url, scheme=scheme)["secret"] for scheme in ("stripe", "github", "static", "none")
    }
    hooks.load("contacts", ADA)
    got = there.wait(4)
    stripe, body = next(g for g in got if "stripe-signature" in g[0])
    parts = dict(p.split("=") for p in stripe["stripe-signature"].split(","))
    assert parts["v1"] == _sha256(secrets["stripe"], f"{parts['t']}.".encode() + body).hex()
    assert json.loads(body)["data"]["object"]["email"] == "ada@example.com"
    github, body = next(g for g in got if "x-hub-signature-256" in g[0])
    assert github["x-hub-signature-256"] == "sha256=" + _sha256(secrets["github"], body).hex()
    assert (github["x-github-event"], json.loads(body)["action"]) == ("contact", "created")
    assert [g[0]["x-webhook-key"] for g in got if "x-webhook-key" in g[0]] == [secrets["static"]]


def test_a_retry_has_the_same_id_and_a_fresh_timestamp_and_is_made_when_the_clock_says_so(
    hooks: Hooks, there: Receiver
) -> None:
    secret = hooks.endpoint(there.url)["secret"]
    there.answers = [(500, {}), (302, {"location": "/elsewhere"})]
    hooks.load("contacts", ADA)
    there.wait(1)
    hooks.advance(6)
    there.wait(2)
    hooks.advance(301)
    (first, body), (second, _), (third, _) = there.wait(3)
    assert first["webhook-id"] == second["webhook-id"] == third["webhook-id"]
    assert int(second["webhook-timestamp"]) >= int(first["webhook-timestamp"]) + 5
    assert first["webhook-signature"] != second["webhook-signature"]
    Webhook(secret).verify(body, first)
    until(lambda: hooks.control.get("/deliveries").json()[0]["state"] == "done")


def test_a_receiver_that_asks_for_time_gets_it(hooks: Hooks, there: Receiver) -> None:
    hooks.endpoint(there.url)
    there.answers = [(429, {"retry-after": "600"})]
    hooks.load("contacts", ADA)
    there.wait(1)
    hooks.advance(590)
    hooks.advance(11)
    first, second = (int(headers["webhook-timestamp"]) for headers, _ in there.wait(2))
    assert second >= first + 600


def test_gone_disables_an_endpoint_at_once_and_failures_do_in_the_end(hooks: Hooks, there: Receiver) -> None:
    gone = hooks.endpoint(there.url)
    there.answers = [(410, {})]
    hooks.load("contacts", ADA)
    until(lambda: not hooks.client.get(f"/api/webhooks/{gone['id']}").json()["enabled"])
    assert hooks.client.get(f"/api/webhooks/{gone['id']}").json()["disabled_reason"] == "gone"
    hooks.load("contacts", {**ADA, "id": "2"})
    tired = hooks.endpoint(there.url, retries_s=[5])
    there.answers = [(500, {}), (500, {})]
    hooks.load("contacts", {**ADA, "id": "3"})
    there.wait(2)
    hooks.advance(6)
    until(lambda: hooks.client.get(f"/api/webhooks/{tired['id']}").json()["disabled_reason"] == "exhausted")
    assert [json.loads(body)["data"]["id"] for _, body in there.got] == ["1", "3", "3"]
    enabled = hooks.client.patch(f"/api/webhooks/{gone['id']}", json={"enabled": True}).json()
    assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)


def test_an_endpoint_hears_of_the_kinds_it_asked_for(hooks: Hooks, there: Receiver) -> None:
    hooks.endpoint(there.url, kinds=["orders"])
    hooks.load("contacts", ADA)
    hooks.load("orders", {"id": "9"})
    assert json.loads(there.wait(1)[0][1])["type"] == "order.created"


@pytest.mark.parametrize(
    ("fault", "more"),
    [("bad_signature", {}), ("old_timestamp", {"age_s": 301})],
)
def test_a_message_can_be_signed_so_that_nobody_should_take_it(
    hooks: Hooks, there: Receiver, fault: str, more: dict[str, Any]
) -> None:
    secret = hooks.endpoint(there.url)["secret"]
    hooks.fault(fault, **more)
    hooks.load("contacts", ADA, {**ADA, "id": "2"})
    verdicts = []
    for headers, body in there.wait(2):
        try:
            verdicts.append(Webhook(secret).verify(body, headers)["type"])
        except WebhookVerificationError:
            verdicts.append("refused")
    assert sorted(verdicts) == ["contact.created", "refused"]


def test_a_message_can_be_replayed_byte_for_byte(hooks: Hooks, there: Receiver) -> None:
    hooks.endpoint(there.url)
    hooks.fault("replay")
    hooks.load("contacts", ADA)
    one, two = there.wait(2)
    assert one[1] == two[1]
    assert {k: v for k, v in one[0].items() if k.startswith("webhook-")} == {
        k: v for k, v in two[0].items() if k.startswith("webhook-")
    }


def test_bodies_can_be_too_large_or_broken_though_they_are_signed(hooks: Hooks, there: Receiver) -> None:
    secret = hooks.endpoint(there.url)["secret"]
    hooks.fault("oversize", bytes=300_000)
    hooks.load("contacts", ADA)
    headers, body = there.wait(1)[0]
    assert len(body) == 300_000
    assert Webhook(secret).verify(body, headers)["data"]["id"] == "1"
    hooks.fault("malformed")
    hooks.load("contacts", {**ADA, "id": "2"})
    headers, body = there.wait(2)[1]
    with pytest.raises(json.JSONDecodeError):
        Webhook(secret).verify(body, headers)


def test_messages_can_be_lost_and_doubled(hooks: Hooks, there: Receiver) -> None:
    hooks.endpoint(there.url)
    hooks.fault("webhook_lost")
    hooks.load("contacts", ADA)
    hooks.fault("webhook_twice")
    hooks.load("contacts", {**ADA, "id": "2"})
    there.wait(2)
    assert {json.loads(body)["data"]["id"] for _, body in there.got} == {"2"}
    assert there.got[0][0]["webhook-id"] == there.got[1][0]["webhook-id"]


def test_thousands_of_changes_are_all_told(hooks: Hooks) -> None:
    with serving() as other:
        inbox = other.inbox("flood")
        hooks.endpoint(f"{other.running.http}/inbox/flood", secret=inbox["secrets"][0])
        hooks.load("contacts", *({"id": str(n), "email": f"p{n}@example.com"} for n in range(2000)))
        until(lambda: len(other.records("contacts")) == 2000)
        assert all(d["state"] == "done" for d in hooks.control.get("/deliveries").json()[:900])


def test_an_endpoint_can_be_there_from_the_start() -> None:
    with receiving() as there:
        secret = "whsec_" + base64.b64encode(b"s" * 32).decode()
        with serving(target=there.url, secret=secret, content="thin", kinds="contacts", contacts="2") as hooks:
            assert hooks.credentials["webhooks"][0]["secret"] == secret
            hooks.load("orders", {"id": "9"})
            hooks.load("contacts", ADA)
            headers, body = there.wait(1)[0]
            assert Webhook(secret).verify(body, headers)["data"] == {"id": "1"}


def test_a_receiver_on_https_is_trusted_by_its_certificate() -> None:
    with serving() as other, serving(trust=other.running.ca) as trusting, serving() as doubting:
        inbox = other.inbox("safe")
        for system in (doubting, trusting):
            system.endpoint(f"{other.running.https}/inbox/safe", secret=inbox["secrets"][0])
            system.load("contacts", ADA)
        until(lambda: "1" in other.records("contacts"))
        until(lambda: doubting.control.get("/deliveries").json()[0]["attempts"][0].get("error") == "ConnectError")
        assert len(other.received("safe")) == 1


@pytest.mark.parametrize(
    "wish",
    [
        {"url": "ftp://x"},
        {"url": "http://x", "scheme": "pigeon"},
        {"url": "http://x", "secret": "whsec_"},
        {"url": "http://x", "scheme": "standard_ed25519", "secret": "whpk_abc"},
        {"url": "http://x", "colour": "red"},
    ],
)
def test_an_endpoint_that_makes_no_sense_is_refused(hooks: Hooks, wish: dict[str, Any]) -> None:
    assert hooks.client.post("/api/webhooks", json=wish).status_code == 422
    assert hooks.client.get("/api/webhooks").json()["items"] == []
