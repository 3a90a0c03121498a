"""Query options and what they select: filter, order, page, with a cookie that goes on where a page ended."""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from simulators.dynamics.conditions import Compiler, Condition, Getter, Plan
from simulators.dynamics.errors import bad_query
from simulators.dynamics.schema import Table
from simulators.dynamics.store import Data, Row, Store, Values
from simulators.dynamics.syntax import Node, parse_filter
from simulators.dynamics.values import folded

MAX_PAGE = 5000
COUNT_LIMIT = 5000
_UNSUPPORTED = {"$skip", "$search", "$format", "$skip token"}
_KNOWN = {
    "$select",
    "$filter",
    "$orderby",
    "$top",
    "$expand",
    "$count",
    "$apply",
    "$skiptoken",
    "$deltatoken",
    "$index",
}


@dataclass(slots=True)
class Expand:
    """One navigation property to expand, with its own options."""

    navigation: str
    options: Options


@dataclass(slots=True)
class Options:
    """The query options of one request."""

    select: list[str] = field(default_factory=list)
    filter: Node | None = None
    order: list[tuple[str, bool]] = field(default_factory=list)
    """Property, and whether it descends."""
    top: int | None = None
    expand: list[Expand] = field(default_factory=list)
    count: bool = False
    apply: str = ""
    skip_token: str = ""
    delta_token: str = ""


def parse_options(given: dict[str, str], *, nested: bool = False) -> Options:
    """Return the options of a query string. Raises ODataError for what is not supported or cannot be read."""
    options = Options()
    aliases = {n: v for n, v in given.items() if n.startswith("@")}
    for name, text in given.items():
        if not name.startswith("$"):
            continue
        if name not in _KNOWN:
            raise bad_query(f"The query parameter {name} is not supported")
        if aliases and name in ("$filter", "$orderby"):
            for alias, value in aliases.items():
                text = text.replace(alias, value)
        _read(options, name, text, nested)
    return options


def _read(options: Options, name: str, text: str, nested: bool) -> None:
    match name:
        case "$select":
            options.select = [] if text.strip() == "*" else [s.strip() for s in text.split(",") if s.strip()]
        case "$filter":
            options.filter = parse_filter(text)
        case "$orderby":
            for part in text.split(","):
                words = part.split()
                if not words or len(words) > 2 or words[1:] not in ([], ["asc"], ["desc"]):
                    raise bad_query(f"Syntax error in $orderby '{text}'.")
                options.order.append((words[0], words[1:] == ["desc"]))
        case "$top":
            if not text.strip().isdigit():
                raise bad_query(f"Invalid value '{text}' for $top query option found.")
            options.top = int(text)
            if options.top == 0 and not nested:
                raise bad_query("Invalid value '0' for $top query option found. A positive integer is expected.")
        case "$expand":
            options.expand = [_expand(part) for part in split_outside(text, ",")]
        case "$count":
            options.count = text.strip().lower() == "true"
        case "$apply":
            options.apply = text
        case "$skiptoken":
            options.skip_token = text
        case "$deltatoken":
            options.delta_token = text


def _expand(text: str) -> Expand:
    navigation, bracket, rest = text.strip().partition("(")
    inner: dict[str, str] = {}
    if bracket:
        if not rest.endswith(")"):
            raise bad_query(f"Syntax error in $expand '{text}'.")
        for part in split_outside(rest[:-1], ";"):
            name, _, value = part.partition("=")
            inner[name.strip()] = value
    return Expand(navigation.strip().removesuffix("/$ref"), parse_options(inner, nested=True))


def split_outside(text: str, mark: str) -> list[str]:
    """Split at a mark that stands in no brackets and no quotes."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, letter in enumerate(text):
        if letter == "'":
            quoted = not quoted
        elif quoted:
            continue
        elif letter == "(":
            depth += 1
        elif letter == ")":
            depth -= 1
        elif letter == mark and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


class Cookie(msgspec.Struct, omit_defaults=True):
    """Where a page ended."""

    page: int = 2
    number: int = 0
    """Of the last row."""
    keys: list[Any] = []
    """The last row's values of the properties that order."""
    start: int = 0
    """Of a delta: the version it began at, -1 for a full read."""
    bound: int = 0
    """Of a delta: the version it ends at."""
    version: int = 0
    """Of a delta: the last row's version."""
    gone: bool = False
    """Of a delta: whether deletions have begun."""


def skip_token(cookie: Cookie, *, tracking: bool = False) -> str:
    """Return the $skiptoken that carries a cookie, as opaque as the vendor's."""
    inner = base64.urlsafe_b64encode(msgspec.json.encode(cookie)).decode()
    paging = quote(quote(f'<cookie page="{cookie.page - 1}"><state last="{inner}" /></cookie>', safe=""), safe="")
    track = "True" if tracking else "False"
    return quote(f'<cookie pagenumber="{cookie.page}" pagingcookie="{paging}" istracking="{track}" />', safe="")


def read_skip_token(text: str) -> Cookie:
    """Return the cookie of a $skiptoken. Raises ODataError if it is none of ours."""
    _, found, rest = text.partition("state%2520last%253D%2522")
    inner, end, _ = rest.partition("%2522")
    try:
        if not found or not end:
            raise ValueError(text)
        return msgspec.json.decode(base64.urlsafe_b64decode(inner.replace("%253D", "=")), type=Cookie)
    except (ValueError, binascii.Error) as error:
        raise bad_query("Malformed XML in the Paging Cookie") from error


@dataclass(slots=True)
class Page:
    """The rows of one page (as queries see them), and the cookie if more follow."""

    rows: list[tuple[Row, Values]]
    cookie: Cookie | None = None


