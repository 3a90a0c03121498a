"""Where golden values go: every place that flows lead to, and which of them concern a record. Pure.

A flow into a system leads to all its tenants. A record is written to a tenant if the tenant's own condition holds for it, and a
flow's does; what stops holding, of either, is an exit (docs/decisions/0021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial

from processors.plan import BindingPlan, Condition, EntityPlan, FlowPlan, SystemPlan
from processors.record import Record

PERSON = "/default"  # the place of a value that a person has given at the hub: no system's, so it flows everywhere
_MOST_ANSWERS = 10_000


@dataclass(frozen=True)
class Destination:
    """One place that flows lead to."""

    place: str
    system: SystemPlan
    flows: tuple[FlowPlan, ...]
    reaches: frozenset[str]  # places whose golden values flow here
    former: Callable[[str], bool]  # the same of a place that is configured no more

    @cached_property
    def always(self) -> bool:
        """Tell whether some flow has no condition."""
        return any(f.when is None for f in self.flows)

    @cached_property
    def by_field(self) -> dict[int, tuple[BindingPlan, ...]]:
        """Return the writable bindings of each field."""
        out: dict[int, list[BindingPlan]] = {}
        for b in self.writable:
            for f in b.fields:
                out.setdefault(f, []).append(b)
        return {f: tuple(bs) for f, bs in out.items()}

    @cached_property
    def writable(self) -> tuple[BindingPlan, ...]:
        """Return the bindings that can be written."""
        return tuple(b for b in self.system.bindings if b.writes)

    @cached_property
    def when(self) -> Condition | None:
        """Return the tenant's own condition."""
        return self.system.when

    @cached_property
    def asked(self) -> frozenset[int]:
        """Return the fields that decide whether a record is written here."""
        return self.system.when_fields.union(*(f.when_fields for f in self.flows))

    def takes(self, place: str) -> bool:
        """Tell whether golden values that came from a place flow here."""
        return place in self.reaches or self.former(place)

    def holding(self, record: Record) -> tuple[FlowPlan, ...]:
        """Return the flows whose condition holds for the record; none if it does not belong to this tenant."""
        if self.when is not None and not self.when(record.values):
            return ()
        return self.flows if self.always else tuple(f for f in self.flows if f.when is None or f.when(record.values))

    @cached_property
    def straight(self) -> tuple[tuple[int, int], ...] | None:
        """Return (column, field) of every writable binding if all are plain and nothing is conditional or delayed, else None."""
        simple = self.when is None and self.always and self.all_fields and not any(f.delay_s for f in self.flows)
        if (
            not simple
            or not all(f.create for f in self.flows)
            or not all(b.plain and b.warn is None for b in self.writable)
        ):
            return None
        return tuple((b.columns[0], b.fields[0]) for b in self.writable)

    @cached_property
    def all_fields(self) -> bool:
        """Tell whether some flow carries every field."""
        return any(not f.fields for f in self.flows)


def destinations(plan: EntityPlan) -> tuple[Destination, ...]:
    """Return the places that flows lead to.

    A tenant's values come to another tenant of the same system only by way of a system that it feeds and that feeds it in turn.
    """
    out: list[Destination] = []
    for system in plan.systems:
        flows = plan.into(system)
        if not flows:
            continue
        sources = frozenset(p.place for p in plan.places.values() if plan.reaches(p.system, system)) | {PERSON}
        former = partial(_former, plan, system)
        for p in plan.places.values():
            if p.system == system:
                reaches = sources if p.place in sources else sources | {p.place}
                out.append(Destination(p.place, p, flows, reaches, former))
    return tuple(out)


def _former(plan: EntityPlan, to: str, place: str) -> bool:
    """Tell whether what a tenant has said flows to a system, though it is configured no more: as its system's values do."""
    return place not in plan.places and plan.reaches(place.partition("/")[0], to)


class Choice:
    """Find the destinations that concern a record without asking every tenant whether it is one of its own.

    What tenants' conditions say of the values they ask for is remembered, so a record costs no more the more tenants there are.
    """

    def __init__(self, every: Iterable[Destination]) -> None:
        self._every = tuple(every)
        self._at = {d.place: d for d in self._every}
        self._fields = tuple(sorted({f for d in self._every for f in d.system.when_fields}))
        self._answers: dict[tuple[bytes, ...], tuple[tuple[Destination, ...], frozenset[str]]] = {}

    def of(self, record: Record) -> Iterable[Destination]:
        """Return the places whose tenant's condition holds for a record, and those in which it has a copy."""
        values = tuple([record.values[f] for f in self._fields])
        known = self._answers.get(values)
        if known is None:
            if len(self._answers) >= _MOST_ANSWERS:
                self._answers.clear()
            chosen = tuple(d for d in self._every if d.when is None or d.when(record.values))
            known = self._answers[values] = chosen, frozenset(d.place for d in chosen)
        chosen, places = known
        left = [self._at[place] for place in record.copies if place not in places and place in self._at]
        return (*chosen, *left) if left else chosen
