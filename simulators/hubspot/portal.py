"""The state of one portal, which all handlers share."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

from simulators.clock import Clock
from simulators.faults import Faults
from simulators.hubspot.kinds import KINDS
from simulators.hubspot.limits import Limits
from simulators.hubspot.links import Links
from simulators.hubspot.options import Options
from simulators.hubspot.records import Origin, Record, Store
from simulators.hubspot.schema import Schema
from simulators.hubspot.search_index import SearchIndex
from simulators.hubspot.tokens import Grant, Tokens

_WRITES = 20_000


class Portal:
    """Everything that a portal holds, its apps' tokens and its limits."""

    def __init__(self, options: Options, clock: Clock, faults: Faults, counts: Counter[str], seed: int) -> None:
        self.options = options
        self.clock = clock
        self.faults = faults
        self.counts = counts
        self.random = random.Random(seed)
        self.tokens = Tokens(options, clock.now, self.random)
        self.writes: deque[dict[str, Any]] = deque(maxlen=_WRITES)
        """What clients wrote, for the control API."""
        self.limits = Limits(options)
        self.schema = Schema(self.now_ms)
        self.store = Store(self.now_ms)
        self.index = SearchIndex(KINDS, self.now_ms, options.search_lag_s, self._late_s)
        self.links = Links(self.store)
        self._begin()

    def now_ms(self) -> int:
        """Return the portal's time in milliseconds since 1970."""
        return int(self.clock.now() * 1000)

    def again(self) -> None:
        """Forget all records, definitions, writes and used limits, and put the tokens back to the first ones."""
        self.tokens.again()
        self.writes.clear()
        self.limits = Limits(self.options)
        self.schema = Schema(self.now_ms)
        self.store = Store(self.now_ms)
        self.index = SearchIndex(KINDS, self.now_ms, self.options.search_lag_s, self._late_s)
        self.links = Links(self.store)
        self._begin()

    def origin(self, grant: Grant) -> Origin:
        """Return what the history says of a write by an app."""
        return Origin("INTEGRATION", str(grant.app_id), self.options.app_name)

    def person(self, user_id: int | None = None) -> Origin:
        """Return what the history says of a write by a user."""
        user_id = user_id or self.tokens.user_id
        return Origin("CRM_UI", f"userId:{user_id}", None, user_id)

    def wrote(self, what: str, record: Record, changed: dict[str, str] | None, grant: Grant) -> None:
        """Remember a client's write."""
        entry = {"at": self.clock.now(), "what": what, "kind": record.kind.name, "id": str(record.id)}
        self.writes.append({**entry, "changed": changed or {}, "app_id": grant.app_id})

    def _begin(self) -> None:
        self.store.watchers += [self.index, self.links]

    def _late_s(self) -> float:
        fault = self.faults.take("search_late")
        return 0.0 if fault is None else float(fault.more.get("delay_s", 60.0))
