"""Writes to Dynamics 365: batches whose requests stand each for themselves, every update under the row's version.

A record that we make gets our canonical id for its key, so making it twice is impossible: the second attempt is answered with "exists".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sinks.api import ApiSink
from sinks.target import Creation, Edit, Result
from tidelock.apis.dynamics import TAG, Dataverse, Entity, passes, reject, taken
from tidelock.apis.judging import Answer
from tidelock.apis.multipart import Part
from tidelock.apis.records import ApiColumn, Record
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Reject, Retry
from tidelock.tenants import Tenant

_EXISTS = 412


class DynamicsTarget:
    """One tenant's environment (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = True

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._dataverse = Dataverse(context, tenant)
        self._tag = str(tenant.options.get("tag", TAG))
        self._headers = {"Accept": "application/json", "OData-Version": "4.0", "OData-MaxVersion": "4.0"}
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

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:
        """Find rows that we have made: our canonical ids are their keys."""
        return {key: key for key in self._dataverse.by_ids(table, canonical_ids, ())}

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make rows with our canonical ids for their keys."""
        entity = self._dataverse.entity(table)
        parts = [
            self._part(
                entity, "PATCH", item.canonical_id, {"If-None-Match": "*"}, self._body(entity, item.values), item.values
            )
            for item in items
        ]
        out = []
        for item, answer in zip(items, self._dataverse.batch(parts, "create"), strict=True):
            if answer.status == _EXISTS and not taken(answer):
                out.append(Result(item.canonical_id))  # made before, by us: it is read back
            else:
                out.append(self._result(entity, item.canonical_id, answer))
        return self._settled(out, "create")

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change rows that have the version they were seen with."""
        entity = self._dataverse.entity(table)
        parts = []
        for item in items:
            condition = "*" if item.seen is None else f'W/"{item.seen.version[0]}"'
            parts.append(
                self._part(
                    entity, "PATCH", item.key, {"If-Match": condition}, self._body(entity, item.values), item.values
                )
            )
        answers = self._dataverse.batch(parts, "update")
        out = []
        for item, answer in zip(items, answers, strict=True):
            if answer.status == _EXISTS and not taken(answer) and reject(answer, {}).kind != "duplicate":
                out.append(Result(moved=True))
            else:
                out.append(self._result(entity, item.key, answer))
        return self._settled(out, "update")

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Delete rows; what is gone already is done."""
        entity = self._dataverse.entity(table)
        parts = [self._part(entity, "DELETE", key, {}, None, {}) for key in keys]
        out = []
        for key, answer in zip(keys, self._dataverse.batch(parts, "delete"), strict=True):
            done = answer.status in (200, 204, 404)
            out.append(Result(key) if done else self._result(entity, key, answer))
        return self._settled(out, "delete")

    def close(self) -> None:
        """Close connections."""
        self._dataverse.close()

    # ------------------------------------------------------------------------------------------------ parts

    def _part(
        self, entity: Entity, method: str, key: str, headers: dict[str, str], body: Any, values: dict[str, Any]
    ) -> Part:
        url = f"{self._dataverse.path}/{entity.set}({key})?tag={self._tag}"
        more = dict(headers)
        if body is not None:
            url += f"&$select={entity.selected(list(values))}"
            more["Prefer"] = "return=representation"
        return Part(method, url, {**self._headers, **more}, body)

    def _body(self, entity: Entity, values: dict[str, Any]) -> dict[str, Any]:
        """Return values as a row takes them; a lookup is bound by the path of the row it points to."""
        out: dict[str, Any] = {}
        for name, value in values.items():
            targets = entity.lookups.get(name)
            if name == entity.key:
                continue
            if targets is None:
                out[name] = value
                continue
            kind, _, key = str(value or "").rpartition(":")
            target, property_ = next(
                (t for t in targets if not kind or t[0] == kind), targets[0] if targets else (name, name)
            )
            out[f"{property_}@odata.bind"] = None if not value else f"/{self._dataverse.named(target).set}({key})"
        return out

    def _result(self, entity: Entity, key: str, answer: Answer) -> Result:
        if answer.status in (200, 201):
            return Result(key, self._dataverse.record(entity, answer.json()))
        if answer.status == 204:
            return Result(key)
        if answer.status == 404:
            return Result(missing=True)
        if taken(answer):
            return Result(error=reject(answer, entity.columns), taken=True)
        if passes(answer):
            return Result(
                error=Reject(reject(answer, {}).message, kind="not_now", hint="tried again with its next change")
            )
        return Result(error=reject(answer, entity.columns))

    def _settled(self, results: list[Result], what: str) -> list[Result]:
        """Return results; if the organisation's trouble hit all of them, it is no record's fault. Raises Retry."""
        waits = [r for r in results if r.error is not None and r.error.kind == "not_now"]
        if waits and len(waits) == len(results):
            assert waits[0].error is not None
            raise Retry(
                f"{self._dataverse.tenant.path}, {what}: {waits[0].error.message}", hint="tried again by itself"
            )
        return results


class DynamicsSink(ApiSink):
    """Write to Dynamics 365."""

    target = DynamicsTarget
