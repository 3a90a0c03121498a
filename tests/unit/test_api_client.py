"""The client for APIs against a real server: what is sent again, what is not, what is said, and that no secret is ever in it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import JSONResponse, Response

from tests.access import SECRETS, make_config
from tests.apiserver import Api, Call, serving
from tidelock.apis.client import ApiClient
from tidelock.apis.judging import Answer, judge
from tidelock.auth import ClientCredentials, RefreshToken, Static, Tokens
from tidelock.config import TracingSpec
from tidelock.errors import Fatal, Lost, Reject, Retry, Revoked, TidelockError
from tidelock.limits import Limits, LimitSpec
from tidelock.tenants import Tenants
from tidelock.tracing import Tracing

MakeClient = Callable[..., ApiClient]


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    server.reset()
    return server


@pytest.fixture
def make(tmp_path: Path, api: Api) -> Iterator[MakeClient]:
    made: list[Any] = []

    def client(spec: LimitSpec | None = None, *, name: str = "north", **options: Any) -> ApiClient:
        tenants = Tenants(make_config(tmp_path), None)
        tokens = Tokens(tenants)
        tenant = tenants.get("shop", name)
        given = {
            "base_url": api.url,
            "grant": ClientCredentials(f"{api.url}/token"),
            "judge": judge,
            "limits": Limits(None, tenant, spec or LimitSpec(), patience_s=2.0),
            **options,
        }
        out = ApiClient(tenant, tokens=tokens, **given)
        made.extend((out, tokens))
        return out

    yield client
    for thing in made:
        thing.close()


def first(*answers: Response | None) -> Callable[[Call], Response | None]:
    """Return a server's part: these answers one after the other, then as usual."""
    left = iter(answers)
    return lambda _: next(left, None)


# ------------------------------------------------------------------------------------------------------- calls


def test_a_call_goes_out_with_token_json_and_query(api: Api, make: MakeClient) -> None:
    told: list[tuple[str, int, float]] = []
    client = make(headers={"OData-Version": "4.0"}, on_call=lambda *call: told.append(call))
    answer = client.send(
        "POST", "/things?a=1", params={"b": "x y"}, json={"n": 1}, headers={"Prefer": "p"}, name="create"
    )
    assert (answer.status, answer.json()) == (200, {"ok": True})
    (call,) = api.calls
    assert (call.method, call.path, call.query, call.body) == ("POST", "/things", {"a": "1", "b": "x y"}, b'{"n":1}')
    assert call.headers["authorization"] == "Bearer token-1"
    assert call.headers["content-type"] == "application/json"
    assert (call.headers["odata-version"], call.headers["prefer"]) == ("4.0", "p")
    assert call.headers["user-agent"].startswith("tidelock/")
    client.send("GET", f"{api.url}/more")
    assert len(api.logins) == 1
    assert [(name, status) for name, status, _ in told] == [("create", 200), ("GET", 200)]
    assert all(0 < seconds < 30 for *_, seconds in told)


def test_the_base_may_come_from_the_token(api: Api, make: MakeClient) -> None:
    make(base_url=lambda token: f"{token.extra['instance_url']}/services/data/").send("GET", "/x")
    assert api.calls[0].path == "/services/data/x"


@pytest.mark.parametrize("url", ["https://evil.example/x", "http://127.0.0.1:1/x"])
def test_the_token_does_not_go_to_another_server(api: Api, make: MakeClient, url: str) -> None:
    with pytest.raises(Fatal, match="does not get the token"):
        make().send("GET", url)
    assert api.calls == []


def test_redirects_are_not_followed(api: Api, make: MakeClient) -> None:
    api.answer = first(Response(status_code=302, headers={"location": "https://evil.example"}))
    assert make().send("GET", "/x").status == 302


@pytest.mark.parametrize("base", ["", "shop.example", "ftp://x", "http://"])
def test_an_address_that_is_none_is_said_to_be_none(api: Api, make: MakeClient, base: str) -> None:
    with pytest.raises(Fatal, match="no address of an API"):
        make(base_url=base).send("GET", "/x")


def test_idle_connections_are_used_again(api: Api, make: MakeClient) -> None:
    client = make()
    ports: set[Any] = set()
    real = client._http.send

    def send(request: httpx.Request) -> httpx.Response:
        response = real(request)
        ports.add(response.extensions["network_stream"].get_extra_info("client_addr"))
        return response

    client._http.send = send  # type: ignore[assignment,method-assign]
    for _ in range(5):
        client.send("GET", "/x")
    assert len(ports) == 1


