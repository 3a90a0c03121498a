"""Signatures of webhooks, as data: who signs what, how it is spelt, and for how long it is good. They are checked, and made.

A `Scheme` is one of `SCHEMES` by name, or is described in the configuration (`scheme_of`). Every secret that is good now is tried, so that
one can be replaced without losing a call. A signature that is missing, wrong, too old or too new is a `Refused` with status 401; headers that
cannot be read are one with status 400. A call that was refused for its age is signed anew when its sender tries again.

Sources: the specification and reference libraries of Standard Webhooks, the verifiers of Shopify, Stripe, GitHub and HubSpot.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tidelock.errors import Fatal, TidelockError

TOLERANCE_S = 300.0


@dataclass(slots=True)
class Call:
    """A webhook as it came in: headers have lower-case names, ``url`` is the address that the sender called."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = field(default_factory=dict)


class Refused(TidelockError):
    """A call is not taken; ``status`` is what its sender is answered, ``reason`` a stable snake_case word."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Checked:
    """What a good signature covers: the sender's number of the delivery, and when it was sent, in seconds since 1970."""

    id: str | None = None
    timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class Headers:
    """The names of one family of headers, in lower case; empty where the scheme has none."""

    signature: str
    timestamp: str = ""
    id: str = ""


@dataclass(frozen=True)
class Scheme:
    """How calls are signed.

    ``content`` is what is signed, of ``{id}``, ``{timestamp}``, ``{body}``, ``{method}`` and ``{url}``. ``several``: how many signatures
    stand in the header: ``one``, a ``list`` of ``version,signature`` apart by spaces, or ``pairs`` like ``t=…,v1=…`` with the timestamp.
    ``kind`` static: the header, or the parameter ``query`` of the address, holds the secret itself.
    """

    kind: Literal["hmac", "static"] = "hmac"
    families: tuple[Headers, ...] = ()
    query: str = ""
    content: str = "{body}"
    algorithm: Literal["sha256", "sha512", "sha1"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    several: Literal["one", "list", "pairs"] = "one"
    version: str = "v1"
    unit: Literal["s", "ms"] = "s"
    tolerance_s: float = TOLERANCE_S
    secret: Literal["text", "base64", "whsec"] = "text"  # noqa: S105 - how it is spelt
    unescaped: bool = False
    """The address is signed with some of its percent-escapes decoded, as HubSpot does."""

    # -------------------------------------------------------------------------------------------- checking

    def verify(self, call: Call, secrets: Sequence[str], now: float) -> Checked:
        """Check a call. Raises Refused, and Fatal for a secret that is none. ``now`` is in seconds since 1970."""
        if self.kind == "static":
            return self._verify_static(call, secrets)
        family = next((f for f in self.families if f.signature in call.headers), None)
        if family is None:
            names = " or ".join(f.signature for f in self.families)
            raise Refused(f"the header {names} is missing", status=401, reason="signature_missing")
        given, text = self._given(call.headers[family.signature])
        if self.several != "pairs":
            text = call.headers.get(family.timestamp) if family.timestamp else None
        number = call.headers.get(family.id) if family.id else None
        if "{id}" in self.content and not number:
            raise Refused(f"the header {family.id} is missing", status=401, reason="signature_missing")
        timestamp = self._timestamp(text, now) if "{timestamp}" in self.content else None
        signed = self._signed(call.method, call.url, call.body, number or "", text or "")
        if not any(self._matches(secret, signed, given) for secret in secrets):
            raise Refused(
                "the signature is not that of this body under this secret", status=401, reason="signature_wrong"
            )
        return Checked(number, timestamp)

    def _verify_static(self, call: Call, secrets: Sequence[str]) -> Checked:
        if self.query:
            given, where = call.query.get(self.query), f"the parameter {self.query} of the address"
        else:
            family = next((f for f in self.families if f.signature in call.headers), self.families[0])
            given, where = call.headers.get(family.signature), f"the header {family.signature}"
        if given is None:
            raise Refused(f"{where} is missing", status=401, reason="signature_missing")
        wanted = [(self.prefix + secret).encode() for secret in secrets]
        if not any(hmac.compare_digest(given.encode(), w) for w in wanted):
            raise Refused(f"{where} does not hold the secret", status=401, reason="signature_wrong")
        return Checked()

    def _given(self, header: str) -> tuple[list[tuple[str, str]], str | None]:
        """Return the signatures of a header as (version, signature), and the timestamp that stands with them."""
        if self.several == "one":
            found = header.strip()
            if self.prefix and not found.startswith(self.prefix):
                raise Refused(
                    f"the signature does not begin with {self.prefix}", status=400, reason="signature_malformed"
                )
            return [(self.version, found[len(self.prefix) :])], None
        divider, sign = (" ", ",") if self.several == "list" else (",", "=")
        pairs = [part.strip().partition(sign) for part in header.split(divider) if part.strip()]
        if not pairs or not all(middle for _, middle, _ in pairs):
            raise Refused("the header with the signature cannot be read", status=400, reason="signature_malformed")
        given = [(version, value) for version, _, value in pairs]
        return given, dict(given).get("t")

    def _timestamp(self, text: str | None, now: float) -> float:
        if text is None:
            raise Refused("the time of sending is missing", status=401, reason="timestamp_missing")
        if not re.fullmatch("[0-9]{1,17}", text):
            raise Refused("the time of sending is no whole number", status=400, reason="timestamp_malformed")
        at = int(text) / (1000 if self.unit == "ms" else 1)
        if at < now - self.tolerance_s:
            raise Refused(
                f"it was signed {now - at:.0f} s ago, more than {self.tolerance_s:.0f} s", status=401, reason="too_old"
            )
        if at > now + self.tolerance_s:
            raise Refused(
                f"it was signed {at - now:.0f} s in the future, more than {self.tolerance_s:.0f} s",
                status=401,
                reason="too_new",
            )
        return at

    def _matches(self, secret: str, signed: bytes, given: Sequence[tuple[str, str]]) -> bool:
        if self.secret == "whsec" and secret.startswith(("whpk_", "whsk_")):  # noqa: S105
            public = _public(secret)
            return any(_signed_by(public, value, signed) for version, value in given if version == "v1a")
        wanted = self._mac(secret, signed).encode()
        return any(hmac.compare_digest(self._spelt(v), wanted) for version, v in given if version == self.version)

    def _spelt(self, value: str) -> bytes:
        return (value.lower() if self.encoding == "hex" else value).encode()

    # -------------------------------------------------------------------------------------------- signing

    def sign(
        self,
        secrets: Sequence[str],
        *,
        number: str,
        timestamp: float,
        method: str,
        url: str,
        body: bytes,
    ) -> dict[str, str]:
        """Return the headers of a call with this ``number``, the same whenever it is tried again, that is signed with every secret, as far as the scheme has room for several. Raises Fatal."""
        if not secrets:
            raise Fatal("there is no secret to sign webhooks with", hint="store the credential that the scheme needs")
        if self.kind == "static":
            return {} if self.query else {self.families[0].signature: self.prefix + secrets[0]}
        family = self.families[0]
        text = str(int(timestamp * (1000 if self.unit == "ms" else 1)))
        signed = self._signed(method, url, body, number, text)
        out = {}
        if family.id:
            out[family.id] = number
        if family.timestamp:
            out[family.timestamp] = text
        if self.several == "one":
            out[family.signature] = self.prefix + self._mac(secrets[0], signed)
        elif self.several == "list":
            out[family.signature] = " ".join(self._versioned(secret, signed) for secret in secrets)
        else:
            macs = [f"{self.version}={self._mac(secret, signed)}" for secret in secrets]
            out[family.signature] = ",".join([f"t={text}", *macs])
        return out

    def _versioned(self, secret: str, signed: bytes) -> str:
        if secret.startswith("whsk_"):
            return f"v1a,{base64.b64encode(_private(secret).sign(signed)).decode()}"
        return f"{self.version},{self._mac(secret, signed)}"

    # -------------------------------------------------------------------------------------------- parts

    def _signed(self, method: str, url: str, body: bytes, number: str, timestamp: str) -> bytes:
        """Put together what is signed; the body goes in as the bytes it is."""
        values = {
            "id": number.encode(),
            "timestamp": timestamp.encode(),
            "body": body,
            "method": method.encode(),
            "url": (_unescaped(url) if self.unescaped else url).encode(),
        }
        parts = re.split(r"\{(\w+)\}", self.content)
        return b"".join(values[part] if n % 2 else part.encode() for n, part in enumerate(parts))

    def _mac(self, secret: str, signed: bytes) -> str:
        digest = hmac.digest(self._key(secret), signed, self.algorithm)
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()

    def _key(self, secret: str) -> bytes:
        if self.secret == "text":  # noqa: S105
            return secret.encode()
        return _decoded(secret.removeprefix("whsec_") if self.secret == "whsec" else secret)  # noqa: S105


def _decoded(text: str) -> bytes:
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise Fatal(
            "the secret of a webhook is no base64", hint="copy it once more from the sender, with its beginning whsec_"
        ) from error
    if not found:
        raise Fatal("the secret of a webhook is empty", hint="copy it once more from the sender")
    return found


def _private(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_of_length(_decoded(secret.removeprefix("whsk_"))[:32]))


def _public(secret: str) -> Ed25519PublicKey:
    if secret.startswith("whsk_"):
        return _private(secret).public_key()
    return Ed25519PublicKey.from_public_bytes(_of_length(_decoded(secret.removeprefix("whpk_"))))


def _of_length(key: bytes) -> bytes:
    if len(key) != 32:
        raise Fatal("a key of a webhook is no ed25519 key of 32 bytes", hint="copy it once more, with its beginning")
    return key


def _signed_by(public: Ed25519PublicKey, value: str, signed: bytes) -> bool:
    try:
        public.verify(base64.b64decode(value, validate=True), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


_ESCAPES = {f"%{ord(c):02X}": c for c in ":/?@!$'()*,;"}


def _unescaped(url: str) -> str:
    """Decode the escapes that HubSpot decodes before it signs."""
    return re.sub("|".join(_ESCAPES), lambda found: _ESCAPES[found[0].upper()], url, flags=re.IGNORECASE)


# ------------------------------------------------------------------------------------------------ the schemes

SCHEMES: dict[str, Scheme] = {
    "standard": Scheme(
        families=tuple(Headers(f"{n}-signature", f"{n}-timestamp", f"{n}-id") for n in ("webhook", "svix")),
        content="{id}.{timestamp}.{body}",
        encoding="base64",
        several="list",
        secret="whsec",  # noqa: S106
    ),
    "shopify": Scheme(
        families=(
            Headers("x-shopify-hmac-sha256", id="x-shopify-webhook-id"),
            Headers("shopify-hmac-sha256", id="shopify-webhook-id"),
        ),
        encoding="base64",
    ),
    "stripe": Scheme(families=(Headers("stripe-signature"),), content="{timestamp}.{body}", several="pairs"),
    "github": Scheme(families=(Headers("x-hub-signature-256", id="x-github-delivery"),), prefix="sha256="),
    "hubspot": Scheme(
        families=(Headers("x-hubspot-signature-v3", "x-hubspot-request-timestamp"),),
        content="{method}{url}{body}{timestamp}",
        encoding="base64",
        unit="ms",
        unescaped=True,
    ),
}

_OWN = {"header", "timestamp_header", "id_header", "static", "query", "like"}
_DATA = {f.name for f in fields(Scheme)} - {"kind", "families", "query"}


def scheme_of(option: Any, where: str) -> Scheme:
    """Return a scheme by its name, or as it is described: by what differs from the one it is ``like``. Raises Fatal.

    ``header``, ``timestamp_header`` and ``id_header`` name headers; ``static`` the header, or ``query`` the parameter, that holds the
    secret itself; the rest are fields of `Scheme`. ``where`` names the option for people.
    """
    if isinstance(option, str) and option in SCHEMES:
        return SCHEMES[option]
    if not isinstance(option, Mapping):
        raise Fatal(
            f"{where}: there is no scheme {option!r}",
            hint=f"{', '.join(SCHEMES)}, or a description: docs/connectors/webhook.md",
        )
    unknown = sorted(set(option) - _OWN - _DATA)
    if unknown:
        raise Fatal(f"{where}: there is no setting {unknown[0]!r}", hint=f"{', '.join(sorted(_OWN | _DATA))}")
    like = option.get("like")
    if like is not None and like not in SCHEMES:
        raise Fatal(f"{where}: there is no scheme {like!r} to be like", hint=", ".join(SCHEMES))
    base = SCHEMES[like] if like is not None else Scheme()
    made = replace(base, **{name: value for name, value in option.items() if name in _DATA})
    if "query" in option:
        return replace(made, kind="static", query=str(option["query"]), families=())
    if "static" in option:
        return replace(made, kind="static", families=(Headers(str(option["static"]).lower()),))
    old = base.families[0] if base.families else Headers("")
    names = Headers(
        str(option.get("header", old.signature)).lower(),
        str(option.get("timestamp_header", old.timestamp)).lower(),
        str(option.get("id_header", old.id)).lower(),
    )
    made = replace(made, families=(names, *base.families[1:]) if "header" not in option else (names,))
    _check(made, where)
    return made


_CHOICES = {
    "algorithm": ("sha256", "sha512", "sha1"),
    "encoding": ("hex", "base64"),
    "several": ("one", "list", "pairs"),
    "unit": ("s", "ms"),
    "secret": ("text", "base64", "whsec"),
}


def _check(scheme: Scheme, where: str) -> None:
    for name, choices in _CHOICES.items():
        if getattr(scheme, name) not in choices:
            raise Fatal(f"{where}.{name} is {getattr(scheme, name)!r}", hint=f"one of {', '.join(choices)}")
    first = scheme.families[0]
    parts = re.findall(r"\{(\w*)\}", scheme.content)
    needs = {"id": first.id, "timestamp": first.timestamp or (scheme.several == "pairs")}
    for part in parts:
        if part not in ("id", "timestamp", "body", "method", "url"):
            raise Fatal(
                f"{where}.content has {{{part}}}", hint="{id}, {timestamp}, {body}, {method} and {url} are known"
            )
        if not needs.get(part, True):
            raise Fatal(f"{where}.content has {{{part}}}", hint=f"name its header: `{part}_header`")
    if not first.signature:
        raise Fatal(f"{where} names no header", hint="`header`, `static` or `query` says where the signature stands")
    if "body" not in parts:
        raise Fatal(
            f"{where}.content does not cover {{body}}", hint="a signature that does not cover it proves nothing"
        )
