"""Capture by last-modified time, on real PostgreSQL and Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from producers.polling import PollingProducer
from tests.captures import ENTITY, SYSTEM, Rig, config_of, sql, until
from tidelock.avro import FieldType, decode_slice
from tidelock.change import position
from tidelock.embedded import Stack
from tidelock.errors import Fatal, Retry

pytestmark = pytest.mark.stack

NEVER = "0 0 1 1 *"
SETUP = (
    "create table person (id int primary key, first text, last text, modified timestamptz)",
    "create view contact as select id, first || ' ' || last as name, modified from person where last <> 'secret'",
)


class Legacy:
    """A legacy database with a view, and its capture."""

    def __init__(self, stack: Stack, dsn: str, prefix: str, data: Path, table: dict[str, Any], **system: Any) -> None:
        self.dsn = dsn
        sql(dsn, *SETUP)
        spec = {"table": "contact", "modified": "modified", "every_s": 0.001, "overlap_schedule": NEVER, **table}
        self.rig = Rig(stack, config_of("polling", dsn, spec, prefix=prefix, data=data, **system))
        self.producer = PollingProducer(self.rig.context, SYSTEM)
        try:
            self.producer.setup()
        except BaseException:
            self.close()
            raise

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return sql(self.dsn, *statements)

    def poll(self, kind: str = "poll") -> int:
        """Do one whole run of a kind, due or not; return the number of changes."""
        job = self.producer._jobs[ENTITY]
        self.producer._begin(self.producer.due_now(job, kind))
        count = 0
        while self.producer._pass is not None:
            count += self.producer.step(0.0)
        return count

    def restart(self) -> None:
        self.producer.close()
        self.producer = PollingProducer(self.rig.fresh_context(), SYSTEM)
        self.producer.setup()

    def close(self) -> None:
        self.producer.close()
        self.rig.close()


Make = Callable[..., Legacy]


@pytest.fixture
def legacy(stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of captured legacy databases."""
    made: list[Legacy] = []

    def make(table: dict[str, Any] | None = None, **system: Any) -> Legacy:
        made.append(Legacy(stack, database("legacy"), topic_prefix, tmp_path, table or {}, **system))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_view_is_captured_by_its_own_time(legacy: Make) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'Ann', 'Lee', '2024-01-01 10:00+00'), (2, 'Bob', 'secret', now())")
    assert one.poll() == 1
    one.sql("insert into person values (3, 'Cy', 'Poe', '2024-01-02 10:00+00')")
    one.sql("update person set last = 'Law', modified = '2024-01-03' where id = 1")
    assert one.poll() == 2
    assert one.poll() == 0
    changes = one.rig.changes()
    assert sorted((c.native_key, c.op) for c in changes) == [("1", 1), ("1", 3), ("3", 0)]
    assert next(c for c in changes if c.op == 3).source_time == 1_704_103_200_000_000
    named = next(r for op, k, r in one.rig.rows() if (op, k) == ("update", "1"))
    assert named is not None
    assert decode_slice(FieldType.STRING, named["name"]) == "Ann Law"


def test_s14_more_rows_than_a_page_share_one_timestamp(legacy: Make) -> None:
    one = legacy(batch=10)
    one.sql("insert into person select i, 'a', 'b', '2024-01-01' from generate_series(1, 57) i")
    assert one.poll() == 57
    one.sql("insert into person select i, 'a', 'b', '2024-01-01' from generate_series(58, 93) i")
    assert one.poll() == 36
    one.restart()
    one.sql("insert into person values (94, 'a', 'b', '2024-01-01')")
    assert one.poll() == 1
    assert one.poll() == 0
    assert sorted(int(c.native_key) for c in one.rig.changes()) == list(range(1, 95))


def test_s14_a_run_that_breaks_off_among_equal_timestamps_goes_on(legacy: Make) -> None:
    one = legacy(batch=10)
    one.sql("insert into person select i, 'a', 'b', '2024-01-01' from generate_series(1, 35) i")
    one.producer._begin(one.producer.due_now(one.producer._jobs[ENTITY], "poll"))
    assert one.producer.step(0.0) == 10
    one.restart()
    assert one.poll() == 25
    assert len(one.rig.changes()) == 35


def test_s15_a_row_that_becomes_visible_late_is_found_by_the_overlap(legacy: Make) -> None:
    one = legacy({"overlap_s": 3600})
    with psycopg.connect(one.dsn) as slow:
        slow.execute("insert into person values (1, 'late', 'x', '2024-01-01 10:00:00')")
        one.sql("insert into person values (2, 'quick', 'x', '2024-01-01 10:30:00')")
        assert one.poll() == 1
        slow.commit()
    assert one.poll() == 0
    assert one.poll("overlap") == 1
    assert one.poll("overlap") == 0
    assert {c.native_key for c in one.rig.changes()} == {"1", "2"}


def test_the_watermark_never_moves_back(legacy: Make) -> None:
    one = legacy({"overlap_s": 3600})
    one.sql("insert into person values (1, 'a', 'x', '2024-01-01 10:00'), (2, 'b', 'x', '2024-01-01 10:30')")
    one.poll()
    one.sql("delete from person where id = 2")
    one.poll("overlap")
    assert one.producer._jobs[ENTITY].watermark == "2024-01-01 10:30:00+00"


def test_rows_without_a_time_come_with_the_overlap(legacy: Make) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'a', 'x', null), (2, 'b', 'x', now())")
    assert one.poll() == 2
    one.sql("insert into person values (3, 'c', 'x', null)")
    assert one.poll() == 0
    assert one.poll("overlap") == 1


