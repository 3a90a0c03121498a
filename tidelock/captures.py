"""How captures of APIs fare, from what their workers put on record in ``ops.signals``: a status is not green because nothing is known.

Records are ``capture/<system>/<tenant>/<entity>`` (`producers.jobs.State`) and ``seeded/…`` of the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidelock.central import uses_api
from tidelock.config import Config

HEAD = "capture/"
STUCK_AFTER = 3
"""So many failures in a row are more than a passing trouble. What only a person can mend counts as so many at once."""


@dataclass(frozen=True)
class Trouble:
    """One entity of one tenant that is not read. ``known``: its capture has said why; else it has said nothing at all so far."""

    system: str
    tenant: str
    entity: str
    message: str
    known: bool = True


def unread(signals: Mapping[str, Mapping[str, Any]], config: Config) -> list[Trouble]:
    """Return what is not read of systems that are reached through an API, from the last record of every key of ``ops.signals``."""
    out = []
    for system, spec in config.systems.items():
        if not spec.enabled or spec.capture == "none" or not uses_api(spec):
            continue
        for tenant, its in spec.all_tenants.items():
            for entity in spec.entities if its.enabled else ():
                body = signals.get(f"{HEAD}{system}/{tenant}/{entity}")
                state = {} if body is None else body.get("state", {})
                if body is None and f"seeded/{system}/{tenant}/{entity}" not in signals:
                    out.append(Trouble(system, tenant, entity, "its capture has told nothing yet", known=False))
                elif state.get("error") and int(state.get("failures", 0)) >= STUCK_AFTER:
                    out.append(Trouble(system, tenant, entity, " ".join(str(state["error"]).split())))
    return out
