"""GET on metadata: EntityDefinitions and RelationshipDefinitions, and what a query picks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from simulators.dynamics.definitions import CRM, entity, listed, option_set, relationships
from simulators.dynamics.errors import ODataError, bad_query, no_segment, not_allowed
from simulators.dynamics.messages import Ask, Reply, answered, named
from simulators.dynamics.query import Expand, parse_options
from simulators.dynamics.schema import Schema, Table, metadata_id
from simulators.dynamics.syntax import Node, parse_key
from simulators.dynamics.values import folded

_LISTS = ("Attributes", "Keys", "OneToManyRelationships", "ManyToOneRelationships", "ManyToManyRelationships")
_OPTION_SETS = ("picklist", "multi", "state", "status", "boolean")


class Metadata:
    """Answers GET on metadata."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def table(self, key_text: str) -> Table:
        """Return the table that a key names: by logical name, or by the id of its metadata. Raises ODataError."""
        wanted = parse_key(key_text)
        if isinstance(wanted, dict):
            name = str(wanted.get("LogicalName", wanted.get("logicalname", ""))).lower()
            found = self._schema.tables.get(name)
        else:
            name = wanted
            found = next((t for t in self._schema.tables.values() if metadata_id(t.name) == wanted), None)
        if found is None:
            raise ODataError(404, "0x80040217", f"Could not find an entity with the name {name}.")
        return found

    def handle(self, ask: Ask, parts: list[str]) -> Reply:
        """Answer a request on EntityDefinitions. Raises ODataError."""
        if ask.method != "GET":
            raise not_allowed(ask.method)
        root, key_text = named(parts[0])
        if key_text is None:
            return self._many(ask, "EntityDefinitions", [entity(t) for t in self._schema.tables.values()], self._lists)
        table = self.table(key_text)
        if len(parts) == 1:
            return self._one(ask, "EntityDefinitions", entity(table), self._lists)
        name, inner = named(parts[1])
        rest = parts[2:]
        if name not in _LISTS:
            one = entity(table)
            if name not in one or rest:
                raise no_segment(name)
            return answered({"@odata.context": f"{ask.root}$metadata#{root}({key_text})/{name}", "value": one[name]})
        items = listed(self._schema, table, name)
        if inner is not None:
            item = _picked(items, inner)
            wanted = rest[0] if rest and rest[0].startswith(CRM) else None
            if wanted is not None and item.get("@odata.type", f"#{wanted}") != f"#{wanted}":
                raise ODataError(404, "0x80060888", f"The attribute is no '{wanted}'.")
            below = rest[1:] if wanted is not None else rest
            if below:
                return answered(
                    {"@odata.context": f"{ask.root}$metadata#{below[0]}", **self._option_set(item, below[0])}
                )
            return self._one(ask, name, item, self._options)
        if rest and rest[0].startswith(CRM):
            items = [i for i in items if i.get("@odata.type") == f"#{rest[0]}"]
        return self._many(ask, f"EntityDefinitions('{table.name}')/{name}", items, self._options)

    def relationships(self, ask: Ask, parts: list[str]) -> Reply:
        """Answer a request on RelationshipDefinitions. Raises ODataError."""
        items = relationships(self._schema)
        _, inner = named(parts[0])
        if inner is not None:
            return self._one(ask, "RelationshipDefinitions", _picked(items, inner), self._options)
        if len(parts) > 1 and parts[1].startswith(CRM):
            items = [i for i in items if i["@odata.type"] == f"#{parts[1]}"]
        return self._many(ask, "RelationshipDefinitions", items, self._options)

    def _lists(self, item: dict[str, Any], name: str) -> Any:
        if name not in _LISTS:
            raise bad_query(
                f"Could not find a property named '{name}' on type 'Microsoft.Dynamics.CRM.EntityMetadata'."
            )
        return listed(self._schema, self._schema.tables[item["LogicalName"]], name)

    def _options(self, item: dict[str, Any], name: str) -> Any:
        return self._option_set(item, name)

    def _option_set(self, item: dict[str, Any], name: str) -> dict[str, Any]:
        table = self._schema.tables.get(item.get("EntityLogicalName", ""))
        column = table.columns.get(item["LogicalName"]) if table is not None else None
        if name not in ("OptionSet", "GlobalOptionSet") or table is None or column is None:
            raise no_segment(name)
        if column.kind not in _OPTION_SETS:
            raise bad_query(f"Could not find a property named '{name}' on type '{item['@odata.type'][1:]}'.")
        return option_set(table, column)

    def _many(
        self, ask: Ask, context: str, items: list[dict[str, Any]], lists: Callable[[dict[str, Any], str], Any]
    ) -> Reply:
        options = parse_options(ask.parameters)
        if options.filter is not None:
            node = options.filter
            items = [i for i in items if matches(node, i)]
        items = items[: options.top] if options.top else items
        value = [_shown(i, options.select, options.expand, lists) for i in items]
        body: dict[str, Any] = {"@odata.context": f"{ask.root}$metadata#{context}"}
        if options.count:
            body["@odata.count"] = len(items)
        return answered({**body, "value": value})

    def _one(self, ask: Ask, context: str, item: dict[str, Any], lists: Callable[[dict[str, Any], str], Any]) -> Reply:
        options = parse_options(ask.parameters)
        shown = _shown(item, options.select, options.expand, lists)
        return answered({"@odata.context": f"{ask.root}$metadata#{context}/$entity", **shown})


