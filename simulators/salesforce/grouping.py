"""Aggregates: rows gathered into groups, and what is counted, summed and compared in each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from simulators.salesforce.conditions import Scope
from simulators.salesforce.errors import Refusal
from simulators.salesforce.schema import NUMBERS
from simulators.salesforce.soql import AGGREGATES, Call, Compare, Condition, Group, Join, Literal, Not, Path, Query
from simulators.salesforce.tables import Row

Value = Callable[[list[Row]], Any]


def grouped(scope: Scope, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return one result per group, in the order wanted. Raises Refusal."""
    query = scope.query
    keys = [scope.getter(g)[0] for g in query.group]
    columns = _columns(scope)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_folded(read(row)) for read in keys), []).append(row)
    if not query.group:
        groups = {(): next(iter(groups.values()), [])}
    held = list(groups.values())
    if query.having is not None:
        fits = _having(scope, query.having)
        held = [g for g in held if fits(g)]
    for term in reversed(query.order):
        value = _value(scope, term.what)
        held.sort(key=lambda g: _rank(value(g)), reverse=term.descending)
    return [{"attributes": {"type": "AggregateResult"}, **{name: value(g) for name, value in columns}} for g in held]


def _folded(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _rank(value: Any) -> tuple[bool, Any]:
    return value is not None, _folded(value) if value is not None else 0


def _columns(scope: Scope) -> list[tuple[str, Value]]:
    out, unnamed = list[tuple[str, Value]](), 0
    wanted = {_spelt(scope, g) for g in scope.query.group}
    for field in scope.query.fields:
        if isinstance(field, Group | Query):
            raise Refusal(
                "MALFORMED_QUERY", "Grouped query cannot use child relationships or FIELDS in the SELECT list"
            )
        name = field.alias
        if isinstance(field, Call) and field.name in AGGREGATES:
            if name is None:
                name, unnamed = f"expr{unnamed}", unnamed + 1
        elif _spelt(scope, field) not in wanted:
            path = field.path if isinstance(field, Call) else field
            raise Refusal(
                "MALFORMED_QUERY", f"Field must be grouped or aggregated: {'.'.join(path.names) if path else ''}"
            )
        elif name is None:
            if isinstance(field, Call):
                name, unnamed = f"expr{unnamed}", unnamed + 1
            else:
                name = scope.resolve(field)[1].name
        out.append((name, _value(scope, field)))
    return out


def _spelt(scope: Scope, what: Path | Call) -> str:
    if isinstance(what, Path):
        return ".".join(scope.names(what)).lower()
    return f"{what.name}({_spelt(scope, what.path) if what.path else ''})"


def _value(scope: Scope, what: Path | Call) -> Value:
    if not isinstance(what, Call) or what.name not in AGGREGATES:
        read, _ = scope.getter(what)
        return lambda rows: read(rows[0]) if rows else None
    if what.path is None:
        return len
    read, field = scope.getter(what.path)
    if what.name in {"sum", "avg"} and field.type not in NUMBERS:
        raise Refusal("MALFORMED_QUERY", f"field {field.name} does not support aggregate operator {what.name.upper()}")
    fold: dict[str, Callable[[list[Any]], Any]] = {
        "count": len,
        "count_distinct": lambda values: len({_folded(v) for v in values}),
        "sum": lambda values: sum(values) if values else None,
        "avg": lambda values: sum(values) / len(values) if values else None,
        "min": lambda values: min(values, default=None),
        "max": lambda values: max(values, default=None),
    }
    by = fold[what.name]
    return lambda rows: by([v for r in rows if (v := read(r)) is not None])


def _having(scope: Scope, condition: Condition) -> Callable[[list[Row]], bool]:
    if isinstance(condition, Not):
        denied = _having(scope, condition.part)
        return lambda rows: not denied(rows)
    if isinstance(condition, Join):
        parts = [_having(scope, p) for p in condition.parts]
        joined = all if condition.op == "and" else any
        return lambda rows: joined(p(rows) for p in parts)
    return _compared(_value(scope, condition.left), condition)


def _compared(value: Value, condition: Compare) -> Callable[[list[Row]], bool]:
    if not isinstance(condition.value, Literal):
        wanted = [v.value for v in condition.value] if isinstance(condition.value, list) else []
        return lambda rows: (value(rows) in wanted) is (condition.op == "in")
    other = _folded(condition.value.value)
    tests: dict[str, Callable[[Any], bool]] = {
        "=": lambda v: v == other,
        "!=": lambda v: v != other,
        "<": lambda v: v is not None and v < other,
        "<=": lambda v: v is not None and v <= other,
        ">": lambda v: v is not None and v > other,
        ">=": lambda v: v is not None and v >= other,
    }
    if condition.op not in tests:
        raise Refusal("MALFORMED_QUERY", f"operator {condition.op} is not allowed in HAVING")
    fits = tests[condition.op]
    return lambda rows: fits(_folded(value(rows)))
