"""Webhooks of Dataverse: service endpoints to which steps of the platform send what has happened, as a RemoteExecutionContext.

Dataverse signs nothing: a webhook is genuine if it brings the secret, in the address (`?code=…`, how the Plug-in Registration Tool calls
`WebhookKey`) or in a header of a name of one's own (`HttpHeader`). Which row has changed stands in every one of them, also in those that were
cut down because they were larger than 256 KB; the row is then read, so that a change carries the whole row and its version. A delete whose
step has a pre-image with `versionnumber` needs no reading.

Source: Microsoft Learn, "Use webhooks to create external handlers for server events".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from producers.source import Call, Notice, Scheme
from tidelock.apis.dynamics import TAG
from tidelock.apis.dynamics_tables import is_guid
from tidelock.apis.records import Record
from tidelock.context import Context
from tidelock.errors import Reject, Revoked
from tidelock.signatures import Headers
from tidelock.tenants import Tenant

SECRET = "hook_secret"  # noqa: S105 - the name under which it is kept
_NOT_SET = "00000000-0000-0000-0000-000000000000"
_DATE = re.compile(r"/Date\((-?\d{1,15})")


class DynamicsHook:
    """Understands the webhooks of one tenant (`producers.source.Hook`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._tenant = tenant
        self._spec = context.config.systems[tenant.system]
        self._tag = str(tenant.options.get("tag", TAG))
        header = tenant.options.get("hook_header")
        self._scheme = (
            Scheme("static", query="code") if header is None else Scheme("static", (Headers(str(header).lower()),))
        )

    @property
    def scheme(self) -> Scheme:
        """Return where the secret stands."""
        return self._scheme

    @property
    def secrets(self) -> Sequence[str]:
        """Return the secret, and the one before it while it is being replaced. Raises Revoked if there is none."""
        found = [s for name in (SECRET, f"{SECRET}_before") if (s := self._tenant.credentials.get(name))]
        if not found:
            raise Revoked(
                f"{self._tenant.path} has no credential `{SECRET}`, so no webhook can be checked",
                hint=f"`tidelock tenants set {self._tenant.system} {self._tenant.name} --credential {SECRET}`",
            )
        return found

    def delivery(self, call: Call) -> str | None:
        """Return what names the event: its operation, which is the same on every attempt, with step, row and version."""
        told = _context(call)
        operation = str(told.get("OperationId") or _NOT_SET)
        if operation == _NOT_SET:
            return None  # a synchronous step, which nobody tries again
        step = _mapping(told.get("OwningExtension")).get("Id")
        target = _mapping(_pairs(told.get("InputParameters")).get("Target"))
        parts = (operation, step, told.get("MessageName"), told.get("PrimaryEntityId"), target.get("RowVersion"))
        return "/".join(str(part or "") for part in (*parts, told.get("OperationCreatedOn")))

    def receive(self, call: Call) -> list[Notice]:
        """Say which rows have changed. What we have written ourselves is left out: its receipt and the next poll tell of it."""
        told = _context(call)
        message, table = str(told.get("MessageName", "")), str(told.get("PrimaryEntityName", ""))
        entities = [name for name, spec in self._spec.entities.items() if spec.table == table]
        key = str(told.get("PrimaryEntityId") or "").lower()
        if not message or not table or not is_guid(key):
            raise Reject("it does not say which row of which table has changed how", kind="unreadable")
        if not entities or str(_pairs(told.get("SharedVariables")).get("tag")) == self._tag:
            return []
        keys = [key]
        if message == "Merge":  # the row that was merged away is deactivated, and no step tells of it
            other = str(_pairs(told.get("InputParameters")).get("SubordinateId") or "").lower()
            keys += [other] if is_guid(other) else []
        gone = _deleted(told, key) if message == "Delete" else None
        if gone is not None:
            return [Notice(entity, records=(gone,)) for entity in entities]
        return [Notice(entity, keys=tuple(keys)) for entity in entities]


def _deleted(told: Mapping[str, Any], key: str) -> Record | None:
    """Return a deleted row behind the last version that it had; None if no pre-image says which that was."""
    for image in _pairs(told.get("PreEntityImages")).values():
        values = _mapping(image)
        version = _pairs(values.get("Attributes")).get("versionnumber") or values.get("RowVersion")
        if str(version or "").isdigit():
            at = _DATE.match(str(told.get("OperationCreatedOn")))
            by = told.get("InitiatingUserId")
            actor = None if by is None else str(by).lower()
            return Record(key, {}, (int(str(version)), 1), int(at[1]) * 1000 if at else 0, deleted=True, actor=actor)
    return None


def _context(call: Call) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(call.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Reject("it is no JSON", kind="unreadable") from error
    if not isinstance(found, dict):
        raise Reject("it is no RemoteExecutionContext", kind="unreadable")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _pairs(value: Any) -> dict[str, Any]:
    """Return a list of ``{"key", "value"}`` as a dictionary; what is of another shape is left out."""
    listed = value if isinstance(value, list) else []
    return {str(p["key"]): p.get("value") for p in listed if isinstance(p, dict) and "key" in p}
