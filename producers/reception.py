"""What becomes of a webhook: whose it is, whether it is genuine, whether it is new, and which jobs it makes. No HTTP and no Kafka here."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import msgspec
import structlog

from producers.apirows import hide
from producers.base import Guard
from producers.jobs import Job, encode, key_of
from producers.source import Call, Hook, Notice
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Retry, TidelockError
from tidelock.signatures import Refused
from tidelock.tenants import Tenant

log = structlog.get_logger()

_KEYS = 500  # in one job
_JOB_BYTES = 500_000
_REMEMBERED = 100_000
_FORGET_S = 86_400.0
_OFF_S = 600
_LATER_S = 5


@dataclass(slots=True)
class Answer:
    """What a sender is told. ``reason`` is a stable word for counting; ``retry_after_s`` says when to try again."""

    status: int
    reason: str = ""
    message: str = ""
    retry_after_s: int | None = None


@dataclass(slots=True)
class Accepted:
    """A genuine webhook: the messages that have to be in Kafka before it is answered, and under what it is remembered."""

    system: str
    delivery: tuple[str, str, str] | None
    messages: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """Topic, key and value."""


def hooks_of(context: Context) -> dict[str, type[Hook]]:
    """Return what understands the webhooks of each system that sends some."""
    points = {p.name: p for p in entry_points(group="tidelock.producers")}
    out: dict[str, type[Hook]] = {}
    for name, spec in context.config.systems.items():
        if spec.enabled and spec.capture in points:
            hook = getattr(points[spec.capture].load(), "hook", None)
            if hook is not None:
                out[name] = hook
    return out


class Reception:
    """Look at webhooks. Safe to use from several threads."""

    def __init__(self, context: Context, hooks: dict[str, type[Hook]], now: Callable[[], float] = time.time) -> None:
        self._context, self._hooks, self._now = context, hooks, now
        self._tenants = context.access.tenants
        self._made: dict[tuple[str, str], tuple[Any, Hook]] = {}
        self._lock = threading.Lock()
        self._done: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._said: dict[tuple[str, str], float] = {}

    def receive(self, system: str, tenant: str | None, call: Call) -> Accepted | Answer:
        """Say what becomes of a call: an answer at once, or what has to be in Kafka first."""
        try:
            found = self._receive(system, tenant, call)
        except Refused as error:
            found = Answer(error.status, error.reason, error.message)
        except Reject as error:
            found = Answer(400, error.kind, error.message)
        except Retry as error:
            found = Answer(503, "unavailable", "it cannot be looked at now", _LATER_S)
            self._say(system, "unavailable", str(error))
        except Fatal as error:
            found = Answer(503, "not_configured", "the receiver is not set up for this", _OFF_S)
            self._say(system, "not_configured", str(error))
        if isinstance(found, Answer) and found.status != 200:
            self._say(system, found.reason, found.message)
        self._count(system, found)
        return found

    def remember(self, accepted: Accepted) -> None:
        """Take note that everything of a webhook is in Kafka: when it comes again it is answered at once."""
        self._context.activity.count("hooks_accepted", accepted.system, "")
        if accepted.delivery is None:
            return
        with self._lock:
            self._done[accepted.delivery] = self._now()
            while len(self._done) > _REMEMBERED or next(iter(self._done.values())) < self._now() - _FORGET_S:
                self._done.popitem(last=False)

    def known(self, delivery: tuple[str, str, str] | None) -> bool:
        """Return whether everything of a delivery is in Kafka already."""
        with self._lock:
            at = None if delivery is None else self._done.get(delivery)
            return at is not None and at >= self._now() - _FORGET_S

    def repeated(self, system: str) -> None:
        """Count a delivery that came again while it was being stored."""
        self._context.activity.count("hooks_repeated", system, "")

    def failed(self, system: str) -> Answer:
        """Say that Kafka has not taken it in time."""
        self._context.activity.count("hooks_refused_kafka", system, "")
        self._say(system, "kafka", "Kafka has not acknowledged in time")
        return Answer(503, "kafka", "it could not be stored", _LATER_S)

    def refused(self, system: str, status: int, reason: str, message: str) -> Answer:
        """Say why a call is not even looked at, and count it."""
        answer = Answer(status, reason, message)
        self._count(system if system in self._hooks else "", answer)
        return answer

    # ------------------------------------------------------------------------------------------------ whose it is

    def _receive(self, system: str, tenant: str | None, call: Call) -> Accepted | Answer:
        if system not in self._hooks:
            raise Refused("no such system takes webhooks here", status=404, reason="unknown")
        tenants = self._tenants.all(system)
        chosen = [t for t in tenants if tenant in (None, t.name)]
        if not chosen:
            raise Refused("there is no such tenant", status=404, reason="unknown")
        hook, speaks_for, number = self._checked(chosen, call)
        off = [t for t in speaks_for if t.state != "on"]
        if off and (tenant is not None or len(off) == len(speaks_for)):
            message = f"{off[0].path} is {off[0].state}"
            return Answer(503, f"tenant_{off[0].state}", message, _OFF_S)
        number = hook.delivery(call) or number
        delivery = None if number is None else (system, tenant or "", number)
        if self.known(delivery):
            return Answer(200, "repeated")
        notices = self._understood(hook, call)
        jobs = self._jobs(system, tenant, {t.name: t for t in speaks_for}, notices)
        if not jobs:
            return Answer(200, "ignored")
        topic = self._context.topics.jobs("increments", system)
        return Accepted(system, delivery, [(topic, key_of(job.tenant, job.entity), encode(job)) for job in jobs])

    def _checked(self, tenants: Sequence[Tenant], call: Call) -> tuple[Hook, list[Tenant], str | None]:
        """Return the hook that finds a call genuine, and the tenants that its sender may speak for: those with the same secrets.

        Raises Refused if no tenant's secret is the right one; of several refusals the most telling one.
        """
        groups: dict[tuple[str, ...], list[Tenant]] = {}
        trouble: TidelockError | None = None
        for tenant in tenants:
            try:
                groups.setdefault(tuple(self._hook(tenant).secrets), []).append(tenant)
            except (Retry, Fatal) as error:
                trouble = trouble or error
        refusal: Refused | None = None
        for secrets, group in groups.items():
            hook = self._hook(group[0])
            try:
                checked = hook.scheme.verify(call, secrets, self._now())
            except Refused as error:
                refusal = error
                continue
            except (Retry, Fatal) as error:  # a secret that is none: it may be another tenant's call all the same
                trouble = trouble or error
                continue
            return hook, group, checked.id
        told = refusal or trouble
        assert told is not None
        raise told

    def _hook(self, tenant: Tenant) -> Hook:
        stamp = (tenant.url, dict(tenant.options), dict(tenant.credentials))
        with self._lock:
            known = self._made.get(tenant.key)
            if known is None or known[0] != stamp:
                known = self._made[tenant.key] = (stamp, self._hooks[tenant.system](self._context, tenant))
            return known[1]

    # ------------------------------------------------------------------------------------------------ what it says

    def _understood(self, hook: Hook, call: Call) -> list[Notice]:
        try:
            return hook.receive(call)
        except (TidelockError, Refused):
            raise
        except Exception as error:
            log.exception("a webhook could not be read")
            raise Reject("its content is not understood", kind="unreadable") from error

    def _jobs(self, system: str, tenant: str | None, known: dict[str, Tenant], notices: Iterable[Notice]) -> list[Job]:
        """Turn notices into jobs; what concerns nothing that is captured makes none."""
        keys: dict[tuple[str, str], dict[str, None]] = {}
        out: list[Job] = []
        now, spec = time.time(), self._context.config.systems[system]
        for notice in notices:
            name = notice.tenant or tenant or (next(iter(known)) if len(known) == 1 else None)
            if name is None:
                raise Reject("it does not say which tenant it concerns, and neither does the address", kind="no_tenant")
            if name not in known or known[name].state != "on" or notice.entity not in spec.entities:
                continue
            keys.setdefault((name, notice.entity), {}).update(dict.fromkeys(notice.keys))
            out += self._told(name, notice, spec.entities[notice.entity], now)
        for (name, entity), named in keys.items():
            listed = list(named)
            out += [
                Job("read", name, entity, keys=listed[at : at + _KEYS], at=now) for at in range(0, len(listed), _KEYS)
            ]
        return out

    def _told(self, tenant: str, notice: Notice, table: TableSpec, now: float) -> list[Job]:
        """Cut what was told into jobs, with its sensitive columns hidden: jobs stand in a topic."""
        guard = Guard(self._context.config.prefix, table)
        out: list[Job] = []
        size = _JOB_BYTES
        for record in notice.records:
            plain: dict[str, Any] = msgspec.to_builtins(record)
            plain["values"] = hide(guard, plain["values"])
            length = len(msgspec.json.encode(plain))
            if size + length > _JOB_BYTES:
                out.append(Job("told", tenant, notice.entity, at=now, hidden=True))
                size = 0
            out[-1].records.append(plain)
            size += length
        return out

    # ------------------------------------------------------------------------------------------------ telling

    def _count(self, system: str, found: Accepted | Answer) -> None:
        known = system if system in self._hooks else ""
        if isinstance(found, Accepted):
            return  # counted when it is stored
        if found.status == 200:
            name = f"hooks_{found.reason}"
        else:
            name = f"hooks_refused_{found.reason}"
        self._context.activity.count(name, known, "")

    def _say(self, system: str, reason: str, message: str) -> None:
        """Log a refusal, each kind once a minute: whoever sends nonsense must not fill the log."""
        known, now = system if system in self._hooks else "", time.monotonic()
        with self._lock:
            if now - self._said.get((known, reason), float("-inf")) < 60.0:
                return
            self._said[known, reason] = now
        log.warning(
            "webhooks are refused", action="hook_refused", system=known or "unknown", reason=reason, because=message
        )
