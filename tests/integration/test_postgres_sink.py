"""The sink for PostgreSQL and its worker, on real servers: writes, receipts, and every way of going wrong."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import TopicPartition

from processors.merge import PASSING
from sinks.base import Done, Kept, Lost
from sinks.postgres import PostgresSink
from sinks.store import StoreSink
from tests.patience import DEADLINE_S
from tests.sinking import ENTITY, PARTITIONS, SYSTEM, TABLES, Rig, config_of, encoded, record, write
from tidelock.change import ZERO_POSITION, position
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.errors import Fatal, Retry
from tidelock.kafka import ensure_topics
from tidelock.topology import all_topics

pytestmark = pytest.mark.stack

Make = Callable[..., Rig]


@pytest.fixture
def make(stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of rigs: a database with tables, and its topics."""
    made: list[Rig] = []

    def rig(capture: str = "none", sql: str = TABLES, **more: Any) -> Rig:
        dsn = database("sink")
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(sql.encode())
        prefix = f"{topic_prefix[:-1]}-{len(made)}."
        made.append(Rig(stack, config_of(dsn, capture, prefix=prefix, data=tmp_path, **more)))
        return made[-1]

    yield rig
    for one in made:
        one.close()


KEYED = {
    "table": "contact",
    "key": ["email"],
    "key_from": "email",
    "map": [{"column": c, "field": c} for c in ("email", "name", "score", "born")],
}


def keyed(rig_of: Make, capture: str = "none", **more: Any) -> Rig:
    """Make a rig whose contacts are keyed by e-mail."""
    sql = "create table contact (email text primary key, name varchar(20), score integer, born date, untouched text default 'kept')"
    return rig_of(capture, sql, entities={"contact": KEYED}, **more)


# ---------------------------------------------------------------------------------------------------- where nobody else writes


def test_creates_updates_and_deletes_arrive_with_receipts_and_audit(make: Make) -> None:
    rig = keyed(make)
    rig.send(
        write("a", "create", email="a@x", name="Anna", score=3, born=7000),
        write("far b", "create", email="b@x", name='q"\\{},', score=None),
    )
    rig.run(2)
    rig.send(write("a", "update", "a@x", 2, name=None, score=-9), write("far b", "delete", "b@x", 2))
    rig.run(2)
    assert rig.sql("select email, name, score, born::text, untouched from contact") == [
        ("a@x", None, -9, "1989-03-02", "kept")
    ]
    receipts = rig.receipts()
    assert [(r["version"], r["outcome"], r["native_key"]) for r in receipts if r["canonical_id"] == record("a")] == [
        (1, "applied", "a@x"),
        (2, "applied", "a@x"),
    ]
    assert {r["native_key"] for r in receipts} == {"a@x", "b@x"}
    assert all(r["pack"] == ZERO_POSITION and not r["values"] for r in receipts)
    assert rig.audited() == ["applied"] * 4


def test_an_upsert_leaves_columns_alone_that_it_does_not_name(make: Make) -> None:
    rig = keyed(make)
    rig.sql("insert into contact values ('a@x', 'Anna', 1, null, 'mine')")
    rig.send(write("a", "create", email="a@x", score=5))
    rig.run(1)
    assert rig.sql("select name, score, untouched from contact") == [("Anna", 5, "mine")]


def test_many_sets_of_columns_are_written_by_few_statements(make: Make) -> None:
    rig = keyed(make)
    sets: list[dict[str, Any]] = [
        {"name": "n"},
        {"score": 1},
        {"born": 1},
        {"name": "n", "score": 1},
        {"name": "n", "born": 1},
    ]
    sets += [
        {"score": 1, "born": 1},
        {"name": "n", "score": 1, "born": 1},
        {"born": 2, "name": "n"},
        {"born": 2, "score": 1},
        {"score": 2, "name": "n"},
    ]
    rig.sql("insert into contact select i || '@x', 'old', 100, null, 'mine' from generate_series(0, 4) i")
    rig.send(*(write(i, "create", email=f"{i}@x", **columns) for i, columns in enumerate(sets)))
    rig.run(len(sets))
    rows = rig.sql("select email, name, score, (born - date '1970-01-01')::int, untouched from contact order by email")
    for i, (columns, row) in enumerate(zip(sets, rows, strict=True)):
        old = {"name": "old", "score": 100, "born": None} if i < 5 else {"name": None, "score": None, "born": None}
        wanted = {**old, **columns}
        assert row == (f"{i}@x", wanted["name"], wanted["score"], wanted["born"], "mine" if i < 5 else "kept")
    rig.send(*(write(i, "update", f"{i}@x", 2, **columns) for i, columns in enumerate(sets)))
    rig.run(len(sets))
    assert [r["outcome"] for r in rig.receipts()] == ["applied"] * 20


