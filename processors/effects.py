"""What handling one journal entry asks for: plain data, turned into Kafka records by the merge stage's shell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from processors.record import Flight, Provenance
from tidelock.envelopes import Entry


class Send(NamedTuple):
    """A write to a place: its flight (version, op, raw slices per tracked column) with the bases it was computed from."""

    place: str
    flight: Flight
    native_key: str | None
    bases: dict[int, bytes]
    cause: Provenance
    ask: bool = False  # identify decides whether this create may go out


class Clash(NamedTuple):
    """A conflict that was decided, or parked."""

    field: int
    place: str
    against: str
    base: bytes | None
    golden: bytes
    theirs: bytes
    rule: str
    outcome: str
    cause: Provenance


class Notice(NamedTuple):
    """Something a person should know about this record."""

    kind: str
    place: str
    message: str
    hint: str = ""


class Timer(NamedTuple):
    """Put an entry of this kind for this place into the journal after so long."""

    place: str
    kind: str
    delay_s: float


@dataclass(slots=True)
class Effects:
    """Everything one entry caused, in order."""

    sends: list[Send] = field(default_factory=list)
    identify: list[Entry] = field(default_factory=list)
    clashes: list[Clash] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    counts: list[tuple[str, str]] = field(default_factory=list)  # (name, place)
    golden_changed: bool = False

    def clear(self) -> None:
        """Make it empty again: one is used for a whole batch."""
        if self.sends:
            self.sends = []
        if self.identify:
            self.identify = []
        if self.clashes or self.notices or self.timers:
            self.clashes, self.notices, self.timers = [], [], []
        if self.counts:
            self.counts = []
        self.golden_changed = False
