"""The sink for HTTP APIs that the configuration describes (`kind: rest`): an address and a method for each kind of write.

Where `options.read` says how records are read, bases are looked at before a write and what stands there behind it. Otherwise writes are
blind: what somebody has written meanwhile is written over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from sinks.api import ApiSink
from sinks.base import Outcome
from sinks.target import Creation, Edit, Result, Target
from tidelock.apis.client import ApiClient
from tidelock.apis.described import MISSING, columns_for, dig, dumped, nested, text_at
from tidelock.apis.judging import Answer, judge, sentence
from tidelock.apis.records import ApiColumn, Record
from tidelock.apis.rest import (
    Description,
    Records,
    Writing,
    address,
    client_of,
    description_of,
    judged,
    server_now,
)
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.envelopes import Write
from tidelock.errors import Fatal, Reject, TidelockError
from tidelock.tenants import Tenant

_METHODS = {"create": "POST", "update": "PATCH", "delete": "DELETE"}


class RestTarget:
    """One tenant of a described API (`sinks.target.Target`)."""

    checks_version: ClassVar[bool] = False

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._context, self._tenant = context, tenant
        self._described: Description = description_of(tenant)
        self._made: ApiClient | None = None
        self.writes: dict[tuple[str, str], Write] = {}
        """The writes that are being carried out, by kind and by key (of creates: canonical id)."""

    @property
    def looks(self) -> bool:
        """Return whether records can be read."""
        return self._described.read is not None

    @property
    def client(self) -> ApiClient:
        """Return the client."""
        if self._made is None:
            self._made = client_of(self._context, self._tenant, self._described, judge=_judged)
        return self._made

    def close(self) -> None:
        """Close connections."""
        if self._made is not None:
            self._made.close()

    def columns(self, table: TableSpec) -> dict[str, ApiColumn]:
        """Return the columns, the same as the capture's."""
        return columns_for(self._context.config, self._tenant.system, table)

    # ------------------------------------------------------------------------------------------------ reading

    def read(self, table: TableSpec, keys: Sequence[str], names: Sequence[str]) -> dict[str, Record]:  # noqa: ARG002
        """Return the records that are there."""
        reading = self._described.read
        if reading is None:
            return {}
        records, out = Records(self._described, table, self._tenant), dict[str, Record]()
        for at in range(0, len(keys), reading.size):
            some = keys[at : at + reading.size]
            named = {"key": some[0]} if reading.size == 1 else {"keys": reading.separator.join(some)}
            url = address(reading.url, table, f"options.read.url of {self._tenant.path}", **named)
            answer = self.client.send("GET", url, ok=(404, 410), name="read")
            if answer.status < 300:
                body, now = answer.json(), server_now(answer)
                found = dig(body, reading.items) if reading.size > 1 else [dig(body, reading.path)]
                listed = [records.of(item, now=now) for item in found] if isinstance(found, list) else []
                out |= {r.key: r for r in listed if not r.deleted}
        return out

    def find(self, table: TableSpec, canonical_ids: Sequence[str]) -> dict[str, str]:  # noqa: ARG002
        """Return nothing: how to look for an id is not described; a create must know it again by itself."""
        return {}

    # ------------------------------------------------------------------------------------------------ writing

    def create(self, table: TableSpec, items: Sequence[Creation]) -> list[Result]:
        """Make records, one call each; the canonical id goes along as ``Idempotency-Key``."""
        how = self._how("create")
        return [self._create(table, how, item) for item in items]

    def _create(self, table: TableSpec, how: Writing, item: Creation) -> Result:
        own = {table.key[0]: item.canonical_id} if table.key_from == "canonical_id" else {}
        answer = self.send("create", how, table, item.canonical_id, item.canonical_id, {**item.values, **own})
        if isinstance(answer, Reject):
            return Result(error=answer)
        if answer.status >= 400:
            return Result(error=Reject(sentence(answer, "the create"), kind="not_found"))
        body = _body(answer)
        key = text_at(body, how.key) if how.key else text_at(body, table.key[0])
        if (
            key is None and how.key and not own
        ):  # where we name the records, the answer need not: it may be one to a call it knows already
            return Result(error=Reject(f"the answer to a create has no key at {how.key}", kind="no_key"))
        return self._done(table, how, key or item.canonical_id, body)

    def update(self, table: TableSpec, items: Sequence[Edit]) -> list[Result]:
        """Change records, one call each."""
        how, out = self._how("update"), []
        for item in items:
            answer = self.send("update", how, table, item.key, item.key, item.values)
            if isinstance(answer, Reject):
                out.append(Result(error=answer))
            elif answer.status in (404, 410):
                out.append(Result(missing=True))
            else:
                out.append(self._done(table, how, item.key, _body(answer)))
        return out

    def delete(self, table: TableSpec, keys: Sequence[str]) -> list[Result]:
        """Delete records, one call each; what is gone already is done.

        A described `version` matters here, too: what is told late, from before the delete, is not taken for a record that has come back.
        """
        how, out = self._how("delete"), []
        for key in keys:
            answer = self.send("delete", how, table, key, key, {})
            gone = answer if isinstance(answer, Reject) else self._done(table, how, key, _body(answer))
            out.append(Result(error=gone) if isinstance(gone, Reject) else gone)
        return out

    def send(
        self, op: str, how: Writing, table: TableSpec, key: str, canonical_id: str, values: dict[str, Any]
    ) -> Answer | Reject:
        """Send one write; return the answer, or what is wrong with this record. Raises what concerns all."""
        where = f"options.{op}.url of {self._tenant.path}"
        url = address(how.url, table, where, key=key, canonical_id=canonical_id)
        headers = {"Idempotency-Key": canonical_id} if op == "create" else {}
        body = nested({f"{how.body}.{name}" if how.body else name: value for name, value in values.items()})
        content = None if op == "delete" and not values else dumped(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            return self.client.send(
                how.method or _METHODS[op], url, content=content, headers=headers, ok=(404, 410), name=op
            )
        except Reject as error:
            return error

    def _done(self, table: TableSpec, how: Writing, key: str, body: Any) -> Result:
        """Return what is known after a write: the position, if the answer tells the version."""
        path = how.version
        if not path or dig(body, path) is MISSING:
            return Result(key)
        told = msgspec.structs.replace(self._described, deleted=None)
        records = Records(told, table, self._tenant)
        version, _ = records.version(nested({table.modified or "": dig(body, path)}), now=0)
        return Result(key, version=version)

    def _how(self, op: str) -> Writing:
        how: Writing | None = getattr(self._described, op)
        if how is None:
            raise Fatal(
                f"{self._tenant.path}: it is not described how to {op} a record",
                hint=f"add `options.{op}` with a `url`: docs/connectors/rest.md",
            )
        return how


def _judged(answer: Answer, what: str) -> TidelockError | None:
    """Translate an answer to a write or a reading; 404 is the caller's to judge."""
    found = judged(answer, what)
    return judge(answer, what) if found is None and answer.status not in (404, 410) else found


def _body(answer: Answer) -> Any:
    try:
        return msgspec.json.decode(answer.content) if answer.content else {}
    except msgspec.DecodeError:
        return {}


class RestSink(ApiSink):
    """Write to what the configuration describes."""

    target = RestTarget

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out writes; the target is told of them, for what it sends names them."""
        tenant = self.tenants.get(self._system, batch[0].tenant)
        table = self._spec.entities.get(batch[0].entity)
        if table is not None:
            target, _ = self._tools(tenant, batch[0].entity, table)
            assert isinstance(target, RestTarget)
            target.writes = {(w.op, w.canonical_id if w.op == "create" else str(w.native_key)): w for w in batch}
        return super().write(batch)

    def looks(self, target: Target) -> bool:
        """Return whether bases are looked at: only where records can be read."""
        assert isinstance(target, RestTarget)
        return super().looks(target) and target.looks
