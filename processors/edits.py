"""Edits: what somebody's value in one system does to the golden record. The three-way rule itself (DESIGN section 5). Pure."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import msgspec

from processors.effects import Clash, Effects, Notice
from processors.mapping import is_blank
from processors.plan import BindingPlan, EntityPlan, RowReader, SystemPlan
from processors.policies import Contest, add_delta, decide
from processors.record import Copy, Parked, Provenance, Record
from tidelock.avro import NULL
from tidelock.change import Column
from tidelock.config import Policy
from tidelock.errors import Reject

UNREADABLE = "unreadable:"  # kind of a parked binding whose raw value the mapping cannot read


class Readers:
    """Row readers by schema id, made when first asked for; ``columns`` asks the registry."""

    def __init__(self, columns: Callable[[int], tuple[Column, ...]]) -> None:
        self._columns = columns

    def get(self, system: SystemPlan, schema_id: int) -> RowReader:
        """Return the reader of a schema id; for 0 (a copy that we created and nobody has captured yet) that of what we write."""
        known = system.by_schema.get(schema_id)
        if known is None:
            if schema_id == 0:
                columns = tuple(Column(n, t) for n, t in zip(system.columns, system.write_types, strict=True))
            else:
                columns = self._columns(schema_id)
            known = system.by_schema[schema_id] = system.reader(columns)
        return known


class Edits:
    """Judge changed columns of copies of one entity."""

    def __init__(self, plan: EntityPlan, readers: Readers) -> None:
        self.plan = plan
        self.readers = readers
        self.by_column = {name: _by_column(sp) for name, sp in plan.systems.items()}
        self._bent: dict[RowReader, tuple[BindingPlan, ...]] = {}  # what `fill` has to read
        self._straight: dict[RowReader, tuple[tuple[int, int], ...] | None] = {}

    def fill(
        self, record: Record, system: SystemPlan, columns: list[bytes], reader: RowReader, cause: Provenance
    ) -> bool:
        """Take a whole row into a record that has nothing yet, where every binding is one column that is one field.

        Return False, having done nothing, where it is not that simple.
        """
        if reader not in self._straight:
            self._straight[reader] = self._find_straight(system, reader)
        pairs = self._straight[reader]
        if pairs is None:
            return False
        if pairs or self._bent[reader]:
            taken = [(f, columns[c]) for c, f in pairs]
            try:
                taken += [(b.fields[0], reader.read(b.index, (columns[b.columns[0]],))[0]) for b in self._bent[reader]]
            except Reject:
                return False
            record.sources = [cause]
            values, by = record.values, record.by
            for f, value in taken:
                if value != NULL:
                    values[f] = value
                    by[f] = 1
        return True

    def _find_straight(self, system: SystemPlan, reader: RowReader) -> tuple[tuple[int, int], ...] | None:
        reads = [b for b in system.bindings if b.reads]
        fields = [f for b in reads for f in b.fields]
        if (
            not reader.complete
            or len(set(fields)) < len(fields)
            or any(
                len(b.columns) > 1 or len(b.fields) > 1 or b.blank_unknown or b.fields[0] not in system.accepted
                for b in reads
            )
        ):
            return None
        self._bent[reader] = tuple(b for b in reads if not reader.identity[b.index])
        return tuple((b.columns[0], b.fields[0]) for b in reads if reader.identity[b.index])

    def take(
        self,
        record: Record,
        place: str,
        system: SystemPlan,
        copy: Copy,
        changed: dict[int, bytes],
        reader: RowReader,
        schema_id: int,
        cause: Provenance,
        out: Effects,
    ) -> set[int]:
        """Turn changed columns into edits of fields; return the fields that were touched."""
        touched: set[int] = set()
        by_column = self.by_column[system.system]
        done: set[int] = set()
        foreign = bool(system.given) and system.foreign(record)
        before = reader if copy.schema_id == schema_id else self.readers.get(system, copy.schema_id)
        for c in changed:
            for binding in by_column[c]:
                if binding.index in done or not binding.reads:
                    continue
                done.add(binding.index)
                if len(binding.columns) == 1:
                    raws: tuple[bytes, ...] = (copy.columns[c],)
                    expected: tuple[bytes, ...] = (changed[c],)
                else:
                    raws = tuple([copy.columns[i] for i in binding.columns])
                    expected = tuple([changed.get(i, copy.columns[i]) for i in binding.columns])
                if b"" in raws:
                    continue
                try:
                    theirs = self._meaning(copy, binding, raws, reader)
                except Reject as error:
                    self._flag(place, system, copy, binding, expected, before, error, out)
                    continue
                base = self._base(copy, binding, expected, before)
                if foreign:
                    self._elsewhere(record, place, system, binding, base, theirs, cause, out)
                    continue
                for n, f in enumerate(binding.fields):
                    self._edit(
                        record,
                        place,
                        system,
                        copy,
                        binding,
                        f,
                        None if base is None else base[n],
                        theirs[n],
                        cause,
                        out,
                    )
                touched.update(binding.fields)
        return touched

    def _elsewhere(
        self,
        record: Record,
        place: str,
        system: SystemPlan,
        binding: BindingPlan,
        base: tuple[bytes, ...] | None,
        theirs: tuple[bytes, ...],
        cause: Provenance,
        out: Effects,
    ) -> None:
        """Record an edit of a copy whose record belongs to somebody else by now: it stays where it is, and is not lost without a word."""
        moved = next(p for f, _ in system.given if (p := record.provenance(f)) is not None)
        for n, f in enumerate(binding.fields):
            golden, base_of = record.values[f], NULL if base is None else base[n]
            if theirs[n] in (base_of, golden):
                continue
            by = record.provenance(f) or moved
            if not record.by[f]:  # nothing is what stands in the record, should it ever come back
                self.set(record, f, NULL, by, out)
            self.clash(
                f, place, by, None if base is None else base_of, golden, theirs[n], "tenant", "golden", cause, out
            )

    def _meaning(
        self, copy: Copy, binding: BindingPlan, raws: tuple[bytes, ...], reader: RowReader
    ) -> tuple[bytes, ...]:
        """Return raw values in the hub's terms: what we told the system, if this is how it spells that."""
        if copy.rare:
            told = copy.told.get(binding.index)
            if told is not None and told[1] == raws:
                return told[0]
        return raws if reader.identity[binding.index] else reader.read(binding.index, raws)

    def _base(
        self, copy: Copy, binding: BindingPlan, expected: tuple[bytes, ...], reader: RowReader
    ) -> tuple[bytes, ...] | None:
        """Return what the expected values meant; None if nobody knows."""
        if copy.rare:
            parked = copy.parked.get(binding.index)
            if parked is not None and parked.kind.startswith(UNREADABLE):
                del copy.parked[binding.index]
                return parked.values or None
        if b"" in expected:
            return None
        try:
            return self._meaning(copy, binding, expected, reader)
        except Reject:
            return None

    def _flag(
        self,
        place: str,
        system: SystemPlan,
        copy: Copy,
        binding: BindingPlan,
        expected: tuple[bytes, ...],
        before: RowReader,
        error: Reject,
        out: Effects,
    ) -> None:
        """Keep a value that the mapping cannot read out of the golden record, say so, and do not overwrite it there."""
        base = self._base(copy, binding, expected, before)
        copy.parked[binding.index] = Parked(UNREADABLE + error.kind, base or ())
        copy.rare = True
        column = ", ".join(system.columns[c] for c in binding.columns)
        out.counts.append(("flagged", place))
        out.notices.append(
            Notice(
                error.kind,
                place,
                f"{place} {self.plan.name} {copy.native_key}: column {column} is not taken over: {error.message}",
                error.hint or "add the spelling to the mapping, or correct the value there; the other fields flow",
            )
        )

    def _edit(
        self,
        record: Record,
        place: str,
        system: SystemPlan,
        copy: Copy,
        binding: BindingPlan,
        f: int,
        base: bytes | None,
        theirs: bytes,
        cause: Provenance,
        out: Effects,
    ) -> None:
        """Judge one field's value from one system; the three-way rule itself."""
        if base is not None and theirs == base:
            return
        golden, by = record.values[f], record.provenance(f)
        if record.deleted:  # its delete was refused there, or deletes are not written there: nobody will see this edit
            if f in system.accepted and by is not None and theirs != golden:
                rule = self.plan.spec.delete_against_edit
                self.clash(f, place, by, base, NULL, theirs, rule, "golden", cause, out)
            return
        if f not in system.accepted:
            if base is not None:
                out.counts.append(("not_accepted", place))
                if not binding.enforced:
                    copy.parked[binding.index] = Parked("not_accepted", tuple(record.values[i] for i in binding.fields))
                    copy.rare = True
            return
        kind = self.plan.fields[f].type
        if binding.blank_unknown and is_blank(theirs, kind):
            return
        if f in record.manual:
            record.manual[f][place] = (base if base is not None else golden, theirs)
            out.counts.append(("parked", place))
            return
        policy = self.plan.fields[f].policy
        if by is None:
            if theirs != NULL or base is not None or not record.known:
                self.set(record, f, theirs, cause, out)
            return
        if policy is Policy.DELTA and base is not None:
            total = add_delta(kind, base, golden, theirs)
            if total is not None:
                clash = golden != base
                self.set(record, f, total, msgspec.structs.replace(cause, rule="delta") if clash else cause, out)
                if clash:
                    self.clash(f, place, by, base, golden, theirs, "delta", "merged", cause, out)
                return
        if golden == theirs:
            return  # agreement
        if base is None:  # two records have just become one: a blank says nothing, and anything beats a blank
            if theirs == NULL:
                return
            if golden == NULL:
                self.set(record, f, theirs, cause, out)
                return
        elif golden == base:
            if self._oscillates(record, f, theirs, by, cause):
                record.manual[f] = {place: (base, theirs)}
                out.notices.append(
                    Notice(
                        "oscillation",
                        place,
                        f"{self.plan.name}: field {self.plan.fields[f].name} went back and forth between {by.place} and {place} more than"
                        f" {self.plan.spec.oscillation} times; it is parked",
                        "find out which system rewrites it, then `tidelock conflicts resolve`",
                    )
                )
                self.clash(f, place, by, base, golden, theirs, "oscillation", "parked", cause, out)
                return
            self.set(record, f, theirs, cause, out)
            return
        contest = Contest(
            kind,
            base,
            golden,
            theirs,
            self.plan.rank_of(by.place),
            self.plan.rank_of(cause.place),
            by,
            cause,
        )
        decision = decide(policy, contest)
        if decision.outcome == "parked":
            record.manual[f] = {place: (base if base is not None else golden, theirs)}
        elif decision.value != golden:
            self.set(record, f, decision.value, msgspec.structs.replace(cause, rule=policy.value), out)
        self.clash(f, place, by, base, golden, theirs, policy.value, decision.outcome, cause, out)

    def set(self, record: Record, f: int, value: bytes, cause: Provenance, out: Effects) -> None:
        record.set(f, value, cause)
        if not out.golden_changed:
            out.golden_changed = True
            record.version += 1

    def clash(
        self,
        f: int,
        place: str,
        by: Provenance,
        base: bytes | None,
        golden: bytes,
        theirs: bytes,
        rule: str,
        outcome: str,
        cause: Provenance,
        out: Effects,
    ) -> None:
        out.clashes.append(Clash(f, place, by.place, base, golden, theirs, rule, outcome, cause))
        out.counts.append(("conflicts", place))

    def _oscillates(self, record: Record, f: int, theirs: bytes, by: Provenance, cause: Provenance) -> bool:
        """Count returns to an earlier value by alternating systems within the window; only they can be a loop."""
        if by.place == cause.place or cause.time - by.time > self.plan.spec.oscillation_window_s * 1_000_000:
            record.history.pop(f, None)
            return False
        since = cause.time - int(self.plan.spec.oscillation_window_s * 1_000_000)
        history = [(t, h) for t, h in record.history.get(f, []) if t >= since]
        history.append((cause.time, crc32(theirs)))
        record.history[f] = history
        seen: set[int] = set()
        returns = 0
        for _, h in history:
            returns += h in seen
            seen.add(h)
        return returns > self.plan.spec.oscillation


def _by_column(system: SystemPlan) -> list[tuple[BindingPlan, ...]]:
    return [tuple(b for b in system.bindings if c in b.columns) for c in range(len(system.columns))]
