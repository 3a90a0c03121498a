"""Writes to Salesforce: 200 records per call, or a bulk job where there are many; creates under our own id, which makes them once.

Salesforce cannot check in a call of many records whether one has changed since it was looked at. So records are read just before they are
written and just after: the first is the base check, the second tells where the write landed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from sinks.api import ApiSink
from sinks.target import Creation, Edit, Result, names_of
from tidelock.apis.records import ApiColumn, Record, micros_of
from tidelock.apis.salesforce import Row, Salesforce, cut, lists
from tidelock.apis.salesforce_bulk import BATCHES, NULL, Ingest
from tidelock.apis.salesforce_errors import locked, long_id, verdict
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry
from tidelock.limits import LimitSpec
from tidelock.tenants import Tenant

AT_ONCE = 200
_LOCK_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_WINDOWS_S = 130.0  # a minute, and what a transaction of the usual length holds `latestDateCovered` back
_READINGS_S = 15.0
_CREATED = "CreatedDate"


class SalesforceTarget:
    """One tenant's org (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = False

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._org = Salesforce(context, tenant)
        self._stop = context.stop
        self._captured = context.config.systems[tenant.system].capture != "none"
        options = tenant.options
        self._bulk_above = int(options.get("bulk_above", 2000))
        batches = context.access.limits(tenant, LimitSpec(daily=int(options.get("bulk_batches", BATCHES))), name="bulk")
        self._batches = batches
        self._bulk = Ingest(self._org, context.stop, batches, float(options.get("bulk_patience_s", 120.0)))

    def close(self) -> None:
        """Close connections, give back permits."""
        self._org.close()
        self._batches.close()

    def now(self) -> float:
        """Return the org's time, as its last answer told it."""
        return self._org.now()

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return an object's columns, as the capture has them. Raises Fatal if our id has no column that finds records."""
        key = table.canonical_id
        if key is not None and key not in self._org.describe(table.table).external:
            raise Fatal(
                f"{self._org.tenant.path}: {table.table}.{key} is no external id, or our user does not see it",
                hint="make it a text field with External ID and Unique, and give the user access to it",
            )
        return self._org.columns(table)

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Read records by id; those in the Recycle Bin are not there."""
        self._bulk.settle()
        thing = self._org.describe(table.table)
        rows = self._org.rows(thing, keys, names)
        return {key: self._org.record(thing, rows[long_id(key)]) for key in keys if long_id(key) in rows}

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:
        """Find records that carry these canonical ids."""
        self._bulk.settle()
        column, out = str(table.canonical_id), dict[str, str]()
        for part in lists(list(canonical_ids)):
            rows, _ = self._org.query(f"SELECT Id, {column} FROM {table.table} WHERE {column} IN ({part})")
            out.update({row[column]: row["Id"] for row in rows})
        return out

    # ------------------------------------------------------------------------------------------------ writing

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make records under their canonical id; without a column for it, a create whose answer is lost makes a second one."""
        key, name = table.canonical_id, table.table
        records = [dict(item.values) for item in items]

        def send(part: Sequence[Row]) -> list[Row]:
            if key is None:
                return self._collection("POST", "composite/sobjects", name, part, "create")
            return self._collection("PATCH", f"composite/sobjects/{name}/{key}", name, part, "upsert")

        before = self._org.now()
        told = self._carried_out(records, send, (name, "upsert", key) if key else None)
        return self._results(table, told, [None] * len(items), names_of(items), before)

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change records; what somebody does to a record between the look and this call is not noticed."""
        name = table.table
        records = [{"Id": item.key, **item.values} for item in items]

        def send(part: Sequence[Row]) -> list[Row]:
            return self._collection("PATCH", "composite/sobjects", name, part, "update")

        before = self._org.now()
        told = self._carried_out(records, send, (name, "update", "Id"))
        return self._results(table, told, [item.key for item in items], names_of(items), before)

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Put records into the Recycle Bin; one that is there already, or is not there at all, is done."""

        def send(part: Sequence[Row]) -> list[Row]:
            ids = ",".join(r["Id"] for r in part)
            params = {"ids": ids, "allOrNone": "false"}
            found: list[Row] = self._org.get("DELETE", "composite/sobjects", params=params, name="delete")
            return found

        told = self._carried_out([{"Id": key} for key in keys], send, (table.table, "delete", "Id"))
        thing = self._org.describe(table.table)
        done = [key for key, t in zip(keys, told, strict=True) if t["success"]]
        times = self._org.removed(thing, done) if self._captured and done else {}
        out = []
        for key, t in zip(keys, told, strict=True):
            if t["success"]:
                row = times.get(long_id(key))
                out.append(Result(key, version=None if row is None else self._org.record(thing, row).version))
                continue
            why = verdict(t["errors"], thing.columns)
            out.append(Result(key) if why.gone else Result(key, error=_later(why.error) if why.locked else why.error))
        return out

    def _collection(self, method: str, path: str, name: str, part: Sequence[Row], what: str) -> list[Row]:
        records = [{"attributes": {"type": name}, **r} for r in part]
        found: list[Row] = self._org.get(method, path, json={"allOrNone": False, "records": records}, name=what)
        return found

    def _carried_out(
        self, records: list[Row], send: Callable[[Sequence[Row]], list[Row]], job: tuple[str, str, str] | None
    ) -> list[Row]:
        """Carry records out by the way that takes the fewest calls; records that somebody has locked are tried some more times.

        Raises Retry if every record is locked: then it is no matter of single ones.
        """
        self._bulk.settle()
        told: list[Row] = [{}] * len(records)
        todo = list(range(len(records)))
        if job is not None and len(records) > self._bulk_above:
            name, operation, key = job
            fit = [
                i for i in todo if NULL not in records[i].values()
            ]  # a text that a CSV cannot hold goes the other way
            for i, t in zip(fit, self._bulk.run(name, operation, key, [records[i] for i in fit]), strict=True):
                told[i] = t
            todo = [i for i in todo if not told[i] or locked(told[i])]
        for pause_s in (0.0, *_LOCK_PAUSES_S):
            if not todo or (pause_s and self._stop.wait(pause_s)):
                break
            for part in cut(todo, AT_ONCE):
                for i, t in zip(part, send([records[i] for i in part]), strict=True):
                    told[i] = t
            todo = [i for i in todo if locked(told[i])]
        if todo and len(todo) == len(records):
            raise Retry(
                f"{self._org.tenant.path}: others hold the locks of all {len(records)} records",
                hint="tried again by itself; a long job in the org (a data load, a recalculation of sharing) may be going on",
            )
        return told

    # ------------------------------------------------------------------------------------------------ results

    def _results(
        self, table: TableSpec, told: list[Row], keys: Sequence[str | None], names: Sequence[str], before: int
    ) -> list[Result]:
        """Say what became of each record, and read what stands there now. ``before``: when nothing was written yet."""
        org, thing = self._org, self._org.describe(table.table)
        after = org.now()
        why = [None if t["success"] else verdict(t["errors"], thing.columns) for t in told]
        done = [str(t["id"]) for t in told if t["success"]] if self._captured else []
        doubtful = [key for key, w in zip(keys, why, strict=True) if w is not None and w.gone and key is not None]
        rows = org.rows(thing, [*done, *doubtful], names) if done or doubtful else {}
        out = []
        for key, t, w in zip(keys, told, why, strict=True):
            if w is None:
                row = rows.get(str(t["id"]))
                made = bool(t.get("created", key is None))
                record = None if row is None else self._landed(org.record(thing, row), row, made, before, after)
                version = None if record is not None else (before * 1_000_000, 0)
                out.append(Result(str(t["id"]), record, version))
            elif w.taken:
                own = table.canonical_id is not None and f" {table.canonical_id} duplicates" in w.error.message
                # Our own id there means that the record was made by us, whose answer was lost.
                out.append(Result(w.holder) if own and w.holder else Result(w.holder, error=w.error, taken=True))
            elif w.locked:
                out.append(Result(key, error=_later(w.error)))
            else:
                missing = w.gone and key is not None and long_id(key) not in rows
                out.append(Result(missing=True) if missing else Result(key, error=w.error))
        return out

    def _landed(self, record: Record, row: Row, made: bool, before: int, after: int) -> Record:
        """Return a record at the place where our write is met: its present time only if nobody can have touched it since."""
        if made and row.get(_CREATED):
            return replace(record, version=(micros_of(str(row[_CREATED])), 0))
        if record.ours and record.version[0] <= after * 1_000_000:
            return record
        return replace(record, version=(before * 1_000_000, 0))


def _later(error: Reject) -> Reject:
    return Reject(
        error.message,
        kind="locked",
        hint="somebody holds the record's lock; it is tried again with its next change, or by `tidelock dlq retry`",
    )


class SalesforceSink(ApiSink):
    """Write to Salesforce orgs."""

    target = SalesforceTarget

    def held_back_s(self, tenant: Tenant) -> float:
        """Return how long capture holds changes back: windows of whole minutes, or only until a second is over."""
        return _WINDOWS_S if tenant.options.get("changes", "updated") == "updated" else _READINGS_S
