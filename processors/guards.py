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
    """Count changes per actor for one entity; state is kept under ``!actor/<system>/<actor>`` beside the records."""

    def __init__(self, plan: EntityPlan, partitions: int) -> None:
        self._limits = {
            s.system: max(1, -(-s.table.actor_limit_per_min // partitions))
            for s in plan.systems.values()
            if s.table.actor_limit_per_min is not None
        }
        self._entity = plan.name

    def check(self, topic: str, partition: int, change: Change, state: Overlay) -> None:
        """Count a change. Raises Reject (``actor_limit``) if its actor has made too many within its minute, or is parked."""
        limit = self._limits.get(change.system)
        if limit is None or change.actor is None or change.origin is not None:
            return
        key = KEY + f"{change.system}/{change.actor}".encode()
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
                f"{change.actor} makes more than the configured number of changes per minute of {self._entity} in {change.system}",
                kind="actor_limit",
                hint=f"if that is meant: tidelock release {change.system} {change.actor}",
            )

    def release(self, topic: str, partition: int, system: str, actor: str, until: int, state: Overlay) -> None:
        """Let an actor's changes up to a source time pass, and count anew after it."""
        kept = {"minute": 0, "count": 0, "parked": False, "released": until}
        state.put(topic, partition, KEY + f"{system}/{actor}".encode(), json.dumps(kept, sort_keys=True).encode())
