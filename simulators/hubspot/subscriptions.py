"""What an app wants to be told of: its target, its subscriptions, and the API that manages them with the developer's key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import Refused, invalid, not_found
from simulators.hubspot.gate import Gate, Visit
from simulators.hubspot.kinds import KINDS, Kind, kind_named
from simulators.hubspot.moments import spelt
from simulators.hubspot.paths import DATED, paths
from simulators.hubspot.portal import Portal

_MOST = 1000
_CONCURRENT = 10
_ACTIONS = ("creation", "deletion", "merge", "restore", "associationChange", "propertyChange")
EVENT_TYPES = frozenset(
    {f"{what}.{action}" for what in (*(k.singular for k in KINDS), "object") for action in _ACTIONS}
    | {"contact.privacyDeletion"}
)


@dataclass(slots=True)
class Subscription:
    """One kind of event that the app is told of."""

    id: int
    event_type: str
    property_name: str | None
    object_type_id: str | None
    active: bool
    created_ms: int
    updated_ms: int

    def shown(self) -> dict[str, Any]:
        """Return the subscription as the API shows it."""
        body: dict[str, Any] = {
            "id": str(self.id),
            "eventType": self.event_type,
            "active": self.active,
            "createdAt": spelt(self.created_ms),
            "updatedAt": spelt(self.updated_ms),
        }
        if self.property_name is not None:
            body["propertyName"] = self.property_name
        if self.object_type_id is not None:
            body["objectTypeId"] = self.object_type_id
        return body


class Subscriptions:
    """The app's settings and their handlers."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self.target = ""
        self.concurrency = _CONCURRENT
        self.limited: Callable[[int], None] | None = None
        self.all: dict[int, Subscription] = {}
        self._found: dict[tuple[str, str, str | None], list[Subscription]] = {}
        self._set_ms = 0
        self._next = 100_001

    def forget(self) -> None:
        """Put everything back to how it was before anybody subscribed."""
        self.target, self._set_ms = "", 0
        self.concurrency = _CONCURRENT
        self.all.clear()
        self._found.clear()

    def to(self, action: str, kind: Kind, name: str | None) -> list[Subscription]:
        """Return the active subscriptions to an event."""
        asked = (action, kind.name, name)
        found = self._found.get(asked)
        if found is None:
            found = self._found[asked] = [s for s in self.all.values() if s.active and _fits(s, action, kind, name)]
        return found

    def set(self, target: str, concurrency: int) -> None:
        """Say where events go. Raises Refused (400)."""
        if not target.startswith(("http://", "https://")):
            raise invalid(f"targetUrl must be an address with https, not {target!r}")
        if not 0 < concurrency <= 10_000:
            raise invalid(f"maxConcurrentRequests must be at least 1, not {concurrency}")
        self.target, self.concurrency = target, concurrency
        self._set_ms = self._set_ms or self._portal.now_ms()
        if self.limited is not None:
            self.limited(concurrency)

    def add(self, sent: dict[str, Any]) -> Subscription:
        """Make a subscription. Raises Refused (400, 409)."""
        event_type = str(sent.get("eventType") or sent.get("subscriptionType"))
        if event_type not in EVENT_TYPES:
            raise invalid(f"Invalid input JSON on line 1, column 1: {event_type} is no eventType")
        name = sent.get("propertyName")
        type_id = sent.get("objectTypeId")
        if event_type.endswith(".propertyChange") and not name:
            raise invalid(f"propertyName is required for {event_type}")
        if event_type.startswith("object."):
            kind = kind_named(str(type_id))
            if kind is None:
                raise invalid(f"objectTypeId is required for {event_type}: {type_id} is none")
            type_id = kind.type_id
        if len(self.all) >= _MOST:
            raise invalid(f"An app has at most {_MOST} subscriptions")
        if any(
            (s.event_type, s.property_name, s.object_type_id) == (event_type, name, type_id) for s in self.all.values()
        ):
            raise Refused(409, f"A subscription to {event_type} {name or ''} exists already".strip(), "CONFLICT")
        now_ms = self._portal.now_ms()
        made = Subscription(self._next, event_type, name, type_id, bool(sent.get("active", False)), now_ms, now_ms)
        self._next += 1
        self.all[made.id] = made
        self._found.clear()
        return made

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths of all families."""
        developer = ("developer",)
        found: list[Route] = []
        for rest, work, method in (
            ("/settings", self.settings, "GET"),
            ("/settings", self.change_settings, "PUT"),
            ("/settings", self.clear_settings, "DELETE"),
            ("/subscriptions", self.several, "GET"),
            ("/subscriptions", self.create, "POST"),
            ("/subscriptions/batch/update", self.update_several, "POST"),
            ("/subscriptions/{id}", self.read, "GET"),
            ("/subscriptions/{id}", self.update, "PATCH"),
            ("/subscriptions/{id}", self.delete, "DELETE"),
        ):
            own = f"/{{app_id}}{rest}"
            spelt_paths = (f"/webhooks/v3{own}", f"/webhooks/{DATED}{own}", f"/app-webhooks/{DATED}{own}")
            found += paths(gate(self._of_app(work), developer), method, *spelt_paths)
        return found

    def settings(self, visit: Visit) -> Response:  # noqa: ARG002
        """Answer where events go."""
        if not self.target:
            raise not_found("settings")
        return answer(self._settings())

    def change_settings(self, visit: Visit) -> Response:
        """Say where events go."""
        sent = visit.body()
        throttling = sent.get("throttling") or {}
        try:
            concurrency = int(throttling.get("maxConcurrentRequests", self.concurrency))
        except (AttributeError, TypeError, ValueError):
            raise invalid("maxConcurrentRequests must be a whole number") from None
        self.set(str(sent.get("targetUrl", "")), concurrency)
        return answer(self._settings())

    def clear_settings(self, visit: Visit) -> Response:  # noqa: ARG002
        """Send events nowhere."""
        self.target, self._set_ms = "", 0
        return Response(status_code=204)

    def several(self, visit: Visit) -> Response:  # noqa: ARG002
        """Answer all subscriptions."""
        return answer({"results": [s.shown() for s in self.all.values()]})

    def create(self, visit: Visit) -> Response:
        """Make a subscription."""
        return answer(self.add(visit.body()).shown(), 201)

    def read(self, visit: Visit) -> Response:
        """Answer one subscription."""
        return answer(self._one(visit).shown())

    def update(self, visit: Visit) -> Response:
        """Switch a subscription on or off."""
        one, sent = self._one(visit), visit.body()
        return answer(self._switch(one, sent.get("active", one.active)).shown())

    def update_several(self, visit: Visit) -> Response:
        """Switch subscriptions on or off."""
        done = []
        for sent in visit.inputs():
            one = self.all.get(int(sent["id"])) if str(sent.get("id")).isdecimal() else None
            if one is None:
                raise not_found(str(sent.get("id")))
            done.append(self._switch(one, sent.get("active")).shown())
        now = spelt(self._portal.now_ms())
        return answer({"status": "COMPLETE", "results": done, "startedAt": now, "completedAt": now})

    def delete(self, visit: Visit) -> Response:
        """Remove a subscription."""
        del self.all[self._one(visit).id]
        self._found.clear()
        return Response(status_code=204)

    def _of_app(self, work: Callable[[Visit], Response]) -> Callable[[Visit], Response]:
        def checked(visit: Visit) -> Response:
            number = visit.request.path_params["app_id"]
            if number != str(self._portal.options.app_id):
                raise Refused(404, f"There is no app {number}", "OBJECT_NOT_FOUND")
            return work(visit)

        return checked

    def _one(self, visit: Visit) -> Subscription:
        number = visit.request.path_params["id"]
        found = self.all.get(int(number)) if number.isdecimal() else None
        if found is None:
            raise not_found(number)
        return found

    def _switch(self, one: Subscription, active: Any) -> Subscription:
        if not isinstance(active, bool):
            raise invalid("Some required fields were not set: [active]")
        one.active, one.updated_ms = active, self._portal.now_ms()
        self._found.clear()
        return one

    def _settings(self) -> dict[str, Any]:
        at = spelt(self._set_ms)
        throttling = {"maxConcurrentRequests": self.concurrency}
        return {"targetUrl": self.target, "throttling": throttling, "createdAt": at, "updatedAt": at}


def _fits(one: Subscription, action: str, kind: Kind, name: str | None) -> bool:
    what, _, wanted = one.event_type.partition(".")
    if wanted != action or (name is not None and one.property_name != name):
        return False
    return one.object_type_id == kind.type_id if what == "object" else what == kind.singular
