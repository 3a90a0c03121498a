"""Capture of PostgreSQL by logical replication on real servers: what happens there stands in the topics, once per position."""

from __future__ import annotations

import contextlib
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import TopicPartition

from producers.postgres import PostgresProducer
from tidelock.avro import decode_slice
from tidelock.change import CREATE, DELETE, SNAPSHOT, UPDATE, ZERO_POSITION, Change, position, value_position
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack
from tidelock.envelopes import Receipt, Receipts
from tidelock.errors import Fatal, Retry
from tidelock.kafka import KafkaClients, TopicSpec, ensure_topics
from tidelock.registry import Registry

pytestmark = pytest.mark.stack
DEADLINE_S = 60.0


@dataclass
class World:
    """One captured database with its topics; producers made here are closed at the end."""

    stack: Stack
    prefix: str
    dsn: str
    folder: Path
    db: psycopg.Connection[Any]
    options: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)
    producers: list[PostgresProducer] = field(default_factory=list)
    registries: list[Registry] = field(default_factory=list)

    def context(self, **tables: Any) -> Context:
        specs = {
            entity: {"table": entity, "map": [{"column": "id", "field": "x"}], **(spec or {})}
            for entity, spec in tables.items()
        }
        system = {"dsn": self.dsn, "entities": specs, "options": self.options, "heartbeat_s": 0.2, **self.system}
        config = Config.model_validate(
            {
                "prefix": self.prefix,
                "data": str(self.folder),
                "systems": {"crm": system},
                "entities": {entity: {"fields": {"x": {}}} for entity in tables},
                "flows": [{"entity": entity, "from": "crm", "to": "crm"} for entity in tables],
            }
        )
        endpoints = self.stack.endpoints()
        kafka = KafkaClients(endpoints.kafka)
        registry = Registry(endpoints.registry)
        self.registries.append(registry)
        context = Context(config, kafka, Codec(registry, self.prefix), "capture")
        names = context.topics
        specs_of_topics = [TopicSpec(names.ops("signals"), 1, compact=True)]
        specs_of_topics += [TopicSpec(names.ops(n), 1) for n in ("alerts", "activity")]
        for entity in tables:
            specs_of_topics += [
                TopicSpec(n, 4)
                for n in (names.cdc("crm", entity), names.journal(entity), names.dlq("capture", "crm", entity))
            ]
            specs_of_topics.append(TopicSpec(names.links(entity), 4, compact=True))
        ensure_topics(kafka.admin(), specs_of_topics)
        return context

    def producer(self, context: Context) -> PostgresProducer:
        producer = PostgresProducer(context, "crm")
        self.producers.append(producer)
        return producer

    def capture(self, **tables: Any) -> tuple[PostgresProducer, Topic]:
        """Set capture up and return it with the reader of the first entity's change topic."""
        context = self.context(**tables)
        producer = self.producer(context)
        producer.setup()
        return producer, Topic(context, context.topics.cdc("crm", next(iter(tables))))

    def close(self) -> None:
        for producer in self.producers:
            producer.close()
        for registry in self.registries:
            registry.close()
        self.db.close()


class Topic:
    """Everything in one topic, read anew with every question."""

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.name = name

    def messages(self) -> list[Any]:
        reader = self.context.kafka.consumer(f"test-{secrets.token_hex(4)}", "test")
        try:
            parts = reader.list_topics(self.name, timeout=10).topics[self.name].partitions
            ends = {}
            for number in parts:
                low, high = reader.get_watermark_offsets(TopicPartition(self.name, number), timeout=10)
                if high > low:
                    ends[number] = high
            reader.assign([TopicPartition(self.name, n, 0) for n in ends])
            out: list[Any] = []
            while any(
                p.offset < ends[p.partition] for p in reader.position([TopicPartition(self.name, n) for n in ends])
            ):
                out += [m for m in reader.consume(1000, 0.1) if m.error() is None]
            return out
        finally:
            reader.close()

    def changes(self) -> list[Change]:
        """Return the changes in order of their positions."""
        values = [m.value() for m in self.messages()]
        changes = [self.context.codec.change_reader(v).read(v, before=True) for v in values]
        return sorted(changes, key=lambda c: c.position)


def row(change: Change) -> dict[str, Any]:
    assert change.after is not None
    return {c.name: decode_slice(c.type, s) for c, s in zip(change.columns, change.after, strict=True)}


