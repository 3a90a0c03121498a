"""The one HTTP client for APIs: it signs in, keeps the tenant's limits, sends again what may be sent again, and says what went wrong.

What may be sent again: a call that cannot have happened (no connection, refused by a limit) always; one that may have happened (connection
broken, 5xx) only if it is harmless, which ``repeat`` says. A call that changes something and whose answer was lost is `Lost`.
"""

from __future__ import annotations

import itertools
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from tidelock import __version__
from tidelock.apis.judging import Answer, sentence
from tidelock.auth import Grant, Token, Tokens
from tidelock.errors import Fatal, Lost, Retry, Revoked, TidelockError
from tidelock.httperrors import place, retry_after_s, scrub
from tidelock.limits import Limits
from tidelock.tenants import Tenant
from tidelock.tls import trust
from tidelock.tracing import Tracing

__all__ = ["Answer", "ApiClient", "bearer"]

# Its lines repeat addresses with everything behind the question mark.
logging.getLogger("httpx").setLevel(logging.WARNING)

_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_ATTEMPTS = 5
_PAUSE_S = (0.2, 5.0)  # the first one and the longest; each is drawn between half of it and all of it
_WAITED_S = 15.0  # longer waits are the worker's: it can do something else, or end
_LIMITED_S = 1.0  # after a 429 that does not say how long
_KEPT_S = (
    4.0  # idle connections: many servers close theirs after five seconds, and a call on one just closed would be lost
)
_ENCODER = msgspec.json.Encoder(decimal_format="number")

E = TypeVar("E", bound=TidelockError)
Judge = Callable[[Answer, str], TidelockError | None]
Verify = ssl.SSLContext | str | bool | None
OnCall = Callable[[str, int, float], None]


def bearer(token: Token) -> Mapping[str, str]:
    """Return the header that RFC 6750 describes."""
    return {"Authorization": f"Bearer {token.value}"}


