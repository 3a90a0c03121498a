"""What the merge stage knows of one record, and its form in the changelog (schemas/state.avsc: an Avro value whose body is MessagePack).

Golden values and copies are lists of slices. A place is one tenant of one system, spelt ``system/tenant``. The classes are msgspec
structs: encoded and decoded in C, leaving out what is empty, because every change of a record writes its state anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tidelock.avro import NULL, decode_bytes, encode_bytes
from tidelock.change import ZERO_POSITION

_MOST_SOURCES = 4  # provenances kept before those no field refers to are dropped


class Provenance(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a golden value came from; times are microseconds since 1970."""

    place: str
    time: int
    event_id: bytes
    actor: str | None
    rule: str

    @property
    def system(self) -> str:
        """Return the system of the place."""
        return self.place.partition("/")[0]


class Flight(msgspec.Struct, array_like=True, gc=False):
    """The one write under way to a copy: what it puts into which tracked column, and the golden values of bindings that are not plain."""

    version: int
    op: int
    golden_version: int
    columns: dict[int, bytes]
    told: dict[int, tuple[bytes, ...]] = {}


class Held(msgspec.Struct, array_like=True, gc=False):
    """A captured change that waits for the fate of the write in flight; ``gone`` for a delete."""

    position: bytes
    gone: bool
    columns: dict[int, bytes]
    schema_id: int
    provenance: Provenance


class Parked(msgspec.Struct, array_like=True, gc=False):
    """Values that a system did not take: not sent again until they change, or what blocked them moves."""

    kind: str
    values: tuple[bytes, ...]
    attempts: int = 1


class Copy(
    msgspec.Struct,
    gc=False,  # nothing here is cyclic, and the collector need not walk 20,000 records
    omit_defaults=True,
    rename={"native_key": "k", "columns": "c", "position": "p", "schema_id": "s", "flight": "f"},
):
    """What the hub knows of one system's version of a record (the words of DESIGN section 5)."""

    native_key: str
    columns: list[bytes]  # `cur` per tracked column; b"" = never captured
    position: bytes = ZERO_POSITION
    schema_id: int = 0
    flight: Flight | None = None
    landings: dict[int, list[tuple[bytes, bytes]]] = {}  # column → [(position, raw)], oldest first
    told: dict[int, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {}  # binding → (golden values, raws)
    held: list[Held] = []
    parked: dict[int, Parked] = {}  # binding → what was refused there
    floors: dict[int, bytes] = {}  # column → position up to which a receipt has told its value
    rare: bool = False  # something stands in the fields from `landings` on

    def believed(self, column: int) -> bytes:
        """Return the raw slice that should stand there now."""
        if self.rare:
            landed = self.landings.get(column)
            if landed:
                return landed[-1][1]
        return self.columns[column]

    def settle(self) -> None:
        """Note whether anything rare is left."""
        self.rare = bool(self.landings or self.told or self.held or self.parked or self.floors)


class Record(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    rename={"values": "v", "by": "b", "sources": "s", "version": "n", "copies": "c", "versions": "w"},
):
    """One record of the hub."""

    values: list[bytes]
    by: list[int]  # per field: index into `sources` + 1; 0 = never set
    sources: list[Provenance] = []
    version: int = 0
    deleted: bool = False
    keys: tuple[str, ...] = ()
    versions: dict[str, int] = {}
    copies: dict[str, Copy] = {}
    creating: dict[str, Flight] = {}  # creates asked for or under way
    granted: list[str] = []  # places where identify lets us create
    parked: dict[str, Parked] = {}  # place → a create that was refused
    manual: dict[int, dict[str, tuple[bytes, bytes]]] = {}  # field → place → (base, theirs)
    departed: list[str] = []  # places it left for good
    timers: dict[str, str] = {}  # place → kind of the entry that will come
    history: dict[int, list[tuple[int, int]]] = {}  # field → [(time, crc of value)]
    attempts: dict[str, int] = {}  # place → writes refused there since the last that was not

    @classmethod
    def new(cls, fields: int) -> Record:
        """Return a record nobody has seen yet."""
        return cls([NULL] * fields, [0] * fields)

    @property
    def known(self) -> bool:
        """Tell whether any system has ever shown this record."""
        return self.version > 0 or bool(self.copies)

    def provenance(self, f: int) -> Provenance | None:
        """Return where a field's value came from; None if it was never set."""
        i = self.by[f]
        return self.sources[i - 1] if i else None

    def set(self, f: int, value: bytes, cause: Provenance) -> None:
        """Set a golden value."""
        sources = self.sources
        self.values[f] = value
        if not sources or sources[-1] != cause:
            if len(sources) >= _MOST_SOURCES:
                self._forget_sources()
                sources = self.sources
            sources.append(cause)
        self.by[f] = len(sources)

    def _forget_sources(self) -> None:
        used = sorted(set(self.by) - {0})
        place = {old: new for new, old in enumerate(used, 1)}
        self.sources = [self.sources[i - 1] for i in used]
        self.by = [place[i] if i else 0 for i in self.by]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record, head: bytes) -> bytes:
    """Return ``head`` (a wire header and the layout) and the rest of a record's state; the same record gives the same bytes."""
    return head + encode_bytes(_encoder.encode(record))


def decode(data: bytes, at: int = 5) -> tuple[bytes, Record]:
    """Read a state value whose body starts at ``at``; return (layout, record). Raises msgspec.DecodeError on malformed bytes."""
    return data[at : at + 8], _decoder.decode(decode_bytes(data, at + 8)[0])


def reorder(record: Record, was: dict[str, Any], now: dict[str, Any]) -> None:
    """Bring a record kept under one order of fields and columns into another, by name; what is new counts as never seen.

    Whatever refers to bindings (told spellings, parked values) is dropped: it is learnt again from the next receipt.
    """
    at = {name: i for i, name in enumerate(was["fields"])}
    moved = {at[name]: i for i, name in enumerate(now["fields"]) if name in at}
    record.values = [record.values[at[n]] if n in at else NULL for n in now["fields"]]
    record.by = [record.by[at[n]] if n in at else 0 for n in now["fields"]]
    record.manual = {moved[f]: v for f, v in record.manual.items() if f in moved}
    record.history = {moved[f]: v for f, v in record.history.items() if f in moved}
    for place, copy in list(record.copies.items()):
        system = place.partition("/")[0]
        if system not in now["columns"]:
            del record.copies[place]
            continue
        old = {name: i for i, name in enumerate(was["columns"].get(system, ()))}
        to = {old[name]: i for i, name in enumerate(now["columns"][system]) if name in old}
        copy.columns = [copy.columns[old[n]] if n in old else b"" for n in now["columns"][system]]
        copy.landings = {to[c]: v for c, v in copy.landings.items() if c in to}
        copy.floors = {to[c]: v for c, v in copy.floors.items() if c in to}
        copy.told, copy.parked = {}, {}
        for held in copy.held:
            held.columns = {to[c]: v for c, v in held.columns.items() if c in to}
        if copy.flight is not None:
            copy.flight.columns = {to[c]: v for c, v in copy.flight.columns.items() if c in to}
            copy.flight.told = {}
        copy.settle()
