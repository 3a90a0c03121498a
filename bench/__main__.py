"""`python -m bench`: run the benchmark, print the tables, write results/latest.json."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status

from bench import machine, profiling, results, rounds, sections
from bench.contestant import Say
from tidelock.embedded import Stack
from tidelock.embedded.artifacts import read_lock
from tidelock.embedded.download import locked
from tidelock.errors import Fatal, TidelockError

FOLDER = Path(".tidelock/bench")
PARTS = ("throughput", "latency", *sections.SECTIONS)
_err = Console(stderr=True, highlight=False)


def bench(
    only: Annotated[list[str] | None, typer.Option(help=f"Only these parts (repeatable): {', '.join(PARTS)}.")] = None,
    contestants: Annotated[str, typer.Option(help="Who runs, in this order, by comma.")] = "debezium,tidelock,native",
    number: Annotated[int, typer.Option("--rounds", min=1, help="Alternating rounds.")] = 3,
    events: Annotated[int, typer.Option(min=500, help="Inserts per round, and as many updates.")] = 100_000,
    warm: Annotated[int | None, typer.Option(min=0, help="Events before counting; 100,000 for a full run.")] = None,
    latency_s: Annotated[float, typer.Option(min=1.0, help="Seconds at each rate.")] = 20.0,
    records: Annotated[int, typer.Option(min=1000, help="Records of state for restore and restart.")] = 1_000_000,
    profile: Annotated[str | None, typer.Option(help="Record a py-spy profile of this worker, e.g. merge.")] = None,
    output: Annotated[
        Path, typer.Option(help="Where the results go.", show_default="bench/results/latest.json")
    ] = results.RESULTS,
) -> None:
    """Measure tidelock against Debezium with its JDBC sink and against PostgreSQL's own replication, alternating."""
    chosen = only or (["throughput"] if profile else list(PARTS))
    names = tuple(name for name in contestants.split(",") if name) if profile is None else ("tidelock",)
    for found, known in ((set(chosen), set(PARTS)), (set(names), set(rounds.CONTESTANTS))):
        if unknown := sorted(found - known):
            raise Fatal(f"there is no {', '.join(unknown)}", hint=f"One of: {', '.join(sorted(known))}.")
    plan = rounds.Plan(
        rounds=number,
        events=events,
        warm=min(100_000, 5 * events) if warm is None else warm,
        latency_s=latency_s,
        contestants=names,
        throughput="throughput" in chosen,
        latency="latency" in chosen,
    )
    begun = time.monotonic()
    facts = machine.facts() | {"kafka": _version("kafka_2.13"), "registry": _version("apicurio-registry-app")}
    turns: list[rounds.Turn] = []
    extras: dict[str, Any] = {}
    with _kept(turns, facts, extras), _stack() as stack, _progress(begun) as say:
        facts["postgres"] = _postgres_version(stack)
        if plan.throughput or plan.latency:
            if profile is not None:
                profiling.profile(stack, FOLDER.resolve(), plan, profile, say)
                return
            rounds.run(stack, FOLDER.resolve(), plan, say, turns)
        for name in sections.SECTIONS:
            if name in chosen:
                say(f"{name}: starting")
                amount = records if name == "state" else events
                extras |= sections.SECTIONS[name](stack, FOLDER.resolve(), amount, say)
    facts["duration_s"] = round(time.monotonic() - begun)
    body = results.document(turns, facts, extras)
    results.write(body, output)
    results.show(body, Console(highlight=False))
    _err.print(f"written to {output}", markup=False)


@contextlib.contextmanager
def _kept(turns: list[rounds.Turn], facts: dict[str, Any], extras: dict[str, Any]) -> Iterator[None]:
    """Write what has been measured to the folder when a run does not come to its end: half an hour is not thrown away."""
    try:
        yield
    except BaseException as error:
        if turns or extras:
            path = FOLDER / "incomplete.json"
            results.write(
                results.document(turns, facts, extras) | {"incomplete": str(error) or type(error).__name__}, path
            )
            _err.print(f"what was measured so far is in {path}", markup=False, soft_wrap=True)
        raise


@contextlib.contextmanager
def _stack() -> Iterator[Stack]:
    """Start servers on fresh data; they end with this process, and their data goes."""
    with locked(FOLDER / "bench.lock", lambda line: _err.print(line, markup=False)):
        stack = Stack(FOLDER / "stack", ephemeral=True)
        stack.remove()
        stack = Stack(FOLDER / "stack", ephemeral=True)
        try:
            stack.start(lambda line: _err.print(line, markup=False))
            yield stack
        finally:
            stack.remove()


@contextlib.contextmanager
def _progress(begun: float) -> Iterator[Say]:
    """Show the last line said with a spinner, and every line with the time."""
    # a busy spinner would be part of what is measured
    with Status("starting", console=_err, refresh_per_second=1.0) as status:

        def say(line: str) -> None:
            _err.print(f"{time.monotonic() - begun:6.0f} s  {line}", markup=False, soft_wrap=True)
            status.update(line)

        yield say


def _version(artifact: str) -> str:
    return next(found.version for found in read_lock() if found.artifact == artifact)


def _postgres_version(stack: Stack) -> str:
    import psycopg

    with psycopg.connect(stack.endpoints().dsn("postgres")) as connection:
        row = connection.execute("show server_version").fetchone()
    return str(row[0]) if row else "unknown"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def guarded(**options: Any) -> None:
    try:
        bench(**options)
    except TidelockError as error:
        _err.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _err.print("interrupted; everything is stopped")
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command and exit: 0 done, 1 failed, 2 usage, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(wraps(bench)(guarded))
    app()


if __name__ == "__main__":
    main()
