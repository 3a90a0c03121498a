"""What the workers of one tenant may still call, as a value: no clock, no database, no threads (`tidelock.limits` brings these).

*Rate.* A worker leases a block of permits and has to use them within a short life. A window of T seconds can only see calls from leases of
T plus that life, so the sum of the leases over this time is kept within the rate; leases are summed up in slices that end late rather
than early. The rate is thus never exceeded in any window, at the price of an eighth of it, a quarter where the window is a second.

*Concurrency.* A worker holds slots for calls under way, for a few seconds beyond its last sign of life. Slots go out in the order in which
they were asked for, and who has more than somebody who waits is asked for one.

*Daily budget.* Counted by UTC day, or as the vendor last told what is left. A share of it is kept for people; what is urgent may use it. If
the vendor's figure has become old, single calls find out how it stands now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

HOLD_S = 10.0  # a worker that has died gives its slots back after so long
MOST_BLOCK = 100
_DAY_S = 86_400.0
_LIFE_S = (0.25, 1.0)  # at least and at most
_TURN_S = 1.0  # a single slot is kept so long before it is handed on to somebody who waits
_PROBE_S = 900.0  # what the vendor told of the day is asked for again after so long


@dataclass(frozen=True)
class LimitSpec:
    """What a tenant allows: calls at the same time, calls per seconds, calls per day; None is no limit.

    ``reserve`` is the share of the daily budget that is kept for people and for what is urgent.
    """

    concurrency: int | None = None
    rate: tuple[int, float] | None = None
    daily: int | None = None
    reserve: float = 0.1

    @property
    def life_s(self) -> float:
        """Return how long leased permits are good."""
        least_s, most_s = _LIFE_S
        return most_s if self.rate is None else max(least_s, min(most_s, self.rate[1] / 10))

    @property
    def block(self) -> int:
        """Return the most permits of one lease."""
        shares = [MOST_BLOCK]
        if self.rate is not None:
            shares.append(self.rate[0] // 10)
        if self.daily is not None:
            shares.append(self.daily // 1000)
        return max(1, min(shares))


class Holder(msgspec.Struct):
    """A worker that has slots or waits for some."""

    slots: int
    until: float
    since: float
    wanted: float | None = None


class Budget(msgspec.Struct):
    """The shared state of one tenant; times in seconds since 1970 by the database's clock."""

    slices: dict[str, int] = {}  # end of a slice → permits leased in it
    holders: dict[str, Holder] = {}
    paused_until: float = 0.0
    day: int = 0
    used: int = 0
    daily: int | None = None
    left: int | None = None  # as the vendor told, less what was leased since
    left_at: float = 0.0
    probe_at: float = 0.0