def test_an_update_of_a_row_that_is_not_there_is_missing(make: Make) -> None:
    rig = keyed(make)
    rig.send(write("a", "create", email="a@x"), write("b", "update", "b@x", name="B"))
    rig.run(2)
    assert rig.receipt("b")["outcome"] == "missing"
    assert rig.receipt("a")["outcome"] == "applied"


def test_several_writes_to_one_record_become_one_and_all_are_answered(make: Make) -> None:
    rig = keyed(make)
    first = write("a", "create", email="a@x", name="one", score=1)
    rig.send(first, write("a", "update", "a@x", 2, name="two"), write("a", "update", "a@x", 3, score=3))
    rig.run(3)
    assert rig.sql("select name, score from contact") == [("two", 3)]
    assert [(r["version"], r["outcome"]) for r in rig.receipts()] == [(1, "stale"), (2, "stale"), (3, "applied")]
    rig.send(write("a", "delete", "a@x", 4), write("a", "create", None, 5, email="a@x", name="again"))
    rig.run(2)
    assert rig.sql("select name, score from contact") == [("again", None)]


def test_a_poison_record_is_a_dead_letter_and_the_rest_of_its_batch_arrives(make: Make) -> None:
    rig = keyed(make)
    good = [write(i, "create", email=f"{i}@x", name="fits", score=i) for i in range(40)]
    bad = write("bad", "create", email="bad@x", name="far too long for that column")
    raw = encoded(rig.codec, bad)
    rig.send(*good[:20])
    rig.send_raw(raw, bad.canonical_id.encode(), headers=[("traceparent", b"00-x"), ("dlq.attempts", b"4")])
    rig.send_raw(b"\x00\x00\x00\x00\x07garbage", b"key")
    rig.send_raw(b"not avro", b"key")
    rig.send(*good[20:])
    rig.run(43)
    assert rig.sql("select count(*) from contact") == [(40,)]
    receipt = rig.receipt("bad")
    assert (receipt["outcome"], receipt["kind"]) == ("rejected", "too_long")
    assert "character varying(20)" in receipt["message"]
    letters = {h["dlq.kind"]: (m, h) for m, h in rig.dead()}
    assert set(letters) == {"too_long", "unknown_schema", "not_avro"} or set(letters) == {
        "too_long",
        "not_a_write",
        "not_avro",
    }
    message, headers = letters["too_long"]
    assert message.value() == raw
    assert message.key() == bad.canonical_id.encode()
    assert headers["traceparent"] == "00-x"
    assert headers["dlq.stage"] == "sink"
    assert headers["dlq.attempts"] == "5"
    assert headers["dlq.canonical_id"] == bad.canonical_id
    assert headers["dlq.trace"] == bad.event_id.hex()
    assert headers["dlq.origin"].startswith(f"{rig.context.topics.sync(SYSTEM, ENTITY)}-")
    assert int(headers["dlq.first_failed"]) <= int(headers["dlq.last_failed"])
    assert len(headers["dlq.fingerprint"]) == 16
    assert sorted(rig.audited()) == ["applied"] * 40 + ["rejected"]


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"name": "nul\x00"}, "nul_character"),
        ({"score": "many"}, "bad_value"),
        ({"score": 2**40}, "out_of_range"),
        ({"born": 10**9}, "date_out_of_range"),
    ],
)
def test_values_that_the_column_cannot_hold_are_rejected_by_kind(
    make: Make, columns: dict[str, Any], kind: str
) -> None:
    rig = keyed(make)
    rig.send(write("bad", "create", email="b@x", **columns), write("a", "create", email="a@x"))
    rig.run(2)
    assert rig.receipt("bad")["kind"] == kind
    assert rig.sql("select email from contact") == [("a@x",)]


