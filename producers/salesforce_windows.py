"""Changes by getUpdated and getDeleted: windows of whole minutes, each begun where the org said that the last one was complete.

``latestDateCovered`` is held back by transactions that are still open, so a change that becomes visible late is in a later window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producers.salesforce_pages import Told, by_time, records
from producers.source import Cursor, Page, Task
from tidelock.apis.records import Record, micros_of
from tidelock.apis.salesforce import PAGE, Salesforce, cut
from tidelock.errors import Reject

SHORTEST_S = 120
"""The org takes windows of more than one minute, and cuts their ends to whole minutes."""
_YOUNG_S = 5  # a window ends in a second that is over, whichever machine of the org is asked


def windows(
    org: Salesforce, task: Task, cursor: Cursor, told: Told, whole: Callable[[], Iterator[Page]]
) -> Iterator[Page]:
    """Read what has changed since a cursor; ``whole`` reads everything, for when the org no longer knows what was deleted."""
    at, name = int(cursor["at"]), org.describe(task.table.table).name
    newest = _minute(org.time() - _YOUNG_S)
    asked, end = int(cursor.get("asked", 0)), cursor.get("end")
    if end is None and newest <= max(at, asked):
        yield Page([], dict(cursor), last=True)  # no whole minute has passed: there is nothing to ask for
        return
    until = int(end) if end is not None else newest
    begun: Cursor | None = dict(cursor) if end is not None else None  # broken off within a window: go on in it
    while True:
        start = _minute(min(at, until - SHORTEST_S))
        if begun is not None and "scan" in begun:
            yield from _by_query(org, task, (int(begun["scan"][0]), str(begun["scan"][1])), {"at": at, "end": until})
            at, begun = until, None
            if until >= newest:
                yield Page([], {"at": at, "asked": until}, last=True)
                return
            until = newest
            continue
        try:
            updated = org.window("updated", name, start, until)
            deleted = org.window("deleted", name, start, until)
        except Reject as error:
            if error.kind == "invalid_replication_date":
                yield from whole()
                return
            if error.kind != "exceeded_id_limit":
                raise
            if until - start > SHORTEST_S:
                until = start + max(SHORTEST_S, _minute((until - start) // 2))
                continue
            begun = {"scan": [start, ""]}
            continue
        else:
            covered = min(until, *(micros_of(a["latestDateCovered"]) // 1_000_000 for a in (updated, deleted)))
            if begun is not None and "covered" in begun:
                covered = min(covered, int(begun["covered"]))  # what came late since then belongs to the next window
            yield from _updated(org, task, updated["ids"], {"at": at, "end": until, "covered": covered}, begun, told)
            yield from _deleted(deleted["deletedRecords"], {"at": at, "end": until, "covered": covered})
        at, begun = covered, None
        told.forget(start - SHORTEST_S)
        if until >= newest or covered < until:
            yield Page([], {"at": at, "asked": until}, last=True)
            return
        yield Page([], {"at": at, "asked": until})
        until = newest


def _updated(
    org: Salesforce, task: Task, ids: list[str], here: Cursor, begun: Cursor | None, told: Told
) -> Iterator[Page]:
    thing, after = org.describe(task.table.table), (begun or {}).get("after", "")
    for part in cut(sorted(i for i in ids if i > after), PAGE):
        over = org.settled()
        read = org.rows(thing, part, task.names)
        # What is younger than that has changed since the window ended, so a later window has it.
        rows = told.news([r for r in read.values() if micros_of(r[thing.stamp]) // 1_000_000 <= over], thing)
        yield Page(records(org, thing, rows), {**here, "after": part[-1]}, read=len(part))
        told.add(rows, thing)


def _deleted(gone: list[Mapping[str, Any]], here: Cursor) -> Iterator[Page]:
    for part in cut(gone, PAGE):
        found = []
        for row in part:
            at = micros_of(str(row["deletedDate"]))
            found.append(Record(str(row["id"]), {}, (at, 1), at, deleted=True))
        yield Page(found, {**here, "after": "~"})


def _by_query(org: Salesforce, task: Task, since: tuple[int, str], here: Cursor) -> Iterator[Page]:
    """Read a window that holds more ids than the org tells in one answer; deleted records are among what is found."""
    thing = org.describe(task.table.table)
    for rows, place in by_time(org, task, since, int(here["end"])):
        yield Page(records(org, thing, rows), {**here, "scan": list(place)})


def _minute(at: float) -> int:
    return int(at) // 60 * 60
