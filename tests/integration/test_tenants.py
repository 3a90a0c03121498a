"""Tenants, secrets and the central database on a real PostgreSQL: several at once, rotation, refusals, what a running one notices."""

from __future__ import annotations

import base64
import multiprocessing
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.access import SECRETS, make_config
from tests.fix_installation import wait
from tidelock.central import Central
from tidelock.config import Config
from tidelock.embedded import Stack
from tidelock.errors import Fatal, Retry
from tidelock.supervisor import Supervisor
from tidelock.tenants import Tenants, with_tenants
from tidelock.tenantwatch import TenantWatch
from tidelock.vault import VARIABLE

pytestmark = pytest.mark.stack


@pytest.fixture
def config(tmp_path: Path, database: Callable[[str], str]) -> Config:
    return make_config(tmp_path, dsn=database("central"))


@pytest.fixture
def central(config: Config) -> Iterator[Central]:
    made = Central(config)
    yield made
    made.close()


@pytest.fixture
def tenants(config: Config, central: Central) -> Tenants:
    return Tenants(config, central)


def dsn_of(config: Config) -> str:
    assert config.central.dsn is not None
    return config.central.dsn.get_secret_value()


# ------------------------------------------------------------------------------------------------------- the database


def test_many_that_come_first_at_once_make_the_schema_once(config: Config) -> None:
    many = [Central(config) for _ in range(8)]
    start = threading.Barrier(8)

    def first(central: Central) -> int:
        start.wait(30)
        with central.connect() as db:
            row = db.execute(b"select count(*) from tidelock.central").fetchone()
        central.close()
        return 0 if row is None else int(row[0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(first, many)) == [1] * 8


def test_the_embedded_servers_database_is_made_once(stack: Stack) -> None:
    name = f"once_{secrets.token_hex(4)}"
    try:
        assert stack.postgres.ensure_database(name) == stack.postgres.ensure_database(name)
        with psycopg.connect(stack.postgres.dsn(name)) as db:
            assert db.info.dbname == name
    finally:
        stack.postgres.drop_database(name)


def test_a_connection_that_broke_is_a_retry_and_the_next_one_is_new(central: Central, config: Config) -> None:
    with central.connect() as db:
        pid = db.info.backend_pid
    with pytest.raises(Retry, match="central database"), central.connect() as db:
        assert db.info.backend_pid == pid, "an idle connection is used again"
        db.execute(b"select pg_terminate_backend(pg_backend_pid())")
    with central.connect() as db:
        assert db.info.backend_pid != pid


def test_what_cannot_be_reached_or_entered(tmp_path: Path, config: Config) -> None:
    right = dsn_of(config)
    down = Central(make_config(tmp_path, dsn="postgresql://u:pr1vate@127.0.0.1:1/x"))
    with pytest.raises(Retry, match="check that it is up") as found, down.connect():
        pass
    assert "pr1vate" not in str(found.value)
    head, _, tail = right.rpartition("@")
    wrong = Central(make_config(tmp_path, dsn=f"{head.rpartition(':')[0]}:pr1vate@{tail}"))
    with pytest.raises(Fatal, match=r"check user, password and database in `central.dsn`") as refused, wrong.connect():
        pass
    assert "pr1vate" not in str(refused.value)
    nothing = Central(make_config(tmp_path, dsn="pr1vate nonsense"))
    with pytest.raises(Fatal, match="not a connection string") as other, nothing.connect():
        pass
    assert "pr1vate" not in str(other.value)


def test_a_schema_of_a_newer_version_is_left_alone(central: Central, config: Config) -> None:
    with central.connect() as db:
        db.execute(b"update tidelock.central set version = 99")
    with pytest.raises(Fatal, match="newer tidelock"), Central(config).connect():
        pass


def test_a_user_without_rights_is_told_which(central: Central, config: Config, tmp_path: Path) -> None:
    with psycopg.connect(dsn_of(config), autocommit=True) as db:
        db.execute("create role poor login password 'poor'")
    try:
        host = dsn_of(config).rpartition("@")[2]
        with (
            pytest.raises(Fatal, match="GRANT CREATE ON DATABASE"),
            Central(make_config(tmp_path, dsn=f"postgresql://poor:poor@{host}")).connect(),
        ):
            pass
    finally:
        with psycopg.connect(dsn_of(config), autocommit=True) as db:
            db.execute("drop role poor")


# ------------------------------------------------------------------------------------------------------- tenants


def test_added_changed_and_removed(tenants: Tenants, config: Config, central: Central) -> None:
    before = tenants.version()
    one = tenants.add(
        "hub", "one", url="https://one", options={"a": 1}, credentials={"token": SECRETS[2]}, when="name == 'x'"
    )
    assert (one.url, one.options, one.credentials, one.when) == (
        "https://one",
        {"a": 1},
        {"token": SECRETS[2]},
        "name == 'x'",
    )
    assert (one.state, one.added) == ("on", True)
    assert tenants.version() > before
    with pytest.raises(Fatal, match="has a tenant one already"):
        tenants.add("hub", "one")
    again = tenants.change("hub", "one", options={"b": 2}, credentials={"more": "m"})
    assert again.options == {"a": 1, "b": 2}
    assert again.credentials == {"token": SECRETS[2], "more": "m"}
    other = Tenants(config, central)
    assert other.get("hub", "one") == again
    tenants.remove("hub", "one")
    assert tenants.all("hub") == []
    with central.connect() as db:
        assert db.execute(b"select * from tidelock.tenant").fetchall() == []


def test_what_stands_in_the_file_is_changed_there(tenants: Tenants) -> None:
    for change in (
        lambda: tenants.add("shop", "north"),
        lambda: tenants.remove("shop", "north"),
        lambda: tenants.change("shop", "north", url="https://x"),
    ):
        with pytest.raises(Fatal, match="stands in the configuration file"):
            change()
    with pytest.raises(Fatal, match=r"has one tenant, default(.|\n)*`tenants: \{\}`"):
        tenants.add("single", "second")
    changed = tenants.change("shop", "north", credentials={"refresh_token": SECRETS[1]})
    assert changed.credentials == {"client_id": "app", "client_secret": SECRETS[0], "refresh_token": SECRETS[1]}
    assert tenants.get("shop", "south").credentials == {"client_id": "app", "client_secret": SECRETS[0]}


def test_secrets_are_sealed_in_every_table(tenants: Tenants, config: Config) -> None:
    tenants.add("hub", "one", credentials={"token": SECRETS[2]})
    tenants.connected("shop", "north", {"refresh_token": SECRETS[1]})
    tenants.revoke("shop", "north", "no longer")
    with psycopg.connect(dsn_of(config)) as db:
        for table in ("tenant", "token", "budget", "central", "tenants_version"):
            text = str(db.execute(f"select * from tidelock.{table}".encode()).fetchall())
            assert not [s for s in SECRETS if s in text or s.encode().hex() in text], table


def test_states_since_when_and_why(tenants: Tenants) -> None:
    tenants.disable("shop", "north", "moving house")
    off = tenants.get("shop", "north")
    assert (off.state, off.reason) == ("off", "moving house")
    tenants.disable("shop", "north", "moving house")
    assert tenants.get("shop", "north").since == off.since, "since the change, not since it was said again"
    tenants.enable("shop", "north")
    assert (tenants.get("shop", "north").state, tenants.get("shop", "north").reason) == ("on", None)
    tenants.revoke("shop", "north", "expired access/refresh token")
    assert (tenants.get("shop", "north").state, tenants.get("shop", "south").state) == ("revoked", "on")
    tenants.enable("shop", "north")
    assert tenants.get("shop", "north").state == "on"


def test_other_credentials_end_a_revocation_wherever_they_come_from(
    tenants: Tenants, central: Central, tmp_path: Path
) -> None:
    tenants.revoke("shop", "north", "bad")
    tenants.revoke("shop", "south", "bad")
    assert {t.state for t in tenants.all("shop")} == {"revoked"}
    tenants.connected("shop", "north", {"refresh_token": "new"})
    assert [t.state for t in tenants.all("shop")] == ["on", "revoked"]
    systems = {
        "shop": {"capture": "none", "credentials": {"client_id": "other"}, "tenants": {"north": {}, "south": {}}}
    }
    after = Tenants(make_config(tmp_path, systems), central)
    assert [t.state for t in after.all("shop")] == ["on", "on"]


def test_a_key_is_rotated_without_losing_a_secret(
    config: Config, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
    monkeypatch.setenv(VARIABLE, one)
    Tenants(config, central).add("hub", "one", credentials={"token": SECRETS[2]})
    Tenants(config, central).revoke("shop", "north", "bad")
    monkeypatch.setenv(VARIABLE, two)
    for system, name in (("hub", "one"), ("shop", "north")):
        with pytest.raises(Fatal, match="the key is wrong: what this installation keeps secret was sealed"):
            Tenants(config, central).get(system, name)
    monkeypatch.setenv(VARIABLE, f"{two},{one}")
    rotating = Tenants(config, central)
    assert rotating.get("shop", "north").state == "revoked", "another key is no other credential"
    assert rotating.reseal() == 1
    assert rotating.reseal() == 0
    monkeypatch.setenv(VARIABLE, two)
    after = Tenants(config, central)
    assert after.get("hub", "one").credentials == {"token": SECRETS[2]}
    assert after.get("shop", "north").state == "revoked"


# ------------------------------------------------------------------------------------------------------- while running


def test_a_run_begins_with_the_tenants_that_were_added(tenants: Tenants, config: Config, central: Central) -> None:
    tenants.add("hub", "one", url="https://one", credentials={"token": SECRETS[2]}, when="name == 'x'")
    tenants.add("shop", "west", options={"lang": "it"})
    merged = with_tenants(config, central)
    assert list(merged.systems["hub"].all_tenants) == ["one"]
    assert merged.systems["hub"].all_tenants["one"].when == "name == 'x'"
    assert list(merged.systems["shop"].all_tenants) == ["north", "south", "west"]
    assert merged.flows == config.flows
    assert not merged.systems["hub"].all_tenants["one"].credentials
    inside = Tenants(merged, central)  # as a worker has it
    assert inside.all("shop") == tenants.all("shop")
    assert inside.all("hub") == tenants.all("hub")


def test_only_what_the_plans_know_is_news(tenants: Tenants, config: Config) -> None:
    watch = TenantWatch(config, Central(config), every_s=0.02)
    watch.start()
    try:
        tenants.disable("shop", "north")
        tenants.connected("shop", "south", {"refresh_token": SECRETS[1]})
        seen = tenants.version()
        wait(lambda: watch._version == seen, "the version is looked at")
        assert watch.changed() is None
        tenants.add("hub", "one")
        wait(lambda: list(watch.config.systems["hub"].all_tenants) == ["one"], "the tenant is noticed")
        new = watch.changed()
        assert new is not None
        assert list(new.systems["hub"].all_tenants) == ["one"]
        assert watch.changed() is None
    finally:
        watch.stop()


class _Workers(Supervisor):
    """A supervisor whose workers do nothing until they are ended."""

    def _fork(self, role: str, slot: int) -> multiprocessing.process.BaseProcess:  # type: ignore[override]
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), name=f"{role}-{slot}")
        process.start()
        return process


def test_a_tenant_that_comes_starts_the_workers_anew_that_know_it(tenants: Tenants, config: Config) -> None:
    running = _Workers(config, "none", "none", only=["merge", "sink.shop", "sink.hub", "sink.crm"])
    running.start()
    try:
        before = running.pids
        assert set(before) == {"merge-0", "sink.shop-0", "sink.crm-0"}, "hub has no tenants yet"
        tenants.add("hub", "one")

        def begun() -> bool:
            running.watch()
            return "sink.hub-0" in running.pids and running.pids.get("merge-0", before["merge-0"]) != before["merge-0"]

        wait(begun, lambda: str((before, running.pids)))
        assert running.pids["sink.crm-0"] == before["sink.crm-0"]
        assert running.pids["sink.shop-0"] == before["sink.shop-0"]
        tenants.remove("hub", "one")

        def ended() -> bool:
            running.watch()
            return "sink.hub-0" not in running.pids and len(running.pids) == 3

        wait(ended, lambda: str(running.pids))
    finally:
        running.stop()
