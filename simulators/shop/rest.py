"""The paths of the shop's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import Handler, answer
from simulators.shop import lists
from simulators.shop.access import Access
from simulators.shop.batches import Batches, entry, records_of
from simulators.shop.problems import Problem
from simulators.shop.resources import RESOURCES, Resource
from simulators.shop.store import Store, Writer
from simulators.shop.values import HIGHEST

ROOT = "/api/v1"
MOST_AT_ONCE = 10
MOST_BYTES = 1_000_000
MOST_BATCH_BYTES = 20_000_000
KEEPS_DELETIONS_S = 30 * 86_400.0
_Work = Callable[[Request, Writer], Awaitable[Response]]


class Rest:
    """The handlers of one shop."""

    def __init__(self, store: Store, access: Access, batches: Batches) -> None:
        self._store, self._access, self._batches = store, access, batches

    def routes(self) -> list[Route]:
        """Return all paths."""
        routes = [Route("/oauth/token", self._access.token, methods=["POST"])]
        for resource in RESOURCES.values():
            routes += self._of(resource)
        plain: list[tuple[str, str, str, _Work]] = [
            ("/deletions", "GET", "read", self._deletions),
            ("/batches", "POST", "write", self._submit),
            ("/batches", "GET", "read", self._list_batches),
            ("/batches/{id}", "GET", "read", self._batch),
            ("/batches/{id}/results", "GET", "read", self._results),
        ]
        return routes + [
            Route(ROOT + path, self._guarded(work, scope), methods=[method]) for path, method, scope, work in plain
        ]

    def _of(self, resource: Resource) -> list[Route]:
        many, one = f"{ROOT}/{resource.name}", f"{ROOT}/{resource.name}/{{id:int}}"

        async def list_(request: Request, _: Writer) -> Response:
            wish = lists.read(resource, request.query_params)
            return answer(lists.page(self._store, self._store.tables[resource.name], wish))

        def writing(operation: str) -> _Work:
            async def write(request: Request, writer: Writer) -> Response:
                envelope = await _object(request, MOST_BYTES)
                if set(envelope) - {"records"}:
                    raise Problem(400, "malformed_envelope", "The body has one member: records.")
                return self._several(resource, operation, records_of(envelope, MOST_AT_ONCE), writer)

            return write

        async def delete_several(request: Request, writer: Writer) -> Response:
            if set(request.query_params) - {"id"}:
                raise Problem(400, "unknown_parameter", "Only id can be given, up to 10 times.")
            ids = [lists.whole("id", value, 0, HIGHEST) for value in request.query_params.getlist("id")]
            if not ids:
                raise Problem(400, "bad_parameter", f"Give id, up to {MOST_AT_ONCE} times.")
            entries = records_of({"records": [{"id": i} for i in ids]}, MOST_AT_ONCE)
            return self._several(resource, "delete", entries, writer)

        async def get(request: Request, _: Writer) -> Response:
            return _record(self._store.row(resource, request.path_params["id"]).data)

        async def patch(request: Request, writer: Writer) -> Response:
            data = await _object(request, MOST_BYTES)
            named = {"id": request.path_params["id"], **_if_match(request)}
            if set(data) & {"id", "if_version"}:
                raise Problem(400, "malformed_envelope", "The path names the record and If-Match its version.")
            return _record(self._store.apply(resource, "update", {**data, **named}, writer).data)

        async def delete(request: Request, writer: Writer) -> Response:
            named = {"id": request.path_params["id"], **_if_match(request)}
            done = self._store.apply(resource, "delete", named, writer)
            return Response(status_code=204) if done.result == "deleted" else _record(done.data)

        paths: list[tuple[str, str, _Work]] = [
            (many, "GET", list_),
            (many, "POST", writing("create")),
            (many, "PATCH", writing("update")),
            (many, "PUT", writing("upsert")),
            (many, "DELETE", delete_several),
            (one, "GET", get),
            (one, "PATCH", patch),
            (one, "DELETE", delete),
        ]
        return [
            Route(path, self._guarded(work, "read" if method == "GET" else "write"), methods=[method])
            for path, method, work in paths
        ]

    def _guarded(self, work: _Work, scope: str) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                pulls = request.query_params.get("pull") == "1"
                return await work(request, self._access.check(request, "write" if pulls else scope))
            except Problem as problem:
                return problem.response()

        return handle

    def _several(self, resource: Resource, operation: str, records: list[dict[str, Any]], writer: Writer) -> Response:
        results = [entry(self._store, resource, operation, i, data, writer) for i, data in enumerate(records)]
        return answer({"results": results, "failed": sum(r["status"] == "failed" for r in results)})

    async def _deletions(self, request: Request, _: Writer) -> Response:
        query = dict(request.query_params)
        resource = RESOURCES.get(query.get("resource", ""))
        if resource is None:
            raise Problem(400, "bad_parameter", f"resource is one of {', '.join(RESOURCES)}.")
        renamed = {"deleted_at_min": "updated_at_min"}
        allowed = {"cursor", "limit", "after_id", *renamed}
        asked = {name: value for name, value in query.items() if name != "resource"}
        if unknown := sorted(set(asked) - allowed):
            raise Problem(400, "unknown_parameter", f"Deletions cannot be asked for {unknown[0]!r}.")
        wish = lists.read(resource, type(request.query_params)({renamed.get(n, n): v for n, v in asked.items()}))
        return answer(lists.deletions(self._store, resource, wish, KEEPS_DELETIONS_S))

    async def _submit(self, request: Request, writer: Writer) -> Response:
        envelope = await _object(request, MOST_BATCH_BYTES)
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= 128:
            raise Problem(400, "bad_idempotency_key", "Idempotency-Key has between 1 and 128 characters.")
        batch = self._batches.submit(envelope, await request.body(), key, writer)
        return answer(self._batches.shown(batch), 202, {"location": f"{ROOT}/batches/{batch.id}", "retry-after": "1"})

    async def _list_batches(self, request: Request, _: Writer) -> Response:
        query = request.query_params
        if unknown := sorted(set(query) - {"limit", "state"}):
            raise Problem(400, "unknown_parameter", f"Batches cannot be asked for {unknown[0]!r}.")
        limit = lists.whole("limit", query.get("limit", "20"), 1, 100)
        state = query.get("state")
        if state not in (None, "queued", "processing", "done", "failed"):
            raise Problem(400, "bad_parameter", "state is queued, processing, done or failed.")
        fitting = [b for b in self._batches.newest() if state in (None, b.state)]
        return answer({"data": [self._batches.shown(b) for b in fitting[:limit]]})

    async def _batch(self, request: Request, _: Writer) -> Response:
        batch = self._batches.get(request.path_params["id"])
        waits = {} if batch.finished_ms is not None else {"retry-after": "1"}
        return answer(self._batches.shown(batch), 200, waits)

    async def _results(self, request: Request, _: Writer) -> Response:
        query = request.query_params
        if unknown := sorted(set(query) - {"limit", "cursor", "failed"}):
            raise Problem(400, "unknown_parameter", f"Results cannot be asked for {unknown[0]!r}.")
        limit = lists.whole("limit", query.get("limit", "1000"), 1, 1000)
        only_failed = lists.whole("failed", query.get("failed", "0"), 0, 1)
        batch = self._batches.get(request.path_params["id"])
        start = lists.unwrapped(query["cursor"], only_failed)[0] if "cursor" in query else -1
        fitting = [
            r
            for r in self._batches.results(batch)
            if r["index"] > start and (not only_failed or r["status"] == "failed")
        ]
        shown = fitting[:limit]
        cursor = lists.wrapped((shown[-1]["index"], 0), only_failed) if len(fitting) > limit else None
        return answer({"results": shown, "next_cursor": cursor})


def _record(data: dict[str, Any]) -> Response:
    return answer(data, 200, {"etag": f'"{data["version"]}"'})


def _if_match(request: Request) -> dict[str, int]:
    """Return the version that `If-Match` names, if it names one. Raises Problem."""
    value = request.headers.get("if-match")
    if value is None or value.strip() == "*":
        return {}
    digits = value.strip().strip('"')
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and value.strip() in (digits, f'"{digits}"')):
        raise Problem(400, "bad_if_match", 'If-Match holds one ETag as it came, such as "7", or *.')
    return {"if_version": int(digits)}


async def _object(request: Request, most_bytes: int) -> dict[str, Any]:
    """Return the body, which must be a JSON object. Raises Problem."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "unsupported_media_type", "Send application/json.")
    raw = await request.body()
    if len(raw) > most_bytes:
        raise Problem(413, "body_too_large", f"The body has {len(raw)} bytes; at most {most_bytes} are taken.")
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "malformed_json", f"The body is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise Problem(400, "malformed_envelope", "The body is a JSON object.")
    return data
