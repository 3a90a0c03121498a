"""Tenants that take no writes, and the timers that wait for them: one record is tried now and then, the others when it has succeeded.

The sinks say in ``ops.signals`` which tenants these are, and when each may be asked again (`tidelock.places.tenant_key`); those that are
switched off stand in the configuration. Without this, ten thousand parked writes would be tried and refused for as long as an outage
lasts; so they cost nothing until it is over, however long that takes and whatever is started anew meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Container

from tidelock.config import Config
from tidelock.places import TENANT_HEAD

RELEASED_PER_S = 1000.0
"""How fast what has waited is let go: a backlog must not stand in the way of what people do now."""
ASK_AGAIN_S = 30.0
"""If nothing comes of an attempt, not even another refusal, the next record is tried after this."""
_HEAD = TENANT_HEAD.encode()
Place = tuple[str, str]


class Troubles:
    """Which tenants take no writes. Times are seconds since 1970; timers are known by their keys."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._again_at: dict[Place, float] = {}
        self._held: dict[Place, dict[bytes, None]] = {}
        self._off = {
            (s, t) for s, spec in config.systems.items() for t, its in spec.all_tenants.items() if not its.enabled
        }

    def take(self, key: bytes, value: bytes | None) -> list[bytes]:
        """Take a record of the topic; return the timers that need not wait any longer."""
        if not key.startswith(_HEAD):
            return []
        system, _, tenant = key[len(_HEAD) :].decode().partition("/")
        place = system, tenant
        spec = self._config.systems.get(system)
        if value is None or spec is None or tenant not in spec.all_tenants:
            self._again_at.pop(place, None)
            return [] if place in self._off else list(self._held.pop(place, ()))
        self._again_at[place] = float(json.loads(value)["again_at"])
        return []

    def holds(self, place: Place, key: bytes) -> bool:
        """Tell whether a timer that is due has to wait; it is kept then."""
        if place not in self._again_at and place not in self._off:
            return False
        self._held.setdefault(place, {})[key] = None
        return True

    def attempts(self, now: float, alive: Container[bytes]) -> list[bytes]:
        """Return the timers that may fire to see whether their tenant takes writes again: one of each tenant that may be asked now."""
        out = []
        for place, again_at in self._again_at.items():
            held = self._held.get(place, {})
            while held and again_at <= now and place not in self._off:
                key = next(iter(held))
                del held[key]
                if key in alive:
                    out.append(key)
                    self._again_at[place] = now + ASK_AGAIN_S
                    break
        return out


def spread(count: int, now: float) -> list[float]:
    """Return when so many timers of one place may fire."""
    return [now + i / RELEASED_PER_S for i in range(count)]
