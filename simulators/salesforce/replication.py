"""getUpdated and getDeleted: which records changed or went in a window of time, and how far the answer can be trusted."""

from __future__ import annotations

from typing import Any

from simulators.salesforce.asking import Ask, Reply
from simulators.salesforce.context import Context
from simulators.salesforce.errors import Refusal
from simulators.salesforce.tables import Table
from simulators.salesforce.times import seconds, stamp

_DAY_S = 86400.0
UPDATED_BACK_S = 30 * _DAY_S
DELETED_BACK_S = 15 * _DAY_S
MOST_IDS = 600_000


class Replication:
    """The handlers of ``sobjects/{type}/updated`` and ``…/deleted``. ``most_ids`` is the most that one answer holds."""

    def __init__(self, context: Context, most_ids: int = MOST_IDS) -> None:
        self._org = context.org
        self.most_ids = most_ids
        context.router.add("sobjects/*/updated", GET=self._updated)
        context.router.add("sobjects/*/deleted", GET=self._deleted)

    def _updated(self, ask: Ask) -> Reply:
        table = self._org.resource(ask.parts[1])
        start, end, covered = self._window(ask, table, UPDATED_BACK_S)
        found = []
        for id_ in dict.fromkeys([*table.stamped(start, end), *table.hidden]):
            row = table.seen(id_)
            if row is not None and not row["IsDeleted"] and start <= row["SystemModstamp"] <= end:
                found.append(id_)
        self._bounded(found)
        return Reply(data={"ids": found, "latestDateCovered": covered})

    def _deleted(self, ask: Ask) -> Reply:
        org = self._org
        table = org.resource(ask.parts[1])
        earliest = max(org.earliest_deletion, org.clock.now() - DELETED_BACK_S)
        start, end, covered = self._window(ask, table, DELETED_BACK_S, org.earliest_deletion)
        found = [
            {"deletedDate": at, "id": id_} for at, id_ in table.deleted_between(start, end) if id_ not in table.hidden
        ]
        self._bounded(found)
        return Reply(
            data={
                "deletedRecords": found,
                "earliestDateAvailable": stamp(earliest),
                "latestDateCovered": covered,
            }
        )

    def _bounded(self, found: list[Any]) -> None:
        if len(found) > self.most_ids:
            raise Refusal(
                "EXCEEDED_ID_LIMIT", f"exceeded the limit of {self.most_ids} ids in one answer: narrow the window"
            )

    def _window(self, ask: Ask, table: Table, back_s: float, earliest: float = 0.0) -> tuple[str, str, str]:
        """Return start, end and latest date covered. Raises Refusal (INVALID_REPLICATION_DATE and others)."""
        if not table.kind.writable:
            raise Refusal("INVALID_TYPE", f"{table.kind.name} is not replicateable")
        start, end = (_whole_minute(ask, name) for name in ("start", "end"))
        now = self._org.clock.now()
        if end - start <= 60:
            raise Refusal(
                "INVALID_REPLICATION_DATE",
                "startDate and endDate must be more than one minute apart, and startDate must be before endDate",
            )
        if start < now - back_s:
            raise Refusal("INVALID_REPLICATION_DATE", f"startDate cannot be more than {back_s / _DAY_S:.0f} days ago")
        if start < earliest:
            raise Refusal(
                "INVALID_REPLICATION_DATE", f"startDate before org replication enabled date: {stamp(earliest)}"
            )
        covered = stamp(min(end, now // 60 * 60))
        if (open_ := self._org.oldest_open()) is not None:
            covered = min(covered, open_)
        return stamp(start), stamp(end), covered


def _whole_minute(ask: Ask, name: str) -> float:
    text = ask.query.get(name)
    if text is None:
        raise Refusal("MISSING_ARGUMENT", f"Missing required parameter: {name}")
    try:
        return seconds(text) // 60 * 60
    except ValueError:
        raise Refusal("INVALID_REPLICATION_DATE", f"{name} is no date: {text}") from None
