"""Webhook events: one per changed property, collected for a moment, sent together, signed in the three ways there are."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from simulators.base import Simulator
from simulators.delivery import FAULTS as DELIVERY_FAULTS
from simulators.delivery import Deliveries, Delivery
from simulators.hubspot.kinds import Kind, kind_named
from simulators.hubspot.links import LinkType
from simulators.hubspot.options import Options
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Origin, Record
from simulators.hubspot.subscriptions import Subscription, Subscriptions

FAULTS = {**DELIVERY_FAULTS, "webhook_mixed": "the events of a delivery are in random order"}
RETRIES_S = (60, 300, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 25_200)
"""The longest pauses before the second to the eleventh attempt: a day in all."""
TIMEOUT_S = 5.0
_DECODED = {
    "%3A": ":",
    "%2F": "/",
    "%3F": "?",
    "%40": "@",
    "%21": "!",
    "%24": "$",
    "%27": "'",
    "%28": "(",
    "%29": ")",
    "%2A": "*",
    "%2C": ",",
    "%3B": ";",
}
Event = dict[str, Any]


def signatures(options: Options, method: str, uri: str, body: bytes, at_ms: int) -> dict[str, str]:
    """Return the headers that say that a delivery is the vendor's: v3 with a time, and the older one."""
    secret = options.client_secret.encode()
    signed = f"{method}{_unescaped(uri)}".encode() + body + str(at_ms).encode()
    if options.signature == "v2":
        old = hashlib.sha256(secret + f"{method}{uri}".encode() + body)
    else:
        old = hashlib.sha256(secret + body)
    return {
        "X-HubSpot-Signature": old.hexdigest(),
        "X-HubSpot-Signature-Version": options.signature,
        "X-HubSpot-Signature-v3": base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode(),
        "X-HubSpot-Request-Timestamp": str(at_ms),
        "User-Agent": "HubSpot Connect 2.0 (http://dev.hubspot.com/) - WebhooksExecutorDaemon",
    }


def _unescaped(uri: str) -> str:
    for escape, character in _DECODED.items():
        uri = uri.replace(escape, character).replace(escape.lower(), character)
    return uri


