"""The worker that takes webhooks: ``POST /hooks/<system>[/<tenant>]``.

A call is checked on the bytes it has, and answered 2xx only when Kafka has acknowledged what it says; what happens to it then is the
capture's affair (`producers.jobs`). So a sender that was answered need not keep anything, and one that was not tries again.

    200  in Kafka, known already, or of nothing that is captured     400  cannot be read
    401  signature missing, wrong, too old or too new                404  no such system or tenant
    405  not POST       408  sent too slowly                         413  larger than `hooks.max_body_bytes`
    503  with Retry-After: the tenant is off or revoked, or Kafka or the central database is in trouble

A tenant that is off gets 503 and not 410: it may be on again, and its sender keeps what it has meanwhile. Behind 410 many senders
would never call again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import uvicorn
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from producers.reception import Accepted, Answer, Reception, hooks_of
from producers.source import Call
from tidelock.config import HooksSpec
from tidelock.context import Context
from tidelock.errors import Fatal
from tidelock.kafka import close

log = structlog.get_logger()

_BODY_S = 10.0  # a sender that takes longer for its body is let go
_AT_ONCE = 500


class HooksWorker:
    """Serve webhooks in a thread; stepping serves Kafka's acknowledgements (`tidelock.workers.Worker`)."""

    def __init__(self, context: Context, system: str = "") -> None:  # noqa: ARG002 - it serves all systems
        spec = context.config.hooks
        if spec is None:
            raise Fatal("no webhooks are taken", hint="add `hooks:` to the configuration; {} takes the defaults")
        self._context = context
        # A message that is not delivered in time is an answer to the sender: nothing is kept for later.
        self._producer = context.kafka.producer(
            f"{context.name}-hooks",
            linger_ms=0,
            message_timeout_ms=int(spec.patience_s * 1000),
            delivery_report_only_error=False,
        )
        self._activity = context.kafka.producer(f"{context.name}-activity")
        reception = Reception(context, hooks_of(context))
        self._server = _Server(spec, _Desk(spec, reception, self._producer))
        self._server.start()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return self._server.port

    def step(self, wait_s: float) -> int:
        """Take acknowledgements; return how many."""
        self._server.check()
        served = self._producer.poll(wait_s)
        self._context.activity.publish(self._activity, self._context.codec, self._context.topics)
        return int(served)

    def close(self) -> None:
        """Stop listening; what is being taken is still answered."""
        self._server.stop(lambda: self._producer.poll(0.05))
        close(self._producer)
        close(self._activity)