def test_unique_values_swapped_in_one_batch_are_swapped(make: Make) -> None:
    rig = make()
    rig.sql("insert into contact (email) values ('a'), ('b')")
    rig.send(write("a", "update", 1, email="b"), write("b", "update", 2, email="a"))
    rig.run(2)
    assert rig.sql("select id, email from contact order by id") == [(1, "b"), (2, "a")]
    assert {r["outcome"] for r in rig.receipts()} == {"applied"}


# ---------------------------------------------------------------------------------------------------- crashes, outages, zombies


def crash(rig: Rig) -> None:
    """Let the worker die: its sessions end, nothing is finished."""
    worker = rig.worker
    assert worker is not None
    worker._said.clear()
    worker._outlet.producer.purge()
    worker._intake.close()
    worker._sink.close()
    for view in worker._views.values():
        view.close()
    rig.worker = None


class Stop(Exception):
    """The test stops a worker in the middle of a step."""


@pytest.mark.parametrize("capture", ["none", "polling"])
def test_a_crash_between_transaction_and_report_loses_and_doubles_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, capture: str
) -> None:
    rig = make(capture)
    rig.sql("insert into contact (email, name, score) values ('a@x', 'Anna', 1), ('b@x', 'Bea', 1)")
    rig.send(write("warm", "update", 2, score=(1, 1)))
    rig.run(1)
    worker = rig.worker
    assert worker is not None

    def die(*_args: object, **_more: object) -> None:
        raise Stop

    monkeypatch.setattr(worker, "_say", die)
    long = "much longer than the twenty characters"
    rig.send(
        write("a", "update", 1, 5, score=(2, 1)),
        write("n", "create", email="n@x"),
        write("bad", "update", 2, 6, name=(long, "Bea")),
    )
    with pytest.raises(Stop):
        rig.run(3)
    assert rig.sql("select score from contact where id = 1") == [(2,)]
    rig.sql("update contact set score = 50 where id = 1")  # a user's edit, which writing again would destroy
    assert {r["canonical_id"] for r in rig.receipts()} == {record("warm")}
    crash(rig)
    rig.start()
    rig.until(lambda _: len(rig.dead()) == 1)
    rig.send(write("after", "update", 2, 7, score=(9, 1)))
    rig.run(1)
    rows = rig.sql("select email, score, id from contact order by id")
    assert [row[:2] for row in rows] == [("a@x", 50), ("b@x", 9), ("n@x", None)]
    assert rig.receipt("a")["outcome"] == "applied"
    assert rig.receipt("a")["version"] == 5
    assert (rig.receipt("bad")["outcome"], rig.receipt("bad")["kind"]) == ("rejected", "too_long")
    if capture == "none":
        assert rig.receipt("n")["native_key"] == str(rows[2][2])
    else:
        assert len(rig.messages(rig.context.topics.identity(ENTITY))) == 1
        assert rig.receipt("a")["position"] > position(1)
    assert sorted(rig.audited()) == ["applied", "applied", "applied", "applied", "rejected"]


def test_a_crash_before_the_commit_leaves_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = keyed(make)
    rig.send(write("a", "create", email="a@x", score=1))
    rig.run(1)
    worker = rig.worker
    assert worker is not None

    def die(*_args: object) -> None:
        raise Stop

    monkeypatch.setattr(worker._sink, "commit", die)
    rig.send(write("a", "update", "a@x", 2, score=2))
    with pytest.raises(Stop):
        rig.run(1)
    crash(rig)
    assert rig.sql("select score from contact") == [(1,)]
    rig.run(1)
    assert rig.sql("select score from contact") == [(2,)]
    assert [r["version"] for r in rig.receipts()] == [1, 2]


def test_a_zombie_cannot_commit(make: Make) -> None:
    rig = keyed(make)
    rig.send(write("a", "create", email="a@x", score=1))
    rig.run(1)
    zombie = rig.worker
    assert zombie is not None
    other = PostgresSink(rig.fresh_context(1), SYSTEM)
    try:
        claimed = other.claim(
            f"{rig.config.prefix}sink.{SYSTEM}", {(rig.context.topics.sync(SYSTEM, ENTITY), 0): topic_id(rig)}
        )
        assert next(iter(claimed.values())).next == 1
    finally:
        other.close()
    rig.send(write("a", "update", "a@x", 2, score=2))
    rig.until(lambda _: zombie._breaker.failures > 0)
    assert rig.sql("select score from contact") == [(1,)]
    rig.run(1)  # it takes its partitions over again, as the group has not given them to anybody else
    assert rig.sql("select score from contact") == [(2,)]
    with pytest.raises(Lost, match="another worker"):
        other_commit(rig)


