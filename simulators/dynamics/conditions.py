"""What a $filter means on rows: a predicate, and the plan by which an index finds the few rows that can meet it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulators.dynamics.errors import bad_query, no_property
from simulators.dynamics.schema import Column, Table
from simulators.dynamics.store import Store, Values
from simulators.dynamics.syntax import Node
from simulators.dynamics.values import folded, parse_datetime

Predicate = Callable[[Values], bool]
Getter = Callable[[Values], Any]
_FAMILIES = {
    "string": "Edm.String",
    "memo": "Edm.String",
    "multi": "Edm.String",
    "boolean": "Edm.Boolean",
    "datetime": "Edm.DateTimeOffset",
    "date": "Edm.Date",
    "uniqueidentifier": "Edm.Guid",
    "lookup": "Edm.Guid",
    "customer": "Edm.Guid",
    "owner": "Edm.Guid",
}
_LITERALS = {"string": "Edm.String", "number": "Edm.Int32", "boolean": "Edm.Boolean", "guid": "Edm.Guid"}
_KINDS = {"eq": "Equal", "ne": "NotEqual", "gt": "GreaterThan", "ge": "GreaterThanOrEqual", "lt": "LessThan"}


@dataclass(slots=True)
class Plan:
    """How to find candidates: ids, values of an indexed property, or everything since a version or a moment."""

    kind: str
    prop: str = ""
    values: tuple[Any, ...] = ()
    parts: tuple[Plan, ...] = ()

    @property
    def cost(self) -> int:
        """Return a rank: the lower, the fewer rows it finds."""
        return {"ids": 0, "index": 1, "union": 2, "since": 3, "modified": 3}[self.kind]


@dataclass(slots=True)
class Condition:
    """A compiled filter."""

    holds: Predicate
    plan: Plan | None = None


class Compiler:
    """Compiles filters on one table."""

    def __init__(self, store: Store, table: Table) -> None:
        self._store = store
        self._table = table

    def compile(self, node: Node) -> Condition:
        """Return what the filter means. Raises ODataError where it names what is not there or compares what cannot be."""
        match node[0]:
            case "and":
                parts = [self.compile(n) for n in node[1:]]
                plans = sorted((p.plan for p in parts if p.plan is not None), key=lambda p: p.cost)
                return Condition(_both(*(p.holds for p in parts)), plans[0] if plans else None)
            case "or":
                parts = [self.compile(n) for n in node[1:]]
                return Condition(_either(*(p.holds for p in parts)), _union([p.plan for p in parts]))
            case "not":
                inner = self.compile(node[1]).holds
                return Condition(lambda values: not inner(values))
            case "cmp":
                return self._comparison(node[1], node[2], node[3])
            case "in":
                return self._membership(node[1], node[2])
            case "fn":
                return Condition(self._function(node[1], node[2]))
            case "any" | "all":
                return Condition(self._lambda(*node))
            case "crm":
                return self._query_function(node[1], node[2])
            case "prop":
                getter, _ = self.getter(node[1])
                return Condition(lambda values: getter(values) is True)
        raise bad_query("The $filter expression is not supported.")

    def getter(self, path: str) -> tuple[Getter, Column]:
        """Return how to read a property, over lookups where the path says so, and its column. Raises ODataError."""
        name, slash, rest = path.partition("/")
        if not slash:
            column = self._table.properties.get(name)
            if column is None and name in self._table.columns:
                column = self._table.columns[name]  # the logical name of a lookup
            if column is None:
                raise no_property(name, self._table.name)
            prop = column.property
            return (lambda values: values.get(prop)), column
        link = self._table.links.get(name)
        if link is None:
            raise no_property(name, self._table.name)
        lookup, target = link
        inner, column = Compiler(self._store, self._store.schema.tables[target]).getter(rest)
        data = self._store.data(self._store.schema.tables[target])
        prop = lookup.property

        def read(values: Values) -> Any:
            row = data.rows.get(values.get(prop) or "")
            return None if row is None else inner(row.values)

        return read, column

    def _operand(self, column: Column, node: Node, op: str) -> Any:
        """Return a literal as it compares with a column. Raises ODataError if the types do not go together."""
        if node[0] != "lit":
            raise bad_query("A comparison needs a property on its left and a literal on its right.")
        kind, value = node[1], node[2]
        if value is None:
            return None
        family = _FAMILIES.get(column.kind, "Edm.Int32")
        try:
            if family == "Edm.String" and kind == "string":
                return folded(value)
            if family == "Edm.Guid" and kind in ("guid", "string"):
                return str(value).lower()
            if family == "Edm.DateTimeOffset" and kind in ("datetime", "date", "string"):
                text = parse_datetime(value).isoformat().removesuffix("+00:00")
                return text.rstrip("0").rstrip(".") if "." in text else text
            if family == "Edm.Date" and kind in ("datetime", "date", "string"):
                return parse_datetime(value).date().isoformat()
        except ValueError as error:
            raise bad_query(f"The time '{value}' is not valid.") from error
        if family == "Edm.Boolean" and kind == "boolean":
            return value
        if family == "Edm.Boolean" and kind == "number" and value in (0, 1):
            return bool(value)
        if family == "Edm.Int32" and kind == "number":
            return value
        if family == "Edm.Int32" and kind == "string" and value.lstrip("-").isdigit():
            return int(value)
        found = _LITERALS.get(kind, "Edm.DateTimeOffset")
        raise bad_query(
            f"A binary operator with incompatible types was detected. Found operand types '{family}' and '{found}' "
            f"for operator kind '{_KINDS.get(op, 'LessThanOrEqual')}'."
        )

    def _comparison(self, op: str, left: Node, right: Node) -> Condition:
        if left[0] == "lit" and right[0] == "prop":
            left, right = right, left
            op = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}.get(op, op)
        if left[0] != "prop":
            raise bad_query("A comparison needs a property on one side.")
        getter, column = self.getter(left[1])
        if right[0] == "prop":
            other, _ = self.getter(right[1])
            return Condition(_columns(op, getter, other))
        wanted = self._operand(column, right, op)
        read = _reader(getter, column)
        if wanted is None:
            if op not in ("eq", "ne"):
                return Condition(lambda _: False)
            return Condition((lambda v: read(v) is None) if op == "eq" else (lambda v: read(v) is not None))
        return Condition(_ordered(op, read, wanted), self._plan(op, left[1], column, wanted))

    def _plan(self, op: str, path: str, column: Column, wanted: Any) -> Plan | None:
        if "/" in path:
            return None
        if op == "eq" and column.name == self._table.primary_id:
            return Plan("ids", values=(wanted,))
        if op == "eq" and _FAMILIES.get(column.kind) in ("Edm.String", "Edm.Guid"):
            return Plan("index", column.property, (wanted,))
        if op in ("gt", "ge", "eq") and path == "modifiedon":
            return Plan("modified", values=(f"{wanted[:19]}Z",))
        if op in ("gt", "ge", "eq") and path == "versionnumber":
            return Plan("since", values=(int(wanted) - (op != "gt"),))
        return None

    def _membership(self, left: Node, items: list[Node]) -> Condition:
        if left[0] != "prop":
            raise bad_query("The 'in' operator needs a property on its left.")
        getter, column = self.getter(left[1])
        wanted = {self._operand(column, item, "eq") for item in items}
        read = _reader(getter, column)
        plan = None
        if "/" not in left[1] and None not in wanted:
            if column.name == self._table.primary_id:
                plan = Plan("ids", values=tuple(wanted))
            elif _FAMILIES.get(column.kind) in ("Edm.String", "Edm.Guid"):
                plan = Plan("index", column.property, tuple(wanted))
        return Condition(lambda values: read(values) in wanted, plan)

    def _function(self, name: str, arguments: list[Node]) -> Predicate:
        if len(arguments) != 2 or arguments[0][0] != "prop" or arguments[1][0] != "lit":
            raise bad_query(f"The function '{name}' needs a property and a literal.")
        getter, column = self.getter(arguments[0][1])
        if _FAMILIES.get(column.kind) != "Edm.String":
            raise bad_query(
                f"No function signature for the function with name '{name}' matches the specified arguments."
            )
        part = folded(str(arguments[1][2]))
        test: Callable[[str, str], bool] = {
            "contains": lambda text, part: part in text,
            "startswith": str.startswith,
            "endswith": str.endswith,
        }[name]

        def holds(values: Values) -> bool:
            text = getter(values)
            return text is not None and test(folded(text), part)

        return holds

    def _lambda(self, word: str, path: str, variable: str, node: Node | None) -> Predicate:
        relationship = self._store.schema.collection(self._table, path)
        if relationship is None:
            raise no_property(path, self._table.name)
        many = self._store.schema.tables[relationship.many]
        prop = many.columns[relationship.column].property
        data = self._store.data(many)
        inner = (
            Compiler(self._store, many).compile(_without(variable, node)).holds if node is not None else lambda _: True
        )
        primary = self._table.primary_id

        def holds(values: Values) -> bool:
            ids = data.index(prop).get(values[primary], {})
            tested = (inner(data.rows[i].values) for i in ids)
            return any(tested) if word == "any" else all(tested)

        return holds

    def _query_function(self, name: str, parameters: dict[str, Any]) -> Condition:
        """Compile the query functions that have their own names instead of operators."""
        given = parameters.get("PropertyName")
        if given is None or given[0] != "lit":
            raise bad_query(f"The query function '{name}' needs PropertyName.")
        prop: Node = ("prop", given[2])
        many = parameters.get("PropertyValues", [])
        one = parameters.get("PropertyValue")
        match name:
            case "In":
                return self._membership(prop, many)
            case "NotIn":
                inner = self._membership(prop, many).holds
                return Condition(lambda values: not inner(values))
            case "ContainValues" | "DoesNotContainValues":
                getter, _ = self.getter(given[2])
                wanted = {str(node[2]) for node in many}
                contains = name == "ContainValues"
                return Condition(lambda v: bool(wanted & set(str(getter(v) or "").split(","))) is contains)
            case "Between":
                low = self._comparison("ge", prop, many[0])
                high = self._comparison("le", prop, many[1])
                return Condition(_both(low.holds, high.holds), low.plan)
            case "OnOrAfter" | "OnOrBefore" if one is not None:
                return self._comparison("ge" if name == "OnOrAfter" else "le", prop, one)
        raise bad_query(f"The query function 'Microsoft.Dynamics.CRM.{name}' is not simulated.")


def _reader(getter: Getter, column: Column) -> Getter:
    """Return how to read a property as it is compared."""
    if column.kind == "datetime":
        return lambda values: value[:-1] if (value := getter(values)) is not None else None
    if _FAMILIES.get(column.kind) == "Edm.String":
        return lambda values: folded(getter(values))
    return getter


def _ordered(op: str, read: Getter, wanted: Any) -> Predicate:
    match op:
        case "eq":
            return lambda values: read(values) == wanted
        case "ne":
            return lambda values: read(values) != wanted
        case "gt":
            return lambda values: (v := read(values)) is not None and v > wanted
        case "ge":
            return lambda values: (v := read(values)) is not None and v >= wanted
        case "lt":
            return lambda values: (v := read(values)) is not None and v < wanted
    return lambda values: (v := read(values)) is not None and v <= wanted


def _columns(op: str, left: Getter, right: Getter) -> Predicate:
    def holds(values: Values) -> bool:
        a, b = folded(left(values)), folded(right(values))
        if a is None or b is None:
            return (a is b) if op == "eq" else op == "ne" and a is not b
        return bool({"eq": a == b, "ne": a != b}.get(op, False) or _ordered(op, lambda _: a, b)(values))

    return holds


def _both(*parts: Predicate) -> Predicate:
    return lambda values: all(holds(values) for holds in parts)


def _either(*parts: Predicate) -> Predicate:
    return lambda values: any(holds(values) for holds in parts)


def _union(plans: list[Plan | None]) -> Plan | None:
    known = [p for p in plans if p is not None and p.cost <= 2]
    return Plan("union", parts=tuple(known)) if len(known) == len(plans) else None


def _without(variable: str, node: Any) -> Any:
    """Return the node of a lambda with its variable taken from the paths."""
    if isinstance(node, tuple):
        if node and node[0] == "prop":
            return ("prop", node[1].removeprefix(f"{variable}/"))
        return tuple(_without(variable, part) for part in node)
    if isinstance(node, list):
        return [_without(variable, part) for part in node]
    return node
