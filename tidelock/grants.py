"""Ways to get a token: refresh token, client credentials, JWT bearer assertion, or one that somebody has put there.

Everything about a grant that vendors do differently is a parameter: where the token endpoint is, and under which names a tenant keeps
what is needed. Sources: RFC 6749 (sections 4.4, 5, 6), RFC 7523.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import httpx
import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from tidelock.errors import Retry, Revoked
from tidelock.httperrors import place, retry_after_s, scrub, vendor_message
from tidelock.tenants import Tenant

Where = str | Callable[[Tenant], str]
_PASSING = frozenset(("temporarily_unavailable", "server_error", "slow_down", "rate_limit_exceeded"))
_SECRET_FIELDS = frozenset(("access_token", "refresh_token", "id_token", "signature", "client_secret"))
_ASSERTION_S = 180  # how long an assertion is good: Salesforce takes at most three to five minutes


@dataclass(frozen=True)
class Token:
    """What opens an API. ``expires_at`` is in seconds since 1970, None where the vendor does not tell; ``extra`` is the rest of the answer."""

    value: str = field(repr=False)
    expires_at: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    got_at: float = field(default_factory=time.time)


@runtime_checkable
class Grant(Protocol):
    """A way to get a token."""

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:
        """Get a new token; also return the credentials that changed by it, such as a refresh token that was replaced.

        Raises Revoked if the credentials are refused or missing, Retry if the endpoint is in trouble.
        """
        ...


def need(tenant: Tenant, name: str, hint: str | None = None) -> str:
    """Return one credential. Raises Revoked if the tenant has none of that name."""
    found = tenant.credentials.get(name)
    if not found:
        raise Revoked(
            f"{tenant.path} has no credential `{name}`",
            hint=hint
            or f"`tidelock tenants set {tenant.system} {tenant.name} --credential {name}` asks for it, or write it into the configuration",
        )
    return found


@dataclass(frozen=True)
class RefreshToken:
    """Get a token by a refresh token; one that is replaced with every use is kept."""

    token_url: Where
    parameters: Mapping[str, str] = field(default_factory=dict)
    client_id: str = "client_id"
    client_secret: str | None = "client_secret"  # noqa: S105 - the name under which it is kept
    refresh_token: str = "refresh_token"  # noqa: S105
    lifetime_s: float | None = None

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:
        """Exchange the refresh token. Raises Revoked or Retry."""
        connect = f"`tidelock tenants connect {tenant.system} {tenant.name}` has somebody sign in"
        old = need(tenant, self.refresh_token, connect)
        form = {"grant_type": "refresh_token", "refresh_token": old, "client_id": need(tenant, self.client_id)}
        if self.client_secret is not None and tenant.credentials.get(self.client_secret):
            form["client_secret"] = tenant.credentials[self.client_secret]
        answer = ask(client, tenant, where(self.token_url, tenant), {**form, **self.parameters}, hint=connect)
        new = answer.get("refresh_token")
        changed = {self.refresh_token: new} if isinstance(new, str) and new and new != old else {}
        return token_of(answer, self.lifetime_s), changed


@dataclass(frozen=True)
class ClientCredentials:
    """Get a token as the application itself; its secret goes into the body or into an ``Authorization: Basic`` header."""

    token_url: Where
    style: Literal["body", "basic"] = "body"
    parameters: Mapping[str, str] | Callable[[Tenant], Mapping[str, str]] = field(default_factory=dict)
    client_id: str = "client_id"
    client_secret: str = "client_secret"  # noqa: S105
    lifetime_s: float | None = None

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:
        """Sign in. Raises Revoked or Retry."""
        number, secret = need(tenant, self.client_id), need(tenant, self.client_secret)
        more = self.parameters(tenant) if callable(self.parameters) else self.parameters
        form, auth = {"grant_type": "client_credentials", **more}, None
        if self.style == "basic":
            auth = (number, secret)
        else:
            form |= {"client_id": number, "client_secret": secret}
        return token_of(ask(client, tenant, where(self.token_url, tenant), form, auth), self.lifetime_s), {}


@dataclass(frozen=True)
class JwtBearer:
    """Get a token by an assertion that is signed with the tenant's private key (RS256)."""

    token_url: Where
    audience: Where
    issuer: str = "client_id"
    subject: str = "username"
    private_key: str = "private_key"
    claims: Mapping[str, Any] = field(default_factory=dict)
    lifetime_s: float | None = None

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:
        """Sign in. Raises Revoked or Retry."""
        now = int(time.time())
        claims = {
            "iss": need(tenant, self.issuer),
            "sub": need(tenant, self.subject),
            "aud": where(self.audience, tenant),
            "iat": now,
            "exp": now + _ASSERTION_S,
            "jti": str(uuid.uuid4()),
            **self.claims,
        }
        try:
            key = RSAKey.import_key(need(tenant, self.private_key).replace("\\n", "\n"))
            assertion = jwt.encode({"alg": "RS256"}, claims, key, algorithms=["RS256"])
        except (ValueError, JoseError) as error:
            raise Revoked(
                f"{tenant.path}: the credential `{self.private_key}` is no RSA private key in PEM",
                hint="store the whole file, from -----BEGIN to the end; an encrypted key must be decrypted first",
            ) from error
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
        return token_of(ask(client, tenant, where(self.token_url, tenant), form), self.lifetime_s), {}


