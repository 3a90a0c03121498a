"""A loyalty programme with a REST API and signed webhooks, for tests of what the configuration describes.

Times of change have µs and grow with every change. Lists are sorted by them and tell of deletes for a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.base import Simulator, answer, body_of
from tidelock.apis.described import epoch_micros
from tidelock.avro import from_micros
from tidelock.errors import Fatal
from tidelock.signatures import SCHEMES, Call, Refused

SECRET = "whsec_bG95YWx0eS1zZWNyZXQtb2YtdHdlbnR5LWZvdXI="
TOKEN = "l0yalty-t0ken"


class Loyalty(Simulator):
    """The members of one programme."""

    name: ClassVar[str] = "loyalty"
    paging: ClassVar[str] = "offset"

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, str] = {}  # idempotency keys and numbers of webhooks
        self.token = TOKEN
        self.secret = SECRET
        self.hooks: list[Call] = []
        self.answers: list[int] = []
        """Statuses to answer the next webhooks with, whatever they say."""
        self._at = 0

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/members", self._members, methods=["GET", "POST"]),
            Route("/members/{id}", self._member, methods=["GET", "PATCH", "DELETE"]),
            Route("/in", self._in, methods=["POST"]),
        ]

    def credentials(self) -> dict[str, Any]:
        return {"token": self.token}

    def reset(self) -> None:
        self.members.clear()

    # What people and handlers do.

    def now(self) -> str:
        """Return a new time of change."""
        self._at = max(self._at + 1, time.time_ns() // 1000)
        return from_micros(self._at).isoformat()

    def create(self, values: dict[str, Any], at: str | None = None) -> str:
        """Make a member."""
        key = f"m{len(self.members) + 1}"
        base = {"email": None, "name": None, "origin": None}
        self.members[key] = {"id": key, **base, **values, "updated_at": at or self.now(), "deleted": False}
        return key

    def edit(self, key: str, values: dict[str, Any]) -> None:
        """Change a member."""
        self.members[key].update({"origin": None, **values, "updated_at": self.now()})

    def delete(self, key: str) -> None:
        """Delete a member."""
        self.members[key].update(deleted=True, updated_at=self.now())

    # The API.

    def _closed(self, request: Request) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return answer({"error": "unauthorized", "message": "the token is not good"}, 401)
        return None

    async def _members(self, request: Request) -> Response:
        if (closed := self._closed(request)) is not None:
            return closed
        if request.method == "POST":
            body = await body_of(request)
            if (wrong := self._wrong(body)) is not None:
                return wrong
            number = request.headers.get("idempotency-key", "")
            if number not in self.seen:
                self.seen[number] = self.create(body)
            return answer({"member": self.members[self.seen[number]]}, 201)
        since = epoch_micros(request.query_params.get("updated_since", "0"))
        rows = sorted(self.members.values(), key=lambda m: (epoch_micros(m["updated_at"]), int(m["id"][1:])))
        rows = [m for m in rows if epoch_micros(m["updated_at"]) >= since]
        if "updated_since" not in request.query_params:
            rows = [m for m in rows if not m["deleted"]]
        return self._page(request, rows)

    def _page(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        size = int(request.query_params.get("limit", "100"))
        match self.paging:
            case "page":
                start = (int(request.query_params["page"]) - 1) * size
                return answer({"data": rows[start : start + size]})
            case "cursor":
                start = int(request.query_params.get("after", "0"))
                more = str(start + size) if start + size < len(rows) else None
                return answer({"data": rows[start : start + size], "meta": {"next": more}})
            case "link":
                start = int(request.query_params.get("skip", "0"))
                whole = request.url.include_query_params(skip=start + size)
                headers = {"Link": f'<{whole}>; rel="next", </>; rel="help"'} if start + size < len(rows) else {}
                return answer({"data": rows[start : start + size]}, headers=headers)
            case _:
                start = int(request.query_params.get("offset", "0"))
                return answer({"data": rows[start : start + size]})

    async def _member(self, request: Request) -> Response:
        if (closed := self._closed(request)) is not None:
            return closed
        member = self.members.get(request.path_params["id"])
        if member is None or member["deleted"]:
            return answer({"error": "not_found"}, 404)
        if request.method == "PATCH":
            body = await body_of(request)
            if (wrong := self._wrong(body)) is not None:
                return wrong
            self.edit(member["id"], body)
        elif request.method == "DELETE":
            self.delete(member["id"])
            return answer({}, 200)
        return answer({"member": member})

    @staticmethod
    def _wrong(values: dict[str, Any]) -> Response | None:
        email = values.get("email")
        if email is None or "@" in email:
            return None
        return answer({"error": "invalid", "message": f"{email} is no address"}, 422)

    async def _in(self, request: Request) -> Response:
        """Take a webhook that somebody sends to the programme."""
        call = Call("POST", str(request.url), dict(request.headers.items()), await request.body())
        self.hooks.append(call)
        if self.answers:
            return answer({}, self.answers.pop(0), {"Location": "/elsewhere"})
        try:
            checked = SCHEMES["standard"].verify(call, [self.secret], time.time())
        except (Refused, Fatal):
            return answer({"error": "unauthorized"}, 401)
        event = await body_of(request)
        data = event["data"]
        values = {n: v for n, v in data.items() if n in ("email", "name", "origin")}
        op = event["type"].rpartition(".")[2]
        number = str(checked.id)
        if op == "created":
            if (wrong := self._wrong(values)) is not None:
                return wrong
            if number not in self.seen:
                self.seen[number] = self.create(values)
            return answer(self.members[self.seen[number]])
        member = self.members.get(data["id"])
        if member is None or member["deleted"]:
            return answer({"error": "not_found"}, 404)
        if number in self.seen:
            return answer(member)
        self.seen[number] = member["id"]
        if op == "deleted":
            self.delete(member["id"])
        else:
            self.edit(member["id"], values)
        return answer(member)