class ApiClient:
    """Call one tenant's API. Safe to use from several threads; ``close`` closes connections and gives back permits.

    ``base_url`` may depend on the token (an instance that the sign-in names). ``judge`` translates answers from status 300 on that are not
    in ``ok``: what it returns is raised, and with None the caller gets the answer. It is asked before anything is sent again: a Retry for a
    status below 500 says that the call was not carried out, and its ``retry_after_s`` holds for all workers of the tenant.
    ``verify`` is a file of certificates or a context; without it the option `ca` of the tenant decides. ``on_call`` is told name, status
    (0: no answer) and seconds of every request.
    """

    def __init__(
        self,
        tenant: Tenant,
        *,
        base_url: str | Callable[[Token], str],
        grant: Grant,
        tokens: Tokens,
        limits: Limits,
        judge: Judge,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        verify: Verify = None,
        authorise: Callable[[Token], Mapping[str, str]] = bearer,
        on_call: OnCall | None = None,
        tracing: Tracing | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.tenant = tenant
        self._base_url = base_url
        self._grant = grant
        self._tokens = tokens
        self.limits = limits
        self._judge = judge
        self._authorise = authorise
        self._on_call = on_call
        self._tracing = tracing
        self._stop = stop or threading.Event()
        context = trust(tenant) if verify is None or verify is True else verify
        if isinstance(context, str):
            context = ssl.create_default_context(cafile=context)
        self._http = httpx.Client(
            verify=context,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            headers={"User-Agent": f"tidelock/{__version__}", **(headers or {})},
            limits=httpx.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=_KEPT_S),
        )

    def close(self) -> None:
        """Close connections, give back permits."""
        self._http.close()
        self.limits.close()

    def token(self) -> Token:
        """Return the token in use, for what its answer told (``extra``). Raises Revoked or Retry."""
        return self._tokens.get(self.tenant, self._grant)

    def send(
        self,
        method: str,
        path_or_url: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool | None = None,
        cost: int = 1,
        urgent: bool = False,
        ok: Container[int] = (),
        name: str | None = None,
    ) -> Answer:
        """Send one call and return its answer.

        ``path_or_url`` is put behind ``base_url``, or is a whole URL on the same server. ``repeat``: the call is harmless when it happens
        twice; by default GET, HEAD, PUT and DELETE are. ``cost`` and ``urgent`` are for the limits; ``name`` is the call's name in metrics and
        traces, the method unless given. Raises Retry, Lost, Revoked, or what ``judge`` makes of the answer.
        """
        harmless = method in _REPEATABLE if repeat is None else repeat
        more = dict(headers or {})
        if json is not None:
            content = _ENCODER.encode(json)
            more.setdefault("Content-Type", "application/json")
        token, renewed = self.token(), False
        for attempt in itertools.count(1):
            url = self._url(path_or_url, token, params)
            what = f"{method} {place(url)}"
            request = self._http.build_request(method, url, content=content, headers={**more, **self._authorise(token)})
            again, trouble = self._attempt(
                request, what, harmless, token, cost=cost, urgent=urgent, ok=ok, name=name or method
            )
            if isinstance(trouble, Answer):
                if trouble.status != 401 or 401 in ok:
                    return trouble
                if renewed:
                    raise self._refused(trouble, what, token)
                token, renewed = self._tokens.get(self.tenant, self._grant, refused=token.value), True
                continue
            pause_s = _pause_s(attempt) if trouble.retry_after_s is None else trouble.retry_after_s
            if not again or attempt >= _ATTEMPTS or pause_s > _WAITED_S or self._stop.wait(pause_s):
                raise trouble
        raise AssertionError("the loop ends by returning or raising")

    # ------------------------------------------------------------------------------------------------ one request

    def _attempt(
        self,
        request: httpx.Request,
        what: str,
        harmless: bool,
        token: Token,
        *,
        cost: int,
        urgent: bool,
        ok: Container[int],
        name: str,
    ) -> tuple[bool, Answer | Retry]:
        """Send it once. Return the answer, or a trouble that passes and whether the call may be sent again."""
        with self.limits.acquire(cost, urgent=urgent):
            try:
                answer = self._exchange(request, name)
            except httpx.RequestError as error:
                return harmless or isinstance(error, _NEVER_SENT), self._broken(error, what, harmless, token)
        if answer.status < 300 or answer.status == 401 or answer.status in ok:
            return False, answer
        verdict = self._judge(answer, what)
        if isinstance(verdict, TidelockError):
            self._clean(verdict, token)
        if isinstance(verdict, Revoked):
            self._tokens.revoke(self.tenant, verdict.message)
            raise verdict
        if isinstance(verdict, Lost) or (verdict is not None and not isinstance(verdict, Retry)):
            raise verdict
        asked_s = retry_after_s(answer.headers)
        if answer.status >= 500:
            return self._server_trouble(answer, what, verdict, harmless, asked_s, token)
        if answer.status != 429 and verdict is None:
            return False, answer
        trouble = verdict or self._clean(Retry(sentence(answer, what), hint="tried again by itself"), token)
        if trouble.retry_after_s is None:
            trouble.retry_after_s = _LIMITED_S if answer.status == 429 and asked_s is None else asked_s
        if trouble.retry_after_s is not None:
            self.limits.observed(retry_after_s=trouble.retry_after_s)
        return True, trouble

    def _server_trouble(
        self, answer: Answer, what: str, verdict: Retry | None, harmless: bool, asked_s: float | None, token: Token
    ) -> tuple[bool, Retry]:
        refused = answer.status == 503 and asked_s is not None  # it says itself that it has not begun
        if asked_s is not None:
            self.limits.observed(retry_after_s=asked_s)
        if harmless or refused:
            trouble = verdict or self._clean(Retry(sentence(answer, what), hint="tried again by itself"), token)
            trouble.retry_after_s = trouble.retry_after_s if trouble.retry_after_s is not None else asked_s
            return True, trouble
        return False, self._clean(
            Lost(
                f"{sentence(answer, what)}; it may have been carried out all the same",
                hint="it is looked up before it is sent again",
                retry_after_s=asked_s,
            ),
            token,
        )

    def _exchange(self, request: httpx.Request, name: str) -> Answer:
        start, began, status, failure = time.time_ns() // 1000, time.monotonic(), 0, None
        try:
            response = self._http.send(request)
            status = response.status_code
            return Answer(status, response.headers, response.content)
        except httpx.RequestError as error:
            failure = type(error).__name__
            raise
        finally:
            if self._on_call is not None:
                self._on_call(name, status, time.monotonic() - began)
            if self._tracing is not None and self._tracing.bound:
                attributes: dict[str, str | int] = {
                    "http.request.method": request.method,
                    "server.address": request.url.host,
                    "url.path": request.url.path,
                    "tidelock.system": self.tenant.system,
                    "tidelock.tenant": self.tenant.name,
                    **({"http.response.status_code": status} if status else {}),
                }
                if status >= 400:
                    failure = str(status)
                self._tracing.call(name, start, time.time_ns() // 1000, attributes, failure)

    # ------------------------------------------------------------------------------------------------ parts

    def _url(self, path_or_url: str, token: Token, params: Mapping[str, Any] | None) -> httpx.URL:
        """Return the whole address. Raises Fatal if it leads to another server than the tenant's: the token is not for that one."""
        base = self._base_url(token) if callable(self._base_url) else self._base_url
        try:
            root = httpx.URL(base)
            whole = "://" in path_or_url.partition("?")[0]
            url = httpx.URL(path_or_url if whole else f"{base.rstrip('/')}/{path_or_url.lstrip('/')}")
        except httpx.InvalidURL as error:
            raise Fatal(
                f"{self.tenant.path}: {place(base) or base!r} is no address of an API",
                hint=f"correct `url` of {self.tenant.path}: https://host",
            ) from error
        if not root.host or root.scheme not in ("http", "https"):
            raise Fatal(
                f"{self.tenant.path}: {base!r} is no address of an API",
                hint=f"correct `url` of {self.tenant.path}: https://host",
            )
        if (url.scheme, url.host, url.port) != (root.scheme, root.host, root.port):
            raise Fatal(
                f"{self.tenant.path}: an answer of {root.host} leads to {url.host}, which does not get the token of this tenant",
                hint=f"if the API has moved, set `url` of {self.tenant.path}",
            )
        return url.copy_merge_params(dict(params)) if params else url

    def _broken(self, error: httpx.RequestError, what: str, harmless: bool, token: Token) -> Retry:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, _NEVER_SENT):
            hint = f"check `url` of {self.tenant.path} and the network; tried again by itself"
            if "CERTIFICATE_VERIFY_FAILED" in said:
                hint = f"its certificate is not trusted: name the file of its authority in the option `ca` of {self.tenant.path}"
            return self._clean(Retry(f"{what}: no connection ({said})", hint=hint), token)
        if harmless:
            return self._clean(Retry(f"{what}: the connection broke ({said})", hint="tried again by itself"), token)
        return self._clean(
            Lost(
                f"{what}: the connection broke before the answer ({said}); it may have been carried out all the same",
                hint="it is looked up before it is sent again",
            ),
            token,
        )

    def _refused(self, answer: Answer, what: str, token: Token) -> Revoked:
        """Take note that the API refuses even a token it was just given."""
        error = Revoked(
            f"{self.tenant.path}: {sentence(answer, what)}, also with a new token",
            hint=f"correct its credentials, or its rights at the vendor; then `tidelock tenants enable {self.tenant.system} {self.tenant.name}`",
        )
        self._clean(error, token)
        self._tokens.revoke(self.tenant, error.message)
        return error

    def _clean(self, error: E, token: Token) -> E:
        """Strike secrets out of an error, whoever has quoted them."""
        error.message = scrub(error.message, self.tenant.credentials, (token.value,))
        error.args = (error.message, error.hint)
        return error


def _pause_s(attempt: int) -> float:
    first_s, most_s = _PAUSE_S
    return min(most_s, first_s * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
