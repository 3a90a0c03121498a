"""Records of one system that are one by the entity's match keys: to be looked at before a flow is switched on.

They cannot all be linked: identify links one and keeps the others aside (or, by configuration, takes them for different or for one).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from processors.mapping import compile_plans
from tidelock.avro import NULL, decode_slice
from tidelock.change import DELETE
from tidelock.context import Context
from tidelock.errors import Fatal, Reject


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one tenant with the same value of a match key: their native keys, and their fields by native key."""

    tenant: str
    match: tuple[str, ...]
    value: tuple[str, ...]
    records: dict[str, dict[str, object]]


def duplicates(
    context: Context, system: str, entity: str, changes: Iterable[tuple[str, bytes, bytes]]
) -> tuple[list[Group], int]:
    """Return groups of two and more, the most certain key first, and how many records were looked at.

    ``changes`` are the last changes of the system's records as (topic, key, value). A group that a more certain key has found already is not
    told again. Raises Fatal if the entity has no match keys.
    """
    plan = compile_plans(context.config)[entity]
    if not plan.keys:
        raise Fatal(
            f"entity {entity} has no match keys",
            hint=f"set `entities.{entity}.match`, for example [[email]], to say what makes two records one",
        )
    found: dict[tuple[str, str], dict[str, dict[str, object]]] = defaultdict(dict)
    looked = 0
    for _, _, value in changes:
        try:
            change = context.codec.change_reader(value).read(value)
        except (Reject, ValueError, IndexError):
            continue
        place = plan.places.get(f"{system}/{change.tenant}")
        if place is None or change.op == DELETE or change.after is None:
            continue
        looked += 1
        golden = place.reader(change.columns).golden(change.after, len(plan.fields))
        for f, given in place.given:
            golden[f] = given
        shown = {f.name: decode_slice(f.type, golden[f.index]) for f in plan.fields if golden[f.index] != NULL}
        for key in plan.match_keys(golden):
            found[change.tenant, key][change.native_key] = shown
    groups: list[Group] = []
    told: set[tuple[str, frozenset[str]]] = set()
    for (tenant, key), records in sorted(found.items(), key=lambda item: (int(item[0][1].partition(":")[0]), item[0])):
        members = (tenant, frozenset(records))
        if len(records) < 2 or members in told:
            continue
        told.add(members)
        number, _, parts = key.partition(":")
        groups.append(Group(tenant, plan.match_names[int(number)], tuple(parts.split("\x1f")), records))
    return groups, looked
