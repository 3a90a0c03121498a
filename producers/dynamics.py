"""Capture of Dynamics 365: change tracking by delta links.

The first poll reads every row and ends with a delta link; each later one follows the link before. A link is good for seven days (the
organisation's `expirechangetrackingindays`). After that everything is read once more, and what is not met was deleted. Between two polls a
row's changes are one change. A deleted row comes as its key alone: its version is the one up to which the delta link has told everything,
and where a link does not say which that is, the newest that there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import structlog

from producers.api import ApiProducer
from producers.dynamics_hooks import DynamicsHook
from producers.source import Cursor, Hook, Page, Task
from tidelock.apis.dynamics import PAGE, Dataverse, tracked_to
from tidelock.apis.dynamics_answers import EXPIRED
from tidelock.apis.dynamics_tables import Entity
from tidelock.apis.records import ApiColumn, Record
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject
from tidelock.tenants import Tenant

log = structlog.get_logger()


class DynamicsSource:
    """One tenant's environment (`producers.source.Source`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._dataverse = Dataverse(context, tenant)
        self._page = int(tenant.options.get("page", PAGE))
        self._newest = 0
        """The highest version that was met or told here: versions count for the whole organisation."""

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a table."""
        return self._dataverse.columns(table)

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:  # noqa: ARG002 - there is one kind
        """Follow the delta link, or read everything and end with one."""
        entity = self._dataverse.entity(task.table)
        if not entity.tracked:
            raise Fatal(
                f"{self._dataverse.tenant.path}: change tracking is off for table {entity.name}",
                hint="switch on `Track changes` in the table's properties (it cannot be switched off again), or use another capture",
            )
        if cursor is None:
            yield from self._read(entity, task, {}, whole=False)
            return
        self._newest = max(self._newest, int(cursor.get("newest", 0)))
        try:
            yield from self._read(entity, task, cursor, whole=False)
            return
        except Reject as error:
            if error.kind != "expired":
                raise
            log.warning(
                "the delta link is too old: everything is read once more",
                action="full_resync",
                table=entity.name,
                code=EXPIRED,
            )
        except Fatal as error:
            # A link goes on asking for the columns it was made with; one that was mapped then may be gone by now.
            if cursor.get("asked", "") in ("", entity.selected(task.names)):
                raise
            log.warning(
                "the delta link asks for columns that are not there: everything is read once more",
                action="full_resync",
                table=entity.name,
                because=str(error),
            )
        yield from self._read(entity, task, {}, whole=True)

    def parts(self, _task: Task, where: str | None) -> list[Cursor]:
        """Read everything in one part; ``where`` is an OData filter."""
        return [{"where": where}]

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read all rows, or those of a filter, in pages."""
        entity = self._dataverse.entity(task.table)
        params: dict[str, Any] | None = {"$select": entity.selected(task.names)}
        if part.get("where"):
            params = {"$select": entity.selected(task.names), "$filter": part["where"]}
        link = part.get("link") or f"/{entity.set}"
        if part.get("link"):
            params = None
        prefer = entity.prefer(task.names, f"odata.maxpagesize={self._page}")
        for page in self._dataverse.pages(link, params, prefer=prefer):
            following = page.get("@odata.nextLink")
            records = [self._dataverse.record(entity, row) for row in page["value"]]
            yield Page(records, {**part, "link": following}, last=following is None)

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single rows; one that is not there is told as deleted behind everything that is."""
        found = self._dataverse.by_ids(task.table, keys, task.names)
        gone = [key.lower() for key in keys if key.lower() not in found]
        if gone:
            self._newest = max(self._newest, self._dataverse.newest(self._dataverse.entity(task.table)))
        deleted = {key: Record(key, {}, (self._newest, 1), 0, deleted=True) for key in gone}
        return [found.get(key.lower()) or deleted[key.lower()] for key in keys]

    def close(self) -> None:
        """Close connections."""
        self._dataverse.close()

    def _read(self, entity: Entity, task: Task, cursor: Cursor, *, whole: bool) -> Iterator[Page]:
        asked = entity.selected(task.names)
        link = cursor.get("link")
        before = tracked_to(link) if link else None
        prefer = entity.prefer(task.names, "odata.track-changes", f"odata.maxpagesize={self._page}")
        params = None if link else {"$select": asked}
        for page in self._dataverse.pages(link or f"/{entity.set}", params, prefer=prefer):
            delta = page.get("@odata.deltaLink")
            upto = tracked_to(delta) if delta else None
            if before is not None and upto is not None and upto < before:
                raise Fatal(
                    f"{self._dataverse.tenant.path}: table {entity.name} is at version {upto}, but changes up to {before} have been read: "
                    "the environment was set back or replaced by a copy",
                    hint="correct `url` if it is the wrong environment; after a restore start over with another `prefix` and `tidelock seed`: what has been "
                    "published stands at versions that will come again",
                )
            records, gone = [], []
            for row in page["value"]:
                if row.get("reason") == "deleted" or str(row.get("@odata.context", "")).endswith("/$deletedEntity"):
                    gone.append(str(row["id"]).lower())
                else:
                    records.append(self._dataverse.record(entity, row))
            self._newest = max([self._newest, upto or 0, *(r.version[0] for r in records)])
            if gone and upto is None:
                self._newest = max(self._newest, self._dataverse.newest(entity))
            records += [Record(key, {}, (self._newest, 1), 0, deleted=True) for key in gone]
            at: Cursor = {
                "link": delta or page["@odata.nextLink"],
                "newest": self._newest,
                "asked": cursor.get("asked", asked),
            }
            yield Page(records, at, whole=whole, last=delta is not None)


class DynamicsProducer(ApiProducer):
    """Capture Dynamics 365."""

    source = DynamicsSource
    reads_all_first: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("poll",)
    hook: ClassVar[type[Hook] | None] = DynamicsHook
