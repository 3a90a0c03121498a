"""OAuth 2: the token endpoint with its grants, authorise, revoke, introspect, userinfo and identity."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from simulators.base import answer
from simulators.clock import Clock
from simulators.faults import Faults
from simulators.salesforce.org import Org
from simulators.salesforce.sessions import Code, Grant, Session, Sessions, challenge_of

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LONGEST_ASSERTION_S = 360.0
_AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
_SCOPE = "refresh_token full id api"


class Denied(Exception):
    """What the OAuth endpoints refuse: an error and its description."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status


class OAuth:
    """The connected app of the org and its endpoints."""

    def __init__(
        self, org: Org, sessions: Sessions, clock: Clock, faults: Faults, *, passwords: bool, callback: str | None
    ) -> None:
        self._org = org
        self.sessions = sessions
        self._clock = clock
        self._faults = faults
        self._passwords = passwords
        self._callback = callback
        self.client_id = f"3MVG9{sessions.secret(80)}"
        self.client_secret = sessions.secret(64).replace("_", "0").replace(".", "1")
        self.password = sessions.secret(16)
        self.security_token = sessions.secret(24)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.private_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self._public = RSAKey.import_key(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        self.base = ""
        """Where the org answers: its instance URL."""

    def routes(self) -> list[Route]:
        """Return the paths under ``/services/oauth2`` and ``/id``."""
        both = ["GET", "POST"]
        return [
            Route("/services/oauth2/token", self._token, methods=both),
            Route("/services/oauth2/authorize", self._authorize, methods=both),
            Route("/services/oauth2/revoke", self._revoke, methods=both),
            Route("/services/oauth2/introspect", self._introspect, methods=["POST"]),
            Route("/services/oauth2/userinfo", self._userinfo, methods=both),
            Route("/id/{org}/{user}", self._identity, methods=both),
        ]

    def first_grant(self) -> Grant:
        """Return a grant as a finished authorisation leaves it, for clients that begin with a refresh token."""
        return self.sessions.grant(self.client_id, self._org.integration, _SCOPE, refreshable=True)

    def token_answer(self, session: Session, base: str, refresh: str | None = None) -> dict[str, Any]:
        """Return what the token endpoint says about a new access token."""
        issued = str(int(self._clock.now() * 1000))
        identity = f"{base}/id/{self._org.id}/{session.user}"
        signature = hmac.new(self.client_secret.encode(), (identity + issued).encode(), hashlib.sha256).digest()
        out = {
            "access_token": session.token,
            "signature": base64.b64encode(signature).decode(),
            "scope": session.grant.scope,
            "instance_url": base,
            "id": identity,
            "token_type": "Bearer",
            "issued_at": issued,
        }
        return {**out, "refresh_token": refresh} if refresh is not None else out

    # Endpoints.

    async def _token(self, request: Request) -> Response:
        try:
            if request.method != "POST":
                raise Denied("invalid_request", "must use HTTP POST")
            form = await _form(request)
            return _json(self._granted(form, _basic(request), instance(request)))
        except Denied as denied:
            return _denied(denied)

    def _granted(self, form: dict[str, str], basic: tuple[str, str] | None, base: str) -> dict[str, Any]:
        kind = form.get("grant_type")
        if kind == JWT_GRANT:
            return self._by_assertion(form, base)
        grants = {
            "refresh_token": self._by_refresh,
            "client_credentials": self._by_client,
            "authorization_code": self._by_code,
            "password": self._by_password,
        }
        if kind not in grants:
            raise Denied("unsupported_grant_type", "grant type not supported")
        client_id, secret = basic if basic is not None else (form.get("client_id"), form.get("client_secret"))
        if not client_id:
            raise Denied("invalid_client_id", "client identifier invalid")
        if client_id != self.client_id:
            raise Denied("invalid_client_id", "client identifier invalid")
        public = kind == "authorization_code" and "code_verifier" in form
        if secret is None and (kind == "refresh_token" or public):
            pass  # a public client has none to show
        elif secret is None or not hmac.compare_digest(secret, self.client_secret):
            raise Denied("invalid_client", "invalid client credentials")
        return grants[kind](form, base)

    def _by_refresh(self, form: dict[str, str], base: str) -> dict[str, Any]:
        if self._faults.take("revoke", "POST", "/services/oauth2/token") is not None:
            self.sessions.revoke_all()
        grant = self.sessions.refreshed(form.get("refresh_token", ""))
        if grant is None:
            raise Denied("invalid_grant", "expired access/refresh token")
        return self.token_answer(self.sessions.issue(grant), base)

    def _by_client(self, _: dict[str, str], base: str) -> dict[str, Any]:
        self._maybe_inactive()
        grant = self.sessions.grant(self.client_id, self._org.integration, "api id", refreshable=False)
        return self.token_answer(self.sessions.issue(grant), base)

    def _by_password(self, form: dict[str, str], base: str) -> dict[str, Any]:
        if not self._passwords:
            raise Denied("invalid_grant", "authentication failure")
        user = self.user_named(form.get("username", ""))
        if user is None or form.get("password") not in {self.password, self.password + self.security_token}:
            raise Denied("invalid_grant", "authentication failure")
        grant = self.sessions.grant(self.client_id, user, _SCOPE, refreshable=False)
        return self.token_answer(self.sessions.issue(grant), base)

    def _by_code(self, form: dict[str, str], base: str) -> dict[str, Any]:
        code = self.sessions.redeem(form.get("code", ""))
        if code is None or code.app != self.client_id:
            raise Denied("invalid_grant", "expired authorization code")
        if form.get("redirect_uri") != code.redirect:
            raise Denied("redirect_uri_mismatch", "redirect_uri must match configuration")
        verifier = form.get("code_verifier")
        if code.challenge is not None:
            if verifier is None:
                raise Denied("invalid_request", "code verifier is required")
            if not hmac.compare_digest(challenge_of(verifier, code.method), code.challenge):
                raise Denied("invalid_grant", "invalid code verifier")
        refreshable = not code.scope or bool({"refresh_token", "offline_access", "full"} & set(code.scope.split()))
        grant = self.sessions.grant(self.client_id, code.user, code.scope or _SCOPE, refreshable=refreshable)
        return self.token_answer(self.sessions.issue(grant), base, grant.refresh)

    def _by_assertion(self, form: dict[str, str], base: str) -> dict[str, Any]:
        try:
            claims = json.loads(
                jws.deserialize_compact(form.get("assertion", ""), self._public, algorithms=["RS256"]).payload
            )
            ends = float(claims["exp"])  # some clients send it as text
        except (JoseError, ValueError, KeyError, TypeError):
            raise Denied("invalid_grant", "invalid assertion") from None
        if claims.get("iss") != self.client_id:
            raise Denied("invalid_client_id", "client identifier invalid")
        audiences = claims.get("aud")
        audiences = audiences if isinstance(audiences, list) else [audiences]
        hosts = {*_AUDIENCES, base, self.base}
        if not any(
            isinstance(a, str) and a.rstrip("/").removesuffix("/services/oauth2/token") in hosts for a in audiences
        ):
            raise Denied("invalid_grant", "audience is invalid")
        if ends <= self._clock.now():
            raise Denied("invalid_grant", "expired authorization code")
        if ends > self._clock.now() + _LONGEST_ASSERTION_S:
            raise Denied("invalid_grant", "invalid assertion")
        self._maybe_inactive()
        user = self.user_named(str(claims.get("sub", "")))
        if user is None:
            raise Denied("invalid_grant", "user hasn't approved this consumer")
        grant = self.sessions.grant(self.client_id, user, "api id", refreshable=False)
        return self.token_answer(self.sessions.issue(grant), base)

    def _maybe_inactive(self) -> None:
        if self._faults.take("revoke", "POST", "/services/oauth2/token") is not None:
            self.sessions.revoke_all()
            raise Denied("invalid_grant", "user hasn't approved this consumer")

    def user_named(self, username: str) -> str | None:
        """Return the id of the active user with this name."""
        table = self._org.tables["User"]
        found = [i for i in table.with_value("Username", username) if table.rows[i]["IsActive"]]
        return found[0] if found else None

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params) if request.method == "GET" else await _form(request)
        redirect = asked.get("redirect_uri", "")
        try:
            if asked.get("client_id") != self.client_id:
                raise Denied("invalid_client_id", "client identifier invalid")
            if not self._redirectable(redirect):
                raise Denied("redirect_uri_mismatch", "redirect_uri must match configuration")
        except Denied as denied:
            return _denied(denied)  # nobody is sent to an address that the app does not have
        back = {"state": asked["state"]} if "state" in asked else {}
        if asked.get("response_type") != "code":
            return _back(
                redirect,
                {"error": "unsupported_response_type", "error_description": "response type not supported", **back},
            )
        if self._faults.take("deny", request.method, request.url.path) is not None:
            return _back(
                redirect, {"error": "access_denied", "error_description": "end-user denied authorization", **back}
            )
        user = self.user_named(asked.get("login_hint", "")) or self._org.integration
        code = Code(
            self.client_id,
            user,
            redirect,
            asked.get("scope", ""),
            self._clock.now(),
            asked.get("code_challenge"),
            asked.get("code_challenge_method", "S256"),
        )
        return _back(redirect, {"code": self.sessions.code(code), **back})

    def _redirectable(self, redirect: str) -> bool:
        if self._callback is not None:
            return redirect == self._callback
        return urlsplit(redirect).hostname in {"localhost", "127.0.0.1", "::1"}

    async def _revoke(self, request: Request) -> Response:
        asked = dict(request.query_params) | (await _form(request) if request.method == "POST" else {})
        if not self.sessions.revoke(asked.get("token", "")):
            return _denied(Denied("unsupported_token_type", "this token type is not supported"))
        return Response(status_code=200)

    async def _introspect(self, request: Request) -> Response:
        form = await _form(request)
        client_id, secret = _basic(request) or (form.get("client_id", ""), form.get("client_secret", ""))
        if client_id != self.client_id or not hmac.compare_digest(secret, self.client_secret):
            return _denied(Denied("invalid_client", "invalid client credentials", 401))
        token = form.get("token", "")
        session, grant = self.sessions.look(token), self.sessions.refreshed(token)
        if session is None and grant is None:
            return _json({"active": False})
        user = session.user if session is not None else grant.user if grant is not None else ""
        scope = session.grant.scope if session is not None else grant.scope if grant is not None else ""
        out: dict[str, Any] = {
            "active": True,
            "scope": scope,
            "client_id": self.client_id,
            "username": self._org.tables["User"].rows[user]["Username"],
            "sub": f"{instance(request)}/id/{self._org.id}/{user}",
            "token_type": "access_token" if session is not None else "refresh_token",
        }
        if session is not None:
            out |= {"exp": int(self.sessions.ends(session)), "iat": int(session.begun), "nbf": int(session.begun)}
        return _json(out)

    async def _userinfo(self, request: Request) -> Response:
        session = self._signed_in(request)
        if session is None:
            return Response("Bad_OAuth_Token", 403, media_type="text/html;charset=UTF-8")
        row, base = self._org.tables["User"].rows[session.user], instance(request)
        return _json(
            {
                "sub": f"{base}/id/{self._org.id}/{session.user}",
                "user_id": session.user,
                "organization_id": self._org.id,
                "preferred_username": row["Username"],
                "nickname": row["Alias"],
                "name": row["Name"],
                "email": row["Email"],
                "email_verified": True,
                "given_name": row["FirstName"],
                "family_name": row["LastName"],
                "zoneinfo": row["TimeZoneSidKey"],
                "active": True,
                "user_type": "STANDARD",
                "language": row["LanguageLocaleKey"],
                "locale": row["LocaleSidKey"],
                "utcOffset": 0,
                "updated_at": row["LastModifiedDate"],
                "urls": _urls(base, session.user),
            }
        )

    async def _identity(self, request: Request) -> Response:
        session = self._signed_in(request)
        if session is None:
            return Response("Bad_OAuth_Token", 403, media_type="text/html;charset=UTF-8")
        org, user = request.path_params["org"], request.path_params["user"]
        if org[:15] != self._org.id[:15] or user[:15] != session.user[:15]:
            return Response(
                "Wrong_Org" if org[:15] != self._org.id[:15] else "Bad_Id", 403, media_type="text/html;charset=UTF-8"
            )
        row, base = self._org.tables["User"].rows[session.user], instance(request)
        return _json(
            {
                "id": f"{base}/id/{self._org.id}/{session.user}",
                "asserted_user": True,
                "user_id": session.user,
                "organization_id": self._org.id,
                "username": row["Username"],
                "nick_name": row["Alias"],
                "display_name": row["Name"],
                "email": row["Email"],
                "email_verified": True,
                "first_name": row["FirstName"],
                "last_name": row["LastName"],
                "timezone": row["TimeZoneSidKey"],
                "active": True,
                "user_type": "STANDARD",
                "language": row["LanguageLocaleKey"],
                "locale": row["LocaleSidKey"],
                "utcOffset": 0,
                "last_modified_date": row["LastModifiedDate"],
                "is_app_installed": True,
                "urls": _urls(base, session.user),
            }
        )

    def _signed_in(self, request: Request) -> Session | None:
        token = token_of(request.headers.get("authorization", "")) or request.query_params.get("access_token", "")
        return self.sessions.find(token)


