"""Plans: the configuration of an entity resolved into indexes and closures, as merge, identify and emit use it.

Made once by `processors.mapping.compile_plans`; nothing here looks at the configuration again while records flow. A place is one tenant
of one system, spelt ``system/tenant``. The tenants of a system share everything that is compiled, so that many of them cost little.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from processors.record import Record
from tidelock.avro import NULL, FieldType, decode_slice
from tidelock.change import Column
from tidelock.config import EntitySpec, FieldSpec, Policy, TableSpec
from tidelock.errors import Reject
from tidelock.nativekey import native_key

Slices = tuple[bytes, ...]
Read = Callable[[Sequence[bytes]], Slices]
Identity = tuple[bool, bool]  # (raw is canonical, raw is canonical if it is accepted and the binding is plain)
MakeRead = Callable[[tuple[FieldType, ...]], tuple[Read, Identity]]
Condition = Callable[[Sequence[bytes]], bool]
Given = tuple[tuple[int, bytes], ...]  # fields that all records of a tenant have, and their values


@dataclass(frozen=True)
class FieldPlan:
    """One canonical field and its place in the golden record."""

    index: int
    name: str
    type: FieldType
    policy: Policy
    spec: FieldSpec


@dataclass(frozen=True, eq=False)
class BindingPlan:
    """One unit of synchronisation: columns (as indexes of tracked columns) and fields (as indexes of the golden record).

    ``write`` takes the canonical slices of ``fields`` and returns one slice per column, of type ``write_types[i]``; it raises
    Reject (``too_long``, ``unmapped_value``, ...). ``warn`` takes the same and says what to report though the value is written
    (``overflow: flag``), or None. ``plain``: the column holds the canonical slice itself, provided it has the field's type
    (`RowReader.plain` knows whether it has); in a system that is not captured, that is so whenever it is written as it is.
    """

    index: int
    columns: tuple[int, ...]
    fields: tuple[int, ...]
    reads: bool
    writes: bool
    blank_unknown: bool
    enforced: bool
    constant: bool
    plain: bool
    write_types: tuple[FieldType, ...]
    write: Callable[[Sequence[bytes]], Slices] = field(repr=False)
    make_read: MakeRead = field(repr=False)
    warn: Callable[[Sequence[bytes]], str | None] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class FlowPlan:
    """One source system and one destination system, with all their tenants. No ``fields``: all of them.

    ``when`` is asked with the golden record; ``when_fields``: the fields that it asks for.
    """

    source: str
    to: str
    when: Condition | None
    on_exit: str
    delay_s: float
    fields: frozenset[int]
    create: bool
    when_fields: frozenset[int] = frozenset()


class RowReader:
    """Read the rows of one schema of one system: where its tracked columns stand, and what they mean."""

    def __init__(self, system: SystemPlan, columns: tuple[Column, ...]) -> None:
        at = {c.name: i for i, c in enumerate(columns)}
        self.positions = tuple(at.get(name, -1) for name in system.columns)
        self.types = tuple(None if p < 0 else columns[p].type for p in self.positions)
        self.complete = all(p >= 0 for p in self.positions)
        self._system = system
        self._reads: list[Read] = []
        identity, plain = [], []
        for b in system.bindings:
            kinds = [self.types[c] for c in b.columns]
            known = tuple(k for k in kinds if k is not None)
            if not b.reads or len(known) < len(kinds):
                missing = [system.columns[c] for c, k in zip(b.columns, kinds, strict=True) if k is None]
                read, (same, bare) = _unread(b.reads, missing, system), (False, False)
            else:
                read, (same, bare) = b.make_read(known)
            self._reads.append(read)
            identity.append(same)
            plain.append(bare)
        self.identity = tuple(identity)
        self.plain = tuple(plain)

    def read(self, binding: int, raw: Sequence[bytes]) -> Slices:
        """Return the canonical slices of a binding's fields from the raw slices of its columns, in binding order.

        Raises Reject with the kind of what is wrong and the field's name: ``unmapped_value``, ``bad_number``, ``bad_date``,
        ``bad_email``, ``bad_phone``, ``unknown_country``, ``not_allowed``, ``too_long``, ``required``, ``no_conversion``, ...
        """
        try:
            return self._reads[binding](raw)
        except (ValueError, IndexError, OverflowError, ArithmeticError, struct.error) as error:
            names = ", ".join(self._system.columns[c] for c in self._system.bindings[binding].columns)
            raise Reject(f"column {names} cannot be read: {error}", kind="unreadable") from error

    def golden(self, row: Sequence[bytes], width: int) -> list[bytes]:
        """Return a golden record of ``width`` fields as this row alone would make it; what cannot be read stays null."""
        out = [NULL] * width
        for b in self._system.bindings:
            if b.reads and all(self.positions[c] >= 0 for c in b.columns):
                raws = tuple(row[self.positions[c]] for c in b.columns)
                try:
                    values = raws if self.identity[b.index] else self.read(b.index, raws)
                except Reject:
                    continue
                for f, value in zip(b.fields, values, strict=True):
                    if value != NULL:
                        out[f] = value
        return out


def _unread(reads: bool, missing: list[str], system: SystemPlan) -> Read:
    def read(_raw: Sequence[bytes]) -> Slices:
        if not reads:
            raise Reject("this binding is written, never read", kind="not_readable")
        raise Reject(
            f"{system.table.table} in {system.system} has no column {', '.join(missing)}",
            kind="missing_column",
            hint="correct the mapping, or add the column",
        )

    return read


@dataclass(eq=False)
class SystemPlan:
    """An entity in one place. ``disable``: tracked column and the slice that means disabled, of that column's type.

    ``given``: fields that every record of this tenant has, and their values. ``when``: which golden records belong to this tenant, on
    top of what flows say (they have what is given, and meet its condition); ``when_fields``: the fields that it asks for.
    ``by_schema``: readers by the schema id of a change (`processors.edits.Readers`).
    """

    system: str
    tenant: str
    entity: str
    table: TableSpec
    captured: bool
    columns: tuple[str, ...]
    bindings: tuple[BindingPlan, ...]
    accepted: frozenset[int]
    write_types: tuple[FieldType, ...]
    disable: tuple[tuple[int, bytes], ...] = ()
    when: Condition | None = field(default=None, repr=False)
    when_fields: frozenset[int] = frozenset()
    given: Given = ()
    by_schema: dict[int, RowReader] = field(default_factory=dict, repr=False)
    _readers: dict[tuple[Column, ...], RowReader] = field(default_factory=dict, repr=False)

    @cached_property
    def place(self) -> str:
        """Return the name of the place."""
        return f"{self.system}/{self.tenant}"

    def foreign(self, record: Record) -> bool:
        """Tell whether a record belongs to somebody else: it has, or had, another value of what every record of this tenant has."""
        return any(record.by[f] and record.values[f] != value for f, value in self.given)

    @cached_property
    def direct(self) -> bool:
        """Tell whether nobody but us writes here and we name the rows, so that what we write is what stands there.

        Such a place is told, not asked: its copy is what was last sent, and only a write that failed needs a word.
        """
        return not self.captured and (self.table.key_from == "canonical_id" or self._key_binding is not None)

    @cached_property
    def _key_binding(self) -> BindingPlan | None:
        if len(self.table.key) != 1 or self.table.key[0] not in self.columns:
            return None
        c = self.columns.index(self.table.key[0])
        return next(
            (b for b in self.bindings if b.writes and b.columns == (c,) and self.table.key_from != "generated"), None
        )

    @property
    def key_column(self) -> int | None:
        """Return the tracked column that is the key of a direct place; None where the key is not a column we map."""
        return self._key_binding.columns[0] if self._key_binding is not None else None

    def native_key(self, cid: str, values: Sequence[bytes]) -> str | None:
        """Return the key that a record has in a direct place; None if its field is empty."""
        b = self._key_binding
        if b is None or self.table.key_from == "canonical_id":
            return cid
        raw = b.write([values[f] for f in b.fields])[0]
        value = decode_slice(b.write_types[0], raw)
        return None if value is None else native_key([str(value)])

    @property
    def external_id(self) -> str | None:
        """Return the column that keeps our canonical id, if there is one."""
        return self.table.canonical_id

    def reader(self, columns: tuple[Column, ...]) -> RowReader:
        """Return the reader of rows with these columns; the same one for the same columns."""
        known = self._readers.get(columns)
        if known is None:
            known = self._readers[columns] = RowReader(self, columns)
        return known


class Places(dict[str, SystemPlan]):
    """Plans by place, in order of systems and of their tenants.

    A tenant that is configured no more is none of them, but what it had captured is still in journals, and means what it meant: asked
    for by name, it has a plan like those of its system's tenants. Raises Reject (``unknown_place``) for any other name.
    """

    def __init__(self, plans: Iterable[SystemPlan], former: Callable[[SystemPlan, str], SystemPlan]) -> None:
        super().__init__((p.place, p) for p in plans)
        self._former = former
        self._made: dict[str, SystemPlan] = {}

    def __missing__(self, place: str) -> SystemPlan:
        known = self._made.get(place)
        if known is None:
            system, _, tenant = place.partition("/")
            like = next((p for p in self.values() if p.system == system), None)
            if like is None:
                raise Reject(
                    f"{place} is no place of the configuration",
                    kind="unknown_place",
                    hint="put the system back into the configuration; if it is gone for good, nothing needs this message",
                )
            known = self._made[place] = self._former(like, tenant)
        return known


@dataclass(eq=False)
class EntityPlan:
    """One entity in all places. ``rank``: which place wins, the one of rank 0 first.

    ``owners``: the fields that tenants give their records (`SystemPlan.given`), and how they are spelt in match keys.
    """

    name: str
    spec: EntitySpec
    fields: tuple[FieldPlan, ...]
    field_index: dict[str, int]
    places: Places
    rank: dict[str, int]
    flows: tuple[FlowPlan, ...]
    keys: tuple[tuple[tuple[int, Callable[[bytes], str]], ...], ...] = field(repr=False)
    owners: tuple[tuple[int, Callable[[bytes], str]], ...] = field(default=(), repr=False)
    _reach: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def systems(self) -> dict[str, SystemPlan]:
        """Return, per system, the plan of its first tenant: for what all its tenants share."""
        out: dict[str, SystemPlan] = {}
        for p in self.places.values():
            out.setdefault(p.system, p)
        return out

    @cached_property
    def _divided(self) -> frozenset[str]:
        tenants = Counter(p.system for p in self.places.values())
        return frozenset(s for s, n in tenants.items() if n > 1)

    def shown(self, place: str) -> str:
        """Return what people call a place: its system, unless that has several tenants."""
        system = place.partition("/")[0]
        return place if system in self._divided else system

    def rank_of(self, place: str) -> int:
        """Return the rank of a place; of a tenant that is configured no more, that of its system's last one."""
        known = self.rank.get(place)
        if known is None:
            head = place.partition("/")[0] + "/"
            known = max((r for p, r in self.rank.items() if p.startswith(head)), default=len(self.rank))
        return known

    def match_keys(self, golden: Sequence[bytes]) -> tuple[str, ...]:
        """Return one ``i:part\\x1fpart`` per match key without a blank part, in order of precedence; parts trimmed and case-folded.

        Each ends with whose record it is, exactly as that is written; a record that does not say so has none.
        """
        whose = ""
        if self.owners:
            if any(len(golden[f]) < 2 for f, _ in self.owners):
                return ()
            whose = self.tail([(f, golden[f]) for f, _ in self.owners])
        out = []
        for i, key in enumerate(self.keys):
            parts = []
            for f, text in key:
                raw = golden[f]
                part = text(raw).strip().casefold() if len(raw) > 1 else ""
                if not part:
                    break
                parts.append(part)
            else:
                out.append(f"{i}:" + "\x1f".join(parts) + whose)
        return tuple(out)

    def tail(self, given: Iterable[tuple[int, bytes]]) -> str:
        """Return how the match keys of records end that have these owners; nothing if they are not all of them."""
        values = dict(given)
        if any(f not in values for f, _ in self.owners):
            return ""
        return "".join(["\x1f" + text(values[f]) for f, text in self.owners])

    @cached_property
    def match_fields(self) -> frozenset[int]:
        """Return the fields that match keys are made of."""
        return frozenset(f for key in (*self.keys, self.owners if self.keys else ()) for f, _ in key)

    @cached_property
    def match_names(self) -> tuple[tuple[str, ...], ...]:
        """Return the names of the fields of every match key."""
        return tuple(tuple(self.fields[f].name for f, _ in (*key, *self.owners)) for key in self.keys)

    def reaches(self, source: str, to: str) -> bool:
        """Tell whether values of one system come to another, directly or through others."""
        known = self._reach.get(source)
        if known is None:
            seen: set[str] = set()
            todo = [source]
            while todo:
                here = todo.pop()
                for flow in self.flows:
                    if flow.source == here and flow.to not in seen:
                        seen.add(flow.to)
                        todo.append(flow.to)
            known = self._reach[source] = frozenset(seen)
        return to in known

    def into(self, to: str) -> tuple[FlowPlan, ...]:
        """Return the flows that lead to a system, in the order of the configuration."""
        return tuple(f for f in self.flows if f.to == to)
