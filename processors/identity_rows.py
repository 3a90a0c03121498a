"""What identify remembers, as rows of a key-value store: natives, records, match keys, places, and who waits for what.

Nothing is kept in memory between two entries, so a million records cost no more than ten. Rows are small hand-made binary
values (longs and strings as in Avro). Key prefixes:

    n:<place>/<native>                        a native record: its link, what was seen of it, what it waits for
    r:<canonical id>                          a record: alive, match keys, members by place (native key, or a create in flight)
    k:<key>                                   a match key: how many records hold it (and which, if one), and whether anybody waits
    K:<key> <canonical id>                    its holders, only while there are several
    s:<place>                                 creates in flight there, counted by epoch
    e:<place> <epoch>                         creates in flight of a closed epoch
    E:<place> <seq>                           a native that waits until all creates up to an epoch are resolved, in line
    X:<canonical id> <place> <native>         a native that waits for that record's create
    w:<place>/<native> <i>                    its waiting changes, in order
    h:<place>/<native>                        what a held (quarantined) native's changes have told
    Q:<key> <place> <native>                  who is held because of this key
    B:<key or native> <canonical id> <place>  whose create or update there is blocked by it
    d: c: C:                                  creates that wait for a seed (`processors.identity_seeds`)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tidelock.avro import decode_bytes, decode_long, decode_string, encode_bytes, encode_long, encode_string
from tidelock.change import read_strings

CUT = b"\x00"


class Rows(Protocol):
    """The store as identify sees it; `scan` yields in key order, its own uncommitted puts included."""

    def get(self, key: bytes, /) -> bytes | None: ...
    def put(self, key: bytes, value: bytes | None, /) -> None: ...
    def scan(self, prefix: bytes, /) -> Iterator[tuple[bytes, bytes]]: ...


@dataclass(slots=True)
class Sight:
    """One change as identify needs it.

    ``place`` is ``system/tenant``. ``ext``: our canonical id as the record carries it; "" if its field is empty; None if the
    change cannot show it (no such field there, or a delete). ``offset``: where in cdc it stood, -1 if that is not known.
    ``earlier``: changes before it, oldest first, that tell columns it leaves out; then ``keys`` and ``ext`` are what all of
    them show together.
    """

    place: str
    native: str
    position: bytes
    keys: tuple[str, ...] = ()
    ext: str | None = None
    gone: bool = False
    partition: int = -1
    offset: int = -1
    payload: bytes = b""
    earlier: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Return it as a row, without place and native key."""
        return b"".join(
            (
                self.position,
                bytes((self.gone | (self.ext is not None) << 1,)),
                encode_long(self.partition),
                encode_long(self.offset),
                encode_strings(self.keys),
                encode_string(self.ext or ""),
                encode_bytes(self.payload),
                *map(encode_bytes, self.earlier),
            )
        )

    @classmethod
    def decode(cls, place: str, native: str, data: bytes, at: int = 0) -> Sight:
        """Read a row; it goes on to the end of ``data``."""
        position, flags = data[at : at + 16], data[at + 16]
        partition, at = decode_long(data, at + 17)
        offset, at = decode_long(data, at)
        keys, at = read_strings(data, at)
        ext, at = decode_string(data, at)
        payload, at = decode_bytes(data, at)
        earlier = []
        while at < len(data):
            one, at = decode_bytes(data, at)
            earlier.append(one)
        return cls(
            place,
            native,
            position,
            tuple(keys),
            ext if flags & 2 else None,
            bool(flags & 1),
            partition,
            offset,
            payload,
            tuple(earlier),
        )


@dataclass(slots=True)
class Native:
    """What is known of one native record.

    ``through``: the last cdc offset that needs no more waiting for; ``made``: how many canonical ids were named after it;
    ``to``: what a person decided: a canonical id, `ALONE` or `OWN`. It waits while ``queued``: for ``awaits``' create there
    if that is set, else in the line of its place, with number ``seq``. ``woken``: somebody it blocked after it had died was
    told to try again, which is done once.
    """

    cid: str = ""
    through: int = -1
    made: int = 0
    seen: bytes = b""
    dead: bytes = b""
    first: int = 0
    queued: int = 0
    seq: int = 0
    awaits: str = ""
    held: bool = False
    rival: str = ""
    to: str = ""
    blocked: bool = False
    woken: bool = False

    def encode(self) -> bytes:
        """Return it as a row."""
        if (
            self.cid
            and self.seen
            and not (self.dead or self.queued or self.held or self.to or self.blocked or self.woken)
        ):  # nearly always
            return b"".join(
                (b"\x03", encode_long(self.through), encode_long(self.made), encode_bytes(self.cid.encode()), self.seen)
            )
        flags = (
            (1 if self.cid else 0)
            | (2 if self.seen else 0)
            | (4 if self.dead else 0)
            | (8 if self.queued else 0)
            | (16 if self.held else 0)
            | (32 if self.to else 0)
            | (64 if self.blocked else 0)
            | (128 if self.woken else 0)
        )
        parts = [bytes((flags,)), encode_long(self.through), encode_long(self.made)]
        if self.cid:
            parts.append(encode_string(self.cid))
        if self.seen:
            parts.append(self.seen)
        if self.dead:
            parts.append(self.dead)
        if flags & 0x38:
            if self.queued:
                parts += [encode_long(n) for n in (self.first, self.queued, self.seq)]
                parts.append(encode_string(self.awaits))
            if self.held:
                parts.append(encode_string(self.rival))
            if self.to:
                parts.append(encode_string(self.to))
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Native:
        """Read a row."""
        flags = data[0]
        n = cls()
        n.through, at = decode_long(data, 1)
        n.made, at = decode_long(data, at)
        if flags & 1:
            n.cid, at = decode_string(data, at)
        if flags & 2:
            n.seen, at = data[at : at + 16], at + 16
        if flags & 4:
            n.dead, at = data[at : at + 16], at + 16
        if flags & 8:
            n.first, at = decode_long(data, at)
            n.queued, at = decode_long(data, at)
            n.seq, at = decode_long(data, at)
            n.awaits, at = decode_string(data, at)
        if flags & 16:
            n.held = True
            n.rival, at = decode_string(data, at)
        if flags & 32:
            n.to, at = decode_string(data, at)
        n.blocked = bool(flags & 64)
        n.woken = bool(flags & 128)
        return n


