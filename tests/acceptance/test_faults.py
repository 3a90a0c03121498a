"""What breaks other systems, done to a whole installation under load: at the end everything agrees, once, and nothing is missing."""

from __future__ import annotations

import base64
import os
import signal
import time

import httpx
import psycopg
import pytest

from tests.acceptance.fallible import POINTS, FallibleWorkers
from tests.acceptance.load import Load
from tests.fix_installation import Installation, wait
from tests.patience import DEADLINE_S
from tidelock.kafka import KafkaClients, flush

pytestmark = pytest.mark.stack
NO_SUCH_SCHEMA = b"\x00" + (999_999).to_bytes(4, "big") + b"poison"


@pytest.fixture
def running(installation: Installation) -> Installation:
    """Return the installation with all workers up; whatever the test adds to the dead letters must be expected by it."""
    installation.ensure()
    return installation


def between(at: Installation, load: Load, done: object, timeout_s: float = DEADLINE_S) -> None:
    """Go on editing until something is so."""
    end = time.monotonic() + timeout_s
    assert callable(done)
    while not done():
        load.edit()
        time.sleep(0.02)
        assert time.monotonic() < end, at.said()


def edits(at: Installation, load: Load, n: int) -> None:
    """Make some more edits."""
    goal = load.edits + n
    between(at, load, lambda: load.edits >= goal)


def test_workers_and_servers_killed_under_load_lose_nothing_and_do_nothing_twice(running: Installation) -> None:
    at, load = running, Load(running, "load", 20261)
    letters = at.letters()
    for role in at.roles:
        edits(at, load, 8)
        old = at.pids()[f"{role}-0"]
        os.kill(old, signal.SIGKILL)
        between(at, load, lambda name=f"{role}-0", old=old: at.pids().get(name, old) != old)
    for server in (at.stack.registry, at.stack.kafka, at.stack.postgres):
        edits(at, load, 25)
        server.kill()
        server.start()
    edits(at, load, 40)
    at.wait_converged()
    load.check()
    assert at.letters() == letters
    assert load.edits > 150


def test_s11_workers_killed_at_every_step_of_the_commit_order(running: Installation) -> None:
    at = running
    letters = at.letters()
    at.stop()
    load = Load(at, "steps", 20262)
    workers = FallibleWorkers(at)
    try:

        def all_died() -> bool:
            workers.watch()
            return not workers.waiting

        between(at, load, all_died, 2 * DEADLINE_S)
        assert sorted(workers.died) == sorted((role, p) for role, points in POINTS.items() for p in points)
        wait(at.converged, at.differences)
        load.check()
    finally:
        workers.stop()
    at.ensure()
    at.wait_converged()
    load.check()
    assert at.letters() == letters


def test_s10_a_backlog_behind_a_sink_that_is_stopped_parks_and_then_flows(running: Installation) -> None:
    at = running
    at.stop()
    at.start(without={"sink.erp"})
    at.execute(
        "crm",
        "insert into contact (number, name) select 'backlog-' || i, 'n' || i from generate_series(1, 2000) i",
    )
    at.execute("crm", "update contact set city = 'Oslo' where number like 'backlog-%%'")

    def parked() -> bool:
        found = [r for r in at.rows("store") if r[0].startswith("backlog-")]
        return len(found) == 2000 and all(r[2] == "Oslo" for r in found)

    wait(parked, at.said)
    assert not [r for r in at.rows("erp") if r[0].startswith("backlog-")]
    at.stop()
    at.ensure()
    at.wait_converged()
    assert len([r for r in at.rows("erp") if r[0].startswith("backlog-")]) == 2000
    at.execute("crm", "delete from contact where number like 'backlog-%%'")
    at.wait_converged()
    assert not [r for r in at.rows("store") if r[0].startswith("backlog-")]


@pytest.mark.parametrize("value", [b"not avro at all", NO_SUCH_SCHEMA], ids=["raw", "unknown-schema"])
def test_s8_a_poison_record_becomes_a_dead_letter_and_nothing_else_stops(running: Installation, value: bytes) -> None:
    at = running
    before = set(at.letters())
    targets = {
        f"{at.prefix}cdc.crm.contact": f"{at.prefix}dlq.route.crm.contact",
        f"{at.prefix}journal.contact": f"{at.prefix}dlq.merge.hub.contact",
        f"{at.prefix}identity.contact": f"{at.prefix}dlq.identify.hub.contact",
        f"{at.prefix}sync.erp.contact": f"{at.prefix}dlq.sink.erp.contact",
    }
    producer = KafkaClients(at.stack.endpoints().kafka).producer("test")
    for topic in targets:
        producer.produce(topic, value, b"default/poison", partition=0)
    flush(producer)
    for i in range(6):  # both partitions
        at.insert("crm", f"poison-{len(value)}-{i}")
        at.insert("erp", f"poison-{len(value)}-e{i}")
    wait(lambda: len([r for r in at.rows("store") if r[0].startswith(f"poison-{len(value)}-")]) == 12, at.said)
    at.wait_converged()
    letters = {name: row for name, row in at.letters().items() if name not in before}
    assert sorted(name.rpartition("/")[0] for name in letters) == sorted(targets.values())
    for name, letter in letters.items():
        reason = "wire format" if value != NO_SUCH_SCHEMA or ".dlq.route." in name else "999999"
        assert letter["kind"], letter
        assert reason in letter["message"], letter
    name = next(n for n in letters if ".dlq.sink." in n)
    (shown,) = at.listed("dlq", "show", name)
    assert shown["origin"].startswith(f"{at.prefix}sync.erp.contact-0-")
    assert base64.b64decode(shown["bytes"]) == value


