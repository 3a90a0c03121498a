"""Writes to Dynamics 365: batches whose requests stand each for themselves, every update under the row's version.

A record that we make gets our canonical id for its key, so making it twice is impossible: the second attempt is answered with "exists".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from sinks.api import ApiSink
from sinks.target import Creation, Edit, Json, Result
from tidelock.apis.dynamics import TAG, Dataverse, exact
from tidelock.apis.dynamics_answers import gone, met, passes, reject, taken, unprivileged
from tidelock.apis.dynamics_tables import Entity
from tidelock.apis.judging import Answer, sentence
from tidelock.apis.multipart import Part
from tidelock.apis.records import ApiColumn, Record
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject
from tidelock.tenants import Tenant

MULTIPLE = 100  # rows to be made from which on CreateMultiple pays for reading them back
_STATE = ("statecode", "statuscode")
_NOT_KNOWN = (404, 405, 501)  # the table has no CreateMultiple
_UNDONE = (400, 403, *_NOT_KNOWN, 409, 412, 413, 500)  # all of it: each row is sent for itself then

Asked = tuple[str, dict[str, str], Json]
"""A row that is to be sent: its key, the conditions, its values."""


class DynamicsTarget:
    """One tenant's environment (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = True

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._dataverse = Dataverse(context, tenant)
        self._tag = str(tenant.options.get("tag", TAG))
        self._headers = {"Accept": "application/json", "OData-Version": "4.0", "OData-MaxVersion": "4.0"}
        # Duplicate rules are asked for row by row: which of many was a duplicate, CreateMultiple does not say.
        options = tenant.options
        self._multiple = bool(options.get("create_multiple", True)) and not options.get("detect_duplicates")
        self._singly: set[str] = set()
        """Tables that have no CreateMultiple."""
        if tenant.options.get("bypass_custom_logic"):
            self._headers["MSCRM.BypassBusinessLogicExecution"] = "CustomSync,CustomAsync"
            self._headers["MSCRM.SuppressCallbackRegistrationExpanderJob"] = "true"
        if tenant.options.get("detect_duplicates"):
            self._headers["MSCRM.SuppressDuplicateDetection"] = "false"

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a table."""
        return self._dataverse.columns(table)

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:
        """Read rows by key."""
        return self._dataverse.by_ids(table, keys, names)

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:  # noqa: ARG002
        """Leave it to `create`: our canonical ids are the rows' keys, so that a create meets what is there without a call of its own."""
        return {}

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make rows with our canonical ids for their keys, then give them what new rows do not take."""
        entity = self._dataverse.entity(table)
        first, later = [], []
        for item in items:
            late = _late(entity, item.values)
            later.append(late)
            first.append({n: v for n, v in item.values.items() if n not in late})
        asked = [(item.canonical_id, {"If-None-Match": "*"}, values) for item, values in zip(items, first, strict=True)]
        shown = list(dict.fromkeys(name for late in later for name in late))
        out = self._created(entity, asked, shown)
        again = [i for i, result in enumerate(out) if result.moved]  # made before, by us: it is read back
        for i in again:
            out[i] = Result(items[i].canonical_id)
        waiting = [i for i, late in enumerate(later) if late and out[i].error is None]
        if not waiting:
            return out
        unread = [items[i].canonical_id for i in waiting if out[i].record is None]
        there = self._dataverse.by_ids(table, unread, tuple(dict.fromkeys((*shown, *(n for v in first for n in v)))))
        edits: list[tuple[int, Edit]] = []
        for i in waiting:
            record = out[i].record or there.get(items[i].canonical_id)
            if record is None or not record.ours:
                continue  # somebody has had it in hand since: it is as they want it
            left = {n: v for n, v in later[i].items() if record.values.get(n) != v}
            if left:
                edits.append((i, Edit(record.key, left, record)))
        for (i, edit), result in zip(edits, self.update(table, [edit for _, edit in edits]), strict=True):
            out[i] = self._whole(edit, result)
        return out

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change rows that have the version they were seen with."""
        if not items:
            return []
        entity = self._dataverse.entity(table)
        asked = [
            (item.key, {"If-Match": "*" if item.seen is None else f'W/"{item.seen.version[0]}"'}, item.values)
            for item in items
        ]
        return self._patched(entity, asked, "update", ())

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Delete rows; what is gone already is done."""
        entity = self._dataverse.entity(table)
        parts = [Part("DELETE", self._url(entity, key), dict(self._headers)) for key in keys]
        answers = self._dataverse.batch(parts, "delete")
        self._check_rights(answers)
        out = []
        for key, answer in zip(keys, answers, strict=True):
            done = answer.status in (200, 204, 404)
            out.append(Result(key) if done else self._result(entity, key, answer, None, {}))
        return out

    def close(self) -> None:
        """Close connections."""
        self._dataverse.close()

    # ------------------------------------------------------------------------------------------------ many

    def _created(self, entity: Entity, asked: Sequence[Asked], shown: Sequence[str]) -> list[Result]:
        """Make rows: many at once if there are many, else, and where that fails, each for itself."""
        out: list[Result] = []
        for at in range(0, len(asked), self._dataverse.batch_most):
            some = asked[at : at + self._dataverse.batch_most]
            made = len(some) >= MULTIPLE and self._multiple and self._made_at_once(entity, some)
            out += [Result(key) for key, _, _ in some] if made else self._patched(entity, some, "create", shown)
        return out

    def _made_at_once(self, entity: Entity, asked: Sequence[Asked]) -> bool:
        """Make all of these rows or none; return whether they were made. A row that is there already fails all of them."""
        if entity.name in self._singly:
            return False
        kind = f"Microsoft.Dynamics.CRM.{entity.name}"
        try:
            bodies = [self._body(entity, values)[0] for _, _, values in asked]
        except Reject:
            return False
        keyed = zip(asked, bodies, strict=True)
        targets = [{"@odata.type": kind, entity.key: key, **body} for (key, _, _), body in keyed]
        answer = self._dataverse.send(
            "POST",
            f"/{entity.set}/Microsoft.Dynamics.CRM.CreateMultiple",
            params={"tag": self._tag},
            json={"Targets": targets},
            headers=self._headers,
            cost=len(asked),
            ok=_UNDONE,
            name="create",
        )
        if answer.status in _NOT_KNOWN:
            self._singly.add(entity.name)
        return answer.status < 300

    # ------------------------------------------------------------------------------------------------ parts

    def _patched(self, entity: Entity, asked: Sequence[Asked], what: str, shown: Sequence[str]) -> list[Result]:
        """Send rows under conditions and say what became of each; ``shown`` are further columns that the answers are to tell."""
        out: list[Result | None] = []
        parts: list[Part] = []
        bound: list[dict[str, str]] = []
        for key, conditions, values in asked:
            try:
                body, references = self._body(entity, values)
            except Reject as error:
                out.append(Result(error=error))
                continue
            names = [*values, *shown]
            prefer = entity.prefer(names, "return=representation")
            headers = {**self._headers, **conditions, "Prefer": prefer}
            url = f"{self._url(entity, key)}&$select={entity.selected(names)}"
            parts.append(Part("PATCH", url, headers, body))
            bound.append(references)
            out.append(None)
        answers = self._dataverse.batch(parts, what)
        self._check_rights(answers)
        told = iter(zip(parts, bound, answers, strict=True))
        for i, (key, _, _) in enumerate(asked):
            if out[i] is None:
                part, references, answer = next(told)
                out[i] = self._result(entity, key, answer, part.body, references)
        return [result for result in out if result is not None]

    def _url(self, entity: Entity, key: str) -> str:
        return f"{self._dataverse.path}/{entity.set}({key})?tag={self._tag}"

    def _body(self, entity: Entity, values: Json) -> tuple[Json, dict[str, str]]:
        """Return values as a row takes them, and the keys of the rows that they refer to, by column. Raises Reject."""
        out: Json = {}
        references: dict[str, str] = {}
        for name, value in values.items():
            if name == entity.key:
                continue
            if name not in entity.lookups:
                out[name] = value
                continue
            property_, target, key = entity.bound(name, value)
            if target is None:
                out[f"{property_}@odata.bind"] = None
            else:
                out[f"{property_}@odata.bind"] = f"/{self._dataverse.named(target).set}({key})"
                references[name] = key
        return out, references

    def _result(
        self, entity: Entity, key: str, answer: Answer, body: Json | None, references: dict[str, str]
    ) -> Result:
        if answer.status in (200, 201):
            return Result(key, self._dataverse.record(entity, exact(answer)))
        if answer.status == 204:
            return Result(key)
        if gone(answer, key, body):
            return Result(missing=True)
        if met(answer):
            return Result(moved=True)
        error = reject(answer, entity.columns, references)
        if passes(answer):
            error.kind = "not_now"
        return Result(error=error, taken=taken(answer))

    def _check_rights(self, answers: Sequence[Answer]) -> None:
        """Raise Fatal if our user lacks a privilege: that is no fault of a record."""
        found = next((answer for answer in answers if unprivileged(answer)), None)
        if found is not None:
            raise Fatal(
                sentence(found, self._dataverse.tenant.path),
                hint="give the security role of the application user this privilege; writes wait until then",
            )

    def _whole(self, edit: Edit, result: Result) -> Result:
        """Return the result of a create whose second half was written: what both have told."""
        if result.moved:
            what = ", ".join(edit.values)
            text = f"the row was made, but somebody changed it before it got {what}"
            return Result(error=Reject(text, kind="contention", hint="tried again with its next change"))
        if result.record is not None and edit.seen is not None:
            result.record.values = {**edit.seen.values, **result.record.values}
        return result


def _late(entity: Entity, values: Json) -> Json:
    """Return what a new row does not take: above all a state other than the first, with the reason that belongs to it."""
    late = {n: v for n, v in values.items() if n in entity.later and v is not None}
    if any(n in late for n in _STATE):
        late |= {n: values[n] for n in _STATE if values.get(n) is not None}
    return late


class DynamicsSink(ApiSink):
    """Write to Dynamics 365."""

    target = DynamicsTarget
