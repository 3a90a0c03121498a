"""GET on entity sets and rows: pages, counts, single rows and properties, aggregation, and the delta links of changes."""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote_plus

from simulators.clock import Clock
from simulators.dynamics.aggregation import aggregated
from simulators.dynamics.errors import ODataError, bad_query
from simulators.dynamics.messages import Ask, Reply, answered
from simulators.dynamics.query import MAX_PAGE, Cookie, Options, Query, parse_options, read_skip_token, skip_token
from simulators.dynamics.rendering import Renderer, etag
from simulators.dynamics.schema import Table
from simulators.dynamics.store import Row, Store

_FORBIDDEN_WITH_TRACKING = ("$filter", "$orderby", "$expand", "$top", "$apply")
_DELTA_TOKEN = re.compile(r"(\d+)!(\d\d/\d\d/\d{4} \d\d:\d\d:\d\d)$")
_WHEN = "%m/%d/%Y %H:%M:%S"


class Reader:
    """Answers queries."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.page_limit = MAX_PAGE
        self.expire_days = 7

    # Single rows.

    def one(self, ask: Ask, table: Table, row: Row, options: Options | None = None, status: int = 200) -> Reply:
        """Answer with one row."""
        options = parse_options(ask.parameters) if options is None else options
        renderer = self._renderer(ask)
        columns = renderer.columns(table, options.select)
        renderer.check(table, options)
        unless = ask.if_none_match
        if ask.method == "GET" and unless == etag(row.values) and not options.expand and not ask.annotations.patterns:
            return Reply(304, b"", {"ETag": etag(row.values)})
        context = f"{ask.root}$metadata#{table.set_name}{self._shape(options)}/$entity"
        body = {"@odata.context": context, **renderer.row(table, row.values, columns, options.expand)}
        headers = {"ETag": etag(row.values), **self._applied(ask)}
        return answered(body, status, headers)

    def property(self, ask: Ask, table: Table, row: Row, name: str, *, raw: bool = False) -> Reply:
        """Answer with one property of a row."""
        column = table.properties[name]
        value = row.values.get(column.property)
        if value is None:
            return Reply(204)
        if raw:
            return Reply(200, str(value).encode(), {"Content-Type": "text/plain"})
        return answered({"@odata.context": f"{ask.root}$metadata#{table.set_name}({row.id})/{name}", "value": value})

    # Many rows.

    def many(self, ask: Ask, table: Table) -> Reply:
        """Answer with a page of rows, or of changes."""
        given = ask.parameters
        options = parse_options(given)
        if "odata.track-changes" in ask.prefer or options.delta_token or self._tracking(options):
            return self._changes(ask, table, options, given)
        if options.apply:
            return self._aggregated(ask, table, options)
        return self.answer_query(ask, table, options)

    def answer_query(
        self,
        ask: Ask,
        table: Table,
        options: Options,
        rows: list[Row] | None = None,
        more: dict[str, Any] | None = None,
    ) -> Reply:
        """Answer with what the options select; ``rows`` are all there are, if they are known already."""
        renderer = self._renderer(ask)
        renderer.check(table, options)
        if rows is not None:
            ids = ("in", ("prop", table.primary_id), [("lit", "guid", r.id) for r in rows])
            options.filter = ids if options.filter is None else ("and", ids, options.filter)
        query = Query(self._store, table, options)
        size = self._size(ask)
        if options.top is not None:
            page = query.page(min(options.top, MAX_PAGE))
            page.cookie = None
        else:
            page = query.page(size, read_skip_token(options.skip_token) if options.skip_token else None)
        body: dict[str, Any] = {"@odata.context": f"{ask.root}$metadata#{table.set_name}{self._shape(options)}"}
        if options.count:
            body["@odata.count"] = total = query.count()
            if ask.annotations.want("Microsoft.Dynamics.CRM.totalrecordcount"):
                body["@Microsoft.Dynamics.CRM.totalrecordcount"] = total
                body["@Microsoft.Dynamics.CRM.totalrecordcountlimitexceeded"] = total >= MAX_PAGE
        elif ask.annotations.want("Microsoft.Dynamics.CRM.totalrecordcount"):
            body["@Microsoft.Dynamics.CRM.totalrecordcount"] = -1
            body["@Microsoft.Dynamics.CRM.totalrecordcountlimitexceeded"] = False
            body["@Microsoft.Dynamics.CRM.globalmetadataversion"] = str(self._store.version)
        body.update(more or {})
        body["value"] = renderer.rows(table, page.rows, options)
        if page.cookie is not None:
            body["@odata.nextLink"] = self._link(ask, "$skiptoken", skip_token(page.cookie))
        return answered(body, 200, self._applied(ask))

    def count(self, ask: Ask, table: Table) -> Reply:
        """Answer with how many rows there are, or changes since a delta token."""
        options = parse_options(ask.parameters)
        if options.delta_token:
            since = self._since(options.delta_token)
            data = self._store.data(table)
            bound = self._store.safe_version(data)
            changed = sum(1 for r in self._store.since(data, since) if r.version <= bound)
            total = changed + len(data.gone) - bisect_right(data.gone, since, key=lambda g: g.version)
        else:
            total = Query(self._store, table, options).count()
        return Reply(200, f"\ufeff{total}".encode(), {"Content-Type": "text/plain"})

    def _aggregated(self, ask: Ask, table: Table, options: Options) -> Reply:
        value = aggregated(self._store, table, options)
        return answered({"@odata.context": f"{ask.root}$metadata#{table.set_name}", "value": value})

    # Changes.

    @staticmethod
    def _tracking(options: Options) -> bool:
        return 'istracking="True"' in options.skip_token

    def _changes(self, ask: Ask, table: Table, options: Options, given: dict[str, str]) -> Reply:
        for name in _FORBIDDEN_WITH_TRACKING:
            if name in given:
                raise bad_query(f'The "{name}" query parameter isn\'t supported when Change Tracking is enabled.')
        if not table.tracked:
            raise ODataError(400, "0x80060888", f"Change tracking is not enabled for entity '{table.name}'.")
        data = self._store.data(table)
        if options.skip_token:
            cookie = read_skip_token(options.skip_token)
        elif options.delta_token:
            cookie = Cookie(page=1, start=self._since(options.delta_token), bound=self._store.safe_version(data))
            cookie.version = cookie.start
        else:
            cookie = Cookie(page=1, start=-1, bound=self._store.safe_version(data))
        renderer = self._renderer(ask)
        columns = renderer.columns(table, options.select)
        size = self._size(ask)
        full = cookie.start < 0
        rows: list[dict[str, Any]] = []
        more = False
        if not cookie.gone:
            found = self._store.after(data, cookie.number) if full else self._store.since(data, cookie.version)
            for row in found:
                if row.version > cookie.bound and not full:
                    break
                values = self._store.seen(data, row) if full else row.values
                if values is None:
                    continue
                if len(rows) == size:
                    more = True
                    break
                rows.append(renderer.row(table, values, columns, []))
                cookie.number, cookie.version = row.number, row.version
            if not more and not full:
                cookie.gone, cookie.version = True, cookie.start
        if cookie.gone and not more:
            context = f"{ask.root}$metadata#{table.set_name}/$deletedEntity"
            for gone in data.gone[bisect_right(data.gone, cookie.version, key=lambda g: g.version) :]:
                if gone.version > cookie.bound:
                    break
                if len(rows) == size:
                    more = True
                    break
                rows.append({"@odata.context": context, "id": gone.id, "reason": "deleted"})
                cookie.version = gone.version
        body: dict[str, Any] = {
            "@odata.context": f"{ask.root}$metadata#{table.set_name}{self._shape(options)}"
            + ("" if full else "/$delta")
        }
        cookie.page += 1
        if more:
            body["value"] = rows
            body["@odata.nextLink"] = self._link(ask, "$skiptoken", skip_token(cookie, tracking=True))
        else:
            when = self._clock.moment().strftime(_WHEN)
            body["@odata.deltaLink"] = self._link(ask, "$deltatoken", quote(f"{cookie.bound}!{when}", safe=""))
            body["value"] = rows
        return answered(body, 200, self._applied(ask))

    def _since(self, token: str) -> int:
        match = _DELTA_TOKEN.match(token)
        if match is None:
            raise bad_query(f"The delta token '{token}' is not valid.")
        given = datetime.strptime(match[2], _WHEN).replace(tzinfo=UTC)
        if (self._clock.moment() - given).total_seconds() > self.expire_days * 86400:
            raise ODataError(
                400,
                "0x80044352",
                "Version stamp associated with the client has expired. Please perform a full sync.",
            )
        return int(match[1])

    # Parts of answers.

    def _renderer(self, ask: Ask) -> Renderer:
        return Renderer(self._store, ask.root, ask.annotations)

    def _size(self, ask: Ask) -> int:
        wish = ask.prefer.get("odata.maxpagesize", "")
        return min(int(wish), self.page_limit) if wish.isdigit() and int(wish) > 0 else self.page_limit

    @staticmethod
    def _shape(options: Options) -> str:
        parts = [*options.select, *(f"{e.navigation}({','.join(e.options.select)})" for e in options.expand)]
        return f"({','.join(parts)})" if parts else ""

    @staticmethod
    def _applied(ask: Ask) -> dict[str, str]:
        applied = []
        for name, value in ask.prefer.items():
            if name == "odata.include-annotations":
                applied.append(f'odata.include-annotations="{value}"')
            elif name in ("odata.maxpagesize", "return"):
                applied.append(f"{name}={value}")
            elif name == "odata.track-changes":
                applied.append(name)
        return {"Preference-Applied": ",".join(applied)} if applied else {}

    @staticmethod
    def _link(ask: Ask, name: str, value: str) -> str:
        """Return the request's own address with a token for the one it may have had."""
        kept = [
            quote(unquote_plus(part), safe="=$,()'@;/:*")
            for part in ask.query.split("&")
            if part and unquote_plus(part.partition("=")[0]) not in ("$skiptoken", "$deltatoken", "$count")
        ]
        return f"{ask.root}{ask.path}?{'&'.join([*kept, f'{name}={value}'])}"
