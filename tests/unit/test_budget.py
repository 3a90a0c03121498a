"""What workers may still call, as a value: the rate in every window, slots in turn, the day and its reserve."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidelock.budget import HOLD_S, Answer, Ask, Budget, LimitSpec, decide

NOON = 20_000 * 86_400.0 + 43_200


@given(
    calls=st.integers(1, 30),
    window_s=st.sampled_from([0.5, 1.0, 10.0, 60.0]),
    steps=st.lists(st.tuples(st.integers(0, 4), st.floats(0, 3), st.integers(1, 12), st.floats(0, 1)), max_size=150),
)
def test_no_window_sees_more_calls_than_the_rate_allows(
    calls: int, window_s: float, steps: list[tuple[int, float, int, float]]
) -> None:
    """Workers lease at any time, use a part of it late in the lease's life, and give the rest back."""
    spec, state, now = LimitSpec(rate=(calls, window_s)), Budget(), NOON
    used: list[float] = []
    had: dict[int, tuple[Answer, int]] = {}
    for worker, pause_s, want, late in steps:
        now += pause_s * window_s / 5
        last, left = had.get(worker, (Answer(), 0))
        ask = Ask(str(worker), permits=want, cost=1, lease=last.lease, unused=left)
        answer = decide(state, spec, ask, now)
        state = msgspec.json.decode(msgspec.json.encode(state), type=Budget)
        assert answer.permits > 0 or answer.wait_s > 0
        spent = answer.permits if late > 0.3 else answer.permits // 2
        used += [now + late * spec.life_s] * spent
        had[worker] = (answer, answer.permits - spent)
    used.sort()
    for i in range(len(used) - calls):
        assert used[i + calls] - used[i] > window_s - 1e-9


def test_permits_that_are_used_at_the_end_of_their_life_still_count() -> None:
    spec, state = LimitSpec(rate=(10, 10.0)), Budget()
    assert decide(state, spec, Ask("a", cost=10), NOON).permits == 10  # used at NOON + 1, all of them
    assert decide(state, spec, Ask("b", cost=1), NOON + 10.9).permits == 0
    assert decide(state, spec, Ask("b", cost=1), NOON + 11.1).permits > 0


def test_the_rate_is_nearly_used_up() -> None:
    spec, state, now, got = LimitSpec(rate=(100, 10.0)), Budget(), NOON, 0
    while now < NOON + 100:
        answer = decide(state, spec, Ask("a", permits=10, cost=1), now)
        got += answer.permits
        now += answer.wait_s if answer.permits == 0 else 0.001
    assert 850 <= got <= 1000


def test_a_wait_is_as_long_as_it_says() -> None:
    spec, state = LimitSpec(rate=(5, 10.0)), Budget()
    assert decide(state, spec, Ask("a", permits=1, cost=5), NOON).permits == 5
    answer = decide(state, spec, Ask("a", permits=1, cost=1), NOON + 1)
    assert answer.reason == "its rate of 5 calls in 10 s is used up"
    assert decide(state, spec, Ask("a", cost=1), NOON + 1 + answer.wait_s - 0.002).permits == 0
    assert decide(state, spec, Ask("a", cost=1), NOON + 1 + answer.wait_s + 0.002).permits > 0


def test_a_cost_above_the_rate_takes_all_of_it() -> None:
    assert decide(Budget(), LimitSpec(rate=(5, 1.0)), Ask("a", cost=50), NOON).permits == 5


def test_a_pause_holds_for_everybody_and_longer_ones_win() -> None:
    spec, state = LimitSpec(), Budget()
    decide(state, spec, Ask("a", pause_s=30), NOON)
    decide(state, spec, Ask("b", pause_s=5), NOON)
    answer = decide(state, spec, Ask("c", cost=1), NOON + 10)
    assert (answer.permits, answer.wait_s) == (0, 20)
    assert decide(state, spec, Ask("c", cost=1), NOON + 31).permits == 1


# ------------------------------------------------------------------------------------------------------- the day


def spend(state: Budget, spec: LimitSpec, now: float, *, urgent: bool = False, most: int = 10_000) -> int:
    got = 0
    while got < most:
        answer = decide(state, spec, Ask("a", permits=50, cost=1, urgent=urgent), now)
        if answer.permits == 0:
            break
        got += answer.permits
    return got


def test_a_share_of_the_day_is_kept_for_people_and_for_what_is_urgent() -> None:
    spec, state = LimitSpec(daily=1000, reserve=0.2), Budget()
    assert spend(state, spec, NOON) == 800
    answer = decide(state, spec, Ask("a", cost=1), NOON)
    assert answer.reason == "its daily budget of 1,000 calls, of which 20% are kept for people is used up"
    assert answer.wait_s == 43_200, "until midnight, UTC"
    assert spend(state, spec, NOON, urgent=True) == 200
    assert spend(state, spec, NOON + 43_201) == 800


