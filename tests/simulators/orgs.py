"""A Salesforce org for a test: served, with a client that has signed in and one for the control API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from simulators.salesforce import SalesforceSimulator
from simulators.server import Running

VERSION = "68.0"


@dataclass
class Org:
    """The simulator, and both of its sides."""

    running: Running
    simulator: SalesforceSimulator
    client: httpx.Client
    control: httpx.Client
    credentials: dict[str, Any]

    @property
    def http(self) -> str:
        return self.running.http

    def load(self, kind: str, *records: dict[str, Any]) -> list[str]:
        got = self.control.post(f"/load/{kind}", json=list(records))
        assert got.status_code == 200, got.text
        return list(got.json()["ids"])

    def act(self, path: str, body: Any) -> Any:
        got = self.control.post(path, json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def fault(self, kind: str, **more: Any) -> None:
        self.act("/faults", {"kind": kind, **more})

    def advance(self, seconds: float) -> None:
        self.act("/clock", {"advance_s": seconds})

    def row(self, kind: str, id_: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.control.get(f"/records/{kind}").json()
        return next(r for r in rows if r["Id"] == id_)

    def create(self, kind: str, **fields: Any) -> str:
        got = self.client.post(f"/sobjects/{kind}", json=fields)
        assert got.status_code == 201, got.text
        return str(got.json()["id"])

    def query(self, text: str, path: str = "/query") -> list[dict[str, Any]]:
        got = self.client.get(path, params={"q": text})
        assert got.status_code == 200, got.text
        records: list[dict[str, Any]] = got.json()["records"]
        return records

    def values(self, text: str) -> list[Any]:
        """Return the one field that a query selects."""
        return [next(v for k, v in r.items() if k != "attributes") for r in self.query(text)]

    def token(self, **form: str) -> httpx.Response:
        return httpx.post(f"{self.http}/services/oauth2/token", data=form)

    def refresh(self) -> httpx.Response:
        c = self.credentials
        return self.token(
            grant_type="refresh_token",
            refresh_token=c["refresh_token"],
            client_id=c["client_id"],
            client_secret=c["client_secret"],
        )

    def signed_in(self, **headers: str) -> httpx.Client:
        """Return a client with an access token of its own and further headers."""
        token = self.refresh().json()["access_token"]
        return httpx.Client(
            base_url=f"{self.http}/services/data/v{VERSION}", headers={"authorization": f"Bearer {token}", **headers}
        )


@contextmanager
def org(**options: Any) -> Iterator[Org]:
    """Serve an org with these options for the length of a ``with``."""
    simulator = SalesforceSimulator(**options)
    with Running(simulator) as running, httpx.Client(base_url=f"{running.http}/_control") as control:
        out = Org(running, simulator, control, control, running.ready["credentials"])
        with out.signed_in() as out.client:
            yield out


def refused(got: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the error of a refused call after looking at its status and code."""
    assert got.status_code == status, got.text
    errors: Sequence[dict[str, Any]] = got.json()
    assert errors[0]["errorCode"] == code, got.text
    return errors[0]
