"""The route worker on a real broker, with a stand-in for identify that answers when the test says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from processors.route import RouteWorker
from processors.router import barrier_key
from tests.integration.counting import PARTITIONS, make_context, read_all, until
from tidelock.change import ZERO_POSITION, value_position
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.envelopes import SEEDED, Entry
from tidelock.kafka import TopicSpec, ensure_topics, flush

pytestmark = pytest.mark.stack

Make = Callable[..., Context]


@pytest.fixture
def make(stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of contexts of one installation, with its topics made."""
    at = stack.endpoints()
    made: list[Context] = []

    def context(slot: int = 0) -> Context:
        made.append(make_context(at.kafka, at.registry, topic_prefix, tmp_path, "route", slot))
        return made[-1]

    t = context().topics
    specs = [TopicSpec(t.cdc(s, "contact"), PARTITIONS) for s in ("crm", "erp")]
    specs += [TopicSpec(t.dlq("route", s, "contact"), 1) for s in ("crm", "erp")]
    specs += [TopicSpec(t.identity("contact"), 1), TopicSpec(t.ops("activity"), 1)]
    specs += [TopicSpec(t.journal("contact"), PARTITIONS), TopicSpec(t.links("contact"), PARTITIONS, compact=True)]
    ensure_topics(made[0].kafka.admin(), specs)
    yield context
    for one in made:
        one.codec.registry.close()


