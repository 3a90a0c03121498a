"""Limits that processes share through the central database: the rate, pauses, slots, the day."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.access import make_config
from tests.fix_installation import wait
from tests.patience import DEADLINE_S
from tidelock.central import Central
from tidelock.errors import Retry
from tidelock.limits import Limits, LimitSpec, usage
from tidelock.tenants import Tenant, Tenants

pytestmark = pytest.mark.stack


@pytest.fixture
def dsn(database: Callable[[str], str]) -> str:
    return database("central")


@pytest.fixture
def central(tmp_path: Path, dsn: str) -> Iterator[Central]:
    made = Central(make_config(tmp_path, dsn=dsn))
    yield made
    made.close()


@pytest.fixture
def tenant(tmp_path: Path) -> Tenant:
    return Tenants(make_config(tmp_path), None).get("shop", "north")


@pytest.fixture
def make(central: Central, tenant: Tenant) -> Iterator[Callable[..., Limits]]:
    """Return a factory of what each worker has of its own."""
    made: list[Limits] = []

    def new(spec: LimitSpec, **options: Any) -> Limits:
        made.append(Limits(central, options.pop("tenant", tenant), spec, **options))
        return made[-1]

    yield new
    for limits in made:
        limits.close()


def _calls(folder: Path, dsn: str, spec: LimitSpec, seconds: float, barrier: Any, results: Any) -> None:
    """Call as often as allowed, from three threads, and tell when (on a clock that all processes share)."""
    config = make_config(folder, dsn=dsn)
    central = Central(config)
    limits = Limits(central, Tenants(config, None).get("shop", "north"), spec, patience_s=DEADLINE_S)
    barrier.wait(DEADLINE_S)
    end = time.monotonic() + seconds
    at: list[float] = []

    def work() -> None:
        while time.monotonic() < end:
            with limits.acquire():
                at.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limits.close()
    results.put(at)
    central.close()


def test_two_processes_keep_the_rate_together(tmp_path: Path, dsn: str, central: Central) -> None:
    spec, seconds = LimitSpec(rate=(40, 1.0)), 4.0
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_calls, args=(tmp_path, dsn, spec, seconds, barrier, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    try:
        each = [results.get(timeout=DEADLINE_S) for _ in processes]
    finally:
        for process in processes:
            process.join(DEADLINE_S)
            process.kill()
    at = sorted(itertools.chain(*each))
    assert all(at[i + 40] - at[i] > 1.0 for i in range(len(at) - 40)), "in no window of a second more than forty"
    assert len(at) > 80, "it is not kept by standing still"
    assert all(len(calls) > 10 for calls in each), "neither takes all of it"
    (found,) = usage(central, "shop").values()
    assert found.calls == len(at)


def test_most_calls_ask_nobody(make: Callable[..., Limits]) -> None:
    limits = make(LimitSpec(rate=(10_000, 10.0), daily=1_000_000))
    asked: list[Any] = []
    real = limits._store.ask
    limits._store.ask = lambda spec, ask: asked.append(ask) or real(spec, ask)  # type: ignore[method-assign,func-returns-value]
    for _ in range(1000):
        with limits.acquire():
            pass
    assert len(asked) < 40


def test_who_calls_now_and_then_leases_little(make: Callable[..., Limits], central: Central) -> None:
    """A block that was not used up in time, or was given back, is no reason to ask for more."""
    limits = make(LimitSpec(concurrency=4))
    for _ in range(30):
        with limits.acquire():
            pass
        with limits._change:
            limits._ask()  # what confirming the slots does every second
    (found,) = usage(central, "shop").values()
    assert found.calls == 30
    assert limits._block == 1


def test_a_pause_reaches_every_worker_of_the_tenant_and_no_other(make: Callable[..., Limits], tmp_path: Path) -> None:
    south = Tenants(make_config(tmp_path), None).get("shop", "south")
    one, two, other = make(LimitSpec()), make(LimitSpec(), patience_s=0.1), make(LimitSpec(), tenant=south)
    with two.acquire():
        pass
    one.observed(retry_after_s=300)

    def paused() -> bool:
        try:
            with two.acquire():
                return False
        except Retry as error:
            return error.retry_after_s is not None and error.retry_after_s > 290

    wait(paused, "the pause is noticed as soon as what was leased has run out")
    with other.acquire():
        pass


def test_a_short_pause_is_waited_out(make: Callable[..., Limits]) -> None:
    one, two = make(LimitSpec()), make(LimitSpec())
    one.observed(retry_after_s=1.0)
    began = time.monotonic()
    with two.acquire():
        assert time.monotonic() - began >= 0.9


def test_the_daily_reserve_is_for_what_is_urgent(make: Callable[..., Limits], central: Central) -> None:
    spec = LimitSpec(daily=20, reserve=0.25)
    one, two = make(spec, patience_s=0.1), make(spec, patience_s=0.1)
    for i in range(15):
        with (one, two)[i % 2].acquire():
            pass
    with (
        pytest.raises(
            Retry, match=r"shop/north takes no call now: its daily budget of 20 calls, of which 25%"
        ) as found,
        two.acquire(),
    ):
        pass
    assert found.value.retry_after_s is not None
    assert 0 < found.value.retry_after_s <= 86_400
    for _ in range(5):
        with one.acquire(urgent=True):
            pass
    with pytest.raises(Retry), one.acquire(urgent=True):
        pass
    (found_usage,) = usage(central, "shop").values()
    assert (found_usage.calls, found_usage.daily, found_usage.left) == (20, 20, 0)


def test_what_the_vendor_says_is_left_is_learnt_by_all(make: Callable[..., Limits]) -> None:
    spec = LimitSpec(daily=1000, reserve=0.1)
    one, two = make(spec), make(spec, patience_s=0.1)
    with one.acquire():
        one.observed(remaining_daily=100)
    one.close()
    with pytest.raises(Retry, match="daily budget"), two.acquire():
        pass


def test_limits_that_the_vendor_counts_apart(make: Callable[..., Limits]) -> None:
    search, api = make(LimitSpec(), name="search", patience_s=0.1), make(LimitSpec())
    search.observed(retry_after_s=60)
    with api.acquire():
        pass
    with pytest.raises(Retry), search.acquire():
        pass


# ------------------------------------------------------------------------------------------------------- slots


def test_calls_at_the_same_time_are_counted_over_all_workers(make: Callable[..., Limits]) -> None:
    spec = LimitSpec(concurrency=3)
    workers = [make(spec, patience_s=DEADLINE_S) for _ in range(3)]
    lock, state, done = threading.Lock(), {"now": 0, "most": 0}, [0, 0, 0]
    end = time.monotonic() + 6.0

    def work(which: int) -> None:
        while time.monotonic() < end:
            with workers[which].acquire():
                with lock:
                    state["now"] += 1
                    state["most"] = max(state["most"], state["now"])
                    done[which] += 1
                threading.Event().wait(0.02)  # the call itself
                with lock:
                    state["now"] -= 1

    with ThreadPoolExecutor(9) as pool:
        for job in [pool.submit(work, i % 3) for i in range(9)]:
            job.result()
    assert state["most"] == 3
    assert min(done) > 20, f"everybody gets a turn: {done}"


def test_idle_slots_come_back(make: Callable[..., Limits]) -> None:
    spec = LimitSpec(concurrency=1)
    one, two = make(spec), make(spec)
    with one.acquire():
        pass
    with two.acquire():  # within its patience of ten seconds
        pass


def test_it_says_that_all_calls_are_under_way(make: Callable[..., Limits]) -> None:
    one, two = make(LimitSpec(concurrency=1)), make(LimitSpec(concurrency=1), patience_s=0.3)
    with (
        one.acquire(),
        pytest.raises(Retry, match="all 1 calls that it allows at the same time are under way"),
        two.acquire(),
    ):
        pass


def _hold(folder: Path, dsn: str, ready: Any) -> None:
    config = make_config(folder, dsn=dsn)
    limits = Limits(Central(config), Tenants(config, None).get("shop", "north"), LimitSpec(concurrency=1))
    with limits.acquire():
        ready.set()
        threading.Event().wait(DEADLINE_S)


def test_slots_of_a_killed_worker_come_back(tmp_path: Path, dsn: str, make: Callable[..., Limits]) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, dsn, ready))
    process.start()
    try:
        assert ready.wait(DEADLINE_S)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(DEADLINE_S)
        with make(LimitSpec(concurrency=1), patience_s=DEADLINE_S).acquire():
            pass
    finally:
        process.kill()


def test_a_worker_that_is_to_stop_does_not_wait(make: Callable[..., Limits]) -> None:
    stop = threading.Event()
    stop.set()
    limits = make(LimitSpec(), stop=stop, patience_s=DEADLINE_S)
    limits.observed(retry_after_s=5)
    with pytest.raises(Retry), limits.acquire():
        pass
