"""Timers: when they fire, what they wait for, and what a restart makes of them (processors.clock, processors.troubles)."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from processors.clock import ClockWorker
from processors.troubles import ASK_AGAIN_S, RELEASED_PER_S
from tests.model.world import MemoryRegistry
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.envelopes import Entry
from tidelock.places import tenant_key

TABLES = {"contact": {"table": "contact", "map": [{"column": "name", "field": "name"}]}}
CONFIG = Config.model_validate(
    {
        "systems": {
            "crm": {"dsn": "postgresql://h/d", "entities": TABLES},
            "portal": {
                "kind": "saas",
                "capture": "saas",
                "tenants": {"north": {}, "south": {}, "west": {"enabled": False}},
                "entities": TABLES,
            },
        },
        "entities": {"contact": {"fields": {"name": {}}}},
        "flows": [{"entity": "contact", "from": "crm", "to": "portal"}],
    }
)


class Log:
    """One partition of ``ops.signals``, and everything that is written elsewhere."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None, float]] = []
        self.fired: list[Entry] = []
        self.read = 0
        self.marker = False  # behind the last record stands the mark of a transaction

    # ---- as a producer

    def produce(self, topic: str, value: bytes | None = None, key: bytes | None = None) -> None:
        if topic == "ops.signals":
            self.records.append((key or b"", value, time.time()))
        elif topic.startswith("journal."):
            self.fired.append(Entry.decode(value or b""))

    def flush(self, _wait_s: float) -> int:
        return 0

    def poll(self, _wait_s: float) -> int:
        return 0

    def purge(self) -> None: ...

    # ---- as a consumer

    def get_watermark_offsets(self, _part: Any, timeout: float) -> tuple[int, int]:
        return 0, len(self.records) + self.marker

    def assign(self, _parts: Any) -> None:
        self.read = 0

    def position(self, _parts: Any) -> list[Any]:
        return [SimpleNamespace(offset=self.read or -1001)]

    def consume(self, most: int, _wait_s: float) -> list[Any]:
        found = self.records[self.read : self.read + min(most, 7)]
        self.read += len(found)
        return [
            SimpleNamespace(key=lambda k=k: k, value=lambda v=v: v, error=lambda: None, timestamp=lambda t=t: (1, t * 1000))
            for k, v, t in found
        ]  # fmt: skip

    def close(self) -> None: ...


class Rig:
    """A clock on a log, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = Log()
        self.now = 1_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        kafka: Any = SimpleNamespace(consumer=lambda *_, **__: self.log, producer=lambda *_: self.log)
        self.context = Context(CONFIG, kafka, Codec(MemoryRegistry()), "clock")  # type: ignore[arg-type]
        self.worker = ClockWorker(self.context)

    def restart(self) -> None:
        self.worker = ClockWorker(self.context)

    def timer(self, cid: object, place: str = "portal/north", delay_s: float = 2.0, entry: str = "retry") -> bytes:
        """Write what merge writes."""
        system, _, tenant = place.partition("/")
        body = {
            "entity": "contact",
            "canonical_id": str(cid),
            "system": system,
            "tenant": tenant,
            "entry": entry,
            "delay_s": delay_s,
        }
        key = f"timer/contact/{cid}/{place}".encode()
        self.log.records.append((key, json.dumps(body).encode(), self.now))
        return key

    def trouble(self, tenant: str, again_s: float | None) -> None:
        """Write what a sink writes of a tenant."""
        value = None if again_s is None else json.dumps({"state": "waits", "again_at": self.now + again_s}).encode()
        self.log.records.append((tenant_key("portal", tenant).encode(), value, self.now))

    def after(self, seconds: float) -> list[str]:
        """Let time pass and the clock look; return whose entries have come."""
        before = len(self.log.fired)
        self.now += seconds
        for _ in range(3 + len(self.log.records) // 7):
            self.worker.step(0.0)
        return [e.canonical_id for e in self.log.fired[before:]]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_a_timer_fires_once_when_it_is_due_and_leaves_a_tombstone(rig: Rig) -> None:
    key = rig.timer("a", "crm/default", 30.0, "wake")
    assert rig.after(29.0) == []
    assert rig.after(2.0) == ["a"]
    (entry,) = rig.log.fired
    assert (entry.kind, entry.canonical_id, entry.system, entry.tenant) == ("wake", "a", "crm", "default")
    assert rig.log.records[-1][:2] == (key, None)
    assert rig.after(1000.0) == []
    rig.restart()
    assert rig.after(0.0) == []


def test_nothing_fires_before_the_whole_topic_has_been_read(rig: Rig) -> None:
    """What stands later in it may be that the timer has fired, or that its tenant takes no writes."""
    for n in range(20):
        rig.timer(n)
    rig.trouble("north", 60.0)
    rig.now += 10.0
    rig.restart()
    for _ in range(2):
        rig.worker.step(0.0)
    assert rig.log.read < len(rig.log.records)
    assert rig.log.fired == []
    assert rig.after(0.0) == []


def test_a_transactions_mark_at_the_end_is_not_waited_for(rig: Rig) -> None:
    rig.timer("a")
    rig.log.marker = True
    rig.restart()
    assert rig.after(10.0) == [], "there might be more to come"
    assert rig.after(10.0) == ["a"]


def test_timers_of_a_tenant_that_takes_no_writes_wait_and_the_others_do_not(rig: Rig) -> None:
    rig.trouble("north", 3600.0)
    for n in range(3):
        rig.timer(f"n{n}")
    rig.timer("s", "portal/south")
    rig.timer("c", "crm/default")
    assert sorted(rig.after(5.0)) == ["c", "s"]
    assert rig.after(3000.0) == []
    rig.trouble("north", None)
    assert sorted(rig.after(0.0) + rig.after(1.0)) == ["n0", "n1", "n2"]


def test_one_record_at_a_time_tries_whether_a_tenant_takes_writes_again(rig: Rig) -> None:
    """A day's outage with many parked records costs one attempt a minute, not one for each of them."""
    rig.trouble("north", 60.0)
    for n in range(100):
        rig.timer(n)
    assert rig.after(59.0) == []
    first = rig.after(2.0)
    assert len(first) == 1
    rig.timer(first[0])  # refused again
    rig.trouble("north", 60.0)
    assert rig.after(59.0) == []
    assert len(rig.after(2.0)) == 1
    assert rig.after(ASK_AGAIN_S - 1.0) == [], "perhaps it is still being tried"
    assert len(rig.after(2.0)) == 1, "nothing came of that one: the next"


