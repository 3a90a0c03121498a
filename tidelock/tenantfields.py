"""What can be wrong with the `fields` of tenants: the values that all records of a tenant have, by which customers are kept apart.

A mistake here would show one customer's records to another, so it is looked for wherever tenants come from: in the file, with lines, and
in what `tidelock tenants add` is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tidelock.config import Config, TenantSpec
from tidelock.configchecks import suggest
from tidelock.configtree import Path, Tree, spell
from tidelock.errors import Fatal


class Trouble(NamedTuple):
    """Something wrong, where, and what would be right."""

    path: Path
    what: str
    right: str


def check(tree: Tree) -> None:
    """Add everything that is wrong with tenants' fields to the tree's problems."""
    for trouble in troubles(_dict(tree.data)):
        tree.report(*trouble)


def check_added(config: Config, system: str, name: str, fields: Mapping[str, str]) -> None:
    """Refuse a tenant that is to be added if its fields do not fit. Raises Fatal with everything that is wrong.

    ``config`` has the tenants that were added before.
    """
    spec = config.systems[system]
    tenants = {**spec.all_tenants, name: TenantSpec(fields=dict(fields))}
    changed = config.model_copy(
        update={"systems": {**config.systems, system: spec.model_copy(update={"tenants": tenants})}}
    )
    found = list(troubles(changed.model_dump(mode="json", by_alias=True)))
    if found:
        lines = "\n".join(f"  {spell(t.path)}: {t.what}; {t.right}" for t in found)
        raise Fatal(f"{system}/{name} cannot be added with these fields:\n{lines}", hint="correct --field, or the file")


def troubles(data: Mapping[str, Any]) -> Iterator[Trouble]:
    """Yield what is wrong in a configuration as it stands in the file."""
    systems, entities = _dicts(data.get("systems")), _dicts(data.get("entities"))
    owning: dict[str, set[str]] = {}
    for name, system in systems.items():
        tenants = {t: _dict(spec.get("fields")) for t, spec in _dicts(system.get("tenants")).items()}
        given = {f: t for t, fields in reversed(tenants.items()) for f in fields}
        if not given:
            continue
        tables = {e: table for e, table in _dicts(system.get("entities")).items() if e in entities}
        yield from _names(name, given, tables, entities)
        if system.get("capture") != "none":  # else nothing is read there
            yield from _bound(name, given, tables)
        for tenant, fields in tenants.items():
            yield from _tenant(("systems", name, "tenants", tenant), fields, given, tables, entities)
        yield from _flows(name, given, data.get("flows"))
        for entity in tables:
            owning.setdefault(entity, set()).update(given)
    for entity, names in owning.items():
        yield from _keys(entity, names, entities[entity])


def _names(
    system: str, given: Mapping[str, str], tables: Mapping[str, dict[str, Any]], entities: Mapping[str, dict[str, Any]]
) -> Iterator[Trouble]:
    """Look at each field once, where the first tenant gives it: whether all entities have it, and nothing else says it."""
    for field, tenant in given.items():
        path: Path = ("systems", system, "tenants", tenant, "fields", field)
        specs = {e: _dicts(entities[e].get("fields")) for e in tables}
        without = [e for e, fields in specs.items() if field not in fields]
        if without and len(without) == len(specs):
            known = {f for fields in specs.values() for f in fields}
            yield Trouble(path, f"there is no field `{field}`", suggest(field, known, "fields"))
            continue
        for entity in without:
            right = f"add it to entities.{entity}.fields, or move the entity to a system of its own"
            yield Trouble(path, f"entity `{entity}` of this system has no field `{field}`", right)
        for entity, fields in specs.items():
            spec = _dict(fields.get(field))
            if spec.get("references") is not None:
                right = "take a field that all systems spell alike, such as the customer's number"
                yield Trouble(
                    path, f"`{field}` of `{entity}` points to another record, which has no fixed value", right
                )
            elif spec.get("type", "string") != "string" or spec.get("format") is not None:
                what = f"`{field}` of `{entity}` is {spec.get('format') or spec.get('type')}, and only plain texts tell customers apart"
                yield Trouble(
                    path, what, "make it a string without a format; a column of another type can be bound to it"
                )


def _bound(system: str, given: Mapping[str, str], tables: Mapping[str, dict[str, Any]]) -> Iterator[Trouble]:
    """Find columns that would say something else than the tenant."""
    for field, tenant in given.items():
        path: Path = ("systems", system, "tenants", tenant, "fields", field)
        for entity, table in tables.items():
            for i, binding in enumerate(_list(table.get("map"))):
                if _reads(_dict(binding), field):
                    right = "remove the binding, or make it `direction: write`"
                    yield Trouble(path, f"column and tenant both say it: map[{i}] of `{entity}` reads `{field}`", right)


def _reads(binding: Mapping[str, Any], field: str) -> bool:
    bound = field == binding.get("field") or field in _list(binding.get("fields"))
    return bound and binding.get("direction") != "write" and binding.get("constant") is None


def _tenant(
    path: Path,
    fields: Mapping[str, Any],
    given: Mapping[str, str],
    tables: Mapping[str, dict[str, Any]],
    entities: Mapping[str, dict[str, Any]],
) -> Iterator[Trouble]:
    known = {f for e in tables for f in _dicts(entities[e].get("fields"))}
    for field, other in given.items():
        if (
            field not in fields and field in known and known.issuperset(fields)
        ):  # else it is misspelt, which has been said
            what = (
                f"`{other}` says what `{field}` is in its records, and this tenant does not: it would get everybody's"
            )
            yield Trouble(path, what, f"add `fields: {{{field}: …}}`, or make it a system of its own")
    for field, value in fields.items():
        if isinstance(value, str) and not value.strip():
            yield Trouble((*path, "fields", field), "this is blank", "a value that no other customer has")
            continue
        for entity in tables:
            spec = _dict(_dicts(entities[entity].get("fields")).get(field))
            allowed = [v for v in _list(spec.get("values")) if isinstance(v, str)]
            longest = spec.get("max_length")
            if isinstance(longest, int) and isinstance(value, str) and len(value) > longest:
                what = f"`{value}` is longer than the {longest} characters that field `{field}` of `{entity}` has"
                yield Trouble((*path, "fields", field), what, "raise `max_length`, or shorten the value")
            if allowed and isinstance(value, str) and value not in allowed:
                what = f"`{value}` is not one of the values of field `{field}` of `{entity}`"
                yield Trouble((*path, "fields", field), what, suggest(value, allowed, "values"))


def _flows(system: str, given: Mapping[str, str], flows: Any) -> Iterator[Trouble]:
    """Find flows that would carry records without saying whose they are."""
    for i, flow in enumerate(_list(flows)):
        source, chosen = _dict(flow).get("from"), _list(_dict(flow).get("fields"))
        if not chosen or system not in (_list(source) or (source,)):
            continue
        for field in given:
            if field not in chosen:
                what = f"tenants of `{system}` say what `{field}` is, and this flow leaves it out"
                yield Trouble(
                    ("flows", i, "fields"), what, f"add `{field}`: what gets the record has to know whose it is"
                )


def _keys(entity: str, names: set[str], spec: Mapping[str, Any]) -> Iterator[Trouble]:
    for i, key in enumerate(_list(spec.get("match"))):
        parts = _list(key)
        if parts and all(isinstance(f, str) and f in names for f in parts):
            what = "this key says only whose a record is, so all records of a tenant would be one"
            yield Trouble(
                ("entities", entity, "match", i), what, "add a field that tells them apart, or take the key out"
            )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _dicts(value: Any) -> dict[str, dict[str, Any]]:
    return {k: _dict(v) for k, v in _dict(value).items()}
