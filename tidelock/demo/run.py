"""The demo from start to verdict."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tidelock.demo import records
from tidelock.demo.evidence import ENTITIES, Evidence, gather
from tidelock.demo.office import Office
from tidelock.demo.portals import PLACES, Portal
from tidelock.demo.rest import Motion, Rest
from tidelock.demo.settings import DATABASES, PREFIX, SYSTEMS, Hooks, create_schema, write_config
from tidelock.demo.topics import Observer
from tidelock.demo.verify import Verdict, verify
from tidelock.demo.view import Figures, View
from tidelock.demo.workers import Workers, command
from tidelock.embedded import Stack
from tidelock.errors import Fatal

SEED_TIMEOUT_S = 90.0
REST_TIMEOUT_S = 60.0
PAUSE_S = 1.2
SETTLE_S = 7.0  # the longest pause between a poll and the next one, and the delayed flow, with room to spare
NIGHT_S = 12.0  # by then the scheduled comparison of the directory has run once more
# What is read at the start.
SEEDED = {
    "crm": ENTITIES,
    "erp": ("account", "contact", "order", "order_line", "inventory"),
    "legacy": ("account", "contact"),
    "directory": ("user",),
}


@dataclass(frozen=True)
class Options:
    """How the demo is run. With ``keep`` the servers' data and the configuration stay; they are wiped at the next run otherwise."""

    folder: Path
    rounds: int = 6
    seed: int = 1
    keep: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the demo found: the content of report.json, and the verdict behind it."""

    report: dict[str, Any]
    verdict: Verdict


class Demo:
    """One run. Everything it starts is stopped by `close`, also after Ctrl-C."""

    def __init__(self, options: Options, view: View) -> None:
        self._options = options
        self._view = view
        self._folder = options.folder.expanduser().resolve()
        self._config = self._folder / "tidelock.yaml"
        self._cleanup = contextlib.ExitStack()
        self._began = time.monotonic()
        self._portals: list[Portal] = []

    def close(self) -> None:
        """Stop everything that was started, in reverse order."""
        self._view.say("stopping what was started")
        self._cleanup.close()

    def run(self) -> Outcome:
        """Run it to the verdict. Raises Fatal or Retry if it does not get that far."""
        view, options = self._view, self._options
        observer, dsns, workers = self._start()
        rest = Rest(observer, dsns)
        self._seeded(observer, workers)
        started = time.monotonic()
        view.say("everything is read; creating what a system lacks")
        self._rest(rest, workers, SEED_TIMEOUT_S, lambda: started + SETTLE_S)
        office = Office(dsns, self._portals, options.seed)
        self._cleanup.callback(office.close)
        stock = _stock(observer)
        for number in range(options.rounds):
            story = office.round(number, options.rounds - 1)
            view.edits = Counter(e.system for e in office.diary.edits)
            view.say(f"people work in all systems, round {number + 1} of {options.rounds}: {story}")
            end = time.monotonic() + PAUSE_S
            while time.monotonic() < end:
                workers.check()
                time.sleep(0.1)
        view.say("nobody edits any more; waiting for rest")
        settled_s = NIGHT_S if any(e.system == "directory" for e in office.diary.edits) else SETTLE_S
        at_rest = self._rest(rest, workers, REST_TIMEOUT_S, lambda: office.diary.newest + settled_s)
        view.say("comparing every system with the merged records")
        evidence, verdict = self._judge(observer, dsns, office, stock)
        deadline = (
            time.monotonic() + 15
        )  # blocked writes are tried again on a slow timer; give the last of them a chance
        while not verdict.passed and time.monotonic() < deadline:
            self._rest(rest, workers, 10, lambda: 0.0)
            evidence, verdict = self._judge(observer, dsns, office, stock)
        return Outcome(self._report(observer, evidence, verdict, office, at_rest), verdict)

    # ------------------------------------------------------------------------------------------------------------------- parts

    def _start(self) -> tuple[Observer, dict[str, str], Workers]:
        view, folder = self._view, self._folder
        stack = Stack(folder / "stack", ephemeral=True)
        view.say("starting Kafka, the schema registry and PostgreSQL")
        if (folder / "stack").exists():
            stack.remove()  # also ends what a crashed run may have left behind
        for name in ("run", "workers.log", "report.json", "tidelock.yaml"):
            target = folder / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        hooks = Hooks.new()
        self._portals = [
            Portal(p, None, self._options.seed, hooks.options(p.label) if p.simulator == "webhook" else ())
            for p in PLACES
        ]
        for portal in self._portals:
            self._cleanup.callback(portal.stop)
        endpoints = stack.start(lambda line: view.say(line))
        self._cleanup.callback(self._wind_up, stack)
        view.say("creating four databases and filling them")
        dsns = {name: stack.postgres.create_database(name) for name in DATABASES}
        for name in SYSTEMS:
            create_schema(name, dsns[name])
        records.load(dsns, self._options.seed)
        for portal in self._portals:
            portal.wait()
            portal.load(records.in_portal(portal.place, self._options.seed))
        write_config(self._config, endpoints, dsns, {p.system: p.ready for p in self._portals}, hooks)
        view.say("installing triggers and queue table in the ERP")
        command(self._config, "outbox", "install", "erp")
        observer = Observer(endpoints.kafka, endpoints.registry, PREFIX)
        self._cleanup.callback(observer.close)
        workers = Workers(folder / "workers.log")
        self._cleanup.callback(workers.stop)
        view.say("starting all workers, each a process of its own")
        workers.start(self._config)
        pids = workers.wait_for(folder / "run", 60)
        self._wait_for_topics(observer, workers)
        figures = Figures(observer)
        figures.start()
        self._cleanup.callback(figures.stop)
        view.figures = figures
        view.say(f"{len(pids)} workers run; reading what is there; nothing is created in a system that is not read yet")
        return observer, dsns, workers

    def _seeded(self, observer: Observer, workers: Workers) -> None:
        """Wait until every row that was there has been captured. Raises Fatal."""
        expected = {f"seeded/{system}/default/{entity}" for system, entities in SEEDED.items() for entity in entities}
        expected |= {f"seeded/{place.path}/contact" for place in PLACES}
        deadline = time.monotonic() + SEED_TIMEOUT_S
        while missing := expected - observer.signals().keys():
            workers.check()
            self._view.tick()
            if time.monotonic() > deadline:
                raise Fatal(
                    f"not everything was read within {SEED_TIMEOUT_S:.0f} s; missing: {', '.join(sorted(missing))}"
                    f"; the end of the log {workers.log}:\n{workers.tail()}"
                )
            time.sleep(0.3)

    def _wind_up(self, stack: Stack) -> None:
        if self._options.keep:
            stack.stop()
        else:
            stack.remove()

    def _wait_for_topics(self, observer: Observer, workers: Workers) -> None:
        deadline = time.monotonic() + 30
        while observer.topics.ops("activity") not in observer.names():
            workers.check()
            if time.monotonic() > deadline:
                raise Fatal(f"no topics after 30 s; the end of the log {workers.log}:\n{workers.tail()}")
            time.sleep(0.2)

    def _rest(
        self,
        rest: Rest,
        workers: Workers,
        timeout_s: float,
        since: Callable[[], float],
    ) -> bool:
        def say(motion: Motion) -> None:
            waiting: Counter[str] = Counter()
            for topic, lag in motion.lag.items():
                kind, _, name = topic.removeprefix(PREFIX).partition(".")
                if kind in ("cdc", "sync"):
                    waiting[name.partition(".")[0]] += lag
            self._view.waiting = waiting
            self._view.tick()

        return rest.wait(timeout_s, since, say, check=workers.check)

    def _judge(
        self, observer: Observer, dsns: dict[str, str], office: Office, stock: dict[str, int]
    ) -> tuple[Evidence, Verdict]:
        evidence = gather(
            observer,
            {s: dsns[s] for s in SYSTEMS},
            {p.system: p.rows() for p in self._portals},
            self._config.read_text(encoding="utf-8"),
        )
        return evidence, verify(evidence, office.diary.edits, stock)

    def _report(
        self, observer: Observer, evidence: Evidence, verdict: Verdict, office: Office, at_rest: bool
    ) -> dict[str, Any]:
        changes, writes = observer.count("cdc."), observer.count("sync.")
        figures = self._view.figures
        systems: dict[str, dict[str, int]] = {}
        named = (
            "crm",
            "erp",
            "legacy",
            "directory",
            *dict.fromkeys(p.system.partition("/")[0] for p in self._portals),
            "store",
        )
        for system in named:
            counts = figures.by_system[system] if figures else Counter[str]()
            systems[system] = {
                "edits": sum(n for label, n in self._view.edits.items() if label.partition("/")[0] == system),
                "changes": _of(changes, f"{PREFIX}cdc.{system}."),
                "writes": _of(writes, f"{PREFIX}sync.{system}."),
                "echoes": counts["echoes"],
                "conflicts": sum(c["system"] == system for c in evidence.conflicts),
                "dead_letters": sum(letter.system == system for letter in evidence.letters),
            }
            calls = sum(p.calls() for p in self._portals if p.system.partition("/")[0] == system)
            if calls:
                systems[system]["api_calls"] = calls
        report = {
            "converged": verdict.converged and at_rest,
            "at_rest": at_rest,
            "lost": len(verdict.lost),
            "systems": systems,
            "records": verdict.records,
            "compared": verdict.compared,
            "edits": len(office.diary.edits),
            "changes": sum(changes.values()),
            "writes": sum(writes.values()),
            "echoes": sum(s["echoes"] for s in systems.values()),
            "conflicts": len(evidence.conflicts),
            "dead_letters": len(evidence.letters),
            "alerts": len(evidence.alerts),
            "duration_s": round(time.monotonic() - self._began, 1),
            "seed": self._options.seed,
            "rounds": self._options.rounds,
            "fates": dict(verdict.fates),
            "mismatches": [asdict(m) for m in verdict.mismatches],
            "lost_edits": verdict.lost,
            "letters": [{k: v for k, v in asdict(letter).items() if k != "columns"} for letter in evidence.letters],
        }
        (self._folder / "report.json").write_text(json.dumps(report, indent=2, default=str), encoding="utf-8")
        return report


def _of(counts: dict[str, int], start: str) -> int:
    return sum(n for name, n in counts.items() if name.startswith(start))


def _stock(observer: Observer) -> dict[str, int]:
    return {r["sku"]: r["quantity"] for r in observer.golden("inventory").values() if r is not None}
