"""An API with a token endpoint for tests: Starlette in a thread, answering as the test says and remembering what it was asked."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.fix_installation import wait

Said = Callable[["Call"], Response | None]


@dataclass
class Call:
    """What was asked: for the test to look at."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    form: dict[str, str] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


class Api:
    """Tokens are ``token-1``, ``token-2``, …; only the newest of ``live`` is good. ``answer`` and ``sign_in`` may answer instead."""

    def __init__(self) -> None:
        self.url = ""
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything; where it is stays."""
        self.calls: list[Call] = []
        self.logins: list[Call] = []
        self.issued = 0
        self.live: set[str] = set()
        self.expires_in: float | None = 3600
        self.rotating = False
        self.sign_in: Said = lambda _: None
        self.answer: Said = lambda _: None
        self.login_takes_s = 0.0

    async def token(self, request: Request) -> Response:
        call = await _read(request)
        form = await request.form()
        call.form = {k: v for k, v in form.items() if isinstance(v, str)}
        with self._lock:
            self.logins.append(call)
        if self.login_takes_s:
            await asyncio.sleep(self.login_takes_s)
        said = self.sign_in(call)
        if said is not None:
            return said
        with self._lock:
            self.issued += 1
            value = f"token-{self.issued}"
            self.live.add(value)
        body: dict[str, object] = {"access_token": value, "token_type": "Bearer", "instance_url": self.url}
        if self.expires_in is not None:
            body["expires_in"] = self.expires_in
        if self.rotating:
            body["refresh_token"] = f"r3fresh-token-{self.issued}"
        return JSONResponse(body)

    async def any(self, request: Request) -> Response:
        call = await _read(request)
        with self._lock:
            self.calls.append(call)
        said = self.answer(call)
        if said is not None:
            return said
        if call.headers.get("authorization", "").removeprefix("Bearer ") not in self.live:
            return JSONResponse([{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}], 401)
        return JSONResponse({"ok": True})


async def _read(request: Request) -> Call:
    return Call(
        request.method, request.url.path, dict(request.query_params), dict(request.headers), await request.body()
    )


@contextmanager
def serving(folder: Path | None = None) -> Iterator[Api]:
    """Run an API on a free port of this machine; with a folder by TLS, with the authority's certificate at ``ca.pem`` in it."""
    api = Api()
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    routes = [Route("/token", api.token, methods=["POST"]), Route("/{rest:path}", api.any, methods=methods)]
    certificate = None
    if folder is not None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = str(folder / "server.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    config = uvicorn.Config(
        Starlette(routes=routes),
        log_level="error",
        lifespan="off",
        date_header=False,
        timeout_graceful_shutdown=1,
        ssl_certfile=certificate,
    )
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))

    async def main() -> None:
        await server.serve(sockets=[listening])
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        for _ in range(5):  # transports say goodbye in a later turn, those with TLS in a still later one
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    try:
        wait(lambda: server.started, "the API is up")
        api.url = f"http{'s' if folder else ''}://127.0.0.1:{listening.getsockname()[1]}"
        yield api
        if folder is not None:  # asyncio leaves transports open that are just saying farewell by TLS when the loop ends
            wait(lambda: not server.server_state.connections, "the clients of the API are closed")
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
