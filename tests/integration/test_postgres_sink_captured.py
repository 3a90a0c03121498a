"""The sink for PostgreSQL where people work too: base checks, landings by every way of capture, creates, unique values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from producers.outbox import OutboxProducer
from producers.pgoutput import read_message
from producers.stream import read_receipts
from tests.patience import DEADLINE_S
from tests.sinking import CONTACT, ENTITY, SYSTEM, TABLES, Rig, config_of, record, write
from tidelock.change import ZERO_POSITION, position
from tidelock.embedded import Stack
from tidelock.envelopes import Receipts

pytestmark = pytest.mark.stack

Make = Callable[..., Rig]
SEED = "insert into contact (email, name, score, born) values ('a@x', 'Anna', 1, '2000-01-01'), ('b@x', 'Bea', 2, '2000-01-02')"


@pytest.fixture
def make(stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of rigs with two contacts in the destination."""
    made: list[Rig] = []

    def rig(capture: str, sql: str = TABLES + ";" + SEED, **more: Any) -> Rig:
        dsn = database("sink")
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(sql.encode())
        prefix = f"{topic_prefix[:-1]}-{len(made)}."
        config = config_of(dsn, capture, prefix=prefix, data=tmp_path, **more)
        if capture == "outbox":
            OutboxProducer.execute(config, SYSTEM, OutboxProducer.script(config, SYSTEM))
        made.append(Rig(stack, config))
        return made[-1]

    yield rig
    for one in made:
        one.close()


class Log:
    """What a capture by log sees, read by SQL; its slot lasts as long as its connection."""

    def __init__(self, rig: Rig) -> None:
        self._name = rig.config.prefix.replace("-", "_").rstrip(".")
        self._db = psycopg.connect(rig.dsn, autocommit=True)
        self._db.execute("create publication p for all tables")
        self._db.execute("select pg_create_logical_replication_slot(%s, 'pgoutput', true)", (self._name,))

    def read(self) -> list[tuple[str, bytes]]:
        """Return (kind, data) of all messages, and let go."""
        with self._db as db:
            rows = db.execute(
                "select data from pg_logical_slot_get_binary_changes(%s, null, null, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')",
                (self._name,),
            ).fetchall()
        return [(chr(r[0][0]), bytes(r[0])) for r in rows]


def logged(read: list[tuple[str, bytes]]) -> list[tuple[str, int, Receipts]]:
    """Return (entity, partition, pack) of all receipts in a log."""
    out = []
    for kind, data in read:
        if kind == "M" and (message := read_message(data, 1)).prefix == "tidelock.receipts":
            out += [(e, p, Receipts.decode(body, 0)) for e, p, body in read_receipts(message.content)]
    return out


def test_with_a_log_receipts_and_origin_travel_in_the_transaction_of_the_rows(make: Make) -> None:
    rig = make("replication")
    rig.send(write("warm", "update", 1, name=("Anna", "Anna")))
    rig.run(1)
    log = Log(rig)
    rig.send(
        write("a", "update", 1, 7, name=("Anne", "Anna")),
        write("new", "create", None, 3, email="n@x", name="New"),
        write("gone", "update", 99, 2, name=("x", "y")),
    )
    rig.run(3)
    read = log.read()
    kinds = "".join(k for k, _ in read)
    assert kinds.count("B") == kinds.count("C") == kinds.count("O") >= 1
    assert all(b"tidelock_" in data for kind, data in read if kind == "O")
    packs = logged(read)
    assert all(p.position == ZERO_POSITION for _, _, p in packs)
    by_record = {r.canonical_id: (entity, r) for entity, _, p in packs for r in p.items}
    entity, receipt = by_record[record("a")]
    assert (entity, receipt.version, receipt.outcome, receipt.native_key, receipt.values) == (ENTITY, 7, 0, "1", {})
    entity, receipt = by_record[record("new")]
    assert (entity, receipt.version, receipt.outcome, receipt.native_key) == (f"identity:{ENTITY}", 3, 0, "3")
    assert by_record[record("gone")][1].outcome == 2
    assert rig.receipts() == []
    assert sorted(rig.audited()) == ["applied", "applied", "applied", "missing"]


