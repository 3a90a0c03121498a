"""The control API's paths that only this simulator has: a user's hand, the app's standing, what clients wrote and were told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer, body_of
from simulators.hubspot.errors import Refused
from simulators.hubspot.events import Events
from simulators.hubspot.kinds import Kind, kind_named
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Record
from simulators.hubspot.subscriptions import Subscriptions
from simulators.hubspot.writer import Writer


class UserControl:
    """What a user of the portal does, by control paths."""

    def __init__(self, portal: Portal, writer: Writer, subscriptions: Subscriptions, events: Events) -> None:
        self._portal = portal
        self._writer = writer
        self._subscriptions = subscriptions
        self._events = events

    def routes(self) -> list[Route]:
        """Return the paths, without /_control before them."""
        return [
            _route("/edit/{kind}", self._edit),
            _route("/delete/{kind}", self._delete),
            _route("/restore/{kind}", self._restore),
            _route("/merge/{kind}", self._merge),
            _route("/expire", self._expire),
            _route("/revoke", self._revoke),
            _route("/reconnect", self._reconnect),
            _route("/scopes", self._scopes),
            _route("/webhooks", self._webhooks),
            Route("/webhooks", self._subscribed),
            Route("/deliveries", self._delivered),
            Route("/writes", self._written),
        ]

    def kind(self, spelt: str) -> Kind:
        """Return a kind. Raises ValueError."""
        kind = kind_named(spelt)
        if kind is None:
            raise ValueError(f"hubspot has no records of kind {spelt!r}")
        return kind

    def load(self, kind: Kind, given: dict[str, Any]) -> Record:
        """Make a record as a user would, with an id if one is given. Raises Refused."""
        sent = given.get("properties") or {name: v for name, v in given.items() if name != "id"}
        values = self._writer.checked(kind, sent, None)
        self._writer.claimed(kind, values, None)
        number = given.get("id")
        return self._portal.store.create(kind, values, self._portal.person(), None if number is None else int(number))

    async def _edit(self, request: Request) -> Response:
        kind, edited = self.kind(request.path_params["kind"]), []
        for given in _listed(await body_of(request)):
            record = self._record(kind, given["id"])
            sent = given.get("properties") or {name: v for name, v in given.items() if name not in ("id", "userId")}
            values = self._writer.checked(kind, sent, record)
            self._writer.claimed(kind, values, record)
            self._portal.store.update(record, values, self._portal.person(given.get("userId")))
            edited.append(str(record.id))
        return answer({"ids": edited})

    async def _delete(self, request: Request) -> Response:
        kind = self.kind(request.path_params["kind"])
        records = [self._record(kind, number) for number in _listed(await body_of(request))]
        for record in records:
            self._portal.store.archive(record, self._portal.person())
        return answer({"ids": [str(r.id) for r in records]})

    async def _restore(self, request: Request) -> Response:
        kind = self.kind(request.path_params["kind"])
        records = [self._record(kind, number, archived=True) for number in _listed(await body_of(request))]
        for record in records:
            self._portal.store.restore(record, self._portal.person())
        return answer({"ids": [str(r.id) for r in records]})

    async def _merge(self, request: Request) -> Response:
        kind, sent = self.kind(request.path_params["kind"]), await body_of(request)
        primary, other = self._record(kind, sent["primary"]), self._record(kind, sent["other"])
        if primary is other:
            raise ValueError("a record cannot be merged with itself")
        keep_id = self._portal.options.merge_keeps_id
        left = self._portal.store.merge(primary, other, self._portal.person(), keep_id=keep_id)
        return answer({"id": str(left.id)})

    async def _expire(self, _: Request) -> Response:
        return answer({"expired": self._portal.tokens.expire()})

    async def _revoke(self, _: Request) -> Response:
        self._portal.tokens.revoke()
        return answer({})

    async def _reconnect(self, _: Request) -> Response:
        self._portal.tokens.again()
        return answer({})

    async def _scopes(self, request: Request) -> Response:
        sent = await body_of(request)
        self._portal.tokens.limit_scopes(frozenset(str(s) for s in sent["scopes"]))
        return answer({})

    async def _webhooks(self, request: Request) -> Response:
        sent = await body_of(request)
        concurrency = int(sent.get("maxConcurrentRequests", self._subscriptions.concurrency))
        self._subscriptions.set(str(sent["targetUrl"]), concurrency)
        made = [self._subscriptions.add({"active": True, **one}).shown() for one in sent.get("subscriptions", ())]
        return answer({"subscriptions": made})

    async def _subscribed(self, _: Request) -> Response:
        listed = [s.shown() for s in self._subscriptions.all.values()]
        return answer({"targetUrl": self._subscriptions.target, "subscriptions": listed})

    async def _delivered(self, _: Request) -> Response:
        return answer([] if self._events.deliveries is None else self._events.deliveries.shown())

    async def _written(self, request: Request) -> Response:
        last = int(request.query_params.get("last", "1000"))
        return answer(list(self._portal.writes)[-last:] if last else [])

    def _record(self, kind: Kind, number: Any, *, archived: bool = False) -> Record:
        record = self._portal.store.tables[kind.name].find(str(number), archived=archived)
        if record is None:
            raise ValueError(f"there is no {'archived ' if archived else ''}{kind.singular} {number}")
        return record


def _listed(sent: Any) -> list[Any]:
    if not isinstance(sent, list):
        raise ValueError("send an array")
    return sent


def _route(path: str, work: Callable[[Request], Awaitable[Response]]) -> Route:
    """Return a path whose wrong requests are told in a 400."""

    async def handle(request: Request) -> Response:
        try:
            return await work(request)
        except Refused as error:
            return answer({"error": error.message}, 400)
        except KeyError as error:
            return answer({"error": f"{error.args[0]} is missing"}, 400)
        except (AttributeError, TypeError, ValueError) as error:
            return answer({"error": str(error)}, 400)

    return Route(path, handle, methods=["POST"])
