"""Writes to the web shop: ten records per call, or a batch where there are more; every update under the version it was computed from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sinks.api import ApiSink
from sinks.target import Creation, Edit, Result
from tidelock.apis.records import ApiColumn, Record, json_text
from tidelock.apis.shop import BATCH_MOST, IDS_MOST, ROOT, SYNC_MOST, Shop, cut, problem
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Lost, Reject, Retry
from tidelock.tenants import Tenant

_PATIENCE_S = 60.0
_LOOK_S = (0.05, 1.0)  # pauses between looks at a batch
_WAITING = frozenset((423, 429))


class ShopTarget:
    """One tenant's shop (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = True

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._shop = Shop(context, tenant)
        self._stop = context.stop
        self._batch_above = int(tenant.options.get("batch_above", 50))

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns of a resource."""
        return self._shop.columns(table)

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:  # noqa: ARG002
        """Read records by id."""
        return {key: self._shop.record(table, row) for key, row in self._shop.by_ids(table.table, keys).items()}

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:
        """Find records that carry these canonical ids as their external reference."""
        out: dict[str, str] = {}
        for part in cut(list(canonical_ids), IDS_MOST):
            for rows in self._shop.pages(table.table, external_refs=",".join(part)):
                out.update({row["external_ref"]: str(row["id"]) for row in rows})
        return out

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make records under their external reference, which makes a second one impossible."""
        records = [{**i.values, "external_ref": i.canonical_id, "source": self._shop.source} for i in items]
        return self._write(table, "create", "POST", records)

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change records that have the version they were seen with."""
        records = []
        for item in items:
            record: dict[str, Any] = {"id": int(item.key), **item.values, "source": self._shop.source}
            if item.seen is not None:
                record["if_version"] = item.seen.version[0]
            records.append(record)
        return self._write(table, "update", "PATCH", records)

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Delete records: the shop disables customers and products and refuses to lose orders, invoices and payments."""
        out: list[Result] = []
        for part in cut(list(keys), SYNC_MOST):
            answer = self._shop.client.send(
                "DELETE", f"{ROOT}/{table.table}", params={"id": list(part)}, name="delete"
            ).json()
            for key, told in zip(part, answer["results"], strict=True):
                result = self._result(told, table)
                out.append(Result(key) if result.missing else result)
        return out

    def close(self) -> None:
        """Close connections."""
        self._shop.close()

    # ------------------------------------------------------------------------------------------------ calls

    def _write(self, table: TableSpec, operation: str, method: str, records: list[dict[str, Any]]) -> list[Result]:
        told: list[dict[str, Any]] = []
        if len(records) > self._batch_above:
            for part in cut(records, BATCH_MOST):
                told += self._batch(table.table, operation, part)
        else:
            for part in cut(records, SYNC_MOST):
                answer = self._shop.client.send(
                    method, f"{ROOT}/{table.table}", json={"records": part}, name=operation
                ).json()
                told += answer["results"]
        waits = [
            t for t in told if t["status"] == "failed" and (t["http_status"] in _WAITING or t["http_status"] >= 500)
        ]
        if waits and len(waits) == len(told):
            raise Retry(f"{self._shop.tenant.path}: {waits[0]['error']['detail']}", hint="tried again by itself")
        return [self._result(t, table) for t in told]

    def _batch(self, resource: str, operation: str, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Have a batch done. Sent twice it is the same batch, by its key; what it did not come to is answered as to be sent again."""
        body = {"resource": resource, "operation": operation, "return": "representation", "records": list(records)}
        key = hashlib.blake2b(json_text(body).encode(), digest_size=16).hexdigest()
        send = self._shop.client.send
        batch = send(
            "POST", f"{ROOT}/batches", json=body, headers={"Idempotency-Key": key}, repeat=True, name="submit batch"
        ).json()
        state = self._ended(
            batch["id"], lambda: send("GET", f"{ROOT}/batches/{batch['id']}", name="look at batch").json()
        )
        found: dict[int, dict[str, Any]] = {}
        for rows in self._shop.pages(f"batches/{batch['id']}/results", limit=1000):
            found.update({row["index"]: row for row in rows})
        if state == "failed" and not found:
            raise Retry(f"{self._shop.tenant.path}: batch {batch['id']} was broken off", hint="tried again by itself")
        again = {
            "status": "failed",
            "http_status": 503,
            "error": {"code": "not_done", "detail": "the batch was broken off before it", "errors": []},
        }
        return [found.get(n, again) for n in range(len(records))]

    def _ended(self, batch_id: str, look: Callable[[], dict[str, Any]]) -> str:
        end, pause_s = time.monotonic() + _PATIENCE_S, _LOOK_S[0]
        while True:
            batch = look()
            if batch["state"] in ("done", "failed"):
                return str(batch["state"])
            if time.monotonic() > end or self._stop.wait(pause_s):
                raise Lost(
                    f"{self._shop.tenant.path}: batch {batch_id} is still {batch['state']}",
                    hint="it is asked for again under the same key, so nothing is done twice",
                )
            pause_s = min(pause_s * 2, _LOOK_S[1])

    def _result(self, told: dict[str, Any], table: TableSpec) -> Result:
        """Turn the result of one record into ours."""
        columns = self._shop.columns(table)
        if told["status"] != "failed":
            row = told.get("record")
            record = None if row is None else self._shop.record(table, row)
            version = None if told.get("version") is None else (int(told["version"]), 0)
            return Result(str(told["id"]), record, version)
        error, code = told["error"], told["error"]["code"]
        if told["http_status"] == 404:
            return Result(missing=True)
        if code == "version_mismatch":
            return Result(moved=True)
        if code == "duplicate_external_ref":
            return Result(str(error["existing_id"]))  # made before, by us: the answer was lost
        if code.startswith("duplicate_"):
            return Result(str(error["existing_id"]), error=problem(error, columns), taken=True)
        if told["http_status"] in _WAITING or told["http_status"] >= 500:
            return Result(error=Reject(str(error["detail"]), kind="not_now", hint="tried again with its next change"))
        return Result(error=problem(error, columns))


class ShopSink(ApiSink):
    """Write to web shops."""

    target = ShopTarget
