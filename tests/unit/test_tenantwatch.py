"""That no change of tenants slips through between the thread that looks and the supervisor that asks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.scene import configure
from tests.model.systems import System
from tidelock import tenantwatch
from tidelock.config import Config
from tidelock.tenantwatch import TenantWatch


def config_of(*tenants: str) -> Config:
    places = [System("crm"), *(System(f"shop/{t}") for t in tenants)]
    return configure(places, flows=[{"from": "crm", "to": "shop"}])


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Let the database hold the last of these configurations; each is a new version."""
    there = [config_of("one")]

    class Tenants:
        def __init__(self, *_: Any) -> None: ...

        def version(self) -> int:
            return len(there)

    monkeypatch.setattr(tenantwatch, "Tenants", Tenants)
    monkeypatch.setattr(tenantwatch, "with_tenants", lambda *_: there[-1])
    return there


def test_what_comes_while_the_last_news_is_handed_out_is_handed_out_next(found: list[Config]) -> None:
    class Interrupted(TenantWatch):
        """A watch whose thread comes just while somebody asks."""

        between = False

        def __setattr__(self, name: str, value: Any) -> None:
            if self.between:
                self.__dict__["between"] = False
                found.append(config_of("one", "two", "three"))
                self._look()
            super().__setattr__(name, value)

    watch = Interrupted(found[0], None)  # type: ignore[arg-type]
    assert watch.changed() is None
    found.append(config_of("one", "two"))
    watch._look()
    watch.__dict__["between"] = True
    first, second = watch.changed(), watch.changed()
    assert [list(c.systems["shop"].all_tenants) if c else None for c in (first, second)] == [
        ["one", "two"],
        ["one", "two", "three"],
    ]
    assert watch.changed() is None
