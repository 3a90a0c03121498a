"""The ``sql`` parameter: one SELECT on one table, translated into the options of an ordinary query."""

from __future__ import annotations

import re
from typing import Any

from simulators.dynamics.aggregation import grouped
from simulators.dynamics.errors import bad_query
from simulators.dynamics.messages import Ask, Reply, answered
from simulators.dynamics.query import Options, Query, split_outside
from simulators.dynamics.reading import Reader
from simulators.dynamics.schema import Table
from simulators.dynamics.store import Store
from simulators.dynamics.syntax import parse_filter

_SELECT = re.compile(
    r"\s*select\s+(?P<distinct>distinct\s+)?(?:top\s+\(?(?P<top>\d+)\)?\s+)?(?P<columns>.+?)\s+from\s+(?P<table>\w+)"
    r"(?:\s+(?:as\s+)?(?!where\b|group\b|order\b)(?P<alias>\w+))?"
    r"(?:\s+where\s+(?P<where>.+?))?(?:\s+group\s+by\s+(?P<group>.+?))?(?:\s+order\s+by\s+(?P<order>.+?))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_COUNT = re.compile(r"(count|sum|min|max|avg)\s*\(\s*(\*|\w+)\s*\)(?:\s+(?:as\s+)?(\w+))?$", re.IGNORECASE)
_STRING = re.compile(r"'(?:[^']|'')*'")
_LIKE = re.compile(r"(\w+)\s+(not\s+)?like\s+(\x00\d+\x00)", re.IGNORECASE)
_WORDS = (
    (re.compile(r"(\w+)\s+is\s+not\s+null", re.IGNORECASE), r"\1 ne null"),
    (re.compile(r"(\w+)\s+is\s+null", re.IGNORECASE), r"\1 eq null"),
    (re.compile(r"(\w+)\s+not\s+in\s*(\([^)]*\))", re.IGNORECASE), r"not (\1 in \2)"),
    (re.compile(r"\s*(?:<>|!=)\s*"), " ne "),
    (re.compile(r"\s*>=\s*"), " ge "),
    (re.compile(r"\s*<=\s*"), " le "),
    (re.compile(r"\s*>\s*"), " gt "),
    (re.compile(r"\s*<\s*"), " lt "),
    (re.compile(r"\s*=\s*"), " eq "),
    (re.compile(r"\b(and|or|not|in|null)\b", re.IGNORECASE), lambda m: m[1].lower()),
)


class Sql:
    """Answers SELECT statements."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    def answer(self, ask: Ask, table: Table, text: str) -> Reply:
        """Answer a statement. Raises ODataError."""
        match = _SELECT.match(text)
        if match is None or re.search(r"\b(join|union|having|with)\b", _STRING.sub("''", text), re.IGNORECASE):
            raise bad_query(
                "The SQL statement is not supported: SELECT … FROM one table [WHERE] [GROUP BY] [ORDER BY] is."
            )
        if match["table"].lower() != table.name:
            raise bad_query(
                f"The statement selects from '{match['table']}', but the address is the one of '{table.name}'."
            )
        prefix = match["alias"] or match["table"]

        def plain(part: str) -> str:
            return re.sub(rf"\b{prefix}\.", "", part.strip(), flags=re.IGNORECASE)

        options = Options()
        if match["where"]:
            options.filter = parse_filter(self._named(table, _condition(plain(match["where"]))))
        if match["top"]:
            options.top = int(match["top"])
        columns = [plain(c) for c in split_outside(match["columns"], ",")]
        order = [plain(o).split() for o in split_outside(match["order"], ",")] if match["order"] else []
        aggregates = [m for c in columns if (m := _COUNT.match(c)) is not None]
        if aggregates or match["group"] or match["distinct"]:
            return self._grouped(ask, table, options, columns, match["group"])
        options.select = [self._property(table, c) for c in columns]
        options.order = [(self._property(table, o[0]), o[1:] != [] and o[1].lower() == "desc") for o in order]
        return self._reader.answer_query(ask, table, options)

    def _grouped(self, ask: Ask, table: Table, options: Options, columns: list[str], group: str | None) -> Reply:
        names, aggregates = [], []
        for column in columns:
            found = _COUNT.match(column)
            if found is None:
                names.append(self._property(table, column))
                continue
            kind = {"avg": "average"}.get(found[1].lower(), found[1].lower())
            star = found[2] == "*"
            prop = "" if star else self._property(table, found[2])
            aggregates.append((prop, "rows" if star else kind, found[3] or f"{found[1].lower()}"))
        groups = [self._property(table, g.strip()) for g in group.split(",")] if group else names
        rows = list(Query(self._store, table, options).everything())
        value: list[dict[str, Any]] = grouped(self._store, table, rows, groups, aggregates)
        return answered({"@odata.context": f"{ask.root}$metadata#{table.set_name}", "value": value[: options.top]})

    @staticmethod
    def _property(table: Table, name: str) -> str:
        column = table.columns.get(name.lower()) or table.properties.get(name.lower())
        if column is None:
            raise bad_query(f"Invalid column name '{name}'.")
        return column.property

    @staticmethod
    def _named(table: Table, text: str) -> str:
        """Return a condition with the columns that are lookups under the names of their properties."""
        parts = re.split(r"('(?:[^']|'')*')", text)
        lookups = {c.name: c.property for c in table.columns.values() if c.is_lookup}
        for at in range(0, len(parts), 2):
            parts[at] = re.sub(r"\w+", lambda m: lookups.get(m[0].lower(), m[0]), parts[at])
        return "".join(parts)


def _condition(text: str) -> str:
    """Return a WHERE clause as a $filter; what stands in quotes is kept aside meanwhile."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\x00{len(kept) - 1}\x00"

    out = _STRING.sub(keep, text)

    def like(match: re.Match[str]) -> str:
        pattern = kept[int(match[3].strip("\x00"))][1:-1]
        start, end = pattern.startswith("%"), pattern.endswith("%")
        bare = pattern.strip("%")
        kept.append(f"'{bare}'")
        word = "contains" if start and end else "endswith" if start else "startswith" if end else ""
        place = f"\x00{len(kept) - 1}\x00"
        test = f"{word}({match[1]},{place})" if word else f"{match[1]} eq {place}"
        return f"not {test}" if match[2] else test

    out = _LIKE.sub(like, out)
    for pattern, replacement in _WORDS:
        out = pattern.sub(replacement, out)
    return re.sub(r"\x00(\d+)\x00", lambda m: kept[int(m[1])], out)
