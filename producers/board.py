"""What is to be done next, decided in one place: the worker that holds the first partition of the increments lane gives out all jobs.

Everything it needs stands on ``ops.signals``, so that another worker goes on where it was. After a change of hands a job may be given out
twice; it is then done twice, from the same state, which costs a reading and changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
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
from tidelock.config import SystemSpec
from tidelock.context import Context
from tidelock.places import seed_key
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
    """The jobs of one system. ``reads_all_first``: see `producers.api.ApiProducer`."""

    def __init__(
        self,
        context: Context,
        system: str,
        publisher: Publisher,
        signals: Signals,
        schedules: Callable[[str], Mapping[str, Schedule]],
        *,
        reads_all_first: bool,
    ) -> None:
        self._context, self._system = context, system
        self._spec = context.config.systems[system]
        self._publisher, self._signals = publisher, signals
        self._reads_all_first = reads_all_first
        self._schedules = {entity: schedules(entity) for entity in self._spec.entities}
        self._columns = {entity: list(wanted(table)) for entity, table in self._spec.entities.items()}
        self._on_start = bool(self._spec.options.get("seed_on_start", True))
        self._parallel = int(self._spec.options.get("parallel_loads", PARALLEL))
        self._marks: dict[str, Marks] = {}
        self._states: dict[Place, State] = {}
        self._loads: dict[Place, dict[str, dict[int, Load]]] = {}  # by id and part
        self._captured: dict[Place, list[str]] = {}  # the columns with which everything has been read, or is being read
        self._out: dict[tuple[str, str, str, int], _Out] = {}  # by id and part of the load; ("", 0): the increments
        self._asked: dict[Place, set[str]] = {}  # who waits for a poll: keys of requests
        self._told: dict[tuple[str, str, str], tuple[Any, ...]] = {}
        self._due_at: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._given_at: dict[tuple[str, str, str], float] = {}  # by kind of run

    # ------------------------------------------------------------------------------------------------ records

    def take(self, records: Iterable[tuple[str, Signal]]) -> None:
        """Take note of records of ``ops.signals``."""
        for key, content in records:
            head, *parts = key.split("/")
            if not parts or parts[0] != self._system:
                continue
            try:
                if head == "capture" and len(parts) == 3:
                    self._states[parts[1], parts[2]] = msgspec.convert(content.get("state", {}), State)
                elif head == "columns" and len(parts) == 3:
                    self._captured[parts[1], parts[2]] = [str(c) for c in content.get("columns", [])]
                elif head == "load" and len(parts) == 5:
                    load = msgspec.convert(content.get("load", {}), Load)
                    self._loads.setdefault((parts[1], parts[2]), {}).setdefault(load.id, {})[load.part] = load
            except (msgspec.ValidationError, ValueError) as error:
                log.warning("a record of an earlier version is passed over", key=key, error=str(error))

    def requests(self, tenants: Iterable[Tenant]) -> None:
        """Take on what people have asked for: seeds and refreshes. A request is gone when what it asked for stands on record."""
        names = [t.name for t in tenants]
        for key, request in list(self._signals.last.items()):
            if not key.startswith("request/") or request.get("system") != self._system:
                continue
            kind = request.get("kind")
            if kind not in ("seed", "refresh") or any(key in asked for asked in self._asked.values()):
                continue
            if request.get("tenant") not in (None, *names):
                continue  # one that was added a moment ago: whoever knows it takes the request on
            entities = [e for e in self._spec.entities if request.get("entity") in (None, e)]
            for place in [(t, e) for t in names if request.get("tenant") in (None, t) for e in entities]:
                if kind == "seed":
                    self._seed(place, str(request.get("id") or secrets.token_hex(8)), request.get("where"))
                elif request.get("keys"):
                    self._give("increments", Job("read", *place, keys=[str(k) for k in request["keys"]]))
                else:
                    self._asked.setdefault(place, set()).add(key)
            if not any(key in asked for asked in self._asked.values()):
                self._answered(key)

    def _answered(self, key: str) -> None:
        self._publisher.flush()
        self._signals.last.pop(key, None)
        self._publisher.signal(key, None)

    def _seed(self, place: Place, number: str, where: str | None) -> None:
        if self._reads_all_first and where is None:
            self._note_columns(place, [])  # its reading of everything is its first poll: that begins anew
        elif number not in self._loads.get(place, {}):
            self._begin_load(*place, number, where)

    # ------------------------------------------------------------------------------------------------ giving out

    def step(self, tenants: Iterable[Tenant]) -> int:
        """Give out every job that is due; return how many. Tenants take turns. Raises Retry or Fatal."""
        now, given = time.time(), 0
        on = [t.name for t in tenants if t.state == "on"]
        for tenant in on:
            for entity in self._spec.entities:
                given += self._increment(tenant, entity, now)
        for tenant in on:
            for entity in self._spec.entities:
                given += self._load(tenant, entity, now)
        if given:
            self._publisher.flush()
        return given

    def _increment(self, tenant: str, entity: str, now: float) -> int:
        place = (tenant, entity)
        state = self._states.get(place)
        if state is None:
            # Nightly runs count from the first start. The first poll is due at once, also with a schedule: loads and creates wait for it.
            schedules = self._schedules[entity].items()
            ran = {kind: now for kind, schedule in schedules if schedule.cron is not None and kind != "poll"}
            state = self._states[place] = State(ran=ran)
        if self._is_out((*place, "", 0), state.seq, now):
            return 0
        if self._reads_all_first and self._lacking(place):
            self._begin_again(place, state)
        if state.not_before > now:
            return 0
        kind, due = self._due(place, state, now)
        if kind is None:
            return 0
        self._give("increments", Job(kind, tenant, entity, due, state=state, at=now))
        self._out[*place, "", 0] = _Out(state.seq, now)
        self._given_at[*place, kind] = now
        if kind == "poll":
            asked = self._asked.pop(place, set())
            for key in asked - set().union(*self._asked.values()):
                self._answered(key)
        return 1

    def _is_out(self, what: tuple[str, str, str, int], seq: int, now: float) -> bool:
        out = self._out.get(what)
        return out is not None and out.seq == seq and now - out.at < LOST_AFTER_S

    def _due(self, place: Place, state: State, now: float) -> tuple[str | None, float]:
        """Return the kind of run that is next. Of several that are due it is the one that has waited longest for its turn.

        So a poll that takes longer than its interval keeps no nightly run from its turn, and one of those that fails keeps no poll from it.
        """
        schedules = self._schedules[place[1]]
        if state.more in schedules and (state.more == "poll" or not state.failures):
            return state.more, now
        if place in self._asked and "poll" in schedules:
            return "poll", now
        due: dict[str, float] = {}
        for kind in schedules:
            if kind != "poll" and "poll" in schedules and "poll" not in state.cursors:
                continue  # everything else builds on where polling begins
            ran = state.ran.get(kind, 0.0)
            at = self._next(place, kind, ran) if ran else now
            if at <= now:
                due[kind] = at
        if not due:
            return None, 0.0
        first = min(due, key=lambda kind: self._given_at.get((*place, kind), 0.0))
        return first, due[first]

    def _next(self, place: Place, kind: str, ran: float) -> float:
        """Return when a kind of run is due; what a cron expression says is worked out once per run."""
        known = self._due_at.get((*place, kind))
        if known is None or known[0] != ran:
            known = self._due_at[*place, kind] = (ran, self._schedules[place[1]][kind].due(ran))
        return known[1]

    # ------------------------------------------------------------------------------------------------ first loads

    def _lacking(self, place: Place) -> bool:
        """Return whether columns are wanted with which not everything has been read. What was never read is asked for otherwise."""
        captured = self._captured.get(place)
        return captured is not None and not set(self._columns[place[1]]) <= set(captured)

    def _begin_again(self, place: Place, state: State) -> None:
        """Have the first poll done anew, which reads everything."""
        state.cursors, state.more = {}, None
        state.ran = {**state.ran, "poll": 0.0}
        state.seq += 1
        write_state(self._publisher, self._system, *place, state)
        self._note_columns(place)
        log.info("everything is read anew", system=self._system, tenant=place[0], entity=place[1])

    def _note_columns(self, place: Place, columns: list[str] | None = None) -> None:
        self._captured[place] = self._columns[place[1]] if columns is None else columns
        content = {"kind": "columns", "columns": self._captured[place]}
        self._publisher.signal(f"columns/{self._system}/{place[0]}/{place[1]}", content)

    def _load(self, tenant: str, entity: str, now: float) -> int:
        place = (tenant, entity)
        state, loads = self._states.get(place), self._loads.get(place, {})
        polls = "poll" in self._schedules[entity]
        if state is None or (polls and "poll" not in state.cursors):
            return 0  # a load that began before polling has its cursor would leave a gap between them
        marks = self._marks_of(tenant)
        whole = [parts for parts in loads.values() if all(load.where is None for load in parts.values())]
        first = self._on_start and not whole and not marks.given(entity)
        again = self._lacking(place) and (self._on_start or bool(whole))
        if not self._reads_all_first and (first or again):
            self._begin_load(tenant, entity, secrets.token_hex(8), None)
            loads = self._loads[place]
        elif not marks.given(entity):
            self._mark(marks, entity, state, whole)
        if place not in self._captured or (self._lacking(place) and not self._reads_all_first):
            self._note_columns(place)
        return sum(self._parts(place, number, parts, now) for number, parts in list(loads.items()))

    def _mark(self, marks: Marks, entity: str, state: State, whole: list[dict[int, Load]]) -> None:
        """Give the marks that end the first seed, if it has ended."""
        if self._reads_all_first:
            # One that broke off has a cursor, too, but has not run.
            if state.more is None and state.ran.get("poll"):
                marks.give(entity, "first reading")
        elif any(all(load.done for load in parts.values()) for parts in whole):
            marks.give(entity, "seed")
        elif not whole:
            marks.give(entity, "not seeded on start")

    def _parts(self, place: Place, number: str, parts: dict[int, Load], now: float) -> int:
        """Give out parts of one load, a few at a time."""
        self._tell(place, number, list(parts.values()))
        waiting = [(n, load) for n, load in sorted(parts.items()) if not load.done]
        under_way = sum(self._is_out((*place, number, n), load.seq, now) for n, load in waiting)
        given = 0
        for n, load in waiting:
            what = (*place, number, n)
            if under_way >= self._parallel:
                break
            if load.not_before > now or self._is_out(what, load.seq, now):
                continue
            self._give("loads", Job("split" if load.parts == 0 else "load", *place, now, load=load, at=now))
            self._out[what] = _Out(load.seq, now)
            under_way += 1
            given += 1
        return given

    def _tell(self, place: Place, number: str, loads: list[Load]) -> None:
        """Tell people how far a load is, if that has changed."""
        stands = (sum(load.rows for load in loads), all(load.done for load in loads), [load.error for load in loads])
        if self._told.get((*place, number)) == stands:
            return
        self._told[*place, number] = stands
        progress(self._publisher, self._spec, self._system, *place, loads)

    def _begin_load(self, tenant: str, entity: str, number: str, where: str | None) -> None:
        """Begin a load; how it is cut into parts a worker finds out, since the vendor has to be asked."""
        place = (tenant, entity)
        loads = self._loads.setdefault(place, {})
        for old, parts in list(loads.items()):
            if all(load.done for load in parts.values()):  # of those that are done only the newest is remembered
                del loads[old]
                self._told.pop((*place, old), None)
                for n in parts:
                    self._out.pop((*place, old, n), None)
                    self._publisher.signal(f"load/{self._system}/{tenant}/{entity}/{old}/{n}", None)
        first = Load(number, 0, 0, {}, where=where, seq=1)
        loads[number] = {0: first}
        write_load(self._publisher, self._system, tenant, entity, first)
        if where is None:
            self._note_columns(place)
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
    key = f"load/{system}/{tenant}/{entity}/{load.id}/{load.part}"
    publisher.signal(key, {"kind": "load", "load": to_json(load)})


def progress(publisher: Publisher, spec: SystemSpec, system: str, tenant: str, entity: str, loads: list[Load]) -> None:
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
    publisher.signal(seed_key(spec, system, tenant, entity), content)
