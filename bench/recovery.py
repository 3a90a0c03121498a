"""How long the destination stands still when the merge worker is killed under load."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.contestant import Say
from bench.rounds import running, scene
from bench.tidelock_run import Tidelock
from bench.work import POLL_S, STALLED_S, Pair, Span
from tidelock.embedded import Stack
from tidelock.errors import Fatal

_KILLS = 3
_RATE = 1000
_SETTLE_S = 3.0
_WORKER = "merge-0"


def measure(stack: Stack, folder: Path, events: int, say: Say) -> dict[str, Any]:
    """Kill the merge worker three times under 1,000 inserts/s; return the median time until a later row arrives."""
    del events
    took: list[float] = []
    with scene(stack, folder, "bench_recovery", say) as place:
        contestant = Tidelock(place)
        with running(contestant) as (pair, _):
            for _ in range(_KILLS):
                took.append(_kill(contestant, pair))
                say(f"recovery: the destination went on {took[-1]:.2f} s after kill -9 of the merge worker")
    return {"recovery_s": round(median(took), 2), "recovery_runs_s": [round(value, 2) for value in took]}


def _kill(contestant: Tidelock, pair: Pair) -> float:
    """Kill it in the midst of a trickle; return the seconds until a row inserted after that is in the destination."""
    span: list[Span] = []
    loaded = threading.Thread(target=lambda: span.append(pair.trickle(_RATE, _SETTLE_S * 3)[0]), daemon=True)
    first = pair.next_id
    loaded.start()
    _wait(pair, first, "rows to flow", contestant)
    time.sleep(_SETTLE_S)  # the load is meant to be under way, not to begin
    pid = contestant.workers().get(_WORKER)
    if pid is None:
        raise Fatal(f"there is no worker {_WORKER}", hint=f"Workers: {', '.join(contestant.workers())}.")
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    row = pair.target.execute("select now()").fetchone()
    assert row is not None
    _wait(pair, first, "the destination to go on", contestant, since=row[0])
    seconds = time.monotonic() - killed
    loaded.join()
    pair.wait(span[0], contestant.check)
    return seconds


def _wait(pair: Pair, first: int, what: str, contestant: Tidelock, since: Any = None) -> None:
    """Wait for a row with an id from `first` on that was inserted at the source at or after `since`."""
    end = time.monotonic() + STALLED_S
    while time.monotonic() < end:
        row = pair.target.execute(
            "select exists (select from contact where id >= %s and (%s::timestamptz is null or updated_at > %s))",
            [first, since, since],
        ).fetchone()
        if row and row[0]:
            return
        contestant.check()
        time.sleep(POLL_S)
    raise Fatal(f"waited {STALLED_S:.0f} s in vain for {what}", hint="The workers' log tells why.")
