"""The REST API of the webhook system: its records, in three styles of paging, and its webhook endpoints."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import Handler, Simulator, answer
from simulators.places import Place
from simulators.webhook.inbox import MOST_BYTES
from simulators.webhook.records import Record, Records
from simulators.webhook.schemes import Refused
from simulators.webhook.sending import Endpoint, Sender
from simulators.webhook.times import milliseconds

MOST = 500
USUAL = 100
_Work = Callable[[Request], Awaitable[Response]]


class Rest:
    """The handlers. ``paging`` is the style of a list that is asked for without one; ``inclusive``: what `modified_since` means."""

    def __init__(
        self,
        simulator: Simulator,
        records: Records,
        sender: Callable[[], Sender],
        key: str,
        paging: str,
        inclusive: bool,
    ) -> None:
        self._simulator, self._records, self._sender = simulator, records, sender
        self.key, self._paging, self._inclusive = key, paging, inclusive
        self.revoked = False

    def routes(self) -> list[Route]:
        """Return all paths."""
        paths: list[tuple[str, str, _Work]] = [
            ("/api/webhooks", "GET", self._list_endpoints),
            ("/api/webhooks", "POST", self._add_endpoint),
            ("/api/webhooks/{id}", "GET", self._get_endpoint),
            ("/api/webhooks/{id}", "PATCH", self._change_endpoint),
            ("/api/webhooks/{id}", "DELETE", self._drop_endpoint),
            ("/api/webhooks/{id}/rotate", "POST", self._rotate),
            ("/api/{kind}", "GET", self._list),
            ("/api/{kind}", "POST", self._create),
            ("/api/{kind}/{id}", "GET", self._get),
            ("/api/{kind}/{id}", "PUT", self._put),
            ("/api/{kind}/{id}", "PATCH", self._patch),
            ("/api/{kind}/{id}", "DELETE", self._delete),
        ]
        return [Route(path, self._guarded(work), methods=[method]) for path, method, work in paths]

    def _guarded(self, work: _Work) -> Handler:
        async def handle(request: Request) -> Response:
            faults, path = self._simulator.faults, request.url.path
            try:
                self._check(request)
                if (limit := faults.take("limit", request.method, path)) is not None:
                    wait = str(int(limit.more.get("retry_after_s", 1)))
                    body = {"code": "too_many_requests", "message": f"wait {wait} s"}
                    return answer(body, 429, {"retry-after": wait})
                return await work(request)
            except Refused as refused:
                headers = {"www-authenticate": "Bearer"} if refused.status == 401 else None
                return answer({"code": refused.code, "message": refused.message}, refused.status, headers)

        return handle

    def _check(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        sent = request.headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        if not sent:
            raise Refused(401, "missing_credentials", "send Authorization: Bearer, or X-Api-Key")
        if self.revoked or not hmac.compare_digest(sent.encode(), self.key.encode()):
            raise Refused(401, "invalid_credentials", "the key is wrong or was revoked")

    # Records.

    async def _list(self, request: Request) -> Response:
        kind, query = request.path_params["kind"], request.query_params
        known = {"modified_since", "after_id", "include_deleted", "limit", "per_page", "cursor", "page", "offset"}
        equal = {name: value for name, value in query.items() if name in self._records.indexed}
        if unknown := sorted(set(query) - known - set(equal)):
            raise Refused(400, "unknown_parameter", f"a list cannot be asked for {unknown[0]!r}")
        start = self._start(query)
        deleted = query.get("include_deleted") == "1"
        style = next((s for s in ("cursor", "page", "offset") if s in query), self._paging)
        if style == "cursor":
            limit = _whole(query, "limit", USUAL, 1, MOST)
            if query.get("cursor"):
                start = max(start, _unwrapped(query["cursor"]))
            rows = list(islice(self._found(kind, start, equal, deleted), limit + 1))
            shown = rows[:limit]
            cursor = _wrapped(shown[-1]) if len(rows) > limit else None
            return answer({"items": [r.shown() for r in shown], "next_cursor": cursor})
        rows = list(self._found(kind, start, equal, deleted))
        if style == "offset":
            limit, offset = _whole(query, "limit", USUAL, 1, MOST), _whole(query, "offset", 0, 0, 10**9)
            items = [r.shown() for r in rows[offset : offset + limit]]
            return answer({"items": items, "offset": offset, "limit": limit, "total": len(rows)})
        size, number = _whole(query, "per_page", USUAL, 1, MOST), _whole(query, "page", 1, 1, 10**9)
        pages = -(-len(rows) // size)
        items = [r.shown() for r in rows[(number - 1) * size : number * size]]
        body = {"items": items, "page": number, "per_page": size, "pages": pages, "total": len(rows)}
        links = {"link": f'<{request.url.include_query_params(page=number + 1)}>; rel="next"'} if number < pages else {}
        return answer(body, 200, links)

    def _found(self, kind: str, start: Place, equal: dict[str, str], deleted: bool) -> Any:
        if not equal:
            return self._records.since(kind, start, deleted=deleted)
        name = next(iter(equal))
        return (
            r
            for r in self._records.having(kind, name, equal[name])
            if (r.at_ms, r.id) > start and all(str(r.fields.get(n)) == v for n, v in equal.items())
        )

    def _start(self, query: QueryParams) -> Place:
        since = query.get("modified_since")
        if since is None:
            if "after_id" in query:
                raise Refused(400, "bad_parameter", "after_id breaks ties of modified_since; send both")
            return (-1, "")
        try:
            at_ms = milliseconds(since)
        except ValueError:
            raise Refused(
                400, "bad_parameter", "modified_since is RFC 3339 with a zone, or seconds since 1970"
            ) from None
        if "after_id" in query:
            return (at_ms, query["after_id"])
        return (at_ms, "") if self._inclusive else (at_ms + 1, "")

    async def _create(self, request: Request) -> Response:
        kind, fields = request.path_params["kind"], await _object(request)
        record_id = str(fields["id"]) if fields.get("id") else self._records.new_id(kind)
        if self._records.get(kind, record_id) is not None:
            raise Refused(409, "exists", f"there is {kind} {record_id} already; change it with PUT or PATCH")
        self._records.put(kind, record_id, fields, request.headers.get("x-origin"), whole=True)
        return self._answer(self._records.kinds[kind][record_id], 201)

    async def _get(self, request: Request) -> Response:
        return self._answer(self._record(request))

    async def _put(self, request: Request) -> Response:
        kind, record_id, fields = request.path_params["kind"], request.path_params["id"], await _object(request)
        found = self._records.get(kind, record_id)
        self._match(request, found)
        self._records.put(kind, record_id, fields, request.headers.get("x-origin"), whole=True)
        return self._answer(self._records.kinds[kind][record_id], 200 if found is not None else 201)

    async def _patch(self, request: Request) -> Response:
        record, fields = self._record(request), await _object(request)
        self._match(request, record)
        self._records.put(record.kind, record.id, fields, request.headers.get("x-origin"), whole=False)
        return self._answer(record)

    async def _delete(self, request: Request) -> Response:
        record = self._record(request)
        self._match(request, record)
        self._records.delete(record, request.headers.get("x-origin"))
        return Response(status_code=204)

    def _record(self, request: Request) -> Record:
        record = self._records.get(request.path_params["kind"], request.path_params["id"])
        if record is None:
            raise Refused(404, "not_found", "there is no such record")
        return record

    def _match(self, request: Request, record: Record | None) -> None:
        wanted = request.headers.get("if-match", "*").strip()
        if wanted != "*" and (record is None or wanted.strip('"') != str(record.version)):
            raise Refused(412, "version_mismatch", "the record has another version: read it again, then decide")

    def _answer(self, record: Record, status: int = 200) -> Response:
        return answer(record.shown(), status, {"etag": f'"{record.version}"'})

    # Endpoints.

    async def _list_endpoints(self, _: Request) -> Response:
        return answer({"items": [e.shown() for e in self._sender().endpoints.values()]})

    async def _add_endpoint(self, request: Request) -> Response:
        try:
            return answer(self._sender().add(await _object(request)).shown(), 201)
        except (TypeError, ValueError) as error:
            raise Refused(422, "invalid_endpoint", str(error)) from None

    async def _get_endpoint(self, request: Request) -> Response:
        return answer(self._endpoint(request).shown())

    async def _change_endpoint(self, request: Request) -> Response:
        endpoint, wish = self._endpoint(request), await _object(request)
        if set(wish) != {"enabled"} or not isinstance(wish["enabled"], bool):
            raise Refused(422, "invalid_endpoint", "only enabled can be changed, to true or false")
        endpoint.enabled, endpoint.reason = wish["enabled"], None if wish["enabled"] else "by request"
        return answer(endpoint.shown())

    async def _drop_endpoint(self, request: Request) -> Response:
        endpoint = self._endpoint(request)
        endpoint.enabled, endpoint.reason = False, "deleted"
        del self._sender().endpoints[endpoint.id]
        return Response(status_code=204)

    async def _rotate(self, request: Request) -> Response:
        endpoint, wish = self._endpoint(request), await _object(request)
        try:
            self._sender().rotate(endpoint, float(wish.get("overlap_s", 86_400)), wish.get("secret"))
        except (TypeError, ValueError) as error:
            raise Refused(422, "invalid_rotation", str(error)) from None
        return answer(endpoint.shown())

    def _endpoint(self, request: Request) -> Endpoint:
        endpoint = self._sender().endpoints.get(request.path_params["id"])
        if endpoint is None:
            raise Refused(404, "not_found", "there is no such endpoint")
        return endpoint


async def _object(request: Request) -> dict[str, Any]:
    raw = await request.body()
    if len(raw) > MOST_BYTES:
        raise Refused(413, "too_large", f"at most {MOST_BYTES} bytes are taken")
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(400, "malformed_body", "the body is no JSON") from None
    if not isinstance(data, dict):
        raise Refused(400, "malformed_body", "the body is no JSON object")
    return data


def _whole(query: QueryParams, name: str, usual: int, lowest: int, highest: int) -> int:
    value = query.get(name, str(usual))
    if value.isascii() and value.isdigit() and len(value) < 12 and lowest <= int(value) <= highest:
        return int(value)
    raise Refused(400, "bad_parameter", f"{name} is a whole number between {lowest} and {highest}")


def _wrapped(record: Record) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([record.at_ms, record.id])).decode().rstrip("=")


def _unwrapped(cursor: str) -> Place:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=tuple[int, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise Refused(400, "bad_parameter", "send next_cursor of an answer as it came") from None
