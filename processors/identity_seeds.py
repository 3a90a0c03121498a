"""Creates that wait until everything a system held at the start has been looked at.

What has not been read yet cannot be recognised: created now, it would stand there twice. So a captured place is closed for creates
until an end-of-seed mark has come through every partition of its cdc topic (`producers.seeded`); route hands each mark on behind all
that it took from that partition before. From then on the place is open for good: later seeds hold nothing up. What waited is then
decided in the order in which it was asked for, a portion at a time, so that no transaction grows with the number of records.

Rows (see `processors.identity_rows`; there are none of these for a record once its place is open):

    d:<place>                  the marks that have come, and the line of creates that wait
    c:<place> <seq>            the line: whose create, in order
    C:<canonical id> <place>   that create, as merge asked for it; gone if it is not wanted any more
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from processors.identity_rows import CUT, Rows, number, part
from tidelock.avro import decode_long, encode_long

PORTION = 2000
"""Creates that are decided by one entry."""


class Gauge(Protocol):
    """Who is told how many creates wait."""

    def waiting(self, place: str, creates: int) -> None:
        """So many creates wait for the seed of a place now."""


@dataclass(slots=True)
class Gate:
    """One place: whether creates may go there; ``marks``: a bit per partition of cdc whose mark has come, of ``partitions``."""

    open: bool = False
    partitions: int = 0
    marks: int = 0
    head: int = 0
    tail: int = 0
    creates: int = 0

    def encode(self) -> bytes:
        """Return it as a row."""
        numbers = (self.open, self.partitions, self.marks.bit_length(), self.head, self.tail, self.creates)
        return b"".join(map(encode_long, numbers)) + self.marks.to_bytes((self.marks.bit_length() + 7) // 8, "big")

    @classmethod
    def decode(cls, data: bytes) -> Gate:
        """Read a row."""
        opened, at = decode_long(data, 0)
        partitions, at = decode_long(data, at)
        bits, at = decode_long(data, at)
        head, at = decode_long(data, at)
        tail, at = decode_long(data, at)
        creates, at = decode_long(data, at)
        return cls(
            bool(opened), partitions, int.from_bytes(data[at : at + (bits + 7) // 8], "big"), head, tail, creates
        )


_CLOSED = Gate().encode()


class Gates:
    """The gates of an entity's places, for the length of a batch. ``closing``: places that are closed until their seed is through."""

    def __init__(self, closing: frozenset[str], rows: Rows, out: Gauge) -> None:
        self._closing = closing
        self._rows = rows
        self._out = out
        self._gates: dict[str, Gate] = {}
        self._stored: dict[str, tuple[bytes, int]] = {}  # as it was before the batch: the row, and how many waited
        self._all_open: bool | None = None

    def flush(self) -> None:
        """Write back what has changed, and tell how many wait."""
        for place, gate in self._gates.items():
            value, (stored, waited) = gate.encode(), self._stored[place]
            if value != stored:
                self._rows.put(_gate_row(place), value)
            if gate.creates != waited:
                self._out.waiting(place, gate.creates)
        self._gates.clear()
        self._all_open = None

    def opened(self, places: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of some places in which may be created at once."""
        if self._all_open is None:
            self._all_open = all(self._gate(place).open for place in self._closing)
        return places if self._all_open else tuple(place for place in places if self.open(place))

    def open(self, place: str) -> bool:
        """Tell whether creates may go to a place."""
        return place not in self._closing or self._gate(place).open

    def mark(self, place: str, partition: int, partitions: int) -> bool:
        """Take an end-of-seed mark; return whether it opens the place. One that comes twice, or late, changes nothing."""
        gate = self._gate(place)
        if gate.open or not 0 <= partition < partitions or partitions < gate.partitions:
            return False
        if partitions > gate.partitions:  # the topic has grown: a seed has to come through all of it
            gate.partitions, gate.marks = partitions, 0
        gate.marks |= 1 << partition
        gate.open = gate.marks == (1 << partitions) - 1
        self._all_open = None
        return gate.open

    def postpone(self, cid: str, place: str, payload: bytes) -> None:
        """Let a create wait, instead of an earlier one of the same record."""
        gate, name = self._gate(place), _create_row(cid, place)
        if self._rows.get(name) is None:
            self._rows.put(_line_row(place, gate.tail), cid.encode())
            gate.tail += 1
            gate.creates += 1
        self._rows.put(name, payload)

    def take_back(self, cid: str, place: str) -> bytes | None:
        """Take a record's create out of the line; None if there is none."""
        gate = self._gate(place)
        if not gate.creates:
            return None
        name = _create_row(cid, place)
        payload = self._rows.get(name)
        if payload is not None:
            self._rows.put(name, None)
            gate.creates -= 1
        return payload

    def portion(self, place: str) -> Iterator[tuple[str, bytes]]:
        """Take the next creates out of the line of an open place, as (canonical id, create)."""
        gate = self._gate(place)
        for _ in range(PORTION if gate.open else 0):
            if gate.head == gate.tail:
                return
            name = _line_row(place, gate.head)
            cid = (self._rows.get(name) or b"").decode()
            self._rows.put(name, None)
            gate.head += 1
            payload = self.take_back(cid, place)
            if payload is not None:  # else it left the line
                yield cid, payload

    def more(self, place: str) -> bool:
        """Tell whether the line of an open place goes on."""
        gate = self._gate(place)
        return gate.open and gate.head < gate.tail

    def _gate(self, place: str) -> Gate:
        gate = self._gates.get(place)
        if gate is None:
            data = self._rows.get(_gate_row(place)) or _CLOSED
            gate = self._gates[place] = Gate.decode(data)
            self._stored[place] = data, gate.creates
        return gate


def _gate_row(place: str) -> bytes:
    return b"d:" + place.encode()


def _line_row(place: str, seq: int) -> bytes:
    return b"c:" + place.encode() + CUT + number(seq)


def _create_row(cid: str, place: str) -> bytes:
    return b"C:" + part(cid) + CUT + part(place)