# ------------------------------------------------------------------------------------------------------- sending again


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_is_harmless_is_sent_again(api: Api, make: MakeClient, method: str, status: int) -> None:
    api.answer = first(
        Response(status_code=status, headers={"Retry-After": "0"}),
        Response(status_code=status, headers={"Retry-After": "0"}),
    )
    assert make().send(method, "/x").status == 200
    assert len(api.calls) == 3


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_change_that_may_have_happened_is_lost(api: Api, make: MakeClient, status: int) -> None:
    api.answer = first(JSONResponse({"message": "oh"}, status))
    with pytest.raises(Lost, match=rf"POST 127\.0\.0\.1:\d+/x answered {status}: oh; it may have been carried out"):
        make().send("POST", "/x", params={"secret": "pr1vate"}, json={})
    assert len(api.calls) == 1


def test_a_change_is_sent_again_when_it_was_not_carried_out_or_is_harmless(api: Api, make: MakeClient) -> None:
    busy = Response(status_code=503, headers={"Retry-After": "0"})
    api.answer = first(Response(status_code=429, headers={"Retry-After": "0"}), busy)
    assert make().send("POST", "/x", json={}).status == 200
    api.answer = first(Response(status_code=500))
    assert make().send("PATCH", "/x", json={}, repeat=True).status == 200
    api.answer = first(Response(status_code=500))
    with pytest.raises(Lost):
        make().send("PUT", "/x", json={}, repeat=False)


def test_it_gives_up_in_the_end(api: Api, make: MakeClient) -> None:
    api.answer = lambda _: Response(status_code=503, headers={"Retry-After": "0"})
    with pytest.raises(Retry, match="answered 503"):
        make().send("GET", "/x")
    assert len(api.calls) == 5


def test_a_long_wait_is_the_callers(api: Api, make: MakeClient) -> None:
    api.answer = first(Response(status_code=429, headers={"Retry-After": "600"}))
    client = make()
    with pytest.raises(Retry) as found:
        client.send("GET", "/x")
    assert found.value.retry_after_s == 600
    with pytest.raises(Retry, match="it has asked for a pause") as again:
        client.send("GET", "/other")
    assert 590 < (again.value.retry_after_s or 0) <= 600
    assert len(api.calls) == 1


def test_retry_after_is_obeyed_as_a_date_too(api: Api, make: MakeClient) -> None:
    date = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:28:01 GMT"}
    api.answer = first(Response(status_code=429, headers=date))
    make().send("POST", "/x", json={})
    before, after = api.calls
    assert after.at - before.at >= 1.0


def test_stopping_ends_the_waiting(api: Api, make: MakeClient) -> None:
    stop = threading.Event()

    def answer(_: Call) -> Response:
        stop.set()
        return Response(status_code=503, headers={"Retry-After": "14"})

    api.answer = answer
    began = time.monotonic()
    with pytest.raises(Retry):
        make(stop=stop).send("GET", "/x")
    assert time.monotonic() - began < 10
    assert len(api.calls) == 1


