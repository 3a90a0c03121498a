"""Doing a job: read from the source, publish, put on record how it ended. What goes wrong with a tenant is that tenant's affair alone.

Several threads do this at once. Reading happens side by side; whatever goes to Kafka goes through one lock, so that an acknowledgement
that fails is told to the one whose message it was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import structlog

from producers.apirows import ApiRows
from producers.base import Publisher
from producers.board import write_load, write_state
from producers.jobs import BOUND_S, Job, Load, State, encode, key_of, pause_s
from producers.schedule import RunLog, Schedule
from producers.seen import each_message
from producers.source import Source, Task
from producers.tools import Tools
from tidelock.apis.records import Record
from tidelock.captures import STUCK_AFTER
from tidelock.change import CREATE, DELETE, SNAPSHOT, UPDATE
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry, Revoked, TidelockError
from tidelock.tenants import Tenant

log = structlog.get_logger()

_MOST_TRIES = 5  # of reading what a webhook named, where the next poll finds it, too
_OFF_S = 60.0
_TOLD_EVERY_S = 60.0
_LOOK_AGAIN_S = 900.0  # after a reading of everything that met so little that it was not believed


class KafkaTrouble(Exception):
    """Kafka, the registry or the central database is in trouble, or this worker stops; it is no tenant's fault."""

    def __init__(self, error: TidelockError) -> None:
        super().__init__(str(error))
        self.error = error


