"""Map out and emit: compute, for every place a flow leads to, the write that brings it from what is believed to stand there to golden.

Pure. A write holds only the columns that differ, each with the base it was computed from; nothing is computed for a copy with a write
under way, so rapid changes fold into the next one (DESIGN section 5, "map out and emit").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors.destinations import Choice, Destination, destinations
from processors.effects import Effects, Notice, Send, Timer
from processors.plan import BindingPlan, EntityPlan, FlowPlan, SystemPlan
from processors.record import Copy, Flight, Parked, Provenance, Record
from tidelock.avro import NULL, decode_slice, fits
from tidelock.change import Column
from tidelock.config import Deletes
from tidelock.envelopes import CREATE_OP, DELETE_OP, UPDATE_OP, Entry
from tidelock.errors import Reject

if TYPE_CHECKING:
    from processors.edits import Readers

DELETE_BINDING = -1  # key under which a refused delete is parked


def retry_delay_s(attempts: int) -> float:
    """Return how long to wait before the next attempt at a write that something blocked: 2 s, doubling, at most 10 minutes."""
    return min(600.0, 2.0 ** min(attempts, 10))


class Emitter:
    """Compute writes for one entity."""

    def __init__(self, plan: EntityPlan, readers: Readers) -> None:
        self.plan = plan
        self.readers = readers
        self._every = destinations(plan)
        self._choice = Choice(self._every) if any(d.when is not None for d in self._every) else None

    def emit(self, record: Record, cid: str, touched: set[int] | None, out: Effects, *, due: str = "") -> None:
        """Add every write that is due; ``touched`` limits the look to these fields (None: all), ``due`` names a place whose delay is over."""
        for d in self._every if self._choice is None else self._choice.of(record):
            copy = record.copies.get(d.place)
            if copy is None:
                if not record.deleted and d.place not in record.creating:
                    self._create(record, cid, d, out, due == d.place)
            elif copy.flight is None:
                if record.deleted:
                    self._delete(record, cid, d, copy, out)
                else:
                    # What comes back has missed whatever changed while it was out: then everything is looked at.
                    some = None if touched and not d.asked.isdisjoint(touched) else touched
                    self._update(record, cid, d, copy, some, out, due == d.place)

    # ------------------------------------------------------------------------------------------------ updates

    def _update(
        self, record: Record, cid: str, d: Destination, copy: Copy, touched: set[int] | None, out: Effects, due: bool
    ) -> None:
        flows = d.holding(record)
        if not flows:
            self._exit(record, cid, d, copy, out)
            return
        columns: dict[int, bytes] = {}
        bases: dict[int, bytes] = {}
        told: dict[int, tuple[bytes, ...]] = {}
        cause: Provenance | None = None
        if touched is None:
            bindings = d.writable
        elif len(touched) == 1:
            (f,) = touched
            bindings = d.by_field.get(f, ())
        else:
            bindings = tuple(dict.fromkeys(b for f in sorted(touched) for b in d.by_field.get(f, ())))
        values = record.values
        simple = not copy.rare and not record.manual and d.all_fields
        for b in bindings:
            if b.plain and simple:
                c, f = b.columns[0], b.fields[0]
                stands, wanted, i = copy.columns[c], values[f], record.by[f]
                if stands == wanted or not i:
                    continue
                by = record.sources[i - 1]
                if d.takes(by.place) and (
                    not d.system.captured or self._means(copy, b, (stands,), d.system) != (wanted,)
                ):
                    columns[c], bases[c] = wanted, stands or NULL
                    if cause is None or by.time > cause.time:
                        cause = by
                continue
            of = self._wanted(record, d, flows, b)
            if of is None:
                continue
            desired = self._desired(record, d, copy, b, out)
            if desired is None:
                continue
            for c, raw in zip(b.columns, desired, strict=True):
                believed = copy.believed(c)
                if believed != raw:
                    columns[c], bases[c] = raw, believed or NULL
            if not b.plain:
                told[b.index] = tuple(values[f] for f in b.fields)
            if cause is None or of.time > cause.time:
                cause = of
        if not columns or cause is None:
            return
        delay_s = min(f.delay_s for f in flows)
        if delay_s > 0 and not due:
            self._later(record, d.place, delay_s, out)
            return
        self._send(record, cid, d, copy, UPDATE_OP, columns, bases, told, cause, out)

    def _wanted(self, record: Record, d: Destination, flows: tuple[FlowPlan, ...], b: BindingPlan) -> Provenance | None:
        """Return whose value a binding would carry to a place; None if it has nothing that flows there."""
        newest: Provenance | None = None
        for f in b.fields:
            if f in record.manual:
                return None
            by = record.provenance(f)
            if by is None:
                continue
            if not d.takes(by.place):
                return None
            if not d.all_fields and not any(not flow.fields or f in flow.fields for flow in flows):
                return None
            if newest is None or by.time > newest.time:
                newest = by
        if newest is None and b.enforced:  # nobody has ever said anything, and nothing is what has to stand there
            return Provenance(d.place, 0, bytes(16), None, "enforced")
        return newest

    def _desired(
        self, record: Record, d: Destination, copy: Copy, b: BindingPlan, out: Effects
    ) -> tuple[bytes, ...] | None:
        """Return the raw values a binding should have; None if it has them already, or must be left alone."""
        values = tuple(record.values[f] for f in b.fields)
        raws = tuple(copy.believed(c) for c in b.columns)
        if copy.rare:
            parked = copy.parked.get(b.index)
            if parked is not None:
                if parked.values == values or parked.kind.startswith("unreadable:"):
                    return None
                del copy.parked[b.index]
            told = copy.told.get(b.index)
            if told is not None and told[1] == raws and told[0] == values:
                return None
        if raws == values and b.plain:
            return None
        if d.system.captured and self._means(copy, b, raws, d.system) == values:
            return None
        try:
            desired = b.write(values)
        except Reject as error:
            self._cannot(d, copy, b, values, error, out)
            return None
        if desired == raws:
            return None
        self._warn(d, b, values, out)
        return desired

    def _warn(self, d: Destination, b: BindingPlan, values: tuple[bytes, ...], out: Effects) -> None:
        text = b.warn(values) if b.warn is not None else None
        if text:
            out.notices.append(
                Notice(
                    "too_long", d.place, f"{d.place} {self.plan.name}: {text}", "widen the column, or shorten the value"
                )
            )

    def _means(
        self, copy: Copy, b: BindingPlan, raws: tuple[bytes, ...], system: SystemPlan
    ) -> tuple[bytes, ...] | None:
        if b"" in raws or not b.reads:
            return None
        reader = self.readers.get(system, copy.schema_id)
        told = copy.told.get(b.index)
        if told is not None and told[1] == raws:
            return told[0]
        try:
            return raws if reader.identity[b.index] else reader.read(b.index, raws)
        except Reject:
            return None

    def differs(self, record: Record, system: SystemPlan, copy: Copy, b: BindingPlan) -> bool:
        """Tell whether a copy shows something else than golden in a binding, so that its system has not seen the last edit."""
        values = tuple(record.values[f] for f in b.fields)
        raws = tuple(copy.believed(c) for c in b.columns)
        return raws != values and self._means(copy, b, raws, system) != values

    def _cannot(
        self,
        d: Destination,
        copy: Copy,
        b: BindingPlan,
        values: tuple[bytes, ...],
        error: Reject,
        out: Effects,
    ) -> None:
        copy.parked[b.index] = Parked(error.kind, values)
        copy.rare = True
        self._say(d, b, error, out)

    def _say(self, d: Destination, b: BindingPlan, error: Reject, out: Effects) -> None:
        names = ", ".join(d.system.columns[c] for c in b.columns)
        out.counts.append(("parked", d.place))
        out.notices.append(
            Notice(
                error.kind,
                d.place,
                f"{d.place} {self.plan.name}: column {names} is not written: {error.message}",
                error.hint or "correct the value, or change the mapping; the other fields flow",
            )
        )

    def _send(
        self,
        record: Record,
        cid: str,
        d: Destination,
        copy: Copy,
        op: int,
        columns: dict[int, bytes],
        bases: dict[int, bytes],
        told: dict[int, tuple[bytes, ...]],
        cause: Provenance,
        out: Effects,
    ) -> None:
        version = record.versions[d.place] = record.versions.get(d.place, 0) + 1
        flight = Flight(version, op, record.version, columns, told)
        out.sends.append(Send(d.place, flight, copy.native_key, bases, cause))
        if not d.system.direct:
            copy.flight = flight
        elif op == DELETE_OP:
            del record.copies[d.place]
        else:
            for c, raw in columns.items():
                copy.columns[c] = raw
            if d.system.key_column in columns:
                copy.native_key = d.system.native_key(cid, record.values) or copy.native_key

    def _later(self, record: Record, place: str, delay_s: float, out: Effects) -> None:
        if place not in record.timers:
            record.timers[place] = "wake"
            out.timers.append(Timer(place, "wake", delay_s))

    # ------------------------------------------------------------------------------------------------ creates and deletes

    def _create(self, record: Record, cid: str, d: Destination, out: Effects, due: bool) -> None:
        if d.place in record.departed or not record.known:
            return
        if d.straight is not None and len(record.sources) == 1 and not record.parked and not record.manual:
            self._create_straight(record, cid, d, d.straight, out)
            return
        flows = tuple(f for f in d.holding(record) if f.create)
        if not flows:
            return
        parked = record.parked.get(d.place)
        if parked is not None:
            if parked.values == tuple(record.values):
                return
            del record.parked[d.place]
        columns: dict[int, bytes] = {}
        told: dict[int, tuple[bytes, ...]] = {}
        newest: Provenance | None = None
        for b in d.writable:
            by = self._wanted(record, d, flows, b)
            if by is None and not b.constant:
                continue
            values = tuple(record.values[f] for f in b.fields)
            try:
                raws = b.write(values)
            except Reject as error:
                self._say(d, b, error, out)
                continue
            self._warn(d, b, values, out)
            # Where people work, a column we have nothing for keeps its own default.
            columns |= {c: raw for c, raw in zip(b.columns, raws, strict=True) if raw != NULL or not d.system.captured}
            if not b.plain and b.fields:
                told[b.index] = values
            if by is not None and (newest is None or by.time > newest.time):
                newest = by
        if newest is None:
            return
        delay_s = min(f.delay_s for f in flows)
        if delay_s > 0 and not due:
            self._later(record, d.place, delay_s, out)
            return
        self._send_create(record, cid, d, columns, told, newest, out)

    def _create_straight(
        self, record: Record, cid: str, d: Destination, pairs: tuple[tuple[int, int], ...], out: Effects
    ) -> None:
        """Do what `_create` does where columns are fields and every value came from one change: the usual first sight of a record."""
        cause = record.sources[0]
        if not d.takes(cause.place):
            return
        keep_nulls = not d.system.captured
        values, by = record.values, record.by
        columns = {c: v for c, f in pairs if by[f] and ((v := values[f]) != NULL or keep_nulls)}
        self._send_create(record, cid, d, columns, {}, cause, out)

    def _send_create(
        self,
        record: Record,
        cid: str,
        d: Destination,
        columns: dict[int, bytes],
        told: dict[int, tuple[bytes, ...]],
        cause: Provenance,
        out: Effects,
    ) -> None:
        system = d.system
        version = record.versions[d.place] = record.versions.get(d.place, 0) + 1
        flight = Flight(version, CREATE_OP, record.version, columns, told)
        if system.direct and (key := system.native_key(cid, record.values)) is not None:
            record.copies[d.place] = Copy(key, [columns.get(c, b"") for c in range(len(system.columns))])
            out.sends.append(Send(d.place, flight, None, {}, cause))
            return
        record.creating[d.place] = flight
        ask = system.captured and d.place not in record.granted
        if d.place in record.granted:
            record.granted.remove(d.place)
        out.sends.append(Send(d.place, flight, None, {}, cause, ask))

    def _delete(self, record: Record, cid: str, d: Destination, copy: Copy, out: Effects) -> None:
        mode = d.system.table.write_delete
        if d.system.foreign(record):  # left behind when the record went to somebody else, whose delete this is
            mode = Deletes.UNLINK
        if DELETE_BINDING in copy.parked or mode is Deletes.IGNORE:
            return
        if mode is Deletes.UNLINK:
            self._unlink(record, cid, d.place, copy, out)
        elif mode is Deletes.DISABLE:
            self._disable(record, cid, d, copy, out)
        else:
            self._send(record, cid, d, copy, DELETE_OP, {}, {}, {}, _newest(record, d.place), out)

    def _unlink(self, record: Record, cid: str, place: str, copy: Copy, out: Effects) -> None:
        del record.copies[place]
        system, _, tenant = place.partition("/")
        out.identify.append(Entry("left", cid, system, tenant, copy.native_key, copy.position))

    def _disable(self, record: Record, cid: str, d: Destination, copy: Copy, out: Effects) -> None:
        columns = {c: raw for c, raw in d.system.disable if not self._shows(d.system, copy, c, raw)}
        if columns:
            bases = {c: copy.believed(c) or NULL for c in columns}
            self._send(record, cid, d, copy, UPDATE_OP, columns, bases, {}, _newest(record, d.place), out)

    def _shows(self, system: SystemPlan, copy: Copy, c: int, raw: bytes) -> bool:
        """Tell whether a column shows a configured value, however capture types it (``0`` written as text stands there as a number)."""
        believed = copy.believed(c)
        if believed in (raw, b""):
            return believed == raw
        kind = self.readers.get(system, copy.schema_id).types[c] or system.write_types[c]
        if NULL in (believed, raw) or not fits(kind, believed):
            return False
        return str(decode_slice(kind, believed)) == str(decode_slice(system.write_types[c], raw))

    def _exit(self, record: Record, cid: str, d: Destination, copy: Copy, out: Effects) -> None:
        """The record does not meet any flow's condition (any more)."""
        match d.flows[0].on_exit:
            case "disable":
                self._disable(record, cid, d, copy, out)
            case "delete" if DELETE_BINDING not in copy.parked:
                self._send(record, cid, d, copy, DELETE_OP, {}, {}, {}, _newest(record, d.place), out)
            case _:
                pass

    def disabled_fields(self, system: SystemPlan) -> dict[int, bytes]:
        """Return the golden values that mean "disabled" in a system's own terms."""
        disable = dict(system.disable)
        reader = system.reader(tuple(Column(n, t) for n, t in zip(system.columns, system.write_types, strict=True)))
        out: dict[int, bytes] = {}
        for b in system.bindings:
            if b.reads and all(c in disable for c in b.columns):
                out.update(zip(b.fields, reader.read(b.index, tuple(disable[c] for c in b.columns)), strict=True))
        return out


def _newest(record: Record, place: str) -> Provenance:
    return max(record.sources, key=lambda p: p.time, default=Provenance(place, 0, bytes(16), None, "delete"))
