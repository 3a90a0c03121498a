"""The webhook system takes messages that are signed, in time and new, applies them to its records, and can be polled."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.patience import until
from tests.simulators.hooks import Hooks
from tests.simulators.hooks import hooks as serving

ADA = {"id": "1", "email": "ada@example.com", "first_name": "Ada"}


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with serving() as running:
        yield running


def _standard(hooks: Hooks, body: bytes, message_id: str = "msg_1", at: float | None = None) -> httpx.Response:
    """Send a message as the reference library signs it."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    secret = hooks.credentials["inboxes"]["in"]["secrets"][0]
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, moment, body.decode()),
    }
    return httpx.post(f"{hooks.running.http}/inbox/in", content=body, headers=headers)


def _body(event: str = "contact.created", **data: Any) -> bytes:
    return json.dumps({"type": event, "timestamp": "2026-11-26T09:00:00Z", "data": {**ADA, **data}}).encode()


def test_what_the_reference_library_signs_is_taken_and_applied(hooks: Hooks) -> None:
    got = _standard(hooks, _body())
    assert (got.status_code, got.json()["result"], got.json()["version"]) == (200, "created", 1)
    assert _standard(hooks, _body("contact.updated", phone="5", first_name="Ada"), "msg_2").json()["version"] == 2
    record = hooks.records("contacts")["1"]
    assert (record["email"], record["phone"]) == ("ada@example.com", "5")
    assert _standard(hooks, _body("contact.updated"), "msg_3").json()["result"] == "unchanged"
    assert _standard(hooks, _body("contact.deleted"), "msg_4").json()["result"] == "deleted"
    assert _standard(hooks, _body("contact.deleted"), "msg_5").json()["result"] == "missing"
    assert hooks.records("contacts") == {}


def test_a_message_is_applied_once(hooks: Hooks) -> None:
    _standard(hooks, _body())
    again = _standard(hooks, _body(first_name="Eve"))
    assert (again.status_code, again.json()["result"]) == (200, "duplicate")
    assert hooks.records("contacts")["1"]["first_name"] == "Ada"


def test_a_message_that_is_older_than_what_was_told_changes_nothing(hooks: Hooks) -> None:
    _standard(hooks, _body(version=7))
    assert _standard(hooks, _body("contact.updated", version=6, first_name="Old"), "m2").json()["result"] == "stale"
    assert _standard(hooks, _body("contact.updated", version=8, first_name="New"), "m3").json()["result"] == "updated"
    assert hooks.records("contacts")["1"]["first_name"] == "New"


@pytest.mark.parametrize("away_s", [-301, 310])
def test_a_message_out_of_time_is_refused_in_both_directions(hooks: Hooks, away_s: int) -> None:
    got = _standard(hooks, _body(), at=time.time() + away_s)
    assert (got.status_code, got.json()["code"]) == (401, "timestamp_out_of_range")
    assert hooks.records("contacts") == {}


def test_what_was_changed_on_the_way_or_has_no_signature_is_refused(hooks: Hooks) -> None:
    url = f"{hooks.running.http}/inbox/in"
    assert httpx.post(url, content=_body()).json()["code"] == "missing_header"
    wrong = {"webhook-id": "m", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA v1 x,y"}
    got = httpx.post(url, content=_body(), headers=wrong)
    assert (got.status_code, got.json()["code"]) == (401, "bad_signature")
    got = httpx.post(url, content=_body(), headers={**wrong, "webhook-timestamp": "yesterday"})
    assert got.json()["code"] == "bad_timestamp"
    assert [r["status"] for r in hooks.received("in")] == [401, 401, 401]
    assert httpx.post(f"{hooks.running.http}/inbox/nobody", content=b"{}").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_body"),
        (b"[]", 400, "malformed_body"),
        (b'{"type": "contact.created"}', 400, "malformed_body"),
        (b'{"type": "contact.painted", "data": {"id": "1"}}', 400, "unknown_event"),
        (b'{"type": "created", "data": {"id": "1"}}', 400, "unknown_event"),
        (b'{"type": "contact.created", "data": {"email": "x"}}', 422, "no_key"),
        (b'{"type": "contact.created", "data": {"id": "' + b"1" * 300_000 + b'"}}', 413, "too_large"),
    ],
)
def test_a_signed_message_that_makes_no_sense_is_refused_and_not_remembered(
    hooks: Hooks, body: bytes, status: int, code: str
) -> None:
    got = _standard(hooks, body)
    assert (got.status_code, got.json()["code"]) == (status, code)
    assert _standard(hooks, _body()).json()["result"] == "created", "its id is free for the one that is mended"


