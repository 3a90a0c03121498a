"""Signature schemes of webhooks, for sending and for receiving: the simulator's own, so that it checks whoever else implements them.

standard          Standard Webhooks, `v1,` HMAC-SHA256; key: the decoded bytes of a `whsec_` secret
standard_ed25519  Standard Webhooks, `v1a,` Ed25519; `whsk_` signs, `whpk_` verifies
shopify           X-Shopify-Hmac-Sha256: base64 of HMAC-SHA256 over the body; key: the secret's text
shopify_events    the same with the newer names without a prefix (shopify-hmac-sha256, …)
stripe            Stripe-Signature: t=…,v1=…: hex of HMAC-SHA256 over `t.body`; key: the secret's text
github            X-Hub-Signature-256: sha256=…: hex of HMAC-SHA256 over the body; key: the secret's text
static            a header that holds the secret itself
none              nothing
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

TOLERANCE_S = 300.0
T = TypeVar("T")


class Refused(Exception):
    """A message that a receiver does not take, with the status that says so."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Letter:
    """What is signed: ``id`` stays on retries, ``timestamp`` (whole seconds since 1970) is the attempt's."""

    id: str
    timestamp: int
    body: bytes
    kind: str = ""
    """In the plural, as in paths."""
    word: str = ""
    """The word for one of the kind."""
    operation: str = ""
    """created, updated or deleted."""
    record_id: str = ""
    event_id: str = ""
    """Shared by the deliveries of one event to several receivers."""
    moment: str = ""
    """When it happened, as RFC 3339."""


def sign(scheme: str, secrets: Sequence[str], letter: Letter, header: str | None = None) -> dict[str, str]:
    """Return the headers of one attempt; ``secrets`` are those in force, newest first, ``header`` another name for `static`'s."""
    return _SIGN[scheme](secrets, letter, header)


def verify(
    scheme: str,
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance_s: float = TOLERANCE_S,
    header: str | None = None,
) -> str | None:
    """Return the message's id if its headers tell one. ``headers`` have small letters. Raises Refused."""
    return _VERIFY[scheme](secrets, headers, body, now, tolerance_s, header)


def new_secret(scheme: str, chance: Random) -> str:
    """Return a secret as the scheme spells one."""
    match scheme:
        case "standard":
            return "whsec_" + base64.b64encode(chance.randbytes(32)).decode()
        case "standard_ed25519":
            seed = chance.randbytes(32)
            public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
            return "whsk_" + base64.b64encode(seed + public).decode()
        case "none":
            return ""
    return f"{chance.getrandbits(256):064x}"


def public_key(secret: str) -> str:
    """Return the `whpk_` key of a `whsk_` secret."""
    return "whpk_" + base64.b64encode(_private(secret).public_key().public_bytes_raw()).decode()


def check(scheme: str, secret: str) -> None:
    """Raise ValueError if a secret is none that messages of this scheme can be verified with."""
    if scheme in ("standard", "standard_ed25519"):
        if secret.startswith(("whpk_", "whsk_")):
            _public(secret)
        elif not _key(secret):
            raise ValueError("a secret of Standard Webhooks is whsec_ and base64")
    elif not secret and scheme != "none":
        raise ValueError("the secret is empty")


# Sending.


def _standard(secrets: Sequence[str], letter: Letter, _: str | None) -> dict[str, str]:
    signed = _standard_content(letter.id, str(letter.timestamp), letter.body)
    marks = ["v1," + base64.b64encode(_mac(_key(secret), signed)).decode() for secret in secrets]
    return _standard_headers(letter, marks)


def _standard_ed25519(secrets: Sequence[str], letter: Letter, _: str | None) -> dict[str, str]:
    signed = _standard_content(letter.id, str(letter.timestamp), letter.body)
    marks = ["v1a," + base64.b64encode(_private(secret).sign(signed)).decode() for secret in secrets]
    return _standard_headers(letter, marks)


def _standard_headers(letter: Letter, marks: Sequence[str]) -> dict[str, str]:
    return {
        "webhook-id": letter.id,
        "webhook-timestamp": str(letter.timestamp),
        "webhook-signature": " ".join(marks),
    }


def _shopify(prefix: str) -> Callable[[Sequence[str], Letter, str | None], dict[str, str]]:
    verbs = {"created": "create", "updated": "update", "deleted": "delete"}

    def headers(secrets: Sequence[str], letter: Letter, _: str | None) -> dict[str, str]:
        names = {
            "hmac-sha256": base64.b64encode(_mac(secrets[-1].encode(), letter.body)).decode(),  # the oldest in force
            "topic": f"{letter.kind}/{verbs[letter.operation]}",
            "shop-domain": "simulated.myshopify.com",
            "api-version": "2026-10",
            "webhook-id": letter.id,
            "event-id": letter.event_id,
            "triggered-at": letter.moment,
        }
        if not prefix:
            names |= {"handle": letter.kind, "action": verbs[letter.operation], "resource-id": letter.record_id}
        return {f"{prefix}shopify-{name}": value for name, value in names.items()}

    return headers


def _stripe(secrets: Sequence[str], letter: Letter, _: str | None) -> dict[str, str]:
    signed = str(letter.timestamp).encode() + b"." + letter.body
    marks = [f"v1={_mac(secret.encode(), signed).hex()}" for secret in secrets]
    return {"stripe-signature": ",".join([f"t={letter.timestamp}", *marks])}


