"""What identify is told (its rules) and whom it tells (its decisions); and how canonical ids are named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from processors.identity_rows import Sight

NAMESPACE = UUID("6f0d3c52-5b0e-5d0c-9d57-0d1c2f7b6a11").bytes


@dataclass(frozen=True)
class Rules:
    """What identify must know of the configuration.

    ``places``: every captured place of the entity, in a fixed order; ``grants``: place where a record is born → places in
    which merge may create it at once; ``ambiguous``: the entity's policy; ``closing``: places in which nothing is created
    until their seed is through; ``tails``: how every match key of a record ends that belongs to a tenant, by place, where tenants say so.
    """

    entity: str
    places: tuple[str, ...]
    grants: Mapping[str, tuple[str, ...]]
    ambiguous: str = "quarantine"
    closing: frozenset[str] = frozenset()
    tails: Mapping[str, str] = field(default_factory=dict)


class Joiner(Protocol):
    """Who can look into changes: identify itself does not."""

    def join(self, older: Sight, newer: Sight, /) -> Sight:
        """Return what two sights of one native show together; the newer counts where both tell the same column."""

    def version(self, write: bytes, /) -> int:
        """Return the version of a write as merge made it; 0 if it cannot be told."""

    def partial(self, sight: Sight, /) -> bool:
        """Tell whether a sight, with its earlier changes, leaves columns out that the mapping knows."""

    def parts(self, sight: Sight, /, *, linked: bool) -> list[Sight]:
        """Return what a sight that has ``earlier`` changes shows, as changes one after the other.

        ``linked``: for a record that sees its copy for the first time; then the first tells all that can be told at once.
        """


class Decisions(Protocol):
    """Who is told what was decided; the stage turns this into Kafka records. ``cid`` is always a canonical id."""

    def linked(self, cid: str, sight: Sight, grants: tuple[str, ...]) -> None:
        """A native record is now a copy of the record; ``grants`` are places where it may be created without asking."""

    def change(self, cid: str, sight: Sight) -> None:
        """A change that came the long way belongs to the record."""

    def link(self, place: str, native: str, partition: int, cid: str, through: int) -> None:
        """Route may use this link once all it sent the long way up to cdc offset ``through`` is what it sent."""

    def no_link(self, place: str, native: str, partition: int) -> None:
        """Route must send changes of this native the long way; ``partition`` -1: not known here."""

    def note(self, kind: str, cid: str, place: str, native: str, reason: str, payload: bytes) -> None:
        """An entry for the record's journal: no_create, park, retry, unlink, merge (``reason``: canonical id of the winner)."""

    def receipts(self, cid: str, payload: bytes) -> None:
        """A pack of receipts for the record's journal, as it came."""

    def write(self, cid: str, place: str, payload: bytes) -> None:
        """A create may go to its place, as it came."""

    def held(self, sight: Sight, rivals: tuple[str, ...], reason: str) -> None:
        """A native record is ambiguous: it is kept aside until something moves or a person decides."""

    def conflict(self, sight: Sight, chosen: str, other: str) -> None:
        """Match keys of one native record find different records; the one of higher precedence was chosen."""

    def waiting(self, place: str, creates: int) -> None:
        """So many creates wait for the seed of a place now."""

    def drain(self, place: str) -> None:
        """An entry for identify itself: decide the next of the creates that waited."""


def canonical_id(entity: str, place: str, native: str, made: int) -> str:
    """Return the UUIDv5 (RFC 9562) named after a native record; ``made``: how many ids it has given before."""
    system, _, tenant = place.partition("/")
    name = f"{entity}\x1f{system}\x1f{tenant}\x1f{native}"
    if made:
        name += f"#{made}"
    digest = hashlib.sha1(NAMESPACE + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def watch(cid: str) -> str:
    """Return the key under which natives are held that a person wants to be copies of a record; nobody ever takes it."""
    return f"\x1e{cid}"
