"""Readings of Salesforce objects by keyset: by time for changes, by id for everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from producers.source import Task
from tidelock.apis.records import Record
from tidelock.apis.salesforce import PAGE, SETTLED_S, Row, Salesforce, iso, quoted, stamp_of
from tidelock.apis.salesforce_columns import Described
from tidelock.apis.salesforce_errors import long_id

_LOOKS = 3  # at a record that is being changed

Place = tuple[int, str]  # a time in seconds, and the id of the record that was read last in it


@dataclass
class Told:
    """What this worker has told of an entity lately, so that what is looked at again on purpose is not told again."""

    times: dict[str, int] = field(default_factory=dict)

    def news(self, rows: Sequence[Row], thing: Described) -> list[Row]:
        """Return the rows whose present state was not told."""
        return [r for r in rows if self.times.get(r["Id"]) != self._mark(r, thing)]

    def add(self, rows: Sequence[Row], thing: Described) -> None:
        """Take note of rows that are in Kafka."""
        self.times.update({r["Id"]: self._mark(r, thing) for r in rows})

    def forget(self, before: int) -> None:
        """Forget what nobody looks at again."""
        if len(self.times) > 1000:
            self.times = {key: at for key, at in self.times.items() if at >= 2 * before}

    def _mark(self, row: Row, thing: Described) -> int:
        return 2 * stamp_of(row, thing) + bool(row.get("IsDeleted"))


def by_time(org: Salesforce, task: Task, since: Place, until: int) -> Iterator[tuple[list[Row], Place]]:
    """Read what was touched behind a place and up to a time that is over, deleted records included, in order of (time, id)."""
    thing = org.describe(task.table.table)
    fields = ", ".join(org.selected(thing, task.names))
    at, last = since
    while at <= until:
        behind = f"{thing.stamp} >= {iso(at)}"
        if last:
            behind += f" AND ({thing.stamp} > {iso(at)} OR Id > {quoted(last)})"
        rows, done = org.query(
            f"SELECT {fields} FROM {thing.name} WHERE {behind} AND {thing.stamp} <= {iso(until)}"
            f" ORDER BY {thing.stamp}, Id LIMIT {PAGE}",
            deleted=True,
        )
        if rows:
            at, last = stamp_of(rows[-1], thing), rows[-1]["Id"]
            yield rows, (at, last)
        if done and len(rows) < PAGE:
            return


def by_id(
    org: Salesforce, thing: Described, fields: Sequence[str], conditions: Sequence[str], after: str | None = None
) -> Iterator[tuple[list[Row], bool]]:
    """Read all records for which some conditions hold, by id, and say with each page whether it is the last."""
    while True:
        held = [*conditions, *([f"Id > {quoted(after)}"] if after else [])]
        where = f" WHERE {' AND '.join(held)}" if held else ""
        rows, done = org.query(f"SELECT {', '.join(fields)} FROM {thing.name}{where} ORDER BY Id LIMIT {PAGE}")
        last = done and len(rows) < PAGE
        yield rows, last
        if last:
            return
        after = rows[-1]["Id"]


def records(org: Salesforce, thing: Described, rows: Sequence[Row]) -> list[Record]:
    """Turn rows into records."""
    return [org.record(thing, row) for row in rows]


def settled(
    org: Salesforce, thing: Described, keys: Sequence[str], names: Sequence[str], wait: Callable[[float], bool]
) -> tuple[dict[str, Row], list[str]]:
    """Read records by id, those in the Recycle Bin included, and return the keys that the org does not know besides.

    One that was touched just now is read again when its second is over; one that does not come to rest is left out.
    """
    out: dict[str, Row] = {}
    gone, left = list[str](), list(dict.fromkeys(keys))
    for attempt in range(_LOOKS):
        over = org.settled()
        rows = org.rows(thing, left, names)
        missing = [key for key in left if long_id(key) not in rows]
        if missing:
            rows |= org.removed(thing, missing)
            gone += [key for key in missing if long_id(key) not in rows]
        young = {key: at for key, row in rows.items() if (at := stamp_of(row, thing)) > over}
        out.update({key: row for key, row in rows.items() if key not in young})
        left = list(young)
        if (
            not left
            or attempt == _LOOKS - 1
            or wait(max(0.0, min(3.0, max(young.values()) + SETTLED_S + 0.5 - org.now())))
        ):
            break
        org.time()
    return out, gone
