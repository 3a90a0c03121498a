"""HTTP APIs as the configuration describes them (options of `capture: rest`, `kind: rest`, and of webhook systems): settings and client."""

from __future__ import annotations

import base64
import email.utils
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import httpx
import msgspec

from tidelock.apis.access import client_for
from tidelock.apis.client import ApiClient, bearer
from tidelock.apis.described import GONE, MISSING, dig, epoch_micros, filled, text_at, version_of
from tidelock.apis.judging import Answer, judge, sentence
from tidelock.apis.records import Record, Version
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Revoked, TidelockError
from tidelock.grants import ClientCredentials, Grant, RefreshToken, Static, Token, need
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every part of a description is: unknown names are errors."""


class Auth(Settings):
    """How calls are opened. ``credential`` is the name of the token among the credentials."""

    kind: Literal["bearer", "header", "basic", "client_credentials", "refresh_token", "none"] = "bearer"
    credential: str = "token"
    header: str = "Authorization"
    prefix: str = ""
    token_url: str = ""
    style: Literal["body", "basic"] = "body"
    parameters: dict[str, str] = {}


class Limit(Settings):
    """What the API allows: ``calls`` in ``per_s`` seconds, so many at once, so many a day."""

    calls: int = 10
    per_s: float = 1.0
    concurrency: int | None = 4
    daily: int | None = None


class Listing(Settings):
    """How records are listed. ``since`` is the parameter for the time from which changes are wanted."""

    url: str = "{table}"
    parameters: dict[str, str | int | bool] = {}
    items: str = ""
    since: str | None = None
    since_format: Literal["iso", "s", "ms", "date"] = "iso"
    sorted: bool = False
    paging: Literal["none", "cursor", "url", "link", "page", "offset"] = "none"
    next: str = ""
    next_header: str = ""
    parameter: str = ""
    first: int = 1
    size: int = 100
    size_parameter: str = ""


class Reading(Settings):
    """How single records are read: by ``{key}``, or some at once by ``{keys}``, apart by ``separator``."""

    url: str
    path: str = ""
    items: str = ""
    size: int = 1
    separator: str = ","


class Writing(Settings):
    """How one kind of write is sent. ``key`` and ``version`` are paths in the answer, ``body`` is where in the body the values go."""

    url: str
    method: str = ""
    body: str = ""
    key: str = ""
    version: str = ""


class Gone(Settings):
    """How a record says that it is deleted: a path, and the values that mean it (anything but null and false unless given)."""

    path: str
    values: tuple[Any, ...] = ()


class Description(Settings):
    """The options that describe an API. What is not there cannot be done."""

    auth: Auth = msgspec.field(default_factory=Auth)
    limit: Limit = msgspec.field(default_factory=Limit)
    list: Listing | None = None
    read: Reading | None = None
    create: Writing | None = None
    update: Writing | None = None
    delete: Writing | None = None
    version: Literal["time", "integer"] = "time"
    deleted: Gone | None = None
    settle_s: float = 1.0
    """How long the state of a record may still change under one version: the resolution of its times."""


class Incoming(Settings):
    """The option ``in`` of `capture: webhook`: how calls are signed, and where things stand in them. Paths are dotted."""

    scheme: Any = "standard"
    secrets: tuple[str, ...] = ("hook_secret",)
    events: str = ""
    type: str | tuple[str, ...] = "type"
    entities: dict[str, str] = {}
    deletes: tuple[str, ...] = ()
    record: str | None = "data"
    key: str | None = None
    time: str | None = "timestamp"
    delivery: str | None = None
    origin: str = "data.origin"


class Outgoing(Settings):
    """The option ``out`` of `kind: webhook`: how calls are signed, and what stands around the values."""

    scheme: Any = "standard"
    secrets: tuple[str, ...] = ("hook_secret",)
    envelope: Literal["standard", "plain"] = "standard"
    origin: str = "origin"
    canonical_id: str = "canonical_id"


_NAMES = frozenset(Description.__struct_fields__)


def description_of(tenant: Tenant) -> Description:
    """Return what a tenant's options describe. Raises Fatal that names the option."""
    try:
        return msgspec.convert({n: v for n, v in tenant.options.items() if n in _NAMES}, Description, strict=False)
    except msgspec.ValidationError as error:
        raise Fatal(
            f"options of {tenant.path}: {error}", hint="docs/connectors/rest.md lists what can stand there"
        ) from error


@dataclass(frozen=True)
class Nothing:
    """The grant of an API that asks for none."""

    stored: ClassVar[bool] = False

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:  # noqa: ARG002
        """Return an empty token."""
        return Token(""), {}


@dataclass(frozen=True)
class Basic:
    """User and password as RFC 7617 spells them."""

    stored: ClassVar[bool] = False

    def fetch(self, tenant: Tenant, client: httpx.Client) -> tuple[Token, Mapping[str, str]]:  # noqa: ARG002
        """Return them together. Raises Revoked if one is missing."""
        pair = f"{need(tenant, 'username')}:{need(tenant, 'password')}"
        return Token(base64.b64encode(pair.encode()).decode()), {}