class _Desk:
    """Answer calls; everything here runs in the loop of the server."""

    def __init__(self, spec: HooksSpec, reception: Reception, producer: Producer) -> None:
        self._spec, self._reception, self._producer = spec, reception, producer
        self._under_way: dict[tuple[str, str, str], asyncio.Future[Answer]] = {}

    async def hook(self, request: Request) -> Response:
        """Take a webhook."""
        system, tenant = request.path_params["system"], request.path_params.get("tenant")
        if request.method != "POST":
            return _response(self._reception.refused(system, 405, "method", "webhooks are sent by POST"), allow=True)
        try:
            async with asyncio.timeout(_BODY_S):
                body = await self._body(request)
        except TimeoutError:
            return _response(self._reception.refused(system, 408, "slow", "the body did not come in time"))
        except ClientDisconnect:
            return _response(self._reception.refused(system, 400, "disconnected", "the body ended early"))
        if body is None:
            most = self._spec.max_body_bytes
            return _response(self._reception.refused(system, 413, "too_large", f"more than {most} bytes"))
        call = Call(request.method, self._url(request), dict(request.headers.items()), body, dict(request.query_params))
        found = await asyncio.to_thread(self._reception.receive, system, tenant, call)
        if isinstance(found, Accepted):
            found = await self._store(found)
        return _response(found)

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        """Say that it runs."""
        return JSONResponse({"state": "ok"})

    async def _body(self, request: Request) -> bytes | None:
        """Read a body, as far as it may be; None if it is larger, whether that was told before or not."""
        most = self._spec.max_body_bytes
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > most:
            return None
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                return None
            parts.append(part)
        return b"".join(parts)

    def _url(self, request: Request) -> str:
        """Return the address as its sender knows it: some signatures cover it."""
        path = request.scope.get("raw_path", b"").decode("latin-1")
        query = request.scope.get("query_string", b"").decode("latin-1")
        base = self._spec.url or f"{request.url.scheme}://{request.url.netloc}"
        return f"{base.rstrip('/')}{path}{'?' if query else ''}{query}"

    async def _store(self, accepted: Accepted) -> Answer:
        """Wait for Kafka; a delivery that comes again meanwhile waits for the same acknowledgement."""
        delivery = accepted.delivery
        if delivery is not None and delivery in self._under_way:
            self._reception.repeated(accepted.system)
            return await asyncio.shield(self._under_way[delivery])
        if self._reception.known(delivery):  # stored while this one was looked at
            self._reception.repeated(accepted.system)
            return Answer(200, "repeated")
        made: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if delivery is not None:
            self._under_way[delivery] = made
        try:
            stored = await self._in_kafka(accepted)
            if stored:
                self._reception.remember(accepted)
            made.set_result(Answer(200) if stored else self._reception.failed(accepted.system))
        except BaseException:
            made.cancel()
            raise
        finally:
            if delivery is not None:
                del self._under_way[delivery]
        return made.result()

    async def _in_kafka(self, accepted: Accepted) -> bool:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[bool]] = []
        for topic, key, value in accepted.messages:
            future: asyncio.Future[bool] = loop.create_future()
            waiting.append(future)
            try:
                self._producer.produce(topic, value, key, on_delivery=partial(_reported, loop, future))
            except (BufferError, KafkaException) as error:
                log.warning("Kafka takes no webhooks", error=str(error))
                future.set_result(False)
        try:
            async with asyncio.timeout(self._spec.patience_s + 1.0):
                return all(await asyncio.gather(*waiting))
        except TimeoutError:
            return False


def _reported(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[bool], error: KafkaError | None, _: Message
) -> None:
    """Hand an acknowledgement over to the loop; this is called in the thread that polls the producer."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(_settle, future, error is None)


def _settle(future: asyncio.Future[bool], good: bool) -> None:
    if not future.done():
        future.set_result(good)


def _response(answer: Answer, *, allow: bool = False) -> Response:
    headers = {} if answer.retry_after_s is None else {"Retry-After": str(answer.retry_after_s)}
    if allow:
        headers["Allow"] = "POST"
    if answer.status == 200:
        return JSONResponse({"state": answer.reason or "accepted"}, 200, headers)
    return JSONResponse({"error": answer.reason, "message": answer.message}, answer.status, headers)


class _Server:
    """uvicorn in a thread of its own."""

    def __init__(self, spec: HooksSpec, desk: _Desk) -> None:
        routes = [
            Route("/healthz", desk.health, methods=["GET"]),
            *(Route(f"/hooks/{{system}}{rest}", desk.hook, methods=_METHODS) for rest in ("", "/{tenant}")),
        ]
        self._listening = _listen(spec)
        self.port: int = self._listening.getsockname()[1]
        config = uvicorn.Config(
            Starlette(routes=routes),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=False,
            limit_concurrency=_AT_ONCE,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=5,
        )
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="hooks", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def check(self) -> None:
        """Raise Fatal if it has ended by itself."""
        if not self._thread.is_alive():
            raise Fatal("the server for webhooks has ended", hint="the log says why; it is started again")

    def stop(self, meanwhile: Callable[[], Any]) -> None:
        """End it; ``meanwhile`` is called as long as answers are still due."""
        self._uvicorn.should_exit = True
        while self._thread.is_alive():
            meanwhile()
            self._thread.join(0.05)
        self._listening.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        await self._uvicorn.serve(sockets=[self._listening])
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()
        for _ in range(3):  # transports say goodbye in a later turn
            await asyncio.sleep(0)


_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def _listen(spec: HooksSpec) -> socket.socket:
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only then: it costs 40 ms per answer.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((spec.host, spec.port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            hint = "something else listens there: choose another `hooks.port`"
        else:
            hint = "`hooks.host` must be an address of this machine; 0.0.0.0 is all of them"
        raise Fatal(f"webhooks cannot be taken at {spec.host}:{spec.port}: {error.strerror}", hint=hint) from error
    sock.listen(1024)
    return sock
