"""The sources that a worker has made: one per tenant and lane, with the task and the columns of each entity."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from producers.apirows import ApiRows, wanted
from producers.source import Source, Task
from tidelock.context import Context
from tidelock.errors import Fatal
from tidelock.tenants import Tenant

_MOST = 500

Place = tuple[str, str]  # lane, tenant


@dataclass(slots=True)
class _Made:
    """A source, what it was made from, and its tasks by entity. ``users`` is how many jobs have it in their hands."""

    stamp: Any
    source: Source
    tasks: dict[str, tuple[Task, ApiRows]] = field(default_factory=dict)
    users: int = 0


class Tools:
    """Keep sources as long as nothing about their tenants changes. Two jobs never have one source at once (`producers.crew`)."""

    def __init__(
        self,
        context: Context,
        system: str,
        source: type[Source],
        kafka: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._context, self._system, self._source, self._kafka = context, system, source, kafka
        self._spec = context.config.systems[system]
        self._made: OrderedDict[Place, _Made] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, lane: str, tenant: Tenant, entity: str) -> tuple[Source, Task, ApiRows]:
        """Return a tenant's source and an entity's task, made anew when anything about the tenant has changed.

        `give_back` ends it. Raises what the source raises, and Fatal for columns that are not there.
        """
        made = self._of(lane, tenant)
        if entity not in made.tasks:
            table = self._spec.entities[entity]
            columns = made.source.columns(table)
            missing = [name for name in wanted(table) if name not in columns]
            if missing:
                raise Fatal(
                    f"{tenant.path}: {table.table} has no property {', '.join(missing)}",
                    hint="correct the mapping, create the property there, or grant the right to see it",
                )
            task = Task(entity, table, {name: columns[name] for name in wanted(table)})
            with self._kafka():
                made.tasks[entity] = (task, ApiRows(self._context, self._system, tenant.name, task))
        task, rows = made.tasks[entity]
        return made.source, task, rows

    def give_back(self, lane: str, tenant: str, *, spoilt: bool = False) -> None:
        """End the use of a source; one that is ``spoilt`` is made anew next time."""
        with self._lock:
            made = self._made.get((lane, tenant))
            if made is None:
                return
            made.users = 0
            if spoilt:
                del self._made[lane, tenant]
        if spoilt:
            made.source.close()

    def close(self) -> None:
        """Close all sources."""
        with self._lock:
            all_of_them, self._made = list(self._made.values()), OrderedDict()
        for made in all_of_them:
            made.source.close()

    def _of(self, lane: str, tenant: Tenant) -> _Made:
        place, stamp = (lane, tenant.name), (tenant.url, dict(tenant.options), dict(tenant.credentials))
        old: list[_Made] = []
        with self._lock:
            made = self._made.get(place)
            if made is not None and made.stamp != stamp:
                old.append(self._made.pop(place))
                made = None
        if made is None:
            made = _Made(stamp, self._source(self._context, tenant))
        with self._lock:
            self._made[place] = made
            self._made.move_to_end(place)
            made.users = 1
            idle = [p for p, m in self._made.items() if not m.users]
            old += [self._made.pop(p) for p in idle[: max(0, len(self._made) - _MOST)]]
        for gone in old:
            gone.source.close()
        return made
