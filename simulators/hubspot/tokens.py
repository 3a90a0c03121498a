"""Tokens and codes of the portal's apps: who a bearer token is, and what it may do."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field

from simulators.hubspot.kinds import SCOPES
from simulators.hubspot.options import Options

_LETTERS = string.ascii_letters + string.digits


@dataclass(slots=True)
class Grant:
    """What an app has been given: by a private token (``private``), an installation (refresh token), or as the app itself."""

    app_id: int
    scopes: frozenset[str]
    user_id: int
    private: bool = False
    developer: bool = False
    revoked: bool = False


@dataclass(slots=True)
class Code:
    """An authorisation code on its way from the browser to the app."""

    redirect_uri: str
    scopes: frozenset[str]
    challenge: str | None
    method: str
    expires_at: float


@dataclass(slots=True)
class Access:
    """An access token."""

    grant: Grant
    expires_at: float | None


@dataclass(slots=True)
class Tokens:
    """All tokens of the portal. The private token, the developer's key and the first refresh token exist from the start."""

    options: Options
    now: Callable[[], float]
    random: random.Random
    access: dict[str, Access] = field(default_factory=dict)
    refresh: dict[str, Grant] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    private_token: str = ""
    developer_key: str = ""
    refresh_token: str = ""
    user_id: int = 9_586_504

    def __post_init__(self) -> None:
        self.private_token = f"pat-na1-{self._hex(8)}-{self._hex(4)}-{self._hex(4)}-{self._hex(4)}-{self._hex(12)}"
        self.developer_key = f"{self._hex(8)}-{self._hex(4)}-{self._hex(4)}-{self._hex(4)}-{self._hex(12)}"
        self.refresh_token = f"{self._hex(8)}-{self._hex(4)}-{self._hex(4)}-{self._hex(4)}-{self._hex(12)}"
        self.again()

    @property
    def app_scopes(self) -> frozenset[str]:
        """Return the scopes that the app has asked for."""
        return frozenset(self.options.scopes.replace(",", " ").split() or SCOPES) | {"oauth"}

    def again(self) -> None:
        """Forget all tokens but the first ones, and give those what they had at the start."""
        options = self.options
        self.access.clear()
        self.codes.clear()
        private = Grant(options.private_app_id, self.app_scopes, self.user_id, private=True)
        self.access[self.private_token] = Access(private, None)
        self.access[self.developer_key] = Access(Grant(options.app_id, frozenset(), self.user_id, developer=True), None)
        self.refresh.clear()
        self.refresh[self.refresh_token] = Grant(options.app_id, self.app_scopes, self.user_id)

    def issue(self, grant: Grant) -> str:
        """Return a new access token for a grant."""
        token = "C" + "".join(self.random.choices(_LETTERS, k=90))
        self.access[token] = Access(grant, self.now() + self.options.token_life_s)
        return token

    def install(self, scopes: frozenset[str]) -> str:
        """Return the refresh token of a new installation."""
        token = f"{self._hex(8)}-{self._hex(4)}-{self._hex(4)}-{self._hex(4)}-{self._hex(12)}"
        self.refresh[token] = Grant(self.options.app_id, scopes, self.user_id)
        return token

    def code(self, redirect_uri: str, scopes: frozenset[str], challenge: str | None, method: str) -> str:
        """Return a new authorisation code, good for a minute and for one use."""
        code = f"{self._hex(8)}-{self._hex(4)}-{self._hex(4)}-{self._hex(4)}-{self._hex(12)}"
        self.codes[code] = Code(redirect_uri, scopes, challenge, method, self.now() + 60)
        return code

    def expire(self) -> int:
        """Make all access tokens that expire expire now; return how many."""
        ours = [a for a in self.access.values() if a.expires_at is not None]
        for access in ours:
            access.expires_at = min(access.expires_at or 0.0, self.now() - 1)
        return len(ours)

    def revoke(self) -> None:
        """Take back what the portal has granted, as when a user disconnects the app: every token is unknown from now on."""
        for held in [*self.refresh.values(), *(a.grant for a in self.access.values())]:
            held.revoked = not held.developer

    def limit_scopes(self, scopes: frozenset[str]) -> None:
        """Leave all grants only these scopes."""
        for held in [*self.refresh.values(), *(a.grant for a in self.access.values())]:
            held.scopes = scopes | {"oauth"}

    def _hex(self, length: int) -> str:
        return "".join(self.random.choices("0123456789abcdef", k=length))