ALONE, OWN = "alone", "own"
PART = "part"  # instead of a rival: kept aside until the rest of it comes, which is on its way


@dataclass(slots=True)
class Record:
    """A record: members by place, each a native key, or the epoch (int) of a create in flight.

    ``awaited``: how many natives wait for its creates. ``into``: the record it was merged into. ``asked``: by place, the version of
    the create in flight, where it is not the first one ever (which is 1).
    """

    alive: bool = True
    keys: tuple[str, ...] = ()
    members: dict[str, str | int] = field(default_factory=dict)
    awaited: int = 0
    into: str = ""
    asked: dict[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return it as a row."""
        parts = [b"\x01" if self.alive else b"\x00", encode_long(self.awaited)]
        if self.keys:
            parts.append(encode_long(len(self.keys)))
            parts += [encode_bytes(key.encode()) for key in self.keys]
        parts.append(b"\x00")
        parts.append(encode_bytes(self.into.encode()) if self.into else b"\x00")
        for place, member in self.members.items():
            parts.append(encode_bytes(place.encode()))
            if isinstance(member, str):
                parts.append(b"\x00")
                parts.append(encode_bytes(member.encode()))
            elif place in self.asked:
                parts.append(b"\x04" + encode_long(member) + encode_long(self.asked[place]))
            else:
                parts.append(b"\x02")
                parts.append(encode_long(member))
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read a row."""
        awaited, at = decode_long(data, 1)
        keys, at = read_strings(data, at)
        into, at = decode_string(data, at)
        members: dict[str, str | int] = {}
        asked: dict[str, int] = {}
        while at < len(data):
            place, at = decode_string(data, at)
            tag = data[at]
            if tag:
                members[place], at = decode_long(data, at + 1)
                if tag == 4:
                    asked[place], at = decode_long(data, at)
            else:
                members[place], at = decode_string(data, at + 1)
        return cls(bool(data[0]), tuple(keys), members, awaited, into, asked)


@dataclass(slots=True)
class Key:
    """A match key: how many records hold it, which one if it is one, and whether rows ``Q`` or ``B`` may exist for it."""

    count: int = 0
    only: str = ""
    held: bool = False
    blocked: bool = False

    def encode(self) -> bytes | None:
        """Return it as a row, or None if it says nothing."""
        if not (self.count or self.held or self.blocked):
            return None
        return bytes((self.held | self.blocked << 1,)) + encode_long(self.count) + encode_string(self.only)

    @classmethod
    def decode(cls, data: bytes) -> Key:
        """Read a row."""
        count, at = decode_long(data, 1)
        only, at = decode_string(data, at)
        return cls(count, only, bool(data[0] & 1), bool(data[0] & 2))


FIRST_HOLDER = b"\x00\x02"  # how the row of a key begins that one record holds and nobody waits for
FRESH_KEY = Key(1)  # what is to be known of it; not to be changed


@dataclass(slots=True)
class Place:
    """Creates in flight in one place, by epochs.

    A native that must wait for all creates in flight closes the current epoch and waits for it; so one number says what it
    waits for, however many there are. Epochs from ``low`` on may still have some; ``count`` is that of ``current``. Who waits
    stands in line, with numbers from ``head`` to ``tail`` (exclusive), in order of the epochs waited for.
    """

    current: int = 1
    count: int = 0
    low: int = 1
    head: int = 0
    tail: int = 0

    def encode(self) -> bytes:
        """Return it as a row."""
        return (
            encode_long(self.current)
            + encode_long(self.count)
            + encode_long(self.low)
            + encode_long(self.head)
            + encode_long(self.tail)
        )

    @classmethod
    def decode(cls, data: bytes) -> Place:
        """Read a row."""
        current, at = decode_long(data, 0)
        count, at = decode_long(data, at)
        low, at = decode_long(data, at)
        head, at = decode_long(data, at)
        tail, at = decode_long(data, at)
        return cls(current, count, low, head, tail)


def encode_strings(texts: tuple[str, ...]) -> bytes:
    """Encode an Avro array of strings."""
    if not texts:
        return b"\x00"
    return encode_long(len(texts)) + b"".join([encode_string(t) for t in texts]) + b"\x00"


def native_row(place: str, native: str) -> bytes:
    """Return the key of a native's row."""
    return f"n:{place}/{native}".encode()


def record_row(cid: str) -> bytes:
    """Return the key of a record's row."""
    return b"r:" + cid.encode()


def key_row(key: str) -> bytes:
    """Return the key of a match key's row."""
    return b"k:" + key.encode()


def part(text: str) -> bytes:
    """Spell a text as one part of a composed key: a NUL in it (0xFF occurs in no UTF-8) cannot be taken for our separator."""
    return text.encode().replace(CUT, b"\xff")


def unpart(data: bytes) -> str:
    """Read back what `part` spelt."""
    return data.replace(b"\xff", CUT).decode()


def number(n: int) -> bytes:
    """Spell a number so that keys sort by it."""
    return n.to_bytes(8, "big")
