"""The REST API as a whole: what every call goes through before and after the part that answers it."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.faults import Faults
from simulators.salesforce.asking import Ask, Reply, parameters, split
from simulators.salesforce.bulk_query import BulkQuery
from simulators.salesforce.composite import Composite
from simulators.salesforce.context import Context
from simulators.salesforce.describe import LATEST, OLDEST, Describe, resources, versions
from simulators.salesforce.duplicates import spelling
from simulators.salesforce.errors import Refusal, not_found
from simulators.salesforce.ingest import Ingest
from simulators.salesforce.jobs import Jobs
from simulators.salesforce.oauth import instance, token_of
from simulators.salesforce.queries import Queries
from simulators.salesforce.records import Records
from simulators.salesforce.replication import Replication
from simulators.salesforce.sessions import Session, Sessions
from simulators.salesforce.sobject_collections import Collections
from simulators.salesforce.usage import Limits, Usage

_DATA = re.compile(r"/services/data(?:/v(\d{2})\.0(?:/(.*))?)?/?\Z", re.DOTALL)
_LONGEST_URI = 16_384
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_FAULTS = {
    "limit": ("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", 403),
    "concurrent": ("REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded.", 403),
    "unknown": (
        "UNKNOWN_EXCEPTION",
        "An unexpected error occurred. Please include this ErrorId if you contact support: 1234-5678 (1)",
        500,
    ),
    "unavailable": ("SERVER_UNAVAILABLE", "The server is temporarily unable to handle the request", 503),
    "disabled": ("API_DISABLED_FOR_ORG", "The REST API is not enabled for this Organization.", 403),
    "forbidden": ("INSUFFICIENT_ACCESS_OR_READONLY", "insufficient access rights on object id", 403),
}


class Service:
    """Everything under ``/services/data``."""

    def __init__(self, context: Context, sessions: Sessions, faults: Faults, usage: Usage) -> None:
        self._context = context
        self._sessions = sessions
        self._faults = faults
        self.usage = usage
        # The order counts: what is added first wins, and the records' shapes fit nearly everything.
        Collections(context)
        Composite(context)
        self.jobs = Jobs(context)
        Ingest(context, self.jobs)
        BulkQuery(context, self.jobs)
        Limits(context, usage, self.jobs)
        self.queries = Queries(context)
        self.replication = Replication(context)
        Describe(context)
        Records(context)

    def routes(self) -> Sequence[BaseRoute]:
        """Return the one route, whose parts the service takes apart itself: external ids hold what paths must not."""
        return [
            Route("/services/data", self._serve, methods=_METHODS),
            Route("/services/data/{rest:path}", self._serve, methods=_METHODS),
        ]

    def reset(self) -> None:
        """Forget cursors, jobs and usage."""
        self.queries.reset()
        self.jobs.reset()
        self.usage.reset()

    async def _serve(self, request: Request) -> Response:
        try:
            reply = await self._answered(request)
        except Refusal as refusal:
            reply = Reply(refusal.status, refusal.body())
        if reply.status == 401:
            reply.headers["WWW-Authenticate"] = "Token"
        headers = {**reply.headers, **self.usage.header()}
        content = reply.content()
        if content and reply.media.startswith("application/json") and request.headers.get("x-prettyprint") == "1":
            content = msgspec.json.format(content, indent=2)
        if reply.data is None:
            return Response(status_code=reply.status, headers=headers)
        return Response(content, reply.status, headers, media_type=reply.media)

    async def _answered(self, request: Request) -> Reply:
        raw_path = request.scope.get("raw_path", b"").decode("latin-1").partition("?")[0] or request.url.path
        query = request.scope["query_string"].decode("latin-1")
        body = await _body(request)
        if len(raw_path) + len(query) > _LONGEST_URI:
            raise Refusal("URI_TOO_LONG", "the URI is longer than 16,384 bytes", 414)
        self._context.org.settle()
        match = _DATA.match(raw_path)
        if match is None:
            raise not_found()
        if match[1] is None:
            return Reply(data=versions())
        if not OLDEST <= int(match[1]) <= LATEST:
            raise not_found()
        if (reply := self._fault(request.method, raw_path)) is not None:
            return reply
        session = self._session(request, raw_path)
        if self.usage.spent():
            code, message, status = _FAULTS["limit"]
            raise Refusal(code, message, status)
        self.usage.count()
        version, parts, asked = f"{match[1]}.0", split(match[2] or ""), parameters(query)
        if not parts:
            return Reply(data=resources(version, f"{instance(request)}/id/{self._context.org.id}/{session.user}"))
        method = request.method
        if method == "POST" and "_HttpMethod" in asked:
            method = asked["_HttpMethod"].upper()
        ask = Ask(
            method,
            version,
            parts,
            asked,
            {k: v for k, v in request.headers.items() if k.startswith(("sforce", "content", "accept"))},
            body,
            session,
            spelling(self._context.options.duplicate_key, int(match[1])),
        )
        return await self._context.run(ask)

    def _fault(self, method: str, path: str) -> Reply | None:
        for kind, (code, message, status) in _FAULTS.items():
            if self._faults.take(kind, method, path) is not None:
                raise Refusal(code, message, status)
        if (edge := self._faults.take("edge", method, path)) is not None:
            return Reply(int(edge.more.get("status", 420)))
        return None

    def _session(self, request: Request, path: str) -> Session:
        if self._faults.take("expire_tokens", request.method, path) is not None:
            self._sessions.expire()
        token = token_of(request.headers.get("authorization", ""))
        if token is None and "authorization" in request.headers:
            raise Refusal("INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE", 401)
        session = self._sessions.find(token) if token is not None else None
        if session is None:
            raise Refusal("INVALID_SESSION_ID", "Session expired or invalid", 401)
        return session


async def _body(request: Request) -> bytes:
    raw = await request.body()
    if raw and request.headers.get("content-encoding", "").lower() == "gzip":
        try:
            return gzip.decompress(raw)
        except (OSError, EOFError, zlib.error):
            raise Refusal("JSON_PARSER_ERROR", "the body is not what its Content-Encoding says") from None
    return raw
