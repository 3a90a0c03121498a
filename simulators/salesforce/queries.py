"""Queries over REST, with the cursors that their pages hang on."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from simulators.salesforce import ids
from simulators.salesforce.asking import Ask, Reply
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal
from simulators.salesforce.selection import Selected, select
from simulators.salesforce.soql import parse

_PAGE = 2000
_LEAST_PAGE = 200
_LIVE_S = 2 * 86400.0


@dataclass(slots=True)
class Cursor:
    """A result that is being paged through."""

    found: Selected
    page: int
    user: str
    made: float


class Queries:
    """The handlers of query, queryAll and their further pages."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._org = context.org
        self._cursors: OrderedDict[str, Cursor] = OrderedDict()
        self._made = 0
        for name in ("query", "queryAll"):
            context.router.add(name, GET=self._query)
            context.router.add(f"{name}/*", GET=self._more)

    def reset(self) -> None:
        """Forget all cursors."""
        self._cursors.clear()

    def _query(self, ask: Ask) -> Reply:
        if "explain" in ask.query and "q" not in ask.query:
            return self._explain(ask)
        text = ask.query.get("q")
        if not text:
            raise Refusal("MALFORMED_QUERY", "SOQL statement cannot be empty")
        found = select(self._org, text, ask.version, deleted=ask.parts[0].lower() == "queryall")
        return self._page(ask, found)

    def _explain(self, ask: Ask) -> Reply:
        table = self._org.typed(parse(ask.query["explain"]).source)
        plan = {
            "cardinality": table.live,
            "fields": [],
            "leadingOperationType": "TableScan",
            "notes": [],
            "relativeCost": 1.0,
            "sobjectCardinality": table.live,
            "sobjectType": table.kind.name,
        }
        return Reply(data={"plans": [plan]})

    def _page(self, ask: Ask, found: Selected) -> Reply:
        rows = found.rows
        hint = ask.option("sforce-query-options", "batchSize") or ""
        page = min(max(int(hint), _LEAST_PAGE), _PAGE) if hint.isdigit() else _PAGE
        out: dict[str, Any] = {"totalSize": found.total, "done": len(rows) <= page}
        if len(rows) > page:
            self._made += 1
            name = ids.make("0r8", self._org.pod, self._made)
            self._cursors[name] = Cursor(found, page, ask.session.user, self._org.clock.now())
            while len(self._cursors) > self._context.options.most_cursors:
                self._cursors.popitem(last=False)
            out["nextRecordsUrl"] = f"/services/data/v{ask.version}/query/{name}-{page}"
        return Reply(data={**out, "records": [found.show(r) for r in rows[:page]]})

    def _more(self, ask: Ask) -> Reply:
        name, _, start = ask.parts[1].partition("-")
        cursor = self._cursors.get(name)
        stale = self._org.faults.take("stale_locator", ask.method, ask.path) is not None
        if stale:
            self._cursors.pop(name, None)
        if (
            stale
            or cursor is None
            or not start.isdigit()
            or cursor.user != ask.session.user
            or self._org.clock.now() - cursor.made > _LIVE_S
        ):
            raise Refusal("INVALID_QUERY_LOCATOR", "invalid query locator")
        at = int(start)
        end = at + cursor.page
        found = cursor.found
        out: dict[str, Any] = {"totalSize": found.total, "done": end >= len(found.rows)}
        if end < len(found.rows):
            out["nextRecordsUrl"] = f"/services/data/v{ask.version}/query/{name}-{end}"
        return Reply(data={**out, "records": [found.show(r) for r in found.rows[at:end]]})
