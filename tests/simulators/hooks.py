"""What the tests of the webhook system share: a running one with clients, and a receiver that keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from simulators.server import Running
from simulators.webhook import WebhookSimulator
from tests.patience import until


class Hooks:
    """A running webhook system with a client that is signed in, and one for the control API."""

    def __init__(self, running: Running, client: httpx.Client, control: httpx.Client) -> None:
        self.running, self.client, self.control = running, client, control
        self.credentials: dict[str, Any] = running.ready["credentials"]

    def load(self, kind: str, *records: dict[str, Any]) -> list[str]:
        """Put records there as a user would."""
        got = self.control.post(f"/load/{kind}", json=list(records))
        assert got.status_code == 200, got.text
        return list(got.json()["ids"])

    def fault(self, kind: str, **more: Any) -> None:
        """Order a fault."""
        assert self.control.post("/faults", json={"kind": kind, **more}).status_code == 200

    def endpoint(self, url: str, **more: Any) -> dict[str, Any]:
        """Add an endpoint."""
        got = self.control.post("/webhooks", json={"url": url, **more})
        assert got.status_code == 200, got.text
        return dict(got.json())

    def inbox(self, name: str, **settings: Any) -> dict[str, Any]:
        """Open an inbox."""
        got = self.control.post(f"/inbox/{name}", json=settings)
        assert got.status_code == 200, got.text
        return dict(got.json())

    def received(self, name: str) -> list[dict[str, Any]]:
        """Return what an inbox has received."""
        return list(self.control.get(f"/inbox/{name}").json()["received"])

    def records(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the living records by id."""
        return {r["id"]: r for r in self.control.get(f"/records/{kind}").json() if "deleted" not in r}

    def advance(self, seconds: float) -> None:
        """Put the clock forward."""
        self.control.post("/clock", json={"advance_s": seconds})


@contextmanager
def hooks(**options: str) -> Iterator[Hooks]:
    """Serve a webhook system."""
    settings: dict[str, Any] = {"jitter": "0", **options}
    with Running(WebhookSimulator(**settings)) as running:
        key = {"authorization": f"Bearer {running.ready['credentials']['api_key']}"}
        with (
            httpx.Client(base_url=running.http, headers=key) as client,
            httpx.Client(base_url=f"{running.http}/_control") as control,
        ):
            yield Hooks(running, client, control)


class Receiver:
    """Somebody's server: keeps requests as (headers with small letters, body), and answers with what it was told to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        """The next answers; 200 when there are none."""

    def wait(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        """Wait until so many requests have come."""
        until(lambda: len(self.got) >= count)
        return self.got


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Serve a receiver."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            into.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            status, headers = into.answers.pop(0) if into.answers else (200, {})
            self.send_response(status)
            for name, value in {"content-length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    into = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield into
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
