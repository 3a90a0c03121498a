"""The paths of the directory: token, authorize, discovery documents and keys."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from simulators.base import Simulator, answer
from simulators.dynamics.tokens import AadError, App, Directory, Grant

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
_RESERVED = frozenset({"openid", "profile", "email", "offline_access"})


class SigningIn:
    """Answers for the directory. ``organisation`` is the host under which the environment is known besides loopback."""

    def __init__(self, simulator: Simulator, directory: Directory, organisation: str) -> None:
        self._simulator = simulator
        self._directory = directory
        self._organisation = organisation

    def routes(self) -> Sequence[BaseRoute]:
        """Return the paths."""
        return [
            Route("/{tenant}/oauth2/v2.0/token", self._token, methods=["POST"]),
            Route("/{tenant}/oauth2/token", self._token, methods=["POST"]),
            Route("/{tenant}/oauth2/v2.0/authorize", self._authorize, methods=["GET", "POST"]),
            Route("/{tenant}/v2.0/.well-known/openid-configuration", self._configuration),
            Route("/{tenant}/.well-known/openid-configuration", self._configuration),
            Route("/{tenant}/discovery/instance", self._instances),
            Route("/{tenant}/discovery/v2.0/keys", self._keys),
        ]

    # Tokens.

    async def _token(self, request: Request) -> Response:
        try:
            form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
            _basic(request, form)
            return answer(self._granted(request, form), headers={"Cache-Control": "no-store", "Pragma": "no-cache"})
        except AadError as error:
            return answer(error.body(self._simulator.clock), error.status)

    def _granted(self, request: Request, form: dict[str, str]) -> dict[str, Any]:
        tenant = request.path_params["tenant"]
        self._at(tenant)
        directory = self._directory
        kind = form.get("grant_type", "")
        if not kind:
            raise AadError(
                "invalid_request", 900144, "The request body must contain the following parameter: 'grant_type'."
            )
        app = directory.app(form.get("client_id", ""))
        if self._simulator.faults.take("revoke", "POST", request.url.path) is not None:
            directory.revoke()
            if kind == "refresh_token":
                raise AadError(
                    "invalid_grant",
                    50173,
                    "The provided grant has expired due to it being revoked, a fresh auth token is needed.",
                )
            raise AadError(
                "invalid_client",
                7000222,
                f"The provided client secret keys for app '{app.client_id}' are expired. Visit the Azure portal to create new keys for your app.",
                401,
            )
        if kind == "client_credentials":
            directory.prove(app, form.get("client_secret", ""))
            scope, resource = self._resource(form, app_only=True)
            return self._bearer(directory.issue(Grant(app.client_id, app.user, 0.0, scope), resource), {})
        if kind == "authorization_code":
            self._prove_if_confidential(app, form)
            grant = directory.redeem(
                form.get("code", ""), app, form.get("redirect_uri", ""), form.get("code_verifier", "")
            )
        elif kind == "refresh_token":
            self._prove_if_confidential(app, form)
            grant = directory.refreshed(form.get("refresh_token", ""), app)
        else:
            raise AadError(
                "unsupported_grant_type",
                70003,
                f"The app requested an unsupported grant type '{kind}'.",
            )
        scope, resource = self._resource({"scope": form.get("scope") or grant.scope})
        more: dict[str, Any] = {"scope": scope}
        issued = Grant(app.client_id, grant.user, 0.0, scope, delegated=True)
        if "offline_access" in grant.scope.split() or kind == "refresh_token":
            more["refresh_token"] = directory.refreshable(grant)
        if "openid" in grant.scope.split():
            more["id_token"] = directory.id_token(grant, f"{_origin(request)}/{directory.tenant}/v2.0")
        return self._bearer(directory.issue(issued, resource), more)

    def _bearer(self, token: str, more: dict[str, Any]) -> dict[str, Any]:
        seconds = self._directory.access_s
        return {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token, **more}

    def _at(self, tenant: str) -> None:
        if not self._directory.knows(tenant):
            raise AadError(
                "invalid_request",
                90002,
                f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the "
                "correct cloud. Check with your subscription administrator, this may happen if there are no active "
                "subscriptions for the tenant.",
            )

    def _prove_if_confidential(self, app: App, form: dict[str, str]) -> None:
        """A public client (a desktop tool) proves itself by PKCE alone; one with a secret must be right."""
        if "client_secret" in form or not form.get("code_verifier"):
            self._directory.prove(app, form.get("client_secret", ""))

    def _resource(self, form: dict[str, str], *, app_only: bool = False) -> tuple[str, str]:
        """Return scope and resource. Raises AadError if it is not this environment that is asked for."""
        if "resource" in form and "scope" not in form:
            scopes = [f"{form['resource'].rstrip('/')}/.default"]
        else:
            scopes = [s for s in form.get("scope", "").split() if s not in _RESERVED]
        if not scopes:
            raise AadError("invalid_request", 900144, "The request body must contain the following parameter: 'scope'.")
        resource, _, permission = scopes[0].rpartition("/")
        resource = resource.rstrip("/")
        if app_only and permission != ".default":
            raise AadError(
                "invalid_scope",
                1002012,
                f"The provided value for scope {scopes[0]} is not valid. Client credential flows must have a scope value "
                "with /.default suffixed to the resource identifier (application ID URI).",
            )
        host = (urlsplit(resource).hostname or "").lower()
        if host not in _LOOPBACK and host != self._organisation:
            raise AadError(
                "invalid_resource",
                500011,
                f"The resource principal named {resource} was not found in the tenant named {self._directory.domain}.",
            )
        return form.get("scope", scopes[0]), resource

    # The page where people sign in.

    async def _authorize(self, request: Request) -> Response:
        given = dict(request.query_params)
        if request.method == "POST":
            given |= dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        redirect = given.get("redirect_uri", "")
        try:
            self._at(request.path_params["tenant"])
            app = self._directory.app(given.get("client_id", ""))
            if redirect not in app.redirects and urlsplit(redirect).hostname not in _LOOPBACK:
                raise AadError(
                    "invalid_request",
                    50011,
                    f"The redirect URI '{redirect}' specified in the request does not match the redirect URIs configured "
                    f"for the application '{app.client_id}'.",
                )
        except AadError as error:  # whom to send back to is not sure: the error stays on the page
            return HTMLResponse(f"<h1>Sign in</h1><p>AADSTS{error.number}: {escape(error.text)}</p>", 400)
        out = {"state": given["state"]} if "state" in given else {}
        try:
            if given.get("response_type", "code") != "code":
                raise AadError(
                    "unsupported_response_type", 700054, "Only response_type 'code' is enabled for the application."
                )
            if self._simulator.faults.take("denied", "GET", request.url.path) is not None:
                raise AadError("access_denied", 65004, "User declined to consent to access the app.")
            scope, _ = self._resource(given)
            method = given.get("code_challenge_method", "plain") if given.get("code_challenge") else ""
            if method not in ("", "plain", "S256"):
                raise AadError("invalid_request", 501491, "Invalid size or method of Code_Challenge parameter.")
            grant = Grant(
                app.client_id,
                self._directory.person,
                0.0,
                scope,
                delegated=True,
                challenge=given.get("code_challenge", ""),
                method=method,
                redirect=redirect,
                nonce=given.get("nonce", ""),
            )
            out = {"code": self._directory.code(grant), **out, "session_state": self._directory.person}
        except AadError as error:
            body = error.body(self._simulator.clock)
            out = {"error": body["error"], "error_description": body["error_description"], **out}
        return _sent_back(redirect, out, given.get("response_mode", "query"))

    # Documents.

    async def _configuration(self, request: Request) -> Response:
        tenant = request.path_params["tenant"]
        try:
            self._at(tenant)
        except AadError as error:
            return answer(error.body(self._simulator.clock), error.status)
        base = f"{_origin(request)}/{tenant}"
        return answer(
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "token_endpoint_auth_methods_supported": [
                    "client_secret_post",
                    "client_secret_basic",
                    "private_key_jwt",
                ],
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "response_modes_supported": ["query", "fragment", "form_post"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["code"],
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
                "issuer": f"{_origin(request)}/{self._directory.tenant}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "http_logout_supported": True,
                "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "tid", "oid", "preferred_username"],
                "tenant_region_scope": "EU",
            }
        )

    async def _instances(self, request: Request) -> Response:
        host = request.headers.get("host", "localhost")
        tenant = self._directory.tenant
        return answer(
            {
                "tenant_discovery_endpoint": f"{_origin(request)}/{tenant}/v2.0/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
            }
        )

    async def _keys(self, _: Request) -> Response:
        return answer({"keys": [self._directory.key().as_dict(private=False)]})


def _origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers.get('host', 'localhost')}"


def _basic(request: Request, form: dict[str, str]) -> None:
    """Take client id and secret from the Authorization header, where some clients put them."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        name, _, secret = base64.b64decode(value).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise AadError("invalid_client", 7000215, "Invalid client secret provided.", 401) from error
    form.setdefault("client_id", unquote(name))
    form.setdefault("client_secret", unquote(secret))


def _sent_back(redirect: str, out: dict[str, str], mode: str) -> Response:
    if mode == "form_post":
        fields = "".join(f'<input type="hidden" name="{escape(n)}" value="{escape(v)}">' for n, v in out.items())
        page = f'<form method="post" action="{escape(redirect)}">{fields}</form><script>document.forms[0].submit()</script>'
        return HTMLResponse(page)
    mark = "#" if mode == "fragment" else ("&" if "?" in redirect else "?")
    return RedirectResponse(f"{redirect}{mark}{urlencode(out)}", 302)
