"""What several tests of one simulator share."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from simulators.dynamics import DynamicsSimulator
from simulators.server import Running
from tests.simulators.dynamics_access import control, web_api


@pytest.fixture
def dynamics() -> Iterator[Running]:
    with Running(DynamicsSimulator()) as running:
        yield running


@pytest.fixture
def api(dynamics: Running) -> Iterator[httpx.Client]:
    """The Web API, signed in as the integration."""
    with web_api(dynamics) as client:
        yield client


@pytest.fixture
def there(dynamics: Running) -> Iterator[httpx.Client]:
    """The control API."""
    with control(dynamics) as client:
        yield client
