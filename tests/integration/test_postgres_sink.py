"""The sink for PostgreSQL and its worker, on real servers: writes, receipts, and every way of going wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sinking import ENTITY, SYSTEM, TABLES, Rig, config_of, encoded, record, write
from tidelock.change import ZERO_POSITION
from tidelock.embedded import Stack

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
        write("b", "create", email="b@x", name='q"\\{},', score=None),
    )
    rig.run(2)
    rig.send(write("a", "update", "a@x", 2, name=None, score=-9), write("b", "delete", "b@x", 2))
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
