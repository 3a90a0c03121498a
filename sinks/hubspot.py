"""Writes to HubSpot: batches of a hundred in which every record stands for itself, by a trace id of its own.

A record that we make carries our canonical id in a property that must be unique (``canonical_id``, `tidelock_id` unless told otherwise), so a
create whose answer was lost cannot happen twice: the second one is refused, and the record found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sinks.api import ApiSink
from sinks.target import Creation, Edit, Result
from tidelock.apis.hubspot import BATCH_MOST, CURRENT, OBJECTS, HubSpot, Row
from tidelock.apis.hubspot_columns import EXTERNAL
from tidelock.apis.hubspot_errors import absent, body_of, field_of, holder, passes, reject, unique
from tidelock.apis.records import ApiColumn, Record
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Reject, Retry
from tidelock.tenants import Tenant

_ROUNDS = 3
_SILENT: Row = {"category": "INTERNAL_ERROR", "message": "the answer says nothing of this record"}


class HubSpotTarget:
    """One tenant's portal (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = False

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._hub = HubSpot(context, tenant)

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a kind of objects; the one for our canonical ids is made if it is not there."""
        return self._hub.columns(table, writing=True)

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Read records by id, at once as they stand."""
        return self._hub.by_ids(table.table, keys, names).records

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:  # noqa: ARG002
        """Ask nothing: `create` is refused for a record that is there already, and only then is it looked for."""
        return {}

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make records; one that was made before with the same canonical id is met."""
        own = table.canonical_id or EXTERNAL
        inputs = [_input(i.canonical_id, {**i.values, own: i.canonical_id}) for i in items]
        done, failed = self._write(table, "create", inputs)
        ours = self._holders(table.table, own, [i.canonical_id for i in items if i.canonical_id in failed])
        sent = {i.canonical_id: i.values for i in items}
        taken = self._taken(table.table, {t: e for t, e in failed.items() if t not in ours and unique(e)}, sent)
        out = []
        for item in items:
            trace = item.canonical_id
            if trace in done:
                out.append(self._done(done[trace]))
            elif trace in ours:
                out.append(Result(ours[trace]))  # made before, by us: its answer was lost
            else:
                out.append(self._failed(table, failed[trace], taken.get(trace)))
        return self._settled(out, "create")

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change records."""
        inputs = []
        for item in items:
            current = item.key if item.seen is None else str(item.seen.values.get(CURRENT) or item.key)
            inputs.append({"id": current, **_input(item.key, item.values)})
        done, failed = self._write(table, "update", inputs)
        sent = {i.key: i.values for i in items}
        taken = self._taken(table.table, {t: e for t, e in failed.items() if unique(e)}, sent)
        out = []
        for item in items:
            if item.key in done:
                out.append(self._done(done[item.key], item.key))
            else:
                out.append(self._failed(table, failed[item.key], taken.get(item.key)))
        return self._settled(out, "update")

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Put records into the bin, by the ids that they have now; what is gone already is done."""
        records = self._hub.by_ids(table.table, keys, ()).records
        current = [str(records[key].values[CURRENT]) for key in dict.fromkeys(keys) if key in records]
        for at in range(0, len(current), BATCH_MOST):
            body = {"inputs": [{"id": i} for i in current[at : at + BATCH_MOST]]}
            path = f"{OBJECTS}/{table.table}/batch/archive"
            self._hub.send("POST", path, json=body, repeat=True, name="batch archive")
        return [Result(key) for key in keys]

    def close(self) -> None:
        """Close connections."""
        self._hub.close()

    # ------------------------------------------------------------------------------------------------ calls

    def _write(self, table: TableSpec, what: str, inputs: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
        """Write inputs; return what stands there and what went wrong, by trace id."""
        columns = self._hub.columns(table, writing=True)
        names = [n for n, c in columns.items() if c.unique or n == "email"]
        done: dict[str, Row] = {}
        failed: dict[str, Row] = {}
        for some in _apart(inputs, names):
            more, wrong = self._round(table.table, what, some)
            done |= more
            failed |= wrong
        return done, failed

    def _round(self, kind: str, what: str, inputs: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
        """Write inputs that share no unique value; what fails with trouble that passes by itself is sent again."""
        done: dict[str, Row] = {}
        failed: dict[str, Row] = {}
        todo = list(inputs)
        for _ in range(_ROUNDS):
            failed = {t: e for t, e in failed.items() if not passes(e)}
            for at in range(0, len(todo), BATCH_MOST):
                some, wrong = self._batch(kind, what, todo[at : at + BATCH_MOST])
                done |= some
                failed |= wrong
            todo = [i for i in todo if passes(failed.get(i["objectWriteTraceId"], {}))]
            if not todo:
                break
        return done, failed

    def _batch(self, kind: str, what: str, inputs: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
        path = f"{OBJECTS}/{kind}/batch/{what}"
        answer = self._hub.send("POST", path, json={"inputs": list(inputs)}, ok=(400, 409), name=f"batch {what}")
        traces = [str(i["objectWriteTraceId"]) for i in inputs]
        body = body_of(answer)
        if answer.status >= 300:  # the whole batch was refused for one of its records: find it by halves
            if len(inputs) == 1:
                return {}, {traces[0]: dict(body)}
            return self._halves(kind, what, inputs)
        by_id = {str(i["id"]): t for i, t in zip(inputs, traces, strict=True) if "id" in i}
        done: dict[str, Row] = {}
        failed: dict[str, Row] = {}
        for row in body.get("results") or ():
            trace = row.get("objectWriteTraceId") or by_id.get(str(row["id"]))
            if trace is not None:
                done[str(trace)] = row
        unnamed = []
        for entry in body.get("errors") or ():
            context = entry.get("context") or {}
            named = [str(t) for t in context.get("objectWriteTraceId") or ()]
            named = named or [by_id[str(i)] for i in context.get("ids") or () if str(i) in by_id]
            failed |= {trace: dict(entry) for trace in named}
            if not named:
                unnamed.append(dict(entry))
        left = [i for i, t in zip(inputs, traces, strict=True) if t not in done and t not in failed]
        if len(left) == 1:
            failed[str(left[0]["objectWriteTraceId"])] = unnamed[0] if unnamed else _SILENT
        elif left:  # which error is whose shows when they are sent by halves
            more_done, more_failed = self._halves(kind, what, left)
            done |= more_done
            failed |= more_failed
        return done, failed

    def _halves(self, kind: str, what: str, inputs: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
        half = len(inputs) // 2
        done, failed = self._batch(kind, what, inputs[:half])
        more_done, more_failed = self._batch(kind, what, inputs[half:])
        return {**done, **more_done}, {**failed, **more_failed}

    # ------------------------------------------------------------------------------------------------ conflicts

    def _holders(self, kind: str, name: str, values: Sequence[str]) -> dict[str, str]:
        """Return the keys of records by the value they have in a property that must be unique."""
        out: dict[str, str] = {}
        for rows, _ in self._hub.batches(kind, values, (name,), by=name):
            for row in rows:
                value = str((row.get("properties") or {}).get(name) or "")
                out[value] = self._hub.record(row).key
        return out

    def _taken(self, kind: str, entries: Mapping[str, Row], sent: Mapping[str, Row]) -> dict[str, str | None]:
        """Return whose the values are that must be unique, by trace id; None where HubSpot does not tell."""
        out: dict[str, str | None] = dict.fromkeys(entries)
        ids = {trace: found for trace, entry in entries.items() if (found := holder(entry)) is not None}
        seen = self._hub.by_ids(kind, list(ids.values()), ())
        for trace, found in ids.items():
            out[trace] = seen.merged.get(found, found)
        for trace, entry in entries.items():
            name = field_of(entry)
            value = None if name is None else sent[trace].get(name)
            if trace not in ids and name is not None and value:
                out[trace] = next(iter(self._holders(kind, name, [str(value)]).values()), None)
        return out

    # ------------------------------------------------------------------------------------------------ results

    def _done(self, row: Row, key: str | None = None) -> Result:
        record = self._hub.record(row)
        record.key, record.ours = key or record.key, True
        return Result(record.key, record)

    def _failed(self, table: TableSpec, entry: Row, taken: str | None) -> Result:
        if absent(entry):
            return Result(missing=True)
        error = reject(entry, self._hub.columns(table, writing=True))
        if unique(entry):
            return Result(taken, error=error, taken=True)
        if passes(entry):
            return Result(error=Reject(error.message, kind="not_now", hint="tried again with its next change"))
        return Result(error=error)

    def _settled(self, results: list[Result], what: str) -> list[Result]:
        """Return results; if the portal's trouble hit all of them, it is no record's fault. Raises Retry."""
        waits = [r for r in results if r.error is not None and r.error.kind == "not_now"]
        if waits and len(waits) == len(results):
            assert waits[0].error is not None
            raise Retry(f"{self._hub.tenant.path}, {what}: {waits[0].error.message}", hint="tried again by itself")
        return results


def _input(trace: str, values: Mapping[str, Any]) -> Row:
    """Return an input of a batch; an empty text clears a property."""
    properties = {name: "" if value is None else value for name, value in values.items()}
    return {"objectWriteTraceId": trace, "properties": properties}


def _apart(inputs: Sequence[Row], names: Sequence[str]) -> list[list[Row]]:
    """Put inputs with one unique value into different rounds: only when the first one is there does HubSpot say who holds it."""
    rounds: list[list[Row]] = []
    met: list[set[tuple[str, str]]] = []
    for one in inputs:
        properties = one["properties"]
        claims = {(n, str(properties[n]).strip().lower()) for n in names if properties.get(n)}
        at = next((n for n, known in enumerate(met) if not known & claims), len(rounds))
        if at == len(rounds):
            rounds.append([])
            met.append(set())
        rounds[at].append(one)
        met[at] |= claims
    return rounds


class HubSpotSink(ApiSink):
    """Write to HubSpot."""

    target = HubSpotTarget
