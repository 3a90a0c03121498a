"""What the demo shows while it runs: a live table on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidelock.demo.topics import Observer
from tidelock.errors import TidelockError

SYSTEMS = {
    "crm": "replication log",
    "erp": "trigger queue",
    "legacy": "polled view",
    "directory": "row hashes, cron",
    "salesforce": "API, two orgs: events, queries",
    "hubspot": "API, searches",
    "dynamics": "API, delta links",
    "shop": "API, lists and batches",
    "partner": "webhooks, both ways",
    "store": "written only",
}
COLUMNS = ("edits", "captured", "written", "echoes", "conflicts", "dead letters", "waiting")
PLAIN_EVERY_S = 5.0


class Figures:
    """What the workers report on ``ops.activity``, added up. Read by a thread of its own."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.by_system: dict[str, Counter[str]] = defaultdict(Counter)
        self.by_role: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="demo figures", daemon=True)

    def start(self) -> None:
        """Begin to read from the topic's beginning."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def total(self, name: str) -> int:
        """Return a count over all systems."""
        return sum(counts[name] for counts in list(self.by_system.values()))

    def _read(self) -> None:
        consumer: Consumer = self._observer.kafka.consumer("demo-view", f"{self._observer.prefix}demo-view")
        consumer.assign([TopicPartition(self._observer.topics.ops("activity"), 0, 0)])
        try:
            while not self._stop.is_set():
                for message in consumer.consume(200, 0.3):
                    if message.error() is None and message.value() is not None:
                        self._take(message.value())
        finally:
            consumer.close()

    def _take(self, value: bytes) -> None:
        try:
            content = self._observer.codec.decode(value)
        except TidelockError:
            return  # the view must not end because of a single message; the verification reads the topics itself
        self.by_role[content["worker"]] = time.monotonic()
        for count in content["counts"]:
            self.by_system[count["system"]][count["name"]] += count["value"]


class View:
    """Show progress. ``say`` changes the line that tells what happens now."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._started = time.monotonic()
        self._now = "starting"
        self.figures: Figures | None = None
        self.edits: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=False)
        self._plain_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def say(self, what: str) -> None:
        """Tell what happens now."""
        fresh, self._now = what != self._now, what
        if not self._live.is_started and not self._quiet and fresh:
            self._plain(force=True)

    def tick(self) -> None:
        """Give the plain view a chance to print a line."""
        if not self._live.is_started and not self._quiet:
            self._plain(force=False)

    def _plain(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._plain_at >= PLAIN_EVERY_S:
            self._plain_at = now
            counts = ""
            if self.figures is not None and self.figures.total("captured"):
                names = ("captured", "written", "echoes", "conflicts")
                counts = " · " + ", ".join(f"{self.figures.total(n)} {n}" for n in names)
            self._console.print(
                f"{self.elapsed_s:6.1f} s  {self._now}{counts}", markup=False, highlight=False, soft_wrap=True
            )

    def _render(self) -> RenderableType:
        table = Table(title_justify="left", header_style="bold", expand=False)
        table.add_column("system")
        table.add_column("captured by", style="dim")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for system, how in SYSTEMS.items():
            counts = self.figures.by_system[system] if self.figures else Counter[str]()
            figures = (self.edits[system], *(counts[c.replace(" ", "_")] for c in COLUMNS[1:-1]), self.waiting[system])
            table.add_row(system, how, *(str(n) if n else "·" for n in figures))
        line = Text.assemble((f"{self.elapsed_s:6.1f} s  ", "dim"), (self._now, "bold"))
        return Group(table, line)