class Query:
    """One query on one table."""

    def __init__(self, store: Store, table: Table, options: Options) -> None:
        self._store = store
        self._table = table
        self._data = store.data(table)
        self._options = options
        compiler = Compiler(store, table)
        self._condition = compiler.compile(options.filter) if options.filter is not None else Condition(lambda _: True)
        self._order: list[tuple[Getter, bool]] = [(compiler.getter(p)[0], down) for p, down in options.order]

    def count(self) -> int:
        """Return how many rows there are, up to the vendor's limit."""
        total = 0
        for _ in self._matching(self._candidates(self._condition.plan, 0)):
            total += 1
            if total >= COUNT_LIMIT:
                break
        return total

    def page(self, size: int, cookie: Cookie | None = None) -> Page:
        """Return up to so many rows, after the cookie if there is one."""
        if not self._order:
            rows = self._first(self._by_number(cookie.number if cookie else 0), size + 1)
        else:
            last = (
                (tuple(_rank(v, down) for v, (_, down) in zip(cookie.keys, self._order, strict=True)), cookie.number)
                if cookie
                else None
            )
            rows = self._ordered(size + 1, last, cookie)
        if len(rows) <= size:
            return Page(rows)
        row, values = rows[size - 1]
        return Page(
            rows[:size],
            Cookie((cookie.page if cookie else 1) + 1, row.number, [getter(values) for getter, _ in self._order]),
        )

    def everything(self) -> Iterator[Values]:
        """Return all rows that match, in no order."""
        return (values for _, values in self._matching(self._candidates(self._condition.plan, 0)))

    def _matching(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Values]]:
        holds, store, data = self._condition.holds, self._store, self._data
        for row in rows:
            values = store.seen(data, row)
            if values is not None and holds(values):
                yield row, values

    @staticmethod
    def _first(rows: Iterable[tuple[Row, Values]], size: int) -> list[tuple[Row, Values]]:
        out = []
        for row in rows:
            out.append(row)
            if len(out) >= size:
                break
        return out

    def _by_number(self, after: int) -> Iterator[tuple[Row, Values]]:
        plan = self._condition.plan
        if plan is None:
            return self._matching(self._store.after(self._data, after))
        rows = sorted((r for r in self._candidates(plan, after) if r.number > after), key=lambda r: r.number)
        return self._matching(rows)

    def _candidates(self, plan: Plan | None, after: int) -> Iterable[Row]:
        """Return the rows that can match; those that are still hidden are always among them."""
        if plan is None:
            return self._store.after(self._data, after)
        rows: dict[str, Row] = dict(self._data.hidden)
        for row in _found(self._store, self._data, plan):
            rows[row.id] = row
        return rows.values()

    def _ordered(self, size: int, last: tuple[Any, int] | None, cookie: Cookie | None) -> list[tuple[Row, Values]]:
        getters = self._order

        def key(item: tuple[Row, Values]) -> tuple[Any, int]:
            return tuple(_rank(getter(item[1]), down) for getter, down in getters), item[0].number

        if self._streams():
            return self._stream(size, last, cookie, key)
        rows: Iterable[tuple[Row, Values]] = self._matching(self._candidates(self._condition.plan, 0))
        if last is not None:
            rows = (item for item in rows if key(item) > last)
        return heapq.nsmallest(size, rows, key=key)

    def _streams(self) -> bool:
        """Return whether the log of changes gives the rows in the wanted order without looking at all of them."""
        plan = self._condition.plan
        name, down = self._options.order[0]
        return (
            not down
            and not self._data.hidden
            and (name == "modifiedon" or (name == "versionnumber" and len(self._order) == 1))
            and (plan is None or plan.kind in ("since", "modified"))
        )

    def _stream(
        self, size: int, last: tuple[Any, int] | None, cookie: Cookie | None, key: Any
    ) -> list[tuple[Row, Values]]:
        """Go through the log; rows of one second are put in order among themselves."""
        store, data, plan = self._store, self._data, self._condition.plan
        name = self._options.order[0][0]
        if cookie is not None and cookie.keys[0] is not None:
            rows = (
                store.modified_since(data, cookie.keys[0])
                if name == "modifiedon"
                else store.since(data, cookie.keys[0])
            )
        elif plan is not None:
            rows = iter(_found(store, data, plan))
        else:
            rows = store.since(data, 0)
        out: list[tuple[Row, Values]] = []
        tied: list[tuple[Row, Values]] = []
        for item in self._matching(rows):
            if last is not None and not key(item) > last:
                continue
            if tied and tied[0][1].get(name) != item[1].get(name):
                out += sorted(tied, key=key)
                tied = []
                if len(out) >= size:
                    return out[:size]
            tied.append(item)
        return (out + sorted(tied, key=key))[:size]


def _found(store: Store, data: Data, plan: Plan) -> Iterable[Row]:
    match plan.kind:
        case "ids":
            return (row for i in plan.values if (row := data.rows.get(i)) is not None)
        case "index":
            index = data.index(plan.prop)
            return (data.rows[i] for v in plan.values for i in index.get(v, ()))
        case "since":
            return store.since(data, plan.values[0])
        case "modified":
            return store.modified_since(data, plan.values[0])
    return (row for part in plan.parts for row in _found(store, data, part))


class _Descending:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)

    def __gt__(self, other: _Descending) -> bool:
        return bool(other.value > self.value)


def _rank(value: Any, down: bool) -> Any:
    """Return a value as it is ordered: nothing first, text without regard to case."""
    rank = (0, 0) if value is None else (1, folded(value))
    return _Descending(rank) if down else rank
