"""Guards: a limit on how many changes one actor makes per minute. What goes beyond it is parked until a person releases it.

Counted by the source's time, per actor and journal partition, so that the same journal gives the same decisions. Records are spread over
partitions by their ids; each partition allows its share of the limit. A parked change is a dead letter of kind ``actor_limit``; it goes
back into the journal by ``tidelock release``, unless a newer change of the same record has come by meanwhile, which then holds its values.
"""

from __future__ import annotations

import json

from processors.plan import EntityPlan
from processors.stage import Overlay
from tidelock.change import Change
from tidelock.errors import Reject

KEY = b"!actor/"
_MINUTE = 60_000_000


class ActorLimits:
    """Count changes per actor for one entity, in each tenant for itself.

    State is kept under ``!actor/<system>/<actor>`` beside the records; where a system has several tenants, under
    ``!actor/<system>/<tenant>/<actor>``.
    """

    def __init__(self, plan: EntityPlan, partitions: int) -> None:
        self._limits = {
            system: max(1, -(-p.table.actor_limit_per_min // partitions))
            for system, p in plan.systems.items()
            if p.table.actor_limit_per_min is not None
        }
        self._plan = plan
        self._entity = plan.name

    def check(self, topic: str, partition: int, change: Change, state: Overlay) -> None:
        """Count a change. Raises Reject (``actor_limit``) if its actor has made too many within its minute, or is parked."""
        limit = self._limits.get(change.system)
        if limit is None or change.actor is None or change.origin is not None:
            return
        shown = self._plan.shown(f"{change.system}/{change.tenant}")
        key = KEY + f"{shown}/{change.actor}".encode()
        raw = state.get(topic, partition, key)
        kept = json.loads(raw) if raw else {"minute": 0, "count": 0, "parked": False, "released": -1}
        if change.source_time <= kept["released"]:
            return
        minute = change.source_time // _MINUTE
        if minute > kept["minute"]:
            kept["minute"], kept["count"] = minute, 0
        kept["count"] += 1
        kept["parked"] = kept["parked"] or kept["count"] > limit
        state.put(topic, partition, key, json.dumps(kept, sort_keys=True).encode())
        if kept["parked"]:
            raise Reject(
                f"{change.actor} makes more than the configured number of changes per minute of {self._entity} in {shown}",
                kind="actor_limit",
                hint=f"if that is meant: tidelock release {change.system} {change.actor}"
                + (f" --tenant {change.tenant}" if shown != change.system else ""),
            )

    def release(
        self, topic: str, partition: int, system: str, tenant: str, actor: str, until: int, state: Overlay
    ) -> None:
        """Let an actor's changes up to a source time pass, and count anew after it; in all tenants if none is named."""
        kept = json.dumps({"minute": 0, "count": 0, "parked": False, "released": until}, sort_keys=True).encode()
        for place, p in self._plan.places.items():
            if p.system == system and tenant in ("", p.tenant):
                state.put(topic, partition, KEY + f"{self._plan.shown(place)}/{actor}".encode(), kept)
