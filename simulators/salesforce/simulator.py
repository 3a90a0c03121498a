"""The Salesforce simulator: one org with its API, and what the control API adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.base import Simulator, answer
from simulators.salesforce.administration import Administration
from simulators.salesforce.cometd import Cometd
from simulators.salesforce.context import Context, Options
from simulators.salesforce.duplicates import SPELLINGS
from simulators.salesforce.oauth import OAuth
from simulators.salesforce.org import Org
from simulators.salesforce.samples import fill
from simulators.salesforce.schema import TEXT
from simulators.salesforce.service import Service
from simulators.salesforce.sessions import MOST_GRANTS, Sessions
from simulators.salesforce.soap import Soap
from simulators.salesforce.usage import Usage
from simulators.salesforce.values import value_of

_TYPES = TEXT | {"boolean", "int", "double", "currency", "percent", "date", "datetime", "reference"}
_AT_ONCE = 200


class SalesforceSimulator(Simulator):
    """One Salesforce org. Its options stand in docs/simulators.md."""

    name = "salesforce"
    fault_kinds: ClassVar[dict[str, str]] = {
        "limit": "403 REQUEST_LIMIT_EXCEEDED: the calls of the day are used up",
        "concurrent": "403 REQUEST_LIMIT_EXCEEDED: too many long calls at once",
        "disabled": "403 API_DISABLED_FOR_ORG",
        "forbidden": "403 INSUFFICIENT_ACCESS_OR_READONLY",
        "unknown": "500 UNKNOWN_EXCEPTION",
        "unavailable": "503 SERVER_UNAVAILABLE",
        "edge": "an answer without a body from before the API: `status` 420 (default) or 406",
        "lock": "UNABLE_TO_LOCK_ROW for a record that is written, wherever it is written",
        "partial": "a record of a collection or a bulk job fails with `code` and `message`",
        "late": "what is written is stamped now and visible `delay_s` seconds later (60)",
        "gap": "the change events of a transaction come as GAP events, with ids only",
        "overflow": "one GAP_OVERFLOW event per object comes instead of a transaction's change events",
        "expire_tokens": "all access tokens end before the request",
        "revoke": "the next login or refresh finds that all grants have been revoked",
        "deny": "the user denies the authorisation",
        "stale_locator": "400 INVALID_QUERY_LOCATOR for a further page of a query",
        "bulk_fail": "a bulk job fails after `after` records (0); the rest is unprocessed",
        "unknown_client": "CometD has forgotten the client: 403::Unknown client, shake hands again",
    }

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        take = _Taker(options)
        org_name = take.text("org", "acme")
        limits = Options(
            daily_limit=take.count("daily_limit", 115_000),
            duplicate_key=take.choice("duplicate_key", SPELLINGS),
            bulk_delay_s=take.seconds("bulk_delay_s", 0.2),
            poll_s=take.seconds("poll_s", 110.0),
            most_cursors=take.count("cursors", 50),
            bulk_batches=take.count("bulk_batches", 15_000),
        )
        session_s, grants = take.seconds("session_s", 7200.0), take.count("grants", MOST_GRANTS)
        passwords, callback = take.flag("passwords"), take.text("callback", "")
        self._samples, self._most_ids = take.count("records", 0), take.count("updated_ids", 600_000)
        self._rules = take.text("duplicate_rules", "")
        super().__init__(seed=seed, **take.left)
        self._seed = seed
        self.org = Org(self.clock, self.faults, org_name)
        self.sessions = Sessions(self.clock, self.org.id, seed, session_s, grants)
        self.oauth = OAuth(
            self.org, self.sessions, self.clock, self.faults, passwords=passwords, callback=callback or None
        )
        self.soap = Soap(self.org, self.sessions, self.oauth)
        self.context = Context(self.org, limits)
        self.context.running = self.background
        self.service = Service(self.context, self.sessions, self.faults, Usage(self.clock, limits.daily_limit))
        self.service.replication.most_ids = self._most_ids
        self.cometd = Cometd(self.org, self.sessions, self.faults, limits.poll_s)
        self.org.wake_at = lambda at: self.background(self._settle(at))
        self.grant = self.oauth.first_grant()
        self.administration = Administration(self.org, self.sessions, self.cometd, self._regrant)
        self._begin()

    def _begin(self) -> None:
        for text in filter(None, self._rules.split(";")):
            self.org.rules.append(self.administration.rule(*text.split(":")))
        fill(self.org, self.load, self._samples, self._seed)

    def _regrant(self) -> str:
        self.grant = self.oauth.first_grant()
        return str(self.grant.refresh)

    async def _settle(self, at: float) -> None:
        await self.clock.until(at)
        self.org.settle()

    def routes(self) -> Sequence[BaseRoute]:
        """Return the paths of Salesforce."""
        return [*self.oauth.routes(), *self.soap.routes(), *self.cometd.routes(), *self.service.routes()]

    def credentials(self) -> dict[str, Any]:
        """Return what clients sign in with: the connected app, its users, and a refresh token that is ready to use."""
        org = self.org
        return {
            "instance_url": self.address.https,
            "client_id": self.oauth.client_id,
            "client_secret": self.oauth.client_secret,
            "refresh_token": self.grant.refresh,
            "private_key": self.oauth.private_key,
            "username": org.username("integration"),
            "password": self.oauth.password,
            "security_token": self.oauth.security_token,
            "org_id": org.id,
            "user_id": org.integration,
            "person": org.username("sam"),
        }

    def not_found(self, request: Request) -> Response:  # noqa: ARG002
        """Answer as Salesforce answers an address that it does not have."""
        return answer([{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}], 404)

    def reset(self) -> None:
        """Begin again; the app, its secret and its key stay, and so does the refresh token unless it was revoked."""
        self.sessions.expire()
        self.org.start()
        self.service.reset()
        self.cometd.reset()
        if not self.grant.live:
            self.grant = self.oauth.first_grant()
        self._begin()

    def controls(self) -> Sequence[Route]:
        """Return what the control API has for Salesforce; docs/simulators.md tells about each."""
        return self.administration.routes()

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        """Create records as a person in the org does."""
        return self.administration.create(kind, records)

    def dump(self, kind: str) -> list[dict[str, Any]]:
        """Return all records of an object, those in the Recycle Bin included."""
        table = self.administration.table(kind)
        fields = list(table.kind.fields.values())
        return [{f.name: value_of(f, row) for f in fields} for row in table.rows.values()]


class _Taker:
    """Options as text, taken one by one; what is left is none of ours. Raises ValueError."""

    def __init__(self, options: dict[str, str]) -> None:
        self.left = dict(options)

    def text(self, name: str, default: str) -> str:
        return self.left.pop(name, default)

    def count(self, name: str, default: int) -> int:
        return int(self._number(name, default))

    def seconds(self, name: str, default: float) -> float:
        return self._number(name, default)

    def _number(self, name: str, default: float) -> float:
        text = self.left.pop(name, None)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"the option {name} is a number, not {text!r}") from None
        if value < 0:
            raise ValueError(f"the option {name} is not negative: {text!r}")
        return value

    def flag(self, name: str) -> bool:
        text = self.left.pop(name, "off").lower()
        if text not in {"on", "off", "true", "false"}:
            raise ValueError(f"the option {name} is on or off, not {text!r}")
        return text in {"on", "true"}

    def choice(self, name: str, known: Sequence[str]) -> str:
        text = self.left.pop(name, known[0])
        if text not in known:
            raise ValueError(f"the option {name} is one of {', '.join(known)}, not {text!r}")
        return text
