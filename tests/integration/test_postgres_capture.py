"""Capture by logical replication, on a real PostgreSQL, Kafka and registry: what it sees and what it refuses."""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.integration.pgsource import CONTACT, Topic, World, fold, row, step_changes, step_until
from tidelock.avro import decode_slice
from tidelock.change import CREATE, DELETE, SNAPSHOT, UPDATE, position
from tidelock.envelopes import Receipt, Receipts
from tidelock.errors import Fatal


def test_rows_are_captured_with_their_types_keys_and_positions(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    begun = time.time_ns() // 1000
    with w.db.transaction():
        w.db.execute("insert into contact values (1, 'Ada', 12.50, '2026-01-02 03:04:05.6+01'), (2, 'Bob', null, null)")
        w.db.execute("update contact set name = 'Bo' where id = 2")
        w.db.execute("delete from contact where id = 1")
    step_changes(producer, 4)
    changes = topic.changes()
    assert [(c.op, c.native_key) for c in changes] == [(CREATE, "1"), (CREATE, "2"), (UPDATE, "2"), (DELETE, "1")]
    assert [int.from_bytes(c.position[8:], "big") for c in changes] == [1, 2, 3, 4]
    assert len({c.position[:8] for c in changes}) == 1
    assert len({c.event_id for c in changes}) == 4
    first = row(changes[0])
    assert (first["id"], first["name"], first["balance"]) == (1, "Ada", "12.50")
    assert first["at"].isoformat() == "2026-01-02T02:04:05.600000+00:00"
    assert row(changes[2]) == {"id": 2, "name": "Bo", "balance": None, "at": None}
    assert changes[3].after is None
    assert begun <= changes[0].source_time <= time.time_ns() // 1000
    assert {m.key() for m in topic.messages()} == {b"default/1", b"default/2"}
    assert producer._context.activity.totals["captured"] == 4


def test_a_key_change_is_a_delete_and_a_create(world: Callable[..., World]) -> None:
    w = world("create table line (doc text, pos int, name text, primary key (doc, pos))")
    producer, topic = w.capture(line={"key": ["doc", "pos"], "map": [{"column": "name", "field": "x"}]})
    w.db.execute("insert into line values ('A|1', 1, 'x')")
    w.db.execute("update line set pos = 2")
    w.db.execute("delete from line")
    step_changes(producer, 4)
    assert [(c.op, c.native_key) for c in topic.changes()] == [
        (CREATE, "A\\|1|1"),
        (DELETE, "A\\|1|1"),
        (CREATE, "A\\|1|2"),
        (DELETE, "A\\|1|2"),
    ]


def test_an_unchanged_large_column_is_absent_and_never_null(world: Callable[..., World]) -> None:
    w = world(
        "create table contact (id int primary key, name text, notes text); alter table contact alter notes set storage external"
    )
    producer, topic = w.capture(contact=None)
    w.db.execute("insert into contact values (1, 'Ada', repeat('x', 9000))")
    w.db.execute("update contact set name = 'Eve'")
    step_changes(producer, 2)
    update = topic.changes()[1]
    assert update.absent == {"notes"}
    assert row(update) == {"id": 1, "name": "Eve", "notes": None}
    # A new key has no record yet that could still hold the column: the row is read once more.
    w.db.execute("update contact set id = 2")
    step_changes(producer, 3)
    reread = topic.changes()[-1]
    assert (reread.op, reread.native_key, reread.absent) == (SNAPSHOT, "2", frozenset())
    assert row(reread)["notes"] == "x" * 9000


def test_the_whole_old_row_is_passed_on_where_the_log_has_it(world: Callable[..., World]) -> None:
    w = world(CONTACT + "; alter table contact replica identity full")
    producer, topic = w.capture(contact=None)
    w.db.execute("insert into contact values (1, 'Ada', 1, null)")
    w.db.execute("update contact set name = 'Eve'")
    w.db.execute("delete from contact")
    step_changes(producer, 3)
    _, update, delete = topic.changes()
    assert update.before is not None
    assert decode_slice(update.columns[1].type, update.before[1]) == "Ada"
    assert delete.before is not None
    assert decode_slice(delete.columns[1].type, delete.before[1]) == "Eve"


def test_columns_added_and_dropped_while_running(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    w.db.execute("insert into contact values (1, 'Ada', 1, null)")
    step_changes(producer, 1)
    w.db.execute("alter table contact add column email text, drop column at")
    w.db.execute("insert into contact (id, email) values (2, 'b@x.org')")
    step_changes(producer, 1)
    first, second = topic.changes()
    assert set(row(first)) == {"id", "name", "balance", "at"}
    assert row(second) == {"id": 2, "name": None, "balance": None, "email": "b@x.org"}
    assert first.columns[2].source_type == "numeric(12,2)"


def test_a_column_whose_type_cannot_follow_stops_capture_with_its_name(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    w.stack.endpoints()
    producer, _ = w.capture(contact=None)
    w.registries[0].require_backward()
    w.db.execute("insert into contact values (1, 'Ada', 1, null)")
    step_changes(producer, 1)
    w.db.execute("alter table contact alter name type int using 7")
    w.db.execute("insert into contact (id) values (2)")
    with pytest.raises(Fatal, match="name: text → integer"):
        step_changes(producer, 1)


def test_a_partitioned_table_is_one_entity(world: Callable[..., World]) -> None:
    w = world(
        "create table contact (id int primary key, name text) partition by range (id);"
        "create table contact_a partition of contact for values from (0) to (10);"
        "create table contact_b partition of contact for values from (10) to (20);"
        "insert into contact values (1, 'Ada'), (11, 'Bob')",
        seed=True,
    )
    producer, topic = w.capture(contact=None)
    step_changes(producer, 2)
    w.db.execute("update contact set id = 12 where id = 1")  # moves to the other partition
    step_changes(producer, 2)
    assert set(fold(topic)) == {"11", "12"}


def test_origins_and_receipts_are_met_in_the_transaction_of_the_rows(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    context = topic.context
    pack = Receipts("crm", "default", "contact", 5, [Receipt("c-1", 3, native_key="1")])
    body = pack.encode()
    content = struct.pack(">H", 7) + b"contact" + struct.pack(">HI", 2, len(body)) + body
    origin = f"tidelock_{secrets.token_hex(4)}"
    w.db.execute("select pg_replication_origin_create(%s)", (origin,))
    try:
        with psycopg.connect(w.dsn) as sink:
            sink.execute("select pg_replication_origin_session_setup(%s)", (origin,))
            sink.execute("select pg_logical_emit_message(true, 'tidelock.receipts', %s::bytea)", (content,))
            sink.execute("insert into contact values (1, 'Ada', 1, null)")
            sink.commit()
        w.db.execute("insert into contact values (2, 'Bob', 1, null)")
        step_changes(producer, 2)
    finally:
        w.db.execute("select pg_replication_origin_drop(%s)", (origin,))
    ours, theirs = topic.changes()
    assert (ours.origin, theirs.origin) == ("tidelock", None)
    (message,) = Topic(context, context.topics.journal("contact")).messages()
    assert (message.partition(), message.key()) == (2, None)
    assert context.codec.kind(message.value()) == "Receipts"
    got = Receipts.decode(message.value())
    assert got.position == position(int.from_bytes(ours.position[:8], "big"), 0)
    assert got.items[0].canonical_id == "c-1"
    assert context.activity.totals["echoes"] == 1


def test_a_date_without_end_becomes_a_dead_letter_and_nothing_stops(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    w.db.execute("insert into contact values (1, 'Ada', 1, 'infinity'), (2, 'Bob', 1, null)")
    step_changes(producer, 2)
    assert [c.native_key for c in topic.changes()] == ["2"]
    context = topic.context
    (letter,) = Topic(context, context.topics.dlq("capture", "crm", "contact")).messages()
    assert letter.key() == b"default/1"
    assert b"infinity" in letter.value()
    assert dict(letter.headers())["dlq.kind"] == b"infinite_date"


def test_no_topic_sees_a_sensitive_column_not_even_a_dead_letter(world: Callable[..., World]) -> None:
    w = world(CONTACT + "; insert into contact values (1, 'SECRET', 1, null), (2, 'SECRET', 1, 'infinity')", seed=True)
    bindings = [{"column": "id", "field": "x"}, {"column": "name", "sensitive": "drop"}]
    producer, topic = w.capture(contact={"map": bindings})
    step_until(producer, lambda: not producer._seeds.jobs)
    w.db.execute("insert into contact values (3, 'SECRET', 1, null), (4, 'SECRET', 1, 'infinity')")
    step_changes(producer, 1)
    context = topic.context
    step_until(producer, lambda: len(Topic(context, context.topics.dlq("capture", "crm", "contact")).messages()) == 2)
    assert set(fold(topic)) == {"1", "3"}
    assert all("name" not in row(c) for c in topic.changes())
    letters = Topic(context, context.topics.dlq("capture", "crm", "contact")).messages()
    assert {m.key() for m in letters} == {b"default/2", b"default/4"}
    for message in [*topic.messages(), *letters]:
        assert b"SECRET" not in (message.value() or b"") + repr(message.headers()).encode()


def test_a_truncate_deletes_what_is_known_and_tells(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
    w.db.execute("insert into contact (id) values (1), (2), (3)")
    w.db.execute("delete from contact where id = 3")
    step_changes(producer, 4)
    with w.db.transaction():
        w.db.execute("truncate contact")
        w.db.execute("insert into contact values (2, 'back', 0, null)")
    step_changes(producer, 2)
    assert [(c.op, c.native_key) for c in topic.changes()[4:]] == [(CREATE, "2"), (DELETE, "1")]
    context = topic.context
    (alert,) = Topic(context, context.topics.ops("alerts")).messages()
    told = context.codec.decode(alert.value())
    assert (told["kind"], told["subject"]) == ("truncate", "public.contact")
    assert "1 known records" in told["message"]


def test_only_rows_of_the_condition_are_captured(world: Callable[..., World]) -> None:
    w = world(CONTACT + "; insert into contact (id) values (1), (12)", seed=True)
    producer, topic = w.capture(contact={"where": "id > 10"})
    step_until(producer, lambda: not producer._seeds.jobs)
    w.db.execute("insert into contact (id) values (2), (13)")
    step_changes(producer, 1)
    assert set(fold(topic)) == {"12", "13"}


def test_a_condition_that_would_break_the_source_is_refused_and_leaves_no_trace(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    with pytest.raises(Fatal, match="REPLICA IDENTITY FULL"):
        w.capture(contact={"where": "balance > 0"})
    w.db.execute("insert into contact values (1, 'Ada', 1, null)")
    w.db.execute("update contact set name = 'Eve'")
    assert w.db.execute("select count(*) from pg_publication").fetchone() == (0,)


@pytest.mark.parametrize(
    ("ddl", "table", "words"),
    [
        ("create table contact (id int, name text)", "contact", "REPLICA IDENTITY FULL"),
        ("create table other (id int primary key); create view contact as select * from other", "contact", "polling"),
        ("create table other (id int primary key)", "contact", "no table public.contact"),
        ("create unlogged table contact (id int primary key)", "contact", "unlogged"),
    ],
)
def test_tables_that_cannot_be_captured_are_refused_with_the_way_out(
    world: Callable[..., World], ddl: str, table: str, words: str
) -> None:
    w = world(ddl)
    with pytest.raises(Fatal, match=words):
        w.capture(contact={"table": table})


def test_credentials_and_rights_that_lack_are_fatal_with_the_statement_to_run(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    good = w.dsn
    w.dsn = psycopg.conninfo.make_conninfo(good, password="wrong")
    with pytest.raises(Fatal, match=r"password.*\n.*`dsn`"):
        w.capture(contact=None)
    role = f"reader_{secrets.token_hex(4)}"
    w.db.execute(f"create role {role} login password 'p'".encode())
    try:
        w.dsn = psycopg.conninfo.make_conninfo(good, user=role, password="p")
        with pytest.raises(Fatal, match="REPLICATION;"):
            w.capture(contact=None)
        w.db.execute(f"alter role {role} replication".encode())
        with pytest.raises(Fatal, match="CREATE PUBLICATION"):
            w.capture(contact=None)
    finally:
        w.db.execute(f"drop role {role}".encode())
