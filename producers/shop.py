"""Capture of the web shop: changes by (updated_at, id), what was removed for good, and the hand-over of new transactions.

Lists are read from the last (time, id) that Kafka has acknowledged. ``exported`` is set only after that, under the version that was read, so
that an edit made in between leaves the record on offer; what is read twice has the same version and is dropped by merge.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from producers.api import ApiProducer
from producers.source import Cursor, Page, Task
from tidelock.apis.records import ApiColumn, Record, moment
from tidelock.apis.shop import HANDED_OVER, LIST_MOST, ROOT, SYNC_MOST, Shop, cut
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal
from tidelock.tenants import Tenant

_BEGINNING = "1970-01-01T00:00:00.000Z"
_LATE_S = 300.0
"""How far the deletions are read back each time: a record's removal may become visible after a later one."""


class ShopSource:
    """One tenant's shop (`producers.source.Source`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._shop = Shop(context, tenant)
        self._handed_over = tuple(tenant.options.get("hand_over", ("orders", "payments")))
        unknown = set(self._handed_over) - set(HANDED_OVER)
        if unknown:
            raise Fatal(
                f"{tenant.path}: {', '.join(sorted(unknown))} have no `exported` flag",
                hint=f"options.hand_over may name {', '.join(HANDED_OVER)}",
            )

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a resource."""
        return self._shop.columns(table)

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        """Read what changed behind a cursor, then what was removed, then hand over what is on offer."""
        if cursor is None:
            yield Page([], self._newest(task), last=True)
            return
        at = dict(cursor)
        if kind == "overlap":
            back = moment(str(at["updated_at"])) - dt.timedelta(seconds=task.table.overlap_s)
            at |= {"updated_at": back.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "id": 0}
        resource = task.table.table
        for rows in self._shop.pages(resource, updated_at_min=at["updated_at"], after_id=at["id"]):
            if rows:
                at |= {"updated_at": rows[-1]["updated_at"], "id": rows[-1]["id"]}
                yield Page([self._shop.record(task.table, r) for r in rows], dict(at))
        yield self._removed(task, at)
        if resource in self._handed_over and kind == "poll":
            yield from self._hand_over(task, at)
        yield Page([], dict(at), last=True)

    def parts(self, _task: Task, where: str | None) -> list[Cursor]:
        """Read the whole list in one part. Raises Fatal for a condition: the shop's lists take none."""
        if where:
            raise Fatal("the shop's lists take no condition", hint="seed without --where")
        return [{"updated_at": _BEGINNING, "id": 0}]

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read the list on from where a part stands. A record that changes meanwhile moves to its end, where it is met again."""
        at = dict(part)
        for rows in self._shop.pages(task.table.table, updated_at_min=at["updated_at"], after_id=at["id"]):
            if rows:
                at = {"updated_at": rows[-1]["updated_at"], "id": rows[-1]["id"]}
            yield Page([self._shop.record(task.table, r) for r in rows], dict(at), last=len(rows) < LIST_MOST)

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single records."""
        resource = task.table.table
        rows = self._shop.by_ids(resource, keys)
        gone = {str(d["id"]): d for d in self._deletions(resource, _BEGINNING)} if len(rows) < len(set(keys)) else {}
        out = []
        for key in keys:
            if key in rows:
                out.append(self._shop.record(task.table, rows[key]))
            elif key in gone:
                out.append(self._shop.record(task.table, gone[key]))
            else:
                out.append(Record(key, {}, ((1 << 62), 0), 0, deleted=True))
        return out

    def close(self) -> None:
        """Close connections."""
        self._shop.close()

    def _newest(self, task: Task) -> Cursor:
        """Return where the list ends now; what comes to stand at that very time is told by its id."""
        # Lists have no descending order: an hour is asked for, then a day, and so on, until there is something.
        now = dt.datetime.now(dt.UTC)
        for hours in (1, 24, 24 * 30, 24 * 365 * 50):
            since = (now - dt.timedelta(hours=hours)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            last: dict[str, Any] | None = None
            for rows in self._shop.pages(task.table.table, updated_at_min=since):
                last = rows[-1] if rows else last
            if last is not None:
                return {"updated_at": last["updated_at"], "id": last["id"], "deleted_at": last["updated_at"]}
        return {"updated_at": _BEGINNING, "id": 0, "deleted_at": _BEGINNING}

    def _removed(self, task: Task, at: Cursor) -> Page:
        back = moment(str(at["deleted_at"])) - dt.timedelta(seconds=_LATE_S)
        since = max(back, moment(_BEGINNING)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found = list(self._deletions(task.table.table, since))
        if found:
            at["deleted_at"] = max(d["deleted_at"] for d in found)
        return Page([self._shop.record(task.table, d) for d in found], dict(at))

    def _deletions(self, resource: str, since: str) -> Iterator[dict[str, Any]]:
        for rows in self._shop.pages("deletions", resource=resource, deleted_at_min=since):
            yield from rows

    def _hand_over(self, task: Task, at: Cursor) -> Iterator[Page]:
        """Publish what is on offer and then say that it was taken; what was edited in between stays on offer."""
        resource = task.table.table
        for rows in self._shop.pages(resource, exported=0):
            if not rows:
                return
            yield Page([self._shop.record(task.table, r) for r in rows], dict(at))
            # Only now is it in Kafka.
            for part in cut(rows, SYNC_MOST):
                taken = [{"id": r["id"], "exported": 1, "if_version": r["version"]} for r in part]
                self._shop.client.send(
                    "PATCH", f"{ROOT}/{resource}", json={"records": taken}, repeat=True, name="hand over"
                )


class ShopProducer(ApiProducer):
    """Capture web shops."""

    source = ShopSource
