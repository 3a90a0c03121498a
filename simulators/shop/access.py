"""Who may call the shop: API keys and OAuth client credentials, with expiry, revocation, rights and the limit of calls."""

from __future__ import annotations

import base64
import binascii
import hmac
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from starlette.requests import Request
from starlette.responses import Response

from simulators.base import Simulator, answer
from simulators.shop.problems import Problem
from simulators.shop.store import Writer

SCOPES = ("read", "write")


@dataclass(slots=True)
class Key:
    """An API key or an OAuth token: who it speaks for, what it may, until when."""

    name: str
    scopes: frozenset[str]
    expires: float | None = None
    revoked: bool = False
    calls: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """The window of the limit: when it began, calls in it."""


class Access:
    """The credentials of one shop. ``limit`` calls in ``window_s`` seconds are answered per credential; 0: any number."""

    def __init__(self, simulator: Simulator, seed: int, limit: int, window_s: float, token_life_s: float) -> None:
        self._simulator = simulator
        self._random = random.Random(f"shop-{seed}")
        self.limit, self._window_s, self._life_s = limit, window_s, token_life_s
        self.api_key, self.read_only_key = self._word("sk_shop_"), self._word("sk_shop_ro_")
        self.client_id, self.client_secret = self._word("client_"), self._word("secret_")
        self.reset()

    def reset(self) -> None:
        """Forget tokens, revocations and calls."""
        self.client_revoked = False
        self.keys = {
            self.api_key: Key("api", frozenset(SCOPES)),
            self.read_only_key: Key("api-read-only", frozenset({"read"})),
        }
        self.tokens: dict[str, Key] = {}
        self._client = Key("oauth", frozenset(SCOPES))

    def check(self, request: Request, scope: str) -> Writer:
        """Return who calls. Raises Problem: not signed in, not allowed, or too often."""
        if self._simulator.faults.take("expired", request.method, request.url.path) is not None:
            raise _unauthorised("token_expired", "The credential has expired; fetch a new token.")
        key, counted = self._known(request), self._client
        if request.headers.get("x-api-key") is not None:
            counted = key
        self._count(request, counted)
        if scope not in key.scopes:
            raise Problem(403, "insufficient_scope", f"This credential may not {scope}; use one that may.")
        return Writer(key.name)

    def _known(self, request: Request) -> Key:
        if (sent := request.headers.get("x-api-key")) is not None:
            key, what = self.keys.get(sent), "api_key"
        else:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise _unauthorised("missing_credentials", "Send an X-Api-Key header, or Authorization: Bearer.")
            key, what = self.tokens.get(token.strip()), "token"
        if key is None:
            raise _unauthorised(f"invalid_{what}", f"There is no such {what.replace('_', ' ')}.")
        if key.revoked:
            raise _unauthorised(f"{what}_revoked", "The credential was revoked; ask the shop's operator for a new one.")
        if key.expires is not None and key.expires <= self._simulator.clock.now():
            raise _unauthorised(f"{what}_expired", "The credential has expired; fetch a new one.")
        return key

    def _count(self, request: Request, key: Key) -> None:
        forced = self._simulator.faults.take("limit", request.method, request.url.path)
        if forced is not None:
            raise _too_many(float(forced.more.get("retry_after_s", 1)))
        if not self.limit:
            return
        now = self._simulator.clock.now()
        if now - key.calls[0] >= self._window_s:
            key.calls[:] = [now, 0]
        if key.calls[1] >= self.limit:
            raise _too_many(key.calls[0] + self._window_s - now)
        key.calls[1] += 1

    async def token(self, request: Request) -> Response:
        """Answer the token endpoint (RFC 6749, client credentials, by form or by Basic)."""
        form = {k: v[-1] for k, v in parse_qs((await request.body()).decode(errors="replace")).items()}
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return _refused("invalid_request", "send application/x-www-form-urlencoded")
        client, secret, basic = form.get("client_id", ""), form.get("client_secret", ""), False
        if (header := request.headers.get("authorization", "")).lower().startswith("basic "):
            client, secret, basic = *_basic(header), True
        if "grant_type" not in form:
            return _refused("invalid_request", "grant_type is missing")
        if form["grant_type"] != "client_credentials":
            return _refused("unsupported_grant_type", "only client_credentials")
        right = hmac.compare_digest(client.encode(), self.client_id.encode())
        right &= hmac.compare_digest(secret.encode(), self.client_secret.encode())
        if not right or self.client_revoked:
            headers = {"www-authenticate": 'Basic realm="shop"'} if basic else None
            return _refused("invalid_client", "unknown client, wrong secret, or revoked", 401, headers)
        scopes = frozenset(form.get("scope", " ".join(SCOPES)).split())
        if not scopes or not scopes <= set(SCOPES):
            return _refused("invalid_scope", f"scopes are {' '.join(SCOPES)}")
        token = self._word("at_")
        self.tokens[token] = Key("oauth", scopes, self._simulator.clock.now() + self._life_s)
        body = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(self._life_s),
            "scope": " ".join(sorted(scopes)),
        }
        return answer(body, 200, {"cache-control": "no-store"})

    def revoke(self, what: str, *, undo: bool = False) -> None:
        """Revoke ``api_key``, ``client`` (with its tokens) or ``tokens``, or take that back. Raises ValueError."""
        match what:
            case "api_key":
                self.keys[self.api_key].revoked = not undo
            case "client":
                self.client_revoked = not undo
            case "tokens":
                pass
            case _:
                raise ValueError(f"there is no {what!r} to revoke; there are: api_key, client, tokens")
        if what != "api_key":
            for token in self.tokens.values():
                token.revoked = not undo

    def expire(self, what: str) -> None:
        """Let ``api_key`` or all ``tokens`` have expired. Raises ValueError."""
        if what not in ("api_key", "tokens"):
            raise ValueError(f"there is no {what!r} that expires; there are: api_key, tokens")
        for key in [self.keys[self.api_key]] if what == "api_key" else self.tokens.values():
            key.expires = self._simulator.clock.now()

    def _word(self, prefix: str) -> str:
        return prefix + f"{self._random.getrandbits(128):032x}"


def _unauthorised(code: str, detail: str) -> Problem:
    error = "" if code == "missing_credentials" else ', error="invalid_token"'
    return Problem(401, code, detail, headers={"www-authenticate": f'Bearer realm="shop"{error}'})


def _too_many(wait_s: float) -> Problem:
    seconds = max(1, -int(-wait_s // 1))
    return Problem(429, "too_many_requests", f"Wait {seconds} s, then go on.", headers={"retry-after": str(seconds)})


def _refused(error: str, description: str, status: int = 400, headers: dict[str, str] | None = None) -> Response:
    body: dict[str, Any] = {"error": error, "error_description": description}
    return answer(body, status, {"cache-control": "no-store", **(headers or {})})


def _basic(header: str) -> tuple[str, str]:
    try:
        client, _, secret = base64.b64decode(header[6:].strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return unquote(client), unquote(secret)
