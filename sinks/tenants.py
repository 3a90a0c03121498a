"""What the world is told of tenants that take no writes: a record on ``ops.signals`` for as long as it lasts, and an alert when it begins.

The record (`tidelock.places.tenant_key`) is what lets merge's parked values wait instead of trying again and again: the clock holds
them until it is gone (`processors.troubles`), status shows it, and a worker that starts goes on from it. It outlives every worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import structlog

from sinks.circuits import BUSY, HOLD_S, OFF, REVOKED, WAITS, Circuit, Trouble
from sinks.lanes import Lane
from sinks.promises import Promise
from sinks.reports import Reports
from tidelock.context import Context
from tidelock.places import tenant_key
from tidelock.topicread import read_latest

log = structlog.get_logger()


class Tenants:
    """The troubles of one system's tenants."""

    def __init__(self, context: Context, system: str, reports: Reports, promise: Promise) -> None:
        self._context = context
        self._system = system
        self._spec = context.config.systems[system]
        self._reports = reports
        self._promise = promise
        self._told: dict[str, dict[str, Any]] = {}

    def lanes(self) -> Iterator[Lane]:
        """Yield the lanes of all configured tenants, in the state in which others have left them. Raises Retry if Kafka does not answer."""
        hold_s = float(self._spec.options.get("hold_s", HOLD_S))
        self._told = self._standing()
        for gone in self._told.keys() - self._spec.all_tenants.keys():
            self.tell(gone, None, 0.0)
        now, wall = time.monotonic(), time.time()
        for tenant, its in self._spec.all_tenants.items():
            lane = Lane(tenant, Circuit(hold_s))
            record = self._told.get(tenant)
            if not its.enabled:
                way = f"set systems.{self._system}.tenants.{tenant}.enabled to true"
                lane.off = Trouble(OFF, "it is switched off", way)
            elif record is not None and record["state"] in (WAITS, REVOKED, OFF):
                left_s = min(60.0, max(0.0, float(record["again_at"]) - wall))
                trouble = Trouble(record["state"], record["message"], record["hint"])
                lane.circuit.opened(trouble, now + left_s)
            elif record is not None:
                self.tell(tenant, None, 0.0)
            yield lane

    def _standing(self) -> dict[str, dict[str, Any]]:
        head = tenant_key(self._system, "").encode()
        found = read_latest(self._context.kafka, [self._context.topics.ops("signals")])
        return {k[len(head) :].decode(): json.loads(m.value()) for k, m in found.items() if k.startswith(head)}

    def tell(self, tenant: str, trouble: Trouble | None, again_s: float) -> None:
        """Tell that a tenant takes no writes, why, and when it is tried again; or (None) that it takes them."""
        before = self._told.get(tenant)
        if trouble is None:
            if self._told.pop(tenant, None) is not None:
                self._reports.signal(tenant_key(self._system, tenant), None)
            if before is not None and before["state"] in (WAITS, REVOKED):
                log.info("the tenant takes writes again", action="tenant_recovered", system=self._system, tenant=tenant)
                self._alert(tenant, before["state"], "info", "takes writes again", "nothing to do")
            return
        began = before is None or before["state"] in (BUSY, OFF)
        record = self._told[tenant] = {
            "kind": "tenant",
            "system": self._system,
            "tenant": tenant,
            "state": trouble.state,
            "since": time.time() if before is None or began else before["since"],
            "message": trouble.message,
            "hint": trouble.hint,
            "again_at": time.time() + again_s,
        }
        self._reports.signal(tenant_key(self._system, tenant), record)
        if trouble.state in (WAITS, REVOKED):
            self._promise.look(tenant, record["since"])  # what is parked meanwhile does not come by here
        worse = began or (trouble.state == REVOKED and before is not None and before["state"] == WAITS)
        if worse and trouble.state in (WAITS, REVOKED):
            log.warning(trouble.message, action="tenant_waits", system=self._system, tenant=tenant, state=trouble.state)
            default = "look at it; what is to be written there is parked, nothing is lost, and it goes on by itself"
            severity = "critical" if trouble.state == REVOKED else "warning"
            text = f"takes no writes: {trouble.message}"
            self._alert(tenant, trouble.state, severity, text, trouble.hint or default)

    def _alert(self, tenant: str, state: str, severity: str, text: str, hint: str) -> None:
        kind = "credentials_revoked" if state == REVOKED else "tenant_waits"
        place = f"{self._system}/{tenant}"
        self._reports.alert(kind, f"{kind}/{place}", place, severity, f"{place} {text}", hint)
