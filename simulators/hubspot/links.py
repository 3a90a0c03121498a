"""Associations between records: typed, in both directions, with one primary company."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulators.hubspot.kinds import Kind, kind_named
from simulators.hubspot.records import Origin, Record, Store


@dataclass(frozen=True, slots=True)
class LinkType:
    """One type of association in one direction; ``inverse`` is the id of the same one seen from the other end."""

    id: int
    start: str
    end: str
    inverse: int
    name: str
    label: str | None = None

    @property
    def primary(self) -> bool:
        """Return whether it marks the one company that counts."""
        return self.label == "Primary"


def _pair(first: str, second: str, there: int, back: int, *, primary: tuple[int, int] | None = None) -> list[LinkType]:
    a, b = (str(k.singular) for k in (kind_named(first), kind_named(second)) if k is not None)
    plain = "_unlabeled" if primary else ""
    found = [LinkType(there, first, second, back, f"{a}_to_{b}{plain}")]
    if first != second:
        found.append(LinkType(back, second, first, there, f"{b}_to_{a}{plain}"))
    if primary:
        found.append(LinkType(primary[0], first, second, primary[1], f"{a}_to_{b}", "Primary"))
        found.append(LinkType(primary[1], second, first, primary[0], f"{b}_to_{a}", "Primary"))
    return found


TYPES: dict[int, LinkType] = {
    t.id: t
    for t in [
        *_pair("contacts", "companies", 279, 280, primary=(1, 2)),
        *_pair("deals", "contacts", 3, 4),
        *_pair("deals", "companies", 341, 342, primary=(5, 6)),
        *_pair("deals", "line_items", 19, 20),
        *_pair("contacts", "tickets", 15, 16),
        *_pair("tickets", "companies", 339, 340, primary=(26, 25)),
        *_pair("deals", "tickets", 27, 28),
        *_pair("contacts", "contacts", 449, 449),
        *_pair("companies", "companies", 450, 450),
        *_pair("deals", "deals", 451, 451),
    ]
}


def types_between(start: Kind, end: Kind) -> list[LinkType]:
    """Return the types that lead from one kind to another, the one without a label last."""
    found = [t for t in TYPES.values() if t.start == start.name and t.end == end.name]
    return sorted(found, key=lambda t: (not t.primary, t.id))


def plain_between(start: Kind, end: Kind) -> LinkType | None:
    """Return the type without a label; None if the kinds are not associated."""
    return next((t for t in types_between(start, end) if not t.primary), None)


Told = Callable[[LinkType, int, int, bool, Origin], None]


class Links:
    """All associations. It watches the store: what is archived loses them, what is merged hands them on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: dict[tuple[str, int], dict[str, dict[int, set[int]]]] = {}
        self.told: Told | None = None
        """Called for each direction of an association that was made or removed (True)."""

    def of(self, record: Record, end: Kind) -> list[tuple[int, list[LinkType]]]:
        """Return the ids of the associated records of a kind in order, with the types."""
        ends = self._ends.get((record.kind.name, record.id), {}).get(end.name, {})
        return [(n, sorted((TYPES[t] for t in ends[n]), key=lambda t: (not t.primary, t.id))) for n in sorted(ends)]

    def add(self, link: LinkType, start: Record, end: Record, origin: Origin) -> None:
        """Associate two records; a primary company takes the place of the one before, and is associated without a label as well."""
        if link.primary:
            holder, company = (start, end) if end.kind.name == "companies" else (end, start)
            forth = link if holder is start else TYPES[link.inverse]
            for number, types in self.of(holder, company.kind):
                if number != company.id and any(t.primary for t in types):
                    self._take(forth, holder.id, number, origin)
            if (plain := plain_between(start.kind, end.kind)) is not None:
                self._give(plain, start.id, end.id, origin)
        self._give(link, start.id, end.id, origin)

    def remove(self, start: Record, end: Record, origin: Origin, only: set[int] | None = None) -> None:
        """Take associations away: all between two records, or those of some types."""
        for number, types in self.of(start, end.kind):
            if number == end.id:
                for link in types:
                    if only is None or link.id in only:
                        self._take(link, start.id, end.id, origin)

    def created(self, record: Record, changed: dict[str, str], origin: Origin) -> None:
        """Nothing: a new record is associated with nothing."""

    def updated(self, record: Record, changed: dict[str, str], origin: Origin) -> None:
        """Nothing: values do not associate."""

    def restored(self, record: Record, origin: Origin) -> None:
        """Nothing: what was lost in the bin does not come back."""

    def archived(self, record: Record, origin: Origin, *, erased: bool) -> None:  # noqa: ARG002
        """Take all associations of a record away."""
        self._strip(record.kind.name, record.id, origin)

    def merged(self, record: Record, primary: int, other: int, moved: int, origin: Origin) -> None:  # noqa: ARG002
        """Hand the associations of what was merged on to what is left."""
        for number in (primary, other):
            if number == record.id:
                continue
            for link, end_id in self._strip(record.kind.name, number, origin):
                if end_id not in (record.id, primary, other):
                    ends = self.of(record, self._store.tables[link.end].kind) if link.primary else []
                    if not any(t.primary for _, types in ends for t in types):
                        self._give(link, record.id, end_id, origin)

    def _strip(self, kind: str, number: int, origin: Origin) -> list[tuple[LinkType, int]]:
        ends = self._ends.get((kind, number), {})
        gone = [(TYPES[t], end_id) for by_id in ends.values() for end_id, types in by_id.items() for t in types]
        for link, end_id in gone:
            self._take(link, number, end_id, origin)
        self._ends.pop((kind, number), None)
        return gone

    def _give(self, link: LinkType, start_id: int, end_id: int, origin: Origin) -> None:
        if self._stands(link, start_id, end_id):
            return
        for one, a, b in ((link, start_id, end_id), (TYPES[link.inverse], end_id, start_id)):
            self._types(one.start, a, one.end, b).add(one.id)
            if self.told is not None:
                self.told(one, a, b, False, origin)

    def _take(self, link: LinkType, start_id: int, end_id: int, origin: Origin) -> None:
        if not self._stands(link, start_id, end_id):
            return
        for one, a, b in ((link, start_id, end_id), (TYPES[link.inverse], end_id, start_id)):
            types = self._types(one.start, a, one.end, b)
            types.discard(one.id)
            if not types:
                self._ends[one.start, a][one.end].pop(b, None)
            if self.told is not None:
                self.told(one, a, b, True, origin)

    def _stands(self, link: LinkType, start_id: int, end_id: int) -> bool:
        return link.id in self._ends.get((link.start, start_id), {}).get(link.end, {}).get(end_id, ())

    def _types(self, start: str, start_id: int, end: str, end_id: int) -> set[int]:
        return self._ends.setdefault((start, start_id), {}).setdefault(end, {}).setdefault(end_id, set())
