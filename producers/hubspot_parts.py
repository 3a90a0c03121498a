"""First loads of HubSpot in parts: conditions as searches take them, and ranges of ids to be read side by side."""

from __future__ import annotations

import re
from typing import Any

from producers.source import Cursor
from tidelock.apis.hubspot import Filters, HubSpot
from tidelock.errors import Fatal

_OPERATORS = {"=": "EQ", "!=": "NEQ", ">": "GT", ">=": "GTE", "<": "LT", "<=": "LTE"}
_CONDITION = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*(!=|>=|<=|=|>|<)\s*(.+?)\s*")


def conditions_of(where: str | None) -> Filters:
    """Read `name = value and name >= value …` as filters of a search. Raises Fatal."""
    out: Filters = []
    for text in re.split(r"\s+and\s+", where.strip()) if where and where.strip() else []:
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise Fatal(
                f"HubSpot cannot be asked for {text!r}",
                hint="write conditions as `lifecyclestage = customer and createdate >= 2026-01-01`",
            )
        name, operator, value = found.groups()
        out.append({"propertyName": name, "operator": _OPERATORS[operator], "value": value.strip("'\"")})
    if len(out) > 4:  # two of six are needed for the range
        raise Fatal("HubSpot takes at most four conditions", hint="leave some out, and load more")
    return out


def parts_of(hub: HubSpot, kind: str, filters: Filters, count: int) -> list[Cursor]:
    """Cut the ids that match into ranges of equal width. The last has no end, for what is made meanwhile."""
    first, last = (hub.search(kind, filters, "hs_object_id", descending=d, limit=1) for d in (False, True))
    if not first.rows or not last.rows:
        return []
    low, high = int(first.rows[0]["id"]) - 1, int(last.rows[0]["id"])
    count = max(1, min(count, first.total // 1000 + 1))
    edges: list[Any] = [low + (high - low) * n // count for n in range(count)]
    return [
        {"low": edge, "high": following, "filters": filters}
        for edge, following in zip(edges, [*edges[1:], None], strict=True)
    ]
