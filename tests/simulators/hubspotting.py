"""What the tests of HubSpot share: a running portal, a client that is signed in, one for the control API, and a receiver of webhooks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from simulators.hubspot import HubSpotSimulator
from simulators.server import Running
from tests.patience import until

CONTACTS = "/crm/v3/objects/contacts"
Answer = dict[str, Any]


class Portal:
    """A running portal with an httpx client that has the private token."""

    def __init__(self, running: Running, client: httpx.Client, control: httpx.Client) -> None:
        self.running, self.client, self.control = running, client, control
        self.credentials: dict[str, Any] = running.ready["credentials"]

    def call(self, method: str, path: str, body: Any = None, *, expect: int = 200, **query: Any) -> Answer:
        """Call the API and return the body of an answer with the expected status."""
        got = self.client.request(method, path, json=body, params=query)
        assert got.status_code == expect, f"{got.status_code} {got.text}"
        found: Answer = got.json() if got.content else {}
        return found

    def contact(self, **properties: Any) -> str:
        """Make a contact as an app and return its id."""
        return str(self.call("POST", CONTACTS, {"properties": properties}, expect=201)["id"])

    def values(self, number: str, *names: str, kind: str = "contacts") -> Answer:
        """Return properties of a record."""
        found: Answer = self.call("GET", f"/crm/v3/objects/{kind}/{number}", properties=",".join(names))["properties"]
        return found

    def search(self, kind: str = "contacts", *, expect: int = 200, filters: Any = (), **body: Any) -> Answer:
        """Search with filters of one group."""
        groups = [{"filters": [_filter(*f) for f in filters]}] if filters else []
        return self.call("POST", f"/crm/v3/objects/{kind}/search", {"filterGroups": groups, **body}, expect=expect)

    def order(self, path: str, body: Any = None) -> Answer:
        """Call the control API."""
        got = self.control.post(path, json=body)
        assert got.status_code == 200, got.text
        found: Answer = got.json()
        return found

    def fault(self, kind: str, **more: Any) -> None:
        """Order a fault."""
        self.order("/faults", {"kind": kind, **more})

    def advance(self, seconds: float) -> None:
        """Put the clock forward."""
        self.order("/clock", {"advance_s": seconds})

    def unique_property(self, name: str = "tidelock_id") -> None:
        """Make a unique property of contacts."""
        body = {"name": name, "label": name, "type": "string", "fieldType": "text"}
        more = {"groupName": "contactinformation", "hasUniqueValue": True}
        self.call("POST", "/crm/v3/properties/contacts", {**body, **more}, expect=201)


def _filter(name: str, operator: str, value: Any = None, high: Any = None) -> Answer:
    found = {"propertyName": name, "operator": operator}
    if isinstance(value, list):
        return {**found, "values": value}
    return {**found, **({} if value is None else {"value": value}), **({} if high is None else {"highValue": high})}


@contextmanager
def portal(**options: str) -> Iterator[Portal]:
    """Serve a portal without limits and without a lag of searches, unless the options say otherwise."""
    given = {"burst": "0", "oauth_burst": "0", "daily": "0", "search_per_s": "0", "search_lag_s": "0", **options}
    with Running(HubSpotSimulator(seed=7, **given)) as running:
        headers = {"authorization": f"Bearer {running.ready['credentials']['private_token']}"}
        with (
            httpx.Client(base_url=running.http, headers=headers) as client,
            httpx.Client(base_url=f"{running.http}/_control") as control,
        ):
            yield Portal(running, client, control)


@dataclass(slots=True)
class Heard:
    """One delivery as it came in."""

    uri: str
    headers: dict[str, str]
    body: str
    events: list[Answer]


@dataclass(slots=True)
class Receiver:
    """Somebody whom webhooks are sent to; ``answers`` are the statuses of the next deliveries, 200 after them."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    hold: threading.Event = field(default_factory=threading.Event)

    def events(self) -> list[Answer]:
        """Return all events that have come in."""
        return [event for heard in self.heard for event in heard.events]

    def wait(self, count: int) -> list[Answer]:
        """Return the events as soon as so many have come in."""
        until(lambda: len(self.events()) >= count)
        return self.events()


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Listen for webhooks on a free port."""
    import json

    found, lock = Receiver(), threading.Lock()
    found.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            with lock:
                found.at_once += 1
                found.most_at_once = max(found.most_at_once, found.at_once)
            found.hold.wait(60)
            with lock:
                found.at_once -= 1
                status = found.answers.pop(0) if found.answers else 200
                headers = {name.lower(): value for name, value in self.headers.items()}
                found.heard.append(Heard(f"http://{headers['host']}{self.path}", headers, body, json.loads(body)))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/hubspot/events?portal=a%20b%3Ac"
    try:
        yield found
    finally:
        found.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
