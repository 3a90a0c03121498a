"""The hot envelopes with fixed schemas: entries, writes and receipts, as bytes and back.

Written by hand for speed and checked against fastavro on schemas/entry.avsc, write.avsc and receipts.avsc. Functions take and
return the Avro body; the five bytes of wire format stand before it (`tidelock.change.wire_header`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tidelock.avro import (
    NULL,
    decode_bytes,
    decode_long,
    decode_string,
    encode_bytes,
    encode_long,
    encode_moment,
    encode_string,
    from_value,
)
from tidelock.change import ZERO_POSITION, read_strings

WRITE_OPS = ("create", "update", "delete")
OUTCOMES = ("applied", "stale", "missing", "rejected", "taken")
APPLIED, STALE, MISSING, REJECTED, TAKEN = range(5)
CREATE_OP, UPDATE_OP, DELETE_OP = range(3)
TENANT_WAITS, TENANT_OFF = (
    "tenant_waits",
    "tenant_off",
)  # kinds of writes that were not tried: their tenant takes none now
UNSEEN_EDIT = "unseen_edit"
"""The kind of receipt of a delete that waits: somebody has edited the record so lately that capture may not have told of it."""
SEEDED = ("tidelock.mark", b"seeded")  # the header of an end-of-seed mark in cdc, which has no key


@dataclass(slots=True)
class Entry:
    """One entry of a journal or identity topic (schemas/entry.avsc)."""

    kind: str
    canonical_id: str = ""
    system: str = ""
    tenant: str = ""
    native_key: str = ""
    position: bytes = ZERO_POSITION
    partition: int = 0
    offset: int = 0
    keys: tuple[str, ...] = ()
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the Avro body."""
        return b"".join(
            (
                encode_string(self.kind),
                encode_string(self.canonical_id),
                encode_string(self.system),
                encode_string(self.tenant),
                encode_string(self.native_key),
                self.position,
                encode_long(self.partition),
                encode_long(self.offset),
                encode_long(len(self.keys)) + b"".join([encode_string(k) for k in self.keys]) + b"\x00"
                if self.keys
                else b"\x00",
                encode_bytes(self.payload),
            )
        )

    @classmethod
    def decode(cls, data: bytes, at: int = 5) -> Entry:
        """Read a body that starts at ``at`` (5: behind the wire header)."""
        kind, at = decode_string(data, at)
        canonical_id, at = decode_string(data, at)
        system, at = decode_string(data, at)
        tenant, at = decode_string(data, at)
        native_key, at = decode_string(data, at)
        pos = data[at : at + 16]
        partition, at = decode_long(data, at + 16)
        offset, at = decode_long(data, at)
        keys, at = read_strings(data, at)
        payload, at = decode_bytes(data, at)
        return cls(kind, canonical_id, system, tenant, native_key, pos, partition, offset, tuple(keys), payload)


@dataclass(slots=True)
class Write:
    """One instruction to one system (schemas/write.avsc); values and bases are slices by column name."""

    canonical_id: str
    version: int
    op: str
    native_key: str | None
    source: str
    source_time: int
    event_id: bytes
    actor: str | None
    rule: str
    system: str
    tenant: str
    entity: str
    columns: dict[str, tuple[bytes, bytes]]

    @classmethod
    def decode(cls, data: bytes, at: int = 5) -> Write:
        """Read a body that starts at ``at``."""
        canonical_id, at = decode_string(data, at)
        version, at = decode_long(data, at)
        op = WRITE_OPS[data[at] >> 1]
        at += 1
        native_key, at = _maybe_string(data, at)
        source, at = decode_string(data, at)
        source_time, at = decode_long(data, at)
        event = data[at : at + 16]
        actor, at = _maybe_string(data, at + 16)
        rule, at = decode_string(data, at)
        system, at = decode_string(data, at)
        tenant, at = decode_string(data, at)
        entity, at = decode_string(data, at)
        columns: dict[str, tuple[bytes, bytes]] = {}
        while True:
            count, at = decode_long(data, at)
            if count == 0:
                break
            if count < 0:
                count = -count
                _, at = decode_long(data, at)
            for _ in range(count):
                name, at = decode_string(data, at)
                value, at = from_value(data, at)
                base, at = from_value(data, at)
                columns[name] = (value, base)
        return cls(
            canonical_id,
            version,
            op,
            native_key,
            source,
            source_time,
            event,
            actor,
            rule,
            system,
            tenant,
            entity,
            columns,
        )


def encode_write_head(
    canonical_id: bytes,
    version: int,
    op: int,
    native_key: str | None,
    source: bytes,
    source_time: int,
    event: bytes,
    actor: str | None,
    rule: bytes,
    names: bytes,
) -> bytes:
    """Return everything of a write before its columns. ``source``, ``rule`` and ``names`` (system, tenant, entity) come encoded."""
    return b"".join(
        (
            encode_bytes(canonical_id),
            encode_long(version),
            b"\x00\x02\x04"[op : op + 1],
            NULL if native_key is None else b"\x02" + encode_string(native_key),
            source,
            encode_moment(source_time),
            event,
            NULL if actor is None else b"\x02" + encode_string(actor),
            rule,
            names,
        )
    )