class Identify:
    """Give every native key the canonical id "id-" + system + key, and answer barriers, one `step` at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._consumer: Consumer = context.kafka.consumer("test-identify", f"{context.config.prefix}test-identify")
        self._consumer.assign([TopicPartition(context.topics.identity("contact"), 0, 0)])
        self._producer: Producer = context.kafka.producer("test-identify")
        self.unknown: list[Entry] = []
        self.barriers = 0

    def step(self) -> None:
        t = self._context.topics
        for message in self._consumer.consume(500, 0.02):
            if message.error() is not None:
                continue
            entry = Entry.decode(message.value() or b"")
            if entry.kind == "barrier":
                self.barriers += 1
                self._link(barrier_key(entry.system, entry.partition), entry, entry.keys[0])
            elif entry.kind == "unknown":
                self.unknown.append(entry)
                cid = f"id-{entry.system}-{entry.native_key}"
                self._producer.produce(t.journal("contact"), entry.payload, cid.encode())
                flush(self._producer)
                self._link(f"{entry.system}/{entry.tenant}/{entry.native_key}".encode(), entry, cid)
        flush(self._producer)

    def _link(self, key: bytes, entry: Entry, cid: str) -> None:
        link = {"canonical_id": cid, "through": entry.offset}
        link |= {"system": entry.system, "tenant": entry.tenant, "native_key": entry.native_key}
        value = self._context.codec.encode("link", link)
        self._producer.produce(self._context.topics.links("contact"), value, key, entry.partition)

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def identify(make: Make) -> Iterator[Identify]:
    one = Identify(make())
    yield one
    one.close()


def send(context: Context, system: str, rounds: range, keys: int = 12) -> None:
    """Send one change per key and round; the position is the round."""
    producer = context.kafka.producer("test-capture")
    for n in rounds:
        for k in range(keys):
            value = bytes(5) + bytes(16) + n.to_bytes(16, "big") + b"row"
            headers = [("traceparent", b"00-%d" % n)]
            producer.produce(context.topics.cdc(system, "contact"), value, b"default/%d" % k, headers=headers)
    flush(producer)


def journal(context: Context) -> dict[bytes, list[int]]:
    """Return the positions that came to each record, in order, without those that merge drops as doubles."""
    out: dict[bytes, list[int]] = {}
    for message in read_all(context, context.topics.journal("contact")):
        n = int.from_bytes(value_position(message.value() or b""), "big")
        seen = out.setdefault(message.key() or b"", [])
        if not seen or n > seen[-1]:
            seen.append(n)
    return out


def expected(rounds: int, systems: tuple[str, ...] = ("crm",), keys: int = 12) -> dict[bytes, list[int]]:
    return {f"id-{s}-{k}".encode(): list(range(1, rounds + 1)) for s in systems for k in range(keys)}


def test_changes_go_the_long_way_once_and_then_to_the_journal_in_order(make: Make, identify: Identify) -> None:
    context = make()
    worker = RouteWorker(context)

    def both() -> None:
        worker.step(0.02)
        identify.step()

    for last in (1, 2, 3):
        send(context, "crm", range(last, last + 1))
        send(context, "erp", range(last, last + 1))
        until(lambda last=last: journal(context) == expected(last, ("crm", "erp")), both)  # type: ignore[misc]
        until(lambda: links_stored(worker) == 24, both)  # only then do changes go the short way
    worker.close()
    assert len(identify.unknown) == 24
    assert identify.barriers == 2 * PARTITIONS
    direct = [m for m in read_all(context, context.topics.journal("contact")) if m.headers()]
    assert len(direct) == 48
    assert {h for m in direct for h in m.headers() or []} == {("traceparent", b"00-2"), ("traceparent", b"00-3")}


def test_nothing_is_read_before_identify_has_answered(make: Make, identify: Identify) -> None:
    context = make()
    send(context, "crm", range(1, 2))
    worker = RouteWorker(context)
    until(lambda: read_all(context, context.topics.identity("contact")), lambda: worker.step(0.05))
    for _ in range(20):
        assert worker.step(0.02) == 0
    assert not worker.partitions
    entries = [Entry.decode(m.value() or b"") for m in read_all(context, context.topics.identity("contact"))]
    assert {e.kind for e in entries} == {"barrier"}
    assert {(e.system, e.partition) for e in entries} == {(s, p) for s in ("crm", "erp") for p in range(PARTITIONS)}
    assert {e.position for e in entries} == {ZERO_POSITION}

    def both() -> None:
        worker.step(0.05)
        identify.step()

    until(lambda: len(worker.partitions) == 2 * PARTITIONS, both)
    worker.close()


def test_a_restarted_worker_knows_its_links(make: Make, identify: Identify) -> None:
    context = make()
    for last in (1, 2):
        send(context, "crm", range(last, last + 1))
        worker = RouteWorker(context)

        def both(worker: RouteWorker = worker) -> None:
            worker.step(0.02)
            identify.step()

        until(lambda last=last: journal(context) == expected(last), both)  # type: ignore[misc]
        # The links came back before the worker stops, and are on disk then.
        until(lambda w=worker: links_stored(w) == 12, both)  # type: ignore[misc]
        worker.close()
    assert len(identify.unknown) == 12


def links_stored(worker: RouteWorker) -> int:
    topic = next(iter(worker.router._sources.values())).links
    return sum(1 for p in range(PARTITIONS) for _ in worker.store.scan((topic, p)))


@pytest.mark.parametrize("point", ["produced", "flushed"])
def test_the_end_of_a_seed_reaches_identify_behind_all_that_stood_before_it(
    make: Make, identify: Identify, point: str
) -> None:
    context = make()
    topic, header = context.topics.cdc("crm", "contact"), context.codec.header("entry")
    send(context, "crm", range(1, 6))
    producer = context.kafka.producer("test-capture")
    for p in range(PARTITIONS):
        value = header + Entry("seeded", system="crm", tenant="default", partition=p, offset=PARTITIONS).encode()
        producer.produce(topic, value, None, p, headers=[SEEDED])
    flush(producer)
    end = {m.partition(): m.offset() for m in read_all(context, topic) if m.key() is None}
    child = spawn(context, f"route.{point}:1")
    until(lambda: child.poll() is not None, identify.step)
    assert child.wait(5) == -signal.SIGKILL
    worker = RouteWorker(make())

    def marked() -> dict[int, int]:
        entries = [Entry.decode(m.value() or b"") for m in read_all(context, context.topics.identity("contact"))]
        return {
            e.partition: i for i, e in reversed(list(enumerate(entries))) if e.kind == "seeded"
        }  # the first of each

    def both() -> None:
        worker.step(0.02)
        identify.step()

    until(lambda: len(marked()) == PARTITIONS and journal(context) == expected(5), both)
    worker.close()
    entries = [Entry.decode(m.value() or b"") for m in read_all(context, context.topics.identity("contact"))]
    for p, first in marked().items():
        before = {e.offset for e in entries[:first] if e.kind == "unknown" and e.partition == p}
        after = {e.offset for e in entries[first:] if e.kind == "unknown" and e.partition == p and e.offset < end[p]}
        assert after <= before, "something that stood before a mark came to identify for the first time behind it"
        assert before


@pytest.mark.parametrize("point", ["produced", "flushed"])
def test_a_killed_worker_loses_nothing_and_keeps_the_order(make: Make, identify: Identify, point: str) -> None:
    context = make()
    send(context, "crm", range(1, 6))
    child = spawn(context, f"route.{point}:3")
    until(lambda: child.poll() is not None, identify.step)
    assert child.wait() == -signal.SIGKILL
    send(context, "crm", range(6, 9))
    worker = RouteWorker(make())

    def both() -> None:
        worker.step(0.02)
        identify.step()

    until(lambda: journal(context) == expected(8), both)
    worker.close()


def test_two_workers_share_the_partitions_of_all_systems(make: Make, identify: Identify) -> None:
    workers = [RouteWorker(make(slot)) for slot in (0, 1)]

    def step() -> None:
        for worker in workers:
            worker.step(0.02)
        identify.step()

    until(lambda: all(len(w.partitions) == PARTITIONS for w in workers), step)
    for worker in workers:
        numbers = {s: {p for topic, p in worker.partitions if f".{s}." in topic} for s in ("crm", "erp")}
        assert numbers["crm"] == numbers["erp"]
    context = make()
    for last in (1, 2):
        send(context, "crm", range(last, last + 1))
        send(context, "erp", range(last, last + 1))
        until(lambda last=last: journal(context) == expected(last, ("crm", "erp")), step)  # type: ignore[misc]
    for worker in workers:
        worker.close()


def test_a_value_that_is_no_change_is_dead_lettered(make: Make, identify: Identify) -> None:
    context = make()
    producer = context.kafka.producer("test-capture")
    producer.produce(context.topics.cdc("crm", "contact"), b"{}", b"default/0")
    flush(producer)
    send(context, "crm", range(1, 2))
    worker = RouteWorker(context)

    def both() -> None:
        worker.step(0.02)
        identify.step()

    until(lambda: journal(context) == expected(1), both)
    worker.close()
    (letter,) = read_all(context, context.topics.dlq("route", "crm", "contact"))
    assert (letter.key(), letter.value()) == (b"default/0", b"{}")


def spawn(context: Context, fault: str) -> subprocess.Popen[bytes]:
    """Run a route worker as a process until ``fault`` kills it."""
    at = [context.kafka.bootstrap, context.codec.registry.url, context.config.prefix, str(context.config.data)]
    code = "import json, sys; from tests.integration.test_route import run; run(*json.loads(sys.argv[1]))"
    env = os.environ | {"TIDELOCK_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(at)], env=env)


def run(kafka: str, registry: str, prefix: str, data: str) -> None:
    """Be the worker that is killed; small batches, so that it happens in the middle."""
    worker = RouteWorker(make_context(kafka, registry, prefix, Path(data), "route"), most=10)
    while True:
        worker.step(0.1)