def other_commit(rig: Rig) -> None:
    """Commit as one who never took the partition over."""
    sink = PostgresSink(rig.fresh_context(1), SYSTEM)
    try:
        sink.write([write("a", "update", "a@x", 3, score=3)])
        sink.commit(Done({(rig.context.topics.sync(SYSTEM, ENTITY), 0): Kept(3, 2)}))
    finally:
        sink.close()


def topic_id(rig: Rig) -> str:
    """Return the id of the topic that the destination knows."""
    return str(rig.sql("select topic_id from tidelock.offsets limit 1")[0][0])


def test_a_topic_made_anew_is_read_from_its_beginning(make: Make) -> None:
    rig = keyed(make)
    rig.send(write("a", "create", email="a@x", score=1))
    rig.run(1)
    crash(rig)
    topic = rig.context.topics.sync(SYSTEM, ENTITY)
    admin = rig.clients.admin()
    admin.delete_topics([topic])[topic].result(DEADLINE_S)
    group = rig.clients.consumer("test", f"{rig.config.prefix}sink.{SYSTEM}")
    parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    end = time.monotonic() + DEADLINE_S
    while topic in admin.list_topics(timeout=30).topics or any(p.offset >= 0 for p in group.committed(parts, 30)):
        assert time.monotonic() < end, "Kafka keeps the topic, or the group's offsets in it"
    group.close()
    ensure_topics(admin, all_topics(rig.config))
    rig.send(write("a", "update", "a@x", 2, score=2))
    rig.run(1)
    assert rig.sql("select score from contact") == [(2,)]


def test_while_the_destination_is_away_nothing_is_dead_lettered(make: Make) -> None:
    rig = keyed(make)
    rig.send(write("a", "create", email="a@x", score=1))
    rig.run(1)
    name = rig.sql("select current_database()")[0][0]
    admin_dsn = rig.dsn.rsplit("/", 1)[0] + "/postgres"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f'alter database "{name}" allow_connections false'.encode())
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        rig.send(write("a", "update", "a@x", 2, score=2), write("b", "create", email="b@x"))
        worker = rig.worker
        assert worker is not None
        rig.until(lambda _: worker._breaker.failures >= 2)
        admin.execute(f'alter database "{name}" allow_connections true'.encode())
    rig.run(2)
    assert rig.sql("select email, score from contact order by email") == [("a@x", 2), ("b@x", None)]
    assert rig.dead() == []
    assert [r["outcome"] for r in rig.receipts()] == ["applied"] * 3


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", Retry),
        ("53300", Retry),
        ("57P01", Retry),
        ("25006", Retry),
        ("40P01", Retry),
        ("28P01", Fatal),
        ("42501", Fatal),
        ("42703", Fatal),
    ],
)
def test_an_outage_is_never_bad_data(make: Make, state: str, kind: type[Exception]) -> None:
    rig = make(sql=TABLES)
    rig.sql(
        f"create function fail() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '{state}'; end $$"
    )
    rig.sql("create trigger fail before insert on contact for each row execute function fail()")
    sink = PostgresSink(rig.context, SYSTEM)
    try:
        sink.setup()
        for batch in ([write("a", "create", email="a@x")], [write(i, "create", email=f"{i}@x") for i in range(3)]):
            with pytest.raises(kind):
                sink.write(batch)
            sink.abort()
    finally:
        sink.close()


def test_what_the_destination_does_not_know_is_fatal_with_the_way_out(make: Make) -> None:
    rig = make()
    sink = PostgresSink(rig.context, SYSTEM)
    try:
        sink.setup()
        with pytest.raises(Fatal, match="no column nowhere") as caught:
            sink.write([write("a", "create", nowhere="x")])
        assert "id, email, name" in str(caught.value.hint)
    finally:
        sink.close()
    password = config_of(rig.dsn.replace("tidelock:", "tidelock:not"), data=rig.config.data)
    wrong = PostgresSink(Context(password, rig.clients, rig.codec, "sink.erp"), SYSTEM)
    with pytest.raises(Fatal, match="password"):
        wrong.setup()


