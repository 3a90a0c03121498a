"""The grammar of $filter: from text to a tree of tuples, with the vendor's limits and errors.

Nodes: ``("and"|"or", node, node, …)``, ``("not", node)``, ``("cmp", op, left, right)``, ``("in", left, [literals])``,
``("fn", name, [nodes])``, ``("any"|"all", path, variable, node)``, ``("crm", name, {parameter: literal or list})``,
``("prop", path)``, ``("lit", kind, value)``.
"""

from __future__ import annotations

import re
from typing import Any

from simulators.dynamics.errors import ODataError, bad_query

Node = tuple[Any, ...]
MAX_CONDITIONS = 500
_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<enum>[A-Za-z_][\w.]*'(?:[^']|'')*')"
    r"|(?P<string>'(?:[^']|'')*')"
    r"|(?P<guid>[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"
    r"|(?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)"
    r"|(?P<date>\d{4}-\d\d-\d\d)"
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?[LlMmDdFf]?)"
    r"|(?P<name>[A-Za-z_$@][\w.]*(?:/[A-Za-z_$][\w.]*)*)"
    r"|(?P<mark>[(),:=\[\]])"
    r")"
)
_COMPARISONS = frozenset({"eq", "ne", "gt", "ge", "lt", "le"})
_FUNCTIONS = frozenset({"contains", "startswith", "endswith"})
_CRM = "Microsoft.Dynamics.CRM."


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise bad_query(
                    f"Syntax error: character '{text[at:].strip()[0]}' is not valid at position {at} in '{text}'."
                )
            kind = match.lastgroup or ""
            self._tokens.append((kind, match.group(kind), match.start(kind)))
            at = match.end()
        self._next = 0
        self.conditions = 0

    def peek(self) -> tuple[str, str]:
        if self._next >= len(self._tokens):
            return "end", ""
        return self._tokens[self._next][:2]

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self._next += 1
        return token

    def expect(self, mark: str) -> None:
        if self.take()[1] != mark:
            self._next -= 1
            raise self.error()

    def error(self) -> ODataError:
        at = self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)
        return bad_query(f"Syntax error at position {at} in '{self._text}'.")

    def condition(self) -> None:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise ODataError(400, "0x8004430C", "Number of conditions in query exceeded maximum limit.")

    # Grammar.

    def either(self) -> Node:
        nodes = [self.both()]
        while self.peek() == ("name", "or"):
            self.take()
            nodes.append(self.both())
        return nodes[0] if len(nodes) == 1 else ("or", *nodes)

    def both(self) -> Node:
        nodes = [self.unary()]
        while self.peek() == ("name", "and"):
            self.take()
            nodes.append(self.unary())
        return nodes[0] if len(nodes) == 1 else ("and", *nodes)

    def unary(self) -> Node:
        if self.peek() == ("name", "not"):
            self.take()
            return ("not", self.unary())
        return self.comparison()

    def comparison(self) -> Node:
        left = self.primary()
        kind, word = self.peek()
        if kind == "name" and word in _COMPARISONS:
            self.take()
            self.condition()
            return ("cmp", word, left, self.primary())
        if kind == "name" and word == "in":
            self.take()
            self.condition()
            return ("in", left, self.items("(", ")"))
        if left[0] == "prop":
            self.condition()  # a boolean column on its own
        elif left[0] == "lit":
            raise self.error()
        return left

    def items(self, opening: str, closing: str) -> list[Node]:
        self.expect(opening)
        out: list[Node] = []
        while self.peek()[1] != closing:
            if out:
                self.expect(",")
            out.append(self.primary())
        self.expect(closing)
        return out

    def primary(self) -> Node:
        kind, word = self.take()
        if word == "(" and kind == "mark":
            node = self.either()
            self.expect(")")
            return node
        if kind in ("string", "guid", "datetime", "date", "number", "enum"):
            return literal(kind, word)
        if kind != "name":
            self._next -= 1
            raise self.error()
        if word in ("null", "true", "false"):
            return ("lit", word if word == "null" else "boolean", {"null": None, "true": True, "false": False}[word])
        if self.peek() != ("mark", "("):
            return ("prop", word)
        return self.call(word)

    def call(self, name: str) -> Node:
        self.condition()
        if name.startswith(_CRM):
            return ("crm", name.removeprefix(_CRM), self.parameters())
        if name in _FUNCTIONS:
            return ("fn", name, self.items("(", ")"))
        path, slash, last = name.rpartition("/")
        if slash and last in ("any", "all"):
            self.expect("(")
            if self.peek()[1] == ")":
                self.take()
                return (last, path, "", None)
            variable = self.take()[1]
            self.expect(":")
            node = self.either()
            self.expect(")")
            return (last, path, variable, node)
        raise bad_query(f"An unknown function with name '{name}' was found.")

    def parameters(self) -> dict[str, Any]:
        self.expect("(")
        out: dict[str, Any] = {}
        while self.peek()[1] != ")":
            if out:
                self.expect(",")
            name = self.take()[1]
            self.expect("=")
            out[name] = self.items("[", "]") if self.peek()[1] == "[" else self.primary()
        self.expect(")")
        return out


def literal(kind: str, word: str) -> Node:
    """Return the node of a literal as the tokenizer found it."""
    if kind == "string":
        return ("lit", "string", word[1:-1].replace("''", "'"))
    if kind == "enum":
        return ("lit", "string", word[word.index("'") + 1 : -1])
    if kind == "number":
        text = word.rstrip("LlMmDdFf")
        return ("lit", "number", float(text) if re.search(r"[.eE]", text) else int(text))
    return ("lit", kind, word.lower() if kind == "guid" else word)


def parse_filter(text: str) -> Node:
    """Return the tree of a $filter. Raises ODataError."""
    reader = _Reader(text)
    node = reader.either()
    if reader.peek()[0] != "end":
        raise reader.error()
    return node


def parse_key(text: str) -> dict[str, Any] | str:
    """Return what stands in the brackets behind an entity set: a GUID, or column → literal value. Raises ODataError."""
    reader = _Reader(text)
    kind, word = reader.take()
    if kind in ("guid", "string") and reader.peek()[0] == "end":
        return word.strip("'").lower()
    out: dict[str, Any] = {}
    while True:
        if kind != "name":
            raise bad_query(
                f"The key '({text})' of this resource is not valid: a GUID or column=value pairs are expected."
            )
        reader.expect("=")
        node = reader.primary()
        if node[0] != "lit":
            raise reader.error()
        out[word] = node[2]
        if reader.peek()[0] == "end":
            return out
        reader.expect(",")
        kind, word = reader.take()