def test_a_column_that_somebody_changed_is_refused_and_the_others_land(make: Make) -> None:
    rig = make("polling")
    rig.send(
        write("a", "update", 1, name=("Anne", "Old"), score=(10, 1), born=(100, 10957)),
        write("b", "update", 2, name=("Bella", "Bea"), score=(2, 77)),
    )
    rig.run(2)
    assert rig.sql("select name, score, (born - date '1970-01-01')::int, untouched from contact order by id") == [
        ("Anna", 10, 100, "kept"),
        ("Bella", 2, 10958, "kept"),
    ]
    receipt = rig.receipt("a")
    assert (receipt["outcome"], receipt["refused"], receipt["values"]) == ("applied", ["name"], {"name": "Anna"})
    met = rig.receipt("b")  # what was to be written stood there already, but somebody else had written it
    assert (met["refused"], met["values"]) == (["score"], {"score": 2})
    assert int.from_bytes(receipt["position"][:8], "big") > 1
    assert receipt["position"][8:] == bytes(8)


def test_what_is_refused_altogether_or_missing_says_so_with_what_stands_there(make: Make) -> None:
    rig = make("rowhash")
    rig.send(write("a", "update", 1, name=("x", "y"), born=(None, None)), write("m", "update", 99, name=("x", None)))
    rig.run(2)
    receipt = rig.receipt("a")
    assert receipt["refused"] == ["name", "born"]
    assert receipt["values"] == {"name": "Anna", "born": 10957}
    assert rig.receipt("m")["outcome"] == "missing"
    assert rig.sql("select name from contact where id = 1") == [("Anna",)]


def test_many_sets_of_columns_are_checked_together(make: Make) -> None:
    rig = make("polling")
    rig.sql("insert into contact (id, email, name, score) select i, i || '@y', 'n', i from generate_series(10, 24) i")
    sets: list[dict[str, Any]] = []
    for i in range(1, 16):
        every = {"email": (f"{i}@z", f"{i + 9}@y"), "name": (f"m{i}", "n"), "score": (i, i + 9), "born": (i, None)}
        sets.append({n: v for bit, (n, v) in enumerate(every.items()) if i >> bit & 1})
    rig.sql("update contact set score = 1000 where id >= 10")
    rig.send(*(write(i, "update", i + 10, **columns) for i, columns in enumerate(sets)))
    rig.run(15)
    for i, columns in enumerate(sets):
        receipt = rig.receipt(i)
        assert receipt["outcome"] == "applied"
        assert receipt["values"] == ({"score": 1000} if "score" in columns else {})
    rows = rig.sql("select email, name, score, (born - date '1970-01-01')::int from contact where id >= 10 order by id")
    for i, (columns, row) in enumerate(zip(sets, rows, strict=True)):
        old = {"email": f"{i + 10}@y", "name": "n", "score": 1000, "born": None}
        wanted = {**old, **{n: v[0] for n, v in columns.items() if n != "score"}}
        assert row == tuple(wanted.values())


def test_a_destination_that_reformats_says_what_it_made_of_it(make: Make) -> None:
    sql = "create table contact (id int primary key, email text, name char(6), score numeric(8, 2), born timestamp(0));"
    sql += "insert into contact values (1, 'a@x', 'Anna', 1, null);"
    sql += "create function low() returns trigger language plpgsql as $$ begin new.email := lower(new.email); return new; end $$;"
    sql += "create trigger low before insert or update on contact for each row execute function low()"
    rig = make("polling", sql, entities={"contact": CONTACT})
    rig.send(
        write(
            "a",
            "update",
            1,
            email=("BIG@X", "a@x"),
            name=("Bo", "Anna  "),
            score=("2.5", "1.00"),
            born=(1_600_000, None),
        )
    )
    rig.run(1)
    receipt = rig.receipt("a")
    assert receipt["refused"] == []
    assert receipt["values"] == {"email": "big@x", "name": "Bo    ", "score": "2.50", "born": 2_000_000}


