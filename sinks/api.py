"""The sink for HTTP APIs: base checks, outcomes and positions, around a vendor's `sinks.target.Target`.

A connector is a class with `target` set:

    class AcmeSink(ApiSink):
        target = AcmeTarget

An update reads the records first (batched), writes only columns that still have their base, and learns where its write landed: from the
answer if the API tells, else by reading back. Between the look and the write somebody may write too: how wide that window is, each
connector's page says; where the API can check a version in the write itself (`Target.checks_version`) there is none.

A delete waits while the record holds an edit of somebody else's so fresh that capture may not have told of it yet (`unseen_edit`): where a
system is read as it stands, and not from a log, the edit would be gone without a trace.

A repeated write is harmless: an update that meets its own value finds its base gone and answers ``refused`` with what stands there, which
merge takes for agreement; a create finds the record that carries its canonical id.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from sinks.base import Outcome
from sinks.instructions import text_value
from sinks.target import Clocked, Creation, Edit, Result, Target
from tidelock.apis.records import ApiColumn, Record, plain_number
from tidelock.avro import NULL, VALUE_TAGS, FieldType, decode_slice, from_value
from tidelock.change import position
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.envelopes import APPLIED, MISSING, REJECTED, TAKEN, UNSEEN_EDIT, Receipt, Write
from tidelock.errors import Fatal, Reject, TidelockError
from tidelock.tenants import Tenant

_TEXT = VALUE_TAGS[FieldType.STRING][0]
_PLAIN = {4: FieldType.INTEGER, 6: FieldType.NUMBER, 8: FieldType.BOOLEAN, 10: FieldType.BYTES}
_LOOKS = 3  # at a record that others keep changing
_MOST_TARGETS = 500
_MOST_EDITS = 20_000
_HELD_BACK_S = 5.0
_AT_ONCE = 8  # tenants


class ApiSink:
    """Write to one system with all its tenants (`sinks.base.Sink`); a batch is of one entity and one tenant.

    Tenants are written side by side (`sinks.base.SideBySide`): most of the time is spent waiting for their answers.
    """

    target: ClassVar[type[Target]]

    def __init__(self, context: Context, system: str) -> None:
        self._context, self._system = context, system
        self._spec = context.config.systems[system]
        self._captured = self._spec.capture != "none"
        self.tenants = context.access.tenants
        self.tenants_at_once = int(self._spec.options.get("tenants_at_once", _AT_ONCE))
        self._lock = threading.Lock()
        self._edits: dict[tuple[str, str], _Edits] = {}  # by tenant and entity
        self._targets: OrderedDict[str, tuple[Any, Target, dict[str, dict[str, ApiColumn]]]] = OrderedDict()

    def setup(self) -> None:
        """Nothing is asked of a vendor before there is something to write."""

    def close(self) -> None:
        """Let go of connections."""
        for _, target, _ in self._targets.values():
            target.close()
        self._targets.clear()

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out writes of one entity and tenant; see `sinks.base.Sink.write`."""
        entity, tenant = batch[0].entity, self.tenants.get(self._system, batch[0].tenant)
        table = self._spec.entities.get(entity)
        if table is None:
            raise Fatal(
                f"system {self._system} has no entity {entity} in the configuration",
                hint="writes to it are waiting: add it again, or delete its topic of writes",
            )
        target, columns = self._tools(tenant, entity, table)
        edits = self._edits.setdefault((tenant.name, entity), _Edits())
        wait_s = _delete_wait_s(tenant, table, self.held_back_s(tenant))
        work = _Batch(target, table, columns, edits, looks=self.looks(target), delete_wait_s=wait_s)
        access = self._context.access
        try:
            for op, carry_out in (("create", work.create), ("update", work.update), ("delete", work.delete)):
                todo = [(i, w) for i, w in enumerate(batch) if w.op == op]
                if todo:
                    carry_out(todo)
        except TidelockError as error:
            if isinstance(error, Fatal):
                self._forget(tenant.name)  # whoever mends it may change what was known, such as the columns
            access.cleaned(tenant, error)
            raise
        for receipt in work.found.values():
            if receipt.message is not None:
                receipt.message = access.clean(tenant, receipt.message)
        return [work.found[i] for i in range(len(batch))]

    def held_back_s(self, tenant: Tenant) -> float:  # noqa: ARG002 - for captures that say how they read
        """Return how long a reading of the capture may hold back a change that has been made."""
        return _HELD_BACK_S

    def looks(self, target: Target) -> bool:  # noqa: ARG002 - some targets cannot read
        """Return whether bases are looked at before a write, and what stands there behind it."""
        return self._captured

    def _forget(self, tenant: str) -> None:
        """Have a tenant's target made anew the next time."""
        with self._lock:
            known = self._targets.pop(tenant, None)
        if known is not None:
            known[1].close()

    def _tools(self, tenant: Tenant, entity: str, table: TableSpec) -> tuple[Target, dict[str, ApiColumn]]:
        stamp = (tenant.url, dict(tenant.options), dict(tenant.credentials))
        with self._lock:
            known = self._targets.get(tenant.name)
            if known is None or known[0] != stamp:
                if known is not None:
                    known[1].close()
                known = self._targets[tenant.name] = (stamp, self.target(self._context, tenant), {})
                while len(self._targets) > _MOST_TARGETS:
                    self._targets.popitem(last=False)[1][1].close()
            self._targets.move_to_end(tenant.name)
        _, target, columns = known
        if entity not in columns:
            columns[entity] = target.columns(table)
        return target, columns[entity]


