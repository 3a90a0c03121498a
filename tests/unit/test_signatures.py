"""Signatures of webhooks: known vectors, the reference library, every scheme by its own rules, and refusals with their status."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from tidelock.errors import Fatal
from tidelock.signatures import SCHEMES, Call, Refused, Scheme, scheme_of

NOW = 1_790_000_000.0
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = '{"type":"contact.created","data":{"id":"42","name":"Ümläut"}}'.encode()
URL = "https://hooks.example/hooks/shop/one?a=1"


def called(headers: dict[str, str], body: bytes = BODY, **more: Any) -> Call:
    return Call(more.pop("method", "POST"), more.pop("url", URL), headers, body, **more)


def signed(scheme: Scheme, secrets: Sequence[str], at: float = NOW, body: bytes = BODY) -> dict[str, str]:
    return scheme.sign(secrets, number="msg_1", timestamp=at, method="POST", url=URL, body=body)


def refusal(scheme: Scheme, call: Call, secrets: Sequence[str], now: float = NOW) -> tuple[int, str]:
    with pytest.raises(Refused) as found:
        scheme.verify(call, secrets, now)
    for secret in secrets:
        assert secret not in str(found.value)
    return found.value.status, found.value.reason


# ------------------------------------------------------------------------------------------------ known vectors


def test_the_published_vector_of_standard_webhooks() -> None:
    """From the specification's own test: id msg_p5jXN8AQM9LWM0D4loKWxJek, timestamp 1614265330."""
    body = b'{"test": 2432232314}'
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    checked = SCHEMES["standard"].verify(called(headers, body), [WHSEC], 1614265330 + 299)
    assert (checked.id, checked.timestamp) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.0)


