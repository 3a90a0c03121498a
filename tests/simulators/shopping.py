"""What the tests of the shop share: a running shop, a client that is signed in, records to write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from simulators.server import Running
from simulators.shop import ShopSimulator

API = "/api/v1"


class Shop:
    """A running shop with a client that is signed in by API key, and one for the control API."""

    def __init__(self, running: Running, client: httpx.Client, control: httpx.Client) -> None:
        self.running, self.client, self.control = running, client, control
        self.credentials: dict[str, Any] = running.ready["credentials"]

    def load(self, kind: str, *records: dict[str, Any]) -> list[int]:
        """Put records there as a user would."""
        got = self.control.post(f"/load/{kind}", json=list(records))
        assert got.status_code == 200, got.text
        return [int(i) for i in got.json()["ids"]]

    def edit(self, kind: str, *records: dict[str, Any]) -> list[dict[str, Any]]:
        """Edit records as a user would."""
        got = self.control.post(f"/edit/{kind}", json=list(records))
        assert got.status_code == 200, got.text
        return list(got.json())

    def fault(self, kind: str, **more: Any) -> None:
        """Order a fault."""
        assert self.control.post("/faults", json={"kind": kind, **more}).status_code == 200

    def ids(self, kind: str, **query: Any) -> list[int]:
        """Return the ids of one page."""
        got = self.client.get(f"{API}/{kind}", params=query)
        assert got.status_code == 200, got.text
        return [r["id"] for r in got.json()["data"]]

    def write(self, method: str, kind: str, *records: dict[str, Any]) -> list[dict[str, Any]]:
        """Write several records and return their results."""
        got = self.client.request(method, f"{API}/{kind}", json={"records": list(records)})
        assert got.status_code == 200, got.text
        return list(got.json()["results"])


@contextmanager
def shop(**options: str) -> Iterator[Shop]:
    """Serve a shop."""
    settings: dict[str, Any] = {"limit": "0", "batch_delay_s": "0", **options}
    with Running(ShopSimulator(**settings)) as running:
        key = {"x-api-key": running.ready["credentials"]["api_key"]}
        with (
            httpx.Client(base_url=running.http, headers=key) as client,
            httpx.Client(base_url=f"{running.http}/_control") as control,
        ):
            yield Shop(running, client, control)


def customer(**more: Any) -> dict[str, Any]:
    """Return a customer to write."""
    return {"email": "ada@example.com", "last_name": "Lovelace", "country": "GBR", **more}


def order(**more: Any) -> dict[str, Any]:
    """Return an order to write."""
    lines = [{"sku": "A-1", "quantity": 2, "unit_price": "12.5"}, {"sku": "B-2", "quantity": 1, "unit_price": "0.99"}]
    return {"currency": "USD", "ship_country": "USA", "ship_postal_code": "62701", "lines": lines, **more}
