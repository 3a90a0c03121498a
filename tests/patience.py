"""How long tests wait for a condition. It measures nothing: only what hangs, or never comes true, meets it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 120.0


def until(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
    """Wait until something that happens elsewhere has happened. Raises AssertionError if it does not."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"it did not come true within {deadline_s:.0f} s"
        time.sleep(0.01)
