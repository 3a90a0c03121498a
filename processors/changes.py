"""Changes: what a captured change does to a record, its copies and its links. Pure; the first half of the merge (`processors.merge`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from processors.edits import Edits, Readers
from processors.effects import Effects, Timer
from processors.emit import Emitter
from processors.plan import EntityPlan, RowReader, SystemPlan
from processors.record import Copy, Flight, Held, Provenance, Record
from tidelock.avro import NULL
from tidelock.change import DELETE, SNAPSHOT, ZERO_POSITION, Change
from tidelock.config import Deletes
from tidelock.envelopes import UPDATE_OP, Entry


class Changes:
    """Take captured changes of one entity. Every ``on_…`` method changes the record and adds to the effects."""

    def __init__(self, plan: EntityPlan, readers: Readers) -> None:
        self.plan = plan
        self.readers = readers
        self.emitter = Emitter(plan, readers)
        self._match_fields = plan.match_fields
        self.edits = Edits(plan, readers)
        self._skew = int(plan.spec.max_skew_s * 1_000_000)

    def on_change(
        self, record: Record, cid: str, place: str, change: Change, reader: RowReader, schema_id: int, out: Effects
    ) -> None:
        """Take a captured change of a copy. One that is not this record's goes back to identify by the shell."""
        copy = record.copies[place]
        system = self.plan.places[place]
        q = change.position
        late = q <= copy.position
        if late and not (copy.behind and change.after is not None and change.op != DELETE):
            out.counts.append(("duplicates", place))
            return
        cause = Provenance(place, self._time(change), change.event_id, change.actor, "fast_forward")
        if change.op == DELETE or change.after is None:
            copy.position, copy.behind = q, {}
            if copy.flight is not None:
                copy.held.append(Held(q, True, {}, schema_id, cause))
                copy.rare = True
                return
            self._gone(record, cid, place, system, copy, q, cause, out)
            self._finish(record, cid, None, out)
            return
        row = change.after
        if (
            copy.flight is None
            and not copy.rare
            and not change.absent
            and reader.complete
            and copy.schema_id == schema_id
            and not copy.behind
        ):
            copy.position = q
            new = [row[p] for p in reader.positions]  # the usual case: everything captured, nothing pending
            old = copy.columns
            if new == old:
                out.counts.append(("echoes" if change.origin is not None else "unchanged", place))
                return
            copy.columns = new
            changed = {i: o for i, (o, n) in enumerate(zip(old, new, strict=True)) if o != n}
        else:
            seen = {
                i: row[p]
                for i, p in enumerate(reader.positions)
                if p >= 0 and (not change.absent or change.columns[p].name not in change.absent)
            }
            if late:  # it was with another record first, and has been overtaken: what later changes have left out counts still
                seen = {c: raw for c, raw in seen.items() if c in copy.behind and copy.behind[c] < q}
                if not seen:
                    out.counts.append(("duplicates", place))
                    return
                copy.behind |= dict.fromkeys(seen, q)
            else:
                copy.captured(seen, q)
            if copy.flight is not None:
                held = self._held_columns(system, copy.flight, seen)
                if held:
                    copy.held.append(Held(q, False, {c: seen.pop(c) for c in held}, schema_id, cause))
                    copy.rare = True
            changed = self._advance(copy, seen, q)
            if not changed:
                out.counts.append(("echoes" if change.origin is not None else "unchanged", place))
                copy.schema_id = schema_id if copy.flight is None and not late else copy.schema_id
                return
        touched = self.edits.take(record, place, system, copy, changed, reader, schema_id, cause, out)
        if not late:
            copy.schema_id = schema_id
        self._finish(record, cid, touched, out)

    def on_linked(
        self,
        record: Record,
        cid: str,
        place: str,
        change: Change,
        reader: RowReader,
        schema_id: int,
        grants: Sequence[str],
        out: Effects,
    ) -> None:
        """Take a record of a system as a new copy of this one; ``grants`` are places where identify lets us create."""
        system = self.plan.places[place]
        first = not record.known
        record.creating.pop(place, None)
        record.parked.pop(place, None)
        if place in record.departed:
            record.departed.remove(place)
        if grants:
            record.granted = sorted({*record.granted, *grants})
        copy = record.copies[place] = Copy(change.native_key, [b""] * len(system.columns))
        copy.position = change.position
        rule = "seed" if change.op == SNAPSHOT else "fast_forward"
        cause = Provenance(place, self._time(change), change.event_id, change.actor, rule)
        row = change.after or []
        straight = False
        if first and reader.complete and not change.absent:
            copy.columns = [row[p] for p in reader.positions]
            straight = self.edits.fill(record, system, copy.columns, reader, cause)
            if not straight:
                copy.columns = [b""] * len(system.columns)
        if not straight:
            seen = {
                i: row[p]
                for i, p in enumerate(reader.positions)
                if p >= 0 and (not change.absent or change.columns[p].name not in change.absent)
            }
            copy.position = ZERO_POSITION
            copy.captured(seen, change.position)
            changed = self._advance(copy, seen, change.position)
            self.edits.take(record, place, system, copy, changed, reader, schema_id, cause, out)
        copy.schema_id = schema_id
        self._claim(record, system, cause, out)
        if first:
            record.version = max(record.version, 1)
            out.golden_changed = True
            if system.accepted.union(f for f, _ in system.given) >= self._match_fields:
                record.keys = self.plan.match_keys(record.values)  # what identify has found in this very row
        self._finish(record, cid, None, out)
        if record.granted:
            out.identify += [self._entry("release", cid, left) for left in record.granted]
            record.granted = []

    def _claim(self, record: Record, system: SystemPlan, cause: Provenance, out: Effects) -> bool:
        """Give a record what every record of a tenant has, where nobody has ever said whose it is; tell whether that was so."""
        unsaid = [(f, value) for f, value in system.given if not record.by[f]]
        for f, value in unsaid:
            self.edits.set(record, f, value, cause, out)
        return bool(unsaid)

    def _claim_late(self, record: Record, out: Effects) -> bool:
        """Do the same for a record whose tenants were given fields after it was taken, before it is taken for nobody's."""
        claimed = False
        for place in record.copies:
            system = self.plan.places[place]
            if system.given:
                newest = max((p.time for p in record.sources), default=0)
                cause = Provenance(place, newest, bytes(16), None, "tenant")
                claimed = self._claim(record, system, cause, out) or claimed
        return claimed

    def _time(self, change: Change) -> int:
        """Return the source's time, but not further ahead of the capture than the configured skew allows (S20)."""
        return min(change.source_time, change.captured_at + self._skew)

    def _held_columns(self, system: SystemPlan, flight: Flight, seen: dict[int, bytes]) -> list[int]:
        if flight.op != UPDATE_OP:
            return list(seen)
        bindings = self.edits.by_column[system.system]
        busy = {c for w in flight.columns for b in bindings[w] for c in b.columns}
        return [c for c in seen if c in busy]

    def _advance(self, copy: Copy, seen: dict[int, bytes], q: bytes) -> dict[int, bytes]:
        """Move `cur` to what was seen at q; return column → expected value for every column where somebody else wrote."""
        changed: dict[int, bytes] = {}
        columns = copy.columns
        for c, raw in seen.items():
            expected = columns[c]
            if copy.rare:
                floor = copy.floors.get(c)
                if floor is not None:
                    if q <= floor:
                        continue
                    del copy.floors[c]
                landed = copy.landings.get(c)
                if landed is not None:
                    while landed and landed[0][0] <= q:
                        expected = landed.pop(0)[1]
                    if not landed:
                        del copy.landings[c]
            columns[c] = raw
            if raw != expected:
                changed[c] = expected
        if copy.rare:
            copy.settle()
        return changed

    def _observe(
        self,
        record: Record,
        place: str,
        system: SystemPlan,
        copy: Copy,
        columns: dict[int, bytes],
        q: bytes,
        schema_id: int,
        cause: Provenance,
        out: Effects,
    ) -> None:
        changed = self._advance(copy, columns, q)
        if changed:
            self.edits.take(
                record, place, system, copy, changed, self.readers.get(system, schema_id), schema_id, cause, out
            )
            copy.schema_id = schema_id

    def _gone(
        self,
        record: Record,
        cid: str,
        place: str,
        system: SystemPlan,
        copy: Copy,
        q: bytes,
        cause: Provenance,
        out: Effects,
    ) -> None:
        """A copy is no longer there, and it was not we who deleted it."""
        unseen = [
            f
            for binding in system.bindings
            if binding.reads
            for f in binding.fields
            if (by := record.provenance(f)) is not None
            and by.place != place
            and self.emitter.differs(record, system, copy, binding)
        ]
        del record.copies[place]
        out.identify.append(self._entry("left", cid, place, native_key=copy.native_key, position=q))
        if record.deleted:
            return
        mode = system.table.on_delete
        if not system.accepted or system.foreign(record):
            return  # a destination only: it is written again; or it was left behind when the record went to somebody else
        if mode is Deletes.DELETE:
            rule = self.plan.spec.delete_against_edit
            survives = rule == "edit_wins" and bool(
                record.copies or record.creating
            )  # nobody can bring back what is nowhere
            if unseen:
                outcome = "golden" if survives else "theirs"
                for f in unseen[:1] if survives else unseen:  # every edit that the delete takes with it
                    by = record.provenance(f)
                    assert by is not None
                    self.edits.clash(f, place, by, None, record.values[f], NULL, rule, outcome, cause, out)
                if survives:
                    return
            self._die(record, cid, place, out)
            return
        record.departed = sorted({*record.departed, place})
        if mode is Deletes.DISABLE:
            for f, value in self.emitter.disabled_fields(system).items():
                if f in system.accepted and record.values[f] != value:
                    self.edits.set(record, f, value, msgspec.structs.replace(cause, rule="disable"), out)

    def _die(self, record: Record, cid: str, place: str, out: Effects) -> None:
        record.deleted = True
        record.version += 1
        out.golden_changed = True
        out.counts.append(("deletes", place))
        out.identify.append(self._entry("dying", cid, place))

    def _left(self, record: Record, cid: str, place: str, copy: Copy, q: bytes, out: Effects) -> None:
        """Our own delete landed."""
        del record.copies[place]
        out.identify.append(self._entry("left", cid, place, native_key=copy.native_key, position=q))

    def _timer(self, record: Record, place: str, kind: str, delay_s: float, out: Effects) -> None:
        if place not in record.timers:
            record.timers[place] = kind
            out.timers.append(Timer(place, kind, delay_s))

    def _finish(self, record: Record, cid: str, touched: set[int] | None, out: Effects, *, due: str = "") -> None:
        """Tell identify about changed match keys, then compute what is to be written; ``touched`` None means look at everything."""
        if self.plan.owners and not record.deleted and self._claim_late(record, out):
            touched = None
        if (
            not record.deleted
            and self._match_fields
            and (touched is None or not self._match_fields.isdisjoint(touched))
        ):
            keys = self.plan.match_keys(record.values)
            if keys != record.keys and record.known:
                record.keys = keys
                out.identify.append(self._entry("keys", cid, "", keys=keys))
        self.emitter.emit(record, cid, touched, out, due=due)
        if not record.copies and not record.deleted and not record.creating and record.known:
            self._die(record, cid, "", out)  # it is nowhere any more, and nothing is under way that would bring it back

    def _entry(
        self,
        kind: str,
        cid: str,
        place: str,
        *,
        native_key: str = "",
        position: bytes = ZERO_POSITION,
        keys: tuple[str, ...] = (),
    ) -> Entry:
        system, _, tenant = place.partition("/")
        return Entry(kind, cid, system, tenant, native_key, position, keys=keys)
