"""Where our writes land, in the positions of the destination's own capture (`tidelock.change.position`).

log: not known here; capture puts the commit position into the receipts it meets in the log. triggers: the id of the queue row. looking
now and then: our transaction id + 1, because a snapshot whose xmin is at least that sees us. None: no position.
"""

from __future__ import annotations

import uuid

from sinks.pgcatalog import Connection, split_name
from tidelock.change import position
from tidelock.envelopes import Receipt, Write

_OURS = "select record_key, max(id) from tidelock.queue where write_id = %s and table_name = %s group by record_key"
_LAST = """
select record_key, max(id) from (
  select record_key, id from tidelock.queue where table_name = %(table)s and record_key = any(%(keys)s::text[])
  union all
  select record_key, id from tidelock.archive where table_name = %(table)s and record_key = any(%(keys)s::text[])
) q group by record_key
"""
_FIRST = "select seqstart - 1 from pg_catalog.pg_sequence where seqrelid = pg_get_serial_sequence('tidelock.queue', 'id')::regclass"


class Landings:
    """Put positions on receipts, for one way of capture."""

    def __init__(self, capture: str) -> None:
        self._capture = capture
        self._write_id = ""

    def begin(self, db: Connection) -> None:
        """Say to the triggers, at the beginning of a transaction, who writes."""
        if self._capture == "outbox":
            self._write_id = uuid.uuid4().hex
            db.execute(b"select set_config('tidelock.write_id', %s, true)", (self._write_id,), prepare=True)

    def put(self, db: Connection, table: str, batch: list[Write], receipts: list[Receipt]) -> None:
        """Put the positions of rows just written, or just looked at under their locks, on their receipts."""
        if self._capture == "outbox":
            self._from_queue(db, table, batch, receipts)
        elif self._capture in ("polling", "rowhash"):
            row = db.execute(b"select pg_current_xact_id()::text::bigint", prepare=True).fetchone()
            assert row is not None
            where = position(row[0] + 1)
            for receipt in receipts:
                receipt.position = where

    def _from_queue(self, db: Connection, table: str, batch: list[Write], receipts: list[Receipt]) -> None:
        name = ".".join(split_name(table))
        ours: dict[str, int] = dict(db.execute(_OURS.encode(), (self._write_id, name), prepare=True).fetchall())
        keys = [r.native_key if r.native_key in ours else w.native_key for w, r in zip(batch, receipts, strict=True)]
        rest = [k for k in keys if k is not None and k not in ours]
        if rest:  # untouched rows: they stand where their last change has put them
            first = db.execute(_FIRST.encode()).fetchone()
            beginning = first[0] if first is not None else 0
            ours |= dict.fromkeys(rest, beginning)
            ours |= dict(db.execute(_LAST.encode(), {"table": name, "keys": rest}).fetchall())
        for key, receipt in zip(keys, receipts, strict=True):
            if key is not None:
                receipt.position = position(ours[key])
