"""The engine on a real broker: exactly once through every kind of death, abort and move."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Message, TopicPartition

from processors.engine import BAD_RUN, Engine
from processors.restore import Restorer
from processors.store import Mark, Store
from tests.integration.counting import PARTITIONS, Counting, make_context, make_topics, read_all, spawn, until
from tests.patience import DEADLINE_S
from tests.together import Together
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.errors import Fatal, Retry
from tidelock.kafka import flush

pytestmark = pytest.mark.stack

POINTS = ("consumed", "processed", "begun", "produced", "offsets_sent", "committed", "applied")
Make = Callable[..., Context]


@pytest.fixture
def make(stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of contexts of one installation, with its topics made."""
    at = stack.endpoints()
    made: list[Context] = []

    def context(slot: int = 0, role: str = "count") -> Context:
        made.append(make_context(at.kafka, at.registry, topic_prefix, tmp_path, role, slot))
        return made[-1]

    make_topics(context())
    yield context
    for one in made:
        one.codec.registry.close()


def send(context: Context, rounds: int, keys: int = 40, first: int = 0) -> None:
    """Send every key once per round; a value is the number of its round."""
    producer = context.kafka.producer("test-load")
    for n in range(first, first + rounds):
        for k in range(keys):
            producer.produce(context.topics.journal("contact"), b"%d" % n, b"key%d" % k)
    flush(producer)


def outputs(context: Context) -> dict[bytes, list[bytes]]:
    """Return what was committed to the output topic, per key in order."""
    out: dict[bytes, list[bytes]] = {}
    for message in read_all(context, context.topics.sync("crm", "contact")):
        out.setdefault(message.key() or b"", []).append(message.value() or b"")
    return out


def expected(rounds: int, keys: int = 40) -> dict[bytes, list[bytes]]:
    return {b"key%d" % k: [b"%d %d" % (n + 1, n) for n in range(rounds)] for k in range(keys)}


def drain(engine: Engine, done: Callable[[], bool]) -> None:
    until(done, lambda: engine.step(0.1))


def total(context: Context, rounds: int) -> Callable[[], bool]:
    """Say whether the group has taken everything that was sent."""
    return lambda: sum(len(v) for v in outputs(context).values()) >= rounds * 40


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_point_counts_every_message_once(make: Make, point: str) -> None:
    context = make()
    send(context, 5)
    child = spawn(context, 200, f"engine.{point}:2")
    assert child.wait(DEADLINE_S) == -signal.SIGKILL
    send(context, 5, first=5)
    assert spawn(context, 400).wait(DEADLINE_S) == 0
    assert outputs(context) == expected(10)


def test_local_state_after_a_kill_is_older_never_wrong(make: Make, tmp_path: Path) -> None:
    context = make()
    send(context, 5)
    assert spawn(context, 200, "engine.applied:4").wait(DEADLINE_S) == -signal.SIGKILL
    store = Store(context.data)
    scopes = [(context.topics.journal("contact"), p) for p in range(4)]
    # Everything since the last flush is lost with RocksDB's log off, and the marks with it: state and mark are one.
    counted = {scope: dict(store.scan(scope)) for scope in scopes}
    marks = {scope: store.mark(scope) for scope in scopes}
    changelog: dict[int, list[Message]] = {p: [] for p in range(4)}
    for message in read_all(context, context.topics.state("count", "contact")):
        changelog[message.partition() or 0].append(message)
    for scope in scopes:
        mark = marks[scope]
        upto = mark.changelog if mark else 0
        assert counted[scope] == {m.key(): m.value() for m in changelog[scope[1]] if (m.offset() or 0) < upto}
    restorer = Restorer(context.kafka, "test", store)
    restorer.restore({scope: context.topics.state("count", "contact") for scope in scopes})
    for scope in scopes:
        assert dict(store.scan(scope)) == {m.key(): m.value() for m in changelog[scope[1]]}
    store.close()


def test_lost_local_state_is_restored_from_the_changelog(make: Make) -> None:
    context = make()
    send(context, 3)
    assert spawn(context, 120).wait(DEADLINE_S) == 0
    shutil.rmtree(context.data)
    send(context, 3, first=3)
    assert spawn(context, 240).wait(DEADLINE_S) == 0
    assert outputs(context) == expected(6)


class Aborting:
    """A transaction that fails in the middle, as often as it is told."""

    def __init__(self, engine: Engine, times: int) -> None:
        self._commit = engine._transaction.commit
        self._left = times
        engine._transaction.commit = self  # type: ignore[method-assign]

    def __call__(self) -> None:
        if self._left:
            self._left -= 1
            raise Retry("the test wants an abort")
        self._commit()


def test_an_aborted_batch_is_taken_again_in_every_partition(make: Make) -> None:
    context = make()
    stage = Counting(context)
    engine = Engine(context, stage, most=70)
    Aborting(engine, 3)
    send(context, 5)
    drain(engine, total(context, 5))
    engine.close()
    assert outputs(context) == expected(5)
    assert stage.forgotten >= 3


