"""How the tests of the Dynamics simulator sign in, with the vendor's own clients and without."""

from __future__ import annotations

from typing import Any

import httpx
from azure.core.credentials import AccessToken

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running


def token(running: Running, **form: str) -> httpx.Response:
    """Ask for a token as the integration does; ``form`` replaces or adds fields."""
    known: dict[str, Any] = running.ready["credentials"]
    wish = {
        "grant_type": "client_credentials",
        "client_id": known["client_id"],
        "client_secret": known["client_secret"],
        "scope": f"{running.http}/.default",
        **form,
    }
    return httpx.post(f"{running.http}{known['token_path']}", data=wish)


def simulator(running: Running) -> DynamicsSimulator:
    """Return the simulator behind a server."""
    assert isinstance(running.simulator, DynamicsSimulator)
    return running.simulator


def web_api(running: Running, **headers: str) -> httpx.Client:
    """Return a client of the Web API that is signed in as the integration."""
    access = token(running).json()["access_token"]
    return httpx.Client(
        base_url=f"{running.http}/api/data/v9.2/", headers={"Authorization": f"Bearer {access}", **headers}, timeout=30
    )


def control(running: Running) -> httpx.Client:
    """Return a client of the control API."""
    return httpx.Client(base_url=f"{running.http}/_control", timeout=30)


class Credential:
    """The least that the vendor's client asks of a credential of azure-identity."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        """Return a token for the scope that the client derives from its base URL."""
        self.scopes += scopes
        got = token(self._running, scope=scopes[0]).json()
        return AccessToken(got["access_token"], int(self._running.simulator.clock.now()) + int(got["expires_in"]))
