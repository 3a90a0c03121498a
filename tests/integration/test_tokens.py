"""Tokens that many workers share: one sign-in per need across threads and processes, one revocation, nothing lost on the way."""

from __future__ import annotations

import base64
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.responses import JSONResponse, Response

from tests.access import SECRETS, make_config
from tests.apiserver import Api, Call, serving
from tests.fix_installation import wait
from tests.patience import DEADLINE_S
from tidelock.apis.access import Access
from tidelock.auth import ClientCredentials, RefreshToken, Static, Token, Tokens
from tidelock.config import Config
from tidelock.errors import Retry, Revoked, TidelockError
from tidelock.tenants import Tenants

pytestmark = pytest.mark.stack

THREADS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    server.reset()
    return server


@pytest.fixture
def dsn(database: Callable[[str], str]) -> str:
    return database("central")


def make(folder: Path, dsn: str) -> Config:
    credentials = {"client_id": "app", "client_secret": SECRETS[0], "refresh_token": SECRETS[1]}
    shop = {"capture": "none", "credentials": credentials, "tenants": {"north": {}, "south": {}}}
    return make_config(folder, {"shop": shop}, dsn=dsn)


@pytest.fixture
def worker(tmp_path: Path, dsn: str) -> Iterator[Callable[[], Access]]:
    """Return a factory of what each worker process has of its own."""
    made: list[Access] = []

    def new() -> Access:
        made.append(Access(make(tmp_path, dsn)))
        return made[-1]

    yield new
    for access in made:
        access.close()


def get(access: Access, grant: Any, *, name: str = "north", refused: str | None = None) -> Token:
    return access.tokens.get(access.tenants.get("shop", name), grant, refused=refused)


