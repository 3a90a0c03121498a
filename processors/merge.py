"""The merge: a fold over one record's journal. Pure: it decides from state and entry alone.

Per system the record has a copy. A captured value is compared with what should stand there if nobody else had written; anything else
is an edit made on top of that expectation, and is fast-forwarded, agreed with, or decided as a conflict (DESIGN section 5). One write
is under way per copy at most; what is captured meanwhile for its columns is held until its receipt. `processors.emit` computes the next one.
"""

from __future__ import annotations

from processors.changes import Changes
from processors.edits import UNREADABLE, Readers
from processors.effects import Effects, Notice
from processors.emit import DELETE_BINDING, retry_delay_s
from processors.handback import HandBack
from processors.plan import BindingPlan, EntityPlan, SystemPlan
from processors.record import Copy, Flight, Held, Parked, Provenance, Record
from tidelock.avro import NULL
from tidelock.change import ZERO_POSITION
from tidelock.envelopes import (
    APPLIED,
    DELETE_OP,
    MISSING,
    REJECTED,
    STALE,
    TAKEN,
    TENANT_OFF,
    TENANT_WAITS,
    UNSEEN_EDIT,
    UPDATE_OP,
    Entry,
    Receipt,
    Receipts,
    Write,
)
from tidelock.errors import Reject

# What may pass by itself: such a write is tried again after a while; anything else waits for another value or for a person.
# What waits for a tenant is held by the clock until that takes writes (`processors.troubles`).
PASSING = frozenset({"missing_parent", "unique", "taken", "foreign_key", "gone", TENANT_WAITS, TENANT_OFF, UNSEEN_EDIT})


