"""Searches: filters in groups, one sort, pages up to 200, no row beyond the 10,000th; they see what the index has seen."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import Refused, invalid
from simulators.hubspot.gate import Gate, Visit, strings
from simulators.hubspot.kinds import Kind
from simulators.hubspot.moments import spelt
from simulators.hubspot.paths import objects
from simulators.hubspot.portal import Portal
from simulators.hubspot.search_index import Side
from simulators.hubspot.search_query import Filter, filter_of, key, matches_text
from simulators.hubspot.shapes import Shape, names_asked, properties_of

ROWS = 10_000
_PAGE = 200
_TEXT = 3000
_KEPT = 16
FAULTS = {"search_late": "what is written next is found by searches only `delay_s` (60) later than the usual lag"}
Groups = list[list[Filter]]


class Search:
    """Handlers of searches. Results are kept until the index moves, so that walking through pages costs one evaluation."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths, in both families."""
        return objects("/{type}/search", gate(self.search, "read", search=True), "POST")

    def search(self, visit: Visit) -> Response:
        """Answer one page of what matches."""
        kind, sent = visit.kind(), visit.body()
        query = str(sent.get("query") or "")
        if len(query) > _TEXT:
            raise invalid(f"The query is too long: {len(query)} characters of at most {_TEXT}")
        groups, sort = self._groups(kind, sent.get("filterGroups")), self._sort(kind, sent.get("sorts"))
        limit = _whole(sent.get("limit"), "limit", 10)
        after = _whole(sent.get("after"), "after", 0)
        if not 0 < limit <= _PAGE:
            raise invalid(f"limit must be from 1 to {_PAGE}, not {limit}")
        if after + limit > ROWS:
            raise invalid(f"Paging through more than {ROWS} results is not supported: after + limit is {after + limit}")
        ids = self._matching(kind, groups, query, sort)
        side = self._portal.index.side(kind)
        names = names_asked(kind, strings(sent, "properties"))
        body: dict[str, Any] = {
            "total": len(ids),
            "results": [self._show(kind, side, n, names) for n in ids[after : after + limit]],
        }
        if after + limit < len(ids):
            body["paging"] = {"next": {"after": str(after + limit)}}
        return answer(body)

    def _show(self, kind: Kind, side: Side, number: int, names: list[str]) -> Shape:
        values, options = side.documents[number], self._portal.options
        return {
            "id": str(number),
            "properties": properties_of(values, names, options, self._portal.schema.of(kind)),
            "createdAt": values["createdate"],
            "updatedAt": spelt(side.modified[number]),
            "archived": False,
            "url": f"https://app.hubspot.com/contacts/{options.portal_id}/record/{kind.type_id}/{number}",
        }

    def _groups(self, kind: Kind, given: Any) -> Groups:
        options = self._portal.options
        groups: Groups = []
        try:
            for group in given or ():
                filters = group.get("filters") or []
                groups.append(
                    [filter_of(f, self._portal.schema.living(kind, str(f.get("propertyName")))) for f in filters]
                )
        except (AttributeError, TypeError):
            raise invalid("Invalid input JSON on line 1, column 1: filterGroups are objects with filters") from None
        total = sum(len(g) for g in groups)
        for number, most, what in (
            (len(groups), options.search_groups, "filter groups"),
            (max((len(g) for g in groups), default=0), options.search_group_filters, "filters in a group"),
            (total, options.search_filters, "filters"),
        ):
            if most and number > most:
                raise invalid(f"Too many {what}: {number} of at most {most}")
        return [g for g in groups if g]

    def _sort(self, kind: Kind, given: Any) -> tuple[str, bool]:
        if not given:
            return "", False
        if not isinstance(given, list) or len(given) > 1:
            raise invalid("Only one sort is supported")
        one = given[0]
        if not isinstance(one, (str, dict)):
            raise invalid(
                "Invalid input JSON on line 1, column 1: a sort is a name or an object with propertyName and direction"
            )
        name, descending = (
            (one, False) if isinstance(one, str) else (one.get("propertyName"), one.get("direction") == "DESCENDING")
        )
        if isinstance(one, str) and one.startswith("-"):
            name, descending = one[1:], True
        if self._portal.schema.living(kind, str(name)) is None:
            raise invalid(f'There was a problem with the request: property "{name}" does not exist')
        return str(name), descending

    def _matching(self, kind: Kind, groups: Groups, query: str, sort: tuple[str, bool]) -> list[int]:
        side = self._portal.index.side(kind)
        low: float | None = None
        high: float | None = None
        rest: Groups = groups
        by_id = sort in (("", False), ("hs_object_id", False))
        if by_id and len(groups) == 1:  # a walk by id differs from page to page only in where it begins
            rest = [[]]
            for one in groups[0]:
                least, most = one.bounds() if one.name == "hs_object_id" else (None, None)
                if least is None and most is None:
                    rest[0].append(one)
                else:
                    low = least if low is None else max(low, least or low)
                    high = most if high is None else min(high, most or high)
        about = tuple(tuple((f.name, f.operator, f.operands, f.texts) for f in g) for g in rest)
        name = (about, query, sort)
        ids = side.results.get(name)
        if ids is None:
            ids = side.results[name] = self._evaluated(side, rest, query, sort)
            if len(side.results) > _KEPT:
                del side.results[next(iter(side.results))]
        if low is not None or high is not None:
            start = 0 if low is None else bisect_left(ids, low)
            end = len(ids) if high is None else bisect_right(ids, high)
            return ids[start:end]
        return ids

    def _evaluated(self, side: Side, groups: Groups, query: str, sort: tuple[str, bool]) -> list[int]:
        words = query.lower().split()
        found: set[int] = set()
        for group in groups or [[]]:
            tests = [f.test() for f in group]
            for number in self._candidates(side, group):
                values = side.documents[number]
                if all(test(values) for test in tests) and (
                    not words or matches_text(values, side.kind.searched, words)
                ):
                    found.add(number)
        name, descending = sort
        ids = sorted(found)
        if name in ("", "hs_object_id"):
            return ids[::-1] if descending else ids
        definition = self._portal.schema.of(side.kind)[name]
        with_value = [n for n in ids if name in side.documents[n]]
        with_value.sort(key=lambda n: key(definition, side.documents[n][name]), reverse=descending)
        return with_value + [n for n in ids if name not in side.documents[n]]

    def _candidates(self, side: Side, group: list[Filter]) -> list[int] | set[int]:
        """Return ids among which all matches of a group are, few if an index helps."""
        best: list[int] | set[int] | None = None
        for one in group:
            found: list[int] | set[int] | None = None
            if one.operator in ("EQ", "IN") and not one.numeric:
                found = side.having(one.name, [str(o) for o in one.operands])
            elif one.operator in ("EQ", "IN") and one.name == "hs_object_id":
                found = [n for o in one.operands if (n := int(float(o))) in side.documents]
            elif one.name in (side.kind.modified, "hs_object_id"):
                low, high = one.bounds()
                if low is not None or high is not None:
                    if one.name == "hs_object_id":
                        start = 0 if low is None else bisect_left(side.ids, low)
                        found = side.ids[start : None if high is None else bisect_right(side.ids, high)]
                    else:
                        found = side.changed(None if low is None else int(low), None if high is None else int(high))
            if found is not None and (best is None or len(found) < len(best)):
                best = found
        return side.ids if best is None else best


def _whole(given: Any, name: str, usual: int) -> int:
    if given is None or given == "":
        return usual
    try:
        number = int(given)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise Refused(400, f"{name} must be a whole number, not {given}", "VALIDATION_ERROR")
    return number
