"""Fault points: where a test wants a process to die.

``TIDELOCK_FAULT=name:count`` kills the process (SIGKILL) the count-th time it passes `point(name)`. Without the variable
`ENABLED` is false at import, and the callers' ``if faults.ENABLED`` costs one global look-up.
"""

from __future__ import annotations

import os
import signal

_SPEC = os.environ.get("TIDELOCK_FAULT", "")
ENABLED = bool(_SPEC)
_NAME, _, _COUNT = _SPEC.partition(":")
_left = int(_COUNT or 1)


def point(name: str) -> None:
    """Die here if this point was chosen and has been passed often enough."""
    global _left
    if name != _NAME:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