class Merge(Changes):
    """Fold entries into records of one entity: changes as `Changes` does, receipts and the rarer entries here."""

    def __init__(self, plan: EntityPlan, readers: Readers, handback: HandBack) -> None:
        super().__init__(plan, readers)
        self.handback = handback

    def handed_back(self, record: Record, place: str, native: str, out: Effects) -> str:
        """Return the kind of entry by which a native that was linked goes back to identify; nothing if the record takes it."""
        if record.deleted:
            return "bounce"
        system = self.plan.places[place]
        if not system.foreign(record):
            return ""
        theirs = ", ".join(self.plan.fields[f].name for f, value in system.given if record.values[f] != value)
        out.notices.append(
            Notice(
                "other_tenant",
                place,
                f"{place} {self.plan.name} {native} was to be linked to a record that belongs to another tenant by its {theirs};"
                " it is taken as a record of its own",
                f"look at both with `tidelock links --record {place}/{native}`; if they are one, correct {theirs} where it is kept",
            )
        )
        return "stray"

    def on_receipt(self, record: Record, cid: str, place: str, receipt: Receipt, out: Effects) -> None:
        """Take what became of a write; one that is not under way (any more) is a re-delivery and changes nothing."""
        if self.plan.places[place].direct:
            self._on_direct(record, cid, place, receipt, out)
            return
        create = record.creating.get(place)
        if create is not None and create.version == receipt.version and place not in record.copies:
            self._on_created(record, cid, place, create, receipt, out)
            return
        copy = record.copies.get(place)
        if copy is None or copy.flight is None or copy.flight.version != receipt.version:
            out.counts.append(("duplicates", place))
            return
        system = self.plan.places[place]
        flight, copy.flight = copy.flight, None
        quiet = not copy.rare and not receipt.refused and not receipt.values and receipt.outcome == APPLIED
        if receipt.outcome in (APPLIED, STALE):
            if record.attempts:
                record.attempts.pop(place, None)
            if flight.op == DELETE_OP:
                self._on_deleted(record, cid, place, copy, receipt, out)
                return
            self._land(system, copy, flight, receipt)
            out.counts.append(("landed", place))
        elif receipt.outcome in (REJECTED, TAKEN):
            self._park(record, cid, place, system, copy, flight, receipt, out)
        if quiet and not copy.rare and flight.golden_version == record.version:
            return  # nothing came between: golden is what was written
        self._release_held(record, cid, place, system, copy, receipt, out)
        self._finish(record, cid, None, out)

    def _on_direct(self, record: Record, cid: str, place: str, receipt: Receipt, out: Effects) -> None:
        """Take the fate of a write to a place that is told, not asked: only one that failed changes anything."""
        copy = record.copies.get(place)
        if receipt.outcome in (APPLIED, STALE):
            return
        system = self.plan.places[place]
        if copy is None:
            self._still_there(record, place, system, receipt, out)
            return
        if receipt.outcome == MISSING or receipt.native_key is None:  # somebody removed the row, or it never came to be
            del record.copies[place]
            if receipt.outcome != MISSING:
                self._park_create(record, place, receipt.kind or "rejected", out)
        else:
            touched = {c for c, name in enumerate(system.columns) if not receipt.refused or name in receipt.refused}
            flight = Flight(receipt.version, UPDATE_OP, record.version, {c: copy.columns[c] for c in touched})
            for c in touched:
                copy.columns[c] = b""  # what stands there is not known any more
            self._park(record, cid, place, system, copy, flight, receipt, out)
        self._finish(record, cid, None, out)

    def _still_there(self, record: Record, place: str, system: SystemPlan, receipt: Receipt, out: Effects) -> None:
        """Keep a copy whose delete was refused for a reason that passes: it is tried again, as any other write is."""
        latest = receipt.version == record.versions.get(place) and place not in record.parked
        kind = receipt.kind or ""
        if not latest or receipt.native_key is None or kind not in PASSING:
            return
        attempts = record.attempts[place] = record.attempts.get(place, 0) + 1
        copy = record.copies[place] = Copy(receipt.native_key, [b""] * len(system.columns), rare=True)
        copy.parked[DELETE_BINDING] = Parked(kind, (), attempts)
        out.counts.append(("parked", place))
        self._timer(record, place, "retry", retry_delay_s(attempts), out)

    def _land(self, system: SystemPlan, copy: Copy, flight: Flight, receipt: Receipt) -> None:
        pos = receipt.position or ZERO_POSITION
        for c, raw in flight.columns.items():
            name = system.columns[c]
            if name in receipt.refused:
                continue
            stands = receipt.values.get(name, raw)
            if system.captured:
                copy.landings.setdefault(c, []).append((pos, stands))
                copy.rare = True
            else:
                copy.columns[c] = stands
        if not (flight.told or receipt.values or copy.told):
            return
        for binding in system.bindings:
            if not any(c in flight.columns for c in binding.columns):
                continue
            copy.told.pop(binding.index, None)
            if any(system.columns[c] in receipt.refused for c in binding.columns):
                continue
            raws = tuple(copy.believed(c) for c in binding.columns)
            values = flight.told.get(binding.index)
            if values is None:
                written = tuple(flight.columns.get(c, b"") for c in binding.columns)
                if written == raws or len(binding.fields) != len(written):
                    continue
                values = written
            if self._reads_as(system, copy, binding, raws, values, receipt):
                continue
            copy.told[binding.index] = (values, raws)
            copy.rare = True

    def _reads_as(
        self,
        system: SystemPlan,
        copy: Copy,
        binding: BindingPlan,
        raws: tuple[bytes, ...],
        values: tuple[bytes, ...],
        receipt: Receipt,
    ) -> bool:
        """Tell whether the mapping alone reads back what was told, so that the spelling need not be kept."""
        if not binding.reads:
            return False
        told_back = any(system.columns[c] in receipt.values for c in binding.columns)
        reader = self.readers.get(system, copy.schema_id if told_back else 0)
        try:
            return (raws if reader.identity[binding.index] else reader.read(binding.index, raws)) == values
        except Reject:
            return False

    def _release_held(
        self, record: Record, cid: str, place: str, system: SystemPlan, copy: Copy, receipt: Receipt, out: Effects
    ) -> None:
        """Judge what was held, then what the receipt says stands there now."""
        held, copy.held = copy.held, []
        pos = receipt.position or ZERO_POSITION
        by = Provenance(place, held[-1].provenance.time if held else 0, bytes(16), None, "fast_forward")
        passed = pos < copy.position  # at the same position both saw the same, unless nobody announced the change (S24)
        for h in held:
            if record.copies.get(place) is not copy:
                return
            if h.gone:
                self._gone(record, cid, place, system, copy, h.position, h.provenance, out)
                continue
            self._observe(record, place, system, copy, h.columns, h.position, h.schema_id, h.provenance, out)
        if record.copies.get(place) is not copy:
            return
        if receipt.outcome == MISSING:
            self._gone(record, cid, place, system, copy, max(pos, copy.position), by, out)
            return
        standing = (
            {i: receipt.values[n] for i, n in enumerate(system.columns) if n in receipt.values}
            if receipt.values
            else {}
        )
        standing = {
            c: v for c, v in standing.items() if system.columns[c] in receipt.refused or receipt.outcome != APPLIED
        }
        if standing and not passed:
            newest = max((p.time for p in record.sources), default=0)
            cause = Provenance(place, max(by.time, newest), bytes(16), None, "fast_forward")
            self._observe(record, place, system, copy, standing, pos, copy.schema_id, cause, out)
            if system.captured and pos != ZERO_POSITION:
                copy.floors.update(dict.fromkeys(standing, pos))
                copy.rare = True
        if copy.rare:
            copy.settle()

    def _on_created(self, record: Record, cid: str, place: str, flight: Flight, receipt: Receipt, out: Effects) -> None:
        del record.creating[place]
        system = self.plan.places[place]
        if receipt.outcome in (APPLIED, STALE):
            copy = record.copies[place] = Copy(receipt.native_key or "", [b""] * len(system.columns))
            record.attempts.pop(place, None)
            self._land(system, copy, flight, receipt)
            out.counts.append(("landed", place))
        else:
            self._park_create(record, place, receipt.kind or "rejected", out)
        if (
            flight.golden_version != record.version
            or record.deleted
            or receipt.outcome not in (APPLIED, STALE)
            or receipt.values
        ):
            self._finish(record, cid, None, out)

    def _on_deleted(self, record: Record, cid: str, place: str, copy: Copy, receipt: Receipt, out: Effects) -> None:
        held, copy.held = copy.held, []
        # Some systems do not say when they deleted. It was after all that we know of: what is told late from before then has not come back.
        landed = (at for landings in copy.landings.values() for at, _ in landings)
        told = max(receipt.position or ZERO_POSITION, copy.position, *copy.floors.values(), *landed)
        self._left(record, cid, place, copy, told, out)
        if held:
            self._lost(record, place, copy, held, out)
        self._finish(record, cid, None, out)

    def _lost(self, record: Record, place: str, copy: Copy, held: list[Held], out: Effects) -> None:
        """Record what was edited in a copy while our delete of it was under way: the delete has won."""
        system = self.plan.places[place]
        lost: dict[int, tuple[bytes, Provenance]] = {}
        for h in held:
            reader = self.readers.get(system, h.schema_id)
            for c in () if h.gone else [c for c, raw in h.columns.items() if raw != copy.believed(c)]:
                for b in self.edits.by_column[system.system][c]:
                    raws = tuple([h.columns.get(i, copy.columns[i]) for i in b.columns])
                    if not b.reads or b"" in raws:
                        continue
                    try:
                        lost |= {
                            f: (v, h.provenance) for f, v in zip(b.fields, reader.read(b.index, raws), strict=True)
                        }
                    except Reject:
                        continue
        for f, (theirs, cause) in lost.items():
            by = record.provenance(f)
            if f not in system.accepted:
                out.counts.append(("not_accepted", place))
            elif by is not None and theirs != record.values[f]:
                rule = self.plan.spec.delete_against_edit
                self.edits.clash(f, place, by, record.values[f], NULL, theirs, rule, "golden", cause, out)

    def _park(
        self,
        record: Record,
        cid: str,
        place: str,
        system: SystemPlan,
        copy: Copy,
        flight: Flight,
        receipt: Receipt,
        out: Effects,
    ) -> None:
        kind = receipt.kind or ("taken" if receipt.outcome == TAKEN else "rejected")
        attempts = record.attempts[place] = record.attempts.get(place, 0) + 1
        for binding in system.bindings:
            if any(c in flight.columns for c in binding.columns):
                values = tuple(record.values[f] for f in binding.fields)
                copy.parked[binding.index] = Parked(kind, values, attempts)
        if flight.op == DELETE_OP:
            copy.parked[DELETE_BINDING] = Parked(kind, (), attempts)
        copy.rare = True
        out.counts.append(("parked", place))
        if receipt.outcome == TAKEN:
            out.identify.append(self._entry("taken", cid, place, native_key=receipt.native_key or "", keys=record.keys))
        if kind in PASSING:
            self._timer(record, place, "retry", retry_delay_s(attempts), out)

    def _park_create(self, record: Record, place: str, kind: str, out: Effects) -> None:
        attempts = record.attempts[place] = record.attempts.get(place, 0) + 1
        record.parked[place] = Parked(kind, tuple(record.values), attempts)
        out.counts.append(("parked", place))
        if kind in PASSING:
            self._timer(record, place, "retry", retry_delay_s(attempts), out)

    def on_entry(self, record: Record, cid: str, entry: Entry, out: Effects) -> None:
        """Take an entry that is neither a change nor a receipt: no_create, park, retry, wake, resync, release, resolution."""
        place = f"{entry.system}/{entry.tenant}"
        if entry.kind in ("no_create", "park"):
            flight = record.creating.get(place)
            if flight is None or flight.version != _asked(entry):
                return  # the answer to an earlier ask
            del record.creating[place]
            if entry.kind == "park" and not record.deleted:
                self._park_create(record, place, entry.keys[0] if entry.keys else "taken", out)
        elif entry.kind == "unlink":
            self._unlink(record, cid, place, entry.native_key, out)
        elif entry.kind == "merge":
            if record.deleted:
                return  # its copies die with it
            for other, theirs in list(record.copies.items()):
                if self.plan.places[other].captured:  # elsewhere it goes the way of a deleted record
                    self._unlink(record, cid, other, theirs.native_key, out)
            record.deleted = True
            record.version += 1
            out.golden_changed = True
        elif entry.kind == "resync" and not entry.tenant:  # everywhere in a system, or everywhere
            self._look_again(record, entry.system)
        elif entry.kind in ("retry", "wake", "resync"):
            due = record.timers.pop(place, None)
            copy = record.copies.get(place)
            kept = record.parked.pop(place, None)
            if copy is not None:
                _unpark(copy)
            if entry.kind == "wake" or due == "wake":
                self._finish(record, cid, None, out, due=place)
                return
            if kept is not None:
                self._finish(record, cid, None, out)
                return
        elif entry.kind == "resolution":
            self._resolve(record, entry, out)
        self._finish(record, cid, None, out)

    def _look_again(self, record: Record, system: str) -> None:
        """Lift what is parked in every tenant of a system; what is delayed stays so."""
        head = f"{system}/" if system else ""
        for place in [p for p in record.parked if p.startswith(head)]:
            del record.parked[place]
        for place, copy in record.copies.items():
            if place.startswith(head):
                _unpark(copy)
        for place, kind in list(record.timers.items()):
            if place.startswith(head) and kind == "retry":
                del record.timers[place]

    def _unlink(self, record: Record, cid: str, place: str, native_key: str, out: Effects) -> None:
        """Let a copy go: a person has decided that it is another record. What was captured of it goes back to identify."""
        copy = record.copies.get(place)
        if copy is None or copy.native_key != native_key:
            return
        del record.copies[place]
        kind = "left" if copy.held and copy.held[-1].gone else "bounce"
        entry = self._entry(kind, cid, place, native_key=native_key, position=copy.position)
        if kind == "bounce":
            entry.payload = self.handback.change(record, place, copy)
        out.identify.append(entry)

    def _resolve(self, record: Record, entry: Entry, out: Effects) -> None:
        """A person has decided a parked field: keys = (field, ``golden``, ``theirs`` or ``value``), payload = slice for ``value``."""
        f = self.plan.field_index.get(entry.keys[0])
        if f is None or f not in record.manual:
            out.notices.append(
                Notice(
                    "resolution",
                    entry.system,
                    f"there is nothing parked in field {entry.keys[0]} of this record",
                    "see `tidelock conflicts ls`",
                )
            )
            return
        parked = record.manual.pop(f)
        record.history.pop(f, None)
        by = Provenance(f"{entry.system}/{entry.tenant}", entry.offset, bytes(16), entry.native_key or None, "manual")
        if entry.keys[1] == "theirs":
            place = f"{entry.system}/{entry.tenant}"
            self.edits.set(record, f, parked[place if place in parked else min(parked)][1], by, out)
        elif entry.keys[1] == "value":
            self.edits.set(record, f, entry.payload, by, out)


def _unpark(copy: Copy) -> None:
    """Lift what a copy's system has refused; not what it says itself and nobody can read or take."""
    if copy.parked:
        copy.parked = {
            b: p for b, p in copy.parked.items() if p.kind.startswith(UNREADABLE) or p.kind == "not_accepted"
        }
        copy.settle()


def _asked(entry: Entry) -> int:
    """Return the version of the create that a ``no_create`` (with the write) or ``park`` (with the receipt) answers."""
    if entry.kind == "no_create":
        return Write.decode(entry.payload).version
    return Receipts.decode(entry.payload).items[0].version if entry.payload else -1
