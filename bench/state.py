"""The merge worker with a million records of state: its memory, its restart with local state, its restore without."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.contestant import Say
from bench.machine import memory
from bench.rounds import running, scene
from bench.tidelock_run import Tidelock
from bench.work import Pair
from tidelock.config import Config
from tidelock.embedded import Stack
from tidelock.workers import roles

_RUNS = 3
_PART = 100_000
_MERGE = "merge"


class _Split(Tidelock):
    """The merge worker apart from the others, so that it can be stopped and started alone."""

    def start(self) -> None:
        """Start all workers but merge under a supervisor, and merge by itself."""
        config = Config.model_validate(self.configure())
        others = [role for role in roles(config) if role != _MERGE]
        self.run("workers", *(argument for role in others for argument in ("--worker", role)))
        self.start_merge()

    def start_merge(self) -> None:
        """Start the merge worker."""
        self.run(_MERGE, "--worker", _MERGE, "--slot", "0")

    def stop_merge(self, *, keep_state: bool) -> None:
        """Stop the merge worker, and remove its local state if it is not to be kept."""
        self.programs.pop(_MERGE).stop()
        if not keep_state:
            shutil.rmtree(self.data / "state" / f"{_MERGE}-0")


def measure(stack: Stack, folder: Path, records: int, say: Say) -> dict[str, Any]:
    """Return `memory_mb` by worker, `restart_s` and `restore_s`: from the start of the process to a row in the destination."""
    with scene(stack, folder, "bench_state", say) as place:
        contestant = _Split(place)
        with running(contestant) as (pair, _):
            begun = time.monotonic()
            for done in range(0, records, _PART):
                span = pair.span(min(_PART, records - done), "state")
                pair.insert(span)
                pair.wait(span, contestant.check)
                say(f"state: {done + span.rows:,} records in {time.monotonic() - begun:.0f} s")
            used = {name: asdict(found) for name, found in contestant.memory().items()}
            pid = contestant.programs[_MERGE].pid
            if pid is not None and (found := memory(pid)) is not None:
                used[f"{_MERGE}-0"] = asdict(found)
            restart = [_again(contestant, pair, keep_state=True) for _ in range(_RUNS)]
            say(f"state: restarted with local state in {median(restart):.2f} s")
            restore = [_again(contestant, pair, keep_state=False) for _ in range(_RUNS)]
            say(f"state: restored from the changelog in {median(restore):.2f} s")
            pid = contestant.programs[_MERGE].pid
            after = memory(pid) if pid is not None else None
    return {
        "records_of_state": records,
        "restart_s": round(median(restart), 2),
        "restart_runs_s": [round(value, 2) for value in restart],
        "restore_s": round(median(restore), 2),
        "restore_runs_s": [round(value, 2) for value in restore],
        "memory_mb": used,
        "memory_mb_after_restore": {f"{_MERGE}-0": asdict(after)} if after is not None else {},
    }


def _again(contestant: _Split, pair: Pair, *, keep_state: bool) -> float:
    contestant.stop_merge(keep_state=keep_state)
    begun = time.monotonic()
    contestant.start_merge()
    pair.wait_ready(contestant.check)
    return time.monotonic() - begun
