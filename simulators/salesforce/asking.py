"""One call of the REST API, however it came: on its own, or inside a composite request or a batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from simulators.salesforce.errors import Refusal, not_found
from simulators.salesforce.sessions import Session
from simulators.salesforce.unit import Actor, Unit


@dataclass(slots=True)
class Ask:
    """A call: version as it stands in the path (``60.0``), the parts of the path after it, and who calls."""

    method: str
    version: str
    parts: tuple[str, ...]
    query: dict[str, str]
    headers: Mapping[str, str]
    raw: bytes
    session: Session
    duplicate_key: str = "duplicateResult"
    api: str = "rest"
    body: Any = field(default=None)
    """The body if it came already read, inside another one."""
    unit: Unit | None = None
    """The transaction that a request around this one has begun."""

    @property
    def path(self) -> str:
        """Return the path as faults match it."""
        return f"/services/data/v{self.version}/{'/'.join(self.parts)}"

    def json(self) -> Any:
        """Return the body. Raises Refusal (JSON_PARSER_ERROR)."""
        if self.body is not None:
            return self.body
        if not self.raw.strip():
            raise Refusal("JSON_PARSER_ERROR", "The HTTP entity body is required, but this request has no entity body.")
        try:
            return msgspec.json.decode(self.raw)
        except msgspec.DecodeError as error:
            raise Refusal("JSON_PARSER_ERROR", f"{error} at [line:1, column:1]") from None

    def object(self) -> dict[str, Any]:
        """Return the body if it is an object. Raises Refusal (JSON_PARSER_ERROR)."""
        out = self.json()
        if not isinstance(out, dict):
            raise Refusal(
                "JSON_PARSER_ERROR", "Cannot deserialize instance of object from this value [line:1, column:1]"
            )
        return out

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a parameter that is true or false."""
        value = self.query.get(name)
        return default if value is None else value.lower() == "true"

    def option(self, header: str, name: str) -> str | None:
        """Return one ``name=value`` of a header that holds several."""
        for part in self.headers.get(header.lower(), "").replace(";", ",").split(","):
            key, equals, value = part.partition("=")
            if equals and key.strip().lower() == name.lower():
                return value.strip()
        return None

    def actor(self) -> Actor:
        """Return who writes, as records and change events remember it."""
        client = self.option("sforce-call-options", "client")
        origin = f"com/salesforce/api/{self.api}/{self.version}" + (f";client={client}" if client else "")
        rule = "sforce-duplicate-rule-header"
        return Actor(
            self.session.user,
            origin,
            client,
            int(self.version.partition(".")[0]),
            self.method,
            self.path,
            (self.option(rule, "allowSave") or "").lower() == "true",
            (self.option(rule, "includeRecordDetails") or "").lower() == "true",
            self.duplicate_key,
        )


@dataclass(slots=True)
class Reply:
    """An answer: ``data`` goes out as JSON unless it is bytes; None is an empty body."""

    status: int = 200
    data: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    media: str = "application/json;charset=UTF-8"

    def content(self) -> bytes:
        """Return the body."""
        if self.data is None:
            return b""
        return self.data if isinstance(self.data, bytes) else msgspec.json.encode(self.data)


Handler = Callable[[Ask], Reply | Awaitable[Reply]]


class Router:
    """Paths after ``/services/data/vNN.0/`` and what answers them; ``*`` stands for one part, ``**`` at the end for the rest."""

    def __init__(self) -> None:
        self._routes: dict[int, list[tuple[tuple[str, ...], dict[str, Handler]]]] = {}

    def add(self, shape: str, **handlers: Handler) -> None:
        """Add a path with a handler per method. What is added first wins."""
        parts = tuple(shape.lower().split("/"))
        self._routes.setdefault(len(parts), []).append((parts, handlers))

    def find(self, method: str, parts: tuple[str, ...]) -> Handler:
        """Return the handler of a call. Raises Refusal (404, 405)."""
        allowed: list[str] = []
        for shape, handlers in self._routes.get(len(parts), ()):
            if all(s == "*" or s == p.lower() for s, p in zip(shape, parts, strict=True)):
                if (handler := handlers.get(method)) is not None:
                    return handler
                allowed += handlers
        if allowed:
            raise Refusal(
                "METHOD_NOT_ALLOWED",
                f"HTTP Method '{method}' not allowed. Allowed are {','.join(sorted(allowed))}",
                405,
            )
        raise not_found()


def split(path: str) -> tuple[str, ...]:
    """Return the parts of a raw path, decoded; a slash at the end does not count."""
    return tuple(unquote(p) for p in path.strip("/").split("/")) if path.strip("/") else ()


def parameters(query: str) -> dict[str, str]:
    """Return the parameters of a query string."""
    return dict(parse_qsl(query, keep_blank_values=True))


def names(text: str | Iterable[str]) -> list[str]:
    """Return a list that came separated by commas, or as one already."""
    return [n.strip() for n in (text.split(",") if isinstance(text, str) else text) if n.strip()]
