"""The sink that sends webhooks (`kind: webhook`): every write is one signed call, described in the configuration.

A write has the same ``webhook-id`` however often it is sent, so that a receiver can tell a repetition; and it says who it is from, so
that a receiver that sends webhooks itself can leave it out. A receiver that answers 410 wants no more: its tenant waits for a person.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from typing import Any

import msgspec

from sinks.rest import RestSink, RestTarget
from tidelock.apis.described import dumped, nested
from tidelock.apis.judging import Answer
from tidelock.apis.rest import Outgoing, Writing, address
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Revoked
from tidelock.signatures import scheme_of
from tidelock.tenants import Tenant

_SPACE = uuid.UUID("5d1c0f6e-3a0e-5c38-9f0e-6f3b0b7a4c11")
_DONE = {"create": "created", "update": "updated", "delete": "deleted"}
_METHODS = {"create": "POST", "update": "POST", "delete": "POST"}


class WebhookTarget(RestTarget):
    """One receiver of webhooks (`sinks.target.Target`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        super().__init__(context, tenant)
        where = f"options.out of {tenant.path}"
        try:
            self._out = msgspec.convert(dict(tenant.options.get("out", {})), Outgoing, strict=False)
        except msgspec.ValidationError as error:
            raise Fatal(f"{where}: {error}", hint="docs/connectors/webhook.md lists what can stand there") from error
        self._scheme = scheme_of(self._out.scheme, f"{where}.scheme")

    def send(
        self, op: str, how: Writing, table: TableSpec, key: str, canonical_id: str, values: dict[str, Any]
    ) -> Answer | Reject:
        """Send one write, signed; see `sinks.rest.RestTarget.send`."""
        write = self.writes[op, key]
        number = str(
            uuid.uuid5(_SPACE, f"{write.system}/{write.tenant}/{write.entity}/{write.canonical_id}/{write.version}")
        )
        url = address(how.url, table, f"options.{op}.url of {self._tenant.path}", key=key, canonical_id=canonical_id)
        body = dumped(self._said(op, how, table, key, values))
        now, method = time.time(), how.method or _METHODS[op]
        base = str(self._tenant.url).rstrip("/")
        params = {self._scheme.query: self._secrets()[0]} if self._scheme.query else None
        whole = url if "://" in url else f"{base}/{url.lstrip('/')}"
        signed = self._scheme.sign(self._secrets(), number=number, timestamp=now, method=method, url=whole, body=body)
        headers = {"webhook-id": number, "Content-Type": "application/json", **signed}
        try:
            answer = self.client.send(
                method, url, content=body, params=params, headers=headers, repeat=False, ok=(404, 410), name=op
            )
        except Reject as error:
            return error
        if answer.status == 410:
            raise Revoked(
                f"{self._tenant.path} answered 410: it wants no more webhooks",
                hint="if that is not so, mend the receiver, then "
                f"`tidelock tenants enable {self._tenant.system} {self._tenant.name}`",
            )
        if answer.status == 404 and "{key}" not in how.url and not self.looks:
            raise Fatal(f"{self._tenant.path} answered 404", hint=f"correct `options.{op}.url`, or `url`")
        return answer

    def _said(self, op: str, how: Writing, table: TableSpec, key: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the body: the values under their names, and beside them key, canonical id and origin."""
        write = self.writes[op, key]
        data = nested(values)
        if op != "create" or table.key_from == "canonical_id":
            data.update(nested({table.key[0]: key}))
        data[self._out.canonical_id] = write.canonical_id
        data[self._out.origin] = "tidelock"
        if how.body:
            data = nested({how.body: data})
        if self._out.envelope == "plain":
            return data
        at = dt.datetime.fromtimestamp(write.source_time / 1e6, dt.UTC)
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"type": f"{table.table}.{_DONE[op]}", "timestamp": stamp, "data": data}

    def _secrets(self) -> list[str]:
        found = [s for name in self._out.secrets if (s := self._tenant.credentials.get(name))]
        if not found:
            raise Revoked(
                f"{self._tenant.path} has no credential `{self._out.secrets[0]}`, so webhooks cannot be signed",
                hint=f"`tidelock tenants set {self._tenant.system} {self._tenant.name} --credential {self._out.secrets[0]}`",
            )
        return found

    def _how(self, op: str) -> Writing:
        """Return where a kind of write goes: all to the tenant's own address, unless that is described."""
        return getattr(self._described, op) or Writing(url="")


class WebhookSink(RestSink):
    """Send webhooks."""

    target = WebhookTarget
