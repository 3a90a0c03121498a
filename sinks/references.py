"""References between records: from the key that another system knows a parent by to the key that it has here.

A column bound to a field with ``references`` may arrive as ``system:native_key``, or as ``system/tenant:native_key`` where the system has
several tenants. What is not of that form stays as it is.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

from sinks.base import Outcome, Sink
from sinks.instructions import text_value
from sinks.wrappers import Wrapper
from tidelock.avro import decode_string
from tidelock.config import Config
from tidelock.envelopes import APPLIED, REJECTED, Receipt, Write
from tidelock.links import LinkView

Views = Callable[[str], LinkView]
_WAIT_S = 0.05


def reference_columns(config: Config, system: str) -> dict[str, dict[str, str]]:
    """Return, per entity of a system, which columns refer to records of which entity."""
    out: dict[str, dict[str, str]] = {}
    for entity, table in config.systems[system].entities.items():
        fields = config.entities[entity].fields if entity in config.entities else {}
        out[entity] = {
            b.column: parent
            for b in table.map
            if b.column is not None and b.field in fields and (parent := fields[b.field].references) is not None
        }
    return out


def parents_first(config: Config, system: str) -> list[str]:
    """Return the entities of a system so that none stands before one that it refers to; circles as they come."""
    columns = reference_columns(config, system)
    out: list[str] = []

    def visit(entity: str, above: tuple[str, ...]) -> None:
        if entity in out or entity in above or entity not in columns:
            return
        for parent in sorted(set(columns[entity].values())):
            visit(parent, (*above, entity))
        out.append(entity)

    for entity in columns:
        visit(entity, ())
    return out


class Referencing(Wrapper):
    """Put the keys of this system into columns that refer to other records; a write whose parent is not here yet is parked."""

    def __init__(self, inner: Sink, config: Config, system: str, views: Views) -> None:
        super().__init__(inner)
        self._config = config
        self._system = system
        self._columns = reference_columns(config, system)
        self._views = views
        self._resolving = threading.Lock()  # views are for one thread, and tenants may be written by several

    def write(self, batch: Sequence[Write]) -> list[Outcome]:
        """Carry out a batch, with resolved references."""
        columns = self._columns.get(batch[0].entity)
        if not columns:
            return self.inner.write(batch)
        outcomes: list[Outcome | None] = []
        ready: list[Write] = []
        asked: list[dict[str, bytes]] = []
        with self._resolving:
            found = [self._resolve(w, columns) for w in batch]
        for w, (here, missing) in zip(batch, found, strict=True):
            if missing is not None:
                outcomes.append(missing)
                continue
            outcomes.append(None)
            asked.append(here)
            if here:
                columns_here = {n: (here.get(n, v), b) for n, (v, b) in w.columns.items()}
                ready.append(dataclasses.replace(w, columns=columns_here))
            else:
                ready.append(w)
        done = iter(zip(asked, self.inner.write(ready), strict=True) if ready else ())
        out: list[Outcome] = []
        for known in outcomes:
            if known is not None:
                out.append(known)
                continue
            here, outcome = next(done)
            if outcome.outcome == APPLIED:
                for name, value in here.items():
                    outcome.values.setdefault(name, value)
            out.append(outcome)
        return out

    def _resolve(self, write: Write, columns: dict[str, str]) -> tuple[dict[str, bytes], Receipt | None]:
        """Return the columns that change with their values here, or the receipt of a write whose parent is unknown."""
        here: dict[str, bytes] = {}
        for name, entity in columns.items():
            pair = write.columns.get(name)
            if pair is None or pair[0][0] != 2:
                continue
            text = text_of(pair[0])
            origin, colon, key = text.partition(":")
            system, _, tenant = origin.partition("/")
            if not colon or system not in self._config.systems:
                continue
            tenant = tenant or self._unnamed(system)
            ours = (system, tenant) == (self._system, write.tenant)
            local = key if ours else self._local(entity, system, tenant, key, write.tenant)
            if local is None:
                return {}, Receipt(
                    write.canonical_id,
                    write.version,
                    REJECTED,
                    write.native_key,
                    kind="missing_parent",
                    message=f"column {name} refers to {entity} {key} of {origin}, which is not in {self._here(write)} yet",
                )
            here[name] = text_value(local)
        return here, None

    def _unnamed(self, system: str) -> str:
        """Return which tenant a reference means that names none: the only one, or the one that was the only one before it had a name."""
        spec = self._config.systems[system]
        return next(iter(spec.all_tenants)) if len(spec.all_tenants) == 1 else spec.tenant

    def _here(self, write: Write) -> str:
        several = len(self._config.systems[self._system].all_tenants) > 1
        return f"{self._system}/{write.tenant}" if several else self._system

    def _local(self, entity: str, system: str, tenant: str, key: str, here: str) -> str | None:
        """Return the key that a record of another place has in our tenant ``here``."""
        view = self._views(entity)
        for wait_s in (0.0, _WAIT_S):
            view.refresh(wait_s)
            canonical_id = view.canonical_id(system, tenant, key)
            if canonical_id is None:
                continue
            spec = self._config.systems[self._system]
            local = view.native_key(canonical_id, self._system, here)
            if local is not None:
                return local
            if (
                spec.capture == "none"
            ):  # nobody captures it, so nobody links it: its keys are ours, or the same everywhere
                table = spec.entities.get(entity)
                ours = spec.kind == "store" or (table is not None and table.key_from == "canonical_id")
                return canonical_id if ours else key
        return None


def text_of(value: bytes) -> str:
    """Return the text of a generic string value."""
    return decode_string(value, 1)[0]
