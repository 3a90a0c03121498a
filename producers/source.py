"""What a capture of an HTTP API has to say of its vendor: everything else is `producers.api`'s.

A source serves one tenant. It reads; it knows no Kafka, no schedule and no other tenant. What it has read it hands over in pages, each
with the cursor from which reading goes on once Kafka has acknowledged the page: a break-off costs at most the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tidelock.apis.records import ApiColumn, Record
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.signatures import Call, Scheme
from tidelock.tenants import Tenant

__all__ = ["Call", "Cursor", "Hook", "Notice", "Page", "Scheme", "Source", "Task"]

Cursor = dict[str, Any]
"""Where a reading stands, as JSON that only its source understands."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be read: an entity, where it lives, and the columns that are wanted of it (the source's own are beside them)."""

    entity: str
    table: TableSpec
    columns: Mapping[str, ApiColumn]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the columns' names in order."""
        return tuple(self.columns)


@dataclass(slots=True)
class Page:
    """Some records, and where reading goes on behind them. ``read`` counts what was looked at, if that is more."""

    records: Sequence[Record]
    cursor: Cursor
    read: int = 0
    met: Sequence[str] = ()
    """Keys that are there, of records that need not be published."""
    whole: bool = False
    """The reading meets every record there is: what it has not met when it ends was deleted."""
    last: bool = False
    """Nothing comes behind it, so that it is no place to break off."""


@dataclass(slots=True)
class Notice:
    """What a webhook said: these records have changed. ``records``: it described them so well that they need not be read."""

    entity: str
    keys: Sequence[str] = ()
    records: Sequence[Record] = ()
    tenant: str | None = None


class Source(Protocol):
    """One tenant of a vendor's system, as capture sees it. Errors are `Retry`, `Reject`, `Revoked` and `Fatal`."""

    def __init__(self, context: Context, tenant: Tenant) -> None: ...

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns to capture, by name, typed from the vendor's own metadata. Raises Fatal for what is not there."""

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        """Read what has changed since a cursor; ``kind`` is one of the capture's kinds (`producers.api.ApiProducer.kinds`).

        ``poll`` without a cursor only says where polling begins, in a page without records; or it reads everything there is, if the
        capture says `reads_all_first`. ``overlap`` begins with the cursor of polling and reads back `TableSpec.overlap_s` from there; the
        cursors of its own pages must say that it has begun, for it goes on from one of them if it breaks off. A reading with pages that
        are ``whole`` always begins anew.
        """

    def parts(self, task: Task, where: str | None) -> list[Cursor]:
        """Cut a first load into parts that can be read side by side. Raises Fatal if ``where`` cannot be asked."""

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read one part of a first load from where its cursor stands."""

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single records; one that is not there (any more) comes back as deleted. Any number of keys."""

    def close(self) -> None:
        """Let go of connections."""


class Hook(Protocol):
    """What understands a vendor's webhooks. One serves one tenant; the service has checked the call by then (`producers.hooks`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None: ...

    @property
    def scheme(self) -> Scheme:
        """How the vendor signs what it sends. Raises Fatal if that is not configured."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """The secrets that are good now: several while one is being replaced. Raises Revoked if there is none."""
        ...

    def delivery(self, call: Call) -> str | None:
        """Return what is the same when the vendor sends a delivery again; None if it does not tell."""
        ...

    def receive(self, call: Call) -> list[Notice]:
        """Say what a webhook tells. Raises Reject for one that makes no sense. It reads nothing and waits for nobody."""
        ...
