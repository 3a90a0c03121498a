"""Creates that wait for the seed of the system they would go to: how many, why, and what to do if the seed does not come.

From three kinds of records in ``ops.signals``: ``waiting/…`` (identify: how many), ``seed/…`` (captures: how far), ``seeded/…``
(captures: all of it has been read), each per tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tidelock.config import Config, SystemSpec
from tidelock.places import seed_key, shown

READING, DECIDING, FAILED, NOT_READ, OFF = "reading", "deciding", "failed", "not read", "off"


@dataclass(frozen=True)
class Wait:
    """Creates that wait. ``state``: the seed is under way (``reading``) or over (``deciding``), it has failed, or never ran.

    ``tenant`` is empty where the system has only one. One that is switched ``off`` is meant to wait.
    """

    system: str
    entity: str
    creates: int
    state: str
    rows: int | None
    estimate: int | None
    reason: str
    next: str = ""
    tenant: str = ""

    @property
    def place(self) -> str:
        """Return where they would go, as people call it."""
        return f"{self.system}/{self.tenant}" if self.tenant else self.system

    @property
    def stuck(self) -> bool:
        """Return whether it takes a person to get on."""
        return self.state in (FAILED, NOT_READ)

    @property
    def text(self) -> str:
        """Say it in one line."""
        many = "1 create waits" if self.creates == 1 else f"{self.creates:,} creates wait"
        return f"{many} for the seed of {self.place}/{self.entity}, {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"text": self.text}


def waits(signals: Mapping[str, Mapping[str, Any]], config: Config) -> list[Wait]:
    """Return what waits, from the last record of every key of ``ops.signals``."""
    out = []
    for key, body in sorted(signals.items()):
        if not key.startswith("waiting/"):
            continue
        system, tenant, entity = str(body["system"]), str(body["tenant"]), str(body["entity"])
        spec = config.systems.get(system)
        if spec is None or spec.capture == "none" or tenant not in spec.all_tenants or entity not in spec.entities:
            continue  # of an earlier configuration; nothing waits for it now
        seeded = f"seeded/{system}/{tenant}/{entity}" in signals
        seed = signals.get(seed_key(spec, system, tenant, entity))
        out.append(_wait(spec, system, tenant, entity, int(body["creates"]), seed, seeded=seeded))
    return out


def _wait(
    spec: SystemSpec,
    system: str,
    tenant: str,
    entity: str,
    creates: int,
    seed: Mapping[str, Any] | None,
    *,
    seeded: bool,
) -> Wait:
    rows = None if seed is None else seed.get("rows")
    estimate = None if seed is None else seed.get("estimate")
    state = None if seed is None else seed.get("state")
    named = tenant if shown(spec, system, tenant) != system else ""
    whose = f" --tenant {named}" if named else ""
    again = f"`tidelock seed {system} {entity}{whose}`"

    def wait(state: str, reason: str, what: str = "") -> Wait:
        return Wait(system, entity, creates, state, rows, estimate, reason, what, named)

    if seeded:
        return wait(DECIDING, "which is through: they are being decided")
    if not spec.enabled:
        return wait(NOT_READ, f"and {system} is not enabled", f"set `enabled: true` of system {system}")
    if not spec.all_tenants[tenant].enabled:
        way = f"set systems.{system}.tenants.{tenant}.enabled to true"
        return wait(OFF, f"and {system}/{tenant} is switched off", way)
    if seed is not None and state == "failed":
        return wait(FAILED, f"which has failed: {seed.get('message')}", f"mend what it says, then {again}")
    if state in ("running", "done"):
        known = int(rows or 0)
        of = f" of {estimate:,}" if estimate and estimate >= known else ""
        return wait(READING, f"{known:,}{of} rows read")
    return wait(NOT_READ, "which has not begun", f"see that capture.{system} runs; {again} has it read at once")
