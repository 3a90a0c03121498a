"""The marks at the end of first seeds, by every kind of capture: behind all that was read, given once for all, and never too early."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producers.outbox import OutboxProducer
from producers.polling import PollingProducer
from producers.rowhash import RowhashProducer
from tests.captures import SYSTEM, Rig, config_of, sql, until
from tests.integration.pgsource import CONTACT, Topic, World, step_until
from tests.integration.test_postgres_restart import crash
from tidelock.embedded import Stack

pytestmark = pytest.mark.stack

THIRTY = CONTACT + "; insert into contact (id) select generate_series(1, 30)"
NEVER = "0 0 1 1 *"
PERSON = "create table person (id int primary key, name text, modified timestamptz default '2024-01-01')"


def rows_before_marks(topic: Topic) -> int:
    """Return how many changes there are; fail if one stands behind the last mark of its partition."""
    end = {m.partition(): m.offset() for m in topic.everything() if m.key() is None}
    rows = topic.messages()
    assert all(m.offset() < end[m.partition()] for m in rows)
    return len(rows)


def test_replication_marks_every_partition_behind_the_last_row_of_a_first_seed(world: Callable[..., World]) -> None:
    w = world(THIRTY, seed=True, options={"seed_chunk_rows": 4})
    producer, topic = w.capture(contact=None)
    assert topic.marks() == []
    step_until(producer, lambda: not producer._seeds.jobs)
    assert topic.marks() == [0, 1, 2, 3]
    assert rows_before_marks(topic) == 30
    producer.settle()
    producer.close()
    again = w.producer(topic.context)
    again.setup()
    assert not again._seeds.jobs
    assert len(topic.marks()) == 4


def test_a_crash_before_the_end_of_a_seed_marks_nothing_and_the_next_start_does(world: Callable[..., World]) -> None:
    w = world(
        CONTACT + "; insert into contact (id) select generate_series(1, 5000)", seed=True, options={"seed_chunk_rows": 5}
    )  # fmt: skip
    producer, topic = w.capture(contact=None)
    step_until(producer, lambda: producer._seeds.jobs["contact"].after is not None)
    crash(producer)
    assert topic.marks() == []
    again = w.producer(topic.context)
    again.setup()
    step_until(again, lambda: not again._seeds.jobs)
    assert topic.marks() == [0, 1, 2, 3]
    assert rows_before_marks(topic) >= 5000


def test_a_mark_is_not_lost_with_the_record_that_it_was_given(world: Callable[..., World]) -> None:
    w = world(THIRTY, seed=True)
    producer, topic = w.capture(contact=None)
    step_until(producer, lambda: not producer._seeds.jobs)
    crash(producer)  # the seed's record says still that it runs
    again = w.producer(topic.context)
    again.setup()
    assert again._marks.given("contact")
    step_until(again, lambda: not again._seeds.jobs)
    assert set(topic.marks()) == {0, 1, 2, 3}


def test_a_seed_with_a_condition_is_no_first_seed(world: Callable[..., World]) -> None:
    w = world(THIRTY, seed=True, options={"seed_chunk_rows": 4})
    producer, topic = w.capture(contact=None)
    assert producer.seed("contact", where="id <= 10") > 0
    assert len({c.native_key for c in topic.changes()}) == 30  # the first one has begun again behind it
    assert set(topic.marks()) == {0, 1, 2, 3}
    assert rows_before_marks(topic) >= 30


def test_a_system_that_is_not_seeded_on_start_is_waited_for_by_nobody(world: Callable[..., World]) -> None:
    w = world(THIRTY)
    producer, topic = w.capture(contact=None)
    assert topic.marks() == [0, 1, 2, 3]
    assert producer.seed("contact", where="id <= 10") == 10
    assert len(topic.changes()) == 10
    assert len(topic.marks()) == 4


def test_a_seed_that_fails_marks_nothing_and_the_alert_says_what_it_holds_up(world: Callable[..., World]) -> None:
    w = world(THIRTY, seed=True)
    producer, topic = w.capture(contact=None)
    w.db.execute("alter table contact rename to hidden")
    step_until(producer, lambda: "contact" in producer._seeds.failed)
    producer._publisher.flush()
    assert topic.marks() == []
    (alert,) = Topic(topic.context, topic.context.topics.ops("alerts")).messages()
    said = topic.context.codec.decode(alert.value())
    assert said["kind"] == "seed_failed"
    assert "nothing is created there" in said["hint"]
    assert "tidelock seed crm contact" in said["hint"]
    w.db.execute("alter table hidden rename to contact")
    assert producer.seed("contact") == 30
    assert topic.marks() == [0, 1, 2, 3]


def test_a_seed_done_by_an_earlier_version_is_marked_at_the_next_start(world: Callable[..., World]) -> None:
    w = world(THIRTY)
    context = w.context(contact=None)
    topic = Topic(context, context.topics.cdc("crm", "contact"))
    old = w.producer(context)
    old._publisher.signal("seed/crm/contact", {"state": "failed", "id": "x", "where": None})
    old._publisher.flush()
    w.options["seed_on_start"] = True
    failed = w.producer(w.context(contact=None))
    failed.setup()
    assert topic.marks() == []
    failed._publisher.signal("seed/crm/contact", {"state": "done", "id": "x", "where": None})
    failed.close()
    done = w.producer(w.context(contact=None))
    done.setup()
    assert topic.marks() == [0, 1, 2, 3]
    assert not done._seeds.jobs


# ---------------------------------------------------------------------------------------------- captures that read


Make = Callable[..., tuple[Rig, Any]]


@pytest.fixture
def reading(stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of a capture of 25 rows; called again it restarts it."""
    dsn = database("reading")
    sql(dsn, PERSON, "insert into person select i, 'n' from generate_series(1, 25) i")
    kinds: dict[str, Any] = {"polling": PollingProducer, "rowhash": RowhashProducer, "outbox": OutboxProducer}
    made: list[Any] = []

    def make(kind: str, table: dict[str, Any] | None = None, **options: Any) -> tuple[Rig, Any]:
        spec = {"table": "person", **(table or {})}
        config = config_of(kind, dsn, spec, prefix=topic_prefix, data=tmp_path, batch=10, options=options)
        if kind == "outbox":
            OutboxProducer.execute(config, SYSTEM, OutboxProducer.script(config, SYSTEM))
        for one in made:
            one.close()
        rig = Rig(stack, config)
        producer = kinds[kind](rig.context, SYSTEM)
        made.extend((producer, rig))
        producer.setup()
        return rig, producer

    yield make
    for one in made:
        one.close()


