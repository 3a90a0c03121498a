"""Calls that all workers of a tenant share: rate, concurrency, daily budget, and pauses that the vendor asks for.

`tidelock.budget` decides; here are the shared state (a row of the central database, locked for a moment, by its clock) and the side
of a worker: permits and slots at hand, so that most calls need no question. Why not pyrate-limiter: docs/decisions/0022.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog
from psycopg.types.json import Jsonb

from tidelock.budget import Answer, Ask, Budget, LimitSpec, decide
from tidelock.central import Central
from tidelock.errors import Retry, TidelockError
from tidelock.tenants import Tenant

__all__ = ["LimitSpec", "Limits", "Usage", "usage"]

PATIENCE_S = 10.0
_TURN_S = 1.0  # how often slots are confirmed or given back
_POLL_S = 0.1  # how often somebody who waits for a slot asks again
_HELD_S = 8.0  # slots that could not be confirmed for so long are others' soon

log = structlog.get_logger()


class _Store(Protocol):
    def ask(self, spec: LimitSpec, ask: Ask) -> Answer: ...


class _Row:
    """The state in the central database: one row, decided upon in one short transaction."""

    def __init__(self, central: Central, key: tuple[str, str, str]) -> None:
        self._central = central
        self._key = key

    def ask(self, spec: LimitSpec, ask: Ask) -> Answer:
        with self._central.connect() as db, db.transaction():
            while True:
                row = db.execute(
                    b"select state::text, extract(epoch from clock_timestamp())::float from tidelock.budget"
                    b" where system = %s and tenant = %s and name = %s for update",
                    self._key,
                ).fetchone()
                if row is not None:
                    break
                db.execute(
                    b"insert into tidelock.budget values (%s, %s, %s, '{}') on conflict do nothing",
                    self._key,
                )
            state = msgspec.json.decode(row[0], type=Budget)
            if ask.left is not None:
                ask.left_at = row[1]
            answer = decide(state, spec, ask, float(row[1]))
            db.execute(
                b"update tidelock.budget set state = %s where system = %s and tenant = %s and name = %s",
                (Jsonb(msgspec.to_builtins(state)), *self._key),
            )
        return answer


class _Alone:
    """The state of one process that has no central database."""

    def __init__(self) -> None:
        self._state = Budget()

    def ask(self, spec: LimitSpec, ask: Ask) -> Answer:
        now = time.time()
        ask.left_at = now
        return decide(self._state, spec, ask, now)


class Limits:
    """Let calls through as the tenant's limits allow. Safe to use from several threads; ``close`` gives back what is left.

    ``name`` tells limits of one tenant apart that the vendor counts apart. Without a central database they hold in this process alone.
    """

    def __init__(
        self,
        central: Central | None,
        tenant: Tenant,
        spec: LimitSpec,
        *,
        name: str = "api",
        patience_s: float = PATIENCE_S,
        stop: threading.Event | None = None,
    ) -> None:
        self.spec = spec
        self._tenant = tenant
        self._patience_s = patience_s
        self._stop = stop or threading.Event()
        self._store: _Store = _Row(central, (*tenant.key, name)) if central is not None else _Alone()
        self._holder = secrets.token_hex(6)
        self._change = threading.Condition()
        self._permits = self._leased = 0
        self._good_until, self._lease, self._block = 0.0, "", 1
        self._left: int | None = None
        self._busy = self._peak = self._waiting = self._slots = 0
        self._confirmed = 0.0
        self._crowded = False
        self._keeper: threading.Thread | None = None
        self._closed = False

    @contextlib.contextmanager
    def acquire(self, cost: int = 1, *, urgent: bool = False) -> Iterator[None]:
        """Wait until a call may be made, and hold its slot while the block lasts; ``cost`` is what the vendor counts for it.

        ``urgent`` may use what the daily budget keeps for people. Raises Retry, with the time to wait, if it would take too long.
        """
        self._take(cost, urgent)
        try:
            yield
        finally:
            with self._change:
                self._busy -= 1
                self._change.notify_all()

    def observed(self, *, remaining_daily: int | None = None, retry_after_s: float | None = None) -> None:
        """Learn from the vendor's answer: calls left today, or a pause, which holds for all workers of the tenant at once."""
        with self._change:
            if remaining_daily is not None:
                self._left = remaining_daily
            if retry_after_s is not None:
                self._ask(pause_s=retry_after_s)
                self._change.notify_all()

    def close(self) -> None:
        """Give back permits and slots."""
        with self._change:
            self._closed = True
            keeper, self._keeper = self._keeper, None
            self._change.notify_all()
        if keeper is not None:
            keeper.join(5.0)
        with self._change, contextlib.suppress(TidelockError):  # what is not given back runs out by itself
            if self._permits or self._slots or self._left is not None:
                self._ask()

    # ------------------------------------------------------------------------------------------------ taking

    def _take(self, cost: int, urgent: bool) -> None:
        deadline = time.monotonic() + self._patience_s
        with self._change:
            self._waiting += 1
            try:
                while not self._ready(cost):
                    answer = Answer()
                    if not self._asked_lately(cost):
                        answer = self._ask(cost=cost, urgent=urgent)
                        if self._ready(cost):
                            break
                    self._wait(answer, deadline)
                self._permits -= min(cost, self._permits)
                self._busy += 1
                self._peak = max(self._peak, self._busy)
            finally:
                self._waiting -= 1
            if self.spec.concurrency is not None and self._keeper is None and not self._closed:
                self._keeper = threading.Thread(target=self._keep, name=f"slots of {self._tenant.path}", daemon=True)
                self._keeper.start()

    def _permitted(self, cost: int) -> bool:
        cost = cost if self.spec.rate is None else min(cost, self.spec.rate[0])
        return self._permits >= cost and time.monotonic() < self._good_until

    def _ready(self, cost: int) -> bool:
        return self._permitted(cost) and self._free()

    def _asked_lately(self, cost: int) -> bool:
        """Return whether only a slot is missing, and this was just so."""
        return self._permitted(cost) and time.monotonic() - self._confirmed < _POLL_S

    def _free(self) -> bool:
        if self.spec.concurrency is None:
            return True
        if time.monotonic() - self._confirmed > _HELD_S:
            self._slots = 0
        return self._busy < self._slots - (1 if self._crowded else 0)

    def _wait(self, answer: Answer, deadline: float) -> None:
        """Wait until it makes sense to ask again. Raises Retry if that would be too late."""
        left_s = deadline - time.monotonic()
        wait_s = answer.wait_s if answer.permits == 0 and answer.reason else 0.0
        if left_s <= wait_s or self._stop.is_set():
            self._waiting -= 1
            try:
                self._ask()  # leave the queue for slots
            finally:
                self._waiting += 1
            slow = f"all {self.spec.concurrency} calls that it allows at the same time are under way"
            raise Retry(
                f"{self._tenant.path} takes no call now: {answer.reason or slow}",
                hint="it goes on by itself; `tidelock tenants ls` shows what is left",
                retry_after_s=max(wait_s, 0.5),
            )
        self._change.wait(min(left_s, wait_s or _POLL_S, 1.0))

    def _ask(self, *, cost: int = 0, urgent: bool = False, pause_s: float | None = None) -> Answer:
        """Report, and ask for what is needed; the caller has the lock."""
        now = time.monotonic()
        if self._leased:  # the block grows when it was used up before its end, else it shrinks to what was used
            early = cost > self._permits and now < self._good_until
            self._block = min(2 * self._block, self.spec.block) if early else max(1, self._leased - self._permits)
        keep = max(self._busy, min(self._peak, self._slots - (1 if self._crowded else 0)))
        ask = Ask(
            self._holder,
            permits=self._block if cost else 0,
            cost=cost,
            urgent=urgent,
            keep=0 if self._closed else keep,
            slots=0 if self._closed else max(keep, self._busy + self._waiting),
            lease=self._lease,
            unused=self._permits,
            left=self._left,
            pause_s=pause_s,
        )
        answer = self._store.ask(self.spec, ask)
        self._permits = self._leased = answer.permits
        self._lease, self._left = answer.lease, None
        self._good_until = now + self.spec.life_s
        self._slots, self._crowded, self._confirmed = answer.slots, answer.crowded, now
        return answer

    # ------------------------------------------------------------------------------------------------ keeping

    def _keep(self) -> None:
        """Confirm slots while they are used, and give them back when they are not."""
        with self._change:
            while not self._change.wait_for(lambda: self._closed, _TURN_S):
                try:
                    self._ask()
                except TidelockError as error:
                    log.warning(str(error), action="slots_unconfirmed", tenant=self._tenant.path)
                self._peak = self._busy
                if self._slots == 0 and self._waiting == 0:
                    self._keeper = None
                    return


@dataclass(frozen=True)
class Usage:
    """What a tenant has used today, for people. ``left`` is what the vendor last told, or what our own count leaves."""

    calls: int
    daily: int | None
    left: int | None
    paused_s: float


def usage(central: Central, system: str) -> dict[tuple[str, str], Usage]:
    """Return the usage of every tenant of a system by (tenant, name of the limits)."""
    with central.connect() as db:
        rows = db.execute(
            b"select tenant, name, state::text, extract(epoch from clock_timestamp())::float from tidelock.budget"
            b" where system = %s order by tenant, name",
            (system,),
        ).fetchall()
    out = {}
    for tenant, name, text, now in rows:
        state = msgspec.json.decode(text, type=Budget)
        calls = state.used if state.day == int(now // 86_400) else 0
        left = state.left if state.left is not None else None if state.daily is None else max(0, state.daily - calls)
        out[tenant, name] = Usage(calls, state.daily, left, max(0.0, state.paused_until - now))
    return out
