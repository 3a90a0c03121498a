"""Run every worker of an installation as a process of its own, and start again those that end.

Children are forked from a server process that has imported everything once (multiprocessing's forkserver), which saves a second of
CPU per worker and shares memory. They end with the supervisor: each looks whether its parent is still there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, SecretStr

from tidelock import central
from tidelock import log as logs
from tidelock.central import Central
from tidelock.config import Config
from tidelock.tenantwatch import TenantWatch
from tidelock.workers import GROUP, make_context, roles, run

SecretPath = tuple[str | int, ...]
RESTART_PAUSE_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
PATIENCE_S = 15.0  # a worker that was asked to end is given so long
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
FORGIVEN_AFTER_S = 60.0  # a worker that has run so long starts its next pause from the beginning


@dataclass
class _Child:
    role: str
    slot: int
    process: BaseProcess
    started: float
    failures: int = 0
    restart_at: float | None = None
    kill_at: float | None = None  # it has been asked to end, because it is to start with another configuration


class Supervisor:
    """Start, watch, restart and stop workers. ``status_file`` tells other processes who runs where.

    Tenants that are added or removed meanwhile make those workers start anew that know the tenants of a system: its own, and the hub's.
    """

    def __init__(
        self,
        config: Config,
        bootstrap: str,
        registry: str,
        *,
        only: list[str] | None = None,
        slots: dict[str, int] | None = None,
    ) -> None:
        self._bootstrap, self._registry = bootstrap, registry
        self._only = only
        self._slots = slots or {}
        self._tenants = TenantWatch(config, Central(config)) if central.needed(config) else None
        self._adopt(self._tenants.config if self._tenants is not None else config)
        self._children: list[_Child] = []
        self._stop = threading.Event()
        self._spawn = multiprocessing.get_context("forkserver")
        self._spawn.set_forkserver_preload(_modules())
        self.status_file = config.data / "workers.json"

    def start(self) -> None:
        """Start all workers."""
        self._start(self._roles)
        if self._tenants is not None:
            self._tenants.start()

    def _start(self, wanted: Iterable[str]) -> None:
        there = {(c.role, c.slot) for c in self._children}  # one that is just ending is started again by `watch`
        for role in wanted:
            for slot in range(self._slots.get(role, 1)):
                if (role, slot) not in there:
                    self._children.append(_Child(role, slot, self._fork(role, slot), time.monotonic()))
        self._write_status()

    def _adopt(self, config: Config) -> None:
        self._config = config
        self._args = (config.model_dump_json(by_alias=True), list(_secrets(config)), self._bootstrap, self._registry)
        self._roles = [r for r in roles(config) if self._only is None or r in self._only]

    def renew(self, config: Config) -> None:
        """Go over to a configuration with other tenants: start anew what knows them, begin and end what is needed or no longer is."""
        before, had = self._config.systems, set(self._roles)
        changed = {name for name, spec in config.systems.items() if spec != before.get(name)}
        self._adopt(config)
        now = time.monotonic()
        for child in self._children:
            system = child.role.partition(".")[2]
            if not system or system in changed:
                child.failures, child.kill_at = 0, now + PATIENCE_S
                child.process.terminate()
        self._start(role for role in self._roles if role not in had)
        structlog.get_logger().info(
            "tenants have changed; the workers that know them start anew",
            action="tenants_changed",
            systems=sorted(changed),
        )

    def run(self) -> int:
        """Watch until SIGTERM or SIGINT; then stop everything and return 0. A second signal kills at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while not self._stop.wait(0.2):
            self.watch()
        self.stop()
        return 0

    def _on_signal(self, *_: object) -> None:
        if self._stop.is_set():
            self._kill()
            os._exit(130)
        self._stop.set()

    def watch(self) -> None:
        """Restart what has ended, after a pause that grows with repeated failures."""
        log = structlog.get_logger()
        now = time.monotonic()
        new = self._tenants.changed() if self._tenants is not None else None
        if new is not None:
            self.renew(new)
        for child in list(self._children):
            if child.kill_at is not None:
                self._renewing(child, now)
            elif child.restart_at is not None:
                if now >= child.restart_at:
                    child.process = self._fork(child.role, child.slot)
                    child.started, child.restart_at = now, None
                    self._write_status()
            elif not child.process.is_alive():
                child.failures = 1 if now - child.started > FORGIVEN_AFTER_S else child.failures + 1
                pause_s = RESTART_PAUSE_S[min(child.failures, len(RESTART_PAUSE_S)) - 1]
                child.restart_at = now + pause_s
                log.warning(
                    "a worker ended and starts again",
                    action="worker_restarts",
                    worker=f"{child.role}-{child.slot}",
                    exit_code=child.process.exitcode,
                    pause_s=pause_s,
                )

    def _renewing(self, child: _Child, now: float) -> None:
        """Start a worker that has ended because it was asked to, if it is still needed."""
        if child.process.is_alive():
            if child.kill_at is not None and now > child.kill_at:
                child.process.kill()
            return
        child.kill_at = None
        if child.role in self._roles:
            child.process, child.started, child.restart_at = self._fork(child.role, child.slot), now, None
        else:
            self._children.remove(child)
        self._write_status()

    def stop(self, timeout_s: float = PATIENCE_S) -> None:
        """Stop all workers: ask, wait, then kill."""
        if self._tenants is not None:
            self._tenants.stop()
        for child in self._children:
            child.restart_at = None
            if child.process.is_alive():
                child.process.terminate()
        end = time.monotonic() + timeout_s
        for child in self._children:
            child.process.join(max(0.0, end - time.monotonic()))
        self._kill()
        self._children.clear()
        self.status_file.unlink(missing_ok=True)

    def _kill(self) -> None:
        for child in self._children:
            if child.process.is_alive():
                child.process.kill()
                child.process.join(5)

    @property
    def pids(self) -> dict[str, int]:
        """Return the process id of every worker that runs, by ``role-slot``."""
        return {f"{c.role}-{c.slot}": c.process.pid for c in self._children if c.process.pid and c.process.is_alive()}

    def _fork(self, role: str, slot: int) -> ForkServerProcess:
        process = self._spawn.Process(
            target=_child, args=(*self._args, role, slot), name=f"tidelock {role}-{slot}", daemon=False
        )
        process.start()
        return process

    def _write_status(self) -> None:
        self.status_file.parent.mkdir(parents=True, exist_ok=True)
        body = {"supervisor": os.getpid(), "workers": self.pids}
        partial = self.status_file.with_suffix(".part")
        partial.write_text(json.dumps(body))
        partial.replace(self.status_file)


