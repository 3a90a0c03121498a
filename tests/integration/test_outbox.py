"""Capture by triggers and a queue table, on real PostgreSQL and Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from producers.outbox import OutboxProducer
from tests.captures import ENTITY, SYSTEM, Rig, config_of, sql, until
from tests.patience import DEADLINE_S
from tidelock.avro import FieldType, decode_slice
from tidelock.change import position
from tidelock.embedded import Stack
from tidelock.errors import Fatal, Retry

pytestmark = pytest.mark.stack

TABLE = "create table contact (id int primary key, name text, amount numeric(12,2), at date)"
QUEUE = "select change_type, record_key, status, write_id from tidelock.queue order by id"


class Erp:
    """An erp database with triggers installed, and its capture."""

    def __init__(self, stack: Stack, dsn: str, prefix: str, data: Path, **system: Any) -> None:
        self.dsn = dsn
        sql(dsn, TABLE)
        self.config = config_of("outbox", dsn, {"table": "contact"}, prefix=prefix, data=data, **system)
        OutboxProducer.execute(self.config, SYSTEM, OutboxProducer.script(self.config, SYSTEM))
        self.rig = Rig(stack, self.config)
        self.producer = OutboxProducer(self.rig.context, SYSTEM)
        try:
            self.producer.setup()
        except BaseException:
            self.close()
            raise

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return sql(self.dsn, *statements)

    def drain(self) -> int:
        return sum(iter(lambda: self.producer.step(0.0), 0))

    def statuses(self) -> list[str]:
        return [r[0] for r in self.sql("select status from tidelock.queue order by id")]

    def close(self) -> None:
        self.producer.close()
        self.rig.close()


Make = Callable[..., Erp]


@pytest.fixture
def erp(stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of captured erp databases."""
    made: list[Erp] = []

    def make(**system: Any) -> Erp:
        made.append(Erp(stack, database("erp"), topic_prefix, tmp_path, **system))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_changes_travel_with_their_rows_and_positions(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'Ann', 12.30, '2024-02-29'), (2, 'Bob', null, null)")
    assert one.drain() == 2
    one.sql("update contact set name = 'Anna' where id = 1", "delete from contact where id = 2")
    assert one.drain() == 2
    rows = one.rig.rows()
    assert sorted((op, key) for op, key, _ in rows) == [
        ("create", "1"),
        ("create", "2"),
        ("delete", "2"),
        ("update", "1"),
    ]
    first = next(r for op, k, r in rows if (op, k) == ("create", "1"))
    assert first is not None
    assert decode_slice(FieldType.STRING, first["name"]) == "Ann"
    assert decode_slice(FieldType.DECIMAL, first["amount"]) == "12.30"
    assert str(decode_slice(FieldType.DATE, first["at"])) == "2024-02-29"
    ids = [r[0] for r in one.sql("select id from tidelock.queue where record_key = '1' order by id")]
    assert [c.position for c in one.rig.changes() if c.native_key == "1"] == [position(n) for n in ids]
    assert one.statuses() == ["completed"] * 4
    assert all(c.actor == "tidelock" and c.origin is None for c in one.rig.changes())