def _picked(items: list[dict[str, Any]], key_text: str) -> dict[str, Any]:
    wanted = parse_key(key_text)
    for item in items:
        if item["MetadataId"] == wanted or (
            isinstance(wanted, dict) and all(folded(item.get(n)) == folded(v) for n, v in wanted.items())
        ):
            return item
    raise ODataError(404, "0x80060888", f"Could not find metadata with ({key_text}).")


def _shown(
    item: dict[str, Any],
    select: list[str],
    expands: Iterable[Expand],
    lists: Callable[[dict[str, Any], str], Any],
) -> dict[str, Any]:
    out = item
    if select:
        unknown = [s for s in select if s not in item and s not in ("OptionSet", "Options")]
        if unknown and "LogicalName" in item and unknown[0][:1].islower():
            raise bad_query(f"Could not find a property named '{unknown[0]}' on this type of metadata.")
        kept = ("@odata.type", "MetadataId", *select)
        out = {n: v for n, v in item.items() if n in kept}
    for expand in expands:
        inner = lists(item, expand.navigation)
        options = expand.options
        if isinstance(inner, list):
            node = options.filter
            chosen = [i for i in inner if node is None or matches(node, i)]
            out = {**out, expand.navigation: [_shown(i, options.select, options.expand, lists) for i in chosen]}
        else:
            out = {
                **out,
                expand.navigation: {
                    n: v for n, v in inner.items() if not options.select or n in options.select or n == "MetadataId"
                },
            }
    return out


def matches(node: Node, item: dict[str, Any]) -> bool:
    """Return whether a piece of metadata meets a filter. Raises ODataError for what metadata cannot be filtered by."""
    match node[0]:
        case "and":
            return all(matches(n, item) for n in node[1:])
        case "or":
            return any(matches(n, item) for n in node[1:])
        case "not":
            return not matches(node[1], item)
        case "prop":
            return _value(item, node[1]) is True
        case "in":
            return folded(_value(item, node[1][1])) in [folded(n[2]) for n in node[2]]
        case "cmp" if node[2][0] == "prop" and node[3][0] == "lit":
            found, wanted = folded(_value(item, node[2][1])), folded(node[3][2])
            if node[1] in ("eq", "ne"):
                return bool((found == wanted) is (node[1] == "eq"))
            if found is None:
                return False
            return bool(
                {"gt": found > wanted, "ge": found >= wanted, "lt": found < wanted, "le": found <= wanted}[node[1]]
            )
        case "fn" if node[2][0][0] == "prop":
            found, part = str(folded(_value(item, node[2][0][1])) or ""), str(folded(node[2][1][2]))
            return {"contains": part in found, "startswith": found.startswith(part), "endswith": found.endswith(part)}[
                node[1]
            ]
    raise bad_query("Metadata cannot be filtered like this.")


def _value(item: Any, path: str) -> Any:
    for name in path.split("/"):
        item = item.get(name) if isinstance(item, dict) else None
    return item