def test_svix_names_and_an_older_secret_are_taken(hooks: Hooks) -> None:
    old, new = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
    hooks.inbox("two", secrets=[new, old])
    for n, secret in enumerate((old, new)):
        moment, body = datetime.now(UTC), _body(id=str(n)).decode()
        names = {"svix-id": f"m{n}", "svix-timestamp": str(int(moment.timestamp()))}
        names["svix-signature"] = "v1,bm90IHRoaXM= " + Webhook(secret).sign(f"m{n}", moment, body)
        assert httpx.post(f"{hooks.running.http}/inbox/two", content=body, headers=names).status_code == 200
    assert set(hooks.records("contacts")) == {"0", "1"}


def _sha256(secret: str, content: bytes) -> bytes:
    return hmac.new(secret.encode(), content, hashlib.sha256).digest()


def test_the_other_schemes_are_verified_on_the_raw_body(hooks: Hooks) -> None:
    record = json.dumps(ADA).encode()
    stamp = str(int(time.time()))
    event = json.dumps({"id": "evt_1", "type": "contact.updated", "data": {"object": ADA}}).encode()
    hub = json.dumps({"action": "edited", "contact": ADA}).encode()
    plain = json.dumps({"id": "e1", "event": "contact.created", "data": ADA}).encode()
    cases: dict[str, tuple[bytes, dict[str, str]]] = {
        "shopify": (
            record,
            {
                "x-shopify-hmac-sha256": base64.b64encode(_sha256("s", record)).decode(),
                "x-shopify-topic": "contacts/create",
                "x-shopify-webhook-id": "w1",
            },
        ),
        "shopify_events": (
            record,
            {
                "shopify-hmac-sha256": base64.b64encode(_sha256("s", record)).decode(),
                "shopify-topic": "contacts/update",
                "shopify-webhook-id": "w1",
            },
        ),
        "stripe": (
            event,
            {"stripe-signature": f"t={stamp},v1=00,v1={_sha256('s', stamp.encode() + b'.' + event).hex()}"},
        ),
        "github": (
            hub,
            {
                "x-hub-signature-256": "sha256=" + _sha256("s", hub).hex(),
                "x-github-event": "contact",
                "x-github-delivery": "d1",
            },
        ),
        "static": (plain, {"x-my-key": "s"}),
    }
    for scheme, (body, headers) in cases.items():
        hooks.inbox(scheme, scheme=scheme, secrets=["s"], header="X-My-Key")
        url = f"{hooks.running.http}/inbox/{scheme}"
        first, again = (httpx.post(url, content=body, headers=headers) for _ in range(2))
        assert first.status_code == 200, f"{scheme}: {first.text}"
        assert again.json()["result"] == "duplicate", scheme
        if scheme == "static":
            refused = httpx.post(url, content=body, headers={"x-my-key": "t"})
        else:
            refused = httpx.post(url, content=body + b" ", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "bad_signature"), scheme
    assert hooks.records("contacts")["1"]["email"] == "ada@example.com"


@pytest.mark.parametrize(
    "scheme", ["standard", "standard_ed25519", "shopify", "shopify_events", "stripe", "github", "static", "none"]
)
def test_one_system_follows_another_in_every_scheme_and_tells_who_wrote(hooks: Hooks, scheme: str) -> None:
    with serving() as other:
        endpoint = hooks.endpoint(f"{other.running.http}/inbox/follow", scheme=scheme)
        secret = endpoint.get("public_key") or endpoint["secret"]
        other.inbox("follow", scheme=scheme, secrets=[secret], kind="contacts")
        hooks.client.put("/api/contacts/1", json=ADA, headers={"x-origin": "hub"})
        until(lambda: "1" in other.records("contacts"))
        assert other.records("contacts")["1"]["origin"] == "hub"
        hooks.client.patch("/api/contacts/1", json={"first_name": "Augusta"})
        until(lambda: other.records("contacts")["1"]["first_name"] == "Augusta")
        hooks.client.delete("/api/contacts/1")
        until(lambda: not other.records("contacts"))
        assert {r["status"] for r in other.received("follow")} == {200}


def test_a_receiver_can_be_told_to_fail(hooks: Hooks) -> None:
    hooks.fault("status", status=410, path="/inbox/in")
    assert _standard(hooks, _body()).status_code == 410
    assert _standard(hooks, _body()).json()["result"] == "created"


@pytest.mark.parametrize(
    "settings", [{"scheme": "pigeon"}, {"secrets": ["whpk_AAAA"]}, {"colour": "red"}, {"form": "x"}]
)
def test_an_inbox_that_makes_no_sense_is_refused(hooks: Hooks, settings: dict[str, Any]) -> None:
    assert hooks.control.post("/inbox/odd", json=settings).status_code == 400
    assert hooks.control.get("/inbox/odd").status_code == 400