def test_several_changes_between_two_reads_leave_one_new(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a')", *[f"update contact set name = 'n{i}'" for i in range(3)])
    assert one.sql(QUEUE) == [
        ("add", "1", "superseded", None),
        ("edit", "1", "superseded", None),
        ("edit", "1", "superseded", None),
        ("edit", "1", "new", None),
    ]
    assert one.drain() == 1
    assert one.statuses()[-1] == "completed"


def test_a_key_change_is_a_delete_and_a_create(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a')")
    one.drain()
    one.sql("update contact set id = 7")
    one.drain()
    assert sorted((op, key) for op, key, _ in one.rig.rows()) == [("create", "1"), ("create", "7"), ("delete", "1")]


def test_truncate_deletes_every_record(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a'), (2, 'b')")
    one.drain()
    one.sql("truncate contact")
    one.drain()
    assert sorted(k for op, k, _ in one.rig.rows() if op == "delete") == ["1", "2"]


def test_our_own_write_is_marked_and_its_queue_id_is_its_position(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a'), (2, 'b')")
    one.drain()
    with psycopg.connect(one.dsn) as writer:
        writer.execute("select set_config('tidelock.write_id', 'w-1', true)")
        writer.execute("update contact set name = 'ours' where id in (1, 2)")
        landed: dict[str, int] = dict(
            writer.execute("select record_key, id from tidelock.queue where write_id = 'w-1'").fetchall()
        )
    one.sql("update contact set name = 'theirs' where id = 2")
    one.drain()
    last = {c.native_key: c for c in one.rig.changes()}
    assert (last["1"].origin, last["1"].write_id) == ("tidelock", "w-1")
    assert last["1"].position == position(landed["1"])
    assert (last["2"].origin, last["2"].write_id) == (None, None)
    assert last["2"].position > position(landed["2"])
    assert ("edit", "2", "superseded", "w-1") in one.sql(QUEUE)


def test_a_users_edit_folded_into_our_write_is_not_taken_for_ours(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a')")
    one.drain()
    one.sql("update contact set amount = 5")
    with psycopg.connect(one.dsn) as writer:
        writer.execute("select set_config('tidelock.write_id', 'w-2', true)")
        writer.execute("update contact set name = 'ours'")
    one.drain()
    assert one.rig.changes()[-1].origin is None


def test_rows_of_a_crashed_run_are_taken_again(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a'), (2, 'b')", "update tidelock.queue set status = 'in-progress'")
    one.sql("update contact set name = 'c' where id = 2")
    assert one.drain() == 2
    assert sorted(one.statuses()) == ["completed", "completed", "superseded"]


def test_only_one_reader_at_a_time(erp: Make) -> None:
    one = erp()
    one.drain()
    second = OutboxProducer(one.rig.fresh_context(), SYSTEM)
    with pytest.raises(Retry, match="another process"):
        second.step(0.0)
    second.close()


def test_a_lost_connection_is_a_retry_and_nothing_is_lost(erp: Make) -> None:
    one = erp()
    one.drain()
    one.sql("insert into contact values (1, 'a')")
    one.sql(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'tidelock outbox erp'"
    )
    with pytest.raises(Retry):
        one.producer.step(0.0)
    assert one.drain() == 1


def test_a_row_that_cannot_be_expressed_is_retried_then_stays_in_error(erp: Make) -> None:
    one = erp(max_retries=2, options={"retry_wait_s": 0.01})
    one.sql("insert into contact values (1, 'bad', 1, 'infinity'), (2, 'good', 1, null)")
    until(lambda: one.producer.step(0.05), lambda: one.sql("select max(retry_count) from tidelock.queue") == [(2,)])
    one.drain()
    found = one.sql("select status, retry_count, error_message from tidelock.queue order by id")
    assert found[0][:2] == ("error", 2)
    assert "infinity" in found[0][2]
    assert found[1][:2] == ("completed", 0)
    assert len(one.rig.messages(one.rig.context.topics.dlq("capture", SYSTEM, ENTITY))) == 1
    one.sql("update contact set at = null where id = 1")
    assert one.drain() == 1
    assert one.statuses() == ["superseded", "completed", "completed"]


def test_completed_rows_move_into_the_archive(erp: Make) -> None:
    one = erp(archive_after_s=0.2)
    one.sql("insert into contact values (1, 'a')", "update contact set name = 'b'")
    one.drain()
    until(lambda: one.producer.step(0.1), lambda: one.sql("select count(*) from tidelock.queue") == [(0,)])
    archived = one.sql("select status, completed_at is not null from tidelock.archive order by id")
    assert archived == [("superseded", False), ("completed", True)]


def test_a_notification_wakes_the_reader(erp: Make) -> None:
    one = erp()
    one.drain()
    counts: list[int] = []
    waiter = threading.Thread(target=lambda: counts.append(one.producer.step(3 * DEADLINE_S)))
    waiter.start()
    one.sql("insert into contact values (1, 'a')")
    waiter.join(DEADLINE_S)
    assert counts == [1]


def test_an_open_transaction_of_a_user_does_not_hold_up_the_others(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a'), (2, 'b')")
    with psycopg.connect(one.dsn) as user:
        user.execute("update contact set name = 'slow' where id = 1")
        assert one.drain() == 1
        user.commit()
    assert one.drain() == 1
    assert decode_slice(FieldType.STRING, next(r for _, k, r in one.rig.rows() if k == "1" and r)["name"]) == "slow"


def test_a_strict_transaction_of_a_user_does_not_fail_because_of_us(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a')")
    with psycopg.connect(one.dsn) as user:
        user.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        user.execute("select 1 from contact")
        assert one.drain() == 1
        user.execute("update contact set name = 'b'")
    assert one.drain() == 1
    assert one.statuses() == ["completed", "completed"]


def test_a_new_column_arrives_while_running(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a')")
    one.drain()
    one.sql("alter table contact add column colour text", "update contact set colour = 'red'")
    one.drain()
    rows = [r for _, _, r in one.rig.rows() if r is not None]
    assert "colour" not in rows[0]
    assert decode_slice(FieldType.STRING, rows[1]["colour"]) == "red"


def test_rows_outside_the_filter_are_deletes(
    stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path
) -> None:
    dsn = database("erp")
    sql(dsn, TABLE)
    table = {"table": "contact", "where": "name not like '%hidden%'"}
    config = config_of("outbox", dsn, table, prefix=topic_prefix, data=tmp_path)
    OutboxProducer.execute(config, SYSTEM, OutboxProducer.script(config, SYSTEM))
    rig = Rig(stack, config)
    producer = OutboxProducer(rig.context, SYSTEM)
    try:
        producer.setup()
        sql(dsn, "insert into contact values (1, 'a')")
        producer.step(0.0)
        sql(dsn, "update contact set name = 'hidden'")
        producer.step(0.0)
        assert [(op, key) for op, key, _ in rig.rows()] == [("create", "1"), ("delete", "1")]
    finally:
        producer.close()
        rig.close()


def test_a_seed_reads_all_at_positions_below_later_changes(erp: Make) -> None:
    one = erp(batch=10)
    one.sql("alter table contact disable trigger tidelock_capture")
    one.sql("insert into contact select i, 'n' || i from generate_series(1, 35) i")
    one.sql("alter table contact enable trigger tidelock_capture", "update contact set name = 'x' where id = 3")
    seen: list[int] = []
    assert one.producer.seed(ENTITY, progress=lambda _, n, __: seen.append(n)) == 35
    assert seen == [10, 20, 30, 35]
    seeded = {c.native_key: c for c in one.rig.changes()}
    queued = one.sql("select id from tidelock.queue")[0][0]
    assert seeded["3"].position == position(queued)
    one.sql("update contact set name = 'y' where id in (3, 4)")
    one.drain()
    for change in one.rig.changes():
        if change.native_key in ("3", "4") and change.op != 3:
            assert change.position > seeded[change.native_key].position
    assert one.producer.seed(ENTITY, where="id <= 5") == 5


def test_what_was_there_before_is_seeded_at_the_first_start_and_when_asked_for(
    stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path
) -> None:
    dsn = database("erp")
    sql(dsn, TABLE, "insert into contact select i, 'n' from generate_series(1, 25) i")
    options = {"seed_on_start": True}
    config = config_of(
        "outbox", dsn, {"table": "contact"}, prefix=topic_prefix, data=tmp_path, batch=10, options=options
    )
    OutboxProducer.execute(config, SYSTEM, OutboxProducer.script(config, SYSTEM))
    rig = Rig(stack, config)
    try:
        producer = OutboxProducer(rig.context, SYSTEM)
        producer.setup()
        assert producer.step(0.0) == 10
        producer.close()
        producer = OutboxProducer(rig.fresh_context(), SYSTEM)  # it goes on behind the first page
        producer.setup()
        until(lambda: producer.step(0.05), lambda: len(rig.changes()) == 25)
        until(lambda: producer.step(0.05), lambda: rig.seeds()[-1] == "done")
        rig.ask_seed("id > 20")
        until(lambda: producer.step(0.05), lambda: len(rig.changes()) == 30)
        until(lambda: producer.step(0.05), lambda: rig.seeds()[-1] == "done")
        producer.close()
        producer = OutboxProducer(rig.fresh_context(), SYSTEM)
        producer.setup()  # neither the request nor the first start counts again
        assert producer.step(0.0) == 0
        producer.close()
        assert len(rig.changes()) == 30
    finally:
        rig.close()


def test_installing_twice_is_harmless_and_removing_leaves_nothing(erp: Make) -> None:
    one = erp()
    one.sql("insert into contact values (1, 'a')")
    before = one.sql("select id from tidelock.queue")
    OutboxProducer.execute(one.config, SYSTEM, OutboxProducer.script(one.config, SYSTEM))
    assert one.sql("select id from tidelock.queue") == before
    assert OutboxProducer.status(one.config, SYSTEM)["tables"] == {"public.contact": True}
    for _ in range(2):
        OutboxProducer.execute(one.config, SYSTEM, OutboxProducer.script(one.config, SYSTEM, remove=True))
    assert one.sql("select count(*) from pg_namespace where nspname = 'tidelock'") == [(0,)]
    assert one.sql("select count(*) from pg_trigger where tgname like 'tidelock%'") == [(0,)]
    one.sql("insert into contact values (2, 'b')")
    with pytest.raises(Fatal, match="tidelock outbox install erp"):
        one.producer.setup()
    OutboxProducer.execute(one.config, SYSTEM, OutboxProducer.script(one.config, SYSTEM))
    one.sql("update contact set name = 'c' where id = 1")
    assert one.sql("select min(id) from tidelock.queue")[0][0] > before[0][0]


def test_a_composite_key_is_spelt_as_everywhere(
    stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path
) -> None:
    dsn = database("erp")
    sql(dsn, "create table line (order_no text, pos char(3), name text, primary key (order_no, pos))")
    table = {"table": "line", "key": ["order_no", "pos"]}
    config = config_of("outbox", dsn, table, prefix=topic_prefix, data=tmp_path)
    OutboxProducer.execute(config, SYSTEM, OutboxProducer.script(config, SYSTEM))
    rig = Rig(stack, config)
    producer = OutboxProducer(rig.context, SYSTEM)
    try:
        producer.setup()
        sql(dsn, r"insert into line values ('a|b\c', 'x', 'n')")
        assert producer.step(0.0) == 1
        assert [(op, key) for op, key, _ in rig.rows()] == [("create", "a\\|b\\\\c|x  ")]
    finally:
        producer.close()
        rig.close()


def test_what_is_missing_or_forbidden_is_named(erp: Make, tmp_path: Path) -> None:
    one = erp()
    for table, words in (
        ({"table": "nowhere"}, "no table or view public.nowhere"),
        ({"table": "contact", "key": ["nope"]}, "nope"),
        ({"table": "contact", "where": "colour = 1"}, "colour"),
    ):
        config = config_of("outbox", one.dsn, table, prefix=one.config.prefix, data=tmp_path)
        one.rig.config = config
        producer = OutboxProducer(one.rig.fresh_context(), SYSTEM)
        with pytest.raises(Fatal, match=words):
            producer.setup()
        producer.close()
