"""A system that speaks in webhooks: it tells every change of its records, listens to others, and can be polled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from simulators.base import Handler, Simulator, answer, body_of
from simulators.delivery import FAULTS as DELIVERY_FAULTS
from simulators.webhook import schemes
from simulators.webhook.inbox import Inboxes
from simulators.webhook.records import Happened, Records
from simulators.webhook.rest import Rest
from simulators.webhook.sending import FAULTS, Sender, chosen

_PAGING = ("cursor", "page", "offset")
_USUAL = {
    "target": "",
    "scheme": "standard",
    "secret": "",
    "content": "full",
    "form": "",
    "kinds": "",
    "retries_s": "",
    "jitter": "0.1",
    "trust": "",
    "inbox": "in",
    "inbox_scheme": "standard",
    "inbox_secret": "",
    "inbox_form": "",
    "inbox_kind": "",
    "inbox_key": "id",
    "paging": "cursor",
    "since": "inclusive",
    "resolution_s": "0.001",
    "indexed": "email,external_id",
    "api_key": "",
    "contacts": "0",
}


class WebhookSimulator(Simulator):
    """The generic webhook system. Options are strings, as the command line gives them; `docs/simulators.md` tells them."""

    name = "webhook"
    fault_kinds: ClassVar[dict[str, str]] = {
        "limit": "the REST API answers 429 with Retry-After `retry_after_s`",
        **FAULTS,
        **DELIVERY_FAULTS,
    }

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        self._options = {name: options.pop(name, usual) for name, usual in _USUAL.items()}
        super().__init__(seed=seed, **options)
        self._seed = seed
        given = self._options
        chosen("option scheme", given["scheme"], schemes.SCHEMES)
        if given["trust"] and not Path(given["trust"]).is_file():
            raise ValueError(f"option trust names a file with certificates; there is none at {given['trust']!r}")
        chosen("option since", given["since"], ("inclusive", "exclusive"))
        key = given["api_key"] or f"whk_{Random(f'webhook-{seed}').getrandbits(128):032x}"
        resolution_ms = int(_number("resolution_s", given["resolution_s"]) * 1000)
        self.records = Records(self, resolution_ms, tuple(filter(None, given["indexed"].split(","))))
        self.records.told = self._tell
        self.inboxes = Inboxes(self, self.records, seed)
        self._jitter = _number("jitter", given["jitter"])
        self._retries_s = [_number("retries_s", p) for p in given["retries_s"].split(",") if p]
        self._contacts = int(_number("contacts", given["contacts"]))
        self._sender: Sender | None = None
        paging = chosen("option paging", given["paging"], _PAGING)
        self._rest = Rest(self, self.records, lambda: self.sender, key, paging, given["since"] == "inclusive")
        self._routes = [Route("/inbox/{name}", self.inboxes.receive, methods=["POST"]), *self._rest.routes()]
        self._open_inboxes()
        self._seed_records()

    @property
    def sender(self) -> Sender:
        """Return what sends; it exists from the start on."""
        assert self._sender is not None
        return self._sender

    def routes(self) -> Sequence[BaseRoute]:
        return self._routes

    def credentials(self) -> dict[str, Any]:
        inboxes = {name: {"scheme": i.scheme, "secrets": i.secrets} for name, i in self.inboxes.held.items()}
        endpoints = [] if self._sender is None else [e.shown() for e in self._sender.endpoints.values()]
        return {"api_key": self._rest.key, "inboxes": inboxes, "webhooks": endpoints}

    def started(self) -> None:
        self._begin_sending()

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        if kind == "webhooks":
            raise ValueError("webhooks are endpoints here, no kind of record")
        done = []
        for record in records:
            record_id = str(record["id"]) if record.get("id") else self.records.new_id(kind)
            self.records.put(kind, record_id, record, None, whole=True)
            done.append(record_id)
        return done

    def dump(self, kind: str) -> list[dict[str, Any]]:
        return [record.shown() for record in self.records.kinds.get(kind, {}).values()]

    def reset(self) -> None:
        self.records.clear()
        self.inboxes.held.clear()
        self._rest.revoked = False
        self._open_inboxes()
        if self._sender is not None:
            self._sender.forget()
            for endpoint in self._sender.endpoints.values():
                endpoint.enabled, endpoint.reason = False, "reset"
            self._sender.endpoints.clear()
            self._add_target()
        self._seed_records()

    def controls(self) -> Sequence[Route]:
        post: list[tuple[str, Callable[[Request], Awaitable[Any]]]] = [
            ("/edit/{kind}", self._edit),
            ("/delete/{kind}", self._delete),
            ("/webhooks", self._add_endpoint),
            ("/inbox/{name}", self._open_inbox),
            ("/revoke", self._revoke),
        ]
        get: list[tuple[str, Callable[[Request], Awaitable[Any]]]] = [
            ("/webhooks", self._endpoints),
            ("/deliveries", self._deliveries),
            ("/inbox/{name}", self._received),
            ("/changes", self._changes),
        ]
        return [Route(path, _told(work), methods=["POST"]) for path, work in post] + [
            Route(path, _told(work)) for path, work in get
        ]

    def not_found(self, request: Request) -> Response:
        allowed = sorted(
            {
                method
                for route in self._routes
                if route.matches(request.scope)[0] is not Match.NONE
                for method in route.methods or ()
            }
        )
        if allowed:
            body = {"code": "method_not_allowed", "message": f"there are: {', '.join(allowed)}"}
            return answer(body, 405, {"allow": ", ".join(allowed)})
        return answer({"code": "no_such_path", "message": f"there is nothing at {request.url.path}"}, 404)

    def _tell(self, happened: Happened) -> None:
        if self._sender is not None:
            self._sender.tell(happened)

    def _begin_sending(self) -> None:
        self._sender = Sender(self, self._seed, self._jitter, self._options["trust"])
        self._add_target()

    def _add_target(self) -> None:
        given = self._options
        if given["target"]:
            wish = {"url": given["target"], "scheme": given["scheme"], "content": given["content"]}
            wish |= {name: given[name] for name in ("secret", "form") if given[name]}
            kinds = [kind for kind in given["kinds"].split(",") if kind]
            self.sender.add({**wish, "kinds": kinds}, self._retries_s or None)

    def _open_inboxes(self) -> None:
        given = self._options
        for name in filter(None, given["inbox"].split(",")):
            wish = {"scheme": given["inbox_scheme"], "form": given["inbox_form"], "key": given["inbox_key"]}
            secrets = [secret for secret in given["inbox_secret"].split(",") if secret]
            self.inboxes.open(name, {**wish, "secrets": secrets, "kind": given["inbox_kind"] or None})

    def _seed_records(self) -> None:
        """Make contacts, before anybody is told of changes."""
        sender, self._sender = self._sender, None
        for n in range(1, self._contacts + 1):
            person = {"email": f"person{n}@hooks.example", "first_name": "Person", "last_name": str(n)}
            self.records.put("contacts", self.records.new_id("contacts"), person, None, whole=True)
        self._sender = sender

    # The control API.

    async def _edit(self, request: Request) -> Any:
        """Edit records as a user does: ``[{"id": …, field: value, …}]``; other fields stay."""
        kind, done = request.path_params["kind"], []
        for wish in await _array(request):
            record = self.records.get(kind, str(wish.get("id")))
            if record is None:
                raise ValueError(f"there is no {kind} {wish.get('id')!r}")
            result = self.records.put(kind, record.id, wish, None, whole=False)
            done.append({"id": record.id, "version": record.version, "result": result})
        return done

    async def _delete(self, request: Request) -> Any:
        """Delete records as a user does: ``[id, …]``."""
        kind, done = request.path_params["kind"], []
        for record_id in await _array(request):
            record = self.records.get(kind, str(record_id))
            if record is None:
                raise ValueError(f"there is no {kind} {record_id!r}")
            self.records.delete(record, None)
            done.append({"id": record.id, "version": record.version, "result": "deleted"})
        return done

    async def _add_endpoint(self, request: Request) -> Any:
        """Add an endpoint, as the REST API does; `retries_s` gives other pauses."""
        return self.sender.add(await body_of(request) or {}, self._retries_s or None).shown()

    async def _endpoints(self, _: Request) -> Any:
        return [endpoint.shown() for endpoint in self.sender.endpoints.values()]

    async def _deliveries(self, _: Request) -> Any:
        return self.sender.shown()

    async def _open_inbox(self, request: Request) -> Any:
        """Open an inbox or change it: ``{"scheme", "secrets", "form", "kind", "key", "header", "tolerance_s"}``, all optional."""
        return self.inboxes.open(request.path_params["name"], await body_of(request) or {}).shown()

    async def _received(self, request: Request) -> Any:
        name = request.path_params["name"]
        if name not in self.inboxes.held:
            raise ValueError(f"there is no inbox {name!r}; there are: {', '.join(self.inboxes.held)}")
        return self.inboxes.held[name].shown()

    async def _revoke(self, request: Request) -> Any:
        """Revoke the API key, or give it back with ``{"undo": true}``."""
        self._rest.revoked = not (await body_of(request) or {}).get("undo", False)
        return {}

    async def _changes(self, request: Request) -> Any:
        """Show the latest changes of records with who made them, ``?last=`` (100)."""
        last = int(request.query_params.get("last", "100"))
        return list(self.records.changes)[-last:] if last else []


def _told(work: Callable[[Request], Awaitable[Any]]) -> Handler:
    async def handle(request: Request) -> Response:
        try:
            return answer(await work(request))
        except (TypeError, ValueError) as error:
            return answer({"error": str(error)}, 400)

    return handle


async def _array(request: Request) -> list[Any]:
    wish = await body_of(request)
    if not isinstance(wish, list):
        raise ValueError("send an array")
    return wish


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"option {name} is a number, 0 or more, not {text!r}")
    return value