def test_a_value_that_another_row_holds_is_taken_and_names_the_row(make: Make) -> None:
    rig = make("polling")
    rig.send(
        write("a", "update", 1, email=("b@x", "a@x")),
        write("n", "create", None, email="a@x", name="New"),
        write("b", "update", 2, score=(5, 2)),
    )
    rig.run(3)
    receipt = rig.receipt("a")
    assert (receipt["outcome"], receipt["kind"], receipt["native_key"]) == ("taken", "unique", "2")
    assert receipt["values"] == {"email": "a@x"}
    assert "contact_email_key" in receipt["message"]
    assert "(email)=(b@x)" in receipt["message"]
    assert rig.receipt("b")["outcome"] == "applied"
    (entry,) = [rig.codec.decode(m.value() or b"") for m in rig.messages(rig.context.topics.identity(ENTITY))]
    assert (entry["kind"], entry["native_key"]) == ("created", "1")
    assert rig.codec.decode(entry["payload"])["items"][0]["outcome"] == "taken"
    assert rig.dead() == []


def test_a_value_that_moves_on_within_the_batch_is_not_taken(make: Make) -> None:
    rig = make("polling")
    rig.send(write("a", "update", 1, email=("b@x", "a@x")), write("b", "update", 2, email=("c@x", "b@x")))
    rig.run(2)
    assert rig.sql("select email from contact order by id") == [("b@x",), ("c@x",)]
    assert {r["outcome"] for r in rig.receipts()} == {"applied"}


def test_swapped_values_where_people_work_are_taken_and_go_through_once_one_has_moved(make: Make) -> None:
    rig = make("polling")
    swap = [write("a", "update", 1, email=("b@x", "a@x")), write("b", "update", 2, email=("a@x", "b@x"))]
    rig.send(*swap)
    rig.run(2)
    assert {r["outcome"] for r in rig.receipts()} == {"taken"}
    assert rig.sql("select email from contact order by id") == [("a@x",), ("b@x",)]
    rig.sql("update contact set email = 'third' where id = 2")
    rig.send(write("a", "update", 1, 2, email=("b@x", "a@x")), write("b", "update", 2, 2, email=("a@x", "third")))
    rig.run(2)
    assert rig.sql("select email from contact order by id") == [("b@x",), ("a@x",)]


def test_a_swap_under_a_constraint_that_is_checked_at_the_end_goes_through(make: Make) -> None:
    sql = "create table contact (id int primary key, email text unique deferrable initially deferred, name text, score int, born date);"
    rig = make(
        "polling", sql + "insert into contact values (1, 'a@x'), (2, 'b@x'), (3, 'c@x')", entities={"contact": CONTACT}
    )
    rig.send(write("a", "update", 1, email=("b@x", "a@x")), write("b", "update", 2, email=("a@x", "b@x")))
    rig.run(2)
    assert {r["message"] for r in rig.receipts()} == {None}
    assert rig.sql("select email from contact order by id") == [("b@x",), ("a@x",), ("c@x",)]
    rig.send(write("a", "update", 1, 2, email=("c@x", "b@x")), write("b", "update", 2, 2, name=("Bea", None)))
    rig.run(2)
    assert [(r["outcome"]) for r in rig.receipts() if r["version"] == 2 and r["canonical_id"] == record("a")] == [
        "taken"
    ]
    assert rig.sql("select name from contact where id = 2") == [("Bea",)]


def test_a_create_finds_the_row_again_that_carries_our_id(make: Make) -> None:
    sql = "create table contact (id int generated by default as identity primary key, email text unique, name text, score int, born date, ours uuid unique)"
    rig = make("polling", sql, entities={"contact": {**CONTACT, "canonical_id": "ours"}})
    rig.sql(f"insert into contact (email, name, ours) values ('a@x', 'Edited since', '{record('a')}')")
    rig.send(write("a", "create", None, email="a@x", name="Anna"), write("b", "create", None, email="b@x"))
    rig.run(2)
    assert rig.sql("select id, email, name, ours::text from contact order by id") == [
        (1, "a@x", "Edited since", record("a")),
        (2, "b@x", None, record("b")),
    ]
    entries = [rig.codec.decode(m.value() or b"") for m in rig.messages(rig.context.topics.identity(ENTITY))]
    found = {e["canonical_id"]: e for e in entries}
    assert found[record("a")]["native_key"] == "1"
    item = rig.codec.decode(found[record("a")]["payload"])["items"][0]
    assert (item["outcome"], item["values"]) == ("applied", [{"name": "name", "value": "Edited since"}])


