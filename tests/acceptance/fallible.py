"""Workers as processes of their own that die at one fault point after the other, and are started again each time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.fix_installation import Installation
from tidelock import faults
from tidelock import log as logs
from tidelock.cli.common import endpoints, read_config
from tidelock.workers import make_context, run

ENGINE = ("consumed", "processed", "begun", "produced", "offsets_sent", "committed", "applied")
SINK = ("consumed", "written", "settled", "committed", "produced", "told")
POINTS = {
    "route": ["route.produced", "route.flushed"],
    "identify": [f"engine.{p}" for p in ENGINE],
    "merge": [f"engine.{p}" for p in ENGINE],
    "sink.crm": [f"sink.{p}" for p in SINK],
    "sink.erp": [f"sink.{p}" for p in SINK],
    "capture.crm": ["capture.before_feedback"] * 2,
    "capture.erp": ["outbox:claimed", "outbox:published"],
}


class FallibleWorkers:
    """All workers of an installation; each dies the second time it passes the next point of its list."""

    def __init__(self, installation: Installation) -> None:
        self._at = installation
        self._left = {role: list(POINTS.get(role, ())) for role in installation.roles}
        self._armed: dict[str, str | None] = {}
        self._processes: dict[str, ForkServerProcess] = {}
        self.died: list[tuple[str, str]] = []
        self._spawn = multiprocessing.get_context("forkserver")
        self._spawn.set_forkserver_preload(
            ["tests.acceptance.fallible", "processors.pipeline", "sinks.postgres", "producers.postgres"]
        )
        for role in installation.roles:
            self._start(role)

    @property
    def waiting(self) -> dict[str, str]:
        """Return the points at which a worker has still to die."""
        return {role: point for role, point in self._armed.items() if point is not None}

    def watch(self) -> None:
        """Start again what has died; fail if something ended in another way than by its fault point."""
        for role, process in list(self._processes.items()):
            if process.is_alive():
                continue
            point = self._armed[role]
            assert point is not None, (role, process.exitcode)
            assert process.exitcode == -signal.SIGKILL, (role, point, process.exitcode)
            self.died.append((role, point))
            self._start(role)

    def stop(self) -> None:
        """Stop all of them."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(15)
            process.kill()

    def _start(self, role: str) -> None:
        point = self._left[role].pop(0) if self._left[role] else None
        self._armed[role] = point
        process = self._spawn.Process(target=_work, args=(str(self._at.config), str(self._at.log), role, point))
        process.start()
        self._processes[role] = process


def _work(config: str, log: str, role: str, point: str | None) -> None:
    """Be one worker."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 2)
    logs.set_up()
    if point is not None:  # what the variable TIDELOCK_FAULT does at import
        faults.ENABLED, faults._NAME, faults._left = True, point, 2
    loaded = read_config(Path(config))
    os._exit(run(make_context(loaded, *endpoints(loaded), role)))