def test_s19_a_deadlock_at_the_destination_is_resolved_by_trying_again(running: Installation) -> None:
    at = running
    letters = at.letters()
    at.insert("crm", "lock-1", city="a")
    wait(lambda: at.row("erp", "lock-1") is not None, at.said)
    at.execute(
        "erp",
        "create function test_lock() returns trigger language plpgsql as $$ begin"
        " if current_setting('application_name') <> 'somebody' then perform pg_advisory_xact_lock(42); end if;"
        " return null; end $$",
    )
    at.execute("erp", "create trigger test_lock after update on person for each row execute function test_lock()")
    count = "select deadlocks from pg_stat_database where datname = current_database()"
    waits = "select 1 from pg_locks where locktype = 'advisory' and not granted and database ="
    waits += " (select oid from pg_database where datname = current_database())"
    try:
        before = at.db("erp").execute(count).fetchone()
        with psycopg.connect(at.dsn["erp"], application_name="somebody") as other:
            other.execute("set deadlock_timeout = '60s'")  # so it is the sink that PostgreSQL picks
            other.execute("select pg_advisory_xact_lock(42)")
            at.update("crm", "lock-1", "city", "b")
            wait(lambda: bool(at.db("erp").execute(waits.encode()).fetchall()), at.said)
            other.execute("update person set tel = '1' where code = 'lock-1'")  # comes back once the sink was picked
        wait(lambda: at.db("erp").execute(count).fetchone() != before, "no deadlock was counted")
        wait(lambda: at.row("crm", "lock-1") == ("lock-1", None, "b", "1", 0), at.differences)
        at.wait_converged()
    finally:
        at.execute("erp", "drop trigger test_lock on person")
        at.execute("erp", "drop function test_lock()")
    assert at.letters() == letters


def drift(at: Installation, number: str) -> None:
    """Make a contact, and change its city in erp without anybody noticing."""
    at.insert("crm", number, city="Bonn", name="Ada")
    wait(lambda: at.row("erp", number) is not None, at.said)
    at.wait_converged()
    with psycopg.connect(at.dsn["erp"], autocommit=True) as hidden:
        hidden.execute("set session_replication_role = replica")  # no trigger fires
        hidden.execute("update person set town = 'Drift' where code = %s", [number])


def test_s24_drift_beside_a_write_is_not_touched_and_is_taken_up_when_seen(running: Installation) -> None:
    at = running
    drift(at, "drift-1")
    at.update("crm", "drift-1", "name", "Eva")
    wait(lambda: at.row("crm", "drift-1") == ("drift-1", "Eva", "Drift", None, 0), at.differences)
    at.wait_converged()


def test_s24_drift_under_a_write_is_met_by_the_base_check_and_decided_as_a_conflict(running: Installation) -> None:
    at = running
    drift(at, "drift-2")
    at.update("crm", "drift-2", "city", "Rome")
    wait(lambda: at.row("erp", "drift-2") == ("drift-2", "Ada", "Rome", None, 0), at.differences)
    at.wait_converged()
    assert at.row("crm", "drift-2") == ("drift-2", "Ada", "Rome", None, 0)
    seen = [c for c in at.listed("conflicts", "ls") if "Drift" in str(c) and "Rome" in str(c)]
    assert [(c["field"], c["system"], c["rule"]) for c in seen] == [("city", "erp", "priority")], seen


def test_s27_a_column_added_while_running_arrives_in_a_new_schema_version(running: Installation) -> None:
    at = running
    versions = f"{at.stack.endpoints().registry}/subjects/{at.prefix}cdc.crm.contact-value/versions"
    at.insert("crm", "column-1")
    wait(lambda: at.row("erp", "column-1") is not None, at.said)
    before = httpx.get(versions).json()
    at.execute("crm", "alter table contact add column birthday date")
    try:
        at.execute("crm", "update contact set birthday = '2000-01-02', city = 'Kyiv' where number = 'column-1'")
        wait(lambda: at.row("erp", "column-1") == ("column-1", None, "Kyiv", None, 0), at.differences)
        added = [v for v in httpx.get(versions).json() if v not in before]
        assert len(added) == 1, (before, added)
        assert "birthday" in httpx.get(f"{versions}/{added[0]}").json()["schema"]
        at.wait_converged()
    finally:
        at.execute("crm", "alter table contact drop column birthday")