POLLED = {"modified": "modified", "every_s": 0.001, "overlap_schedule": NEVER}


@pytest.mark.parametrize(("kind", "table"), [("polling", POLLED), ("rowhash", {"every_s": 0.001})])
def test_a_first_reading_is_marked_at_its_end_whether_or_not_there_is_a_seed(
    reading: Make, kind: str, table: dict[str, Any]
) -> None:
    rig, producer = reading(kind, table)
    assert producer.step(0.0) > 0
    assert rig.marks() == []
    until(lambda: producer.step(0.0), lambda: bool(rig.marks()))
    assert rig.marks() == [0, 1]
    assert len(rig.changes()) == 25
    rig, producer = reading(kind, table)
    sql(rig.config.systems[SYSTEM].dsn.get_secret_value(), "insert into person values (99, 'late', '2025-01-01')")  # type: ignore[union-attr]
    until(lambda: producer.step(0.0), lambda: len(rig.changes()) == 26)
    assert rig.marks() == [0, 1]


def test_a_seed_before_a_nightly_reading_is_marked(reading: Make) -> None:
    rig, producer = reading("polling", POLLED | {"schedule": NEVER})
    assert producer.step(0.0) == 0
    assert rig.marks() == []
    rig.ask_seed()
    until(lambda: producer.step(0.05), lambda: rig.seeds()[-1:] == ["done"])
    assert rig.marks() == [0, 1]


def test_the_queue_table_marks_the_end_of_its_first_seed(reading: Make) -> None:
    rig, producer = reading("outbox", seed_on_start=True)
    assert producer.step(0.0) == 10
    rig, producer = reading("outbox", seed_on_start=True)
    assert rig.marks() == []
    until(lambda: producer.step(0.05), lambda: rig.seeds()[-1] == "done")
    assert rig.marks() == [0, 1]
    rig.ask_seed("id > 20")
    until(lambda: producer.step(0.05), lambda: len(rig.changes()) == 30)
    until(lambda: producer.step(0.05), lambda: rig.seeds()[-1] == "done")
    assert rig.marks() == [0, 1]


def test_the_queue_table_starts_its_first_seed_again_behind_one_with_a_condition(reading: Make) -> None:
    rig, producer = reading("outbox", seed_on_start=True)
    rig.ask_seed("id > 20")
    until(lambda: producer.step(0.05), lambda: bool(rig.marks()))
    assert {c.native_key for c in rig.changes()} == {str(n) for n in range(1, 26)}
    (record,) = [json.loads(v) for k, v in rig.messages(rig.context.topics.ops("signals")) if k.startswith(b"seeded/")]
    assert record["why"] == "seed"


def test_a_queue_table_that_is_not_seeded_on_start_is_waited_for_by_nobody(reading: Make) -> None:
    rig, _ = reading("outbox", seed_on_start=False)
    assert rig.marks() == [0, 1]
    assert rig.changes() == []