def opening(auth: Auth, tenant: Tenant) -> tuple[Grant, Callable[[Token], Mapping[str, str]]]:
    """Return how a token is got, and the headers in which it is sent. Raises Fatal."""
    if auth.kind in ("client_credentials", "refresh_token") and not auth.token_url:
        raise Fatal(f"options.auth of {tenant.path} has no `token_url`", hint="the address where tokens are given out")
    match auth.kind:
        case "none":
            return Nothing(), lambda _: {}
        case "basic":
            return Basic(), lambda token: {"Authorization": f"Basic {token.value}"}
        case "header":
            return Static(auth.credential), lambda token: {auth.header: auth.prefix + token.value}
        case "client_credentials":
            return ClientCredentials(auth.token_url, auth.style, auth.parameters), bearer
        case "refresh_token":
            return RefreshToken(auth.token_url, auth.parameters), bearer
        case _:
            return Static(auth.credential), bearer


def client_of(context: Context, tenant: Tenant, described: Description, **options: Any) -> ApiClient:
    """Return a client for a described API. Raises Fatal if it has no address."""
    if not tenant.url:
        raise Fatal(f"{tenant.path} has no `url`", hint="set `url` of the system, or of the tenant: https://host/api")
    grant, authorise = opening(described.auth, tenant)
    limit = described.limit
    spec = LimitSpec(rate=(limit.calls, limit.per_s), concurrency=limit.concurrency, daily=limit.daily)
    more: dict[str, Any] = {"judge": judged, "authorise": authorise, **options}
    return client_for(context, tenant, base_url=tenant.url, grant=grant, limits=spec, **more)


def judged(answer: Answer, what: str) -> TidelockError | None:
    """Translate an answer: no redirect is followed, and 410 for anything but a record is the end."""
    if 300 <= answer.status < 400:
        return Fatal(f"{what} answered {answer.status}, a redirect", hint="set `url` to where it leads")
    if answer.status in (404, 410):
        return None
    if answer.status == 403:
        return Revoked(sentence(answer, what), hint="give the user or the application that signs in the right it lacks")
    return judge(answer, what)


class Records:
    """Make records of what a described API says of one table."""

    def __init__(self, described: Description, table: TableSpec, tenant: Tenant) -> None:
        self._described, self._table = described, table
        self._names = [*dict.fromkeys([*_mapped(table), *table.key])]
        self._marker = str(tenant.options.get("origin", "origin"))
        if table.modified is None and described.version == "integer":
            raise Fatal(f"{tenant.path}: {table.table} has no `modified`", hint="it is the path of the version")

    def of(self, data: Any, *, now: int, tie: int = 0) -> Record:
        """Return a record. ``now`` (µs) is its version where it tells none. Raises Reject."""
        key = text_at(data, self._table.key[0])
        if key is None:
            raise Reject(f"a record of {self._table.table} has no {self._table.key[0]}", kind="no_key")
        values = {name: found for name in self._names if (found := dig(data, name)) is not MISSING}
        version, at = self.version(data, now=now, tie=tie)
        deleted = self.gone(data)
        return Record(
            key, {} if deleted else values, version, at, deleted, ours=text_at(data, self._marker) == "tidelock"
        )

    def version(self, data: Any, *, now: int, tie: int = 0) -> tuple[Version, int]:
        """Return the version of a record, and when it was changed in µs. Raises Reject."""
        path = self._table.modified
        found = MISSING if path is None else dig(data, path)
        if found is MISSING or found is None:
            return (now, tie), now
        version = version_of(found, self._described.version, tie)
        return version, version[0] if self._described.version == "time" else now

    def gone(self, data: Any) -> bool:
        """Return whether a record says that it is deleted."""
        rule = self._described.deleted
        if rule is None:
            return False
        found = dig(data, rule.path)
        if rule.values:
            return found in rule.values
        return found is not MISSING and found is not None and found is not False

    def missing(self, key: str, now: int) -> Record:
        """Return the record of a key that is not there any more."""
        version = (now, 0) if self._described.version == "time" else (GONE, now)
        return Record(key, {}, version, now, deleted=True)


def _mapped(table: TableSpec) -> list[str]:
    names = [name for binding in table.map for name in binding.column_names]
    return [*names, *(n for n in (table.canonical_id, table.actor) if n), *table.disable]


def server_now(answer: Answer) -> int:
    """Return the server's time in µs, as its answer tells; ours if it does not."""
    told = answer.headers.get("Date")
    if told is not None:
        parsed = email.utils.parsedate_to_datetime(told)
        return epoch_micros(int(parsed.timestamp()))
    return time.time_ns() // 1000


def address(template: str, table: TableSpec, where: str, **values: str) -> str:
    """Fill the table's name and other values into an address. Raises Fatal."""
    return filled(template, {"table": table.table, **values}, where)
