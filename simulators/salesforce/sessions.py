"""Who may call: apps, grants, access tokens and when they end."""

from __future__ import annotations

import base64
import hashlib
import random
from dataclasses import dataclass, field

from simulators.clock import Clock

MOST_GRANTS = 5
CODE_S = 900.0
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._"


@dataclass(slots=True)
class Grant:
    """What a user allowed an app once: it lasts until it is revoked, and access tokens are made from it."""

    app: str
    user: str
    scope: str
    refresh: str | None
    tokens: list[str] = field(default_factory=list)
    live: bool = True


@dataclass(slots=True)
class Session:
    """One access token. It ends when nobody has used it for a while."""

    token: str
    user: str
    app: str
    grant: Grant
    begun: float
    used: float


@dataclass(slots=True)
class Code:
    """An authorisation code, for one use."""

    app: str
    user: str
    redirect: str
    scope: str
    at: float
    challenge: str | None
    method: str


class Sessions:
    """All grants and tokens of the org. ``idle_s`` is how long an unused access token lives."""

    def __init__(self, clock: Clock, org_id: str, seed: int, idle_s: float, most_grants: int = MOST_GRANTS) -> None:
        self._clock = clock
        self._org_id = org_id
        self._random = random.Random(f"{org_id} {seed}")
        self._idle_s = idle_s
        self._most = most_grants
        self._sessions: dict[str, Session] = {}
        self._grants: dict[tuple[str, str], list[Grant]] = {}
        self._refresh: dict[str, Grant] = {}
        self._codes: dict[str, Code] = {}
        self.issued = 0

    def secret(self, length: int) -> str:
        """Return something that nobody guesses; the same for the same seed, so that tests can be told again."""
        return "".join(self._random.choice(_LETTERS) for _ in range(length))

    def grant(self, app: str, user: str, scope: str, *, refreshable: bool) -> Grant:
        """Remember that a user allows an app; one more than the most ends the oldest."""
        refresh = f"5Aep861{self.secret(80)}" if refreshable else None
        grant = Grant(app, user, scope, refresh)
        grants = self._grants.setdefault((app, user), [])
        grants.append(grant)
        if refresh is not None:
            self._refresh[refresh] = grant
        while len(grants) > self._most:
            self._end(grants[0])
        return grant

    def issue(self, grant: Grant) -> Session:
        """Return a new access token of a grant."""
        now = self._clock.now()
        token = f"{self._org_id[:15]}!AQ{self.secret(92)}"
        session = Session(token, grant.user, grant.app, grant, now, now)
        self._sessions[token] = session
        grant.tokens.append(token)
        self.issued += 1
        return session

    def find(self, token: str) -> Session | None:
        """Return the live session of a token, and count this as a use of it."""
        session = self.look(token)
        if session is not None:
            session.used = self._clock.now()
        return session

    def look(self, token: str) -> Session | None:
        """Return the live session of a token."""
        session = self._sessions.get(token)
        if session is None:
            return None
        if self._clock.now() - session.used > self._idle_s:
            self._forget(token)
            return None
        return session

    def ends(self, session: Session) -> float:
        """Return when a session ends if nobody uses it."""
        return session.used + self._idle_s

    def refreshed(self, refresh: str) -> Grant | None:
        """Return the live grant of a refresh token."""
        return self._refresh.get(refresh)

    def code(self, code: Code) -> str:
        """Return an authorisation code for what a user has allowed."""
        text = f"aPrx{self.secret(60)}=="
        self._codes[text] = code
        return text

    def redeem(self, text: str) -> Code | None:
        """Return what a code stands for, once and in time."""
        code = self._codes.pop(text, None)
        return code if code is not None and self._clock.now() - code.at <= CODE_S else None

    def revoke(self, token: str) -> bool:
        """End a grant by its refresh token, or one access token; return whether there was one."""
        if (grant := self._refresh.get(token)) is not None:
            self._end(grant)
            return True
        if token in self._sessions:
            self._forget(token)
            return True
        return False

    def expire(self) -> int:
        """End all access tokens, as if nobody had used them; return how many."""
        count = len(self._sessions)
        for token in list(self._sessions):
            self._forget(token)
        return count

    def revoke_all(self) -> int:
        """End all grants; return how many."""
        grants = [g for gs in list(self._grants.values()) for g in list(gs)]
        for grant in grants:
            self._end(grant)
        return len(grants)

    def live_grants(self, app: str, user: str) -> int:
        """Return how many grants of an app a user has."""
        return len(self._grants.get((app, user), ()))

    def _end(self, grant: Grant) -> None:
        grant.live = False
        for token in list(grant.tokens):
            self._forget(token)
        if grant.refresh is not None:
            self._refresh.pop(grant.refresh, None)
        self._grants[grant.app, grant.user].remove(grant)

    def _forget(self, token: str) -> None:
        session = self._sessions.pop(token, None)
        if session is not None and token in session.grant.tokens:
            session.grant.tokens.remove(token)


def challenge_of(verifier: str, method: str) -> str:
    """Return the PKCE challenge of a verifier."""
    if method.lower() == "plain":
        return verifier
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
