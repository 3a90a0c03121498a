"""Have a person sign in at a vendor and keep what comes of it: the authorisation-code flow with PKCE.

Sources: RFC 6749 section 4.1, RFC 7636 (PKCE, S256), RFC 8252 (loopback redirects), RFC 9700 (one state per request).
A vendor tells its part by an entry point of the group ``tidelock.apis``, named after the connector's kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable
from urllib.parse import parse_qs, urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tidelock.config import SystemSpec
from tidelock.errors import Fatal, Revoked
from tidelock.grants import Where, ask, need, where
from tidelock.httperrors import scrub
from tidelock.tenants import Tenant
from tidelock.tls import trust

GROUP = "tidelock.apis"
PATH = "/callback"
_TIMEOUT_S = 30.0


@runtime_checkable
class Vendor(Protocol):
    """What a vendor tells of having a person sign in. `SignIn` is enough for most."""

    def request(self, tenant: Tenant) -> tuple[str, Mapping[str, str]]:
        """Return the address that the person opens, and parameters of it (``client_id``, ``scope``, …) beside those of the flow."""
        ...

    def exchange(self, tenant: Tenant, client: httpx.Client, form: Mapping[str, str]) -> Mapping[str, str]:
        """Exchange the code in a form for credentials, and return those that are to be kept. Raises Revoked, Retry or Fatal."""
        ...


@dataclass(frozen=True)
class SignIn:
    """A vendor that keeps to the standards. ``keep`` says which fields of the answer are kept under which names of credentials."""

    authorise_url: Where
    token_url: Where
    scopes: tuple[str, ...] | Callable[[Tenant], tuple[str, ...]] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    client_id: str = "client_id"
    client_secret: str = "client_secret"  # noqa: S105 - the name under which it is kept
    keep: Mapping[str, str] = field(default_factory=lambda: {"refresh_token": "refresh_token"})

    def request(self, tenant: Tenant) -> tuple[str, Mapping[str, str]]:
        """Return the vendor's address with the application's id and what it asks for."""
        scopes = self.scopes(tenant) if callable(self.scopes) else self.scopes
        asked = {"scope": " ".join(scopes)} if scopes else {}
        return where(self.authorise_url, tenant), {
            "client_id": need(tenant, self.client_id),
            **asked,
            **self.parameters,
        }

    def exchange(self, tenant: Tenant, client: httpx.Client, form: Mapping[str, str]) -> Mapping[str, str]:
        """Exchange the code. Raises Revoked, Retry, or Fatal if the answer holds nothing that can be kept."""
        own = {"client_id": need(tenant, self.client_id)}
        if tenant.credentials.get(self.client_secret):
            own["client_secret"] = tenant.credentials[self.client_secret]
        answer = ask(
            client,
            tenant,
            where(self.token_url, tenant),
            {**form, **own},
            hint="run the command again; if it is refused again, compare the redirect address and the application's id with the vendor's settings",
        )
        missing = [name for name in self.keep if not isinstance(answer.get(name), str) or not answer[name]]
        if missing:
            raise Fatal(
                f"{tenant.path}: the sign-in gave no {', '.join(missing)}",
                hint="allow the application offline access at the vendor (often a scope: refresh_token, offline_access), then connect again",
            )
        return {credential: str(answer[name]) for name, credential in self.keep.items()}


def vendor_of(spec: SystemSpec) -> Vendor:
    """Return how a person signs in at a system: as its connector says, or as the options of the system say. Raises Fatal."""
    options = spec.options
    if options.get("authorise_url") and options.get("token_url"):
        scopes = options.get("scopes", ())
        listed = scopes.split() if isinstance(scopes, str) else scopes
        return SignIn(str(options["authorise_url"]), str(options["token_url"]), tuple(str(s) for s in listed))
    for kind in dict.fromkeys((spec.kind, spec.capture)):
        for point in entry_points(group=GROUP, name=kind):
            found = point.load()
            if isinstance(found, Vendor):
                return found
    raise Fatal(
        f"nothing says how a person signs in at a system of kind {spec.kind}",
        hint="set the options `authorise_url`, `token_url` and `scopes` of the system, or store credentials with `tidelock tenants set`",
    )


class Connecting:
    """One sign-in: the address to open, and what to do with the answer. It is good for one answer."""

    def __init__(self, tenant: Tenant, vendor: Vendor, redirect: str) -> None:
        self._tenant = tenant
        self._vendor = vendor
        self._redirect = redirect
        self._state = secrets.token_urlsafe(32)
        self._verifier = secrets.token_urlsafe(64)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self._verifier.encode()).digest()).rstrip(b"=").decode()
        address, own = vendor.request(tenant)
        self.url = str(
            httpx.URL(address).copy_merge_params(
                {
                    "response_type": "code",
                    **own,
                    "redirect_uri": redirect,
                    "state": self._state,
                    "code_challenge": challenge,
                    "code_challenge_method": "S256",
                }
            )
        )

    def ours(self, query: Mapping[str, str]) -> bool:
        """Return whether an answer belongs to this sign-in: whoever did not see its address cannot know the state."""
        return hmac.compare_digest(query.get("state", "").encode(), self._state.encode())

    def finish(self, query: Mapping[str, str]) -> Mapping[str, str]:
        """Return the credentials that the answer of the vendor stands for. Raises Fatal, Revoked or Retry."""
        if not self.ours(query):
            raise Fatal(
                f"{self._tenant.path}: the answer belongs to another sign-in",
                hint="open the address that this command printed, not an earlier one",
            )
        if "code" not in query:
            said = query.get("error_description") or query.get("error") or "no reason was given"
            said = scrub(" ".join(said.split())[:300], self._tenant.credentials)
            raise Revoked(
                f"{self._tenant.path}: the vendor did not let the person through: {said}",
                hint="sign in as somebody who may allow the application access, and see the application's settings at the vendor",
            )
        form = {
            "grant_type": "authorization_code",
            "code": query["code"],
            "redirect_uri": self._redirect,
            "code_verifier": self._verifier,
        }
        with httpx.Client(verify=trust(self._tenant), timeout=_TIMEOUT_S) as client:
            return self._vendor.exchange(self._tenant, client, form)


def query_of(address: str) -> dict[str, str]:
    """Return the parameters of an address that somebody has copied out of the browser."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address.strip()).query).items()}


