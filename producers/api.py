"""Capture of HTTP APIs: any number of workers carry out jobs (`producers.jobs`) that one of them gives out (`producers.board`).

A connector is a class with `source` set to its `producers.source.Source`:

    class AcmeProducer(ApiProducer):
        source = AcmeSource

Every page that a source reads is published and acknowledged before its cursor is put on record. What is read twice has the same position
and is dropped by merge, so nothing here remembers what was published.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
import structlog

from producers.apirows import ApiRows, wanted
from producers.base import Progress, Publisher
from producers.board import Board, progress, write_load, write_state
from producers.jobs import BOUND_S, Job, Load, Queue, State, Taken, encode, key_of, pause_s
from producers.schedule import RunLog, Schedule
from producers.seen import each_message
from producers.signals import Signals
from producers.source import Page, Source, Task
from tidelock.apis.records import Record
from tidelock.change import CREATE, DELETE, SNAPSHOT, UPDATE
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry, Revoked, TidelockError
from tidelock.tenants import Tenant

log = structlog.get_logger()

_LOOK_EVERY_S = 0.5
_LOADS_AT_LEAST_EVERY_S = 30.0
_MOST_SOURCES = 500
_MOST_TRIES = 5


class ApiProducer:
    """Capture one system with all its tenants (`producers.base.Producer`)."""

    source: ClassVar[type[Source]]
    reads_all_first: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("poll", "overlap")
    """The kinds of runs there are: ``poll``, ``overlap`` (the nightly insurance), ``deletes`` (a comparison of all keys)."""

    def __init__(self, context: Context, system: str) -> None:
        self.context, self.system = context, system
        self.spec = context.config.systems[system]
        self.publisher = Publisher(context, system)
        self.tenants = context.access.tenants
        self._signals = Signals(context, f"{context.name}-{system}")
        self._queues = {lane: Queue(context, system, lane) for lane in ("increments", "loads")}
        self._runs = RunLog(context, system, self.publisher)
        self._zone = str(self.spec.options.get("timezone", "UTC"))
        self._board: Board | None = None
        self._looked = 0.0
        self._loads_at = time.monotonic()
        self._sources: OrderedDict[str, tuple[Any, Source, dict[str, tuple[Task, ApiRows]]]] = OrderedDict()
        self._told: dict[tuple[str, str], float] = {}
        self._closed = False

    # ------------------------------------------------------------------------------------------------ the contract

    def setup(self) -> None:
        """Check the schedules. Raises Fatal. What a vendor has to say comes with the first job of each tenant."""
        for entity in self.spec.entities:
            self.schedules(entity)

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return when which kind of run of an entity is due."""
        table, what = self.spec.entities[entity], f"entity {entity} of system {self.system}"
        out = {"poll": Schedule(table.schedule, table.every_s, self._zone, what=what)}
        if "overlap" in self.kinds:
            out["overlap"] = Schedule(table.overlap_schedule, 0.0, self._zone, what=what)
        if "deletes" in self.kinds:
            cron = str(self.spec.options.get("find_deletes", "30 3 * * *"))
            out["deletes"] = Schedule(cron, 0.0, self._zone, what=f"options.find_deletes of system {self.system}")
        return out

    def step(self, wait_s: float) -> int:
        """Give out what is due, if that is this worker's office, and do one job. Raises Retry or Fatal."""
        self.publisher.tick()
        increments, loads = self._queues["increments"], self._queues["loads"]
        if increments.leads:
            self._lead()
        else:
            self._board = None
        taken = increments.take(0.0)
        if taken is None or time.monotonic() - self._loads_at > _LOADS_AT_LEAST_EVERY_S:
            self._loads_at = time.monotonic()
            large = loads.take(0.0)
            if large is not None:
                if taken is not None:
                    self._do(taken)
                self._do(large)
                return 1
        if taken is None:
            taken = increments.take(min(wait_s, 0.2))
        if taken is None:
            return 0
        self._do(taken)
        return 1

    def seed(self, entity: str, *, where: str | None = None, progress: Progress | None = None) -> int:
        """Ask for a load of every tenant, and return at once: the workers share it. Raises Fatal if there is no such entity."""
        del progress  # it is told on ops.signals as the parts come in
        if entity not in self.spec.entities:
            raise Fatal(f"system {self.system} has no entity {entity}", hint=f"it has {', '.join(self.spec.entities)}")
        request = {"kind": "seed", "system": self.system, "entity": entity, "where": where}
        self.publisher.signal(f"request/seed/{self.system}/{entity}", request)
        self.publisher.flush()
        return 0

    def close(self) -> None:
        """Leave the groups; a job that is going on is done again by somebody."""
        if self._closed:
            return
        self._closed = True
        for queue in self._queues.values():
            queue.close()
        self._signals.close()
        for _, source, _ in self._sources.values():
            source.close()
        self.publisher.close()

    # ------------------------------------------------------------------------------------------------ leading

    def _lead(self) -> None:
        if self._board is None:
            self._signals.close()
            self._signals = Signals(self.context, f"{self.context.name}-{self.system}")
            self._signals.load()
            self._board = Board(
                self.context,
                self.system,
                self.publisher,
                self._signals,
                self.schedules,
                reads_all_first=self.reads_all_first,
            )
            self._board.take(self._signals.last.items())
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        self._board.take(self._signals.poll())
        tenants = self.tenants.all(self.system)
        self._board.requests(tenants)
        self._board.step(tenants)

    # ------------------------------------------------------------------------------------------------ jobs

    def _do(self, taken: Taken) -> None:
        """Do one job and put on record how it ended; whatever goes wrong is this tenant's affair alone."""
        job, queue = taken.job, self._queues[taken.lane]
        if job.entity not in self.spec.entities:
            queue.done(taken.message)  # the configuration no longer has it
            return
        try:
            tenant = self.tenants.get(self.system, job.tenant)
        except Fatal:
            queue.done(taken.message)  # it was removed
            return
        if tenant.state != "on":
            self._put_off(job, f"{tenant.path} is {tenant.state}: {tenant.reason or 'by a person'}", 5.0)
            queue.done(taken.message)
            return
        started = time.time()
        try:
            self._carry_out(job, tenant, started)
        except Revoked as error:
            self._sources.pop(job.tenant, None)
            self._alert("credentials_revoked", job, error, "critical")
            self._put_off(job, str(error), 5.0)
        except Retry as error:
            failures = self._failures(job) + 1
            pause = error.retry_after_s if error.retry_after_s is not None else pause_s(failures)
            if failures >= 5:
                self._alert("source_down", job, error, "warning")
            self._put_off(job, str(error), pause, failures)
        except (Fatal, Reject) as error:
            self._sources.pop(job.tenant, None)  # whoever mends it may have changed what was known of it
            self._alert("capture_failed", job, error, "critical")
            self._put_off(job, str(error), 60.0, self._failures(job) + 1)
        self.publisher.flush()
        queue.done(taken.message)

    def _carry_out(self, job: Job, tenant: Tenant, started: float) -> None:
        source, task, rows = self._tools(tenant, job.entity)
        if job.kind == "read":
            self._publish(task, rows, tenant.name, source.read(task, job.keys), UPDATE)
        elif job.kind == "told":
            records = [msgspec.convert(r, Record) for r in job.records]
            self._publish(task, rows, tenant.name, records, UPDATE)
        elif job.kind == "split":
            self._split(job, source, task)
        elif job.kind == "load":
            self._load(job, source, task, rows)
        else:
            self._run(job, source, task, rows, started)

    def _run(self, job: Job, source: Source, task: Task, rows: ApiRows, started: float) -> None:
        """Do a run, or as much of it as a job may take; only one that meets everything goes on to its end."""
        state = job.state or State()
        kind, read, published, met, whole = job.kind, 0, 0, set[str](), False
        cursor = state.cursors.get(kind)
        if cursor is None and kind == "overlap":
            cursor = state.cursors.get("poll")
        state.more, end = None, time.monotonic() + BOUND_S
        for page in source.run(task, kind, cursor):
            whole = whole or page.whole
            if page.whole:
                met.update(r.key for r in page.records if not r.deleted)
                met.update(page.met)
            published += self._page(task, rows, job.tenant, page, SNAPSHOT if whole else UPDATE)
            read += max(page.read, len(page.records))
            state.cursors[kind] = page.cursor
            if time.monotonic() > end and not whole and not page.last:
                state.more = kind
                break
        if whole and state.more is None:
            published += self._gone(job, source, task, rows, met)
        if state.more is None:
            state.ran[kind] = max(job.due, started) if self.schedules(job.entity)[kind].cron is None else job.due
        state.failures, state.not_before, state.error = 0, 0.0, None
        state.columns = wanted(task.table)
        state.seq += 1
        self.publisher.flush()
        write_state(self.publisher, self.system, job.tenant, job.entity, state)
        scheduled = self.schedules(job.entity)[kind].cron is not None
        self._runs.finished(
            job.entity,
            kind,
            job.due,
            started,
            read,
            published,
            None,
            scheduled=scheduled,
            tenant=self._named(job.tenant),
        )

    def _split(self, job: Job, source: Source, task: Task) -> None:
        assert job.load is not None
        first = job.load
        parts = source.parts(task, first.where)
        loads = [
            Load(first.id, n, len(parts), cursor, where=first.where, seq=first.seq + 1)
            for n, cursor in enumerate(parts)
        ]
        if not loads:
            loads = [msgspec.structs.replace(first, parts=1, done=True, seq=first.seq + 1)]
        for load in reversed(loads):  # the first takes the place of the one that asked to be cut: it comes last
            write_load(self.publisher, self.system, job.tenant, job.entity, load)

    def _load(self, job: Job, source: Source, task: Task, rows: ApiRows) -> None:
        load, end = job.load, time.monotonic() + BOUND_S
        assert load is not None
        load.done = True
        for page in source.load(task, load.cursor):
            load.rows += self._page(task, rows, job.tenant, page, SNAPSHOT)
            load.cursor = page.cursor
            if time.monotonic() > end and not page.last:
                load.done = False
                break
        load.failures, load.not_before, load.error = 0, 0.0, None
        load.seq += 1
        self.publisher.flush()
        write_load(self.publisher, self.system, job.tenant, job.entity, load)
        if load.parts == 1:
            progress(self.publisher, self.system, job.tenant, job.entity, [load], only=len(self.spec.all_tenants) == 1)

    # ------------------------------------------------------------------------------------------------ publishing

    def _page(self, task: Task, rows: ApiRows, tenant: str, page: Page, op: int) -> int:
        """Publish a page; what a source knows only as gone is looked at once more before it is called deleted."""
        return self._publish(task, rows, tenant, page.records, op)

    def _gone(self, job: Job, source: Source, task: Task, rows: ApiRows, met: set[str]) -> int:
        """Publish as deleted what was published before and was not met in a reading of everything."""
        known = self._known_keys(job.tenant, job.entity)
        missing = sorted(known - met)
        most = float(self.spec.options.get("max_delete_share", 0.5))
        if len(missing) > 100 and len(missing) > most * len(known):
            self.publisher.alert(
                "many_deletes",
                job.entity,
                task.table.table,
                f"{len(missing)} of {len(known)} records of {job.entity} are gone from {task.table.table} of {self.system}/{job.tenant}; "
                "nothing was deleted",
                "if that is right, set `options.max_delete_share: 1` of the system for one run",
                severity="critical",
                tenant=job.tenant,
            )
            return 0
        count = 0
        for at in range(0, len(missing), 1000):
            looked = source.read(task, missing[at : at + 1000])
            count += self._publish(task, rows, job.tenant, [r for r in looked if r.deleted], DELETE)
        return count

    def _known_keys(self, tenant: str, entity: str) -> set[str]:
        """Return the keys that the change topic knows to be there."""
        prefix, keys = f"{tenant}/".encode(), set[str]()

        def take(key: bytes, value: bytes | None) -> None:
            if key.startswith(prefix) and value is not None and len(value) > 37:
                name = key[len(prefix) :].decode()
                (keys.discard if value[37] >> 1 == DELETE else keys.add)(name)

        each_message(self.context, self.context.topics.cdc(self.system, entity), take)
        return keys

    def _publish(self, task: Task, rows: ApiRows, tenant: str, records: Iterable[Record], op: int) -> int:
        count = 0
        for record in records:
            try:
                value = rows.change(record, CREATE if record.created and op == UPDATE else op)
            except Reject as error:
                self.publisher.dead_letter(task.entity, record.key.encode(), rows.show(record), error, tenant)
                continue
            self.publisher.publish(task.entity, record.key.encode(), value, tenant)
            count += 1
        self.publisher.flush()
        if count:
            self.context.activity.count("captured", self.system, task.entity, count)
        return count

    def _tools(self, tenant: Tenant, entity: str) -> tuple[Source, Task, ApiRows]:
        """Return a tenant's source and an entity's task, made anew when anything about the tenant has changed."""
        stamp = (tenant.url, dict(tenant.options), dict(tenant.credentials))
        known = self._sources.get(tenant.name)
        if known is None or known[0] != stamp:
            if known is not None:
                known[1].close()
            known = self._sources[tenant.name] = (stamp, self.source(self.context, tenant), {})
            while len(self._sources) > _MOST_SOURCES:
                self._sources.popitem(last=False)[1][1].close()
        self._sources.move_to_end(tenant.name)
        _, source, tasks = known
        if entity not in tasks:
            table = self.spec.entities[entity]
            columns = source.columns(table)
            missing = [name for name in wanted(table) if name not in columns]
            if missing:
                raise Fatal(
                    f"{self.system}/{tenant.name}: {table.table} has no property {', '.join(missing)}",
                    hint="correct the mapping, create the property there, or grant the right to see it",
                )
            task = Task(entity, table, {name: columns[name] for name in wanted(table)})
            tasks[entity] = (task, ApiRows(self.context, self.system, tenant.name, task))
        task, rows = tasks[entity]
        return source, task, rows

    # ------------------------------------------------------------------------------------------------ troubles

    def _failures(self, job: Job) -> int:
        known = job.load or job.state
        return 0 if known is None else known.failures

    def _put_off(self, job: Job, error: str, pause: float, failures: int = 0) -> None:
        """Put on record that a job came to nothing, and when it may be tried again."""
        not_before = time.time() + pause
        if job.load is not None:
            load = job.load
            load.failures, load.not_before, load.error, load.done = failures, not_before, error, False
            load.seq += 1
            write_load(self.publisher, self.system, job.tenant, job.entity, load)
        elif job.kind in ("read", "told"):
            # It goes to the end of the queue, so that it holds nobody up; what cannot be had this way, the next poll finds.
            if job.tries < _MOST_TRIES:
                job.tries += 1
                topic = self.context.topics.jobs("increments", self.system)
                self.publisher.raw(topic, key_of(job.tenant, job.entity), encode(job))
            else:
                log.warning(
                    "records that a webhook named could not be read; the next poll finds them",
                    tenant=job.tenant,
                    entity=job.entity,
                )
        else:
            state = job.state or State()
            state.failures, state.not_before, state.error = failures, not_before, error
            state.seq += 1
            write_state(self.publisher, self.system, job.tenant, job.entity, state)
            self._runs.finished(
                job.entity, job.kind, job.due, time.time(), 0, 0, error, scheduled=False, tenant=self._named(job.tenant)
            )

    def _named(self, tenant: str) -> str | None:
        return tenant if len(self.spec.all_tenants) > 1 else None

    def _alert(self, kind: str, job: Job, error: TidelockError, severity: str) -> None:
        now = time.monotonic()
        if now - self._told.get((job.tenant, kind), float("-inf")) < 60.0:
            return
        self._told[job.tenant, kind] = now
        hint = error.hint or "see the connector's page in docs/connectors"
        message = f"{self.system}/{job.tenant}: {error.message}"
        self.publisher.alert(kind, "", job.tenant, message, hint, severity=severity, tenant=job.tenant)
