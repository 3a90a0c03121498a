"""One server of the embedded stack: started, waited for until it answers, stopped, killed, known again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psutil

from tidelock.embedded.ports import HOST, free_port, is_free
from tidelock.embedded.process import Handle, User, find, spawn, tail, wait_until
from tidelock.errors import Fatal

Changed = Callable[[], None]
LEAST_FREE_BYTES = 256_000_000
_LOG_KEPT_BYTES = 20_000_000
_STACK_FRAME = "\tat "
_TROUBLES = (
    ("No space left on device", "The disk is full: free some space, then run `tidelock up` again."),
    ("Disk quota exceeded", "The disk quota is used up: free some space, then run `tidelock up` again."),
    ("Address already in use", "Another program took its port: run `tidelock up` again, which picks a free one."),
    ("Permission denied", "Its data belongs to another user: run as that user, or remove the folder to start afresh."),
    ("AccessDeniedException", "A file it needs belongs to another user: run as that user."),
    (
        "insufficient memory",
        "There is not enough memory: stop other programs; TIDELOCK_KAFKA_HEAP makes Kafka smaller.",
    ),
    ("OutOfMemoryError", "Its heap is too small: TIDELOCK_KAFKA_HEAP sets Kafka's, e.g. '-Xms256m -Xmx1g'."),
    ("Too many open files", "The limit of open files is too low: `ulimit -n 65536`."),
)


@dataclass(frozen=True)
class Command:
    """How a server is run."""

    arguments: list[str]
    env: Mapping[str, str]
    cwd: Path
    user: User | None = None


@dataclass(frozen=True)
class ServiceStatus:
    """What is known of a server now; `state` is up, unhealthy (runs but does not answer) or down."""

    name: str
    state: str
    pid: int | None
    address: str | None
    uptime_s: float | None
    memory_bytes: int | None
    log: Path


@dataclass
class Record:
    """What the state file keeps of a server."""

    handle: Handle | None = None
    ports: dict[str, int] = field(default_factory=dict)


class Service(ABC):
    """One server with its data below `folder`; `changed` is called whenever its record changed."""

    name: ClassVar[str]
    title: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    executable: ClassVar[str] = "java"
    stop_signal: ClassVar[int] = signal.SIGTERM
    stop_timeout_s: ClassVar[float] = 30.0
    start_timeout_s: ClassVar[float] = 120.0

    def __init__(self, folder: Path, *, bound: bool = False, changed: Changed = lambda: None) -> None:
        self.folder = folder / self.name
        self.log = folder / "logs" / f"{self.name}.log"
        self.record = Record()
        self.bound = bound
        self.abort = threading.Event()
        self._changed = changed

    @property
    @abstractmethod
    def address(self) -> str:
        """Return where clients find it."""

    @property
    @abstractmethod
    def marker(self) -> str:
        """Return an argument of the command line that no other process has."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the data folder on the first start, and clear away what a crash left."""

    @abstractmethod
    def command(self) -> Command:
        """Return how to run it."""

    @abstractmethod
    def healthy(self) -> bool:
        """Return whether it answers as it should; takes at most a few seconds."""

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self.record.handle.pid if self.record.handle and self.record.handle.alive() else None

    @property
    def running(self) -> bool:
        """Return whether its process is alive."""
        return self.pid is not None

    def choose_ports(self, taken: set[int]) -> list[str]:
        """Keep the ports of earlier runs, choose new ones where they are taken; return a sentence per change."""
        told = []
        for name in self.port_names:
            port = self.record.ports.get(name)
            if port is not None and port not in taken and is_free(port):
                taken.add(port)
                continue
            chosen = free_port(taken)
            if port is not None:
                told.append(f"{self.title}: port {port} is taken by another program, using {chosen}")
            self.record.ports[name] = chosen
            taken.add(chosen)
        return told

    def adopt(self) -> bool:
        """Take over a process that an earlier run started but did not come to record; return whether one runs.

        One whose ports are not known any more, because the data folder was removed under it, is ended: it is of no use.
        """
        if not self.running:
            self.record.handle = find(self.executable, self.marker)
            if self.record.handle is not None:
                if self.record.ports:
                    self._changed()
                else:
                    self.kill()
        return self.running

    def start(self) -> None:
        """Start on the same ports and data, and wait until it answers; nothing happens when it runs.

        Raises Fatal with the end of its log when it does not come up.
        """
        self.abort.clear()
        self.bring_up()

    def bring_up(self) -> None:
        """Do what `start` does, unless `abort` is set meanwhile."""
        if not self.adopt():
            self._check_space()
            self._rotate_log()
            if not self.record.ports:
                self.choose_ports(set())
            self.prepare()
            if self.abort.is_set():
                return
            self._check_ports()
            command = self.command()
            self.record.handle = spawn(
                command.arguments,
                log=self.log,
                cwd=command.cwd,
                env=command.env,
                user=command.user,
                bound_signal=self.stop_signal if self.bound else None,
            )
            self._changed()
        self.wait_healthy()

    def wait_healthy(self, timeout_s: float | None = None) -> None:
        """Wait until it answers. Raises Fatal when it ends or the time is over."""
        timeout_s = timeout_s or self.start_timeout_s
        deadline = time.monotonic() + timeout_s
        while not self.abort.is_set():
            if not self.running:
                raise self._failed("ended while starting")
            if self.healthy():
                return
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {timeout_s:.0f} s")
            self.abort.wait(0.05)

    def stop(self) -> None:
        """Stop it in order; after `stop_timeout_s` it is killed."""
        self.abort.set()
        handle = self.record.handle
        if handle is not None:
            handle.signal(self.stop_signal)
            if not handle.wait(self.stop_timeout_s):
                self.kill()
            self.record.handle = None
            self._changed()

    def kill(self) -> None:
        """End it at once by SIGKILL, as a crash would, and wait until it is gone."""
        handle = self.record.handle
        if handle is None:
            return
        handle.signal(signal.SIGKILL)
        if not handle.wait(30.0):
            raise Fatal(
                f"{self.title} (process {handle.pid}) does not die, even by SIGKILL",
                hint="It waits for the disk or the network; look at `ps -o stat,wchan -p` and the kernel's log.",
            )

    def status(self) -> ServiceStatus:
        """Return what is known of it now."""
        process = self.record.handle.process() if self.record.handle else None
        if process is None:
            return ServiceStatus(self.name, "down", None, None, None, None, self.log)
        state = "up" if self.healthy() else "unhealthy"
        with process.oneshot():
            uptime_s = max(0.0, time.time() - process.create_time())
            members = [process, *process.children()]
        memory_bytes = 0
        for member in members:
            with contextlib.suppress(psutil.Error):
                memory_bytes += member.memory_info().rss
        return ServiceStatus(self.name, state, process.pid, self.address, uptime_s, memory_bytes, self.log)

    def _check_ports(self) -> None:
        for port in self.record.ports.values():
            if not wait_until(lambda port=port: is_free(port), 5.0):  # type: ignore[misc]
                raise Fatal(
                    f"{self.title} cannot start: port {port} on {HOST} is taken by another program",
                    hint=f"`ss -ltnp sport = :{port}` shows which; stop it, or run `tidelock up` to get another port.",
                )

    def _check_space(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(self.log.parent).free
        if free_bytes < LEAST_FREE_BYTES:
            raise Fatal(
                f"{self.title} cannot start: the disk of {self.folder.parent} is full ({free_bytes / 1e6:.0f} MB left)",
                hint=f"Free at least {LEAST_FREE_BYTES / 1e6:.0f} MB there.",
            )

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))

    def _failed(self, what: str) -> Fatal:
        end = tail(self.log, leave_out=_STACK_FRAME)
        hint = next((advice for sign, advice in _TROUBLES if sign in end), "The log tells why.")
        return Fatal(f"{self.title} {what}; the end of its log {self.log}:\n{end}", hint=hint)


def environment(**own: str) -> dict[str, str]:
    """Return a small environment for a server: only what is named here and where programs and languages are found."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ", "TMPDIR") if name in os.environ}
    return kept | own
