"""Service endpoints: every change told to those who registered for it, as a RemoteExecutionContext."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec

from simulators.clock import Clock
from simulators.delivery import Deliveries, Delivery
from simulators.dynamics.rendering import target_of
from simulators.dynamics.schema import Column, Table
from simulators.dynamics.store import Store, Values
from simulators.dynamics.values import formatted, parse_datetime
from simulators.dynamics.writes import Event

SIZE_LIMIT_BYTES = 256 * 1024
RETRIES_S = (30.0, 120.0, 600.0, 3600.0)
_CONTRACTS = "http://schemas.microsoft.com/xrm/2011/Contracts"


@dataclass(slots=True)
class Endpoint:
    """A receiver and the step registered for it. ``auth`` is header, code or query."""

    id: str
    url: str
    auth: str = "code"
    value: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    messages: tuple[str, ...] = ("Create", "Update", "Delete")
    tables: tuple[str, ...] = ()
    filtering: tuple[str, ...] = ()
    """Of updates: only those that touch one of these columns."""
    images: bool = False

    def target(self) -> str:
        """Return the address with what authenticates in it."""
        query = {"code": self.value} if self.auth == "code" and self.value else dict(self.query)
        mark = "&" if "?" in self.url else "?"
        return f"{self.url}{mark}{urlencode(query)}" if query else self.url

    def wants(self, event: Event) -> bool:
        """Return whether the step is for this event."""
        if event.message not in self.messages or (self.tables and event.table.name not in self.tables):
            return False
        touched = {n.removeprefix("_").removesuffix("_value") for n in event.changed} | set(event.changed)
        return event.message != "Update" or not self.filtering or bool(touched & set(self.filtering))


class Events:
    """Collects what happens in a transaction, and tells the endpoints when it has ended well."""

    def __init__(self, store: Store, clock: Clock, organisation: tuple[str, str]) -> None:
        self._store = store
        self._clock = clock
        self._organisation = organisation
        self._pending: list[Event] = []
        self.endpoints: dict[str, Endpoint] = {}
        self.deliveries: Deliveries | None = None
        self.seen: list[Callable[[Event], None]] = []

    def tell(self, event: Event) -> None:
        """Take note of an event of the open transaction."""
        self._pending.append(event)

    def mark(self) -> Callable[[], None]:
        """Return how to forget what is told from here on."""
        at = len(self._pending)

        def forget() -> None:
            del self._pending[at:]

        return forget

    def flush(self) -> None:
        """Send what was told: the transaction has ended well."""
        pending, self._pending = self._pending, []
        for event in pending:
            for watcher in self.seen:
                watcher(event)
            if event.context.bypass:
                continue
            for endpoint in self.endpoints.values():
                if endpoint.wants(event):
                    self._send(endpoint, event)

    def _send(self, endpoint: Endpoint, event: Event) -> None:
        if self.deliveries is None:
            return
        context = self.context(endpoint, event)
        body = msgspec.json.encode(context)
        headers: dict[str, str] = {
            "x-request-id": str(uuid.uuid4()),
            "x-ms-dynamics-organization": f"{self._organisation[1]}.crm.dynamics.com",
            "x-ms-dynamics-entity-name": event.table.name,
            "x-ms-dynamics-request-name": event.message,
            "x-ms-correlation-request-id": event.context.correlation,
        }
        if len(body) > SIZE_LIMIT_BYTES:
            for name in ("ParentContext", "InputParameters", "PreEntityImages", "PostEntityImages"):
                context.pop(name, None)
            body = msgspec.json.encode(context)
            headers["x-ms-dynamics-msg-size-exceeded"] = "true"
        if endpoint.auth == "header":
            headers.update(endpoint.headers)

        def sign(_: int) -> Mapping[str, str]:
            return headers

        self.deliveries.send(Delivery(endpoint.target(), body, sign))

    def context(self, endpoint: Endpoint, event: Event) -> dict[str, Any]:
        """Return the RemoteExecutionContext of an event."""
        caller = event.context.caller
        now = _date(self._clock.now())
        shared = [{"key": "IsAutoTransact", "value": True}]
        if event.context.tag is not None:
            shared.append({"key": "tag", "value": event.context.tag})
        key = "entityMoniker" if event.message in ("Associate", "Disassociate") else "Target"
        target = self._reference(event) if event.message != "Create" and event.after is None else self._entity(event)
        pre = event.before if endpoint.images and event.before is not None else None
        post = event.after if endpoint.images and event.after is not None else None
        return {
            "BusinessUnitId": str(event.after.get("_owningbusinessunit_value", "")) if event.after else "",
            "CorrelationId": event.context.correlation,
            "Depth": 1,
            "InitiatingUserAzureActiveDirectoryObjectId": "00000000-0000-0000-0000-000000000000",
            "InitiatingUserId": caller.user,
            "InputParameters": [{"key": key, "value": target}],
            "IsExecutingOffline": False,
            "IsInTransaction": False,
            "IsOfflinePlayback": False,
            "IsolationMode": 1,
            "MessageName": event.message,
            "Mode": 1,
            "OperationCreatedOn": now,
            "OperationId": event.context.operation,
            "OrganizationId": self._organisation[0],
            "OrganizationName": self._organisation[1],
            "OutputParameters": [{"key": "id", "value": event.row_id}] if event.message == "Create" else [],
            "OwningExtension": {
                "Id": endpoint.id,
                "KeyAttributes": [],
                "LogicalName": "sdkmessageprocessingstep",
                "Name": f"{event.message} of {event.table.name}",
                "RowVersion": None,
            },
            "ParentContext": None,
            "PostEntityImages": self._image(event.table, event.row_id, post),
            "PreEntityImages": self._image(event.table, event.row_id, pre),
            "PrimaryEntityId": event.row_id,
            "PrimaryEntityName": event.table.name,
            "RequestId": event.context.operation,
            "SecondaryEntityName": "none",
            "SharedVariables": shared,
            "Stage": 40,
            "UserAzureActiveDirectoryObjectId": "00000000-0000-0000-0000-000000000000",
            "UserId": caller.acting,
        }

    def _reference(self, event: Event) -> dict[str, Any]:
        return {
            "__type": f"EntityReference:{_CONTRACTS}",
            "Id": event.row_id,
            "KeyAttributes": [],
            "LogicalName": event.table.name,
            "Name": None,
            "RowVersion": None,
        }

    def _entity(self, event: Event) -> dict[str, Any]:
        """Return the Target: of an update, what the client sent and what the platform stamped."""
        values = dict(event.changed)
        after = event.after or {}
        for name in (event.table.primary_id, "modifiedon", "_modifiedby_value", "_modifiedonbehalfby_value"):
            if event.table.stamped or name == event.table.primary_id:
                values[name] = after.get(name)
        return self._described(event.table, event.row_id, values, after)

    def _image(self, table: Table, row_id: str, values: Values | None) -> list[dict[str, Any]]:
        if values is None:
            return []
        return [{"key": "image", "value": self._described(table, row_id, values, values)}]

    def _described(self, table: Table, row_id: str, values: Values, context: Values) -> dict[str, Any]:
        attributes, labels = [], []
        for prop, value in values.items():
            column = table.properties.get(prop)
            if column is None:
                continue
            attributes.append({"key": column.name, "value": self._value(column, value, context)})
            if value is not None and (text := formatted(column, value)) is not None:
                labels.append({"key": column.name, "value": text})
        version = context.get("versionnumber")
        return {
            "__type": f"Entity:{_CONTRACTS}",
            "Attributes": attributes,
            "EntityState": None,
            "FormattedValues": labels,
            "Id": row_id,
            "KeyAttributes": [],
            "LogicalName": table.name,
            "RelatedEntities": [],
            "RowVersion": None if version is None else str(version),
        }

    def _value(self, column: Column, value: Any, context: Values) -> Any:
        if value is None:
            return None
        if column.is_lookup:
            table = self._store.schema.tables.get(target_of(column, context))
            row = self._store.get(table, str(value)) if table is not None else None
            return {
                "__type": f"EntityReference:{_CONTRACTS}",
                "Id": value,
                "KeyAttributes": [],
                "LogicalName": target_of(column, context),
                "Name": row.values.get(table.primary_name) if row is not None and table is not None else None,
                "RowVersion": None,
            }
        match column.kind:
            case "datetime" | "date":
                return _date(parse_datetime(str(value)).timestamp())
            case "picklist" | "state" | "status":
                return {"__type": f"OptionSetValue:{_CONTRACTS}", "Value": value}
            case "money":
                return {"__type": f"Money:{_CONTRACTS}", "Value": value}
            case "multi":
                return [{"Value": int(v)} for v in str(value).split(",")]
        return value


def _date(at: float) -> str:
    return f"/Date({int(at * 1000)})/"
