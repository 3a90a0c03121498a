"""What a sink to an HTTP API has to say of its vendor: everything else is `sinks.api`'s.

A target serves one tenant. Every method takes any number of items, cuts them as the vendor's API asks, and answers one result per item, in
order. Errors that concern the whole call are raised (`Retry`, `Lost`, `Revoked`, `Fatal`); what concerns one record is its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from tidelock.apis.records import ApiColumn, Record, Version
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Reject
from tidelock.tenants import Tenant

Json = dict[str, Any]


@dataclass(slots=True)
class Creation:
    """A record to be made. ``canonical_id`` makes it once: it goes into the external-id column, or is the idempotency key."""

    canonical_id: str
    values: Json


@dataclass(slots=True)
class Edit:
    """Values for a record that is there. ``version`` is what it had when its bases were looked at, for APIs that can check it."""

    key: str
    values: Json
    seen: Record | None


@dataclass(slots=True)
class Result:
    """What became of one item. Exactly one of ``error``, ``missing``, ``taken``, ``moved`` says why it was not done, or none does.

    ``record`` is what stands there now, if the answer tells; it is read back otherwise. ``version`` alone may be told, too.
    """

    key: str | None = None
    record: Record | None = None
    version: Version | None = None
    error: Reject | None = None
    missing: bool = False
    taken: bool = False
    """Another record has a value that must be unique: ``key`` is that record's, as far as the vendor names it."""
    moved: bool = False
    """The record has changed since it was looked at, and the API has refused for that reason."""


class Target(Protocol):
    """One tenant of a vendor's system, as a sink sees it."""

    checks_version: ClassVar[bool]
    """Whether `update` fails (``moved``) when the record has changed since ``Edit.seen``."""

    def __init__(self, context: Context, tenant: Tenant) -> None: ...

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns by name, the same as the capture's. Raises Fatal."""

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Return records by key, with these columns at least; those that are not there are left out."""

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:
        """Return the keys of records that carry these canonical ids. {} if the system cannot tell (then `create` must)."""

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make records; one that was made before with the same canonical id is met, not made again."""

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change records. No two items have the same key."""

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Delete records; one that is gone already is done."""

    def close(self) -> None:
        """Let go of connections."""


@runtime_checkable
class Clocked(Protocol):
    """A target whose system tells what time it is there: `Record.at` is compared with that, not with this machine's clock."""

    def now(self) -> float:
        """Return the system's time in seconds since 1970, as its last answer told it."""


def names_of(items: Sequence[Creation] | Sequence[Edit]) -> tuple[str, ...]:
    """Return all columns that items write, in order."""
    return tuple(dict.fromkeys(name for item in items for name in item.values))


def columns_of(columns: Mapping[str, ApiColumn], names: Sequence[str]) -> dict[str, ApiColumn]:
    """Return the columns of these names. Raises KeyError."""
    return {name: columns[name] for name in names}
