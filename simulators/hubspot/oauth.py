"""OAuth: the consent page's redirect, tokens in three spellings of the same endpoint, introspection, revocation, private apps."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import Refused
from simulators.hubspot.paths import DATED, paths
from simulators.hubspot.portal import Portal
from simulators.hubspot.tokens import Access, Grant

FAULTS = {"authorize_denied": "the user refuses the app: the browser comes back with error=access_denied"}


def _bad(status: str, message: str) -> Refused:
    """Return an error of the token endpoint: its `status` is the code."""
    error = Refused(400, message)
    error.more["status"] = status
    return error


class OAuth:
    """Handlers of OAuth; they need no bearer token and count against no limit."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def routes(self) -> list[Route]:
        """Return the paths."""
        dated = f"/oauth/{DATED}/token"
        return [
            Route("/oauth/authorize", self._authorize),
            Route("/oauth/{portal_id:int}/authorize", self._authorize),
            Route("/oauth/v1/token", self._plain_token, methods=["POST"]),
            *paths(self._full_token, "POST", "/oauth/v3/token", dated),
            *paths(self._introspect, "POST", "/oauth/v3/token/introspect", f"{dated}/introspect"),
            *paths(self._revoke, "POST", "/oauth/v3/token/revoke", f"{dated}/revoke"),
            Route("/oauth/v1/access-tokens/{token}", self._access_token),
            Route("/oauth/v1/refresh-tokens/{token}", self._refresh_token, methods=["GET", "DELETE"]),
            Route("/oauth/v2/private-apps/get/access-token-info", self._private, methods=["POST"]),
        ]

    async def _authorize(self, request: Request) -> Response:
        """Send the browser back at once: the user agrees, unless a fault says otherwise."""
        query, tokens = request.query_params, self._portal.tokens
        target, state = query.get("redirect_uri", ""), query.get("state")
        if query.get("client_id") != tokens.options.client_id or urlsplit(target).scheme not in ("http", "https"):
            return HTMLResponse(
                "<h1>Authorization failed</h1><p>The client id or the redirect URI is not that of the app.</p>", 400
            )
        wanted = frozenset(query.get("scope", "").split())
        optional = frozenset(query.get("optional_scope", "").split())
        back: dict[str, str] = {} if state is None else {"state": state}
        if self._portal.faults.take("authorize_denied", request.method, request.url.path) is not None:
            back |= {"error": "access_denied", "error_description": "The user denied the request"}
        elif missing := wanted - tokens.app_scopes:
            back |= {
                "error": "invalid_scope",
                "error_description": f"The app does not have {' '.join(sorted(missing))}",
            }
        else:
            granted = (wanted | (optional & tokens.app_scopes) | {"oauth"}) if wanted else tokens.app_scopes
            method = query.get("code_challenge_method", "plain")
            back |= {"code": tokens.code(target, granted, query.get("code_challenge"), method)}
        return RedirectResponse(f"{target}{'&' if urlsplit(target).query else '?'}{urlencode(back)}", 302)

    async def _plain_token(self, request: Request) -> Response:
        return await self._token(request, full=False)

    async def _full_token(self, request: Request) -> Response:
        return await self._token(request, full=True)

    async def _token(self, request: Request, *, full: bool) -> Response:
        try:
            return answer(self._issued(await _form(request), full=full))
        except Refused as error:
            return error.response()

    def _issued(self, form: dict[str, str], *, full: bool) -> dict[str, Any]:
        tokens = self._portal.tokens
        self._client(form)
        match form.get("grant_type"):
            case "refresh_token":
                refresh = form.get("refresh_token", "")
                grant = tokens.refresh.get(refresh)
                if grant is None or grant.revoked:
                    raise _bad("BAD_REFRESH_TOKEN", "missing or invalid refresh token")
            case "authorization_code":
                refresh, grant = self._redeemed(form)
            case "client_credentials" if full:
                grant = Grant(tokens.options.app_id, frozenset(form.get("scope", "").split()), 0, developer=True)
                return self._body(grant, None, full=True)
            case other:
                raise _bad("BAD_GRANT_TYPE", f"missing or unknown grant type {other or ''}".strip())
        return self._body(grant, refresh, full=full)

    def _body(self, grant: Grant, refresh: str | None, *, full: bool) -> dict[str, Any]:
        """Return the answer. A refresh token stays what it was: it does not rotate."""
        tokens, options = self._portal.tokens, self._portal.options
        body: dict[str, Any] = {"token_type": "bearer", "access_token": tokens.issue(grant)}
        if refresh is not None:
            body["refresh_token"] = refresh
        body["expires_in"] = int(options.token_life_s)
        if full:
            body["token_use"] = "client_credentials" if refresh is None else "access_token"
            body["scopes"] = sorted(grant.scopes)
            if refresh is not None:
                body |= {"hub_id": options.portal_id, "user_id": grant.user_id}
        return body

    def _redeemed(self, form: dict[str, str]) -> tuple[str, Grant]:
        tokens = self._portal.tokens
        code = tokens.codes.pop(form.get("code", ""), None)
        if code is None or code.expires_at <= self._portal.clock.now():
            raise _bad("BAD_AUTH_CODE", "missing or unknown auth code")
        if form.get("redirect_uri") != code.redirect_uri:
            raise _bad("MISMATCH_REDIRECT_URI_AUTH_CODE", "redirect URI does not match the one of the auth code")
        if code.challenge is not None:
            verifier = form.get("code_verifier", "")
            if code.method == "S256":
                digest = hashlib.sha256(verifier.encode()).digest()
                verifier = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if not hmac.compare_digest(verifier, code.challenge):
                raise _bad("BAD_CODE_VERIFIER", "missing or wrong code verifier")
        refresh = tokens.install(code.scopes)
        return refresh, tokens.refresh[refresh]

    def _client(self, form: dict[str, str]) -> None:
        options = self._portal.options
        if form.get("client_id") != options.client_id:
            raise _bad("BAD_CLIENT_ID", "missing or unknown client id")
        if not hmac.compare_digest(form.get("client_secret", "").encode(), options.client_secret.encode()):
            raise _bad("BAD_CLIENT_SECRET", "missing or invalid client secret")

    async def _access_token(self, request: Request) -> Response:
        token = request.path_params["token"]
        access = self._portal.tokens.access.get(token)
        if access is None or not self._lives(access) or access.grant.private or access.grant.developer:
            return Refused(404, "Access token not found", "OBJECT_NOT_FOUND").response()
        return answer(
            {"token": token, **self._about(access.grant), "expires_in": self._left_s(access), "token_type": "access"}
        )

    async def _refresh_token(self, request: Request) -> Response:
        token = request.path_params["token"]
        grant = self._portal.tokens.refresh.get(token)
        if grant is None or grant.revoked:
            return Refused(404, "Refresh token not found", "OBJECT_NOT_FOUND").response()
        if request.method == "DELETE":
            del self._portal.tokens.refresh[token]
            return Response(status_code=204)
        about = {**self._about(grant), "client_id": self._portal.options.client_id, "token_type": "refresh"}
        return answer({"token": token, **about})

    async def _introspect(self, request: Request) -> Response:
        form = await _form(request)
        try:
            self._client(form)
        except Refused as error:
            return error.response()
        token, tokens = form.get("token", ""), self._portal.tokens
        about: dict[str, Any] = {"token": token, "client_id": self._portal.options.client_id}
        access, grant = tokens.access.get(token), tokens.refresh.get(token)
        if access is not None and self._lives(access) and not access.grant.private:
            use = {"token_type": "bearer", "token_use": "access_token", "is_private_distribution": False}
            signed = self._signed(access)
            own = self._about(access.grant)
            return answer(
                {
                    **about,
                    **own,
                    **use,
                    "active": True,
                    "expires_in": self._left_s(access),
                    "signed_access_token": signed,
                }
            )
        if grant is not None and not grant.revoked:
            return answer(
                {**about, **self._about(grant), "active": True, "token_type": "bearer", "token_use": "refresh_token"}
            )
        return answer({"active": False, "token": token})

    async def _revoke(self, request: Request) -> Response:
        form = await _form(request)
        try:
            self._client(form)
        except Refused as error:
            return error.response()
        tokens, token = self._portal.tokens, form.get("token", "")
        tokens.refresh.pop(token, None)
        access = tokens.access.get(token)
        if access is not None and not access.grant.private and not access.grant.developer:
            del tokens.access[token]
        return answer({})

    async def _private(self, request: Request) -> Response:
        key = _member(await request.body(), "tokenKey")
        access = self._portal.tokens.access.get(key)
        if access is None or access.grant.revoked or not access.grant.private:
            return Refused(404, "Access token not found", "OBJECT_NOT_FOUND").response()
        grant, options = access.grant, self._portal.options
        scopes = sorted(grant.scopes)
        return answer({"userId": grant.user_id, "hubId": options.portal_id, "appId": grant.app_id, "scopes": scopes})

    def _about(self, grant: Grant) -> dict[str, Any]:
        options = self._portal.options
        return {
            "user": "ada@example.com",
            "hub_domain": f"portal-{options.portal_id}.example.com",
            "scopes": sorted(grant.scopes),
            "hub_id": options.portal_id,
            "app_id": grant.app_id,
            "user_id": grant.user_id,
        }

    def _signed(self, access: Access) -> dict[str, Any]:
        options, grant = self._portal.options, access.grant
        return {
            "expiresAt": int((access.expires_at or 0) * 1000),
            "scopes": " ".join(sorted(grant.scopes)),
            "hubId": options.portal_id,
            "userId": grant.user_id,
            "appId": grant.app_id,
            "signature": "",
            "scopeToScopeGroupPks": "",
            "newSignature": "",
            "hublet": "na1",
            "trialScopes": "",
            "trialScopeToScopeGroupPks": "",
            "isUserLevel": False,
            "installingUserId": grant.user_id,
            "isServiceAccount": False,
            "isPrivateDistribution": False,
        }

    def _lives(self, access: Access) -> bool:
        if access.grant.revoked:
            return False
        return access.expires_at is None or access.expires_at > self._portal.clock.now()

    def _left_s(self, access: Access) -> int:
        return max(int((access.expires_at or 0.0) - self._portal.clock.now()), 0)


async def _form(request: Request) -> dict[str, str]:
    """Return what was sent, as a form or (as one of the vendor's own clients does) as JSON."""
    if request.headers.get("content-type", "").lower().startswith("application/json"):
        try:
            sent = msgspec.json.decode(await request.body())
        except msgspec.DecodeError:
            return {}
        return {str(n): str(v) for n, v in sent.items() if v is not None} if isinstance(sent, dict) else {}
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


def _member(raw: bytes, name: str) -> str:
    try:
        sent = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return ""
    return str(sent.get(name, "")) if isinstance(sent, dict) else ""