def test_a_producer_that_was_fenced_is_fatal(make: Make) -> None:
    context = make()
    engine = Engine(context, Counting(context))
    until(lambda: engine.partitions, lambda: engine.step(0.1))
    usurper = context.kafka.producer(
        "usurper",
        transactional_id=f"{context.config.prefix}count-0",
        transaction_timeout_ms=30_000,
        message_timeout_ms=20_000,
    )
    usurper.init_transactions(10)
    send(context, 1)
    with pytest.raises(Fatal):
        until(lambda: False, lambda: engine.step(0.1))
    engine.close()


def test_a_message_that_raises_goes_to_the_dead_letters_and_the_others_go_on(make: Make) -> None:
    context = make()
    producer = context.kafka.producer("test-load")
    for value in (b"0", b"poison", b"1"):
        producer.produce(context.topics.journal("contact"), value, b"key0")
    flush(producer)
    engine = Engine(context, Counting(context))
    drain(engine, lambda: outputs(context).get(b"key0") == [b"1 0", b"2 1"])
    engine.close()
    (letter,) = read_all(context, context.topics.dlq("count", "hub", "contact"))
    assert (letter.key(), letter.value()) == (b"key0", b"poison")


def refuse(_batch: list[Message]) -> None:
    """Be a stage with a bug."""
    raise TypeError("a bug")


def dead(context: Context) -> list[Message]:
    """Return the dead letters of the counting stage."""
    return read_all(context, context.topics.dlq("count", "hub", "contact"))


def committed(context: Context) -> int:
    """Return how many messages the group has been told are done."""
    group = context.kafka.consumer("progress", f"{context.config.prefix}count")
    try:
        parts = [TopicPartition(context.topics.journal("contact"), p) for p in range(PARTITIONS)]
        return sum(max(p.offset, 0) for p in group.committed(parts, 30))
    finally:
        group.close()


def test_a_stage_that_takes_nothing_is_fatal_and_commits_nothing_of_that_batch(make: Make) -> None:
    context = make()
    stage = Counting(context)
    stage.before = refuse
    engine = Engine(context, stage)
    Together(engine._reader).wanted = 200
    send(context, 5)
    with pytest.raises(Fatal, match="on 100 messages in a row"):
        until(lambda: False, lambda: engine.step(0.1))
    engine.close()
    assert dead(context) == []
    assert committed(context) == 0


def test_a_stage_that_takes_nothing_in_many_batches_is_fatal_and_commits_only_dead_letters(make: Make) -> None:
    context = make()
    stage = Counting(context)
    stage.before = refuse
    most = 30
    engine = Engine(context, stage, most=most)
    send(context, 5)
    with pytest.raises(Fatal, match="on 100 messages in a row"):
        until(lambda: False, lambda: engine.step(0.1))
    engine.close()
    letters = dead(context)
    assert BAD_RUN - most <= len(letters) < BAD_RUN
    assert committed(context) == len(letters)
    assert outputs(context) == {}


def test_messages_that_come_again_after_an_abort_are_not_counted_twice_as_bad(make: Make) -> None:
    context = make()
    stage = Counting(context)
    stage.before = refuse
    engine = Engine(context, stage)
    Together(engine._reader).wanted = 40
    Aborting(engine, 3)
    send(context, 1)
    until(lambda: dead(context), lambda: engine.step(0.1))
    engine.close()
    assert len(dead(context)) == committed(context) == 40


def test_partitions_move_between_workers_with_their_state(make: Make) -> None:
    first, second = make(0), make(1)
    send(first, 3)
    engine = Engine(first, Counting(first), most=30)
    drain(engine, total(first, 1))
    other = Engine(second, Counting(second), most=30)

    def both() -> None:
        engine.step(0.05)
        other.step(0.05)

    until(lambda: len(engine.partitions) == 2 and len(other.partitions) == 2, both)
    send(first, 3, first=3)
    until(total(first, 6), both)
    engine.close()
    other.close()
    assert outputs(first) == expected(6)


def test_state_older_than_deletes_are_kept_is_thrown_away(make: Make) -> None:
    context = make()
    send(context, 1)
    assert spawn(context, 40).wait(DEADLINE_S) == 0
    store = Store(context.data)
    scope = (context.topics.journal("contact"), 0)
    mark = store.mark(scope)
    assert mark is not None
    store.write({scope: {b"zombie": b"1"}}, {scope: Mark(mark.changelog, mark.input, mark.at - 90_000, mark.topic_id)})
    Restorer(context.kafka, "test", store).restore({scope: context.topics.state("count", "contact")})
    assert store.get(scope, b"zombie") is None
    assert dict(store.scan(scope))
    store.close()