def token_of(header: str) -> str | None:
    """Return the access token of an Authorization header, whichever of the two words stands before it."""
    word, _, token = header.partition(" ")
    return token.strip() if word.lower() in {"bearer", "oauth"} and token.strip() else None


def instance(request: Request) -> str:
    """Return the address under which the client knows the org."""
    return f"{request.url.scheme}://{request.headers.get('host', request.url.netloc)}"


def _urls(base: str, user: str) -> dict[str, str]:
    data = f"{base}/services/data/v{{version}}/"
    return {
        "rest": data,
        "sobjects": f"{data}sobjects/",
        "query": f"{data}query/",
        "search": f"{data}search/",
        "recent": f"{data}recent/",
        "custom_domain": base,
        "profile": f"{base}/{user}",
    }


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


def _basic(request: Request) -> tuple[str, str] | None:
    word, _, value = request.headers.get("authorization", "").partition(" ")
    if word.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, secret


def _json(data: Any) -> Response:
    return answer(data, headers={"cache-control": "no-store", "pragma": "no-cache"})


def _denied(denied: Denied) -> Response:
    return answer({"error": denied.error, "error_description": denied.description}, denied.status)


def _back(redirect: str, given: dict[str, str]) -> Response:
    joint = "&" if "?" in redirect else "?"
    return RedirectResponse(f"{redirect}{joint}{urlencode(given)}", 302)
