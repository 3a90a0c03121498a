"""What stands before every handler: faults, credentials, limits, scopes, the request's body, and errors as answers."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from simulators.base import Handler
from simulators.hubspot.errors import Refused, invalid, scopes_missing, token_expired, unauthenticated
from simulators.hubspot.kinds import Kind, kind_named
from simulators.hubspot.moments import spelt
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Origin
from simulators.hubspot.tokens import Grant

FAULTS = {
    "rate_limit": "429 of the limit `policy` (DAILY, TEN_SECONDLY_ROLLING or SECONDLY), with Retry-After if `retry_after_s` is given",
    "locked": "423: too many changes at once; wait two seconds",
    "migrating": "477: the portal moves to another data centre; Retry-After is `retry_after_s` (3600)",
    "unavailable": "`status` (502) with the gateway's page instead of JSON; nothing is done",
    "token_expired": "401: the token counts as expired, this once",
    "token_revoked": "the app is disconnected: this call and all with its tokens fail until the control API connects it again",
}
Need = Literal["read", "write", "schema_read", "schema_write"] | tuple[str, ...] | None
_POSITION = {"read": 0, "write": 1, "schema_read": 2, "schema_write": 3}


@dataclass(slots=True)
class Visit:
    """One call that has been let in."""

    request: Request
    grant: Grant
    origin: Origin
    raw: bytes

    def body(self) -> dict[str, Any]:
        """Return the JSON object that was sent. Raises Refused (400, 415)."""
        sent = self.any_body()
        if not isinstance(sent, dict):
            raise invalid("Invalid input JSON on line 1, column 1: an object is expected")
        return sent

    def any_body(self) -> Any:
        """Return the JSON that was sent. Raises Refused (400, 415)."""
        media = self.request.headers.get("content-type", "")
        if not media.split(";")[0].strip().lower().endswith("json"):
            raise Refused(
                415, f"Unsupported Media Type: {media or 'none given'}; send application/json", "VALIDATION_ERROR"
            )
        try:
            return msgspec.json.decode(self.raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid(f"Invalid input JSON on line 1, column 1: {error}") from None

    def inputs(self, most: int = 100) -> list[dict[str, Any]]:
        """Return the inputs of a batch. Raises Refused (400) if there are none or too many."""
        given = self.body().get("inputs")
        if not isinstance(given, list) or not all(isinstance(i, dict) for i in given):
            raise invalid("Some required fields were not set: [inputs]")
        if len(given) > most:
            raise invalid(f"The maximum number of inputs supported in a batch request for this endpoint is {most}")
        return given

    def kind(self, name: str = "type") -> Kind:
        """Return the kind that the path names. Raises Refused (400)."""
        spelt_kind = str(self.request.path_params[name])
        kind = kind_named(spelt_kind)
        if kind is None:
            raise invalid(f"Unable to infer object type from: {spelt_kind}")
        return kind

    def listed(self, name: str) -> list[str]:
        """Return a query parameter that is given several times or with commas."""
        return [v for text in self.request.query_params.getlist(name) for v in text.split(",") if v]

    def flag(self, name: str) -> bool:
        """Return a query parameter that is true or false."""
        return self.request.query_params.get(name, "").lower() == "true"


def strings(sent: dict[str, Any], member: str) -> list[str]:
    """Return a member that is an array of names. Raises Refused (400)."""
    given = sent.get(member) or []
    if not isinstance(given, list):
        raise invalid(f"Invalid input JSON on line 1, column 1: {member} is an array")
    return [str(name) for name in given]


def whole(sent: dict[str, Any], member: str, usual: int) -> int:
    """Return a member that is a whole number. Raises Refused (400)."""
    given = sent.get(member)
    if given is None:
        return usual
    if isinstance(given, bool) or not isinstance(given, int):
        raise invalid(f"Invalid input JSON on line 1, column 1: {member} is a whole number")
    return given


Work = Callable[[Visit], Awaitable[Response] | Response]


class Gate:
    """Makes handlers of what answers to calls that have been let in."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def __call__(self, work: Work, need: Need, *, search: bool = False) -> Handler:
        """Return a handler that lets in who has one of the scopes; a search counts against the searches' limit alone."""

        async def handle(request: Request) -> Response:
            headers: dict[str, str] = {}
            try:
                if (page := self._broken(request)) is not None:
                    return page
                visit = Visit(request, grant := self._grant(request), self._portal.origin(grant), await request.body())
                if search:
                    self._portal.limits.take_search(self._portal.clock.now())
                elif not grant.developer:
                    headers = self._portal.limits.take(grant, self._portal.clock.now())
                self._allowed(visit, need)
                made = work(visit)
                response = made if isinstance(made, Response) else await made
            except Refused as error:
                response = error.response()
            response.headers["X-HubSpot-Correlation-Id"] = str(uuid.uuid4())
            for name, value in headers.items():
                response.headers[name] = value
            return response

        return handle

    def _broken(self, request: Request) -> Response | None:
        portal, method, path = self._portal, request.method, request.url.path
        faults = portal.faults
        if (fault := faults.take("rate_limit", method, path)) is not None:
            policy = str(fault.more.get("policy", "TEN_SECONDLY_ROLLING"))
            raise portal.limits.forced(policy, fault.more.get("retry_after_s"))
        if faults.take("locked", method, path) is not None:
            raise Refused(423, "The resource is locked; wait at least 2 seconds before you try again.", "LOCKED")
        if (fault := faults.take("migrating", method, path)) is not None:
            wait = {"Retry-After": str(fault.more.get("retry_after_s", 3600))}
            raise Refused(
                477, "This account is being migrated to another data center.", "MIGRATION_IN_PROGRESS", headers=wait
            )
        if (fault := faults.take("unavailable", method, path)) is not None:
            status = int(fault.more.get("status", 502))
            return HTMLResponse(f"<html><head><title>{status}</title></head><body>error</body></html>", status)
        if faults.take("token_expired", method, path) is not None:
            raise token_expired(1, spelt(portal.now_ms() - 1000))
        if faults.take("token_revoked", method, path) is not None:
            portal.tokens.revoke()
        return None

    def _grant(self, request: Request) -> Grant:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = request.query_params.get("hapikey")
        if scheme.lower() != "bearer" or not token:
            if key is None or key != self._portal.tokens.developer_key:
                raise unauthenticated()
            token = key
        access = self._portal.tokens.access.get(token.strip())
        if access is None or access.grant.revoked:
            raise unauthenticated()
        now = self._portal.clock.now()
        if access.expires_at is not None and access.expires_at <= now:
            raise token_expired(int(now - access.expires_at), spelt(int(access.expires_at * 1000)))
        return access.grant

    def _allowed(self, visit: Visit, need: Need) -> None:
        if need is None:
            return
        if isinstance(need, tuple):
            if need == ("developer",):
                if not visit.grant.developer:
                    raise unauthenticated()
                return
            scopes = need
        else:
            name = "type" if "type" in visit.request.path_params else "from_type"
            kind = visit.kind(name)
            scopes = (kind.scopes[_POSITION[need]],)
            if need == "schema_read":  # who may read the records may see what they are made of
                scopes = (*scopes, kind.scopes[_POSITION["read"]])
        if visit.grant.scopes.isdisjoint(scopes):
            raise scopes_missing(scopes)
