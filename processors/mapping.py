"""Compile the configuration into plans: what stands where, which places there are, and where values flow.

What a single binding means is in `processors.bindings`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from processors.belonging import belongs, check_given, given, owners
from processors.bindings import compile_binding, fixed, no_read, reference
from processors.plan import BindingPlan, Condition, EntityPlan, FieldPlan, FlowPlan, Places, SystemPlan
from processors.transforms import TEXT, TEXTS, literal, parser, string_of
from tidelock.avro import NULL, FieldType
from tidelock.conditions import compile_condition, condition_fields
from tidelock.config import Config, EntitySpec, FlowSpec, SystemSpec, TableSpec
from tidelock.errors import Fatal, Reject

__all__ = ["compile_plans", "is_blank"]


def is_blank(value: bytes, kind: FieldType) -> bool:
    """Tell whether a slice is null, or text with nothing but white space in it."""
    if len(value) < 2 or value[0] == 0:
        return True
    if kind not in TEXTS:
        return False
    # A first byte between "!" and DEL is a visible character, unless the length takes more than one byte.
    return value[1] == 0 or (not (value[1] < 0x80 and 0x20 < value[2] < 0x7F) and not string_of(value).strip())


def compile_plans(config: Config) -> dict[str, EntityPlan]:
    """Return one plan per entity. Raises Fatal, with the path in the configuration, for what cannot be compiled."""
    return {name: _entity(config, name, spec) for name, spec in config.entities.items()}


def _entity(config: Config, name: str, spec: EntitySpec) -> EntityPlan:
    fields = tuple(FieldPlan(i, n, f.type, f.policy or spec.policy, f) for i, (n, f) in enumerate(spec.fields.items()))
    index = {f.name: f.index for f in fields}
    present = [s for s, system in config.systems.items() if name in system.entities]
    flows = tuple(
        plan
        for i, flow in enumerate(config.flows)
        if flow.entity == name
        for plan in _flows(flow, f"flows[{i}]", spec, index)
    )
    places = Places(_places(config, name, spec, index, flows), partial(_former, fields))
    order = [s for s in spec.priority if s in present] + [s for s in present if s not in spec.priority]
    owning = owners(config, name, spec)
    keys = tuple(tuple((index[f], TEXT[spec.fields[f].type]) for f in key if f not in owning) for key in spec.match)
    ranked = [p.place for s in order for p in places.values() if p.system == s]
    rank = {place: i for i, place in enumerate(ranked)}
    whose = tuple((index[f], TEXT[spec.fields[f].type]) for f in owning)
    return EntityPlan(name, spec, fields, index, places, rank, flows, keys, whose)


def _flows(flow: FlowSpec, path: str, spec: EntitySpec, index: dict[str, int]) -> list[FlowPlan]:
    when = _condition(flow.when, f"{path}.when", spec)
    fields, asked = frozenset(index[f] for f in flow.fields), _asked(flow.when, index)
    return [
        FlowPlan(source, to, when, flow.on_exit, flow.delay_s, fields, flow.create, asked)
        for source in flow.source
        for to in flow.to
        if source != to
    ]


def _condition(text: str | None, path: str, spec: EntitySpec) -> Condition | None:
    try:
        return compile_condition(text, {n: f.type for n, f in spec.fields.items()}) if text else None
    except ValueError as error:
        raise Fatal(f"{path}: {error}", hint="correct the condition; `tidelock check` tests it") from error


def _asked(text: str | None, index: dict[str, int]) -> frozenset[int]:
    """Return the fields that a condition asks for."""
    return frozenset(index[f] for f in condition_fields(text, index)) if text else frozenset()


# ---------------------------------------------------------------------------------------------------------- places


def _places(
    config: Config, entity: str, spec: EntitySpec, index: dict[str, int], flows: tuple[FlowPlan, ...]
) -> Iterator[SystemPlan]:
    """Yield the plans of all places: compiled once for each system, and shared by its tenants."""
    for name, system in config.systems.items():
        tenants = system.all_tenants
        if entity not in system.entities or not tenants:
            continue
        check_given(name, system, entity, spec)
        shared = _system(name, next(iter(tenants)), system, entity, spec, index, flows)
        written = any(flow.to == name for flow in flows)
        for tenant, its in tenants.items():
            path = f"systems.{name}.tenants.{tenant}"
            condition = its.when if written else None
            plan = _tenant(shared, tenant, [f.references for f in spec.fields.values()], several=len(tenants) > 1)
            plan.given = given(f"{path}.fields", its.fields, spec, index)
            plan.when = belongs(plan.given, _condition(condition, f"{path}.when", spec))
            plan.when_fields = _asked(condition, index).union(f for f, _ in plan.given)
            yield plan


def _tenant(shared: SystemPlan, tenant: str, references: Sequence[str | None], *, several: bool) -> SystemPlan:
    """Return the plan of another tenant. Only what refers to other records is its own, since each tenant has keys of its own."""
    if not several or not any(_refers(b, references) for b in shared.bindings):
        return dataclasses.replace(shared, tenant=tenant)
    make_read = reference(f"{shared.system}/{tenant}")
    bindings = tuple(
        dataclasses.replace(b, make_read=make_read) if _refers(b, references) else b for b in shared.bindings
    )
    return dataclasses.replace(shared, tenant=tenant, bindings=bindings, by_schema={}, _readers={})


def _refers(binding: BindingPlan, references: Sequence[str | None]) -> bool:
    return len(binding.fields) == 1 and references[binding.fields[0]] is not None


def _former(fields: Sequence[FieldPlan], like: SystemPlan, tenant: str) -> SystemPlan:
    """Return the plan of a tenant that is configured no more."""
    plan = _tenant(like, tenant, [f.spec.references for f in fields], several=True)
    plan.when, plan.when_fields, plan.given = None, frozenset(), ()
    return plan


def _system(
    name: str,
    tenant: str,
    system: SystemSpec,
    entity: str,
    spec: EntitySpec,
    index: dict[str, int],
    flows: tuple[FlowPlan, ...],
) -> SystemPlan:
    table, captured = system.entities[entity], system.capture != "none"
    used = Counter(c for b in table.map for c in b.column_names)
    columns: dict[str, int] = {}
    types: dict[int, FieldType] = {}
    bindings: list[BindingPlan] = []
    for i, binding in enumerate(table.map):
        try:
            plan = compile_binding(binding, len(bindings), name, spec, index, columns, used, captured)
        except (Reject, ValueError, KeyError) as error:
            path = f"systems.{name}.entities.{entity}.map[{i}]"
            raise Fatal(f"{path}: {error}", hint="correct the binding; `tidelock check` tests it") from error
        if plan is not None:
            bindings.append(plan)
            if plan.writes:
                types.update(zip(plan.columns, plan.write_types, strict=True))
            else:
                types = {**dict(zip(plan.columns, plan.write_types, strict=True)), **types}
    disable = _disable(table, columns, types, bindings)
    accepted: set[int] = set()
    if captured:
        readable = {f for b in bindings if b.reads for f in b.fields}
        for flow in flows:
            if flow.source == name:
                accepted |= readable & flow.fields if flow.fields else readable
    return SystemPlan(
        name,
        tenant,
        entity,
        table,
        captured,
        tuple(columns),
        tuple(bindings),
        frozenset(accepted),
        tuple(types[c] for c in range(len(columns))),
        disable,
    )


def _disable(
    table: TableSpec, columns: dict[str, int], types: dict[int, FieldType], bindings: list[BindingPlan]
) -> tuple[tuple[int, bytes], ...]:
    """Return what means disabled, in the types the columns are written in; columns nothing else binds get a place of their own."""
    out = []
    for name, value in table.disable.items():
        kind, raw = literal(value)
        c = columns.get(name)
        if c is None:
            c = columns[name] = len(columns)
            types[c] = kind
            bindings.append(
                BindingPlan(
                    len(bindings), (c,), (), False, False, False, False, False, False, (kind,), fixed((raw,)), no_read
                )
            )
        elif raw != NULL and types[c] is not kind:
            try:
                raw = parser(types[c], None)(TEXT[kind](raw))
            except Reject as error:
                raise Fatal(
                    f"{table.table}: disable.{name}: {error}", hint="give a value the column can hold"
                ) from error
        out.append((c, raw))
    return tuple(out)
