"""The first start of two databases that share most of their records: `tidelock run`, and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from processors.identity_seeds import PORTION
from tests.fix_installation import TABLES, Installation, installed, wait
from tidelock.embedded import Stack

pytestmark = pytest.mark.stack

SHARED = 500
OWN = {"crm": 60, "erp": PORTION + 300}  # what waits is decided in portions
# Writes down every row that is inserted while another one with the same number stands there.
WATCH = """
create table doubles (number text);
create function watch() returns trigger language plpgsql as $$ begin
    if (select count(*) from {table} where {key} = new.{key}) > 1 then insert into doubles values (new.{key}); end if;
    return null;
end $$;
create trigger watch after insert on {table} for each row execute function watch();
"""


@pytest.fixture
def fresh(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    """Return an installation that was never started, over databases in use; the seed of ``crm`` goes row by row."""
    with installed(stack, tmp_path) as at:
        text = at.config.read_text()
        slow = "    capture: replication\n    options: {seed_chunk_rows: 1}\n"
        assert text.count("    capture: replication\n") == 1
        at.config.write_text(text.replace("    capture: replication\n", slow))
        for system, (table, key) in TABLES.items():
            name = "name" if system == "crm" else "full_name"
            at.execute(
                system,
                f"insert into {table} ({key}, {name}) select 'shared-' || i, %s from generate_series(1, {SHARED}) i",
                f"as {system} has it",
            )
            at.execute(
                system,
                f"insert into {table} ({key}, {name}) select %s || i, 'n' from generate_series(1, {OWN[system]}) i",
                f"only-{system}-",
            )
            at.execute(system, WATCH.format(table=table, key=key))
        at.execute("erp", "delete from tidelock.queue")  # its rows stood there before the triggers did
        yield at


def status(at: Installation) -> dict[str, Any]:
    """Return what `tidelock status --json` says."""
    found: dict[str, Any] = json.loads(at.cli("status", "--json").stdout)
    return found


def kill(at: Installation, role: str) -> None:
    """Kill a worker and wait until the supervisor has another."""
    old = at.pids()[f"{role}-0"]
    os.kill(old, signal.SIGKILL)
    wait(lambda: at.pids().get(f"{role}-0", old) != old, at.said)


def test_what_both_hold_is_never_created_a_second_time(fresh: Installation) -> None:
    at = fresh
    at.start()
    slot = b"select 1 from pg_replication_slots where database = current_database() and confirmed_flush_lsn is not null"
    wait(lambda: at.db("crm").execute(slot).fetchone() is not None, at.said)
    with psycopg.connect(at.dsn["crm"]) as somebody:
        somebody.execute("lock table contact in access exclusive mode")  # in the middle of the seed, at the latest
        found: list[dict[str, Any]] = []

        def nearly_all_wait() -> bool:
            found[:] = [w for w in status(at)["waits"] if w["system"] == "crm"]
            return bool(found) and found[0]["creates"] > OWN["erp"] + SHARED / 2

        wait(nearly_all_wait, lambda: f"{found}\n{at.said()}")
        said = r"[\d,]+ creates wait for the seed of crm/contact, [\d,]+( of [\d,]+)? rows read"
        assert re.fullmatch(said, found[0]["text"]), found[0]["text"]
        assert found[0]["state"] == "reading"
        for role in ("identify", "route", "merge"):
            kill(at, role)
        (rows,) = somebody.execute("select count(*) from contact").fetchone() or (0,)
        assert rows == SHARED + OWN["crm"], "something was created before the seed was through"
    for role in ("capture.crm", "identify", "route"):
        kill(at, role)
    at.wait_converged(90.0)
    assert [len(at.rows(system)) for system in ("crm", "erp", "store")] == [SHARED + sum(OWN.values())] * 3
    for system in TABLES:
        assert at.db(system).execute(b"select number from doubles").fetchall() == []
    wait(lambda: status(at)["waits"] == [], lambda: str(status(at)["waits"]))
    assert at.letters() == {}
    assert {r[1] for r in at.rows("erp") if r[0].startswith("shared-")} == {"as crm has it"}

    assert at.cli("seed", "crm").returncode == 0  # later seeds hold nothing up
    at.insert("erp", "late", name="late")
    at.wait_converged()
    assert len(at.rows("crm")) == SHARED + sum(OWN.values()) + 1
    assert status(at)["waits"] == []
