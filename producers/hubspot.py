"""Capture of HubSpot: searches by the time of the last change, records read by id, the bin, and a nightly look at every id.

Search is an index that is behind. So every poll reads back ``options.lag_s`` from where the one before began, and the nightly overlap reads back
far more. What a search names is read by id, which is never behind; what was told already is not read again while it stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from producers.api import ApiProducer
from producers.hubspot_hook import HubSpotHook
from producers.hubspot_parts import conditions_of, parts_of
from producers.source import Cursor, Hook, Page, Task
from tidelock.apis.hubspot import (
    CURRENT,
    MERGED_AWAY,
    SEARCH_MOST,
    HubSpot,
    Row,
    Seen,
    merged_into,
    millis,
    modified_of,
)
from tidelock.apis.records import ApiColumn, Record
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.tenants import Tenant

_LAG_S = 30.0
_BIN_EVERY_S = 300.0
_LARGE = 50_000  # records; more are loaded in parts, side by side
_REMEMBERED = 100_000


class HubSpotSource:
    """One tenant's portal (`producers.source.Source`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._hub = HubSpot(context, tenant)
        options = tenant.options
        self._lag_ms = int(float(options.get("lag_s", _LAG_S)) * 1000)
        self._bin_every_s = float(options.get("bin_every_s", _BIN_EVERY_S))
        self._large = int(options.get("load_in_parts_above", _LARGE))
        self._parts = int(options.get("parallel_loads", 4))
        self._told: dict[str, dict[str, int]] = {}  # by kind and id: the version that Kafka has
        self._binned_told: dict[str, dict[str, int]] = {}

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a kind of objects."""
        return self._hub.columns(table)

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        """Read what has changed behind a cursor and what was put into the bin; or meet every id there is (``deletes``)."""
        if kind == "deletes":
            yield from self._everything(task)
            return
        if cursor is None:
            newest = self._newest(task)
            yield Page([], {"since": newest, "binned": newest, "looked": 0.0}, last=True)
            return
        at = dict(cursor)
        if kind == "overlap" and "back" not in at:
            back_ms = int(task.table.overlap_s * 1000)
            at = {"since": max(0, int(at["since"]) - back_ms), "back": True}
        if "bin" not in at:
            yield from self._changed(task, at)
        if "bin" in at or ("back" not in at and time.time() - float(at["looked"]) >= self._bin_every_s):
            yield from self._binned(task, at)
        yield Page([], dict(at), last=True)

    def parts(self, task: Task, where: str | None) -> list[Cursor]:
        """Read the list in one part, or a large portal by searches over ranges of ids, in several; ``where`` is `name = value and …`."""
        filters = conditions_of(where)
        if not filters:
            total = self._hub.search(task.table.table, [], "hs_object_id", limit=1).total
            if total <= self._large:
                return [{"after": None}]
        return parts_of(self._hub, task.table.table, filters, self._parts)

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read one part on from where it stands."""
        if "low" not in part:
            for rows, after in self._hub.pages(task.table.table, task.names, after=part["after"]):
                yield Page([self._hub.record(r, task.names) for r in rows], {"after": after}, last=after is None)
            return
        at = dict(part)
        while True:
            span = [*part["filters"], _filter("hs_object_id", "GT", at["low"])]
            if part["high"] is not None:
                span.append(_filter("hs_object_id", "LTE", part["high"]))
            found = self._hub.search(task.table.table, span, "hs_object_id")
            last = len(found.rows) < SEARCH_MOST
            if found.rows:
                at["low"] = int(found.rows[-1]["id"])
            seen = self._hub.by_ids(task.table.table, [str(r["id"]) for r in found.rows], task.names)
            yield Page(list(seen.records.values()), dict(at), last=last)
            if last:
                return

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single records; those that were merged away, put into the bin or erased come as deleted, and with them what is left."""
        kind = task.table.table
        seen = self._hub.by_ids(kind, keys, task.names)
        out = dict(seen.records)
        for old in seen.merged.keys() & set(keys):
            out[old] = Record(old, {}, MERGED_AWAY, 0, deleted=True)
        for rows, _ in self._hub.batches(kind, seen.missing, (), archived=True):
            out |= {record.key: record for record in map(self._hub.record, rows)}
        for key in keys:
            if key not in out:
                # Erased for good: it cannot be said when. Not quite now, lest a record that is too new to be read be lost for ever.
                version = (seen.now_ms - self._lag_ms, 1) if seen.now_ms else MERGED_AWAY
                out[key] = Record(key, {}, version, seen.now_ms * 1000, deleted=True)
        return list(out.values())

    def close(self) -> None:
        """Close connections."""
        self._hub.close()

    # ------------------------------------------------------------------------------------------------ changes

    def _newest(self, task: Task) -> int:
        """Return the time of the newest change that searches know; 0 if there is no record."""
        kind = task.table.table
        found = self._hub.search(kind, [], modified_of(kind), descending=True, limit=1)
        return millis(found.rows[0]["updatedAt"]) if found.rows else 0

    def _changed(self, task: Task, at: Cursor) -> Iterator[Page]:
        """Read what has changed since ``at["since"]``, less the lag. One page is one search; more are walked in order of their ids.

        The walk has a fixed end in time (``upto``), so that what changes meanwhile moves out of it, into the next poll's; and as each page
        asks for ids behind the last one, neither the 10,000th row nor many changes at one time are a limit.
        """
        kind, again = task.table.table, "back" in at
        modified = modified_of(kind)
        if "upto" not in at:
            low = max(0, int(at["since"]) - self._lag_ms)
            found = self._hub.search(kind, [_filter(modified, "GTE", low)], modified, descending=True)
            self._forget(kind, low)
            if not found.rows:
                at["since"] = max(int(at["since"]), found.now_ms)
                return
            newest = millis(found.rows[0]["updatedAt"])
            following = max(int(at["since"]), newest, found.now_ms)
            if found.total <= len(found.rows):
                at["since"] = following
                yield from self._page(task, found.rows, at, again=again)
                return
            at |= {"low": low, "upto": newest, "id": 0, "next": following}
        while True:
            window = {
                "propertyName": modified,
                "operator": "BETWEEN",
                "value": str(at["low"]),
                "highValue": str(at["upto"]),
            }
            found = self._hub.search(kind, [window, _filter("hs_object_id", "GT", at["id"])], "hs_object_id")
            if found.rows:
                at["id"] = int(found.rows[-1]["id"])
                yield from self._page(task, found.rows, at, again=again)
            if len(found.rows) < SEARCH_MOST:
                break
        at["since"] = at["next"]
        for name in ("low", "upto", "id", "next"):
            del at[name]

    def _page(self, task: Task, rows: Sequence[Row], at: Cursor, *, again: bool) -> Iterator[Page]:
        """Read what a search has named, and tell of it; ``again``: also of what was told before."""
        told = self._told.setdefault(task.table.table, {})
        new = [str(r["id"]) for r in rows if again or told.get(str(r["id"])) != millis(r["updatedAt"])]
        seen = self._hub.by_ids(task.table.table, new, task.names)
        yield Page([*seen.records.values(), *_merged_away(seen)], dict(at), read=len(rows))
        # Only now is it in Kafka.
        for record in seen.records.values():
            told[str(record.values[CURRENT])] = record.version[0]

    def _forget(self, kind: str, low: int) -> None:
        """Forget what no search will name again as it is."""
        told = self._told.get(kind, {})
        kept = {i: ms for i, ms in told.items() if ms >= low}
        self._told[kind] = kept if len(kept) <= _REMEMBERED else {}

    # ------------------------------------------------------------------------------------------------ deletes

    def _binned(self, task: Task, at: Cursor) -> Iterator[Page]:
        """Tell of records that were put into the bin since last time. The bin has no order by time, so all of it is looked at."""
        kind, since = task.table.table, int(at["binned"]) - self._lag_ms
        told, newest = self._binned_told.setdefault(kind, {}), int(at.get("bin_newest") or at["binned"])
        for rows, after in self._hub.pages(kind, (), archived=True, after=at.get("bin")):
            gone = [self._hub.record(r) for r in rows]
            newest = max([newest, *(r.version[0] for r in gone)])
            new = [r for r in gone if r.version[0] >= since and told.get(r.key) != r.version[0]]
            if after is None:
                at.pop("bin", None)
                at.pop("bin_newest", None)
                at |= {"binned": newest, "looked": time.time()}
            else:
                at |= {"bin": after, "bin_newest": newest}
            yield Page(new, dict(at), read=len(rows))
            told.update({r.key: r.version[0] for r in new})
        self._binned_told[kind] = {k: ms for k, ms in told.items() if ms >= newest - self._lag_ms}

    def _everything(self, task: Task) -> Iterator[Page]:
        """Meet every id there is: what was told before and is not met was deleted, merged or erased."""
        for rows, after in self._hub.pages(task.table.table, ()):
            met = [self._hub.record(r).key for r in rows]
            yield Page([], {"after": after}, read=len(rows), met=met, whole=True, last=after is None)


def _merged_away(seen: Seen) -> list[Record]:
    """Return the ids that were merged into records, as deleted."""
    return [
        Record(old, {}, MERGED_AWAY, record.at, deleted=True)
        for record in seen.records.values()
        for old in merged_into(record)
    ]


def _filter(name: str, operator: str, value: Any) -> dict[str, Any]:
    return {"propertyName": name, "operator": operator, "value": str(value)}


class HubSpotProducer(ApiProducer):
    """Capture HubSpot."""

    source = HubSpotSource
    kinds: ClassVar[tuple[str, ...]] = ("poll", "overlap", "deletes")
    hook: ClassVar[type[Hook] | None] = HubSpotHook
