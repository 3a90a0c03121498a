"""Conditions of SOQL made into functions of a row, checked against the types of the fields they name."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from simulators.salesforce.dates import span
from simulators.salesforce.errors import Refusal, unknown_column
from simulators.salesforce.ids import normal
from simulators.salesforce.org import Org
from simulators.salesforce.schema import NUMBERS, TEXT, Field, Kind
from simulators.salesforce.soql import Call, Compare, Condition, Join, Literal, Not, Path, Query, place
from simulators.salesforce.tables import Row
from simulators.salesforce.times import as_stamp
from simulators.salesforce.values import value_of

Getter = Callable[[Row], Any]
Test = Callable[[Row], bool]
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS = {
    "date": "date",
    "datetime": "dateTime",
    "boolean": "boolean",
    "int": "int",
    "double": "double",
    "reference": "reference",
}


@dataclass(slots=True)
class Scope:
    """What names in a query mean: the object, and how to run a query inside."""

    org: Org
    kind: Kind
    query: Query
    inner: Callable[[Query], set[Any]]

    def names(self, path: Path) -> tuple[str, ...]:
        """Return the names of a path without the object's own name or alias before them."""
        names = path.names
        own = {(self.query.alias or "").lower(), self.kind.name.lower()} - set(self.kind.relations)
        return names[1:] if len(names) > 1 and names[0].lower() in own else names

    def resolve(self, path: Path) -> tuple[list[Field], Field, Kind]:
        """Return the references on the way, the field, and the object that has it. Raises Refusal (INVALID_FIELD)."""
        names, kind, way = self.names(path), self.kind, list[Field]()
        for name in names[:-1]:
            relation = kind.relations.get(name.lower())
            if relation is None or not relation.refers:
                raise Refusal(
                    "INVALID_FIELD",
                    place(self.query.text, path.at)
                    + f"Didn't understand relationship '{name}' in field path. If you are attempting to use a custom relationship, "
                    "be sure to append the '__r' after the custom relationship name. Please reference your WSDL or the describe "
                    "call for the appropriate names.",
                )
            way.append(relation)
            kind = self.org.tables[relation.refers[0]].kind
        field = kind.find(names[-1])
        if field is None:
            error = unknown_column(names[-1], kind.name)
            error.message = place(self.query.text, path.at) + error.message
            raise error
        return way, field, kind

    def getter(self, what: Path | Call) -> tuple[Getter, Field]:
        """Return a function that reads an operand from a row, and the field that it reads."""
        if isinstance(what, Call):
            if what.path is None:
                raise Refusal("MALFORMED_QUERY", "COUNT() is not allowed here")
            read, field = self.getter(what.path)
            return _applied(what.name, read), field
        way, field, _ = self.resolve(what)
        name = field.name
        if not way and not field.compound:
            return operator.itemgetter(name), field
        if not way:
            return lambda row: value_of(field, row), field
        references, org = [w.name for w in way], self.org

        def read_parent(row: Row) -> Any:
            at: Row | None = row
            for reference in references:
                id_ = at[reference] if at is not None else None
                at = org.row_of(id_) if id_ is not None else None
            return value_of(field, at) if at is not None else None

        return read_parent, field


def _applied(name: str, read: Getter) -> Getter:
    if name in {"tolabel", "min", "max"}:
        return read
    if name == "format":
        return lambda row: None if (v := read(row)) is None else str(v)
    cuts: dict[str, Callable[[str], Any]] = {
        "calendar_year": lambda v: int(v[:4]),
        "calendar_month": lambda v: int(v[5:7]),
        "calendar_quarter": lambda v: (int(v[5:7]) + 2) // 3,
        "day_in_month": lambda v: int(v[8:10]),
        "day_only": lambda v: v[:10],
        "hour_in_day": lambda v: int(v[11:13]),
    }
    if name not in cuts:
        raise Refusal("MALFORMED_QUERY", f"{name.upper()} is not allowed here")
    cut = cuts[name]
    return lambda row: None if (v := read(row)) is None else cut(v)


def test(scope: Scope, condition: Condition) -> Test:
    """Return a condition as a function. Raises Refusal."""
    if isinstance(condition, Not):
        denied = test(scope, condition.part)
        return lambda row: not denied(row)
    if isinstance(condition, Join):
        parts = [test(scope, p) for p in condition.parts]
        if condition.op == "and":
            return lambda row: all(p(row) for p in parts)
        return lambda row: any(p(row) for p in parts)
    read, field = scope.getter(condition.left)
    function = condition.left.name if isinstance(condition.left, Call) else None
    return compare(scope, condition, read, field, function)