def together(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Do it in so many threads at the same moment; an error is a result, too."""
    start = threading.Barrier(number)

    def one(i: int) -> Any:
        start.wait(DEADLINE_S)
        try:
            return work(i)
        except TidelockError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def _process(folder: Path, dsn: str, url: str, barrier: Any, results: Queue[list[str]]) -> None:
    access = Access(make(folder, dsn))
    grant = RefreshToken(f"{url}/token")
    tenant = access.tenants.get("shop", "north")
    barrier.wait(DEADLINE_S)
    first = [t.value for t in together(THREADS, lambda _: access.tokens.get(tenant, grant))]
    barrier.wait(DEADLINE_S)
    second = [t.value for t in together(THREADS, lambda _: access.tokens.get(tenant, grant, refused="token-1"))]
    results.put([*first, *second])
    access.close()


def test_two_processes_with_twenty_threads_each_sign_in_once_per_need(
    api: Api, tmp_path: Path, dsn: str, worker: Callable[[], Access]
) -> None:
    api.rotating = True
    api.login_takes_s = 0.3
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_process, args=(tmp_path, dsn, api.url, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            values = results.get(timeout=DEADLINE_S)
            assert values == ["token-1"] * THREADS + ["token-2"] * THREADS
    finally:
        for process in processes:
            process.join(DEADLINE_S)
            process.kill()
    assert [call.form["refresh_token"] for call in api.logins] == [SECRETS[1], "r3fresh-token-1"]
    assert worker().tenants.get("shop", "north").credentials["refresh_token"] == "r3fresh-token-2"


def test_a_worker_that_starts_later_finds_the_token(api: Api, worker: Callable[[], Access]) -> None:
    grant = ClientCredentials(f"{api.url}/token")
    assert get(worker(), grant).value == "token-1"
    later = get(worker(), grant)
    assert (later.value, later.extra["instance_url"]) == ("token-1", api.url)
    assert get(worker(), grant, name="south").value == "token-2", "each tenant has its own"


def test_a_token_that_has_ended_is_renewed_once(api: Api, worker: Callable[[], Access]) -> None:
    api.expires_in = 0
    one, other, grant = worker(), worker(), ClientCredentials(f"{api.url}/token")
    get(one, grant)
    api.expires_in = 3600
    assert {t.value for t in together(8, lambda i: get((one, other)[i % 2], grant))} == {"token-2"}
    assert len(api.logins) == 2


def test_renewing_ahead_of_time_holds_nobody_up(api: Api, worker: Callable[[], Access]) -> None:
    one, other, grant = worker(), worker(), ClientCredentials(f"{api.url}/token")
    get(one, grant)
    get(other, grant)
    for access in (one, other):
        access.tokens._held["shop", "north"].due = 0.0
    with one.central.connect() as db:  # type: ignore[union-attr]
        db.execute(b"update tidelock.token set sealed = null")
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Call) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S)

    api.sign_in = slow
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(get, one, grant)
        assert begun.wait(DEADLINE_S)
        assert get(other, grant).value == "token-1", "the old one is good still"
        assert get(one, grant).value == "token-1"
        go_on.set()
        assert renewing.result(DEADLINE_S).value == "token-2"
    other.tokens._held["shop", "north"].due = 0.0
    assert get(other, grant).value == "token-2"
    assert len(api.logins) == 2


def test_a_renewal_that_fails_leaves_what_is_good(api: Api, worker: Callable[[], Access]) -> None:
    access, grant = worker(), ClientCredentials(f"{api.url}/token")
    get(access, grant)
    api.sign_in = lambda _: Response(status_code=503)
    sealed = access.tokens._held["shop", "north"]
    sealed.due = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidelock.auth._AHEAD_MOST_S", 1e9)
        patch.setattr("tidelock.auth._AHEAD", 1e6)
        assert get(access, grant).value == "token-1"
        assert len(api.logins) == 2
        assert get(access, grant).value == "token-1"
        assert len(api.logins) == 2, "and it is not tried again at once"


def test_an_endpoint_in_trouble_is_asked_by_one_and_left_alone_then(api: Api, worker: Callable[[], Access]) -> None:
    api.sign_in = lambda _: JSONResponse({"message": "maintenance"}, 503, {"Retry-After": "40"})
    workers = [worker(), worker()]
    errors = together(THREADS, lambda i: get(workers[i % 2], ClientCredentials(f"{api.url}/token")))
    assert {type(e) for e in errors} == {Retry}
    assert all("maintenance" in e.message and 30 < e.retry_after_s <= 40 for e in errors)
    assert len(api.logins) == 1


# ------------------------------------------------------------------------------------------------------- revoked


def test_a_refusal_is_known_to_all_and_stops_this_tenant_alone(api: Api, worker: Callable[[], Access]) -> None:
    def refuse(call: Call) -> Response | None:
        return JSONResponse({"error": "invalid_grant", "error_description": "expired access/refresh token"}, 400)

    one, other, grant = worker(), worker(), RefreshToken(f"{api.url}/token")
    assert get(one, grant, name="south").value == "token-1"
    api.sign_in = refuse
    errors = together(THREADS, lambda i: get((one, other)[i % 2], grant))
    assert {type(e) for e in errors} == {Revoked}
    assert len(api.logins) == 2, "it was tried once"
    assert get(other, grant, name="south").value == "token-1"
    tenant = worker().tenants.get("shop", "north")
    assert tenant.state == "revoked"
    assert tenant.reason is not None
    assert "expired access/refresh token" in tenant.reason
    assert SECRETS[1] not in str(errors[0]) + tenant.reason
    with pytest.raises(Revoked, match=r"is revoked since \d{4}-\d\d-\d\d(.|\n)*tidelock tenants connect shop north"):
        get(worker(), grant)


def test_a_person_who_connects_again_is_heard_without_a_restart(api: Api, worker: Callable[[], Access]) -> None:
    api.sign_in = lambda call: (
        JSONResponse({"error": "invalid_grant"}, 400) if call.form.get("refresh_token") == SECRETS[1] else None
    )
    running, grant = worker(), RefreshToken(f"{api.url}/token")
    with pytest.raises(Revoked):
        get(running, grant)
    worker().tenants.connected("shop", "north", {"refresh_token": "fresh"})

    def works() -> bool:
        try:
            return get(running, grant).value == "token-1"
        except Revoked:
            return False

    wait(works, "the new credentials are used")
    assert api.logins[-1].form["refresh_token"] == "fresh"


def test_who_connects_while_a_worker_signs_in_is_not_overwritten(api: Api, worker: Callable[[], Access]) -> None:
    api.rotating = True
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Call) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S)

    api.sign_in = slow
    running, person, grant = worker(), worker(), RefreshToken(f"{api.url}/token")
    with ThreadPoolExecutor(2) as pool:
        signing = pool.submit(get, running, grant)
        assert begun.wait(DEADLINE_S)
        connecting = pool.submit(person.tenants.connected, "shop", "north", {"refresh_token": "from-a-person"})
        go_on.set()
        signing.result(DEADLINE_S)
        connecting.result(DEADLINE_S)
    assert worker().tenants.get("shop", "north").credentials["refresh_token"] == "from-a-person"
    api.sign_in = lambda _: None
    get(worker(), grant)
    assert api.logins[-1].form["refresh_token"] == "from-a-person"


def test_a_refused_static_token_is_revoked_until_there_is_another(api: Api, worker: Callable[[], Access]) -> None:
    access, grant = worker(), Static("refresh_token")
    token = get(access, grant)
    with pytest.raises(Revoked, match="its token was refused"):
        get(access, grant, refused=token.value)
    with pytest.raises(Revoked):
        get(worker(), grant)
    access.tenants.change("shop", "north", credentials={"refresh_token": "another"})
    assert get(worker(), grant).value == "another"


def test_a_tenant_that_is_switched_off_is_not_signed_in(api: Api, worker: Callable[[], Access]) -> None:
    access = worker()
    access.tenants.disable("shop", "north", "moving house")
    with pytest.raises(Retry, match=r"switched off: moving house(.|\n)*tidelock tenants enable shop north") as found:
        get(access, ClientCredentials(f"{api.url}/token"))
    assert not isinstance(found.value, Revoked)
    assert api.logins == []


# ------------------------------------------------------------------------------------------------------- nothing is lost


def test_a_replaced_refresh_token_outlives_a_database_that_breaks(
    api: Api, worker: Callable[[], Access], dsn: str
) -> None:
    api.rotating = True
    end = b"select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tidelock'"

    def break_off(_: Call) -> None:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(end)

    api.sign_in = break_off
    access, grant = worker(), RefreshToken(f"{api.url}/token")
    with pytest.raises(Retry, match="the central database"):
        get(access, grant)
    api.sign_in = lambda _: None
    assert get(access, grant).value == "token-2"
    assert api.logins[-1].form["refresh_token"] == "r3fresh-token-1"
    assert worker().tenants.get("shop", "north").credentials["refresh_token"] == "r3fresh-token-2"


def test_tokens_are_sealed_and_survive_a_change_of_keys(
    api: Api, worker: Callable[[], Access], dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
    grant = ClientCredentials(f"{api.url}/token")
    monkeypatch.setenv("TIDELOCK_KEY", one)
    get(worker(), grant)
    with psycopg.connect(dsn) as db:
        row = db.execute("select sealed, trouble from tidelock.token").fetchone()
    assert row is not None
    assert b"token-1" not in row[0]
    monkeypatch.setenv("TIDELOCK_KEY", f"{two},{one}")
    assert worker().tenants.reseal() == 1
    monkeypatch.setenv("TIDELOCK_KEY", f"{two}")
    assert get(worker(), grant).value == "token-1"


def test_without_a_central_database_a_token_is_this_processs_own(api: Api, tmp_path: Path) -> None:
    tenants = Tenants(make_config(tmp_path), None)
    tokens, grant = Tokens(tenants), ClientCredentials(f"{api.url}/token")
    values = together(8, lambda _: tokens.get(tenants.get("shop", "north"), grant))
    assert {t.value for t in values} == {"token-1"}
    api.rotating = True
    credentials = {"client_id": "app", "refresh_token": SECRETS[1]}
    alone = Tenants(make_config(tmp_path, {"shop": {"capture": "none", "credentials": credentials}}), None)
    other = Tokens(alone)
    with pytest.raises(Retry, match="no central database to keep it in"):
        other.get(alone.get("shop", "default"), RefreshToken(f"{api.url}/token"))
    tokens.close()
    other.close()
