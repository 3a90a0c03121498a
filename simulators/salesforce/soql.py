"""SOQL as text: read into a tree, or refused with the place where it goes wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from simulators.salesforce.errors import Refusal

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:\\.|[^'\\])*')
    | (?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d))
    | (?P<date>\d{4}-\d\d-\d\d)
    | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?::\d+)?)
    | (?P<op><=|>=|!=|<>|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
AGGREGATES = frozenset({"count", "count_distinct", "sum", "min", "max", "avg"})
FUNCTIONS = frozenset(
    {
        "tolabel",
        "format",
        "calendar_year",
        "calendar_month",
        "day_in_month",
        "day_only",
        "hour_in_day",
        "calendar_quarter",
    }
)
_CLAUSES = frozenset({"from", "where", "with", "group", "having", "order", "limit", "offset", "for", "using", "all"})


@dataclass(slots=True)
class Token:
    """One token with the place where it starts."""

    kind: str
    text: str
    at: int


@dataclass(slots=True)
class Path:
    """A field, perhaps of a parent: its names."""

    names: tuple[str, ...]
    at: int = 0
    alias: str | None = None


@dataclass(slots=True)
class Call:
    """A function of a field; COUNT() has none."""

    name: str
    path: Path | None
    alias: str | None = None


@dataclass(slots=True)
class Group:
    """FIELDS(ALL), FIELDS(STANDARD) or FIELDS(CUSTOM)."""

    name: str


@dataclass(slots=True)
class Literal:
    """A value: string, number, date, datetime, literal (of a date), boolean or null."""

    kind: str
    value: Any


@dataclass(slots=True)
class Compare:
    """A comparison; the value is a literal, a list of them, or a query (a semi-join)."""

    left: Path | Call
    op: str
    value: Literal | list[Literal] | Query


@dataclass(slots=True)
class Join:
    """Conditions joined by AND or OR."""

    op: str
    parts: list[Condition]


@dataclass(slots=True)
class Not:
    """A condition denied."""

    part: Condition


Condition = Compare | Join | Not


@dataclass(slots=True)
class Order:
    """One term of ORDER BY."""

    what: Path | Call
    descending: bool = False
    nulls_first: bool = True


@dataclass(slots=True)
class Query:
    """One query."""

    fields: list[Path | Call | Group | Query] = field(default_factory=list)
    source: str = ""
    alias: str | None = None
    where: Condition | None = None
    group: list[Path | Call] = field(default_factory=list)
    having: Condition | None = None
    order: list[Order] = field(default_factory=list)
    limit: int | None = None
    offset: int = 0
    text: str = ""

    @property
    def aggregated(self) -> bool:
        """Return whether the answer has groups, not records."""
        return bool(self.group) or any(isinstance(f, Call) and f.name in AGGREGATES for f in self.fields)


def place(text: str, at: int) -> str:
    """Return the lines that show where a query goes wrong."""
    start, line = max(0, at - 30), text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    shown = text[start : at + 30].replace("\n", " ")
    return f"\n{shown}\n{' ' * (at - start)}^\nERROR at Row:{line}:Column:{column}\n"


def parse(text: str) -> Query:
    """Read a query. Raises Refusal (MALFORMED_QUERY)."""
    parser = _Parser(text)
    query = parser.query()
    parser.end()
    query.text = text
    return query


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[Token] = []
        at = 0
        stripped = text.rstrip()
        while at < len(stripped):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                rest = text[at:].lstrip()
                raise self._wrong(f"unexpected token: '{rest[:1]}'", len(text) - len(rest))
            self._tokens.append(Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        self._at = 0

    # Tokens.

    def _wrong(self, message: str, at: int) -> Refusal:
        return Refusal("MALFORMED_QUERY", place(self._text, at) + message)

    def _peek(self, ahead: int = 0) -> Token:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else Token("end", "", len(self._text))

    def _unexpected(self) -> Refusal:
        token = self._peek()
        return self._wrong(f"unexpected token: '{token.text or '<EOF>'}'", token.at)

    def _word(self, *words: str) -> bool:
        """Take the next tokens if they are these words."""
        for i, word in enumerate(words):
            token = self._peek(i)
            if token.kind != "name" or token.text.lower() != word:
                return False
        self._at += len(words)
        return True

    def _take(self, kind: str, text: str | None = None) -> Token:
        token = self._peek()
        if token.kind != kind or (text is not None and token.text.lower() != text):
            raise self._unexpected()
        self._at += 1
        return token

    def _is(self, op: str) -> bool:
        token = self._peek()
        return token.kind == "op" and token.text == op

    def end(self) -> None:
        """Refuse what is left over."""
        if self._at < len(self._tokens):
            raise self._unexpected()

    # Grammar.

    def query(self) -> Query:
        """Read one query up to its end or to the parenthesis that closes it."""
        out = Query()
        self._take("name", "select")
        out.fields.append(self._selected())
        while self._is(","):
            self._at += 1
            out.fields.append(self._selected())
        self._take("name", "from")
        out.source = self._take("name").text
        token = self._peek()
        if token.kind == "name" and token.text.lower() not in _CLAUSES:
            if self._word("as"):
                token = self._peek()
            out.alias = self._take("name").text
        if self._word("using"):
            self._take("name", "scope")
            self._take("name")
        if self._word("where"):
            out.where = self._condition()
        if self._word("with") and not (
            self._word("security_enforced") or self._word("user_mode") or self._word("system_mode")
        ):
            raise self._unexpected()
        if self._word("group", "by"):
            out.group = self._listed(self._operand)
        if self._word("having"):
            out.having = self._condition()
        if self._word("order", "by"):
            out.order = self._listed(self._order)
        if self._word("limit"):
            out.limit = self._count()
        if self._word("offset"):
            out.offset = self._count()
        if self._word("for"):
            while self._word("view") or self._word("reference") or self._word("update"):
                if self._is(","):
                    self._at += 1
        if self._word("all", "rows"):
            raise self._wrong("ALL ROWS is not allowed in this context", self._peek(-1).at)
        return out

    def _listed(self, one: Any) -> list[Any]:
        out = [one()]
        while self._is(","):
            self._at += 1
            out.append(one())
        return out

    def _count(self) -> int:
        token = self._take("number")
        if not token.text.isdigit():
            raise self._wrong(f"unexpected token: '{token.text}'", token.at)
        return int(token.text)

    def _selected(self) -> Path | Call | Group | Query:
        if self._is("("):
            self._at += 1
            inner = self.query()
            self._take("op", ")")
            return inner
        if self._peek().text.lower() == "fields" and self._peek(1).text == "(":
            self._at += 2
            name = self._take("name").text.lower()
            self._take("op", ")")
            if name not in {"all", "standard", "custom"}:
                raise self._wrong(f"Unknown FIELDS scope: {name}", self._peek().at)
            return Group(name)
        out = self._operand()
        token = self._peek()
        if token.kind == "name" and token.text.lower() not in _CLAUSES:
            out.alias = self._take("name").text
        return out

    def _operand(self) -> Path | Call:
        token = self._take("name")
        if not self._is("("):
            return Path(tuple(token.text.split(".")), token.at)
        name = token.text.lower()
        if name not in AGGREGATES and name not in FUNCTIONS:
            raise self._wrong(f"Unknown function: {token.text}", token.at)
        self._at += 1
        path = None
        if not self._is(")"):
            inner = self._take("name")
            path = Path(tuple(inner.text.split(".")), inner.at)
        elif name != "count":
            raise self._unexpected()
        self._take("op", ")")
        return Call(name, path)

    def _order(self) -> Order:
        out = Order(self._operand())
        if self._word("desc"):
            out.descending = True
        else:
            self._word("asc")
        if self._word("nulls", "last"):
            out.nulls_first = False
        else:
            self._word("nulls", "first")
        return out

    def _condition(self) -> Condition:
        parts = [self._denied()]
        op = None
        while (token := self._peek()).kind == "name" and token.text.lower() in {"and", "or"}:
            if op is not None and token.text.lower() != op:
                raise self._unexpected()  # mixed AND and OR want parentheses
            op = token.text.lower()
            self._at += 1
            parts.append(self._denied())
        return parts[0] if op is None else Join(op, parts)

    def _denied(self) -> Condition:
        if self._word("not"):
            return Not(self._denied())
        if self._is("("):
            self._at += 1
            inner = self._condition()
            self._take("op", ")")
            return inner
        left = self._operand()
        if self._word("not", "in"):
            return Compare(left, "not in", self._values())
        for word in ("in", "includes", "excludes"):
            if self._word(word):
                return Compare(left, word, self._values())
        if self._word("like"):
            return Compare(left, "like", self._literal())
        token = self._peek()
        if token.kind != "op" or token.text not in {"=", "!=", "<>", "<", "<=", ">", ">="}:
            raise self._unexpected()
        self._at += 1
        return Compare(left, "!=" if token.text == "<>" else token.text, self._literal())

    def _values(self) -> list[Literal] | Query:
        self._take("op", "(")
        if self._peek().text.lower() == "select":
            inner = self.query()
            self._take("op", ")")
            return inner
        out: list[Literal] = self._listed(self._literal)
        self._take("op", ")")
        return out

    def _literal(self) -> Literal:
        token = self._peek()
        self._at += 1
        if token.kind == "string":
            return Literal("string", re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token.text[1:-1]))
        if token.kind == "number":
            return Literal("number", float(token.text) if re.search(r"[.eE]", token.text) else int(token.text))
        if token.kind in {"date", "datetime"}:
            return Literal(token.kind, token.text)
        if token.kind == "name":
            word = token.text.lower()
            if word in {"true", "false"}:
                return Literal("boolean", word == "true")
            return Literal("null", None) if word == "null" else Literal("literal", token.text.upper())
        self._at -= 1
        raise self._unexpected()
