"""How jobs end, without Kafka: what is put on record of one whose reading is not believed, or that is asked to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from producers.base import Publisher
from producers.errands import Errands, KafkaTrouble
from producers.jobs import Job, State
from producers.schedule import Schedule
from producers.source import Cursor, Page, Task
from tests.model.world import MemoryRegistry
from tests.vendor import OFFICES, Office, VendorSource
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.kafka import KafkaClients

TABLE = {"table": "people", "key": ["id"], "map": [{"column": c, "field": c} for c in ("email", "name")]}
SCHEDULES = {"poll": Schedule(None, 5.0), "deletes": Schedule("0 3 * * *", 0.0)}


class _Kafka:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, Any]] = []

    def produce(self, topic: str, value: Any, key: Any, *_: Any, **__: Any) -> None:
        self.sent.append((topic, key, value))

    def poll(self, _wait_s: float) -> int:
        return 0

    def flush(self, _wait_s: float) -> int:
        return 0

    def close(self) -> None: ...

    def __len__(self) -> int:
        return 0


class Everything(VendorSource):
    """Its cursor is too old: it reads everything once more."""

    def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
        yield Page([self._office.record(k) for k in self._office.rows], {"link": "new"}, whole=True, last=True)


def context_of(data: Path) -> Context:
    config = Config.model_validate(
        {
            "data": str(data),
            "systems": {
                "shop": {
                    "kind": "vendor",
                    "capture": "vendor",
                    "url": "https://shop.example",
                    "entities": {"contact": TABLE},
                },
                "crm": {"capture": "none", "entities": {"contact": TABLE}},
            },
            "entities": {"contact": {"fields": {"email": {}, "name": {}}}},
            "flows": [{"entity": "contact", "from": "shop", "to": "crm"}],
        }
    )
    context = Context(config, KafkaClients("nowhere:1"), Codec(MemoryRegistry()), "capture.shop")  # type: ignore[arg-type]
    context.access.central = context.access.tenants.central = None
    return context


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Kafka]:
    """Let everybody produce into memory, where 200 records are known."""
    fake = _Kafka()
    monkeypatch.setattr(KafkaClients, "producer", lambda *_, **__: fake)
    monkeypatch.setattr(Errands, "_known_keys", lambda *_: {f"r{n}" for n in range(1, 201)})
    OFFICES["shop", "default"] = Office()
    yield fake
    OFFICES.clear()


@pytest.mark.parametrize(("kind", "gone", "moves"), [("poll", 150, False), ("deletes", 150, True), ("poll", 50, True)])
def test_a_poll_that_misses_most_records_keeps_its_cursor_until_a_person_has_looked(
    kafka: _Kafka, tmp_path: Path, kind: str, gone: int, moves: bool
) -> None:
    context = context_of(tmp_path)
    for _ in range(200 - gone):
        OFFICES["shop", "default"].create({})
    errands = Errands(context, "shop", Publisher(context, "shop"), Everything, lambda _: SCHEDULES, polls=True)
    try:
        errands.carry_out(Job(kind, "default", "contact", state=State(seq=7, cursors={"poll": {"link": "old"}})))
    finally:
        errands.close()
        context.close_access()
    states = [json.loads(v)["state"] for _, k, v in kafka.sent if k == b"capture/shop/default/contact"]
    assert len(states) == 1
    stands = SimpleNamespace(**{"failures": 0, "error": "", **states[0]})
    assert stands.cursors["poll"] == {"link": "new" if moves and kind == "poll" else "old"}
    assert ("poll" in stands.ran if kind == "poll" else "deletes" in stands.ran) if moves else stands.failures == 1
    assert ("150 of 200 records" in stands.error) == (not moves)
    alerts = sum(topic == "ops.alerts" for topic, *_ in kafka.sent)
    assert alerts == (1 if gone == 150 else 0)


@pytest.mark.parametrize("whole", [False, True])
def test_a_job_lets_go_when_its_worker_is_asked_to_stop(kafka: _Kafka, tmp_path: Path, whole: bool) -> None:
    class Endless(VendorSource):
        """A reading of so much that nobody would wait for its end."""

        def run(self, task: Task, kind: str, cursor: Cursor | None) -> Iterator[Page]:
            yield Page([], {"page": 1}, whole=whole)
            context.stop.set()
            yield Page([], {"page": 2}, whole=whole)
            raise AssertionError("it reads on")

    context = context_of(tmp_path)
    errands = Errands(context, "shop", Publisher(context, "shop"), Endless, lambda _: SCHEDULES, polls=True)
    try:
        job = Job("poll", "default", "contact", state=State(seq=7, cursors={"poll": {"page": 0}}))
        if whole:
            with pytest.raises(KafkaTrouble, match="the worker stops"):
                errands.carry_out(job)
        else:
            errands.carry_out(job)
    finally:
        errands.close()
        context.close_access()
    states = [json.loads(v)["state"] for _, k, v in kafka.sent if k == b"capture/shop/default/contact"]
    assert [(s["more"], s["cursors"]["poll"]) for s in states] == ([] if whole else [("poll", {"page": 2})])
