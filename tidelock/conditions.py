"""Conditions of flows: a small, safe part of Python's expressions, compiled into a function of the golden record.

``and or not``, comparisons (also chained), ``in`` a list of values, ``is None``, names of fields, texts, numbers, ``True``/``False``,
``lower(x)`` and ``startswith(x, 'text')`` (or as methods). A comparison with a null is false, ``!=`` and ``not in`` too, as in SQL;
so a record with a blank field meets ``status != 'closed'`` only if it says ``status is None or ...``. Dates are compared with texts
such as ``'2024-12-31'``; ``currency`` amounts with numbers, exactly.
"""

from __future__ import annotations

import ast
import datetime as dt
import difflib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from tidelock.avro import NULL, FieldType, decode_slice

Row = Sequence[bytes]
Value = Callable[[Row], Any]
_TEXT, _NUMBER, _BOOLEAN, _DATE, _MOMENT = "a text", "a number", "a yes/no value", "a date", "a point in time"
_FAMILIES = {
    FieldType.STRING: _TEXT,
    FieldType.UUID: _TEXT,
    FieldType.JSON: _TEXT,
    FieldType.INTEGER: _NUMBER,
    FieldType.NUMBER: _NUMBER,
    FieldType.DECIMAL: _NUMBER,
    FieldType.BOOLEAN: _BOOLEAN,
    FieldType.DATE: _DATE,
    FieldType.TIMESTAMP: _MOMENT,
    FieldType.LOCAL_TIMESTAMP: _MOMENT,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ALLOWED = "use field names, texts, numbers, and/or/not, comparisons, in, is None, lower() and startswith()"


class _Term(NamedTuple):
    """Something that has a value: of which family, how to get it, the type of the field, and whether it is a literal."""

    family: str
    value: Value
    type: FieldType | None
    constant: Any = None


def compile_condition(text: str, fields: Mapping[str, FieldType]) -> Callable[[Row], bool]:
    """Compile a condition on records whose slices are in the order of ``fields``.

    Raises ValueError that says at which character what is wrong and what would be right.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = getattr(error, "offset", None) or len(text.strip()) + 1  # 0: where the text ends
        reason = getattr(error, "msg", str(error))
        raise ValueError(f"at character {at}: the condition cannot be read ({reason}); {_ALLOWED}") from None
    return _Compiler(text.strip(), fields).test(tree)


def condition_fields(text: str, fields: Iterable[str]) -> frozenset[str]:
    """Return the fields that a condition asks for; it must be one that `compile_condition` takes."""
    names = {node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name)}
    return frozenset(names & set(fields))


class _Compiler:
    def __init__(self, text: str, fields: Mapping[str, FieldType]) -> None:
        self._text = text
        self._fields = {name: (i, kind) for i, (name, kind) in enumerate(fields.items())}

    def _error(self, node: ast.AST, what: str) -> ValueError:
        return ValueError(f"at character {getattr(node, 'col_offset', 0) + 1}: {what}")

    # ------------------------------------------------------------------------------------------------ true or false

    def test(self, node: ast.expr) -> Callable[[Row], bool]:
        """Compile what is true or false."""
        match node:
            case ast.BoolOp(op=op, values=values):
                tests = [self.test(v) for v in values]
                if isinstance(op, ast.And):
                    return lambda row: all(t(row) for t in tests)
                return lambda row: any(t(row) for t in tests)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.test(operand)
                return lambda row: not inner(row)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                tests = [self._compare(node, a, op, b) for a, op, b in zip(sides, ops, others, strict=False)]
                return tests[0] if len(tests) == 1 else lambda row: all(t(row) for t in tests)
            case ast.Call():
                return self._call_test(node)
            case ast.Constant(value=bool() as constant):
                return lambda _row: constant
            case ast.Name():
                term = self._term(node)
                if term.family is not _BOOLEAN:
                    raise self._error(node, f"`{node.id}` is {term.family}; compare it with something")
                value = term.value
                return lambda row: value(row) is True
            case _:
                raise self._error(node, f"`{self._shown(node)}` is not a condition; {_ALLOWED}")

    def _compare(self, whole: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Row], bool]:
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._error(right, "`is` is only for `is None` and `is not None`; compare with ==")
            value, wanted = self._term(left).value, isinstance(op, ast.Is)
            return lambda row: (value(row) is None) is wanted
        if isinstance(op, ast.In | ast.NotIn):
            return self._member(left, right, isinstance(op, ast.In))
        a, b = self._term(left), self._term(right)
        if a.constant is None:
            b = self._coerce(right, b, a)
        if b.constant is None:
            a = self._coerce(left, a, b)
        if a.family is not b.family:
            raise self._error(whole, f"`{self._shown(left)}` is {a.family}, `{self._shown(right)}` is {b.family}")
        if a.family is _BOOLEAN and not isinstance(op, ast.Eq | ast.NotEq):
            raise self._error(whole, "yes/no values are compared with == and != only")
        compare, first, second = _COMPARE[type(op)], a.value, b.value

        def test(row: Row) -> bool:
            x = first(row)
            if x is None:
                return False
            y = second(row)
            return y is not None and compare(x, y)

        return test

    def _member(self, left: ast.expr, right: ast.expr, wanted: bool) -> Callable[[Row], bool]:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._error(right, "after `in` comes a list of values, for example ['active', 'new']")
        term = self._term(left)
        values = []
        for node in right.elts:
            item = self._coerce(node, self._term(node), term)
            if item.constant is None:
                raise self._error(node, "a list holds texts and numbers only")
            if item.family is not term.family:
                raise self._error(
                    node, f"`{self._shown(node)}` is {item.family}, `{self._shown(left)}` is {term.family}"
                )
            values.append(item.constant)
        known, value = frozenset(values), term.value

        def test(row: Row) -> bool:
            x = value(row)
            return x is not None and (x in known) is wanted

        return test

    def _call_test(self, node: ast.Call) -> Callable[[Row], bool]:
        name, arguments = self._call(node)
        if name != "startswith" or len(arguments) != 2:
            raise self._error(node, f"`{self._shown(node)}` is not a condition; startswith(field, 'text') is one")
        subject, start = self._text_term(arguments[0]), self._term(arguments[1])
        if not isinstance(start.constant, str):
            raise self._error(arguments[1], "startswith() needs a text in quotes")
        value, head = subject.value, start.constant

        def test(row: Row) -> bool:
            x = value(row)
            return x is not None and x.startswith(head)

        return test

    # ------------------------------------------------------------------------------------------------ values

    def _term(self, node: ast.expr) -> _Term:
        match node:
            case ast.Name(id=name):
                return self._field(node, name)
            case ast.Constant(value=bool() as flag):
                return _constant(_BOOLEAN, flag)
            case ast.Constant(value=str() as text):
                return _constant(_TEXT, text)
            case ast.Constant(value=int() as number):
                return _constant(_NUMBER, number)
            case ast.Constant(value=float()):
                return self._number(node, 1)
            case ast.Constant(value=None):
                raise self._error(node, "a comparison with None is always false; write `is None` or `is not None`")
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=ast.Constant(value=int() | float()) as inner):
                return self._number(inner, -1 if isinstance(op, ast.USub) else 1)
            case ast.Call():
                name, arguments = self._call(node)
                if name != "lower" or len(arguments) != 1:
                    raise self._error(node, f"`{self._shown(node)}` has no value to compare; lower(field) has")
                subject = self._text_term(arguments[0]).value
                return _Term(_TEXT, lambda row: None if (x := subject(row)) is None else x.lower(), FieldType.STRING)
            case _:
                raise self._error(node, f"`{self._shown(node)}` is not understood; {_ALLOWED}")

    def _number(self, node: ast.Constant, sign: int) -> _Term:
        try:
            return _constant(_NUMBER, sign * Decimal((ast.get_source_segment(self._text, node) or "").replace("_", "")))
        except InvalidOperation:
            raise self._error(node, f"`{self._shown(node)}` is not a number") from None

    def _text_term(self, node: ast.expr) -> _Term:
        term = self._term(node)
        if term.family is not _TEXT:
            raise self._error(node, f"`{self._shown(node)}` is {term.family}; lower() and startswith() need a text")
        return term

    def _call(self, node: ast.Call) -> tuple[str, list[ast.expr]]:
        if node.keywords:
            raise self._error(node, "arguments have no names here")
        match node.func:
            case ast.Name(id=name):
                return name, node.args
            case ast.Attribute(value=subject, attr=name):
                return name, [subject, *node.args]
            case _:
                raise self._error(node, f"`{self._shown(node)}` is not understood; {_ALLOWED}")

    def _field(self, node: ast.expr, name: str) -> _Term:
        if name not in self._fields:
            near = difflib.get_close_matches(name, self._fields, 1)
            what = f"did you mean `{near[0]}`?" if near else f"the fields are {', '.join(self._fields)}"
            raise self._error(node, f"there is no field `{name}`; {what}")
        i, kind = self._fields[name]
        if kind not in _FAMILIES:
            raise self._error(node, f"`{name}` holds {kind.value}, which cannot be compared")

        def value(row: Row) -> Any:
            raw = row[i]
            return None if not raw or raw == NULL else decode_slice(kind, raw)

        def decimal(row: Row) -> Any:
            text = value(row)
            number = None if text is None else Decimal(text)
            return number if number is not None and number.is_finite() else None

        def moment(row: Row) -> Any:
            local = value(row)
            return None if local is None else local.replace(tzinfo=dt.UTC)

        special = {FieldType.DECIMAL: decimal, FieldType.LOCAL_TIMESTAMP: moment}
        return _Term(_FAMILIES[kind], special.get(kind, value), kind)

    def _coerce(self, node: ast.expr, term: _Term, other: _Term) -> _Term:
        """Read a literal as the other side needs it: texts as dates, numbers as binary floating point."""
        constant = term.constant
        if constant is None:
            return term
        if other.family in (_DATE, _MOMENT) and isinstance(constant, str):
            try:
                if other.family is _DATE:
                    return _constant(_DATE, dt.date.fromisoformat(constant))
                read = dt.datetime.fromisoformat(constant)
            except ValueError:
                raise self._error(node, f"`{constant}` is not a date; write it as '2024-12-31'") from None
            return _constant(_MOMENT, read if read.tzinfo else read.replace(tzinfo=dt.UTC))
        if other.type is FieldType.NUMBER and isinstance(constant, Decimal):
            return _constant(_NUMBER, float(constant))
        return term

    def _shown(self, node: ast.AST) -> str:
        text = ast.get_source_segment(self._text, node) or type(node).__name__
        return text if len(text) <= 40 else text[:37] + "..."


def _constant(family: str, value: Any) -> _Term:
    return _Term(family, lambda _row: value, None, value)
