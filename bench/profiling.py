"""A profile of one worker under load by py-spy, which is fetched on demand and is no dependency of the project."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contestant import Say
from bench.rounds import Plan, clocked, running, scene
from bench.tidelock_run import Tidelock
from tidelock.embedded import Stack
from tidelock.errors import Fatal

_RATE = 200  # samples a second
_LONGEST_S = 600
_SHOWN = 30


def profile(stack: Stack, folder: Path, plan: Plan, role: str, say: Say) -> None:
    """Record a worker while it takes the throughput load; print where its time goes and keep the stacks in the folder."""
    program = _py_spy(folder)
    with scene(stack, folder, "bench_profile", say) as place:
        contestant = Tidelock(place)
        with running(contestant) as (pair, _):
            warm = pair.span(max(1, plan.warm // 2), "warm")
            for kind, part in (("insert", warm), ("update", warm.named("warmer"))):
                clocked(contestant, pair, kind, part)
            workers = contestant.workers()
            chosen = [pid for name, pid in workers.items() if name == role or name.rpartition("-")[0] == role]
            if not chosen:
                raise Fatal(f"there is no worker {role}", hint=f"Workers: {', '.join(workers)}.")
            stacks = folder / f"profile-{role}.txt"
            recorder = subprocess.Popen(
                [
                    *(*program, "record", "--pid", str(chosen[0]), "--format", "raw", "--output", str(stacks)),
                    *("--rate", str(_RATE), "--duration", str(_LONGEST_S)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            said: list[str] = []
            assert recorder.stderr is not None
            reader = threading.Thread(target=lambda: said.append(recorder.stderr.read()), daemon=True)  # type: ignore[union-attr]
            reader.start()
            try:
                span = pair.span(plan.events, "inserted")
                for kind, part in (("insert", span), ("update", span.named("updated"))):
                    seconds = clocked(contestant, pair, kind, part)
                    say(f"profile: {part.rows / seconds:,.0f} {kind}s/s (the profiler slows it down)")
            finally:
                recorder.send_signal(2)  # it writes its file on an interrupt
                recorder.wait(60)
                reader.join(5)
    if not stacks.exists():
        raise Fatal(
            f"py-spy recorded nothing: {''.join(said).strip()}", hint="It needs the right to trace: run as root."
        )
    _show(stacks, role)


def _py_spy(folder: Path) -> list[str]:
    """Return how to run py-spy, installing it beside the project's environment when the machine has none."""
    if found := shutil.which("py-spy"):
        return [found]
    tools = folder.parent / "tools" / "py-spy"
    program = tools / "bin" / "py-spy"
    if not program.exists():
        uv = shutil.which("uv") or str(folder.parent / "tools" / "bin" / "uv")
        if Path(uv).exists():
            steps = [
                [uv, "venv", "--quiet", str(tools)],
                [uv, "pip", "install", "--quiet", "--python", str(tools), "py-spy"],
            ]
        else:
            steps = [[sys.executable, "-m", "venv", str(tools)], [str(tools / "bin" / "pip"), "install", "py-spy"]]
        for step in steps:
            done = subprocess.run(step, check=False, capture_output=True, text=True)
            if done.returncode:
                raise Fatal(f"py-spy cannot be installed: {done.stderr.strip()}", hint="Install it and put it on PATH.")
    return [str(program)]


def _show(stacks: Path, role: str) -> None:
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in stacks.read_text(encoding="utf-8").splitlines():
        frames, _, samples = line.rpartition(" ")
        names = frames.split(";")
        own[names[-1]] += int(samples)
        for name in set(names):
            within[name] += int(samples)
    total = sum(own.values()) or 1
    for title, counts in (("own time", own), ("with what it calls", within)):
        table = Table(title=f"{role}: {title}", title_justify="left", header_style="bold")
        table.add_column("share", justify="right")
        table.add_column("where")
        for name, count in counts.most_common(_SHOWN):
            table.add_row(f"{count / total:.1%}", name)
        Console(highlight=False).print(table)
    Console(stderr=True, highlight=False).print(f"stacks, for a flame graph: {stacks}", markup=False)
