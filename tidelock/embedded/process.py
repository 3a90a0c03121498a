"""Processes of the embedded stack: started in a session of their own, known again later, never mistaken for another."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import psutil

from tidelock.errors import Fatal

_LAUNCHER = str(Path(__file__).with_name("launch.py"))
_SAME_START_S = 2.0  # the boot time that create_time rests on may be corrected by NTP
_POLL_S = 0.02


@dataclass(frozen=True)
class User:
    """An unprivileged user to run a program as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Handle:
    """A process by pid and start time (seconds since the epoch), so that a recycled pid is never taken for it."""

    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """Return the process if it is alive; a zombie is not."""
        reap(self.pid)
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.created) > _SAME_START_S:
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    def alive(self) -> bool:
        """Return whether it is running."""
        return self.process() is not None

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when it has ended. Raises Fatal when it belongs to somebody else."""
        process = self.process()
        if process is None:
            return
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied as error:
            raise Fatal(
                f"process {self.pid} of the embedded stack belongs to user {_owner(process)}",
                hint="Stop it as that user (or as root) with `tidelock down`.",
            ) from error

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it came."""
        return wait_until(lambda: not self.alive(), timeout_s)


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = _POLL_S) -> bool:
    """Wait until a condition holds; return whether it did before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    user: User | None = None,
    bound_signal: int | None = None,
) -> Handle:
    """Start a program with its output appended to `log`; `bound_signal` is sent to it when this process dies."""
    options = {
        "uid": user.uid if user else None,
        "gid": user.gid if user else None,
        "parent": os.getpid() if bound_signal is not None else None,
        "signal": bound_signal or 0,
        "cwd": str(cwd),
        "umask": 0o077,
    }
    arguments = [sys.executable, "-I", "-S", _LAUNCHER, json.dumps(options), *command]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]

    def start() -> Handle:
        pid = os.posix_spawn(arguments[0], arguments, dict(env), file_actions=actions)
        with _lock:
            _children.add(pid)
        return Handle(pid, psutil.Process(pid).create_time())

    try:
        return _spawner.run(start)
    except OSError as error:
        raise Fatal(
            f"cannot start {command[0]}: {error.strerror}",
            hint=f"Check that {log.parent} can be written and that the process limit (ulimit -u) is not reached.",
        ) from error


def reap(pid: int) -> None:
    """Collect a child of ours that has ended; other pids are left alone."""
    with _lock:
        if pid in _children:
            with contextlib.suppress(ChildProcessError):
                ended, _ = os.waitpid(pid, os.WNOHANG)
                if ended == 0:
                    return
            _children.discard(pid)


def find(executable: str, argument: str) -> Handle | None:
    """Find a running process by its program's name and one exact argument; for services whose record was lost."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == executable and argument in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    return Handle(process.pid, process.create_time())
    return None


def tail(log: Path, lines: int = 12, leave_out: str | None = None) -> str:
    """Return the last lines of a log file, indented, without those that begin with `leave_out`; empty when there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 65_536))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    kept = [line for line in text.splitlines() if line.strip() and not (leave_out and line.startswith(leave_out))]
    return "\n".join("    " + line[:400] for line in kept[-lines:])


def _owner(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.username()
    return "unknown"


class _Spawner:
    """One thread that starts everything and lives as long as the process.

    The kernel sends the death signal when the *thread* that started a child ends, so short-lived threads must not start any.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Handle], Future[Handle]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = 0

    def run(self, job: Callable[[], Handle]) -> Handle:
        """Run a job on the thread and return its result or raise its error."""
        with _lock:
            if self._thread is None or self._pid != os.getpid():  # a forked child has none of its parent's threads
                self._jobs = queue.SimpleQueue()
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._work, args=(self._jobs,), name="spawner", daemon=True)
                self._thread.start()
        future: Future[Handle] = Future()
        self._jobs.put((job, future))
        return future.result()

    @staticmethod
    def _work(jobs: queue.SimpleQueue[tuple[Callable[[], Handle], Future[Handle]]]) -> None:
        while True:
            job, future = jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                future.set_exception(error)


_lock = threading.Lock()
_children: set[int] = set()
_spawner = _Spawner()
