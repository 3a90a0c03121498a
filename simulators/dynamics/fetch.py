"""FetchXML on an entity set: attributes, filters, order, pages and simple aggregates; no linked tables."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import quote

from simulators.dynamics.aggregation import grouped
from simulators.dynamics.errors import ODataError, bad_query
from simulators.dynamics.messages import Ask, Reply, answered
from simulators.dynamics.query import MAX_PAGE, Options, Query, read_skip_token, skip_token
from simulators.dynamics.reading import Reader
from simulators.dynamics.rendering import Renderer
from simulators.dynamics.schema import Column, Table
from simulators.dynamics.store import Store
from simulators.dynamics.syntax import Node

_OPERATORS = {
    "eq": "eq",
    "ne": "ne",
    "neq": "ne",
    "gt": "gt",
    "ge": "ge",
    "lt": "lt",
    "le": "le",
    "on-or-after": "ge",
    "on-or-before": "le",
}
_AGGREGATES = {"count": "rows", "countcolumn": "count", "sum": "sum", "avg": "average", "min": "min", "max": "max"}


class Fetcher:
    """Answers queries in FetchXML."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    def answer(self, ask: Ask, table: Table, text: str) -> Reply:
        """Answer a query. Raises ODataError."""
        root = _parsed(text)
        entity = root.find("entity")
        if entity is None or entity.get("name") != table.name:
            raise ODataError(
                400,
                "0x80041102",
                f"Entity Name specified in fetchxml does not match Entity Name specified in Url or Query Expression: '{table.name}'.",
            )
        if entity.find("link-entity") is not None:
            raise bad_query("This simulator does not follow link-entity in FetchXML.")
        nodes = [_group(table, f) for f in entity.findall("filter")]
        options = Options(filter=("and", *nodes) if nodes else None)
        context = f"{ask.root}$metadata#{table.set_name}"
        if root.get("aggregate") == "true":
            return answered({"@odata.context": context, "value": self._aggregated(table, entity, options)})
        for order in entity.findall("order"):
            column = _column(table, order.get("attribute", ""))
            options.order.append((column.property, order.get("descending") == "true"))
        if entity.find("all-attributes") is None:
            options.select = [_column(table, a.get("name", "")).property for a in entity.findall("attribute")]
        query = Query(self._store, table, options)
        if root.get("top"):
            page = query.page(min(int(root.get("top", "1")), MAX_PAGE))
            page.cookie = None
        else:
            size = min(int(root.get("count", MAX_PAGE)), self._reader.page_limit)
            page = query.page(size, _cookie(root.get("paging-cookie")))
            for _ in range(int(root.get("page", "1")) - 1 if not root.get("paging-cookie") else 0):
                if page.cookie is None:
                    page.rows = []
                    break
                page = query.page(size, page.cookie)
        body: dict[str, Any] = {"@odata.context": context}
        if root.get("returntotalrecordcount") == "true":
            body["@odata.count"] = body["@Microsoft.Dynamics.CRM.totalrecordcount"] = query.count()
        if page.cookie is not None:
            token = quote(skip_token(page.cookie), safe="")
            body["@Microsoft.Dynamics.CRM.fetchxmlpagingcookie"] = (
                f'<cookie pagenumber="{page.cookie.page}" pagingcookie="{token}" istracking="False" />'
            )
            body["@Microsoft.Dynamics.CRM.morerecords"] = True
        else:
            body["@Microsoft.Dynamics.CRM.morerecords"] = False
        renderer = Renderer(self._store, ask.root, ask.annotations)
        return answered({**body, "value": renderer.rows(table, page.rows, options)})

    def _aggregated(self, table: Table, entity: ET.Element, options: Options) -> list[dict[str, Any]]:
        groups, aggregates, names = [], [], {}
        for attribute in entity.findall("attribute"):
            column, alias = _column(table, attribute.get("name", "")), attribute.get("alias", "")
            if attribute.get("groupby") == "true":
                groups.append(column.property)
                names[column.property] = alias
            else:
                kind = _AGGREGATES.get(attribute.get("aggregate", ""), "")
                if not kind or not alias:
                    raise bad_query("An aggregate needs an alias and one of count, countcolumn, sum, avg, min, max.")
                kind = "countdistinct" if attribute.get("distinct") == "true" else kind
                aggregates.append((column.property, kind, alias))
        rows = list(Query(self._store, table, options).everything())
        found = grouped(self._store, table, rows, groups, aggregates)
        return [{names.get(n, n): v for n, v in g.items()} for g in found]


def _parsed(text: str) -> ET.Element:
    if "<!" in text:
        raise bad_query("Invalid XML: declarations are not allowed in FetchXML.")
    try:
        return ET.fromstring(text)  # noqa: S314 - declarations, the way to entities, are refused above
    except ET.ParseError as error:
        raise ODataError(400, "0x80040201", f"Invalid XML. {error}") from error


def _cookie(text: str | None) -> Any:
    if not text:
        return None
    found = re.search(r'pagingcookie="([^"]+)"', text)
    from urllib.parse import unquote

    inner = found[1] if found else text
    for _ in range(6):  # clients decode the cookie once, twice or not at all before they send it again
        try:
            return read_skip_token(inner)
        except ODataError:
            inner = unquote(inner)
    return read_skip_token(inner)


def _column(table: Table, name: str) -> Column:
    column = table.columns.get(name)
    if column is None:
        raise ODataError(
            400,
            "0x80041103",
            f"'{table.name}' entity doesn't contain attribute with Name = '{name}' and NameMapping = 'Logical'.",
        )
    return column


def _group(table: Table, element: ET.Element) -> Node:
    nodes: list[Node] = []
    for child in element:
        if child.tag == "filter":
            nodes.append(_group(table, child))
        elif child.tag == "condition":
            nodes.append(_condition(table, child))
    if not nodes:
        return ("not", ("cmp", "eq", ("prop", table.primary_id), ("lit", "null", None)))
    return (element.get("type", "and"), *nodes)


def _condition(table: Table, element: ET.Element) -> Node:
    column = _column(table, element.get("attribute", ""))
    prop: Node = ("prop", column.property)
    operator, value = element.get("operator", ""), element.get("value", "")
    nothing: Node = ("cmp", "eq", prop, ("lit", "null", None))
    match operator:
        case "null":
            return nothing
        case "not-null":
            return ("not", nothing)
        case "in":
            return ("in", prop, [_literal(column, v.text or "") for v in element.findall("value")])
        case "not-in":
            return ("not", ("in", prop, [_literal(column, v.text or "") for v in element.findall("value")]))
        case "like" | "not-like" | "begins-with" | "ends-with":
            node = _like(prop, operator, value)
            return ("not", node) if operator == "not-like" else node
    if operator in _OPERATORS:
        return ("cmp", _OPERATORS[operator], prop, _literal(column, value))
    raise bad_query(f"The operator '{operator}' is not simulated in FetchXML.")


def _like(prop: Node, operator: str, value: str) -> Node:
    start, end = value.startswith("%"), value.endswith("%")
    word = {"begins-with": "startswith", "ends-with": "endswith"}.get(operator)
    if word is None:
        word = "contains" if start and end else "endswith" if start else "startswith" if end else ""
    literal: Node = ("lit", "string", value.strip("%"))
    return ("fn", word, [prop, literal]) if word else ("cmp", "eq", prop, literal)


def _literal(column: Column, text: str) -> Node:
    if column.kind == "boolean":
        return ("lit", "boolean", text.lower() in ("1", "true"))
    if column.kind in ("decimal", "double", "money"):
        return ("lit", "number", float(text))
    return ("lit", "string", text)