# ---------------------------------------------------------------------------------------------------- the store, references


def test_the_store_makes_its_tables_and_widens_them(make: Make) -> None:
    table = {"table": "golden.contact", "map": [{"column": c, "field": c} for c in ("email", "score")]}
    rig = make(sql="select 1", kind="store", entities={"contact": table}, options={"keep_deleted": True})
    rig.send(write("a", "create", email="a@x", score=3), write("b", "create", email="b@x", score=None))
    rig.run(2)
    rig.send(write("b", "delete", record("b"), 2))
    rig.run(1)
    assert rig.sql(
        "select canonical_id::text, email, score, version, deleted, updated_at > now() - interval '1 min' from golden.contact order by email"
    ) == [
        (record("a"), "a@x", 3, 1, False, True),
        (record("b"), "b@x", None, 2, True, True),
    ]
    assert rig.receipt("a")["native_key"] == record("a")
    more = {**table, "map": [{"column": c, "field": c} for c in ("email", "score", "born")]}
    wider = config_of(rig.dsn, prefix=rig.config.prefix, data=rig.config.data, kind="store", entities={"contact": more})
    sink = StoreSink(Context(wider, rig.clients, rig.codec, "sink.erp"), SYSTEM)
    try:
        sink.setup()
    finally:
        sink.close()
    assert rig.sql("select pg_typeof(born)::text from golden.contact limit 1") == [("date",)]


def test_references_are_resolved_to_the_keys_of_this_system(make: Make) -> None:
    rig = make("polling")
    rig.sql("insert into contact (email) values ('a@x')")
    links = rig.context.topics.links(ENTITY)
    for system, key in (("crm", "c-7"), (SYSTEM, "1")):
        link = {"canonical_id": record("a"), "system": system, "tenant": "default", "native_key": key, "through": 0}
        rig._producer.produce(links, rig.codec.encode("link", link), f"{system}/default/{key}".encode())
    rig._producer.flush(10)
    rig.send(
        write("o", "create", entity="order", number="1", contact_id="crm:c-7"),
        write("p", "create", entity="order", number="2", contact_id="crm:unknown"),
        write("q", "create", entity="order", number="3", contact_id="erp:1"),
    )
    rig.run(3)
    assert rig.sql("select number, contact_id from orders order by number") == [("1", 1), ("3", 1)]
    entries = [rig.codec.decode(m.value() or b"") for m in rig.messages(rig.context.topics.identity("order"))]
    items = {e["canonical_id"]: rig.codec.decode(e["payload"])["items"][0] for e in entries}
    assert (items[record("p")]["outcome"], items[record("p")]["kind"]) == ("rejected", "missing_parent")
    assert items[record("o")]["values"] == [{"name": "contact_id", "value": 1}]
    assert rig.dead("order") == []


def test_children_are_written_after_their_parents_in_one_batch(make: Make) -> None:
    rig = make()
    rig.send(write("o", "create", entity="order", number="1", contact_id="1"), write("a", "create", email="a@x"))
    rig.run(2)  # the order stands before the contact
    assert rig.sql("select contact_id from orders") == [(1,)]


def test_a_child_in_an_earlier_batch_than_its_parent_is_refused_for_a_reason_that_passes(make: Make) -> None:
    rig = make()
    child = write("o", "create", entity="order", number="1", contact_id="1")
    rig.send(child)
    rig.run(1)
    refused = rig.receipt("o", "order")
    assert (refused["outcome"], refused["kind"]) == ("rejected", "foreign_key")
    assert refused["kind"] in PASSING  # so merge asks for it again
    assert rig.dead("order") == []
    rig.send(write("a", "create", email="a@x"))
    rig.run(1)
    rig.send(dataclasses.replace(child, version=2))
    rig.run(1)
    assert rig.sql("select contact_id from orders") == [(1,)]
    assert [r["outcome"] for r in rig.receipts("order")] == ["rejected", "applied"]
