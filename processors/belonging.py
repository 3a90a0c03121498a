"""Which records belong to a tenant: the fields that it gives all of its records, and its condition, compiled.

A tenant's `fields` are three things at once. What is captured from it has them, as if a column said so that nobody can edit. Only records
that have them are written to it. And they are part of every match key, so that records of different customers never meet (docs/decisions/0021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from processors.plan import Condition, Given
from processors.scalars import Scalar
from processors.transforms import TEXT
from tidelock.avro import NULL
from tidelock.config import Binding, Config, EntitySpec, SystemSpec
from tidelock.errors import Fatal, Reject

_HINT = "correct the file (`tidelock check` tests it); a tenant that was added at run time goes with `tidelock tenants remove`"


def owners(config: Config, entity: str, spec: EntitySpec) -> tuple[str, ...]:
    """Return the fields of an entity that some tenant gives its records, in the entity's order.

    Raises Fatal if nothing else is left of a match key: it would make all records of a customer one.
    """
    tenants = (t for s in config.systems.values() if entity in s.entities for t in s.all_tenants.values())
    named = {name for tenant in tenants for name in tenant.fields}
    for i, key in enumerate(spec.match):
        if key and named.issuperset(key):
            raise Fatal(
                f"entities.{entity}.match[{i}]: {', '.join(key)} says only whose a record is, so all records of a tenant would be one",
                hint="add a field to the key that tells them apart, or take the key out: what tenants give is part of every key",
            )
    return tuple(f for f in spec.fields if f in named)


def check_given(name: str, system: SystemSpec, entity: str, spec: EntitySpec) -> None:
    """Raise Fatal where a tenant would get, or give, records without saying whose they are.

    `tidelock check` finds the same in the file, by line; a tenant added at run time is met here.
    """
    tenants = system.all_tenants
    wanted = {f for t in tenants.values() for f in t.fields}
    read = {
        f
        for b in (system.entities[entity].map if system.capture != "none" else ())
        if b.direction != "write" and b.constant is None
        for f in b.field_names
    }
    for tenant, its in tenants.items():
        path = f"systems.{name}.tenants.{tenant}.fields"
        missing, unknown, bound = wanted - its.fields.keys(), its.fields.keys() - spec.fields.keys(), wanted & read
        for trouble, fields in (
            ("other tenants of the system say what it is in their records, and this one does not", missing),
            (f"entity {entity} has no such field", unknown),
            (f"the mapping of {entity} reads it from a column, too", bound),
        ):
            if fields:
                raise Fatal(f"{path}: {', '.join(sorted(fields))}: {trouble}", hint=_HINT)


def given(path: str, fields: Mapping[str, str], spec: EntitySpec, index: Mapping[str, int]) -> Given:
    """Return (field, canonical slice) of a tenant's fields. Raises Fatal for a value that its field cannot have."""
    out = []
    for name, text in fields.items():
        try:
            value = Scalar(name, spec.fields[name], Binding(column=name, field=name)).parse(text)
            if value == NULL or not TEXT[spec.fields[name].type](value).strip():
                raise Reject("it is blank", kind="required", field=name)
        except Reject as error:
            raise Fatal(f"{path}.{name}: {error.message}", hint=_HINT) from error
        out.append((index[name], value))
    return tuple(sorted(out))


def belongs(fields: Given, condition: Condition | None) -> Condition | None:
    """Return the condition that a record has these values and meets the condition; None if there is nothing to ask."""
    if not fields:
        return condition

    def ask(values: Sequence[bytes]) -> bool:
        return all(values[f] == value for f, value in fields) and (condition is None or condition(values))

    return ask