def compare(scope: Scope, condition: Compare, read: Getter, field: Field, function: str | None = None) -> Test:
    """Return a comparison of what ``read`` gives as a function."""
    op, value = condition.op, condition.value
    if (field.type in {"address", "textarea"} and field.length > 4000) or field.type == "address":
        raise Refusal("INVALID_FIELD", f"field '{field.name}' can not be filtered in a query call")
    if isinstance(value, Query):
        found = scope.inner(value)
        return (lambda row: read(row) in found) if op == "in" else (lambda row: read(row) not in found)
    if isinstance(value, list):
        if op in {"includes", "excludes"}:
            return _includes(read, [set(str(v.value).split(";")) for v in value], op == "includes")
        return _one_of(scope, read, field, value, op == "in", function)
    if op == "like":
        if field.type not in TEXT and field.name != "Id":
            raise Refusal("INVALID_QUERY_FILTER_OPERATOR", f"invalid operator on field '{field.name}': like")
        return _like(read, str(value.value))
    if value.kind == "literal":
        return _within(scope, read, field, op, str(value.value))
    wanted = value.value if function else plain(field, value)
    fold = field.type in TEXT and isinstance(wanted, str)
    if fold:
        wanted = wanted.lower()
    if op in {"=", "!="}:
        if fold:
            same: Test = lambda row: (v := read(row)) is not None and v.lower() == wanted  # noqa: E731
        else:
            same = lambda row: read(row) == wanted  # noqa: E731
        return same if op == "=" else lambda row: not same(row)
    ordered = _ORDERED[op]
    if wanted is None:
        return lambda _: False
    if fold:
        return lambda row: (v := read(row)) is not None and ordered(v.lower(), wanted)
    return lambda row: (v := read(row)) is not None and ordered(v, wanted)


def plain(field: Field, literal: Literal) -> Any:
    """Return a literal as rows hold such a value. Raises Refusal if it does not fit the field's type."""
    kind, value = literal.kind, literal.value
    if kind == "null":
        return None
    if field.type in {"id", "reference"}:
        known = normal(value)
        if known is None and value != "":
            raise Refusal("INVALID_QUERY_FILTER_OPERATOR", f"invalid ID field: {value}")
        return known
    if field.type in TEXT:
        if kind != "string":
            raise _mistyped(field, "string", "should be enclosed in quotes")
        return value or None
    if field.type == "datetime":
        if kind != "datetime":
            raise _mistyped(field, "dateTime", "should not be enclosed in quotes")
        return as_stamp(value)
    if field.type == "date":
        if kind != "date":
            raise _mistyped(field, "date", "should not be enclosed in quotes")
        return value
    if field.type == "boolean":
        if kind != "boolean":
            raise _mistyped(field, "boolean", "should not be enclosed in quotes")
        return value
    if field.type in NUMBERS and kind != "number":
        raise _mistyped(field, field.type, "should not be enclosed in quotes")
    return value


def _mistyped(field: Field, type_: str, should: str) -> Refusal:
    return Refusal(
        "INVALID_FIELD", f"value of filter criterion for field '{field.name}' must be of type {type_} and {should}"
    )


def _one_of(
    scope: Scope, read: Getter, field: Field, values: list[Literal], within: bool, function: str | None
) -> Test:
    if any(v.kind == "literal" for v in values):
        tests = [_within(scope, read, field, "=", str(v.value)) for v in values]
        return lambda row: any(t(row) for t in tests) is within
    wanted = {v.value if function else plain(field, v) for v in values}
    if field.type in TEXT:
        folded = {w.lower() if isinstance(w, str) else w for w in wanted}
        return lambda row: ((v.lower() if (v := read(row)) is not None else None) in folded) is within
    return lambda row: (read(row) in wanted) is within


def _like(read: Getter, pattern: str) -> Test:
    shape = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    matches = re.compile(shape, re.IGNORECASE | re.DOTALL).fullmatch
    return lambda row: (v := read(row)) is not None and matches(v) is not None


def _includes(read: Getter, wanted: list[set[str]], included: bool) -> Test:
    def within(row: Row) -> bool:
        has = set(str(read(row) or "").split(";"))
        return any(w <= has for w in wanted) is included

    return within


def _within(scope: Scope, read: Getter, field: Field, op: str, literal: str) -> Test:
    today = date.fromisoformat(scope.org.clock.moment().date().isoformat())
    found = span(literal, today)
    if found is None or field.type not in {"date", "datetime"}:
        raise Refusal("MALFORMED_QUERY", f"unexpected token: '{literal}'")
    tail = "T00:00:00.000+0000" if field.type == "datetime" else ""
    start, end = (f"{day.isoformat()}{tail}" for day in found)
    tests: dict[str, Callable[[str], bool]] = {
        "=": lambda v: start <= v < end,
        "!=": lambda v: not start <= v < end,
        "<": lambda v: v < start,
        "<=": lambda v: v < end,
        ">": lambda v: v >= end,
        ">=": lambda v: v >= start,
    }
    fits = tests[op]
    return lambda row: (v := read(row)) is not None and fits(v)