class Events:
    """A watcher of the store that tells subscribers."""

    def __init__(self, simulator: Simulator, portal: Portal, subscriptions: Subscriptions, seed: int) -> None:
        self._simulator = simulator
        self._portal = portal
        self._subscriptions = subscriptions
        self._random = random.Random(seed)
        self._collected: list[Event] = []
        self._due: asyncio.Event | None = None
        self.deliveries: Deliveries | None = None
        self._seed = seed

    def start(self) -> None:
        """Begin to send; called in the loop."""
        concurrency = self._subscriptions.concurrency
        self.deliveries = Deliveries(
            self._simulator, RETRIES_S, TIMEOUT_S, jitter=0.3, concurrency=concurrency, seed=self._seed
        )
        self._subscriptions.limited = self.deliveries.limit
        self._due = asyncio.Event()
        self._simulator.background(self._send())

    def forget(self) -> None:
        """Drop what has not been sent."""
        self._collected.clear()
        if self.deliveries is not None:
            self.deliveries.forget()

    # What is watched.

    def created(self, record: Record, changed: dict[str, str], origin: Origin) -> None:
        """Tell of a new record and of its values."""
        self._tell("creation", record.kind, origin, {"objectId": record.id, "changeFlag": "CREATED"})
        self.updated(record, changed, origin)

    def updated(self, record: Record, changed: dict[str, str], origin: Origin) -> None:
        """Tell of each changed value."""
        for name, value in changed.items():
            more = {"objectId": record.id, "propertyName": name, "propertyValue": value, "isSensitive": False}
            self._tell("propertyChange", record.kind, origin, more, name)

    def archived(self, record: Record, origin: Origin, *, erased: bool) -> None:
        """Tell of a record that is gone, and twice if it was destroyed for the sake of privacy."""
        more = {"objectId": record.id, "changeFlag": "DELETED"}
        told = ["deletion"]
        if erased and record.kind.name == "contacts":
            told = ["deletion", "privacyDeletion"]
            self._random.shuffle(told)  # in any order, the vendor says
        for what in told:
            self._tell(what, record.kind, origin, more)

    def restored(self, record: Record, origin: Origin) -> None:
        """Tell of a record that is back."""
        self._tell("restore", record.kind, origin, {"objectId": record.id, "changeFlag": "RESTORED"})

    def merged(self, record: Record, primary: int, other: int, moved: int, origin: Origin) -> None:
        """Tell of two records that have become one."""
        more = {
            "objectId": primary,
            "primaryObjectId": primary,
            "mergedObjectIds": [other],
            "newObjectId": record.id,
            "numberOfPropertiesMoved": moved,
        }
        self._tell("merge", record.kind, origin, more)

    def linked(self, link: LinkType, start: int, end: int, removed: bool, origin: Origin) -> None:
        """Tell of one direction of an association."""
        kinds = kind_named(link.start), kind_named(link.end)
        if kinds[0] is None or kinds[1] is None:
            return
        more = {
            "associationType": f"{kinds[0].singular}_to_{kinds[1].singular}".upper(),
            "associationCategory": "HUBSPOT_DEFINED",
            "associationTypeId": link.id,
            "fromObjectId": start,
            "fromObjectTypeId": kinds[0].type_id,
            "toObjectId": end,
            "toObjectTypeId": kinds[1].type_id,
            "associationRemoved": removed,
            "isPrimaryAssociation": link.primary,
        }
        self._tell("associationChange", kinds[0], origin, more)

    # How it is sent.

    def _tell(self, what: str, kind: Kind, origin: Origin, more: Event, name: str | None = None) -> None:
        found = self._subscriptions.to(what, kind, name)
        if not found or not self._subscriptions.target:
            return
        occurred = self._portal.now_ms()
        for subscription in found:
            self._collected.append(self._event(subscription, kind, origin, more, occurred))
        if self._due is not None:
            self._due.set()

    def _event(self, subscription: Subscription, kind: Kind, origin: Origin, more: Event, occurred: int) -> Event:
        event: Event = {
            "eventId": self._random.randrange(1, 1 << 32),
            "subscriptionId": subscription.id,
            "portalId": self._portal.options.portal_id,
            "appId": self._portal.options.app_id,
            "occurredAt": occurred,
            "subscriptionType": subscription.event_type,
            "attemptNumber": 0,
            "changeSource": origin.source_type,
            "sourceId": origin.source_id,
            **more,
        }
        if "objectId" in more:
            event["objectTypeId"] = kind.type_id
        return event

    async def _send(self) -> None:
        due = self._due
        assert due is not None
        while True:
            await due.wait()
            due.clear()
            await asyncio.sleep(self._portal.options.webhook_delay_s)
            most = self._portal.options.webhook_batch
            while self._collected:
                batch, self._collected = self._collected[:most], self._collected[most:]
                self._deliver(batch)

    def _deliver(self, batch: list[Event]) -> None:
        target = self._subscriptions.target
        if self.deliveries is None or not target:
            return
        if self._portal.faults.take("webhook_mixed", "POST", target) is not None:
            self._random.shuffle(batch)
        delivery = Delivery(target, b"", _no_headers)
        delivery.body_of = _bodies(batch)
        delivery.sign = self._signing(delivery)
        self.deliveries.send(delivery)

    def _signing(self, delivery: Delivery) -> Callable[[int], Mapping[str, str]]:
        options, now_ms = self._portal.options, self._portal.now_ms

        def sign(_: int) -> Mapping[str, str]:
            return signatures(options, delivery.method, delivery.url, delivery.body, now_ms())

        return sign


def _bodies(batch: list[Event]) -> Callable[[int], bytes]:
    return lambda number: msgspec.json.encode([{**event, "attemptNumber": number} for event in batch])


def _no_headers(_: int) -> Mapping[str, str]:
    return {}
