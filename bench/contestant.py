"""What a contestant is: something that carries rows from one database to another and can be started, weighed and stopped."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.machine import Memory
from tidelock.embedded import Endpoints, Stack
from tidelock.embedded.process import Handle, spawn, tail
from tidelock.embedded.service import environment
from tidelock.errors import Fatal

Say = Callable[[str], None]


@dataclass
class Scene:
    """Where one run of a contestant takes place: servers, two databases, a folder and a name of its own."""

    stack: Stack
    endpoints: Endpoints
    source: str
    target: str
    folder: Path
    name: str
    say: Say


class Contestant(ABC):
    """One way to carry rows. It is started for a round and stopped after it, so that it takes nothing from the others."""

    name: ClassVar[str]

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @abstractmethod
    def start(self) -> None:
        """Start it; it need not be ready when this returns."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it and leave nothing behind that would hinder dropping the databases."""

    @abstractmethod
    def check(self) -> None:
        """Raise Fatal if it has died."""

    @abstractmethod
    def cpu_s(self) -> float:
        """Return the CPU seconds that its own processes have used so far."""

    @abstractmethod
    def memory(self) -> dict[str, Memory]:
        """Return the memory of each of its processes."""

    def tune(self, work: str) -> bool:
        """Set it up for `throughput` or `latency`; return whether it has to be waited for again."""
        del work
        return False

    def about(self) -> dict[str, Any]:
        """Return what should be known about it beside its figures."""
        return {}


class Program:
    """A process of a contestant, which ends with this one however this one ends."""

    def __init__(self, title: str, log: Path) -> None:
        self.title = title
        self.log = log
        self.handle: Handle | None = None

    @property
    def pid(self) -> int | None:
        """Return its process id while it lives."""
        return self.handle.pid if self.handle is not None and self.handle.alive() else None

    def start(self, arguments: Sequence[str], cwd: Path, **env: str) -> None:
        """Start it with its output in the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.handle = spawn(arguments, log=self.log, cwd=cwd, env=environment(**env), bound_signal=signal.SIGTERM)

    def check(self) -> None:
        """Raise Fatal with the end of the log when it has ended."""
        if self.pid is None:
            raise Fatal(
                f"{self.title} has ended; the end of its log {self.log}:\n{tail(self.log, 25)}",
                hint="The log tells why.",
            )

    def stop(self, timeout_s: float = 20.0) -> None:
        """Ask it to end, then kill it."""
        if self.handle is not None:
            self.handle.signal(signal.SIGTERM)
            if not self.handle.wait(timeout_s):
                self.handle.signal(signal.SIGKILL)
                self.handle.wait(10.0)
            self.handle = None
