"""What is given out next, without Kafka: whose turn it is among runs that are due, when a first reading is over, what is forgotten."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from producers.base import Publisher
from producers.board import Board
from producers.jobs import Job, Load, State, _decoder, to_json
from producers.schedule import Schedule
from tests.model.world import MemoryRegistry
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import SEEDED
from tidelock.kafka import KafkaClients
from tidelock.tenants import Tenant

PLACE = ("north", "contact")
NORTH = Tenant("portal", "north", None, {}, {}, None, "on", None, None)
TABLE = {"table": "contact", "map": [{"column": "name", "field": "name"}]}
NIGHTLY = "0 3 * * *"


class _Kafka:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, Any, Any]] = []

    def produce(self, topic: str, value: Any, key: Any, _partition: int = -1, headers: Any = None) -> None:
        self.sent.append((topic, key, value, headers))

    def poll(self, _wait_s: float) -> int:
        return 0

    def flush(self, _wait_s: float) -> int:
        return 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=[0])})

    def __len__(self) -> int:
        return 0


class World:
    """A board of one tenant, and what it has given out."""

    def __init__(
        self, kafka: _Kafka, schedules: Mapping[str, Schedule], *, reads_all_first: bool = False, on_start: bool = False
    ) -> None:
        config = Config.model_validate(
            {
                "systems": {
                    "portal": {
                        "kind": "saas",
                        "capture": "saas",
                        "tenants": {"north": {}},
                        "options": {"seed_on_start": on_start},
                        "entities": {"contact": TABLE},
                    },
                    "crm": {"dsn": "postgresql://h/d", "entities": {"contact": TABLE}},
                },
                "entities": {"contact": {"fields": {"name": {}}}},
                "flows": [{"entity": "contact", "from": "portal", "to": "crm"}],
            }
        )
        self.kafka = kafka
        context = Context(config, KafkaClients("nowhere:1"), Codec(MemoryRegistry()), "capture.portal")  # type: ignore[arg-type]
        self.board = Board(
            context,
            "portal",
            Publisher(context, "portal"),
            SimpleNamespace(last={}),  # type: ignore[arg-type]
            lambda _: schedules,
            reads_all_first=reads_all_first,
        )

    def state(self, **values: Any) -> None:
        """Let a worker put a state on record."""
        self.board.take([("capture/portal/north/contact", {"state": to_json(State(**values))})])

    def load(self, load: Load) -> None:
        """Let a worker put a part of a load on record."""
        self.board.take([(f"load/portal/north/contact/{load.id}/{load.part}", {"load": to_json(load)})])

    def step(self) -> list[Job]:
        """Give out what is due; return it."""
        before = len(self.kafka.sent)
        self.board.step([NORTH])
        jobs = ("jobs.increments.portal", "jobs.loads.portal")
        return [_decoder.decode(value) for topic, _, value, _ in self.kafka.sent[before:] if topic in jobs]

    @property
    def marks(self) -> int:
        """Return how many marks of an ended first seed were given."""
        return sum(1 for *_, headers in self.kafka.sent if headers == [SEEDED])


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> _Kafka:
    """Let everybody produce into memory."""
    fake = _Kafka()
    monkeypatch.setattr(KafkaClients, "producer", lambda *_, **__: fake)
    return fake


def schedules(every_s: float = 0.001) -> dict[str, Schedule]:
    return {
        "poll": Schedule(None, every_s),
        "overlap": Schedule(NIGHTLY, 0.0),
        "deletes": Schedule(NIGHTLY, 0.0),
    }


def test_polls_that_are_always_due_keep_no_nightly_run_from_its_turn(kafka: _Kafka) -> None:
    world = World(kafka, schedules())
    long_ago = time.time() - 3 * 86_400
    ran, given = dict.fromkeys(("poll", "overlap", "deletes"), long_ago), []
    for seq in range(5):
        world.state(seq=seq, cursors={"poll": {}}, ran=ran)
        (job,) = world.step()
        given.append(job.kind)
        if job.kind != "overlap":  # the overlap fails for ever
            ran = {**ran, job.kind: time.time() - (86_400 if job.kind == "poll" else 0)}
    assert given == ["poll", "overlap", "deletes", "poll", "overlap"]


def test_a_run_that_fails_in_the_middle_of_its_pages_keeps_no_poll_from_its_turn(kafka: _Kafka) -> None:
    world = World(kafka, schedules())
    long_ago = time.time() - 3 * 86_400
    stands: dict[str, Any] = {"cursors": {"poll": {}, "overlap": {}}, "ran": {"poll": long_ago, "overlap": long_ago}}
    world.state(seq=1, more="overlap", **stands)
    assert [job.kind for job in world.step()] == ["overlap"], "it goes on behind the others"
    world.state(seq=2, more="overlap", failures=1, **stands)
    assert [job.kind for job in world.step()] == ["poll"]


def test_the_first_poll_does_not_wait_for_its_schedule(kafka: _Kafka) -> None:
    began = time.time()
    (job,) = World(kafka, {"poll": Schedule(NIGHTLY, 0.0), "overlap": Schedule(NIGHTLY, 0.0)}).step()
    assert job.kind == "poll"
    assert job.due >= began, "it is not told as decades late"
    assert job.state is not None
    assert set(job.state.ran) == {"overlap"}, "nightly runs wait for the next night"


@pytest.mark.parametrize(
    ("ran", "more", "marks"), [({}, None, 0), ({"poll": 1.0}, "poll", 0), ({"poll": 1.0}, None, 1)]
)
def test_a_first_reading_that_broke_off_gives_no_marks(
    kafka: _Kafka, ran: dict[str, float], more: str | None, marks: int
) -> None:
    world = World(kafka, {"poll": Schedule(None, 3600.0)}, reads_all_first=True, on_start=True)
    # Credentials that were revoked in its middle, or a tenant that was switched off, leave a cursor and no failures behind.
    world.state(seq=1, cursors={"poll": {"link": "page 7"}}, ran=ran, more=more)
    world.step()
    assert world.marks == marks


def test_of_loads_that_are_done_nothing_is_kept_in_mind(kafka: _Kafka) -> None:
    world = World(kafka, {"poll": Schedule(None, 3600.0)})
    world.state(seq=1, cursors={"poll": {}}, ran={"poll": time.time()})
    for n in range(3):
        world.board._begin_load(*PLACE, f"load{n}", None)
        assert [job.kind for job in world.step()] == ["split"]
        world.load(Load(f"load{n}", 0, 1, {}, done=True, seq=2))
        world.step()
    assert {number for _, _, number, _ in world.board._out} == {"load2"}
    assert {number for _, _, number in world.board._told} == {"load2"}


def test_a_seed_of_a_tenant_that_is_not_known_yet_waits_for_whoever_knows_it(kafka: _Kafka) -> None:
    world = World(kafka, {"poll": Schedule(None, 3600.0)})
    asked = {f"request/seed/portal/{t}": {"kind": "seed", "system": "portal", "tenant": t} for t in ("north", "south")}
    world.board._signals.last.update(asked)
    world.board.requests([NORTH])
    assert set(world.board._signals.last) == {"request/seed/portal/south"}
    assert [key for _, key, value, _ in kafka.sent if value is None] == [b"request/seed/portal/north"]
    assert set(world.board._loads) == {PLACE}
