"""A copy that its record lets go, told as a change: what identify decides about it from, without waiting for its next one."""

from __future__ import annotations

from processors.plan import EntityPlan
from processors.record import Copy, Record
from tidelock.avro import NULL, fits
from tidelock.change import SNAPSHOT, ChangeWriter, event_id, key_digest, wire_header
from tidelock.codec import Codec


class HandBack:
    """Spell copies of one entity as changes at the positions up to which they were captured."""

    def __init__(self, plan: EntityPlan, codec: Codec) -> None:
        self._plan = plan
        self._codec = codec

    def change(self, record: Record, place: str, copy: Copy) -> bytes:
        """Return what was captured of a copy as a wire-format change; nothing if nothing was, or the last thing was its delete.

        Columns that the mapping does not know, or that were never captured, are absent. What we wrote and has not been captured yet
        will be.
        """
        system = self._plan.places[place]
        columns, number = list(copy.columns), copy.schema_id
        moment = max((p.time for p in record.sources), default=0)
        for held in copy.held:
            if held.gone:
                columns = [b""] * len(columns)
            for c, raw in held.columns.items():
                columns[c] = raw
            number = held.schema_id
            moment = max(moment, held.provenance.time)
        if not number or not any(columns):
            return b""
        values = dict(zip(system.columns, columns, strict=True))
        row, absent = [], []
        for column in self._codec.change_reader(wire_header(number)).columns:
            raw = values.get(column.name, b"")
            known = raw != b"" and fits(column.type, raw)
            row.append(raw if known else NULL)
            if not known:
                absent.append(column.name)
        event = event_id(key_digest(system.system, system.tenant, self._plan.name, copy.native_key), copy.position)
        writer = ChangeWriter(number, system.system, system.tenant, self._plan.name)
        return writer.write(
            event, copy.position, SNAPSHOT, moment, moment, copy.native_key.encode(), row, absent=tuple(absent)
        )
