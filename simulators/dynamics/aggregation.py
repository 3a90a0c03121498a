"""$apply: filter, groupby and aggregate, as far as the Web API knows them."""

from __future__ import annotations

import re
from typing import Any

from simulators.dynamics.conditions import Compiler
from simulators.dynamics.errors import ODataError, bad_query
from simulators.dynamics.query import Options, Query, split_outside
from simulators.dynamics.schema import Table
from simulators.dynamics.store import Store, Values
from simulators.dynamics.syntax import parse_filter
from simulators.dynamics.values import folded

LIMIT = 50_000
_AGGREGATE = re.compile(r"(?:(\$count)|([\w/]+)\s+with\s+(sum|min|max|average|countdistinct|count))\s+as\s+(\w+)$")


def aggregated(store: Store, table: Table, options: Options) -> list[dict[str, Any]]:
    """Return the groups that $apply makes. Raises ODataError."""
    groups: list[str] = []
    aggregates: list[str] = []
    node = options.filter
    for step in split_outside(options.apply.strip(), "/"):
        name, _, rest = step.strip().partition("(")
        inner = rest.removesuffix(")")
        if name == "filter":
            extra = parse_filter(inner)
            node = extra if node is None else ("and", node, extra)
        elif name == "groupby":
            first, *others = split_outside(inner, ",")
            groups = [g.strip() for g in first.strip().strip("()").split(",")]
            for other in others:
                aggregates += split_outside(other.strip().removeprefix("aggregate(").removesuffix(")"), ",")
        elif name == "aggregate":
            aggregates += split_outside(inner, ",")
        else:
            raise bad_query(f"The transformation '{name}' in $apply is not supported.")
    rows = list(Query(store, table, Options(filter=node)).everything())
    if len(rows) > LIMIT:
        raise ODataError(
            400,
            "0x8004E023",
            f"The maximum record limit of {LIMIT} is exceeded. Reduce the number of records.",
        )
    out = grouped(store, table, rows, groups, [_parsed(a) for a in aggregates])
    for name, down in reversed(options.order):
        out.sort(key=lambda g: (g.get(name) is not None, folded(g.get(name, 0))), reverse=down)
    return out[: options.top] if options.top else out


def _parsed(text: str) -> tuple[str, str, str]:
    match = _AGGREGATE.match(text.strip())
    if match is None:
        raise bad_query(f"Syntax error in $apply: '{text.strip()}'.")
    return (match[2] or "", match[3] or "rows", match[4])


def grouped(
    store: Store, table: Table, rows: list[Values], groups: list[str], aggregates: list[tuple[str, str, str]]
) -> list[dict[str, Any]]:
    """Return one object per group; an aggregate is property, kind and name."""
    compiler = Compiler(store, table)
    getters = {g: compiler.getter(g)[0] for g in groups}
    values_of = {p: compiler.getter(p)[0] for p, _, _ in aggregates if p}
    found: dict[tuple[Any, ...], list[Values]] = {}
    for values in rows:
        found.setdefault(tuple(folded(getters[g](values)) for g in groups), []).append(values)
    if not groups and not found:
        found[()] = []
    out = []
    for members in found.values():
        entry: dict[str, Any] = {g: getters[g](members[0]) for g in groups}
        for prop, kind, name in aggregates:
            numbers = [v for m in members if (v := values_of[prop](m)) is not None] if prop else []
            entry[name] = _value(kind, numbers, len(members))
        out.append(entry)
    return out


def _value(kind: str, numbers: list[Any], members: int) -> Any:
    match kind:
        case "rows":
            return members
        case "count":
            return len(numbers)
        case "countdistinct":
            return len({folded(n) for n in numbers})
        case "sum":
            return sum(numbers) if numbers else None
        case "average":
            return sum(numbers) / len(numbers) if numbers else None
        case "min":
            return min(numbers, default=None)
    return max(numbers, default=None)
