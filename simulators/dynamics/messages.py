"""Requests and answers inside the simulator: the same for a request of its own and for a part of a batch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_plus

import msgspec

from simulators.dynamics.errors import JSON, ODataError, bad_payload, no_segment
from simulators.dynamics.rendering import Annotations

_API = re.compile(r"^(?:https?://[^/]+)?(/api/data/v(\d+\.\d+))(?:/(.*))?$", re.DOTALL)
_PREFERENCE = re.compile(r'\s*([\w.-]+)\s*(?:=\s*(?:"([^"]*)"|([^,;]*)))?\s*(?:[,;]|$)')
VERSIONS = ("9.0", "9.1", "9.2")


@dataclass(slots=True)
class Reply:
    """An answer."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the user whose token it is, and the one on whose account it acts if it impersonates."""

    user: str
    app: str = ""
    acting_for: str | None = None

    @property
    def acting(self) -> str:
        """Return the user who counts as the author."""
        return self.acting_for or self.user


@dataclass(slots=True)
class Ask:
    """A request. ``path`` is what follows the version, still percent-encoded; ``root`` the address up to there."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    root: str
    caller: Caller
    references: dict[str, str] = field(default_factory=dict)
    """In a change set: content id → path of what it made."""
    operation: str = ""
    prefer: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prefer = preferences(self.headers.get("prefer", ""))

    @property
    def parameters(self) -> dict[str, str]:
        """Return the query string's parameters, decoded."""
        out = {}
        for part in self.query.split("&"):
            name, _, value = part.partition("=")
            if name:
                out[unquote_plus(name)] = unquote_plus(value)
        return out

    @property
    def tag(self) -> str | None:
        """Return the shared variable that a client gives its writes."""
        return self.parameters.get("tag") if "tag" in self.query else None

    @property
    def annotations(self) -> Annotations:
        """Return which annotations are wanted."""
        return Annotations.of(self.prefer.get("odata.include-annotations"))

    @property
    def wants_body(self) -> bool:
        """Return whether a write is to answer with the row."""
        return self.prefer.get("return") == "representation"

    @property
    def if_match(self) -> str | None:
        """Return the etag that the row must have, ``*`` for any."""
        return self._etag("if-match")

    @property
    def if_none_match(self) -> str | None:
        """Return the etag that the row must not have, ``*`` for any."""
        return self._etag("if-none-match")

    def _etag(self, header: str) -> str | None:
        text = self.headers.get(header)
        return None if text is None or text.strip() in ("", "null") else text.strip()

    def json(self, entity_set: str) -> dict[str, Any]:
        """Return the body as a JSON object. Raises ODataError."""
        try:
            data = msgspec.json.decode(self.body) if self.body.strip() else {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise bad_payload(entity_set, f"The body is no valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise bad_payload(entity_set, "The body is no JSON object.")
        return data


def preferences(text: str) -> dict[str, str]:
    """Return what a Prefer header says: name in lower case → value, empty where there is none."""
    out = {}
    at = 0
    while at < len(text):
        match = _PREFERENCE.match(text, at)
        if match is None or match.end() == at:
            break
        out[match[1].lower()] = (match[2] if match[2] is not None else match[3] or "").strip()
        at = match.end()
    return out


def located(url: str) -> tuple[str, str, str] | None:
    """Return what an absolute or rooted address of the Web API is made of: version, path, query; None for any other."""
    match = _API.match(url)
    if match is None:
        return None
    path, _, query = (match[3] or "").partition("?")
    return match[2], path, query


def segments(path: str) -> list[str]:
    """Return the decoded parts of a path; a slash in quotes separates nothing. Raises ODataError."""
    out, quoted, start = [], False, 0
    for at, letter in enumerate(path):
        if letter == "'" or path.startswith("%27", at):
            quoted = not quoted
        elif letter == "/" and not quoted:
            out.append(path[start:at])
            start = at + 1
    out.append(path[start:])
    parts = [unquote(p) for p in out if p]
    for part in parts:
        if part.count("(") and not part.endswith(")"):
            raise no_segment(part)
    return parts


def named(segment: str) -> tuple[str, str | None]:
    """Return the name of a segment and what stands in its brackets, None without any."""
    name, bracket, rest = segment.partition("(")
    return name, (rest[:-1] if bracket else None)


def answered(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return an answer with a JSON body."""
    return Reply(status, msgspec.json.encode(data), {"Content-Type": JSON, **(headers or {})})


def failed(error: ODataError, annotated: bool) -> Reply:
    """Return the answer that an error is."""
    return Reply(error.status, error.body(annotated), {"Content-Type": JSON, **error.headers})