class Errands:
    """Do jobs of one system. `carry_out` may be called by several threads, but never for one tenant and lane at once."""

    def __init__(
        self,
        context: Context,
        system: str,
        publisher: Publisher,
        source: type[Source],
        schedules: Callable[[str], Mapping[str, Schedule]],
        *,
        polls: bool,
    ) -> None:
        self._context, self._system, self._publisher, self._polls = context, system, publisher, polls
        self._spec = context.config.systems[system]
        self._tenants = context.access.tenants
        self._schedules = {entity: schedules(entity) for entity in self._spec.entities}
        self._runs = RunLog(context, system, publisher)
        self._several = len(self._spec.all_tenants) > 1
        self._told: dict[tuple[str, str], float] = {}
        self._lock = threading.RLock()
        self._tools = Tools(context, system, source, self.kafka)

    def close(self) -> None:
        """Close all sources."""
        self._tools.close()

    @contextmanager
    def kafka(self) -> Iterator[None]:
        """Have Kafka for oneself; its troubles are `KafkaTrouble`."""
        with self._lock:
            try:
                yield
            except Reject:
                raise
            except TidelockError as error:
                raise KafkaTrouble(error) from error

    def carry_out(self, job: Job) -> None:
        """Do one job, or put on record why it cannot be done now. Raises KafkaTrouble."""
        if job.entity not in self._spec.entities:
            return  # the configuration no longer has it
        tenant = self._tenant(job.tenant)
        if tenant is None:
            return  # it was removed
        if tenant.state != "on":
            self._put_off(job, f"{tenant.path} is {tenant.state}: {tenant.reason or 'by a person'}", _OFF_S)
            return
        lane, spoilt = "loads" if job.load is not None else "increments", True
        try:
            try:
                self._do(lane, job, tenant)
            except TidelockError as error:
                self._context.access.cleaned(tenant, error)
                raise
            spoilt = False
        except Revoked as error:
            self._revoked(job, tenant, error)
        except Retry as error:
            spoilt = False
            failures = self._failures(job) + 1
            pause = error.retry_after_s if error.retry_after_s is not None else pause_s(failures)
            if failures >= 5:
                self._alert("source_down", job, error, "warning")
            self._put_off(job, str(error), pause, failures)
        except (Fatal, Reject) as error:
            self._alert("capture_failed", job, error, "critical")
            self._put_off(job, str(error), 60.0, max(STUCK_AFTER, self._failures(job) + 1))
        except KafkaTrouble:
            raise
        except Exception as error:
            log.exception("a job ended in an error that is not translated", tenant=tenant.path, entity=job.entity)
            wrong = Fatal(
                f"reading {job.entity} ended in {type(error).__name__}, which the connector does not understand",
                hint="the worker's log has the details: report them; it is tried again every minute",
            )
            self._alert("capture_failed", job, wrong, "critical")
            self._put_off(job, str(wrong), 60.0, max(STUCK_AFTER, self._failures(job) + 1))
        finally:
            self._tools.give_back(lane, job.tenant, spoilt=spoilt)  # whoever mends it may have changed what was known

    # ------------------------------------------------------------------------------------------------ kinds of jobs

    def _do(self, lane: str, job: Job, tenant: Tenant) -> None:
        source, task, rows = self._tools.take(lane, tenant, job.entity)
        if job.kind == "read":
            self._publish(task, rows, tenant.name, source.read(task, job.keys), UPDATE)
        elif job.kind == "told":
            told = [msgspec.convert(r, Record) for r in job.records]
            self._publish(task, rows, tenant.name, told, UPDATE, hidden=job.hidden)
        elif job.kind == "split":
            self._split(job, source, task)
        elif job.kind == "load":
            self._load(job, source, task, rows)
        elif job.kind in self._schedules[job.entity]:
            self._run(job, source, task, rows)

    def _run(self, job: Job, source: Source, task: Task, rows: ApiRows) -> None:
        """Do a run, or as much of it as a job may take; only one that meets everything goes on to its end."""
        state = job.state = job.state or State()
        started, kind, read, published, met, whole = time.time(), job.kind, 0, 0, set[str](), False
        cursor = state.cursors.get(kind)
        if cursor is None and kind == "overlap":
            cursor = state.cursors.get("poll")
        last, more, end = cursor, False, time.monotonic() + BOUND_S
        for page in source.run(task, kind, cursor):
            whole = whole or page.whole
            if page.whole:
                met.update(r.key for r in page.records if not r.deleted)
                met.update(page.met)
            published += self._publish(task, rows, job.tenant, page.records, SNAPSHOT if whole else UPDATE)
            read += max(page.read, len(page.records))
            last = page.cursor
            if whole and self._context.stop.is_set() and not page.last:
                raise KafkaTrouble(Retry(f"the worker stops in the middle of a reading of all {job.entity}"))
            if not whole:  # one that meets everything begins anew if it breaks off: what it has met is forgotten then
                state.cursors[kind] = page.cursor
                more = self._lets_go(end) and not page.last
                if more:
                    break
        if whole:
            published += self._gone(job, source, task, rows, met)
        if more or kind == "poll":
            if last is not None:
                state.cursors[kind] = last
        else:
            state.cursors.pop(kind, None)  # the next one begins where polling stands then
        state.more = kind if more else None
        if not more:
            state.ran[kind] = max(job.due, started)
        state.failures, state.not_before, state.error = 0, 0.0, None
        state.seq += 1
        scheduled = self._schedules[job.entity][kind].cron is not None
        with self.kafka():
            write_state(self._publisher, self._system, job.tenant, job.entity, state)
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
            self._publisher.flush()

    def _lets_go(self, end: float) -> bool:
        """Return whether a job has had its time, or is asked to stop: it goes on behind its last page then."""
        return time.monotonic() > end or self._context.stop.is_set()

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
        with self.kafka():
            for load in reversed(loads):  # the first takes the place of the one that asked to be cut: it comes last
                write_load(self._publisher, self._system, job.tenant, job.entity, load)
            self._publisher.flush()

    def _load(self, job: Job, source: Source, task: Task, rows: ApiRows) -> None:
        load, end = job.load, time.monotonic() + BOUND_S
        assert load is not None
        done = True
        for page in source.load(task, load.cursor):
            load.rows += self._publish(task, rows, job.tenant, page.records, SNAPSHOT)
            load.cursor = page.cursor
            if self._lets_go(end) and not page.last:
                done = False
                break
        load.done, load.failures, load.not_before, load.error = done, 0, 0.0, None
        load.seq += 1
        with self.kafka():
            write_load(self._publisher, self._system, job.tenant, job.entity, load)
            self._publisher.flush()

    def _gone(self, job: Job, source: Source, task: Task, rows: ApiRows, met: set[str]) -> int:
        """Publish as deleted what was published before and was not met in a reading of everything.

        Raises Retry for a poll that has met too little: its cursor must not move on before a person has looked.
        """
        known = self._known_keys(job.tenant, job.entity)
        missing = sorted(known - met)
        most = float(self._spec.options.get("max_delete_share", 0.5))
        if len(missing) > 100 and len(missing) > most * len(known):
            text = (
                f"{len(missing)} of {len(known)} records of {job.entity} are gone from {task.table.table} of "
                f"{self._system}/{job.tenant}; nothing was deleted"
            )
            hint = "if that is right, set `options.max_delete_share: 1` of the system for one run"
            with self.kafka():
                self._publisher.alert(
                    "many_deletes",
                    job.entity,
                    task.table.table,
                    text,
                    hint,
                    severity="critical",
                    tenant=job.tenant,
                )
            if job.kind == "poll":  # what comes behind its cursor never tells of these again
                raise Retry(f"{text}, and everything is read once more", hint=hint, retry_after_s=_LOOK_AGAIN_S)
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

        try:
            each_message(self._context, self._context.topics.cdc(self._system, entity), take)
        except TidelockError as error:
            raise KafkaTrouble(error) from error
        return keys

    def _publish(
        self, task: Task, rows: ApiRows, tenant: str, records: Iterable[Record], op: int, *, hidden: bool = False
    ) -> int:
        """Publish records and wait until Kafka has them; one that is bad becomes a dead letter."""
        count = 0
        with self.kafka():
            for record in records:
                key = record.key.encode()
                try:
                    value = rows.change(record, CREATE if record.created and op == UPDATE else op, hidden=hidden)
                except Reject as error:
                    self._publisher.dead_letter(task.entity, key, rows.show(record, hidden=hidden), error, tenant)
                    continue
                self._publisher.publish(task.entity, key, value, tenant)
                count += 1
            self._publisher.flush()
            if count:
                self._context.activity.count("captured", self._system, task.entity, count)
        return count

    # ------------------------------------------------------------------------------------------------ troubles

    def _tenant(self, name: str) -> Tenant | None:
        known = {t.name: t for t in self._look()}
        return known.get(name)

    def _look(self) -> list[Tenant]:
        try:
            return self._tenants.all(self._system)
        except TidelockError as error:
            raise KafkaTrouble(error) from error

    def _revoked(self, job: Job, tenant: Tenant, error: Revoked) -> None:
        """Stop this tenant, for all workers, until a person has mended it."""
        try:
            self._tenants.revoke(*tenant.key, error.message, credentials=tenant.credentials)
        except TidelockError as trouble:
            raise KafkaTrouble(trouble) from trouble
        self._alert("credentials_revoked", job, error, "critical")
        self._put_off(job, str(error), 5.0, max(STUCK_AFTER, self._failures(job) + 1))

    @staticmethod
    def _failures(job: Job) -> int:
        known = job.load or job.state
        return job.tries if known is None else known.failures

    def _put_off(self, job: Job, error: str, pause: float, failures: int = 0) -> None:
        """Put on record that a job came to nothing, and when it may be tried again."""
        not_before = time.time() + pause
        with self.kafka():
            if job.load is not None:
                load = job.load
                load.failures, load.not_before, load.error, load.done = failures, not_before, error, False
                load.seq += 1
                write_load(self._publisher, self._system, job.tenant, job.entity, load)
            elif job.kind in ("read", "told"):
                self._again(job, not_before)
            else:
                state = job.state or State()
                state.failures, state.not_before, state.error = failures, not_before, error
                state.seq += 1
                write_state(self._publisher, self._system, job.tenant, job.entity, state)
                self._runs.finished(
                    job.entity,
                    job.kind,
                    job.due,
                    time.time(),
                    0,
                    0,
                    error,
                    scheduled=False,
                    tenant=self._named(job.tenant),
                )
            self._publisher.flush()

    def _again(self, job: Job, not_before: float) -> None:
        """Send what a webhook brought to the end of the queue. Only what the next poll finds as well is ever given up."""
        if job.kind == "read" and self._polls and job.tries >= _MOST_TRIES:
            log.warning(
                "records that a webhook named could not be read; the next poll finds them",
                tenant=job.tenant,
                entity=job.entity,
                keys=len(job.keys),
            )
            return
        later = msgspec.structs.replace(job, tries=job.tries + 1, not_before=not_before)
        topic = self._context.topics.jobs("increments", self._system)
        self._publisher.raw(topic, key_of(job.tenant, job.entity), encode(later))

    def _named(self, tenant: str) -> str | None:
        return tenant if self._several else None

    def _alert(self, kind: str, job: Job, error: TidelockError, severity: str) -> None:
        now = time.monotonic()
        with self.kafka():
            if now - self._told.get((job.tenant, kind), float("-inf")) < _TOLD_EVERY_S:
                return
            self._told[job.tenant, kind] = now
            hint = error.hint or "see the connector's page in docs/connectors"
            message = f"{self._system}/{job.tenant}: {error.message}"
            self._publisher.alert(kind, "", job.tenant, message, hint, severity=severity, tenant=job.tenant)