Todo = list[tuple[int, Write]]


def _delete_wait_s(tenant: Tenant, table: TableSpec, held_back_s: float) -> float:
    """Return how long capture may take to tell of an edit: two readings, and what a reading itself holds back; or as the options say."""
    if tenant.options.get("delete_wait_s") is not None:
        return float(tenant.options["delete_wait_s"])
    return 86_400.0 if table.schedule is not None else 2 * table.every_s + held_back_s


class _Edits:
    """When others were last seen to have edited a record, in µs since 1970: a later write of ours hides it from whoever reads."""

    def __init__(self) -> None:
        self._at: OrderedDict[str, int] = OrderedDict()

    def note(self, record: Record) -> None:
        """Take note of a record as it was read."""
        if not record.ours and not record.deleted:
            self._at[record.key] = max(record.at, self._at.get(record.key, 0))
            self._at.move_to_end(record.key)
            while len(self._at) > _MOST_EDITS:
                self._at.popitem(last=False)

    def since_s(self, key: str, now: float) -> float:
        """Return how long ago somebody edited a record, as far as is known."""
        at = self._at.get(key)
        return float("inf") if at is None else now - at / 1e6


class _Batch:
    """One call of `ApiSink.write`; ``found`` holds the receipts by place in the batch."""

    def __init__(
        self,
        target: Target,
        table: TableSpec,
        columns: dict[str, ApiColumn],
        edits: _Edits,
        *,
        looks: bool,
        delete_wait_s: float,
    ) -> None:
        self._edits, self._delete_wait_s = edits, delete_wait_s
        self._target, self._table, self._columns = target, table, columns
        self._looks = looks
        self.found: dict[int, Receipt] = {}

    # ------------------------------------------------------------------------------------------------ creates

    def create(self, todo: Todo) -> None:
        """Make records, but none twice."""
        there = self._target.find(self._table, [w.canonical_id for _, w in todo]) if self._table.canonical_id else {}
        items: list[tuple[int, Write, Creation]] = []
        met: list[tuple[int, Write]] = []
        for i, w in todo:
            if w.canonical_id in there:
                met.append((i, replace(w, op="update", native_key=there[w.canonical_id])))
                continue
            try:
                values = self._values({name: value for name, (value, _) in w.columns.items()})
            except Reject as error:
                self._reject(i, w, error)
                continue
            if self._table.canonical_id is not None:
                values[self._table.canonical_id] = w.canonical_id
            items.append((i, w, Creation(w.canonical_id, values)))
        if met:
            self._standing(met)
        if items:
            results = self._target.create(self._table, [item for _, _, item in items])
            self._conclude([(i, w, {n: v for n, (v, _) in w.columns.items()}) for i, w, _ in items], results)

    def _standing(self, todo: Todo) -> None:
        """Answer creates whose records are there already, by us, with what stands there."""
        names = _names(todo)
        records = self._target.read(self._table, [str(w.native_key) for _, w in todo], names)
        for i, w in todo:
            record = records.get(str(w.native_key))
            values = self._spelt(record, {n: v for n, (v, _) in w.columns.items()})
            where = None if record is None else position(*record.version)
            self.found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key, where, (), values)

    # ------------------------------------------------------------------------------------------------ updates

    def update(self, todo: Todo) -> None:
        """Change what still has its base."""
        for _ in range(_LOOKS):
            todo = self._update_once(todo)
            if not todo:
                return
        for i, w in todo:
            error = Reject(
                "others change the record faster than it can be written",
                kind="contention",
                hint="tried again with its next change",
            )
            self._reject(i, w, error)

    def _update_once(self, todo: Todo) -> Todo:
        """Carry out updates; return those whose records changed between the look and the write."""
        seen: dict[str, Record] = {}
        if self._looks:
            seen = self._target.read(self._table, [str(w.native_key) for _, w in todo], _names(todo))
            for held in seen.values():
                self._edits.note(held)
        items: list[tuple[int, Write, Edit]] = []
        sent: list[tuple[int, Write, dict[str, bytes]]] = []
        refused: dict[int, dict[str, bytes]] = {}
        for i, w in todo:
            key = str(w.native_key)
            record = seen.get(key)
            if self._looks and (record is None or record.deleted):
                self.found[i] = Receipt(w.canonical_id, w.version, MISSING, w.native_key)
                continue
            wanted = {name: value for name, (value, _) in w.columns.items()}
            refused[i] = {} if record is None else self._off_base(record, w)
            wanted = {name: value for name, value in wanted.items() if name not in refused[i]}
            if not wanted:
                where = None if record is None else position(*record.version)
                self.found[i] = Receipt(
                    w.canonical_id, w.version, APPLIED, w.native_key, where, tuple(refused[i]), refused[i]
                )
                continue
            try:
                values = self._values(wanted)
            except Reject as error:
                self._reject(i, w, error)
                continue
            items.append((i, w, Edit(key, values, record)))
            sent.append((i, w, wanted))
        if not items:
            return []
        results = self._target.update(self._table, [item for _, _, item in items])
        again = [(i, w) for (i, w, _), result in zip(sent, results, strict=True) if result.moved]
        kept = [(s, r) for s, r in zip(sent, results, strict=True) if not r.moved]
        self._conclude([s for s, _ in kept], [r for _, r in kept], refused)
        return again

    def _off_base(self, record: Record, write: Write) -> dict[str, bytes]:
        """Return the columns that somebody has changed since the write was computed, with what stands there (decision 0018)."""
        out = {}
        for name, (value, base) in write.columns.items():
            column = self._column(name)
            if name in record.values:
                standing = column.generic(record.values[name])
                if _alike(standing, base) != base:
                    out[name] = _alike(standing, base if base != NULL else value)
        return out

    # ------------------------------------------------------------------------------------------------ deletes

    def delete(self, todo: Todo) -> None:
        """Delete; what is gone already is done, and what somebody has edited just now waits."""
        if self._looks and self._delete_wait_s > 0:
            todo = self._settled(todo)
            if not todo:
                return
        results = self._target.delete(self._table, [str(w.native_key) for _, w in todo])
        for (i, w), result in zip(todo, results, strict=True):
            if result.error is not None:
                self._reject(i, w, result.error)
            else:
                where = None if result.version is None else position(*result.version)
                self.found[i] = Receipt(w.canonical_id, w.version, APPLIED, w.native_key, where)

    def _settled(self, todo: Todo) -> Todo:
        """Return the deletes of records that hold no fresh edit of somebody else's; answer the others."""
        for record in self._target.read(self._table, [str(w.native_key) for _, w in todo], ()).values():
            self._edits.note(record)
        now, out = self._target.now() if isinstance(self._target, Clocked) else time.time(), []
        for i, w in todo:
            since_s = self._edits.since_s(str(w.native_key), now)
            if since_s >= self._delete_wait_s:
                out.append((i, w))
                continue
            text = (
                f"somebody has edited it {max(0.0, since_s):.0f} s ago, which capture may not have told of yet; it is deleted when that "
                f"is {self._delete_wait_s:.0f} s ago"
            )
            self.found[i] = Receipt(w.canonical_id, w.version, REJECTED, w.native_key, None, (), {}, UNSEEN_EDIT, text)
        return out

    # ------------------------------------------------------------------------------------------------ receipts

    def _conclude(
        self,
        sent: list[tuple[int, Write, dict[str, bytes]]],
        results: Sequence[Result],
        refused: dict[int, dict[str, bytes]] | None = None,
    ) -> None:
        """Make the receipts of creates and updates; where the answer did not say what stands there now, it is read back."""
        done: list[tuple[int, Write, dict[str, bytes], str, Result]] = []
        for (i, w, values), result in zip(sent, results, strict=True):
            if result.error is not None and not result.taken:
                self._reject(i, w, result.error)
            elif result.taken:
                message = (
                    "another record there holds a value that must be unique"
                    if result.error is None
                    else result.error.message
                )
                self.found[i] = Receipt(w.canonical_id, w.version, TAKEN, result.key, kind="unique", message=message)
            elif result.missing:
                self.found[i] = Receipt(w.canonical_id, w.version, MISSING, w.native_key)
            else:
                done.append((i, w, values, str(result.key or w.native_key), result))
        unread = [key for _, _, _, key, result in done if result.record is None] if self._looks else []
        names = tuple(dict.fromkeys(n for _, _, values, _, _ in done for n in values))
        back = self._target.read(self._table, unread, names) if unread else {}
        for i, w, values, key, result in done:
            record = result.record or back.get(key)
            version = result.version if record is None else record.version
            left = (refused or {}).get(i, {})
            spelt = self._spelt(record, values)
            where = None if version is None else position(*version)
            self.found[i] = Receipt(w.canonical_id, w.version, APPLIED, key, where, tuple(left), {**spelt, **left})

    def _spelt(self, record: Record | None, values: dict[str, bytes]) -> dict[str, bytes]:
        """Return what stands there in place of values that we have written.

        It tells how they were spelt only if nobody has written since: somebody's edit would be taken for a spelling, and lost.
        """
        out: dict[str, bytes] = {}
        if record is None or not record.ours:
            return out
        for name, value in values.items():
            if name in record.values:
                standing = _alike(self._column(name).generic(record.values[name]), value)
                if standing != value:
                    out[name] = standing
        return out

    def _values(self, wanted: dict[str, bytes]) -> dict[str, Any]:
        return {name: None if value == NULL else self._column(name).json(value) for name, value in wanted.items()}

    def _reject(self, i: int, write: Write, error: Reject) -> None:
        refused = (error.field,) if error.field in write.columns else ()
        self.found[i] = Receipt(
            write.canonical_id, write.version, REJECTED, write.native_key, None, refused, {}, error.kind, error.message
        )

    def _column(self, name: str) -> ApiColumn:
        column = self._columns.get(name)
        if column is None:
            raise Fatal(
                f"{self._table.table} has no property {name}",
                hint="correct the mapping, create the property there, or grant the right to see it",
            )
        return column


def _alike(standing: bytes, like: bytes) -> bytes:
    """Spell what stands there as the write spells it: a status written as the text ``1`` and kept as the number 1 is the same value.

    A receipt's values lose their type on the way to merge, which then takes them for what the column is written as.
    """
    if standing == NULL or like == NULL or standing[0] == like[0] or like[0] != _TEXT:
        return standing
    value = decode_slice(_PLAIN[standing[0]], from_value(standing, 0)[0])
    if isinstance(value, bytes):
        return standing
    text = (
        ("true" if value else "false")
        if isinstance(value, bool)
        else plain_number(value)
        if isinstance(value, float)
        else str(value)
    )
    return text_value(text)


def _names(todo: Todo) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, w in todo for name in w.columns))