def _github(secrets: Sequence[str], letter: Letter, _: str | None) -> dict[str, str]:
    return {
        "x-hub-signature-256": "sha256=" + _mac(secrets[0].encode(), letter.body).hex(),
        "x-github-event": letter.word,
        "x-github-delivery": letter.id,
        "user-agent": "GitHub-Hookshot/simulated",
    }


def _static(secrets: Sequence[str], letter: Letter, header: str | None) -> dict[str, str]:
    return {(header or "x-webhook-key").lower(): secrets[0], "x-message-id": letter.id}


def _none(_: Sequence[str], letter: Letter, __: str | None) -> dict[str, str]:
    return {"x-message-id": letter.id}


_SIGN: dict[str, Callable[[Sequence[str], Letter, str | None], dict[str, str]]] = {
    "standard": _standard,
    "standard_ed25519": _standard_ed25519,
    "shopify": _shopify("x-"),
    "shopify_events": _shopify(""),
    "stripe": _stripe,
    "github": _github,
    "static": _static,
    "none": _none,
}
SCHEMES = tuple(_SIGN)


# Receiving.


def _check_standard(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance_s: float,
    _: str | None,
) -> str:
    prefix = "svix" if "svix-id" in headers and "webhook-id" not in headers else "webhook"
    message_id = _header(headers, f"{prefix}-id")
    timestamp, marks = _header(headers, f"{prefix}-timestamp"), _header(headers, f"{prefix}-signature")
    _in_time(timestamp, now, tolerance_s)
    signed = _standard_content(message_id, timestamp, body)
    good = False
    for mark in marks.split(" "):
        version, _comma, text = mark.partition(",")
        try:
            sent = base64.b64decode(text, validate=True)
        except binascii.Error:
            continue
        for secret in secrets:
            asymmetric = secret.startswith(("whpk_", "whsk_"))
            if version == "v1" and not asymmetric:
                good |= hmac.compare_digest(_mac(_key(secret), signed), sent)
            elif version == "v1a" and asymmetric:
                good |= _is_signed(secret, sent, signed)
    return _if_good(good, message_id)


def _check_shopify(prefix: str) -> Callable[..., str | None]:
    def check(
        secrets: Sequence[str],
        headers: Mapping[str, str],
        body: bytes,
        _now: float,
        _tolerance_s: float,
        _: str | None,
    ) -> str | None:
        sent = _header(headers, f"{prefix}shopify-hmac-sha256").encode()
        marks = [base64.b64encode(_mac(secret.encode(), body)) for secret in secrets]
        return _if_good(_any_same(marks, sent), headers.get(f"{prefix}shopify-webhook-id"))

    return check


def _check_stripe(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    tolerance_s: float,
    _: str | None,
) -> None:
    parts = [part.strip().partition("=") for part in _header(headers, "stripe-signature").split(",")]
    timestamp = next((value for name, _is, value in parts if name == "t"), "")
    _in_time(timestamp, now, tolerance_s)
    signed = timestamp.encode() + b"." + body
    marks = [_mac(secret.encode(), signed).hex().encode() for secret in secrets]
    sent = [value.encode() for name, _is, value in parts if name == "v1"]
    _if_good(any([_any_same(marks, mark) for mark in sent]), None)  # noqa: C419 - all of them are compared


def _check_github(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    _now: float,
    _tolerance_s: float,
    _: str | None,
) -> str | None:
    sent = _header(headers, "x-hub-signature-256").encode()
    marks = [b"sha256=" + _mac(secret.encode(), body).hex().encode() for secret in secrets]
    return _if_good(_any_same(marks, sent), headers.get("x-github-delivery"))


def _check_static(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    _body: bytes,
    _now: float,
    _tolerance_s: float,
    header: str | None,
) -> str | None:
    sent = _header(headers, (header or "x-webhook-key").lower()).encode()
    return _if_good(_any_same([secret.encode() for secret in secrets], sent), headers.get("x-message-id"))


def _check_none(
    _secrets: Sequence[str],
    headers: Mapping[str, str],
    _body: bytes,
    _now: float,
    _tolerance_s: float,
    _: str | None,
) -> str | None:
    return headers.get("x-message-id")


_VERIFY: dict[str, Callable[..., str | None]] = {
    "standard": _check_standard,
    "standard_ed25519": _check_standard,
    "shopify": _check_shopify("x-"),
    "shopify_events": _check_shopify(""),
    "stripe": _check_stripe,
    "github": _check_github,
    "static": _check_static,
    "none": _check_none,
}


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise Refused(401, "missing_header", f"the header {name} is missing")
    return value


def _in_time(timestamp: str, now: float, tolerance_s: float) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        raise Refused(401, "bad_timestamp", "the timestamp is not a number of seconds")
    if abs(now - int(timestamp)) > tolerance_s:
        raise Refused(401, "timestamp_out_of_range", f"the timestamp is more than {tolerance_s:.0f} s from now")


def _if_good(good: bool, value: T) -> T:
    if not good:
        raise Refused(401, "bad_signature", "no signature fits the body and a secret of this inbox")
    return value


def _any_same(marks: Sequence[bytes], sent: bytes) -> bool:
    return any([hmac.compare_digest(mark, sent) for mark in marks])  # noqa: C419 - all of them are compared


def _standard_content(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_") + "==")


def _private(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret.removeprefix("whsk_"))[:32])


def _public(secret: str) -> Ed25519PublicKey:
    public = secret if secret.startswith("whpk_") else public_key(secret)
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))


def _is_signed(secret: str, mark: bytes, content: bytes) -> bool:
    try:
        _public(secret).verify(mark, content)
    except InvalidSignature:
        return False
    return True
