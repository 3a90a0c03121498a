"""One worker process: build its surroundings, loop over its steps, answer to signals, wait out what passes by itself."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol

import structlog

from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.errors import Fatal, Retry
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry

GROUP = "tidelock.workers"  # entry points: role → callable(context, system) → Worker
STEP_WAIT_S = 0.2
TIDY_EVERY_S = 10.0
_M_ARENA_MAX = -8  # malloc.h


class Worker(Protocol):
    """What every role is: something that steps until it is closed."""

    def step(self, wait_s: float) -> int:
        """Do what is there, waiting up to ``wait_s`` for it; return how much was done. Raises Retry or Fatal."""
        ...

    def close(self) -> None:
        """Leave the group, close connections; never loses what was committed."""
        ...


def roles(config: Config) -> list[str]:
    """List the workers an installation needs, in start order: ``role`` or ``role.system``."""
    out = ["identify", "route", "merge", "clock"]
    for name, system in config.systems.items():
        if not system.enabled or not system.all_tenants:
            continue
        if any(name in flow.to for flow in config.flows):
            out.append(f"sink.{name}")
        if system.capture != "none":
            out.append(f"capture.{name}")
    if config.hooks is not None:
        out.append("hooks")
    return out


def make_context(config: Config, bootstrap: str, registry_url: str, role: str, slot: int = 0) -> Context:
    """Build a worker's surroundings."""
    auth = None
    if config.registry.user is not None and config.registry.password is not None:
        auth = (config.registry.user, config.registry.password.get_secret_value())
    return Context(
        config=config,
        kafka=KafkaClients(bootstrap, config.kafka.settings),
        codec=Codec(Registry(registry_url, auth=auth), config.prefix),
        role=role,
        slot=slot,
    )


def make_worker(context: Context) -> Worker:
    """Find a role's worker by entry point and build it. Raises Fatal if no such role is installed."""
    role, _, system = context.role.partition(".")
    for point in entry_points(group=GROUP):
        if point.name == role:
            factory: Callable[[Context, str], Worker] = point.load()
            return factory(context, system)
    known = ", ".join(sorted(p.name for p in entry_points(group=GROUP)))
    raise Fatal(f"there is no worker {role!r}", hint=f"roles: {known}")


def run(context: Context) -> int:
    """Run one worker until SIGTERM or SIGINT; return the exit code: 0 stopped, 1 Fatal.

    A Retry is waited out with growing, jittered pauses and a fresh worker: what it had not committed is read again.
    """
    log = structlog.get_logger().bind(worker=context.name)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: context.stop.set())
    gc.set_threshold(200_000, 50, 100)  # records hold no cycles: collections on the hot path find nothing
    memory = _Memory()
    parent = os.getppid()
    pause_s = 0.2
    while not context.stop.is_set():
        worker: Worker | None = None
        try:
            worker = make_worker(context)
            gc.collect()
            gc.freeze()  # what start-up made stays for ever; the collector need not look at it again
            while not context.stop.is_set():
                done = worker.step(STEP_WAIT_S)
                if done:
                    pause_s = 0.2
                memory.tidy(not done)
                if os.getppid() != parent:
                    log.warning("the supervisor is gone", action="orphan_stops")
                    context.stop.set()
        except Retry as error:
            wait_s = error.retry_after_s if error.retry_after_s is not None else pause_s * random.uniform(0.5, 1.5)
            log.warning(str(error), action="worker_waits", wait_s=round(wait_s, 2))
            pause_s = min(pause_s * 2, 15.0)
            context.stop.wait(wait_s)
        except Fatal as error:
            log.error(str(error), action="worker_stops")
            return 1
        finally:
            if worker is not None:
                _close(worker, log)
            context.close_access()
    return 0


def _close(worker: Worker, log: structlog.typing.FilteringBoundLogger) -> None:
    try:
        worker.close()
    except (Retry, Fatal) as error:
        log.warning(str(error), action="close_failed")


class _Memory:
    """Keep the process small: librdkafka's and RocksDB's threads leave glibc's heaps full of holes."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        try:
            self._libc: ctypes.CDLL | None = ctypes.CDLL("libc.so.6")
            self._libc.mallopt(_M_ARENA_MAX, 2)
        except (OSError, AttributeError):  # another C library: nothing to mend there
            self._libc = None

    def tidy(self, idle: bool) -> None:
        """Give free memory back and, when there is nothing to do, look for garbage in cycles; at most every few seconds."""
        if time.monotonic() - self._at < TIDY_EVERY_S:
            return
        if idle:
            gc.collect()
        if self._libc is not None:
            self._libc.malloc_trim(0)
        self._at = time.monotonic()


def now_micros() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000
