"""What is to be done next, decided in one place: the worker that holds the first partition of the increments lane gives out all jobs.

Everything it needs stands on ``ops.signals``, so that another worker goes on where it was. After a change of hands a job may be given out
twice; it is then done twice, from the same state, which costs a reading and changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from producers.apirows import wanted
from producers.base import Publisher
from producers.jobs import Job, Lane, Load, State, encode, key_of, to_json
from producers.schedule import Schedule
from producers.seeded import Marks
from producers.signals import Signal, Signals
from tidelock.context import Context
from tidelock.tenants import Tenant

log = structlog.get_logger()

Place = tuple[str, str]  # tenant, entity
LOST_AFTER_S = 1800.0
"""A job that was given out and whose end nobody has told for so long is given out again."""
PARALLEL = 4


@dataclass(slots=True)
class _Out:
    """A job that was given out, with the state's number at that time."""

    seq: int
    at: float


class Board:
    """The jobs of one system. ``reads_all_first``: see `producers.source.Source`."""

    def __init__(
        self,
        context: Context,
        system: str,
        publisher: Publisher,
        signals: Signals,
        schedules: Callable[[str], dict[str, Schedule]],
        *,
        reads_all_first: bool,
    ) -> None:
        self._context, self._system = context, system
        self._spec = context.config.systems[system]
        self._publisher, self._signals = publisher, signals
        self._reads_all_first = reads_all_first
        self._schedules = {entity: schedules(entity) for entity in self._spec.entities}
        self._columns = {entity: wanted(table) for entity, table in self._spec.entities.items()}
        self._on_start = bool(self._spec.options.get("seed_on_start", True))
        self._parallel = int(self._spec.options.get("parallel_loads", PARALLEL))
        self._marks: dict[str, Marks] = {}
        self._states: dict[Place, State] = {}
        self._loads: dict[Place, dict[int, Load]] = {}
        self._out: dict[tuple[str, str, int], _Out] = {}  # part -1: the increments
        self._asked: dict[Place, float] = {}
        self._first_seen: dict[Place, float] = {}

    # ------------------------------------------------------------------------------------------------ records

    def take(self, records: Iterable[tuple[str, Signal]]) -> None:
        """Take note of records of ``ops.signals``, and of requests among them."""
        mine = self._system
        for key, content in records:
            head, _, rest = key.partition("/")
            parts = rest.split("/")
            try:
                if head == "capture" and len(parts) == 3 and parts[0] == mine:
                    self._states[parts[1], parts[2]] = msgspec.convert(content.get("state", {}), State)
                elif head == "load" and len(parts) == 4 and parts[0] == mine:
                    load = msgspec.convert(content.get("load", {}), Load)
                    self._loads.setdefault((parts[1], parts[2]), {})[int(parts[3])] = load
            except (msgspec.ValidationError, ValueError) as error:
                log.warning("a record of an earlier version is passed over", key=key, error=str(error))

    def requests(self, tenants: Iterable[Tenant]) -> None:
        """Carry out what people have asked for: seeds and refreshes."""
        names = [t.name for t in tenants]
        for key, request in list(self._signals.last.items()):
            if not key.startswith("request/") or request.get("system") != self._system:
                continue
            kind = request.get("kind")
            if kind not in ("seed", "refresh"):
                continue
            entities = [e for e in self._spec.entities if request.get("entity") in (None, e)]
            chosen = [t for t in names if request.get("tenant") in (None, t)]
            for tenant in chosen:
                for entity in entities:
                    if kind == "seed":
                        number = str(request.get("id") or secrets.token_hex(8))
                        loads = self._loads.get((tenant, entity), {})
                        if not any(load.id == number for load in loads.values()):
                            self._begin_load(tenant, entity, number, request.get("where"))
                    elif request.get("keys"):
                        self._give("increments", Job("read", tenant, entity, keys=[str(k) for k in request["keys"]]))
                    else:
                        self._asked[tenant, entity] = time.time()
            self._publisher.flush()
            self._signals.last.pop(key, None)
            self._publisher.signal(key, None)  # last: a request is gone only when what it asked for stands on record

    # ------------------------------------------------------------------------------------------------ giving out

    def step(self, tenants: Iterable[Tenant]) -> int:
        """Give out every job that is due; return how many. Tenants take turns. Raises Retry or Fatal."""
        now, given = time.time(), 0
        on = [t for t in tenants if t.state == "on"]
        for tenant in on:
            for entity in self._spec.entities:
                given += self._increment(tenant.name, entity, now)
        for tenant in on:
            for entity in self._spec.entities:
                given += self._load(tenant.name, entity, now)
        if given:
            self._publisher.flush()
        return given

    def next_due_s(self, tenants: Iterable[Tenant]) -> float:
        """Return for how long nothing becomes due by itself."""
        now, soonest = time.time(), 60.0
        for tenant in tenants:
            for entity in self._spec.entities:
                state = self._states.get((tenant.name, entity))
                if state is None:
                    return 0.0
                for kind, schedule in self._schedules[entity].items():
                    due = max(schedule.due(state.ran.get(kind, 0.0)), state.not_before)
                    soonest = min(soonest, due - now)
        return max(0.0, soonest)

    def _increment(self, tenant: str, entity: str, now: float) -> int:
        place = (tenant, entity)
        state = self._states.get(place)
        if state is None:
            # Nightly runs count from the first start; polls are due at once.
            ran = {kind: now for kind, schedule in self._schedules[entity].items() if schedule.cron is not None}
            state = self._states[place] = State(ran=ran)
        out = self._out.get((tenant, entity, -1))
        if out is not None and out.seq == state.seq and now - out.at < LOST_AFTER_S:
            return 0
        if state.not_before > now:
            return 0
        kind, due = self._due(place, state, now)
        if kind is None:
            return 0
        self._give("increments", Job(kind, tenant, entity, due, state=state, at=now))
        self._out[tenant, entity, -1] = _Out(state.seq, now)
        return 1

    def _due(self, place: Place, state: State, now: float) -> tuple[str | None, float]:
        if state.more is not None:
            return state.more, now
        if self._asked.pop(place, None) is not None:
            return "poll", now
        for kind, schedule in self._schedules[place[1]].items():
            if kind != "poll" and "poll" not in state.cursors:
                continue  # everything else builds on where polling begins
            due = schedule.due(state.ran.get(kind, 0.0))
            if due <= now:
                return kind, due
        return None, 0.0

    # ------------------------------------------------------------------------------------------------ first loads

    def _load(self, tenant: str, entity: str, now: float) -> int:
        state, loads = self._states.get((tenant, entity)), self._loads.get((tenant, entity), {})
        if state is None or "poll" not in state.cursors:
            return 0  # a load that began before polling has its cursor would leave a gap between them
        marks = self._marks_of(tenant)
        changed = state.columns != () and set(self._columns[entity]) - set(state.columns)
        if not loads:
            if self._reads_all_first:
                if not marks.given(entity) and state.more is None and not state.failures:
                    marks.give(entity, "first reading")
                if changed:
                    self._begin_load(tenant, entity, secrets.token_hex(8), None)
            elif self._on_start:
                self._begin_load(tenant, entity, secrets.token_hex(8), None)
            elif not marks.given(entity):
                marks.give(entity, "not seeded on start")
            return 0
        number = max(
            (load.id for load in loads.values()), key=lambda i: sum(v.seq for v in loads.values() if v.id == i)
        )
        parts = {n: load for n, load in loads.items() if load.id == number or not load.done}
        waiting = [(n, load) for n, load in sorted(parts.items()) if not load.done]
        if not waiting:
            whole = all(load.where is None for load in parts.values())
            if whole and not marks.given(entity):
                marks.give(entity, "seed")
            if changed:
                self._begin_load(tenant, entity, secrets.token_hex(8), None)
            return 0
        given = 0
        under_way = sum(
            1
            for n, load in waiting
            if (o := self._out.get((tenant, entity, n))) is not None and o.seq == load.seq and now - o.at < LOST_AFTER_S
        )
        for n, load in waiting:
            out = self._out.get((tenant, entity, n))
            if under_way >= self._parallel:
                break
            if load.not_before > now or (out is not None and out.seq == load.seq and now - out.at < LOST_AFTER_S):
                continue
            kind = "split" if load.parts == 0 else "load"
            self._give("loads", Job(kind, tenant, entity, now, state=state, load=load, at=now))
            self._out[tenant, entity, n] = _Out(load.seq, now)
            under_way += 1
            given += 1
        return given

    def _begin_load(self, tenant: str, entity: str, number: str, where: str | None) -> None:
        """Begin a load; how it is cut into parts a worker finds out, since the vendor has to be asked."""
        old = self._loads.get((tenant, entity), {})
        first = Load(number, 0, 0, {}, where=where, seq=1 + max((load.seq for load in old.values()), default=0))
        for n in old:
            if n > 0:
                self._publisher.signal(f"load/{self._system}/{tenant}/{entity}/{n}", None)
        self._loads[tenant, entity] = {0: first}
        write_load(self._publisher, self._system, tenant, entity, first)
        state = self._states.get((tenant, entity))
        if state is not None:
            state.columns = self._columns[entity]
        progress(self._publisher, self._system, tenant, entity, [first], only=len(self._spec.all_tenants) == 1)
        log.info("a load begins", system=self._system, tenant=tenant, entity=entity)

    def _marks_of(self, tenant: str) -> Marks:
        marks = self._marks.get(tenant)
        if marks is None:
            marks = self._marks[tenant] = Marks(
                self._context, self._system, self._publisher, self._signals.last, tenant=tenant
            )
        return marks

    def _give(self, lane: Lane, job: Job) -> None:
        topic = self._context.topics.jobs(lane, self._system)
        self._publisher.raw(topic, key_of(job.tenant, job.entity), encode(job))


def write_state(publisher: Publisher, system: str, tenant: str, entity: str, state: State) -> None:
    """Put a state on record."""
    publisher.signal(f"capture/{system}/{tenant}/{entity}", {"kind": "capture", "state": to_json(state)})


def write_load(publisher: Publisher, system: str, tenant: str, entity: str, load: Load) -> None:
    """Put the state of a part of a load on record."""
    publisher.signal(f"load/{system}/{tenant}/{entity}/{load.part}", {"kind": "load", "load": to_json(load)})


def progress(publisher: Publisher, system: str, tenant: str, entity: str, loads: list[Load], *, only: bool) -> None:
    """Tell people how far a load is, in the form that all captures write."""
    done = bool(loads) and all(load.done for load in loads)
    content: dict[str, Any] = {
        "kind": "seed_progress",
        "system": system,
        "tenant": tenant,
        "entity": entity,
        "id": loads[0].id,
        "where": loads[0].where,
        "state": "done" if done else "running",
        "message": next((load.error for load in loads if load.error), None),
        "rows": sum(load.rows for load in loads),
        "estimate": None,
        "at": int(time.time()),
    }
    publisher.signal(f"seed/{system}/{entity}" if only else f"seed/{system}/{tenant}/{entity}", content)