def test_keys_of_several_columns_are_taken_apart_and_spelt(make: Make) -> None:
    sql = "create table contact (email text, name text, score int, born date, primary key (email, name))"
    rig = make("polling", sql, entities={"contact": {**CONTACT, "key": ["email", "name"]}})
    rig.send(write("a", "create", None, email="a|x", name="n\\", score=1))
    rig.run(1)
    (entry,) = [rig.codec.decode(m.value() or b"") for m in rig.messages(rig.context.topics.identity(ENTITY))]
    assert entry["native_key"] == "a\\|x|n\\\\"
    rig.send(write("a", "update", entry["native_key"], 2, score=(2, 1), name=("moved", "n\\")))
    rig.run(1)
    assert rig.sql("select * from contact") == [("a|x", "moved", 2, None)]
    assert rig.receipt("a")["native_key"] == "a\\|x|moved"


def test_with_triggers_the_queue_row_is_the_position(make: Make) -> None:
    rig = make("outbox")
    rig.sql("update contact set name = 'Edited' where id = 2")
    before = rig.sql("select max(id) from tidelock.queue")[0][0]
    rig.send(
        write("a", "update", 1, name=("Anne", "Anna")),
        write("b", "update", 2, name=("x", "Bea")),
        write("m", "update", 99, name=("x", "y")),
    )
    rig.run(3)
    rows = dict(rig.sql(f"select record_key, id from tidelock.queue where id > {before}"))
    assert rig.receipt("a")["position"] == position(rows["1"])
    assert "2" not in rows
    assert rig.receipt("b")["position"] == position(before)
    start = rig.sql(
        "select seqstart - 1 from pg_sequence where seqrelid = pg_get_serial_sequence('tidelock.queue', 'id')::regclass"
    )[0][0]
    assert rig.receipt("m")["position"] == position(start)
    assert rig.sql(f"select edited from tidelock.queue where id = {rows['1']}") == [(False,)]


def test_a_deadlock_is_tried_again(make: Make) -> None:
    rig = make("polling")
    rig.start()
    with psycopg.connect(rig.dsn) as user:
        user.execute("update contact set untouched = 'mine' where id = 2")
        rig.send(write("a", "update", 1, name=("Anne", "Anna")), write("b", "update", 2, name=("Bella", "Bea")))
        held = threading.Event()

        def cross() -> None:
            with psycopg.connect(rig.dsn, autocommit=True) as watch:
                while not watch.execute("select 1 from pg_locks where not granted").fetchall():
                    held.wait(0.01)
            user.execute("set deadlock_timeout = '10s'")
            user.execute("update contact set untouched = 'mine too' where id = 1")
            user.commit()

        other = threading.Thread(target=cross)
        other.start()
        rig.run(2)
        other.join(DEADLINE_S)
    assert rig.sql("select name, untouched from contact order by id") == [("Anne", "mine too"), ("Bella", "mine")]
    assert {r["outcome"] for r in rig.receipts()} == {"applied"}


def test_a_foreign_key_that_does_not_hold_is_rejected_without_a_dead_letter(make: Make) -> None:
    rig = make("polling")
    rig.send(
        write("o", "create", None, entity="order", number="1", contact_id=77),
        write("p", "create", None, entity="order", number="2", contact_id=1),
    )
    rig.run(2)
    assert rig.sql("select number from orders") == [("2",)]
    entries = [rig.codec.decode(m.value() or b"") for m in rig.messages(rig.context.topics.identity("order"))]
    kinds = {rig.codec.decode(e["payload"])["items"][0]["kind"] for e in entries}
    assert kinds == {None, "foreign_key"}
    assert rig.dead("order") == []
