"""What the directory knows: applications, users, authorisation codes, refresh tokens and access tokens, with its errors."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

from simulators.clock import Clock

ACCESS_S = 3599
CODE_S = 600
REFRESH_S = 90 * 86_400
"""Refresh tokens of confidential clients live 90 days from their last use."""


class AadError(Exception):
    """An error of the token endpoint: OAuth's word, the directory's number and its text."""

    def __init__(self, error: str, number: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.error = error
        self.number = number
        self.text = text
        self.status = status

    def body(self, clock: Clock) -> dict[str, Any]:
        """Return the JSON body."""
        trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
        when = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return {
            "error": self.error,
            "error_description": f"AADSTS{self.number}: {self.text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {when}",
            "error_codes": [self.number],
            "timestamp": when,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={self.number}",
        }


@dataclass(slots=True)
class App:
    """A registered application. ``user`` is its application user in the environment, None if it has none."""

    client_id: str
    secret: str
    user: str | None
    redirects: tuple[str, ...] = ()
    """Besides loopback addresses, which every application may use here."""
    enabled: bool = True


@dataclass(slots=True)
class Grant:
    """What a token stands for."""

    app: str
    user: str | None
    until: float
    scope: str
    delegated: bool = False
    challenge: str = ""
    method: str = ""
    redirect: str = ""
    nonce: str = ""
    used: bool = False


@dataclass(slots=True)
class Directory:
    """One tenant of the directory."""

    clock: Clock
    tenant: str
    domain: str
    apps: dict[str, App] = field(default_factory=dict)
    access: dict[str, Grant] = field(default_factory=dict)
    refresh: dict[str, Grant] = field(default_factory=dict)
    codes: dict[str, Grant] = field(default_factory=dict)
    access_s: int = ACCESS_S
    person: str = ""
    """Who signs in at the authorize page."""
    person_object: str = ""
    _key: RSAKey | None = None

    def knows(self, tenant: str) -> bool:
        """Return whether a path's tenant is this one, by id, by domain or by one of the words for any."""
        return tenant.lower() in (self.tenant, self.domain, "common", "organizations")

    def key(self) -> RSAKey:
        """Return the key that signs id tokens; made when first asked for."""
        if self._key is None:
            self._key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
        return self._key

    def app(self, client_id: str) -> App:
        """Return an application. Raises AadError."""
        if not client_id:
            raise AadError(
                "invalid_request", 900144, "The request body must contain the following parameter: 'client_id'."
            )
        app = self.apps.get(client_id)
        if app is None:
            raise AadError(
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id}' was not found in the directory '{self.domain}'. This can happen "
                "if the application has not been installed by the administrator of the tenant or consented to by any user "
                "in the tenant. You may have sent your authentication request to the wrong tenant.",
            )
        if not app.enabled:
            raise AadError("unauthorized_client", 7000112, f"Application '{client_id}' is disabled.", 401)
        return app

    def prove(self, app: App, secret: str) -> None:
        """Raise AadError unless the secret is the application's."""
        if not secret:
            raise AadError(
                "invalid_client",
                7000218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
                401,
            )
        if not secrets.compare_digest(secret.encode(), app.secret.encode()):
            raise AadError(
                "invalid_client",
                7000215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, "
                f"not the client secret ID, for a secret added to app '{app.client_id}'.",
                401,
            )

    def issue(self, grant: Grant, resource: str) -> str:
        """Return a new access token."""
        now = int(self.clock.now())
        claims = {
            "aud": resource,
            "iss": f"https://sts.windows.net/{self.tenant}/",
            "iat": now,
            "nbf": now,
            "exp": now + self.access_s,
            "appid": grant.app,
            "tid": self.tenant,
            "oid": grant.user or grant.app,
            "idtyp": "user" if grant.delegated else "app",
            "uti": secrets.token_urlsafe(16),
            "ver": "1.0",
        }
        unsigned = ".".join(_encoded(part) for part in ({"typ": "JWT", "alg": "RS256"}, claims))
        token = f"{unsigned}.{secrets.token_urlsafe(64)}"  # only this server reads it: its registry is what counts
        grant.until = now + self.access_s
        self.access[token] = grant
        if len(self.access) > 10_000:
            self.access = {t: g for t, g in self.access.items() if g.until > now}
        return token

    def id_token(self, grant: Grant, issuer: str) -> str:
        """Return a signed id token for who signed in."""
        now = int(self.clock.now())
        claims = {
            "aud": grant.app,
            "iss": issuer,
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "tid": self.tenant,
            "oid": self.person_object,
            "sub": hashlib.sha256(f"{grant.app}{grant.user}".encode()).hexdigest()[:43],
            "preferred_username": f"dana@{self.domain}",
            "name": "Dana Admin",
            "ver": "2.0",
        }
        if grant.nonce:
            claims["nonce"] = grant.nonce
        return jwt.encode({"alg": "RS256", "kid": self.key().kid}, claims, self.key())

    def code(self, grant: Grant) -> str:
        """Return a new authorisation code."""
        grant.until = self.clock.now() + CODE_S
        code = f"1.{secrets.token_urlsafe(48)}"
        self.codes[code] = grant
        return code

    def redeem(self, code: str, app: App, redirect: str, verifier: str) -> Grant:
        """Return what an authorisation code stands for, once. Raises AadError."""
        grant = self.codes.get(code)
        if grant is None or grant.app != app.client_id:
            raise AadError("invalid_grant", 9002313, "Invalid request. Request is malformed or invalid.")
        if grant.used:
            raise AadError(
                "invalid_grant",
                54005,
                "OAuth2 Authorization code was already redeemed, please retry with a new valid code.",
            )
        if grant.until < self.clock.now():
            raise AadError(
                "invalid_grant",
                70008,
                "The provided authorization code or refresh token has expired due to inactivity.",
            )
        if grant.redirect != redirect:
            raise AadError(
                "invalid_grant",
                500112,
                "The reply address does not match the reply address in the authorization request.",
            )
        if grant.challenge:
            if not verifier:
                raise AadError(
                    "invalid_grant",
                    50148,
                    "The code_verifier does not match the code_challenge supplied in the authorization request.",
                )
            digest = hashlib.sha256(verifier.encode()).digest()
            made = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() if grant.method == "S256" else verifier
            if made != grant.challenge:
                raise AadError(
                    "invalid_grant",
                    501481,
                    "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
                )
        grant.used = True
        return grant

    def refreshable(self, grant: Grant) -> str:
        """Return a new refresh token; the earlier ones stay valid, as the directory leaves them."""
        token = f"1.{secrets.token_urlsafe(96)}"
        self.refresh[token] = Grant(grant.app, grant.user, self.clock.now() + REFRESH_S, grant.scope, delegated=True)
        return token

    def refreshed(self, token: str, app: App) -> Grant:
        """Return what a refresh token stands for. Raises AadError."""
        grant = self.refresh.get(token)
        if grant is None or grant.app != app.client_id:
            raise AadError("invalid_grant", 9002313, "Invalid request. Request is malformed or invalid.")
        if grant.used:
            raise AadError(
                "invalid_grant",
                50173,
                "The provided grant has expired due to it being revoked, a fresh auth token is needed.",
            )
        if grant.until < self.clock.now():
            raise AadError("invalid_grant", 700082, "The refresh token has expired due to inactivity.")
        return grant

    def revoke(self) -> None:
        """Revoke everything that was issued; refresh tokens are remembered as revoked."""
        self.access.clear()
        self.codes.clear()
        for grant in self.refresh.values():
            grant.used = True


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
