"""The limit on changes per actor."""

from __future__ import annotations

import pytest

from processors.guards import ActorLimits
from processors.mapping import compile_plans
from processors.scratch import ScratchState
from tidelock.change import Change
from tidelock.config import Config
from tidelock.errors import Reject

MINUTE = 60_000_000


def _limits() -> ActorLimits:
    table = {"table": "contact", "actor_limit_per_min": 4, "map": [{"column": "name", "field": "name"}]}
    config = Config.model_validate(
        {
            "systems": {"crm": {"dsn": "postgresql://x/y", "entities": {"contact": table}}, "erp": {"dsn": "postgresql://x/z", "entities": {"contact": table}}},
            "entities": {"contact": {"fields": {"name": {}}}},
            "flows": [{"entity": "contact", "from": "crm", "to": "erp"}],
        }
    )  # fmt: skip
    return ActorLimits(compile_plans(config)["contact"], partitions=2)  # two changes per minute and partition


def _change(at: int, actor: str | None = "ann", origin: str | None = None) -> Change:
    return Change(
        bytes(16), bytes(16), 1, at, at, "1", origin, None, actor, "crm", "default", "contact", frozenset(), (), []
    )


def test_the_third_change_within_a_minute_is_parked_and_so_are_later_ones() -> None:
    limits, state = _limits(), ScratchState()
    for at in (0, 1):
        limits.check("j", 0, _change(at), state)
    for at in (2, 5 * MINUTE):
        with pytest.raises(Reject) as caught:
            limits.check("j", 0, _change(at), state)
        assert caught.value.kind == "actor_limit"
        assert "tidelock release crm ann" in str(caught.value)


def test_slow_actors_other_actors_and_our_own_writes_pass() -> None:
    limits, state = _limits(), ScratchState()
    for minute in range(6):
        limits.check("j", 0, _change(minute * MINUTE), state)
    for at in range(10):
        limits.check("j", 0, _change(at, actor=f"user{at}"), state)
        limits.check("j", 0, _change(at, origin="tidelock"), state)
        limits.check("j", 0, _change(at, actor=None), state)


def test_release_lets_everything_up_to_a_time_pass_and_counts_anew() -> None:
    limits, state = _limits(), ScratchState()
    for at in (0, 1):
        limits.check("j", 0, _change(at), state)
    with pytest.raises(Reject):
        limits.check("j", 0, _change(2), state)
    limits.release("j", 0, "crm", "", "ann", 10, state)
    for _ in range(5):
        limits.check("j", 0, _change(10), state)
    limits.check("j", 0, _change(11), state)
    limits.check("j", 0, _change(12), state)
    with pytest.raises(Reject):
        limits.check("j", 0, _change(13), state)
