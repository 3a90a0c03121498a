"""Capture of Dynamics 365: change tracking by delta links.

The first poll reads every row and ends with a delta link; each later one follows the link before. A link is good for seven days (the
organisation's `expirechangetrackingindays`). After that everything is read once more, and what is not met was deleted. Between two polls a
row's changes are one change. A deleted row comes as its key alone: its version is taken to be behind the newest that the reading has met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import structlog

from producers.api import ApiProducer
from producers.source import Cursor, Page, Task
from tidelock.apis.dynamics import EXPIRED, PAGE, Dataverse, Entity
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
            yield from self._read(entity, None, self._whole(entity, task), {"newest": 0}, whole=False)
            return
        try:
            yield from self._read(entity, cursor["link"], None, cursor, whole=bool(cursor.get("whole")))
        except Reject as error:
            if error.kind != "expired":
                raise
            log.warning(
                "the delta link is too old: everything is read once more",
                action="full_resync",
                table=entity.name,
                code=EXPIRED,
            )
            yield from self._read(
                entity, None, self._whole(entity, task), {"newest": cursor.get("newest", 0)}, whole=True
            )

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
        for page in self._dataverse.pages(link, params, prefer=f"odata.maxpagesize={self._page}"):
            following = page.get("@odata.nextLink")
            records = [self._dataverse.record(entity, row) for row in page["value"]]
            yield Page(records, {**part, "link": following}, last=following is None)

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single rows; one that is not there is told as deleted behind everything that is."""
        found = self._dataverse.by_ids(task.table, keys, task.names)
        newest: int | None = None
        out = []
        for key in keys:
            record = found.get(key.lower())
            if record is None:
                if newest is None:
                    newest = self._dataverse.newest(self._dataverse.entity(task.table))
                record = Record(key.lower(), {}, (newest, 1), 0, deleted=True)
            out.append(record)
        return out

    def close(self) -> None:
        """Close connections."""
        self._dataverse.close()

    def _whole(self, entity: Entity, task: Task) -> dict[str, Any]:
        return {"$select": entity.selected(task.names)}

    def _read(
        self, entity: Entity, link: str | None, params: dict[str, Any] | None, cursor: Cursor, *, whole: bool
    ) -> Iterator[Page]:
        prefer = f"odata.track-changes,odata.maxpagesize={self._page}"
        newest = int(cursor.get("newest", 0))
        for page in self._dataverse.pages(link or f"/{entity.set}", params, prefer=prefer):
            records, gone = [], []
            for row in page["value"]:
                if row.get("reason") == "deleted" or str(row.get("@odata.context", "")).endswith("/$deletedEntity"):
                    gone.append(str(row["id"]).lower())
                else:
                    records.append(self._dataverse.record(entity, row))
            newest = max([newest, *(r.version[0] for r in records)])
            if gone:
                newest = max(newest, self._dataverse.newest(entity))
            records += [Record(key, {}, (newest, 1), 0, deleted=True) for key in gone]
            delta = page.get("@odata.deltaLink")
            at: Cursor = {"link": delta or page["@odata.nextLink"], "newest": newest}
            if whole and not delta:
                at["whole"] = True
            yield Page(records, at, whole=whole, last=delta is not None)


class DynamicsProducer(ApiProducer):
    """Capture Dynamics 365."""

    source = DynamicsSource
    reads_all_first: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("poll",)
