"""The rules of DESIGN section 12, over random histories of the real stages (tests/model)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.history import History


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_every_history_converges_loses_nothing_and_replays(seed: int) -> None:
    """Convergence, no lost edit, no loop, idempotence and replay hold whatever the order, duplication, abort or restart."""
    history = History(seed)
    try:
        history.run()
    except Exception:
        print(*history.trace, sep="\n")
        raise
