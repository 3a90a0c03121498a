"""Capture by logical replication: crashes, lost slots, broken connections, seeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaError, Message

from producers.chunks import OPEN_CHUNKS
from producers.postgres import PostgresProducer
from tests.integration.pgsource import CONTACT, Topic, World, fold, step_changes, step_until
from tests.patience import DEADLINE_S
from tidelock.change import SNAPSHOT, ZERO_POSITION, value_position
from tidelock.errors import Fatal, Retry


def drop_slot(w: World, slot: str) -> None:
    """Drop a slot as soon as the server has noticed that nobody reads it any more."""
    end = time.monotonic() + DEADLINE_S
    while w.db.execute("select 1 from pg_replication_slots where slot_name = %s and active", (slot,)).fetchone():
        assert time.monotonic() < end, "the slot stays in use"
    w.db.execute("select pg_drop_replication_slot(%s)", (slot,))


def crash(producer: PostgresProducer) -> None:
    """End a producer as SIGKILL would: what Kafka has not got is lost, and nobody is told anything."""
    producer._publisher.producer.purge()
    assert producer._sender is not None
    producer._sender.close()
    producer._sender = producer._stream = None


def break_stream(w: World) -> bool:
    """End the session that reads the slot; return whether there was one."""
    ended = w.db.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots"
        " where database = current_database() and active_pid is not null"
    )
    return bool(ended.fetchall())


def after_each_chunk(producer: PostgresProducer, act: Callable[[int], None]) -> None:
    """Do something whenever a chunk of a seed with rows in it has been published, in the middle of the step; it is told how many were."""
    original = producer._seeds.watermark
    published = 0

    def watermark(*args: Any) -> int:
        nonlocal published
        rows = original(*args)
        if rows:
            published += 1
            act(published)
        return rows

    producer._seeds.watermark = watermark  # type: ignore[assignment, method-assign]


def test_a_crash_loses_nothing_and_repeats_only_known_positions(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    context = w.context(contact=None)
    topic = Topic(context, context.topics.cdc("crm", "contact"))
    for start in range(0, 600, 200):
        producer = w.producer(context)
        producer.setup()
        w.db.execute(f"insert into contact (id) select generate_series({start}, {start + 199})".encode())
        step_until(producer, lambda p=producer: p._context.activity.totals["captured"] > 0)  # type: ignore[misc]
        context.activity.totals.clear()
        crash(producer)
    last = w.producer(context)
    last.setup()
    w.db.execute("insert into contact (id) values (9999)")
    step_until(last, lambda: "9999" in {c.native_key for c in topic.changes()})
    changes = topic.changes()
    assert {c.native_key for c in changes} == {*map(str, range(600)), "9999"}
    by_position: dict[bytes, set[tuple[str, bytes]]] = {}
    for c in changes:
        by_position.setdefault(c.position, set()).add((c.native_key, c.event_id))
    assert all(len(names) == 1 for names in by_position.values())
    assert len(by_position) == 601


def test_the_server_is_told_and_a_quiet_table_does_not_hold_the_log(world: Callable[..., World]) -> None:
    w = world(CONTACT + "; create table noise (n int)")
    producer, _ = w.capture(contact=None)

    def behind() -> int:
        found = w.db.execute(
            "select pg_current_wal_lsn() - confirmed_flush_lsn from pg_replication_slots where slot_name = %s",
            (producer.slot,),
        ).fetchone()
        assert found is not None
        return int(found[0])

    w.db.execute("insert into contact (id) values (1)")
    step_changes(producer, 1)
    w.db.execute("insert into noise select generate_series(1, 20000)")
    assert behind() > 1_000_000
    step_until(producer, lambda: behind() < 100_000)


def test_the_connection_may_break_at_any_time(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    for n in range(3):
        w.db.execute("insert into contact (id) values (%s)", (n,))
        step_until(producer, lambda n=n: str(n) in {c.native_key for c in topic.changes()})  # type: ignore[misc]
        w.db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
    w.db.execute("insert into contact (id) values (99)")
    step_until(producer, lambda: "99" in {c.native_key for c in topic.changes()})
    assert {c.native_key for c in topic.changes()} == {"0", "1", "2", "99"}


def test_s12_a_lost_slot_is_reported_and_never_silently_made_anew(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    w.db.execute("insert into contact (id) values (1)")
    step_changes(producer, 1)
    slot = producer.slot
    producer.close()
    drop_slot(w, slot)
    w.db.execute("insert into contact (id) values (2)")  # nobody will ever see this in the log
    again = w.producer(topic.context)
    with pytest.raises(Fatal, match=r"is gone; it had been read up to .*(\n|.)*--recreate-slot"):
        again.setup()
    w.db.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    with pytest.raises(Fatal, match="recreated or read by somebody else"):
        w.producer(topic.context).setup()
    asked = w.producer(topic.context)  # what `tidelock seed --recreate-slot` does, in a process of its own
    asked.recreate_slot()
    asked.close()
    mended = w.producer(topic.context)
    mended.setup()
    assert mended._seeds.jobs
    mended.step(0.0)
    crash(mended)  # the word must outlive whoever has taken it
    mended = w.producer(topic.context)
    mended.setup()
    step_until(mended, lambda: not mended._seeds.jobs)
    mended.settle()
    assert set(fold(topic)) == {"1", "2"}
    mended.close()
    w.producer(topic.context).setup()


def test_another_or_an_older_server_is_noticed(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    recorded = producer._recorded
    assert recorded is not None
    for change, words in (({"server": "123"}, "another server"), ({"lsn": 2**62}, "set back")):
        producer._publisher.signal("slot/crm", {**recorded, **change})
        producer._publisher.flush()
        with pytest.raises(Fatal, match=words):
            w.producer(topic.context).setup()


@pytest.mark.parametrize("broken", [False, True], ids=["steady", "connection breaking"])
def test_seeding_under_concurrent_writes_hands_over_without_gap(world: Callable[..., World], broken: bool) -> None:
    w = world(
        "create table contact (id int, part text, name text, notes text, primary key (part, id));"
        "alter table contact alter notes set storage external;"
        "insert into contact select g, 'p' || g % 3, 'n' || g, repeat('x', 2500) || g from generate_series(1, 2000) g",
        seed=True,
        options={"seed_chunk_rows": 100},
    )
    stop = threading.Event()
    breaks: list[int] = []  # chunks that were published when the connection broke

    def write() -> None:
        with psycopg.connect(w.dsn, autocommit=True) as db:
            n = 0
            while not stop.is_set():
                n += 1
                db.execute("update contact set name = %s where id %% 97 = %s", (f"w{n}", n % 97))
                db.execute("delete from contact where id = %s", (n * 7 % 2000,))
                db.execute("insert into contact values (%s, 'new', 'fresh', 'small')", (10_000 + n,))
                db.execute("update contact set id = -id where id = %s and part <> 'new'", (n * 11 % 2000,))

    writer = threading.Thread(target=write)
    producer, topic = w.capture(contact={"key": ["part", "id"]})

    def breaking(published: int) -> None:
        if published % 2 == 0 and len(breaks) < 5 and break_stream(w):
            breaks.append(published)

    if broken:
        after_each_chunk(producer, breaking)
    writer.start()
    try:
        step_until(producer, lambda: not producer._seeds.jobs)
    finally:
        stop.set()
        writer.join()
    assert len(breaks) == (5 if broken else 0)
    w.db.execute("insert into contact values (0, 'end', 'end', 'end')")
    step_until(producer, lambda: any(c.native_key == "end|0" for c in topic.changes()))
    step_until(producer, lambda: not producer._seeds.jobs)
    producer.settle()
    if not broken:  # without repetitions, a snapshot row never comes after a newer change of its key
        last: dict[bytes, bytes] = {}
        for message in topic.messages():
            at = value_position(message.value())
            assert at > last.get(message.key(), ZERO_POSITION)
            last[message.key()] = at
    wanted = w.db.execute("select id, part, name, notes from contact").fetchall()
    assert fold(topic) == {
        f"{part}|{number}": {"id": number, "part": part, "name": name, "notes": notes}
        for number, part, name, notes in wanted
    }


def test_a_seed_goes_on_though_the_connection_breaks_after_every_chunk(world: Callable[..., World]) -> None:
    w = world(
        CONTACT + "; insert into contact (id) select generate_series(1, 500)",
        seed=True,
        options={"seed_chunk_rows": 50},
    )
    producer, topic = w.capture(contact=None)

    def breaks(_published: int) -> None:
        raise Retry("the test breaks the connection here")

    after_each_chunk(producer, breaks)
    step_until(producer, lambda: not producer._seeds.jobs)
    producer.settle()
    assert len(topic.messages()) == 500  # no chunk was read twice
    assert set(fold(topic)) == set(map(str, range(1, 501)))
    again = w.producer(topic.context)
    again.setup()
    assert not again._seeds.jobs


@pytest.mark.parametrize("trouble", ["a message was not delivered", "nothing is acknowledged"])
def test_what_kafka_may_not_have_is_read_again_when_the_connection_breaks(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    w = world(
        CONTACT + "; insert into contact (id) select generate_series(1, 100)",
        seed=True,
        options={"seed_chunk_rows": 50},
    )
    producer, topic = w.capture(contact=None)
    publisher = producer._publisher

    def silent(_timeout_s: float = 0.0) -> None:
        raise Retry("Kafka did not acknowledge")

    def breaks(published: int) -> None:
        if published == 1:
            if trouble == "nothing is acknowledged":
                monkeypatch.setattr(publisher, "flush", silent)
            else:
                publisher._delivered(KafkaError(KafkaError._MSG_TIMED_OUT), Message(topic=topic.name))
            raise Retry("the test breaks the connection here")

    after_each_chunk(producer, breaks)
    end = time.monotonic() + DEADLINE_S
    with pytest.raises(Retry, match="the test breaks"):
        while time.monotonic() < end:
            producer.step(0.05)
    monkeypatch.undo()
    assert producer._seeds.jobs["contact"].after is None
    step_until(producer, lambda: not producer._seeds.jobs)
    producer.settle()
    assert len(topic.messages()) == 150  # the first chunk twice
    assert set(fold(topic)) == set(map(str, range(1, 101)))


def test_a_row_to_be_read_again_is_written_down_before_the_server_is_told(world: Callable[..., World]) -> None:
    w = world(
        "create table contact (id int primary key, notes text); alter table contact alter notes set storage external;"
        "insert into contact select g, repeat('x', 2500) || g from generate_series(1, 100) g",
        seed=True,
        options={"seed_chunk_rows": 50},
    )
    producer, topic = w.capture(contact=None)
    seeds = producer._seeds
    job = seeds.jobs["contact"]
    seeds.take_records()
    seeds.again(job.table, job.spec, b"7")
    (record,) = seeds.take_records().values()
    assert record["again"] == ["7"]
    assert topic.messages() == []


def test_a_seed_is_resumed_where_it_was_interrupted(world: Callable[..., World]) -> None:
    rows, chunk = 2000, 50
    w = world(
        CONTACT + f"; insert into contact (id) select generate_series(1, {rows})",
        seed=True,
        options={"seed_chunk_rows": chunk},
    )
    producer, topic = w.capture(contact=None)
    # The reader goes on only when a chunk of its has been published. Without that it stops after those that it may read ahead.
    producer._seeds.jobs["contact"].room.release = lambda n=1: None  # type: ignore[method-assign]
    step_until(producer, lambda: bool(producer._seeds._safe["contact"].get("after")))
    producer._publisher.flush()
    crash(producer)
    before = {c.native_key for c in topic.changes()}
    assert chunk <= len(before) <= OPEN_CHUNKS * chunk
    again = w.producer(topic.context)
    again.setup()
    after = again._seeds.jobs["contact"].after
    assert after is not None
    assert chunk <= int(after[0]) <= len(before)
    step_until(again, lambda: not again._seeds.jobs)
    again.settle()
    assert set(fold(topic)) == set(map(str, range(1, rows + 1)))
    assert len(topic.messages()) == rows + len(before) - int(after[0])  # what was safe is not read again
    done = [
        m
        for m in Topic(topic.context, topic.context.topics.ops("signals")).messages()
        if m.key() == b"seed/crm/contact"
    ]
    assert b'"state":"done"' in done[-1].value()
    third = w.producer(topic.context)
    third.setup()
    assert not third._seeds.jobs


def test_a_seed_is_asked_for_by_call_or_by_signal(world: Callable[..., World]) -> None:
    w = world(CONTACT + "; insert into contact (id) select generate_series(1, 30)", options={"seed_chunk_rows": 10})
    producer, topic = w.capture(contact=None)
    seen: list[tuple[str, int, int | None]] = []
    assert producer.seed("contact", where="id <= 25", progress=lambda *a: seen.append(a)) == 25
    assert seen[-1][:2] == ("contact", 25)
    assert len(topic.changes()) == 25
    request = {"kind": "seed", "system": "crm", "entity": "contact", "where": "id > 25", "id": "r1"}
    producer._publisher.signal("seed-request/r1", request)
    step_until(producer, lambda: len(topic.changes()) == 30)
    assert {c.op for c in topic.changes()} == {SNAPSHOT}
    with pytest.raises(Fatal, match="column"):
        producer.seed("contact", where="nonsense > 1")
    w.db.execute("insert into contact (id) values (99)")  # a seed that fails does not stop capture
    step_changes(producer, 1)
