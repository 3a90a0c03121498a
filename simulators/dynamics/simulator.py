"""The simulator: options, sign-in on every call, limits, and the control API's view of the organisation."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.base import Simulator
from simulators.delivery import FAULTS as WEBHOOK_FAULTS
from simulators.delivery import Deliveries
from simulators.dynamics import organisation
from simulators.dynamics.control import Controls, row_json
from simulators.dynamics.errors import ODataError
from simulators.dynamics.limits import Limits
from simulators.dynamics.messages import VERSIONS, Ask, Caller, Reply, failed, located, preferences
from simulators.dynamics.organisation import People
from simulators.dynamics.service import FAULTS, Service
from simulators.dynamics.signing_in import SigningIn
from simulators.dynamics.tables import standard
from simulators.dynamics.tokens import App, Directory
from simulators.dynamics.webhooks import RETRIES_S
from simulators.dynamics.writes import Context, Event

_MAX_URL = 32_768
_KEPT = 10_000
_OPTIONS = {
    "org": "contoso",
    "accounts": "0",
    "contacts": "0",
    "page_size": "5000",
    "access_s": "3599",
    "expire_days": "7",
    "limit_requests": "6000",
    "limit_execution_s": "1200",
    "limit_concurrent": "52",
    "latency_ms": "0",
    "execution_ms": "0",
}


class DynamicsSimulator(Simulator):
    """One environment with its directory."""

    name = "dynamics"
    fault_kinds: ClassVar[dict[str, str]] = {**FAULTS, **WEBHOOK_FAULTS}

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        known = {n: options.pop(n, default) for n, default in _OPTIONS.items()}
        super().__init__(seed=seed, **options)
        self.organisation = known.pop("org")
        if not self.organisation.isidentifier():
            raise ValueError(
                f"option org: {self.organisation!r} is no name; take letters and digits, for example contoso"
            )
        self._numbers = {n: _number(n, v) for n, v in known.items()}
        self._seed = seed
        self.people = People.of(self.organisation)
        self.tenant, self.client_id, self.secret = organisation.client(self.organisation)
        self.directory = Directory(self.clock, self.tenant, f"{self.organisation}.onmicrosoft.com")
        self.limits = Limits(
            self.clock,
            int(self._numbers["limit_requests"]),
            self._numbers["limit_execution_s"],
            int(self._numbers["limit_concurrent"]),
        )
        self.written: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        """What clients wrote, the latest last."""
        self._deliveries: Deliveries | None = None
        self._signing_in = SigningIn(self, self.directory, f"{self.organisation}.crm.dynamics.com")
        self._controls = Controls(self)
        self.service = self._founded()

    def _founded(self) -> Service:
        """Return a new organisation."""
        numbers = self._numbers
        service = Service(
            standard(), self.clock, self.faults, (self.people.organisation, self.organisation), self._seed
        )
        organisation.found(service.store, service.writer, self.clock, self.organisation, self.people, self.client_id)
        rules = ("emailaddress1",)
        service.writer.platform.duplicate_rules = {"account": rules, "contact": rules, "lead": rules}
        service.reader.page_limit = max(1, min(5000, int(numbers["page_size"])))
        service.reader.expire_days = int(numbers["expire_days"])
        organisation.populate(
            service.store, service.writer, self.people, self._seed, int(numbers["accounts"]), int(numbers["contacts"])
        )
        service.events.flush()
        service.events.deliveries = self._deliveries
        service.events.seen.append(self._note)
        directory = self.directory
        directory.access_s = int(numbers["access_s"])
        directory.apps = {self.client_id: App(self.client_id, self.secret, self.people.integration)}
        directory.access.clear()
        directory.refresh.clear()
        directory.codes.clear()
        directory.person = self.people.person
        directory.person_object = str(
            service.store.data(service.schema.tables["systemuser"])
            .rows[self.people.person]
            .values["azureactivedirectoryobjectid"]
        )
        return service

    # What the frame asks for.

    def routes(self) -> Sequence[BaseRoute]:
        """Return the vendor's paths."""
        every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        return [*self._signing_in.routes(), Route("/api/data/{rest:path}", self._api, methods=every)]

    def credentials(self) -> dict[str, Any]:
        """Return what a client signs in with."""
        return {
            "tenant": self.tenant,
            "client_id": self.client_id,
            "client_secret": self.secret,
            "token_path": f"/{self.tenant}/oauth2/v2.0/token",
            "authorize_path": f"/{self.tenant}/oauth2/v2.0/authorize",
            "scope_suffix": "/.default",
            "integration_user": self.people.integration,
            "user": self.people.person,
        }

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        """Put records there as a user would have: kind is the name of a table or of its set."""
        return self._controls.load(kind, records)

    def dump(self, kind: str) -> list[dict[str, Any]]:
        """Return all rows of a table, deleted ones with ``@deleted``."""
        table = self._controls.table(kind)
        data = self.service.store.data(table)
        alive = [row_json(r.values) for r in data.rows.values()]
        return [*alive, *({**row_json(g.values), "@deleted": True} for g in data.gone)]

    def reset(self) -> None:
        """Begin with a new organisation."""
        self.limits.forget()
        self.written.clear()
        if self._deliveries is not None:
            self._deliveries.forget()
        self.service = self._founded()

    def controls(self) -> Sequence[Route]:
        """Return further paths of the control API."""
        return self._controls.routes()

    def started(self) -> None:
        """Begin to deliver webhooks."""
        self._deliveries = self.service.events.deliveries = Deliveries(self, RETRIES_S, 60.0)

    def deliveries(self) -> list[dict[str, Any]]:
        """Return the latest deliveries of webhooks."""
        return self._deliveries.shown() if self._deliveries is not None else []

    def _note(self, event: Event) -> None:
        caller = event.context.caller
        self.counts[f"{event.message} {event.table.name}"] += 1
        self.written.append(
            {
                "at": self.clock.now(),
                "message": event.message,
                "table": event.table.name,
                "id": event.row_id,
                "values": row_json(event.changed),
                "user": caller.acting,
                "app": caller.app,
                "tag": event.context.tag,
            }
        )

    # The Web API.

    async def _api(self, request: Request) -> Response:
        raw = request.scope.get("raw_path", b"").decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        headers = {n.lower(): v for n, v in request.headers.items()}
        if len(raw) + len(query) > _MAX_URL:
            return Response("<h1>URI Too Long</h1>", 414, media_type="text/html")
        annotated = "odata.include-annotations" in preferences(headers.get("prefer", ""))
        found = located(raw)
        if found is None or found[0] not in VERSIONS:
            return self._response(
                failed(ODataError(404, "", f"Resource not found for the segment '{raw}'."), False), {}
            )
        try:
            caller = self._caller(request, headers, raw)
            self._limited(caller, request.method, raw)
        except ODataError as error:
            if error.status == 401:
                return Response(b"", 401, error.headers)
            return self._response(failed(error, annotated), {})
        started = time.monotonic()
        try:
            if self._numbers["latency_ms"]:
                await asyncio.sleep(self._numbers["latency_ms"] / 1000)
            root = f"{request.url.scheme}://{headers.get('host', 'localhost')}/api/data/v{found[0]}/"
            body = await request.body()
            reply = self.service.handle(Ask(request.method, found[1], query, headers, body, root, caller))
        finally:
            took_s = time.monotonic() - started + self._numbers["execution_ms"] / 1000
            left = self.limits.leave(caller.user, took_s)
        return self._response(reply, left)

    @staticmethod
    def _response(reply: Reply, left: dict[str, str]) -> Response:
        request_id = str(uuid.uuid4())
        headers = {
            "OData-Version": "4.0",
            "Cache-Control": "no-cache",
            "x-ms-service-request-id": request_id,
            "REQ_ID": request_id,
            **left,
            **reply.headers,
        }
        return Response(reply.body, reply.status, headers)

    def _caller(self, request: Request, headers: dict[str, str], path: str) -> Caller:
        """Return who asks. Raises ODataError unless the token is good and its user belongs to the organisation."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        grant = self.directory.access.get(token.strip()) if scheme.lower() == "bearer" else None
        if self.faults.take("revoke", request.method, path) is not None:
            self.directory.revoke()
            grant = None
        if grant is not None and self.faults.take("expire_token", request.method, path) is not None:
            grant.until = 0.0
        if grant is None or grant.until <= self.clock.now():
            self.directory.access.pop(token.strip(), None)
            base = f"{request.url.scheme}://{headers.get('host', 'localhost')}"
            detail = ', error="invalid_token", error_description="Error during token validation!"' if token else ""
            challenge = f"Bearer authorization_uri={base}/{self.tenant}/oauth2/authorize, resource_id={base}/{detail}"
            raise ODataError(401, "", "", {"WWW-Authenticate": challenge})
        users = self.service.store.data(self.service.schema.tables["systemuser"])
        user = users.rows.get(grant.user or "")
        if user is None or user.values.get("isdisabled"):
            code, text = (
                ("0x80072560", "The user is not a member of the organization.")
                if user is None
                else ("0x80040225", f"The specified user(Id = {grant.user}) is disabled. Consider enabling this user.")
            )
            raise ODataError(403, code, text)
        acting = headers.get("mscrmcallerid")
        if (object_id := headers.get("callerobjectid")) is not None:
            ids = users.index("azureactivedirectoryobjectid").get(object_id.lower(), {})
            acting = next(iter(ids), "")
        if acting is not None and acting.lower() not in users.rows:
            raise ODataError(403, "0x80072560", "The user to act for is not a member of the organization.")
        return Caller(user.id, grant.app, acting.lower() if acting else None)

    def _limited(self, caller: Caller, method: str, path: str) -> None:
        for facet in ("requests", "execution", "concurrent"):
            if (fault := self.faults.take(f"limit_{facet}", method, path)) is not None:
                raise self.limits.error(facet, float(fault.more.get("retry_after_s", 30)))
        if (fault := self.faults.take("unavailable", method, path)) is not None:
            after = fault.more.get("retry_after_s")
            headers = {"Retry-After": str(after)} if after is not None else {}
            raise ODataError(
                503, "0x80072328", "The service is temporarily unavailable. Please try again later.", headers
            )
        self.limits.enter(caller.user)

    def person_context(self) -> Context:
        """Return the context of an edit by a user, not by the integration."""
        return Context(Caller(self.people.person), correlation=str(uuid.uuid4()), operation=str(uuid.uuid4()))


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"option {name}: {text!r} is no number") from error
    if number < 0:
        raise ValueError(f"option {name}: {text!r} is less than nothing")
    return number
