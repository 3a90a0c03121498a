"""Alternating rounds: each contestant alone on the machine, on fresh databases, warmed, then measured."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.contestant import Contestant, Say, Scene
from bench.debezium import Debezium
from bench.machine import cpu_s
from bench.native import Native
from bench.tidelock_run import Tidelock
from bench.work import Pair, Span, create_tables
from tidelock.embedded import Stack
from tidelock.kafka import KafkaClients

CONTESTANTS: dict[str, Callable[[Scene], Contestant]] = {
    "debezium": Debezium,
    "tidelock": Tidelock,
    "native": Native,
}
_LATENCY_WARM_S = 5.0


@dataclass(frozen=True)
class Plan:
    """How much is done: `events` inserts and as many updates per round; `warm` events before, half of each kind."""

    rounds: int = 3
    events: int = 100_000
    warm: int = 100_000
    rates: tuple[int, ...] = (300, 1000)
    latency_s: float = 20.0
    contestants: tuple[str, ...] = tuple(CONTESTANTS)
    throughput: bool = True
    latency: bool = True


@dataclass
class Phase:
    """What one phase took: seconds from its first statement to its last row, and CPU microseconds per event by who used them."""

    events: int
    seconds: float
    cpu_us_per_event: dict[str, float]

    @property
    def events_per_s(self) -> float:
        """Return the throughput."""
        return self.events / self.seconds


@dataclass
class Turn:
    """One contestant's part of a round."""

    contestant: str
    round: int
    ready_s: float
    phases: dict[str, Phase] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    rate_reached: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        body = asdict(self)
        for name, phase in self.phases.items():
            body["phases"][name]["events_per_s"] = round(phase.events_per_s, 1)
            body["phases"][name]["seconds"] = round(phase.seconds, 3)
        return body


@contextlib.contextmanager
def scene(stack: Stack, folder: Path, name: str, say: Say) -> Iterator[Scene]:
    """Make databases for one run of a contestant; they and its topics are gone afterwards."""
    databases = [f"{name}_source", f"{name}_target"]
    for database in databases:
        stack.postgres.drop_database(database)
    shutil.rmtree(folder / name, ignore_errors=True)  # offsets of an earlier run would be of another server
    source, target = (stack.postgres.create_database(database) for database in databases)
    create_tables(source, target)
    try:
        yield Scene(stack, stack.endpoints(), source, target, folder / name, name, say)
    finally:
        for database in databases:
            stack.postgres.drop_database(database)
        _drop_topics(stack, f"{name}.")
        _keep_logs(folder / name)


@contextlib.contextmanager
def running(contestant: Contestant) -> Iterator[tuple[Pair, float]]:
    """Start a contestant and wait until it carries rows; yield the two databases and how long that took. Stops it."""
    begun = time.monotonic()
    try:
        contestant.start()
        pair = Pair(contestant.scene.source, contestant.scene.target)
        try:
            pair.wait_ready(contestant.check)
            yield pair, time.monotonic() - begun
        finally:
            pair.close()
    finally:
        contestant.stop()


def run(stack: Stack, folder: Path, plan: Plan, say: Say, turns: list[Turn]) -> None:
    """Run all rounds; add every turn to `turns` when it is done."""
    for number in range(1, plan.rounds + 1):
        for name in plan.contestants:
            say(f"round {number}/{plan.rounds}, {name}: starting")
            with scene(stack, folder, f"bench_{name}_{number}", say) as place:
                turns.append(turn(CONTESTANTS[name](place), number, plan, say))


def turn(contestant: Contestant, number: int, plan: Plan, say: Say) -> Turn:
    """Run one contestant's part of a round."""
    with running(contestant) as (pair, ready_s):
        out = Turn(contestant.name, number, round(ready_s, 1))
        title = f"round {number}/{plan.rounds}, {contestant.name}"
        if plan.warm:
            span = pair.span(max(1, plan.warm // 2), "warm")
            for kind, part in (("insert", span), ("update", span.named("warmer"))):
                seconds = clocked(contestant, pair, kind, part)
                say(f"{title}: warm, {part.rows} {kind}s in {seconds:.1f} s")
        if plan.throughput:
            span = pair.span(plan.events, "inserted")
            for kind, part in (("insert", span), ("update", span.named("updated"))):
                phase = out.phases[f"{kind}s"] = _measured(contestant, pair, kind, part)
                say(
                    f"{title}: {phase.events_per_s:,.0f} {kind}s/s,"
                    f" {phase.cpu_us_per_event['own']:.0f} µs CPU per event"
                )
            pair.verify(span)
            out.memory_mb = {who: asdict(found) for who, found in contestant.memory().items()}
        if plan.latency:
            _latency(contestant, pair, plan, out, say, title)
        out.about = contestant.about()
    return out


def _latency(contestant: Contestant, pair: Pair, plan: Plan, out: Turn, say: Say, title: str) -> None:
    if contestant.tune("latency"):
        pair.wait_ready(contestant.check)
    span, _ = pair.trickle(plan.rates[0], min(_LATENCY_WARM_S, plan.latency_s))
    pair.wait(span, contestant.check)
    for rate in plan.rates:
        span, reached = pair.trickle(rate, plan.latency_s)
        pair.wait(span, contestant.check)
        found = out.latency_ms[str(rate)] = pair.latency_ms(span)
        out.rate_reached[str(rate)] = round(reached, 1)
        say(
            f"{title}: at {reached:.0f}/s p50 {found['p50']:.0f} ms, p95 {found['p95']:.0f} ms, p99 {found['p99']:.0f} ms"
        )


def _measured(contestant: Contestant, pair: Pair, kind: str, span: Span) -> Phase:
    stack = contestant.scene.stack
    servers = {service.name: service.pid for service in stack.services}

    def used() -> dict[str, float]:
        own = {"own": contestant.cpu_s()}
        return own | {name: cpu_s([pid]) for name, pid in servers.items()} | {"generator": time.process_time()}

    before = used()
    seconds = clocked(contestant, pair, kind, span)
    after = used()
    per_event = {name: round((after[name] - before[name]) / span.rows * 1e6, 1) for name in before}
    return Phase(span.rows, seconds, per_event)


def clocked(contestant: Contestant, pair: Pair, kind: str, span: Span) -> float:
    """Do the work; return the seconds from the first statement to the last row in the destination."""
    begun = time.monotonic()
    (pair.insert if kind == "insert" else pair.update)(span)
    return pair.wait(span, contestant.check) - begun


def _keep_logs(folder: Path) -> None:
    """Remove everything but the logs: local state of a million records is large, and settings hold passwords."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".log":
            path.unlink()


def _drop_topics(stack: Stack, prefix: str) -> None:
    admin = KafkaClients(stack.endpoints().kafka).admin()
    names = [name for name in admin.list_topics(timeout=30.0).topics if name.startswith(prefix)]
    if names:
        for future in admin.delete_topics(names).values():
            with contextlib.suppress(Exception):  # gone already, or gone with the stack in a moment
                future.result(30)
