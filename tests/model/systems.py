"""Simulated systems of record: rows, users, a capture and a sink.

They differ as real ones do: logs or polling, unique values or not, our id in a column or not, values reformatted when they are stored,
large columns left out of the log, a clock that is wrong, columns of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tidelock.avro import FieldType, decode_slice, encode_slice, to_value
from tidelock.change import SNAPSHOT, Column, position
from tidelock.envelopes import APPLIED, MISSING, REJECTED, TAKEN, Receipt, Write

COLUMNS = (
    Column("id", FieldType.STRING, "text", key=True),
    Column("email", FieldType.STRING, "text"),
    Column("name", FieldType.STRING, "text"),
    Column("city", FieldType.STRING, "text"),
    Column("points", FieldType.INTEGER, "bigint"),
    Column("hub_id", FieldType.STRING, "text"),
)


@dataclass
class Row:
    """One native record."""

    values: dict[str, Any]
    version: int
    alive: bool = True


@dataclass
class Seen:
    """What a capture will tell of one record: its state at a version, or that it is gone."""

    key: str
    version: int
    values: dict[str, Any] | None
    ours: bool = False
    op: int | None = None
    absent: tuple[str, ...] = ()


@dataclass
class System:
    """One simulated system of record with a capture and a sink; or one tenant of it, if its name is ``system/tenant``."""

    name: str
    log: bool = True
    unique: bool = False
    external_id: bool = False
    reformat: bool = False
    partial: bool = False  # its log leaves out city and points where they have not changed (S6, S7)
    unique_on: str = "email"
    captured_at_all: bool = True
    columns: tuple[Column, ...] = COLUMNS
    skew: int = 0  # microseconds by which its clock is ahead
    actor: str | None = None
    refuse: Callable[[Write, dict[str, Any]], str | None] | None = None  # a constraint: returns the kind of its error
    rows: dict[str, Row] = field(default_factory=dict)
    clock: int = 0
    made: int = 0
    dirty: set[str] = field(default_factory=set)
    captured: list[Seen] = field(default_factory=list)
    receipts: list[tuple[int, Write, Receipt]] = field(default_factory=list)  # written, not yet told
    told: list[tuple[int, Write, Receipt]] = field(default_factory=list)
    wrote: int = 0

    @property
    def system(self) -> str:
        """Return the system as the configuration names it."""
        return self.name.partition("/")[0]

    @property
    def tenant(self) -> str:
        """Return the tenant."""
        return self.name.partition("/")[2] or "default"

    @property
    def place(self) -> str:
        """Return the place as the hub names it."""
        return f"{self.system}/{self.tenant}"

    @property
    def kinds(self) -> dict[str, FieldType]:
        """Return the type of every column."""
        return {c.name: c.type for c in self.columns}

    def stored(self, column: str, value: Any) -> Any:
        """Return how this system spells a value it is given."""
        return value.upper() if self.reformat and isinstance(value, str) and column in ("name", "city") else value

    def _note(self, key: str, ours: bool, absent: tuple[str, ...] = ()) -> None:
        row = self.rows[key]
        if not self.captured_at_all:
            return
        if self.log:
            values = dict(row.values) if row.alive else None
            self.captured.append(Seen(key, row.version, values, ours, absent=absent))
        else:
            self.dirty.add(key)

    def poll(self) -> None:
        """Read what has changed since the last poll: the latest state only."""
        for key in sorted(self.dirty):
            row = self.rows[key]
            self.captured.append(Seen(key, self.clock, dict(row.values) if row.alive else None))
        self.dirty.clear()

    def reread(self, key: str) -> None:
        """Read a row as it stands now: a seed, or the nightly comparison."""
        self.clock += 1
        row = self.rows[key]
        self.captured.append(Seen(key, self.clock, dict(row.values) if row.alive else None, op=SNAPSHOT))

    def drift(self, key: str, values: dict[str, Any]) -> None:
        """Change a row so that no capture hears of it."""
        self.rows[key].values.update(values)

    def holder(self, value: Any, but: str | None = None) -> str | None:
        """Return who has a unique value; None if nobody else has, or values need not be unique here."""
        if not self.unique or not value:
            return None
        return next(
            (k for k, r in self.rows.items() if r.alive and k != but and r.values[self.unique_on] == value), None
        )

    def create(self, values: dict[str, Any], ours: bool = False) -> str:
        self.clock += 1
        self.made += 1
        key = f"{self.name.replace('/', '_')}{self.made}"
        row = {c.name: None for c in self.columns} | {"id": key}
        row.update({c: self.stored(c, v) for c, v in values.items()})
        self.rows[key] = Row(row, self.clock)
        self._note(key, ours)
        return key

    def update(self, key: str, values: dict[str, Any], ours: bool = False) -> None:
        self.clock += 1
        row = self.rows[key]
        before = dict(row.values)
        row.values.update({c: self.stored(c, v) for c, v in values.items()})
        row.version = self.clock
        same = (c for c in ("city", "points") if self.partial and row.values[c] == before[c])
        self._note(key, ours, tuple(same))

    def delete(self, key: str, ours: bool = False) -> None:
        self.clock += 1
        row = self.rows[key]
        row.alive, row.version = False, self.clock
        self._note(key, ours)

    def apply(self, write: Write) -> Receipt:
        """Do what a sink does: check bases, write, and say what stands there now."""
        self.wrote += 1
        receipt = Receipt(write.canonical_id, write.version, native_key=write.native_key)
        kinds = self.kinds
        new = {n: decode_slice(kinds[n], v) for n, (v, _) in write.columns.items()}
        refused_because = None if self.refuse is None else self.refuse(write, new)
        if refused_because is not None:
            receipt.outcome, receipt.kind, receipt.position = REJECTED, refused_because, position(self.clock)
            return receipt
        if write.op == "create":
            return self._apply_create(write, receipt, new)
        key = str(write.native_key)
        row = self.rows[key]
        if not row.alive:
            receipt.outcome = APPLIED if write.op == "delete" else MISSING
            receipt.position = position(self.clock)
            return receipt
        if write.op == "delete":
            self.delete(key, ours=True)
            receipt.position = position(self.clock)
            return receipt
        base = {n: decode_slice(kinds[n], b) for n, (_, b) in write.columns.items()}
        refused = tuple(n for n in new if row.values[n] not in (base[n], self.stored(n, new[n])))
        taken = {n: v for n, v in new.items() if n not in refused}
        held = self.holder(taken.get(self.unique_on), key)
        if held is not None:
            receipt.outcome, receipt.kind, receipt.native_key, receipt.position = (
                TAKEN,
                "unique",
                held,
                position(self.clock),
            )
            return receipt
        if taken:
            self.update(key, taken, ours=True)
        receipt.refused = refused
        return self._standing(receipt, key, new, refused)

    def _apply_create(self, write: Write, receipt: Receipt, new: dict[str, Any]) -> Receipt:
        if self.external_id:
            done = next((k for k, r in self.rows.items() if r.alive and r.values["hub_id"] == write.canonical_id), None)
            if done is not None:
                receipt.native_key, receipt.position = done, position(self.rows[done].version)
                return receipt
        held = self.holder(new.get(self.unique_on))
        if held is not None:
            receipt.outcome, receipt.kind, receipt.native_key = TAKEN, "unique", held
            return receipt
        key = self.create(new | ({"hub_id": write.canonical_id} if self.external_id else {}), ours=True)
        receipt.native_key = key
        return self._standing(receipt, key, new, ())

    def _standing(self, receipt: Receipt, key: str, new: dict[str, Any], refused: tuple[str, ...]) -> Receipt:
        row, kinds = self.rows[key], self.kinds
        receipt.position = position(self.clock)
        for n in new:
            if n in refused or row.values[n] != new[n]:
                receipt.values[n] = to_value(kinds[n], encode_slice(kinds[n], row.values[n]))
        return receipt
