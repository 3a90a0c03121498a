"""Serve a simulator on http and https until it is stopped, in a thread for tests or as a process for `tidelock simulate`."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from simulators.base import Address, Call, Simulator
from simulators.control import Control

_HOST = "127.0.0.1"
_IDS = re.compile(r"(?<=[/(=,])(?=[^/]*\d)[\w.:'@%+-]{6,}(?=[/)?,.]|$)")
"""Parts of a path that name one record: they are left out where requests are counted by path."""


class Watch:
    """Middleware that keeps the log of requests and carries out the faults that every simulator knows."""

    def __init__(self, app: ASGIApp, simulator: Simulator) -> None:
        self._app = app
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_control"):
            await self._app(scope, receive, send)
            return
        simulator, method, path = self._simulator, scope["method"], scope["path"]
        started, call = (
            time.monotonic(),
            Call(simulator.clock.now(), method, path, scope["query_string"].decode(), 0, 0.0, 0, 0),
        )

        async def counting_receive() -> Message:
            message = await receive()
            call.received_bytes += len(message.get("body", b""))
            return message

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                date = email.utils.formatdate(simulator.clock.now(), usegmt=True).encode()
                message = {**message, "headers": [(b"date", date), *message.get("headers", ())]}
            call.sent_bytes += len(message.get("body", b""))
            await send(message)

        async def no_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]

        try:
            if (slow := simulator.faults.take("slow", method, path)) is not None:
                await asyncio.sleep(float(slow.more.get("delay_s", 1.0)))
            if simulator.faults.take("refused", method, path) is not None:
                await _break_off(send)
            elif (fault := simulator.faults.take("status", method, path)) is not None:
                body = fault.more.get("body", "")
                text = body if isinstance(body, str) else json.dumps(body)
                response = Response(
                    text, int(fault.more.get("status", 503)), fault.more.get("headers"), media_type="application/json"
                )
                await response(scope, counting_receive, counting_send)
            elif simulator.faults.take("lost", method, path) is not None:
                await self._app(scope, counting_receive, no_send)
                await _break_off(send)
            else:
                await self._app(scope, counting_receive, counting_send)
        finally:
            call.took_s = time.monotonic() - started
            simulator.calls.append(call)
            simulator.counts[f"{method} {_IDS.sub('*', path)} {call.status}"] += 1


async def _break_off(send: Send) -> None:
    """Begin an answer that never comes: the server then closes the connection, and the client has nothing it could take for one."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


def application(simulator: Simulator) -> Starlette:
    """Return the whole application: control API, the vendor's paths, faults and log."""

    async def nothing(request: Request) -> Response:
        return simulator.not_found(request)

    every = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    app = Starlette(
        routes=[Control(simulator).mount(), *simulator.routes(), Route("/{path:path}", nothing, methods=every)]
    )
    app.router.redirect_slashes = False
    app.add_middleware(Watch, simulator=simulator)
    app.add_exception_handler(405, lambda request, _: simulator.not_found(request))
    return app


class _Server(uvicorn.Server):
    """A server whose signals are somebody else's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Serving:
    """A simulator that is being served; ``async with`` starts and ends it."""

    def __init__(self, simulator: Simulator, port: int = 0, https_port: int = 0) -> None:
        self.simulator = simulator
        self._ports = (port, https_port)
        self._folder = tempfile.TemporaryDirectory(prefix=f"simulator-{simulator.name}-")
        self._servers: list[_Server] = []
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        ca_file, context = _certificate(Path(self._folder.name))
        plain, secure = _listen(self._ports[0]), _listen(self._ports[1])
        http, https = (f"{scheme}://{_HOST}:{s.getsockname()[1]}" for scheme, s in (("http", plain), ("https", secure)))
        self.simulator.address = Address(http, https, str(ca_file))
        app = application(self.simulator)
        for sock, tls in ((plain, None), (secure, context)):
            config = uvicorn.Config(
                app,
                lifespan="off",
                log_level="critical",
                access_log=False,
                http="httptools",
                ws="none",
                timeout_keep_alive=120,
                timeout_graceful_shutdown=1,
                server_header=False,
                date_header=False,  # `Watch` tells the simulator's own time
            )
            config.load()
            config.ssl = tls
            server = _Server(config)
            self._servers.append(server)
            self._running.append(asyncio.create_task(server.serve(sockets=[sock])))
        while not all(s.started for s in self._servers):
            for task in self._running:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)
        self.simulator.started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.simulator.stopped()
        for server in self._servers:
            server.should_exit = server.force_exit = True  # nobody waits for an answer from here any more
        await asyncio.gather(*self._running, return_exceptions=True)
        for state in (server.server_state for server in self._servers):
            for connection in list(state.connections):
                connection.transport.abort()
            for task in list(state.tasks):
                task.cancel()
            await asyncio.gather(*state.tasks, return_exceptions=True)
        for _ in range(5):  # transports say goodbye in a later turn, those with TLS in a still later one
            await asyncio.sleep(0)
        self._folder.cleanup()

    def ready_line(self) -> dict[str, Any]:
        """Return what `tidelock simulate` prints when everything answers."""
        s = self.simulator
        return {
            "name": s.name,
            "http": s.address.http,
            "https": s.address.https,
            "ca": s.address.ca,
            "control": f"{s.address.http}/_control",
            "credentials": s.credentials(),
        }


class Running:
    """A simulator in a thread of this process, for tests: ``with Running(ShopSimulator()) as shop: shop.http …``."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.ready: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"simulator {simulator.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait(30)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    @property
    def http(self) -> str:
        """Return the base URL without TLS."""
        return self.simulator.address.http

    @property
    def https(self) -> str:
        """Return the base URL with TLS."""
        return self.simulator.address.https

    @property
    def ca(self) -> str:
        """Return the file with the certificate to trust."""
        return self.simulator.address.ca

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self._error = error
            self._up.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with Serving(self.simulator) as serving:
            self.ready = serving.ready_line()
            self._up.set()
            await self._stop.wait()


def serve(simulator: Simulator, port: int = 0, https_port: int = 0) -> None:
    """Serve until SIGTERM or SIGINT; print one JSON line on stdout when everything answers. Raises OSError if a port is taken."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with Serving(simulator, port, https_port) as serving:
            sys.stdout.write(json.dumps(serving.ready_line()) + "\n")
            sys.stdout.flush()
            await stop.wait()

    asyncio.run(main())


def _listen(port: int) -> socket.socket:
    # named as TCP, since asyncio switches Nagle off only then: otherwise each small answer waits 40 ms for an acknowledgement
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((_HOST, port))
    except OSError:
        sock.close()
        raise
    sock.listen(1024)
    return sock


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate for this machine and the authority that signed it; return the authority's file and a context."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(_HOST, "localhost").configure_cert(context)
    return ca_file, context