def hanging_up(answers: list[bytes]) -> tuple[str, threading.Thread, list[int]]:
    """Run a server that reads a request and closes the connection after these bytes; then it goes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    seen: list[int] = []

    def serve() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    seen.append(1)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread, seen


def test_a_broken_connection_is_lost_for_a_change_and_tried_again_otherwise(make: MakeClient) -> None:
    url, thread, seen = hanging_up(
        [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]
    )
    client = make(base_url=url, grant=Static("client_secret"))
    with pytest.raises(Lost, match=r"POST .*/x: the connection broke before the answer"):
        client.send("POST", "/x", json={})
    assert client.send("GET", "/x").json() == {}
    thread.join(30)
    assert len(seen) == 3


def test_an_answer_that_does_not_come_in_time_is_lost(make: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = make(
            base_url=f"http://127.0.0.1:{silent.getsockname()[1]}", grant=Static("client_secret"), timeout_s=0.2
        )
        with pytest.raises(Lost, match="ReadTimeout"):
            client.send("PATCH", "/x", json={})


def test_nobody_there_is_never_lost(make: MakeClient) -> None:
    client = make(base_url="http://127.0.0.1:1", grant=Static("client_secret"))
    with pytest.raises(Retry, match=r"POST 127\.0\.0\.1:1/x: no connection") as found:
        client.send("POST", "/x", json={})
    assert not isinstance(found.value, Lost)


# ------------------------------------------------------------------------------------------------------- the judge


def test_the_judge_decides_what_an_answer_means(api: Api, make: MakeClient) -> None:
    asked: list[tuple[int, str]] = []

    def strict(answer: Answer, what: str) -> TidelockError | None:
        asked.append((answer.status, what))
        return {404: None, 400: Reject("bad", kind="invalid"), 403: Fatal("never")}.get(answer.status)

    client = make(judge=strict)
    api.answer = first(
        Response(status_code=404), Response(status_code=400), Response(status_code=403), Response(status_code=409)
    )
    assert client.send("GET", "/x").status == 404
    for error in (Reject, Fatal):
        with pytest.raises(error):
            client.send("GET", "/x")
    assert client.send("GET", "/x", ok={409}).status == 409
    assert [status for status, _ in asked] == [404, 400, 403], "what is ok is not judged"
    assert asked[0][1] == f"GET {api.url.removeprefix('http://')}/x"


def test_a_retry_of_the_judge_means_not_carried_out_and_its_wait_holds_for_all(api: Api, make: MakeClient) -> None:
    def salesforce(answer: Answer, what: str) -> TidelockError | None:
        return Retry(what, retry_after_s=0.5 if b"LIMIT" in answer.content else None)

    client = make(judge=salesforce)
    api.answer = first(Response(b"LOCKED", 400), Response(b"LIMIT", 403))
    client.send("POST", "/x", json={})
    assert [c.at - b.at > 0.45 for b, c in itertools.pairwise(api.calls)] == [False, True]


def test_the_plain_judge(api: Api, make: MakeClient) -> None:
    headers = httpx.Headers()
    assert judge(Answer(304, headers, b""), "x") is None
    rejected = judge(Answer(422, headers, b'{"message":"too long"}'), "PUT h/x")
    assert isinstance(rejected, Reject)
    assert (rejected.kind, rejected.message) == ("invalid", "PUT h/x answered 422: too long")
    assert isinstance(judge(Answer(404, headers, b""), "x", {}), Fatal)
    assert isinstance(judge(Answer(403, headers, b""), "x"), Fatal)
    assert isinstance(judge(Answer(503, headers, b""), "x"), Retry)
    with pytest.raises(Retry, match="is no JSON"):
        Answer(200, headers, b"<html>").json()


# ------------------------------------------------------------------------------------------------------- tokens


def test_a_refused_token_is_replaced_once(api: Api, make: MakeClient) -> None:
    client = make()
    client.send("GET", "/x")
    api.live.clear()
    assert client.send("POST", "/x", json={}).status == 200, "a refused call has not happened"
    assert len(api.logins) == 2


def test_a_second_refusal_revokes_the_tenant_and_no_other(api: Api, make: MakeClient) -> None:
    client = make()
    api.answer = lambda _: JSONResponse([{"message": "not for you", "errorCode": "INVALID_SESSION_ID"}], 401)
    with pytest.raises(
        Revoked,
        match=r"answered 401: INVALID_SESSION_ID: not for you, also with a new token(.|\n)*`tidelock tenants enable shop north`",
    ):
        client.send("GET", "/x")
    assert (len(api.calls), len(api.logins)) == (2, 2)
    with pytest.raises(Revoked, match="shop/north is revoked"):
        client.send("GET", "/x")
    assert (len(api.calls), len(api.logins)) == (2, 2), "nobody is asked any more"
    api.answer = lambda _: None
    assert make(name="south").send("GET", "/x").status == 200


def test_a_static_token_that_is_refused_revokes_at_once(api: Api, make: MakeClient) -> None:
    client = make(grant=Static("client_secret"))
    with pytest.raises(Revoked, match=r"its token was refused(.|\n)*`tidelock tenants set shop north`"):
        client.send("GET", "/x")
    assert len(api.calls) == 1


def test_a_revocation_by_the_judge_is_kept(api: Api, make: MakeClient) -> None:
    client = make(judge=lambda _answer, what: Revoked(f"{what}: gone"))
    api.answer = first(Response(status_code=403))
    with pytest.raises(Revoked, match="gone"):
        client.send("GET", "/x")
    with pytest.raises(Revoked, match="is revoked"):
        client.send("GET", "/x")


# ------------------------------------------------------------------------------------------------------- TLS, traces, secrets


def test_an_own_authority_is_trusted_where_it_is_named(tmp_path: Path, make: MakeClient) -> None:
    with serving(tmp_path) as secure:
        secure.live.add(SECRETS[0])
        grant = Static("client_secret")
        client = make(base_url=secure.url, grant=grant, verify=str(tmp_path / "ca.pem"))
        assert client.send("GET", "/x").status == 200
        client.close()
        config = make_config(tmp_path, {"shop": {"capture": "none", "url": secure.url, "options": {"ca": str(tmp_path / "ca.pem")}, "credentials": {"client_id": "a", "client_secret": SECRETS[0]}}})  # fmt: skip
        tenants = Tenants(config, None)
        tenant, tokens = tenants.get("shop", "default"), Tokens(tenants)
        client = ApiClient(
            tenant,
            base_url=secure.url,
            grant=ClientCredentials(f"{secure.url}/token"),
            tokens=tokens,
            limits=Limits(None, tenant, LimitSpec()),
            judge=judge,
        )
        assert client.send("GET", "/x").status == 200, "the token endpoint, too, is trusted by the option"
        client.close()
        tokens.close()


def test_an_unknown_authority_is_named_as_the_trouble(tmp_path: Path, make: MakeClient) -> None:
    """A server of our own: asyncio's leaves a transport open when a client breaks off the handshake."""
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        client = make(base_url=f"https://127.0.0.1:{listener.getsockname()[1]}", grant=Static("client_secret"))
        with pytest.raises(Retry, match="name the file of its authority in the option `ca` of shop/north"):
            client.send("GET", "/x")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)