@dataclass(slots=True)
class Receipt:
    """What became of one write (schemas/receipts.avsc); ``values`` are generic Avro values by column name (encoded)."""

    canonical_id: str
    version: int
    outcome: int = APPLIED
    native_key: str | None = None
    position: bytes | None = None
    refused: tuple[str, ...] = ()
    values: dict[str, bytes] = field(default_factory=dict)
    kind: str | None = None
    message: str | None = None

    def encode(self) -> bytes:
        """Return the Avro encoding of this item; in ``values`` a *slice of generic Value* is expected (`tidelock.avro.to_value`)."""
        nk = self.native_key
        if (
            self.position is None
            and not self.refused
            and not self.values
            and self.kind is None
            and self.message is None
        ):
            tail = b"\x00\x00\x00\x00\x00"
        else:
            tail = b"".join(
                (
                    NULL if self.position is None else b"\x02" + self.position,
                    encode_long(len(self.refused)) + b"".join([encode_string(r) for r in self.refused]) + b"\x00"
                    if self.refused
                    else NULL,
                    encode_long(len(self.values))
                    + b"".join([encode_string(n) + v for n, v in self.values.items()])
                    + b"\x00"
                    if self.values
                    else NULL,
                    NULL if self.kind is None else b"\x02" + encode_string(self.kind),
                    NULL if self.message is None else b"\x02" + encode_string(self.message),
                )
            )
        return b"".join(
            (
                encode_string(self.canonical_id),
                encode_long(self.version),
                encode_long(self.outcome),
                NULL if nk is None else b"\x02" + encode_string(nk),
                tail,
            )
        )


@dataclass(slots=True)
class Receipts:
    """A pack of receipts of one system for one journal partition."""

    system: str
    tenant: str
    entity: str
    at: int
    items: list[Receipt]
    position: bytes = ZERO_POSITION
    plain: bool = False

    def encode(self) -> bytes:
        """Return the Avro body; its first 16 bytes are the position."""
        return b"".join(
            (
                self.position,
                b"\x01" if self.plain else b"\x00",
                encode_string(self.system),
                encode_string(self.tenant),
                encode_string(self.entity),
                encode_long(self.at),
                encode_long(len(self.items)) + b"".join([i.encode() for i in self.items]) if self.items else b"",
                b"\x00",
            )
        )

    @classmethod
    def decode(cls, data: bytes, at: int = 5) -> Receipts:
        """Read a body that starts at ``at``; every item has its own position or the pack's; ``values`` come back as slices."""
        pos = data[at : at + 16]
        plain = data[at + 16] == 1
        system, at = decode_string(data, at + 17)
        tenant, at = decode_string(data, at)
        entity, at = decode_string(data, at)
        when, at = decode_long(data, at)
        items: list[Receipt] = []
        while True:
            count, at = decode_long(data, at)
            if count == 0:
                break
            if count < 0:
                count = -count
                _, at = decode_long(data, at)
            for _ in range(count):
                item, at = _read_receipt(data, at, pos)
                items.append(item)
        return cls(system, tenant, entity, when, items, pos, plain)


def plain_system(data: bytes, at: int = 5) -> str | None:
    """Return the system of a pack of receipts that says it is plain, without reading its items; None for any other."""
    return decode_string(data, at + 17)[0] if data[at + 16] == 1 else None


def _read_receipt(data: bytes, at: int, pos: bytes) -> tuple[Receipt, int]:
    canonical_id, at = decode_string(data, at)
    version, at = decode_long(data, at)
    outcome = data[at] >> 1
    native_key, at = _maybe_string(data, at + 1)
    if data[at : at + 5] == b"\x00\x00\x00\x00\x00":
        return Receipt(canonical_id, version, outcome, native_key, pos), at + 5
    own = pos
    if data[at] == 2:
        own = data[at + 1 : at + 17]
        at += 16
    refused, at = read_strings(data, at + 1)
    values: dict[str, bytes] = {}
    count, at = decode_long(data, at)
    while count:
        if count < 0:
            count = -count
            _, at = decode_long(data, at)
        for _ in range(count):
            name, at = decode_string(data, at)
            values[name], at = from_value(data, at)
        count, at = decode_long(data, at)
    kind, at = _maybe_string(data, at)
    message, at = _maybe_string(data, at)
    return Receipt(canonical_id, version, outcome, native_key, own, tuple(refused), values, kind, message), at


def _maybe_string(data: bytes, at: int) -> tuple[str | None, int]:
    if data[at] == 0:
        return None, at + 1
    return decode_string(data, at + 1)
