"""How long tests wait for a condition. It measures nothing: only what hangs, or never comes true, meets it."""

from __future__ import annotations

DEADLINE_S = 120.0