@dataclass(frozen=True)
class Static:
    """A token that somebody has made at the vendor and put among the credentials; it is never refreshed."""

    credential: str = "token"
    stored: ClassVar[bool] = False  # it stands among the credentials already

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:  # noqa: ARG002
        """Return the token. Raises Revoked if there is none."""
        return Token(need(tenant, self.credential)), {}


# ------------------------------------------------------------------------------------------------------- the endpoint


def where(place_: Where, tenant: Tenant) -> str:
    """Return an address that may depend on the tenant."""
    return place_(tenant) if callable(place_) else place_


def token_of(answer: Mapping[str, Any], lifetime_s: float | None = None) -> Token:
    """Make a token of a token endpoint's answer; ``lifetime_s`` stands in for a vendor that tells none."""
    now = time.time()
    told = answer.get("expires_in")
    try:
        life_s = float(told) if told is not None else lifetime_s
    except (TypeError, ValueError):
        life_s = lifetime_s
    extra = {k: v for k, v in answer.items() if k not in _SECRET_FIELDS}
    return Token(str(answer["access_token"]), None if life_s is None else now + life_s, extra, now)


def ask(
    client: httpx.Client,
    tenant: Tenant,
    url: str,
    form: Mapping[str, str],
    auth: tuple[str, str] | None = None,
    *,
    hint: str | None = None,
) -> dict[str, Any]:
    """Send a form to a token endpoint and return its answer, in which ``access_token`` is. Raises Revoked or Retry."""
    shown = place(url)
    try:
        answer = client.request("POST", url, data=dict(form), auth=auth, headers={"Accept": "application/json"})
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Revoked(
            f"{tenant.path}: {shown or url!r} is no address to sign in at",
            hint=f"correct `url` of {tenant.path}: https://host, as the vendor names it",
        ) from error
    except httpx.HTTPError as error:
        raise Retry(
            f"{tenant.path}: {shown} did not answer the sign-in ({type(error).__name__}: {scrub(str(error), tenant.credentials)})",
            hint=f"check `url` of {tenant.path} and the network; tried again by itself",
        ) from error
    body: Any = None
    with contextlib.suppress(msgspec.DecodeError):
        body = msgspec.json.decode(answer.content)
    if answer.status_code == 200 and isinstance(body, dict) and isinstance(body.get("access_token"), str):
        return body
    said = scrub(vendor_message(answer.content), tenant.credentials, form.values())
    text = f"{tenant.path}: {shown} answered {answer.status_code} to the sign-in{f': {said}' if said else ''}"
    code = body.get("error") if isinstance(body, dict) else None
    if answer.status_code in (408, 425, 429) or answer.status_code >= 500 or code in _PASSING:
        raise Retry(
            text, hint="the vendor's trouble; tried again by itself", retry_after_s=retry_after_s(answer.headers)
        )
    if answer.status_code < 300:
        raise Retry(f"{text}, without a token", hint=f"check `url` of {tenant.path}: something else answers there")
    raise Revoked(
        text,
        hint=hint
        or f"correct its credentials in the configuration or with `tidelock tenants set {tenant.system} {tenant.name}`, "
        f"or its rights at the vendor and then `tidelock tenants enable {tenant.system} {tenant.name}`",
    )