def test_the_published_vector_of_github() -> None:
    headers = {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
    SCHEMES["github"].verify(called(headers, b"Hello, World!"), ["It's a Secret to Everybody"], NOW)


def test_ours_is_good_for_the_reference_library_and_its_own_for_us() -> None:
    now = time.time()
    theirs = Webhook(WHSEC)
    theirs.verify(BODY, signed(SCHEMES["standard"], [WHSEC], now))
    at = dt.datetime.fromtimestamp(int(now), dt.UTC)
    headers = {
        "webhook-id": "m",
        "webhook-timestamp": str(int(now)),
        "webhook-signature": theirs.sign("m", at, BODY.decode()),
    }
    assert SCHEMES["standard"].verify(called(headers), [WHSEC], now).id == "m"


# ------------------------------------------------------------------------------------------------ schemes


def test_standard_webhooks_with_keys_in_rotation_and_the_names_of_svix() -> None:
    scheme = SCHEMES["standard"]
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    both = signed(scheme, [WHSEC, other])
    assert both["webhook-signature"].count("v1,") == 2
    for secrets in ([WHSEC], [other], ["whsec_" + base64.b64encode(b"y" * 32).decode(), other]):
        scheme.verify(called(both), secrets, NOW)
    svix = {name.replace("webhook", "svix"): value for name, value in both.items()}
    assert scheme.verify(called(svix), [WHSEC], NOW).id == "msg_1"
    assert refusal(scheme, called(signed(scheme, [other])), [WHSEC]) == (401, "signature_wrong")


def test_standard_webhooks_with_a_public_key() -> None:
    key = Ed25519PrivateKey.generate()
    raw = serialization.Encoding.Raw
    private = key.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = key.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    whsk = "whsk_" + base64.b64encode(private + public).decode()
    whpk = "whpk_" + base64.b64encode(public).decode()
    scheme = SCHEMES["standard"]
    headers = signed(scheme, [whsk])
    assert headers["webhook-signature"].startswith("v1a,")
    scheme.verify(called(headers), [whpk], NOW)
    scheme.verify(called(headers), [WHSEC, whpk], NOW)
    assert refusal(scheme, called(headers, BODY + b" "), [whpk]) == (401, "signature_wrong")
    assert refusal(scheme, called(headers), [WHSEC]) == (401, "signature_wrong")
    odd = {**headers, "webhook-signature": "v1a,ß?"}
    assert refusal(scheme, called(odd), [whpk]) == (401, "signature_wrong")


@pytest.mark.parametrize("prefix", ["x-shopify", "shopify"])
def test_shopify_in_both_families_of_headers(prefix: str) -> None:
    mac = base64.b64encode(hmac.digest(b"shpss_1", BODY, "sha256")).decode()
    headers = {f"{prefix}-hmac-sha256": mac, f"{prefix}-webhook-id": "w-1"}
    assert SCHEMES["shopify"].verify(called(headers), ["shpss_1"], NOW).id == "w-1"
    assert refusal(SCHEMES["shopify"], called(headers), ["shpss_2"]) == (401, "signature_wrong")


def test_stripe_with_several_signatures() -> None:
    mac = hmac.new(b"whsec_text", b"1790000000." + BODY, hashlib.sha256).hexdigest()
    header = f"t=1790000000,v1={'0' * 64},v1={mac},v0=ignored"
    checked = SCHEMES["stripe"].verify(called({"stripe-signature": header}), ["whsec_text"], NOW)
    assert checked.timestamp == NOW
    assert refusal(SCHEMES["stripe"], called({"stripe-signature": f"v1={mac}"}), ["whsec_text"]) == (
        401,
        "timestamp_missing",
    )
    assert refusal(SCHEMES["stripe"], called({"stripe-signature": "nonsense"}), ["x"]) == (400, "signature_malformed")


def test_hubspot_signs_method_address_body_and_time_with_some_escapes_decoded() -> None:
    sent = "https://hooks.example/hooks/hub%2Fone?q=a%3Ab%20c&r=%2a"
    as_signed = "https://hooks.example/hooks/hub/one?q=a:b%20c&r=*"
    text = str(int(NOW * 1000))
    mac = hmac.digest(b"hs-key", b"POST" + as_signed.encode() + BODY + text.encode(), "sha256")
    headers = {
        "x-hubspot-signature-v3": base64.b64encode(mac).decode(),
        "x-hubspot-request-timestamp": text,
    }
    SCHEMES["hubspot"].verify(called(headers, url=sent), ["hs-key"], NOW + 299)
    assert refusal(SCHEMES["hubspot"], called(headers, url=sent), ["hs-key"], NOW + 301) == (401, "too_old")
    assert refusal(SCHEMES["hubspot"], called(headers, url=sent), ["hs-key"], NOW - 301) == (401, "too_new")
    assert refusal(SCHEMES["hubspot"], called(headers, url=sent, method="PUT"), ["hs-key"]) == (401, "signature_wrong")
    assert refusal(SCHEMES["hubspot"], called(headers), ["hs-key"]) == (401, "signature_wrong")


def test_a_secret_that_stands_in_a_header_or_in_the_address() -> None:
    header = scheme_of({"static": "X-Api-Key", "prefix": "Key "}, "scheme")
    header.verify(called({"x-api-key": "Key s3cret"}), ["old", "s3cret"], NOW)
    assert refusal(header, called({"x-api-key": "s3cret"}), ["s3cret"]) == (401, "signature_wrong")
    assert refusal(header, called({}), ["s3cret"]) == (401, "signature_missing")
    query = scheme_of({"query": "code"}, "scheme")
    query.verify(called({}, query={"code": "s3cret"}), ["s3cret"], NOW)
    assert refusal(query, called({}, query={"code": "s3cre"}), ["s3cret"]) == (401, "signature_wrong")
    assert refusal(query, called({}), ["s3cret"]) == (401, "signature_missing")
    assert signed(header, ["s3cret"]) == {"x-api-key": "Key s3cret"}
    assert signed(query, ["s3cret"]) == {}


def test_a_scheme_of_ones_own() -> None:
    scheme = scheme_of(
        {
            "header": "X-Acme-Signature",
            "timestamp_header": "X-Acme-Time",
            "content": "v0:{timestamp}:{body}",
            "prefix": "v0=",
            "algorithm": "sha512",
            "unit": "ms",
            "tolerance_s": 60,
        },
        "scheme",
    )
    text = str(int(NOW * 1000))
    mac = hmac.new(b"k", f"v0:{text}:".encode() + BODY, hashlib.sha512).hexdigest()
    headers = {"x-acme-signature": f"v0={mac.upper()}".replace("V0", "v0"), "x-acme-time": text}
    scheme.verify(called(headers), ["k"], NOW)
    assert refusal(scheme, called(headers), ["k"], NOW + 61) == (401, "too_old")
    assert refusal(scheme, called({**headers, "x-acme-signature": mac}), ["k"]) == (400, "signature_malformed")
    like = scheme_of({"like": "standard", "tolerance_s": 10}, "scheme")
    assert refusal(like, called(signed(like, [WHSEC])), [WHSEC], NOW + 11) == (401, "too_old")


# ------------------------------------------------------------------------------------------------ refusals


def test_what_is_missing_or_cannot_be_read() -> None:
    scheme = SCHEMES["standard"]
    good = signed(scheme, [WHSEC])
    for name in good:
        without = {n: v for n, v in good.items() if n != name}
        status, reason = refusal(scheme, called(without), [WHSEC])
        assert (status, reason.rpartition("_")[2]) == (401, "missing")
    for text in ("", "soon", "-5", "1e9", "179000000000000000000", "١٧٩٠٠٠٠٠٠٠"):
        assert refusal(scheme, called({**good, "webhook-timestamp": text}), [WHSEC]) == (400, "timestamp_malformed")
    assert refusal(scheme, called({**good, "webhook-signature": "abc"}), [WHSEC]) == (400, "signature_malformed")
    assert refusal(scheme, called({**good, "webhook-signature": " "}), [WHSEC]) == (400, "signature_malformed")
    assert refusal(scheme, called({**good, "webhook-signature": "v1,übel"}), [WHSEC]) == (401, "signature_wrong")
    assert refusal(scheme, called({**good, "webhook-signature": "v2,AAAA"}), [WHSEC]) == (401, "signature_wrong")
    assert refusal(scheme, called(good), []) == (401, "signature_wrong")


def test_the_age_is_judged_in_both_directions() -> None:
    scheme = SCHEMES["standard"]
    headers = signed(scheme, [WHSEC])
    for off in (-300, 0, 300):
        scheme.verify(called(headers), [WHSEC], NOW + off)
    assert refusal(scheme, called(headers), [WHSEC], NOW + 300.5) == (401, "too_old")
    assert refusal(scheme, called(headers), [WHSEC], NOW - 300.5) == (401, "too_new")


def test_secrets_that_are_none_are_said_to_be_without_being_shown() -> None:
    for secret in ("whsec_***", "whsec_", "whpk_QUJD", "whsk_QUJD"):
        with pytest.raises(Fatal) as found:
            SCHEMES["standard"].verify(called({**signed(SCHEMES["standard"], [WHSEC])}), [secret], NOW)
        assert secret not in str(found.value)
    with pytest.raises(Fatal, match="no secret"):
        signed(SCHEMES["standard"], [])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("sha256", "no scheme"),
        (7, "no scheme"),
        ({"header": "X", "colour": 1}, "'colour'"),
        ({"like": "acme"}, "'acme'"),
        ({"header": "X", "encoding": "rot13"}, "rot13"),
        ({"header": "X", "content": "{timestamp}.{body}"}, "{timestamp}"),
        ({"header": "X", "content": "{secret}{body}"}, "{secret}"),
        ({"header": "X", "content": "{id}"}, "{id}"),
        ({"header": "X", "content": "{url}"}, "does not cover"),
        ({"encoding": "hex"}, "names no header"),
    ],
)
def test_a_scheme_that_cannot_be_is_refused(option: Any, said: str) -> None:
    with pytest.raises(Fatal, match=r"options\.scheme") as found:
        scheme_of(option, "options.scheme")
    assert said in str(found.value)


def test_what_is_signed_is_the_bytes_not_their_meaning() -> None:
    scheme = SCHEMES["standard"]
    headers = signed(scheme, [WHSEC], body=b'{"a": 1}')
    assert refusal(scheme, called(headers, json.dumps({"a": 1}, separators=(",", ":")).encode()), [WHSEC])[0] == 401
    scheme.verify(called(signed(scheme, [WHSEC], body=b"\xff\x00{}"), b"\xff\x00{}"), [WHSEC], NOW)