_DONE = "<!doctype html><meta charset=utf-8><title>tidelock</title><p>tidelock has what it needs. This window can be closed."
_OTHER = "<!doctype html><meta charset=utf-8><title>tidelock</title><p>This answer belongs to another sign-in. Open the address anew that the command printed."
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'",
}


class Receiver:
    """A server on this machine's own address that takes the one answer which ``ours`` knows, and lets all others wait for it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ours: Callable[[Mapping[str, str]], bool] = lambda _: False
        self._answer: dict[str, str] | None = None
        self._come = threading.Event()
        self._lock = threading.Lock()
        app = Starlette(routes=[Route(PATH, self._callback, methods=["GET"])])
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", access_log=False, lifespan="off",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._failed: str | None = None

    def __enter__(self) -> Self:
        """Start it. Raises Fatal if the port is taken."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.02)
        if not self._server.started:
            raise Fatal(
                f"cannot listen on port {self._port} of this machine",
                hint="another program has it: choose one with --port",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10.0)

    @property
    def redirect(self) -> str:
        """Return the address that the vendor sends the browser to."""
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://localhost:{port}{PATH}"

    def wait(self, ours: Callable[[Mapping[str, str]], bool], timeout_s: float) -> dict[str, str] | None:
        """Return the parameters of the answer; None if it has not come in time."""
        self._ours = ours
        self._come.wait(timeout_s)
        return self._answer

    def _serve(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # uvicorn's way of saying that the port is taken
            return

    async def _callback(self, request: Request) -> HTMLResponse:
        query: dict[str, Any] = dict(request.query_params)
        if not self._ours(query):
            return HTMLResponse(_OTHER, 400, _HEADERS)
        with self._lock:
            if self._answer is None:
                self._answer = query
                self._come.set()
                return HTMLResponse(_DONE, 200, _HEADERS)
        return HTMLResponse(_OTHER, 410, _HEADERS)
