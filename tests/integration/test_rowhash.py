"""Capture by comparing whole tables, on real PostgreSQL and Kafka."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producers.rowhash import RowhashProducer
from tests.captures import ENTITY, SYSTEM, Rig, config_of, sql
from tidelock.config import Config
from tidelock.embedded import Stack

pytestmark = pytest.mark.stack


class Compared:
    """A database without any help, and its capture."""

    def __init__(self, stack: Stack, config: Config, dsn: str) -> None:
        self.dsn = dsn
        sql(dsn, "create table contact (id int primary key, name text, secret text)")
        self.rig = Rig(stack, config)
        self.producer = RowhashProducer(self.rig.context, SYSTEM)
        try:
            self.producer.setup()
        except BaseException:
            self.close()
            raise

    def scan(self) -> int:
        self.producer._begin(self.producer.due_now(self.producer._jobs[ENTITY], "scan"))
        count = 0
        while self.producer._pass is not None:
            count += self.producer.step(0.0)
        return count

    def restart(self) -> None:
        self.producer.close()
        self.producer = RowhashProducer(self.rig.fresh_context(), SYSTEM)
        self.producer.setup()

    def close(self) -> None:
        self.producer.close()
        self.rig.close()


Make = Callable[..., Compared]


@pytest.fixture
def compared(stack: Stack, database: Callable[[str], str], topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Return a factory of compared databases."""
    made: list[Compared] = []

    def make(*, both: bool = False, **system: Any) -> Compared:
        dsn = database("legacy")
        config = config_of("rowhash", dsn, {"table": "contact"}, prefix=topic_prefix, data=tmp_path, **system)
        if both:
            back = config.flows[0].model_copy(update={"source": ("crm",), "to": (SYSTEM,)})
            config = config.model_copy(update={"flows": (*config.flows, back)})
        made.append(Compared(stack, config, dsn))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_only_real_differences_and_deletes_are_published(compared: Make) -> None:
    one = compared(batch=50)
    sql(one.dsn, "insert into contact select i, 'n' || i from generate_series(1, 200) i")
    assert one.scan() == 200
    assert one.scan() == 0
    sql(
        one.dsn,
        "update contact set name = 'new' where id = 7",
        "update contact set name = name where id = 8",
        "delete from contact where id in (9, 10)",
        "insert into contact values (201, 'more')",
    )
    assert one.scan() == 4
    assert one.scan() == 0
    later = sorted((op, key) for op, key, _ in one.rig.rows() if op != "snapshot")
    assert later == [("create", "201"), ("delete", "10"), ("delete", "9"), ("update", "7")]


def test_a_restart_remembers_and_a_lost_store_still_finds_deletes(compared: Make) -> None:
    one = compared()
    sql(one.dsn, "insert into contact select i, 'n' from generate_series(1, 5) i")
    one.scan()
    one.restart()
    assert one.scan() == 0
    one.producer.close()
    shutil.rmtree(one.rig.context.data)
    sql(one.dsn, "delete from contact where id = 3")
    one.restart()
    assert one.scan() == 5
    assert one.scan() == 0
    assert [key for op, key, _ in one.rig.rows() if op == "delete"] == ["3"]


def test_a_run_that_breaks_off_deletes_nothing(compared: Make) -> None:
    one = compared(batch=10)
    sql(one.dsn, "insert into contact select i, 'n' from generate_series(1, 40) i")
    one.scan()
    sql(one.dsn, "update contact set name = 'm'", "delete from contact where id = 40")
    one.producer._begin(one.producer.due_now(one.producer._jobs[ENTITY], "scan"))
    assert one.producer.step(0.0) == 10
    one.restart()
    assert one.scan() == 30
    assert [key for op, key, _ in one.rig.rows() if op == "delete"] == ["40"]


def test_a_value_set_back_after_our_write_is_noticed(compared: Make) -> None:
    one = compared(both=True)
    sql(one.dsn, "insert into contact values (1, 'theirs'), (2, 'other')")
    one.scan()
    sql(one.dsn, "update contact set name = 'ours' where id = 1", "update contact set name = 'theirs' where id = 1")
    assert one.scan() == 1


def test_a_key_that_stands_twice_is_reported(compared: Make) -> None:
    one = compared()
    sql(one.dsn, "alter table contact drop constraint contact_pkey")
    sql(one.dsn, "insert into contact values (1, 'a'), (1, 'b'), (2, 'c')")
    one.scan()
    one.producer.publisher.flush()
    assert len(one.rig.messages(one.rig.context.topics.ops("alerts"))) == 1


def test_a_seed_of_a_part_leaves_only_differences(compared: Make) -> None:
    one = compared(batch=3)
    sql(one.dsn, "insert into contact select i, 'n' from generate_series(1, 10) i")
    assert one.producer.seed(ENTITY, where="id % 2 = 0") == 5
    assert one.scan() == 0
    sql(one.dsn, "update contact set name = 'm' where id = 1")
    assert one.scan() == 1
