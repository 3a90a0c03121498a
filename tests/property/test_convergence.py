"""The rules of DESIGN section 12, over random histories of the real stages (tests/model)."""

from __future__ import annotations

import random

import pytest

from tests.model.history import History

SEEDS = range(500)
SLICES = 4


@pytest.mark.parametrize("part", range(SLICES))
def test_every_history_converges_loses_nothing_and_replays(part: int) -> None:
    """Convergence, no lost edit, no loop, idempotence and replay hold whatever the order, duplication, abort or restart.

    Each run takes other histories, besides the first ones, which are always the same; a failure names its seed.
    """
    seeds = [*SEEDS[part::SLICES], *(random.getrandbits(48) for _ in SEEDS[part::SLICES])]
    for seed in seeds:
        history = History(seed)
        try:
            history.run()
        except Exception as error:
            error.add_note(f"History({seed}); its {len(history.trace)} steps:")
            error.add_note("\n".join(history.trace))
            raise


def test_histories_contend() -> None:
    """Most histories do what they are for: edits meet, writes are refused or wait, records are held. Else they could not fail."""
    conflicts = refused = waiting = 0
    for seed in range(60):
        history = History(seed)
        history.run()
        w = history.world
        conflicts += bool(w.decoded(w.context.topics.ops("conflicts")))
        refused += any(receipt.refused for s in w.systems.values() for _, _, receipt in s.told)
        waiting += history.contended
    assert conflicts > 20
    assert refused > 20
    assert waiting > 25