def test_a_restart_goes_on_at_the_stored_watermark_and_a_lost_store_harms_nobody(legacy: Make, tmp_path: Path) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'a', 'x', '2024-01-01'), (2, 'b', 'x', '2024-01-02')")
    one.poll()
    one.restart()
    assert one.poll() == 0
    one.producer.close()
    for path in sorted(one.rig.context.data.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    one.restart()
    assert one.poll() == 1  # what shares the watermark, once more; merge finds no difference
    assert one.poll() == 0


def test_positions_tell_what_was_surely_visible(legacy: Make) -> None:
    one = legacy()
    with psycopg.connect(one.dsn) as ours:
        ours.execute("insert into person values (1, 'a', 'x', now())")
        landing = position(int(ours.execute("select pg_current_xact_id()::text::int8").fetchone()[0]) + 1)  # type: ignore[index]
        one.sql("insert into person values (2, 'b', 'x', now())")
        one.poll()
        assert all(c.position < landing for c in one.rig.changes())
        ours.commit()
    one.poll("overlap")

    # Other databases of the server may hold back xmin for a moment.
    def touched() -> int:
        one.sql("update person set modified = clock_timestamp() where id = 1")
        return one.poll()

    until(
        touched,
        lambda: any(c.position >= landing for c in one.rig.changes() if c.native_key == "1"),
    )
    mine = [c.position for c in one.rig.changes() if c.native_key == "1"]
    assert mine == sorted(mine)


def test_deletes_are_found_by_comparing_keys(legacy: Make) -> None:
    one = legacy(options={"find_deletes": NEVER})
    one.sql("insert into person select i, 'a', 'b', now() from generate_series(1, 20) i")
    one.poll()
    one.sql("delete from person where id in (4, 9)")
    assert one.poll() == 0
    assert one.poll("deletes") == 2
    assert one.poll("deletes") == 0
    assert sorted(k for op, k, _ in one.rig.rows() if op == "delete") == ["4", "9"]


def test_a_view_that_is_suddenly_empty_deletes_nothing(legacy: Make) -> None:
    one = legacy(options={"find_deletes": NEVER})
    one.sql("insert into person select i, 'a', 'b', now() from generate_series(1, 150) i")
    one.poll()
    one.sql("delete from person")
    assert one.poll("deletes") == 0
    assert len(one.rig.messages(one.rig.context.topics.ops("alerts"))) == 1


def test_a_seed_sets_the_watermark_so_that_only_later_changes_follow(legacy: Make) -> None:
    one = legacy(batch=7)
    one.sql("insert into person select i, 'a', 'b', '2024-01-01' from generate_series(1, 20) i")
    assert one.producer.seed(ENTITY, where="id > 5") == 15
    assert one.poll() == 0
    one.sql("update person set modified = '2024-01-02' where id = 2")
    assert one.poll() == 1
    assert sorted({c.op for c in one.rig.changes()}) == [1, 3]


def test_a_seed_that_is_asked_for_is_done(legacy: Make) -> None:
    one = legacy({"schedule": NEVER})
    one.sql("insert into person values (1, 'a', 'x', '2024-01-01')")
    one.rig.ask_seed()
    until(lambda: one.producer.step(0.05), lambda: one.rig.seeds()[-1:] == ["done"])
    assert [c.op for c in one.rig.changes()] == [3]
    assert one.poll() == 0


def test_runs_are_recorded(legacy: Make) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'a', 'x', now())")
    one.poll()
    one.producer.publisher.flush()
    run = one.rig.ops("runs")[-1]
    assert (run["system"], run["entity"], run["kind"]) == (SYSTEM, ENTITY, "poll")
    assert (run["read"], run["published"], run["error"]) == (1, 1, None)
    assert run["finished"] >= run["started"]


def test_a_failed_run_is_a_retry_and_recorded(legacy: Make) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'a', 'x', now())")
    one.sql(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'tidelock polling erp'"
    )
    with pytest.raises(Retry):
        one.poll()
    until(lambda: one.producer.step(0.05), lambda: len(one.rig.changes()) == 1)
    one.producer.publisher.flush()
    assert any(r["error"] for r in one.rig.ops("runs"))


def test_a_new_column_of_the_view_makes_a_new_schema(legacy: Make) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'a', 'x', '2024-01-01')")
    one.poll()
    one.sql("create or replace view contact as select id, first as name, modified, last from person")
    assert one.poll() == 1
    assert [sorted(r) for _, _, r in one.rig.rows() if r] == [
        ["id", "modified", "name"],
        ["id", "last", "modified", "name"],
    ]


def test_what_cannot_be_expressed_is_one_dead_letter(legacy: Make) -> None:
    one = legacy()
    one.sql("insert into person values (1, 'a', 'x', 'infinity'), (2, 'b', 'x', now())")
    assert one.poll() == 1
    assert one.poll() == 0
    assert len(one.rig.messages(one.rig.context.topics.dlq("capture", SYSTEM, ENTITY))) == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"modified": None}, "last-modified"),
        ({"modified": "changed_at"}, "changed_at"),
        ({"schedule": "sometimes"}, "five fields"),
        ({"table": "x.contact"}, "x.contact"),
    ],
)
def test_what_is_missing_is_named(legacy: Make, table: dict[str, Any], words: str) -> None:
    with pytest.raises(Fatal, match=words):
        legacy(table)
