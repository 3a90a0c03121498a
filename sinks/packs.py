"""Packs of receipts and audit items, joined from bytes; and the memo from which both can be made again after a crash."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidelock.avro import encode_bytes, encode_long, encode_string
from tidelock.change import ZERO_POSITION
from tidelock.envelopes import APPLIED, Receipt, Write

MOST_BYTES = 400_000  # of one pack: Kafka's default limit of a message is about a million

_PLAIN_TAIL = bytes(5)
_HEAD = struct.Struct(">qBIHI")


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one message: its receipt encoded, and what people are told of it."""

    receipt: bytes
    outcome: int
    native_key: str | None = None
    kind: str = ""
    message: str = ""
    field: str = ""

    @property
    def plain(self) -> bool:
        """Tell whether it landed exactly as it was written (no position, nothing refused, no values, no words)."""
        return self.outcome == APPLIED and self.receipt.endswith(_PLAIN_TAIL)

    @classmethod
    def of(cls, receipt: Receipt) -> Fate:
        """Keep what is needed of a receipt."""
        refused = receipt.refused[0] if receipt.refused else ""
        return cls(
            receipt.encode(), receipt.outcome, receipt.native_key, receipt.kind or "", receipt.message or "", refused
        )


def plain_receipt(write: Write) -> Receipt:
    """Return the receipt that nearly every write gets where nobody else writes; it is not put into memos."""
    return Receipt(write.canonical_id, write.version, APPLIED, write.native_key or write.canonical_id)


def is_plain(write: Write, receipt: Receipt) -> bool:
    """Tell whether a receipt is what `plain_receipt` makes."""
    return (
        receipt.outcome == APPLIED
        and receipt.version == write.version
        and receipt.native_key == (write.native_key or write.canonical_id)
        and receipt.position is None
        and not receipt.refused
        and not receipt.values
        and receipt.kind is None
        and receipt.message is None
    )


def receipts_bodies(
    system: str, tenant: str, entity: str, at: int, items: Sequence[bytes], *, plain: bool = False
) -> list[bytes]:
    """Pack encoded receipts into Avro bodies (schemas/receipts.avsc) without a position of their own."""
    head = (
        ZERO_POSITION
        + (b"\x01" if plain else b"\x00")
        + encode_string(system)
        + encode_string(tenant)
        + encode_string(entity)
        + encode_long(at)
    )
    return [head + encode_long(len(part)) + b"".join(part) + b"\x00" for part in _parts(items)]


def audit_bodies(
    system: str, tenant: str, entity: str, worker: str, at: int, items: Sequence[tuple[int, bytes]]
) -> list[bytes]:
    """Pack (outcome, original write) into Avro bodies (schemas/audit.avsc)."""
    head = b"".join(encode_string(s) for s in (system, tenant, entity, worker)) + encode_long(at)
    encoded = [_OUTCOMES[outcome] + encode_bytes(write) for outcome, write in items]
    return [head + encode_long(len(part)) + b"".join(part) + b"\x00" for part in _parts(encoded)]


_OUTCOMES = [encode_long(n) for n in range(8)]


def _parts(items: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    if sum(map(len, items)) <= MOST_BYTES:
        yield items
        return
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and size + len(item) > MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item)
    yield part


def logged(entity: str, partition: int, body: bytes) -> bytes:
    """Frame a pack for the log of the destination: capture finds it there and puts the commit position into its first bytes."""
    name = entity.encode()
    return len(name).to_bytes(2, "big") + name + partition.to_bytes(2, "big") + len(body).to_bytes(4, "big") + body


def encode_memo(fates: Sequence[tuple[int, Fate]]) -> bytes:
    """Encode fates by offset."""
    out = []
    for offset, fate in fates:
        words = "\x1f".join((fate.native_key or "", fate.kind, fate.field)).encode()
        text = fate.message.encode()
        out.append(_HEAD.pack(offset, fate.outcome, len(fate.receipt), len(words), len(text)))
        out += (fate.receipt, words, text)
    return b"".join(out)


def decode_memo(memo: bytes) -> dict[int, Fate]:
    """Decode what `encode_memo` made. Raises ValueError or struct.error on other bytes."""
    out: dict[int, Fate] = {}
    at = 0
    while at < len(memo):
        offset, outcome, receipt, words, text = _HEAD.unpack_from(memo, at)
        at += _HEAD.size
        key, kind, field = memo[at + receipt : at + receipt + words].decode().split("\x1f")
        end = at + receipt + words + text
        out[offset] = Fate(memo[at : at + receipt], outcome, key or None, kind, memo[end - text : end].decode(), field)
        at = end
    return out