def test_what_has_waited_is_let_go_little_by_little(rig: Rig) -> None:
    rig.trouble("north", 60.0)
    count = int(3 * RELEASED_PER_S)
    for n in range(count):
        rig.timer(n)
    rig.after(10.0)
    rig.trouble("north", None)
    rig.timer("s", "portal/south", 0.0)
    first = rig.after(0.1)
    assert "s" in first
    assert 0 < len(first) < RELEASED_PER_S
    done = len(first) + len(rig.after(1.0))
    assert done < 2 * RELEASED_PER_S
    assert done + len(rig.after(2.0)) == count + 1


def test_a_tenant_that_goes_down_again_meanwhile_holds_the_rest(rig: Rig) -> None:
    rig.trouble("north", 60.0)
    for n in range(int(RELEASED_PER_S)):
        rig.timer(n)
    rig.after(10.0)
    rig.trouble("north", None)
    rig.after(0.1)
    rig.trouble("north", 3600.0)
    assert rig.after(0.0) == []
    assert rig.after(100.0) == []


def test_a_tenant_that_is_switched_off_is_not_even_tried(rig: Rig) -> None:
    rig.timer("w", "portal/west")
    rig.trouble("west", 10.0)
    assert rig.after(10_000.0) == []
    rig.trouble("west", None)
    assert rig.after(10_000.0) == []


def test_a_tenant_that_is_configured_no_more_holds_nothing(rig: Rig) -> None:
    rig.trouble("former", 3600.0)
    rig.timer("f", "portal/former")
    assert rig.after(5.0) == ["f"]


def test_s10_a_restart_keeps_what_waits_waiting_and_lets_a_backlog_go_slowly(rig: Rig) -> None:
    rig.trouble("north", 600.0)
    count = int(2 * RELEASED_PER_S)
    for n in range(count):
        rig.timer(n)
        rig.timer(n, "portal/south")
    rig.now += 100.0
    for _ in range(2):
        rig.restart()
        rig.worker.step(0.0)
    fired = rig.after(0.0) + rig.after(0.5)
    assert 0 < len(fired) < RELEASED_PER_S, "all of the other tenant's are overdue"
    assert {e.tenant for e in rig.log.fired} == {"south"}
    rig.after(5.0)
    assert len(rig.log.fired) == count


def test_a_timer_that_is_asked_for_anew_before_the_tombstone_of_the_old_one_is_written_is_not_lost(rig: Rig) -> None:
    rig.timer("a", delay_s=1.0)
    rig.worker.step(0.0)
    rig.now += 2.0
    produce = rig.log.produce

    def overtaken(topic: str, value: bytes | None = None, key: bytes | None = None) -> None:
        if topic == "ops.signals" and value is None:
            rig.timer("a", delay_s=60.0)  # merge was faster
        produce(topic, value, key)

    rig.log.produce = overtaken  # type: ignore[method-assign]
    assert rig.worker.step(0.0) == 1
    rig.log.produce = produce  # type: ignore[method-assign]
    rig.worker.step(0.0)
    rig.restart()
    assert rig.after(50.0) == []
    assert rig.after(11.0) == ["a"]