def read_status(data: Path) -> dict[str, Any]:
    """Return what the running supervisor last wrote, or an empty dictionary."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((data / "workers.json").read_text())
        return found
    return {}


def _modules() -> list[str]:
    groups = (GROUP, "tidelock.producers", "tidelock.sinks")
    return sorted({p.module for g in groups for p in entry_points(group=g)} | {"tidelock.workers"})


def _secrets(here: Any, path: SecretPath = ()) -> Iterator[tuple[SecretPath, str]]:
    """Yield every secret of a configuration with its path: a dumped model shows stars in their place."""
    if isinstance(here, SecretStr):
        yield path, here.get_secret_value()
    elif isinstance(here, BaseModel):
        for name, field in type(here).model_fields.items():
            yield from _secrets(getattr(here, name), (*path, field.alias or name))
    elif isinstance(here, Mapping):
        for key, value in here.items():
            yield from _secrets(value, (*path, key))
    elif isinstance(here, list | tuple):
        for i, value in enumerate(here):
            yield from _secrets(value, (*path, i))


def _whole(config_json: str, secrets: list[tuple[SecretPath, str]]) -> Config:
    """Put the secrets back into a dumped configuration."""
    data = json.loads(config_json)
    for (*parents, leaf), value in secrets:
        at = data
        for part in parents:
            at = at[part]
        at[leaf] = value
    return Config.model_validate(data)


def _child(
    config_json: str, secrets: list[tuple[SecretPath, str]], bootstrap: str, registry: str, role: str, slot: int
) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux: end with the parent, even where a call hangs
        ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    logs.set_up()
    context = make_context(_whole(config_json, secrets), bootstrap, registry, role, slot)
    code = run(context)
    os._exit(code)  # librdkafka's threads need no farewell, and a hanging one must not keep the process
