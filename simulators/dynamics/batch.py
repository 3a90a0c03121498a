"""$batch: multipart requests and answers, change sets as transactions, references between their parts."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from simulators.dynamics.errors import ODataError, bad_query
from simulators.dynamics.messages import VERSIONS, Ask, Caller, Reply, failed, located
from simulators.dynamics.store import Store

MAX_PARTS = 1000
_BOUNDARY = re.compile(r'boundary\s*=\s*(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_MAX_URL = 65_536
_INHERITED = ("prefer", "mscrm.suppressduplicatedetection", "mscrm.bypassbusinesslogicexecution", "x-ms-correlation-id")
_REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    412: "Precondition Failed",
    500: "Internal Server Error",
}


@dataclass(slots=True)
class Part:
    """One request of a batch, or a change set of several."""

    ask: Ask | None = None
    content_id: str | None = None
    changes: list[Part] = field(default_factory=list)
    is_set: bool = False


class Batch:
    """Carries out batches. ``single`` answers one request and raises ODataError; ``events`` marks what was told, and returns how to forget what is told after it."""

    def __init__(self, store: Store, single: Callable[[Ask], Reply], events: Callable[[], Callable[[], None]]) -> None:
        self._store = store
        self._single = single
        self._events = events

    def handle(self, ask: Ask) -> Reply:
        """Answer a batch. Raises ODataError if the envelope cannot be read."""
        boundary = boundary_of(ask.headers.get("content-type", ""))
        if boundary is None:
            raise ODataError(
                400,
                "",
                "The content type of a batch request must be 'multipart/mixed' with a boundary, "
                f"but it was '{ask.headers.get('content-type', '')}'.",
            )
        parts = [self._part(head, body, ask) for head, body in split(ask.body.decode("utf-8", "replace"), boundary)]
        total = sum(len(p.changes) if p.is_set else 1 for p in parts)
        if total > MAX_PARTS:
            raise ODataError(400, "", f"The batch contains {total} operations; the maximum is {MAX_PARTS}.")
        if not parts:
            raise bad_query("Invalid batch: it has no parts, or its boundary is not the one of the content type.")
        go_on = "odata.continue-on-error" in ask.prefer and ask.prefer["odata.continue-on-error"].lower() != "false"
        mark = f"batchresponse_{uuid.uuid4()}"
        out: list[str] = []
        status = 200
        annotated = bool(ask.annotations.patterns)
        for part in parts:
            ok, text = self._set(part, annotated) if part.is_set else self._alone(part, annotated)
            if not ok and not go_on:
                out, status = [text], 400
                break
            out.append(text)
        body = "".join(f"--{mark}\r\n{text}\r\n" for text in out) + f"--{mark}--\r\n"
        return Reply(status, body.encode(), {"Content-Type": f"multipart/mixed; boundary={mark}"})

    def _alone(self, part: Part, annotated: bool) -> tuple[bool, str]:
        assert part.ask is not None
        begin = self._store.begin()
        forget = self._events()
        try:
            reply = self._single(part.ask)
        except ODataError as error:
            forget()
            self._store.rollback(begin)
            return False, rendered(failed(error, annotated or bool(part.ask.annotations.patterns)), part.content_id)
        self._store.commit()
        return True, rendered(reply, part.content_id)

    def _set(self, part: Part, annotated: bool) -> tuple[bool, str]:
        """Carry out a change set: all of it, or nothing."""
        inner = f"changesetresponse_{uuid.uuid4()}"
        replies: list[str] = []
        references: dict[str, str] = {}
        begin = self._store.begin()
        forget = self._events()
        for change in part.changes:
            assert change.ask is not None
            change.ask.references = references
            try:
                if change.ask.method == "GET":
                    raise bad_query("GET requests are not allowed in a change set.")
                reply = self._single(change.ask)
            except ODataError as error:
                forget()
                self._store.rollback(begin)
                return False, rendered(failed(error, annotated), change.content_id)
            if change.content_id is not None and "OData-EntityId" in reply.headers:
                references[change.content_id] = reply.headers["OData-EntityId"]
            replies.append(rendered(reply, change.content_id))
        self._store.commit()
        return True, _nested(inner, replies)

    def _part(self, head: dict[str, str], body: str, outer: Ask) -> Part:
        kind = head.get("content-type", "")
        if kind.lower().startswith("multipart/mixed"):
            boundary = boundary_of(kind)
            if boundary is None:
                raise bad_query("A change set needs a boundary.")
            return Part(changes=[self._part(h, b, outer) for h, b in split(body, boundary)], is_set=True)
        content_id = head.get("content-id")
        return Part(_request(body, outer), content_id)


def _request(text: str, outer: Ask) -> Ask:
    """Return the request that stands in a part. Raises ODataError."""
    head, _, body = text.lstrip("\n").partition("\n\n")
    first, *lines = head.split("\n")
    method, _, rest = first.strip().partition(" ")
    url = re.sub(r"\s+HTTP/\d(\.\d)?$", "", rest).strip()
    if method not in _METHODS or not url:
        raise bad_query(f"'{first.strip()[:100]}' is no request line.")
    if len(url) > _MAX_URL:
        raise bad_query("The URL of a request in a batch is longer than 65,536 characters.")
    headers = {n: v for n, v in outer.headers.items() if n in _INHERITED and n != "prefer"}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    found = located(url)
    if found is not None:
        version, path, query = found
        if version not in VERSIONS:
            raise bad_query(f"There is no version {version} of the Web API.")
    else:
        path, _, query = url.lstrip("/").partition("?")
    # What follows the body's JSON is white space: parts end with a line break of their own.
    return Ask(
        method,
        path,
        query,
        headers,
        body.strip().encode(),
        outer.root,
        Caller(outer.caller.user, outer.caller.app, outer.caller.acting_for),
    )


def boundary_of(content_type: str) -> str | None:
    """Return the boundary of a multipart content type, quoted or not."""
    match = _BOUNDARY.search(content_type)
    return None if match is None else match[1] or match[2]


def split(text: str, boundary: str) -> list[tuple[dict[str, str], str]]:
    """Return the parts of a multipart body: headers in lower case, and what follows them; line ends become ``\\n``."""
    out = []
    current: list[str] | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.rstrip() in (f"--{boundary}", f"--{boundary}--"):
            if current is not None:
                out.append(_headed("\n".join(current)))
            current = [] if not line.rstrip().endswith(f"{boundary}--") else None
            if current is None:
                break
        elif current is not None:
            current.append(line)
    else:
        if current is not None and any(line.strip() for line in current):
            out.append(_headed("\n".join(current)))
    return out


def _headed(text: str) -> tuple[dict[str, str], str]:
    head, _, body = text.lstrip("\n").partition("\n\n")
    headers = {}
    for line in head.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return headers, body


def rendered(reply: Reply, content_id: str | None) -> str:
    """Return an answer as a part of a batch."""
    lines = ["Content-Type: application/http", "Content-Transfer-Encoding: binary"]
    if content_id is not None:
        lines.append(f"Content-ID: {content_id}")
    reason = _REASONS.get(reply.status, "Error")
    lines += ["", f"HTTP/1.1 {reply.status} {reason}"]
    lines += [f"{n}: {v}" for n, v in {**reply.headers, "OData-Version": "4.0"}.items()]
    return "\r\n".join([*lines, "", reply.body.decode()])


def _nested(boundary: str, replies: list[str]) -> str:
    inner = "".join(f"--{boundary}\r\n{text}\r\n" for text in replies) + f"--{boundary}--"
    return f"Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n{inner}"
