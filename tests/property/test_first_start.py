"""The first start of systems that hold some of the same records already: no record is ever created a second time (tests/model)."""

from __future__ import annotations

import random

import pytest

from processors import identity_seeds
from tests.model.first import FirstStart
from tests.model.history import config_of

SEEDS = range(250)
SLICES = 2


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few creates be several portions."""
    monkeypatch.setattr(identity_seeds, "PORTION", 2)


@pytest.mark.parametrize("part", range(SLICES))
def test_no_first_start_ever_makes_a_double_and_all_of_them_come_into_step(part: int) -> None:
    """Each run takes other first starts, besides the first ones, which are always the same; a failure names its seed."""
    for seed in (*SEEDS[part::SLICES], *(random.getrandbits(48) for _ in SEEDS[part::SLICES])):
        start = FirstStart(seed, config_of)
        try:
            start.run()
        except Exception as error:
            error.add_note(f"FirstStart({seed}); its {len(start.trace)} steps:")
            error.add_note("\n".join(start.trace))
            raise


def test_first_starts_do_what_they_are_for() -> None:
    """Creates wait in most of them, for systems that hold what would be created and for such that do not: else they could not fail."""
    waited = created = 0
    for seed in range(60):
        start = FirstStart(seed, config_of)
        start.run()
        waited += start.most_waiting > 0
        created += any(write.op == "create" for write in start.world.writes)
    assert waited > 30
    assert created > 40
