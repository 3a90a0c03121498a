"""The hands of a lane of jobs, without Kafka: who is busy, what is told to the group, what is given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from producers.crew import Crew
from producers.jobs import Job, Taken
from tests.patience import until


class _Queue:
    """A queue that gives out what the test puts there, and keeps what it is told."""

    lane = "increments"

    def __init__(self) -> None:
        self.owned = {0, 1}
        self.dropped: set[int] = set()
        self.ready: list[Taken] = []
        self.told: list[dict[int, int]] = []
        self.closed = False

    def put(self, offset: int, tenant: str, partition: int = 0, kind: str = "poll", **more: Any) -> None:
        self.ready.append(Taken(Job(kind, tenant, "contact", **more), "increments", partition, offset))

    def take(self, _: float, most: int) -> list[Taken]:
        out, self.ready = self.ready[:most], self.ready[most:]
        return out

    def done(self, upto: dict[int, int]) -> None:
        self.told.append(dict(upto))

    def close(self) -> None:
        self.closed = True


class _Work:
    """Jobs that last until the test lets them end."""

    def __init__(self) -> None:
        self.begun: list[Job] = []
        self.ends: dict[str, threading.Event] = {}
        self.fails: dict[str, BaseException] = {}

    def __call__(self, job: Job) -> None:
        self.begun.append(job)
        event = self.ends.get(job.tenant)
        if event is not None:
            assert event.wait(60)
        if job.tenant in self.fails:
            raise self.fails[job.tenant]

    def hold(self, *tenants: str) -> None:
        for tenant in tenants:
            self.ends[tenant] = threading.Event()

    def release(self, *tenants: str) -> None:
        for tenant in tenants:
            self.ends.pop(tenant).set()


class World:
    """A crew of two hands."""

    def __init__(self) -> None:
        self.queue, self.work = _Queue(), _Work()
        self.crew = Crew(self.queue, 2, self.work)  # type: ignore[arg-type]

    def until_begun(self, *tenants: str) -> None:
        def step() -> bool:
            self.crew.step(0.0)
            return [j.tenant for j in self.work.begun] == list(tenants)

        until(step)

    def until_told(self, **wanted: int) -> None:
        """Step until the last that the group knows of partition 0 (and 1) is this."""

        def step() -> bool:
            self.crew.step(0.0)
            known: dict[int, int] = {}
            for upto in self.queue.told:
                known |= upto
            return known == {int(name[1:]): offset for name, offset in wanted.items()}

        until(step)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    for event in made.work.ends.values():
        event.set()
    made.crew.close()
    assert made.queue.closed


def test_two_jobs_of_one_tenant_are_never_done_at_once_and_the_others_overtake(world: World) -> None:
    world.work.hold("a")
    for offset, tenant in enumerate(("a", "a", "b", "c")):
        world.queue.put(offset, tenant)
    world.until_begun("a", "b", "c")
    assert world.queue.told == [], "behind one that is not done nothing is told"
    world.work.release("a")
    world.until_begun("a", "b", "c", "a")
    world.until_told(p0=4)


def test_no_more_are_done_than_there_are_hands(world: World) -> None:
    world.work.hold("a", "b")
    for offset, tenant in enumerate(("a", "b", "c")):
        world.queue.put(offset, tenant)
    world.until_begun("a", "b")
    for _ in range(5):
        world.crew.step(0.0)
    assert len(world.work.begun) == 2
    world.work.release("b")
    world.until_begun("a", "b", "c")


def test_partitions_go_on_for_themselves(world: World) -> None:
    world.work.hold("a")
    world.queue.put(7, "a", 0)
    world.queue.put(3, "b", 1)
    world.until_told(p1=4)
    world.work.release("a")
    world.until_told(p0=8, p1=4)


def test_what_is_somebody_elses_now_is_forgotten_and_never_told(world: World) -> None:
    world.work.hold("a")
    world.queue.put(0, "a", 0)
    world.queue.put(1, "a", 0)
    world.queue.put(5, "b", 1)
    world.until_begun("a", "b")
    world.queue.owned, world.queue.dropped = {1}, {0}
    world.crew.step(0.0)
    world.work.release("a")
    world.until_told(p1=6)
    for _ in range(5):
        world.crew.step(0.0)
    assert [j.tenant for j in world.work.begun] == ["a", "b"], "what waited is not begun any more"


def test_notices_are_done_together_and_those_put_off_wait(world: World) -> None:
    world.work.hold("a")
    world.queue.put(0, "a")
    for n in range(1, 5):
        world.queue.put(n, "a", kind="read", keys=[f"k{n % 2}"], tries=n)
    world.queue.put(5, "a", kind="read", keys=["later"], not_before=2**40)
    world.queue.put(6, "a", kind="told", records=[{"key": "t"}])
    world.until_begun("a")
    world.work.release("a")
    world.until_begun("a", "a", "a")
    together, told = world.work.begun[1:]
    assert (together.keys, together.tries) == (["k1", "k0"], 4)
    assert told.records == [{"key": "t"}]
    world.until_told(p0=5)


def test_what_a_job_raises_is_raised_and_it_is_not_told(world: World) -> None:
    world.work.fails["a"] = RuntimeError("Kafka is away")
    world.queue.put(0, "a")

    def step() -> bool:
        world.crew.step(0.0)
        return False

    with pytest.raises(RuntimeError, match="away"):
        until(step)
    assert world.queue.told == []


def test_a_message_that_is_no_job_is_passed_over(world: World) -> None:
    world.queue.put(0, "", kind="none")
    world.queue.put(1, "a")
    world.until_told(p0=2)
    assert [j.tenant for j in world.work.begun] == ["a"]


def test_webhooks_of_a_tenant_whose_server_hangs_leave_room_for_the_jobs_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 7: what they name the next poll finds; where nothing polls, they stay in the queue."""
    monkeypatch.setattr("producers.crew.MOST_OF_ONE", 10)
    monkeypatch.setattr("producers.crew.MOST_WAITING", 20)
    for polls in (True, False):
        world = World()
        crew = world.crew = Crew(world.queue, 2, world.work, polls=polls)  # type: ignore[arg-type]
        world.work.hold("hangs")
        world.queue.put(0, "hangs")
        world.until_begun("hangs")
        for offset in range(1, 40):
            world.queue.put(offset, "hangs", kind="read", keys=[f"r{offset}"])
        world.queue.put(40, "other")
        for _ in range(10):
            crew.step(0.0)
        assert [j.tenant for j in world.work.begun] == ["hangs", "other"] if polls else ["hangs"]
        world.work.release("hangs")
        crew.close()
