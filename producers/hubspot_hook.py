"""HubSpot's webhooks: batches of events, of any of the app's portals, folded into the keys of records to be read.

Events come in any order and more than once, one per property, so nothing of their content is used but which record they are about.
Source: HubSpot, "Webhooks API" and "Validating requests" (v3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from producers.source import Call, Notice, Scheme
from tidelock.context import Context
from tidelock.errors import Reject, Revoked
from tidelock.signatures import SCHEMES
from tidelock.tenants import Tenant

_SINGULAR = {
    "contacts": "contact",
    "companies": "company",
    "deals": "deal",
    "products": "product",
    "line_items": "line_item",
    "tickets": "ticket",
}
_TYPE_IDS = {
    "0-1": "contacts",
    "0-2": "companies",
    "0-3": "deals",
    "0-5": "tickets",
    "0-7": "products",
    "0-8": "line_items",
}
_SECRET = "client_secret"  # noqa: S105 - the name under which it is kept
_OLD_SECRET = "previous_client_secret"  # noqa: S105


class HubSpotHook:
    """Understand the webhooks of an app (`producers.source.Hook`)."""

    scheme: Scheme = SCHEMES["hubspot"]

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._context, self._tenant = context, tenant
        self._app_id = str(tenant.options.get("app_id") or "")
        self._entities: dict[str, list[str]] = {}
        for entity, table in context.config.systems[tenant.system].entities.items():
            self._entities.setdefault(_kind(table.table), []).append(entity)

    @property
    def secrets(self) -> Sequence[str]:
        """Return the app's secret, and the one before while it is being replaced. Raises Revoked if there is none."""
        known = self._tenant.credentials
        found = [known[name] for name in (_SECRET, _OLD_SECRET) if known.get(name)]
        if not found:
            raise Revoked(
                f"{self._tenant.path} has no credential `{_SECRET}`, so no webhook can be checked",
                hint=f"`tidelock tenants set {self._tenant.system} {self._tenant.name} --credential {_SECRET}`: "
                "the client secret of the app that sends them",
            )
        return found

    def delivery(self, call: Call) -> str | None:  # noqa: ARG002
        """Return None: HubSpot numbers events, not deliveries, and its numbers are not unique."""
        return None

    def receive(self, call: Call) -> list[Notice]:
        """Return which records the events are about. Raises Reject."""
        try:
            events = msgspec.json.decode(call.body)
        except msgspec.DecodeError as error:
            raise Reject("the body is no JSON", kind="unreadable") from error
        if not isinstance(events, list) or not all(isinstance(e, dict) for e in events):
            raise Reject("the body is no array of events", kind="unreadable")
        tenants = self._portals()
        keys: dict[tuple[str | None, str], dict[str, None]] = {}
        for event in events:
            if self._ours(event):
                continue
            portal = str(event.get("portalId") or "")
            if tenants and portal not in tenants:
                continue  # a portal that is not configured
            for entity in self._entities.get(_kind_of(event), ()):
                named = keys.setdefault((tenants.get(portal), entity), {})
                named.update(dict.fromkeys(_records(event)))
        return [Notice(entity, list(named), tenant=tenant) for (tenant, entity), named in keys.items() if named]

    def _portals(self) -> dict[str, str]:
        """Return tenants by the portal that each of them is, as far as that is configured."""
        tenants = self._context.access.tenants.all(self._tenant.system)
        return {str(t.options["portal_id"]): t.name for t in tenants if t.options.get("portal_id")}

    def _ours(self, event: Mapping[str, Any]) -> bool:
        """Return whether an event is of our own writing: polling meets that record soon enough, and its receipt is there already."""
        return (
            self._app_id != ""
            and event.get("changeSource") == "INTEGRATION"
            and str(event.get("sourceId") or "") == self._app_id
            and _what(event) in ("propertyChange", "creation")
        )


def _what(event: Mapping[str, Any]) -> str:
    return str(event.get("subscriptionType") or event.get("eventType") or "").rpartition(".")[2]


def _kind(table: str) -> str:
    """Return the one name of a kind that can be spelt in several ways."""
    lowered = table.lower()
    plural = next((many for many, one in _SINGULAR.items() if lowered in (many, one)), lowered)
    return _TYPE_IDS.get(plural, plural)


def _kind_of(event: Mapping[str, Any]) -> str:
    """Return the kind of objects an event is about: generic ones name its type id, the others say it before the dot."""
    head = str(event.get("subscriptionType") or event.get("eventType") or "").rpartition(".")[0]
    if head in ("", "object") and event.get("objectTypeId"):
        return _kind(str(event["objectTypeId"]))
    return _kind(head)


def _records(event: Mapping[str, Any]) -> Iterator[str]:
    """Return the ids of the records that an event is about. Raises Reject if it names none."""
    if _what(event) == "associationChange":
        if event.get("fromObjectId") is not None:
            yield str(event["fromObjectId"])
        return
    found = [event.get("objectId"), event.get("primaryObjectId"), event.get("newObjectId")]
    named = [str(i) for i in (*found, *(event.get("mergedObjectIds") or ())) if i is not None]
    if not named:
        raise Reject(f"an event {_what(event) or 'without type'} names no record", kind="no_key")
    yield from named