def test_a_span_per_call_without_query_or_secret(api: Api, make: MakeClient) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingSpec(ratio=1.0), "sink", exporter)
    client = make(tracing=tracing)
    api.answer = first(None, Response(status_code=500))
    client.send("GET", "/x", params={"q": "pr1vate"}, name="query")
    with pytest.raises(Lost):
        client.send("POST", "/x")
    tracing.close()
    good, bad = exporter.get_finished_spans()
    assert good.name == "query"
    assert good.attributes is not None
    assert dict(good.attributes) == {
        "http.request.method": "GET", "server.address": "127.0.0.1", "url.path": "/x", "http.response.status_code": 200,
        "tidelock.system": "shop", "tidelock.tenant": "north",
    }  # fmt: skip
    assert bad.status.description == "500"


def test_no_secret_is_in_any_error_or_log(
    api: Api, make: MakeClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A vendor that quotes everything it was given, in every kind of answer."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    def quoting(call: Call, status: int = 400) -> Response:
        said = f"{call.headers.get('authorization')} {call.body!r} {call.form}"
        return JSONResponse({"error": "invalid_grant", "error_description": said, "message": said}, status)

    config_secret, query_secret = SECRETS[0], "qu3ry-value"
    for status, place in itertools.product((400, 401, 403, 404, 500, 503), ("answer", "sign_in")):
        api.reset()
        setattr(api, place, partial(quoting, status=status))
        with pytest.raises(TidelockError) as found:
            make().send("POST", "/x", params={"q": query_secret}, json={})
        texts.append(f"{found.value} {found.value!r} {found.value.args}")
    api.reset()
    refresh = make(grant=RefreshToken(f"{api.url}/token", refresh_token="client_secret"))
    api.sign_in = quoting
    with pytest.raises(TidelockError) as found:
        refresh.send("GET", "/x", params={"q": query_secret})
    texts.append(str(found.value))
    client = make(base_url="http://127.0.0.1:1", grant=Static("client_secret"))
    with pytest.raises(Retry) as nobody:
        client.send("GET", "/x", params={"q": query_secret})
    texts.append(str(nobody.value))
    everything = "\n".join(
        [*texts, *(r.getMessage() for r in caplog.records if r.name != "asyncio"), *capfd.readouterr()]
    )
    for secret in (config_secret, query_secret, "token-1", "token-2"):
        assert secret not in everything
    assert "***" in everything, "the vendor did quote them"