@dataclass
class Ask:
    """What a worker wants and what it has to report."""

    holder: str
    permits: int = 0  # a block, of which
    cost: int = 0  # so many are needed at least
    urgent: bool = False
    keep: int = 0  # slots that it cannot or need not give back
    slots: int = 0  # slots that it would like to have
    lease: str = ""  # the slice of its last lease, and
    unused: int = 0  # how much of it is given back
    left: int | None = None  # what the vendor told
    left_at: float = 0.0
    pause_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a worker gets. Without permits or slots, ``wait_s`` says when to ask again, and ``reason`` why."""

    permits: int = 0
    lease: str = ""
    slots: int = 0
    crowded: bool = False  # somebody waits for a slot and has fewer
    wait_s: float = 0.0
    reason: str = ""


def decide(state: Budget, spec: LimitSpec, ask: Ask, now: float) -> Answer:
    """Take a report, hand out what is there, and change the state accordingly."""
    _report(state, spec, ask, now)
    slots, crowded = _slots(state, spec, ask, now)
    if ask.cost == 0:
        return Answer(slots=slots, crowded=crowded)
    if state.paused_until > now:
        return Answer(slots=slots, crowded=crowded, wait_s=state.paused_until - now, reason="it has asked for a pause")
    cost = ask.cost if spec.rate is None else min(ask.cost, spec.rate[0])
    wanted = max(cost, min(ask.permits, spec.block))
    by_day = _by_day(state, spec, ask.urgent)
    if by_day is not None and by_day < cost:
        if state.left is not None and now >= max(state.probe_at, state.left_at + _PROBE_S):
            state.probe_at = now + _PROBE_S
            by_day = cost
        else:
            return Answer(slots=slots, crowded=crowded, wait_s=_next_day_s(state, now), reason=_exhausted(spec))
    if by_day is not None:
        # What is in the reserve is handed out call by call, lest others use it.
        wanted = min(wanted, by_day) if not ask.urgent else cost
    permits, lease, wait_s = _lease(state, spec, wanted, cost, now)
    state.used += permits
    if state.left is not None:
        state.left -= permits
    return Answer(permits, lease, slots, crowded, wait_s, "" if permits else f"its rate of {_rate(spec)} is used up")


def _report(state: Budget, spec: LimitSpec, ask: Ask, now: float) -> None:
    day = int(now // _DAY_S)
    if state.day != day:
        state.day, state.used = day, 0
    if state.left is not None and now - state.left_at > _DAY_S:
        state.left = None
    state.daily = spec.daily
    if ask.unused:
        state.used = max(0, state.used - ask.unused)
        if state.left is not None:
            state.left += ask.unused
        if ask.lease in state.slices:
            state.slices[ask.lease] -= ask.unused
    if ask.left is not None and ask.left_at >= state.left_at:
        state.left, state.left_at = ask.left, ask.left_at
    if ask.pause_s is not None:
        state.paused_until = max(state.paused_until, now + ask.pause_s)


# ------------------------------------------------------------------------------------------------------- the rate


def _lease(state: Budget, spec: LimitSpec, wanted: int, least: int, now: float) -> tuple[int, str, float]:
    """Return permits, the slice they were taken in, and seconds until there may be some if there are none."""
    if spec.rate is None:
        return wanted, "", 0.0
    calls, window_s = spec.rate
    kept_s, width_s = window_s + spec.life_s, window_s / 20
    state.slices = {end: n for end, n in state.slices.items() if n > 0 and float(end) + kept_s > now}
    free = calls - sum(state.slices.values())
    if free >= least:
        lease = f"{math.ceil(now / width_s) * width_s:.4f}"
        permits = min(wanted, free)
        state.slices[lease] = state.slices.get(lease, 0) + permits
        return permits, lease, 0.0
    for end in sorted(state.slices, key=float):
        free += state.slices[end]
        if free >= least:
            return 0, "", max(0.001, float(end) + kept_s - now)
    raise AssertionError("a cost is at most the rate")


def _rate(spec: LimitSpec) -> str:
    return "" if spec.rate is None else f"{spec.rate[0]} calls in {spec.rate[1]:g} s"


# ------------------------------------------------------------------------------------------------------- the day


def _by_day(state: Budget, spec: LimitSpec, urgent: bool) -> int | None:
    """Return how many calls the day still allows; None if nothing limits them."""
    left = None if spec.daily is None else spec.daily - state.used
    if state.left is not None:
        left = state.left
    if left is None:
        return None
    return left if urgent else left - math.ceil((spec.daily or 0) * spec.reserve)


def _next_day_s(state: Budget, now: float) -> float:
    midnight_s = (state.day + 1) * _DAY_S - now
    if state.left is None:
        return midnight_s
    return min(midnight_s, max(1.0, max(state.probe_at, state.left_at + _PROBE_S) - now))


def _exhausted(spec: LimitSpec) -> str:
    kept = f", of which {spec.reserve:.0%} are kept for people" if spec.daily and spec.reserve else ""
    return f"its daily budget{f' of {spec.daily:,} calls' if spec.daily else ''}{kept} is used up"


# ------------------------------------------------------------------------------------------------------- slots


def _slots(state: Budget, spec: LimitSpec, ask: Ask, now: float) -> tuple[int, bool]:
    """Return how many slots a worker has now, and whether it should give one up for somebody."""
    if spec.concurrency is None:
        return 0, False
    state.holders = {name: h for name, h in state.holders.items() if h.until > now}
    mine = state.holders.pop(ask.holder, None) or Holder(0, 0.0, now)
    mine.slots = min(mine.slots, ask.keep)
    others = list(state.holders.values())
    missing = max(0, ask.slots - mine.slots)
    if missing:
        mine.wanted = mine.wanted or now
        earlier = [o for o in others if o.wanted is not None and o.wanted < mine.wanted and o.slots <= mine.slots]
        free = spec.concurrency - mine.slots - sum(o.slots for o in others) - len(earlier)
        given = max(0, min(missing, free))
        if given and mine.slots == 0:
            mine.since = now
        mine.slots += given
        missing -= given
    if not missing:
        mine.wanted = None
    if mine.slots or missing:
        mine.until = now + HOLD_S
        state.holders[ask.holder] = mine
    poorer = [o.slots for o in others if o.wanted is not None and o.slots < mine.slots]
    crowded = any(mine.slots > n + 1 or now - mine.since > _TURN_S for n in poorer)
    return mine.slots, crowded
