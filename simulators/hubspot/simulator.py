"""One HubSpot portal as clients see it: its objects, apps, limits and webhooks, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.base import Simulator
from simulators.hubspot import batches, events, gate, oauth, search, seeding
from simulators.hubspot.account import Account
from simulators.hubspot.associations import Associations
from simulators.hubspot.control import UserControl
from simulators.hubspot.errors import Refused
from simulators.hubspot.moments import spelt
from simulators.hubspot.objects import Objects
from simulators.hubspot.options import Options
from simulators.hubspot.portal import Portal
from simulators.hubspot.properties import Properties
from simulators.hubspot.subscriptions import Subscriptions
from simulators.hubspot.writer import Writer


class HubSpotSimulator(Simulator):
    """The simulator of HubSpot."""

    name = "hubspot"
    fault_kinds: ClassVar[dict[str, str]] = {
        **gate.FAULTS,
        **oauth.FAULTS,
        **batches.FAULTS,
        **search.FAULTS,
        **events.FAULTS,
    }

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        own = Options.read(options)
        super().__init__(seed=seed, **options)
        self._seed = seed
        self.portal = Portal(own, self.clock, self.faults, self.counts, seed)
        self._writer = Writer(self.portal)
        self._subscriptions = Subscriptions(self.portal)
        self._events = events.Events(self, self.portal, self._subscriptions, seed)
        self._user = UserControl(self.portal, self._writer, self._subscriptions, self._events)
        self._watch()
        self._sow()

    def routes(self) -> Sequence[BaseRoute]:
        """Return the vendor's paths; those of batches and searches come before those with an id in their place."""
        enter = gate.Gate(self.portal)
        objects = Objects(self.portal, self._writer)
        return [
            *batches.Batches(self.portal, self._writer, objects).routes(enter),
            *search.Search(self.portal).routes(enter),
            *objects.routes(enter),
            *Associations(self.portal).routes(enter),
            *Properties(self.portal).routes(enter),
            *oauth.OAuth(self.portal).routes(),
            *Account(self.portal).routes(enter),
            *self._subscriptions.routes(enter),
        ]

    def credentials(self) -> dict[str, Any]:
        """Return what a client signs in with: an OAuth app that has been installed, and a private app's token."""
        tokens, options = self.portal.tokens, self.portal.options
        return {
            "portal_id": options.portal_id,
            "app_id": options.app_id,
            "client_id": options.client_id,
            "client_secret": options.client_secret,
            "refresh_token": tokens.refresh_token,
            "private_app_id": options.private_app_id,
            "private_token": tokens.private_token,
            "developer_key": tokens.developer_key,
            "scopes": sorted(tokens.app_scopes),
        }

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        """Make records as a user would have. Raises ValueError; the records before the wrong one stay."""
        found = self._user.kind(kind)
        try:
            return [str(self._user.load(found, given).id) for given in records]
        except Refused as error:
            raise ValueError(error.message) from None

    def dump(self, kind: str) -> list[dict[str, Any]]:
        """Return all records of a kind with all their properties, archived ones included. Raises ValueError."""
        table = self.portal.store.tables[self._user.kind(kind).name]
        return [
            {
                "id": str(record.id),
                "archived": record.archived_ms is not None,
                "createdAt": spelt(record.created_ms),
                "updatedAt": spelt(record.updated_ms),
                "properties": record.values,
            }
            for _, record in sorted(table.records.items())
        ]

    def reset(self) -> None:
        """Put everything back to how it was at the start, with the same credentials."""
        self.portal.again()
        self._subscriptions.forget()
        self._events.forget()
        self._watch()
        self._sow()

    def controls(self) -> Sequence[Route]:
        """Return what a user does."""
        return self._user.routes()

    def not_found(self, request: Request) -> Response:
        """Answer a path that the vendor does not have."""
        return Refused(404, f"resource not found: {request.method} {request.url.path}").response()

    def started(self) -> None:
        """Begin to send webhooks."""
        self._events.start()

    def _watch(self) -> None:
        self.portal.store.watchers.append(self._events)
        self.portal.links.told = self._events.linked

    def _sow(self) -> None:
        for kind, make in (
            ("contacts", seeding.contacts),
            ("companies", seeding.companies),
            ("deals", seeding.deals),
            ("products", seeding.products),
        ):
            if count := getattr(self.portal.options, kind):
                self.load(kind, make(count, self._seed))