def step_until(producer: PostgresProducer, done: Callable[[], bool]) -> None:
    """Step until a condition holds, calling again after Retry as a worker does."""
    end = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < end, "the condition did not come true"
        with contextlib.suppress(Retry):
            producer.step(0.05)


def step_changes(producer: PostgresProducer, wanted: int) -> None:
    """Step until so many changes were published and the server was told."""
    end = time.monotonic() + DEADLINE_S
    count = 0
    while count < wanted:
        assert time.monotonic() < end, f"{count} of {wanted} changes came"
        count += producer.step(0.05)
    producer.settle()


def fold(topic: Topic) -> dict[str, dict[str, Any]]:
    """Take the topic's changes as merge would: in the order of arrival, none that is not newer, absent columns kept."""
    rows: dict[str, dict[str, Any]] = {}
    last: dict[str, bytes] = {}
    for message in topic.messages():
        change = topic.context.codec.change_reader(message.value()).read(message.value())
        key = change.native_key
        if change.position <= last.get(key, ZERO_POSITION):
            continue
        last[key] = change.position
        if change.op == DELETE:
            rows.pop(key, None)
            continue
        new = row(change)
        rows[key] = {n: rows.get(key, {}).get(n) if n in change.absent else v for n, v in new.items()}
    return rows


@pytest.fixture
def world(
    stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """Return a factory of captured databases: it runs some SQL in a new one; ``seed`` says whether capture starts with a seed."""
    worlds: list[World] = []

    def make(ddl: str, *, seed: bool = False, **system: Any) -> World:
        dsn = database("capture")
        db = psycopg.connect(dsn, autocommit=True)
        db.execute(ddl.encode())
        options = {"seed_on_start": seed, **system.pop("options", {})}
        worlds.append(World(stack, topic_prefix, dsn, tmp_path, db, options, system))
        return worlds[-1]

    yield make
    for made in worlds:
        made.close()


CONTACT = "create table contact (id int primary key, name text, balance numeric(12,2), at timestamptz)"


def test_rows_are_captured_with_their_types_keys_and_positions(world: Callable[..., World]) -> None:
    w = world(CONTACT)
    producer, topic = w.capture(contact=None)
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
    assert abs(changes[0].source_time - time.time() * 1e6) < 60e6
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
    assert dict(letter.headers())["tidelock.kind"] == b"infinite_date"


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
    w.options["seed_on_start"] = True
    mended = w.producer(topic.context)
    mended.setup(recreate_slot=True)
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
    breaks: list[str] = []  # one for every break in the middle of the seed

    def write() -> None:
        with psycopg.connect(w.dsn, autocommit=True) as db:
            n = 0
            while not stop.is_set():
                n += 1
                db.execute("update contact set name = %s where id %% 97 = %s", (f"w{n}", n % 97))
                db.execute("delete from contact where id = %s", (n * 7 % 2000,))
                db.execute("insert into contact values (%s, 'new', 'fresh', 'small')", (10_000 + n,))
                db.execute("update contact set id = -id where id = %s and part <> 'new'", (n * 11 % 2000,))
                if broken and n % 40 == 5:
                    killed = db.execute(
                        "select pg_terminate_backend(active_pid) from pg_replication_slots"
                        " where database = current_database() and active_pid is not null"
                    ).fetchall()
                    breaks.extend(producer._seeds.jobs if killed else ())

    writer = threading.Thread(target=write)
    producer, topic = w.capture(contact={"key": ["part", "id"]})
    writer.start()
    try:
        step_until(producer, lambda: not producer._seeds.jobs)
    finally:
        stop.set()
        writer.join()
    assert bool(breaks) == broken
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


def test_a_seed_is_resumed_where_it_was_interrupted(world: Callable[..., World]) -> None:
    w = world(
        CONTACT + "; insert into contact (id) select generate_series(1, 20000)",
        seed=True,
        options={"seed_chunk_rows": 50},
    )
    producer, topic = w.capture(contact=None)
    step_until(producer, lambda: bool(producer._seeds._safe["contact"].get("after")))
    producer._publisher.flush()
    crash(producer)
    before = {c.native_key for c in topic.changes()}
    assert before
    assert len(before) < 20000
    again = w.producer(topic.context)
    again.setup()
    assert again._seeds.jobs["contact"].after is not None
    step_until(again, lambda: not again._seeds.jobs)
    again.settle()
    assert set(fold(topic)) == set(map(str, range(1, 20001)))
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