def test_what_the_vendor_says_is_left_counts_more_than_our_own_count() -> None:
    spec, state = LimitSpec(daily=1000, reserve=0.1), Budget()
    assert spend(state, spec, NOON, most=10) == 10
    decide(state, spec, Ask("a", left=150, left_at=NOON), NOON)
    assert spend(state, spec, NOON) == 50, "people and other integrations have used the rest"
    decide(state, spec, Ask("a", left=5000, left_at=NOON + 1), NOON + 1)
    assert spend(state, spec, NOON + 1, most=600) == 600
    decide(state, spec, Ask("b", left=1, left_at=NOON), NOON + 2)
    assert spend(state, spec, NOON + 2, most=1) == 1, "an older figure does not replace a newer one"


def test_an_old_figure_is_found_out_anew_by_single_calls() -> None:
    spec, state = LimitSpec(daily=1000), Budget()
    decide(state, spec, Ask("a", left=0, left_at=NOON), NOON)
    answer = decide(state, spec, Ask("a", cost=1), NOON + 1)
    assert answer.permits == 0
    assert 890 < answer.wait_s < 900
    assert decide(state, spec, Ask("a", permits=50, cost=1), NOON + 900).permits == 1
    assert decide(state, spec, Ask("b", permits=50, cost=1), NOON + 901).permits == 0
    decide(state, spec, Ask("a", left=900, left_at=NOON + 902), NOON + 902)
    assert spend(state, spec, NOON + 902) == 800


def test_what_is_not_used_is_not_counted() -> None:
    spec, state = LimitSpec(), Budget()
    decide(state, spec, Ask("a", permits=50, cost=1), NOON)
    decide(state, spec, Ask("a", unused=49), NOON)
    assert state.used == 1


# ------------------------------------------------------------------------------------------------------- slots


def slots(state: Budget, who: str, *, keep: int, want: int, now: float, of: int = 3) -> tuple[int, bool]:
    answer = decide(state, LimitSpec(concurrency=of), Ask(who, keep=keep, slots=want), now)
    return answer.slots, answer.crowded


def test_slots_are_never_more_than_there_are_and_come_back_from_the_dead() -> None:
    state = Budget()
    assert slots(state, "a", keep=0, want=2, now=NOON) == (2, False)
    assert slots(state, "b", keep=0, want=2, now=NOON) == (1, False)
    assert slots(state, "c", keep=0, want=1, now=NOON) == (0, False)
    assert slots(state, "c", keep=0, want=1, now=NOON + HOLD_S + 0.1) == (1, False), "a and b have died"


def test_who_has_more_gives_up_one_for_somebody_who_waits() -> None:
    state = Budget()
    slots(state, "a", keep=0, want=3, now=NOON)
    slots(state, "b", keep=0, want=1, now=NOON)
    assert slots(state, "a", keep=3, want=3, now=NOON) == (3, True)
    assert slots(state, "a", keep=2, want=3, now=NOON + 1) == (2, True), "what is given back is not taken again"
    assert slots(state, "b", keep=0, want=1, now=NOON + 1) == (1, False)
    assert slots(state, "a", keep=2, want=3, now=NOON + 1) == (2, False)


def test_the_last_slot_goes_round_in_the_order_of_asking() -> None:
    state = Budget()
    assert slots(state, "a", keep=0, want=1, now=NOON, of=1) == (1, False)
    assert slots(state, "b", keep=0, want=1, now=NOON + 0.1, of=1) == (0, False)
    assert slots(state, "c", keep=0, want=1, now=NOON + 0.2, of=1) == (0, False)
    assert slots(state, "a", keep=1, want=1, now=NOON + 0.5, of=1) == (1, False), "its turn is not over"
    assert slots(state, "a", keep=1, want=1, now=NOON + 1.5, of=1) == (1, True)
    assert slots(state, "a", keep=0, want=1, now=NOON + 1.6, of=1) == (0, False)
    assert slots(state, "c", keep=0, want=1, now=NOON + 1.7, of=1) == (0, False), "b was first"
    assert slots(state, "b", keep=0, want=1, now=NOON + 1.8, of=1) == (1, False)


@pytest.mark.parametrize(
    ("spec", "life_s", "block"),
    [
        (LimitSpec(), 1.0, 100),
        (LimitSpec(rate=(5, 1.0)), 0.25, 1),
        (LimitSpec(rate=(6000, 300.0)), 1.0, 100),
        (LimitSpec(rate=(190, 10.0), daily=15_000), 1.0, 15),
    ],
)
def test_leases_are_small_and_short(spec: LimitSpec, life_s: float, block: int) -> None:
    assert (spec.life_s, spec.block) == (life_s, block)
