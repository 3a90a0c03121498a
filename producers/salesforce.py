"""Capture of Salesforce: changes by windows, by queries or by events (`options.changes`), and first loads by query or by a bulk job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from producers.api import ApiProducer
from producers.salesforce_events import LATE_S, Line, listened
from producers.salesforce_pages import Told, by_id, by_time, records, settled
from producers.salesforce_windows import windows
from producers.schedule import Schedule
from producers.source import Cursor, Page, Task
from tidelock.apis.records import ApiColumn, Record
from tidelock.apis.salesforce import SETTLED_S, Salesforce, iso, stamp_of
from tidelock.apis.salesforce_bulk import begin_query, query_page, query_state
from tidelock.apis.salesforce_columns import Described
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject
from tidelock.tenants import Tenant

MODES = ("updated", "query", "events")
LOADS = ("auto", "soql", "bulk")
_BULK_FROM = 100_000  # records: from here on a bulk job takes fewer calls than a reserve of them is worth
_PER_PART, _MOST_PARTS = 20_000, 16
_BULK_PAGE = 20_000
_LOOK_S = 2.0
_LISTEN_S = 5.0
_LOOKS_BACK = 5  # times within the time that is looked back, lest a large change is read with every poll


class SalesforceSource:
    """One tenant's org (`producers.source.Source`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        options = tenant.options
        self._mode, self._load = str(options.get("changes", "updated")), str(options.get("load", "auto"))
        for name, value, known in (("changes", self._mode, MODES), ("load", self._load, LOADS)):
            if value not in known:
                raise Fatal(f"{tenant.path}: options.{name} is {value!r}", hint=f"it is one of {', '.join(known)}")
        self._org = Salesforce(context, tenant)
        self._wait = context.stop.wait
        self._late_s = int(options.get("look_back_s", LATE_S))
        entities = len(context.config.systems[tenant.system].entities)
        # Entities of a tenant take turns, so that what happens to one does not wait long for the others.
        self._listen_s = float(options.get("listen_s", max(0.5, _LISTEN_S / max(1, entities))))
        self._looked: dict[str, int] = {}
        self._told: dict[str, Told] = {}
        self._lines: dict[str, Line] = {}

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return an object's columns as it is described to our user."""
        return self._org.columns(table)

    def close(self) -> None:
        """Close connections."""
        self._org.close()

    # ------------------------------------------------------------------------------------------------ changes

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        """Read what has changed since a cursor, in the way that `options.changes` names."""
        if kind == "deletes":
            yield from self._keys(task)
        elif kind == "overlap":
            yield from self._overlap(task, cursor or {})
        elif cursor is None:
            yield Page([], {"at": self._org.time() - self._late_s}, last=True)
        elif self._mode == "query":
            yield from self._query(task, cursor)
        elif self._mode == "events":
            line, told = self._line(task), self._told.setdefault(task.entity, Told())
            whole = partial(self._whole, task)
            yield from listened(self._org, task, cursor, line, told, self._wait, whole)
        else:
            told = self._told.setdefault(task.entity, Told())
            yield from windows(self._org, task, cursor, told, lambda: self._whole(task, None))

    def _line(self, task: Task) -> Line:
        thing = self._org.describe(task.table.table)
        return self._lines.setdefault(task.entity, Line(self._org, f"/data/{thing.event}", self._listen_s))

    def _query(self, task: Task, cursor: Cursor) -> Iterator[Page]:
        """Read by (time, id) what is over, and again what is so young that something may have become visible late."""
        org, thing = self._org, self._org.describe(task.table.table)
        until, at, scan = org.time() - SETTLED_S, int(cursor["at"]), cursor.get("scan")
        told = self._told.setdefault(task.entity, Told())
        since = (int(scan[0]), str(scan[1])) if scan else (at, "")
        if not scan and until - self._looked.get(task.entity, 0) >= self._late_s / _LOOKS_BACK:
            self._looked[task.entity] = until
            since = at - self._late_s, ""
        for rows, place in by_time(org, task, since, until):
            fresh = told.news(rows, thing)
            yield Page(records(org, thing, fresh), {"at": at, "scan": list(place)}, read=len(rows))
            told.add(fresh, thing)
        told.forget(until - 2 * self._late_s)
        yield Page([], {"at": max(at, until)}, last=True)

    def _overlap(self, task: Task, cursor: Cursor) -> Iterator[Page]:
        """Read back by (time, id) from where polling stands, whichever way changes are read otherwise."""
        org, thing, back = self._org, self._org.describe(task.table.table), cursor.get("back")
        until = int(cursor["until"]) if back else org.time() - SETTLED_S
        since = (int(back[0]), str(back[1])) if back else (int(cursor.get("at", until) - task.table.overlap_s), "")
        for rows, place in by_time(org, task, since, until):
            yield Page(records(org, thing, rows), {"back": list(place), "until": until})
        yield Page([], {"at": until}, last=True)

    # ------------------------------------------------------------------------------------------------ everything

    def _whole(self, task: Task, replay: int | None) -> Iterator[Page]:
        """Read every record; the capture takes what it does not meet for deleted. Broken off, it begins anew."""
        org, thing = self._org, self._org.describe(task.table.table)
        began = org.time()
        then: Cursor = {"at": began - self._late_s, "replay": replay}
        for rows, last in by_id(org, thing, org.selected(thing, task.names), ()):
            old = [r for r in rows if stamp_of(r, thing) <= began - SETTLED_S]
            young = [r["Id"] for r in rows if stamp_of(r, thing) > began - SETTLED_S]  # polling goes on before them
            yield Page(records(org, thing, old), then, read=len(rows), met=young, whole=True, last=last)

    def _keys(self, task: Task) -> Iterator[Page]:
        """Read the keys of every record, for what was deleted past the Recycle Bin."""
        org, thing = self._org, self._org.describe(task.table.table)
        for rows, last in by_id(org, thing, ("Id",), ()):
            yield Page([], {}, read=len(rows), met=[r["Id"] for r in rows], whole=True, last=last)

    # ------------------------------------------------------------------------------------------------ first load

    def parts(self, task: Task, where: str | None) -> list[Cursor]:
        """Cut a load into spans of creation times, or leave it whole for a bulk job. Raises Fatal if ``where`` is no SOQL."""
        org, thing = self._org, self._org.describe(task.table.table)
        if where:
            try:
                org.query(f"SELECT Id FROM {thing.name} WHERE ({where}) LIMIT 1")
            except Reject as error:
                raise Fatal(f"the condition {where!r} cannot be asked: {error.message}", hint="it is SOQL") from error
        count = org.count(thing.name)
        bulk = not (thing.compound & set(task.names))  # bulk queries know no compound fields
        if bulk and (self._load == "bulk" or (self._load == "auto" and count >= _BULK_FROM)):
            return [{"bulk": None, "where": where}]
        number = min(_MOST_PARTS, count // _PER_PART + 1)
        if number < 2 or not thing.dated:
            return [{"where": where}]
        ends = [
            org.query(f"SELECT CreatedDate FROM {thing.name} ORDER BY CreatedDate {order} LIMIT 1")[0]
            for order in ("ASC", "DESC")
        ]
        if not all(ends):
            return [{"where": where}]
        first, last = (stamp_of({thing.stamp: rows[0]["CreatedDate"]}, thing) for rows in ends)
        cuts = sorted({first + (last - first) * n // number for n in range(1, number)})
        return [
            {"from": low, "to": high, "where": where} for low, high in zip([None, *cuts], [*cuts, None], strict=True)
        ]

    def load(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read one part on from where it stands. What is changed just now is left to polling, which has begun before."""
        if "bulk" in part:
            yield from self._bulk(task, part)
            return
        org, thing = self._org, self._org.describe(task.table.table)
        conditions = _conditions(part, thing, org.time() - SETTLED_S)
        for rows, last in by_id(org, thing, org.selected(thing, task.names), conditions, part.get("after")):
            after = rows[-1]["Id"] if rows else part.get("after")
            yield Page(records(org, thing, rows), {**part, "after": after}, last=last)

    def _bulk(self, task: Task, part: Cursor) -> Iterator[Page]:
        """Read one part by a bulk job; one that the org has forgotten is begun again."""
        org, thing, part = self._org, self._org.describe(task.table.table), dict(part)
        while True:
            job = part["bulk"]
            state = query_state(org, job) if job else None
            if job is None or state is None:
                where = " AND ".join(_conditions(part, thing, org.time() - SETTLED_S))
                fields = ", ".join(org.selected(thing, task.names))
                part |= {"bulk": begin_query(org, f"SELECT {fields} FROM {thing.name} WHERE {where}"), "locator": None}
                yield Page([], dict(part))
            elif state != "JobComplete":
                self._wait(_LOOK_S)
                yield Page([], dict(part))
            else:
                break
        while True:
            rows, following = query_page(org, job, part.get("locator"), _BULK_PAGE)
            part["locator"] = following
            yield Page(records(org, thing, rows), dict(part), last=following is None)
            if following is None:
                return

    # ------------------------------------------------------------------------------------------------ single records

    def read(self, task: Task, keys: Sequence[str]) -> list[Record]:
        """Read single records; one that does not come to rest within seconds is left out, and told by the next poll."""
        org, thing = self._org, self._org.describe(task.table.table)
        rows, gone = settled(org, thing, keys, task.names, self._wait)
        at = org.now() * 1_000_000
        found = {record.key: record for record in records(org, thing, list(rows.values()))}
        return [*found.values(), *(Record(key, {}, (at, 1), at, deleted=True) for key in gone)]


def _conditions(part: Cursor, thing: Described, until: int) -> list[str]:
    low, high, where = part.get("from"), part.get("to"), part.get("where")
    out = [f"{thing.stamp} <= {iso(until)}"]
    out += [f"CreatedDate >= {iso(low)}"] if low is not None else []
    out += [f"CreatedDate < {iso(high)}"] if high is not None else []
    return [*out, *([f"({where})"] if where else [])]


class SalesforceProducer(ApiProducer):
    """Capture Salesforce orgs."""

    source = SalesforceSource

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Add the comparison of all keys, if a time was given for it: only deletions past the Recycle Bin need it."""
        out = super().schedules(entity)
        cron: Any = self.spec.options.get("find_deletes")
        if cron:
            what = f"options.find_deletes of system {self.system}"
            out["deletes"] = Schedule(str(cron), 0.0, self._zone, what=what)
        return out
