"""The embedded stack: Kafka, registry and PostgreSQL in one data folder, started and stopped together."""

from __future__ import annotations

import atexit
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tidelock.embedded.apicurio import Apicurio
from tidelock.embedded.artifacts import kafka_jars, read_lock, registry_archive
from tidelock.embedded.download import fetch, locked
from tidelock.embedded.kafka import Kafka
from tidelock.embedded.postgres import Postgres
from tidelock.embedded.service import Record, Service, ServiceStatus
from tidelock.embedded.state import read_state, write_state
from tidelock.errors import Fatal

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Endpoints:
    """Where the servers are: `kafka` as host:port, `registry` as URL, `postgres` as URI without a database; empty when not part."""

    kafka: str
    registry: str
    postgres: str

    def dsn(self, database: str) -> str:
        """Return the connection URI of one database."""
        return f"{self.postgres}/{database}"


class Stack:
    """Servers whose data, logs, ports and process ids are kept below `folder`.

    They outlive the process that starts them. With `ephemeral`, or used as a context manager, they end with it: in order
    at the normal end and on Ctrl-C, by a signal from the kernel when it dies otherwise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kafka: bool = True,
        registry: bool = True,
        postgres: bool = True,
        ephemeral: bool = False,
    ) -> None:
        self.folder = folder.expanduser().resolve()
        self._write = threading.Lock()
        self._others: dict[str, Record] = {}
        self._started: list[Service] = []
        self._ephemeral = False
        self.kafka = Kafka(self.folder, changed=self._save)
        self.registry = Apicurio(self.folder, changed=self._save)
        self.postgres = Postgres(self.folder, changed=self._save)
        chosen = ((self.kafka, kafka), (self.registry, registry), (self.postgres, postgres))
        self.services: Sequence[Service] = [service for service, wanted in chosen if wanted]
        if ephemeral:
            self._bind()
        self._load()

    def start(self, progress: Progress | None = None) -> Endpoints:
        """Start in parallel what is not running, and wait until all of it answers.

        What runs already, from this or an earlier process, is taken as it is. Raises Fatal when a server does not come
        up; then those started by this call are stopped again.
        """
        say = progress or (lambda _: None)
        with locked(self.folder / "stack.lock", say):
            self._load()
            down = [service for service in self.services if not service.adopt()]
            taken = {port for service in self.services if service not in down for port in service.record.ports.values()}
            for service in down:
                for change in service.choose_ports(taken):
                    say(change)
            self._save()
            self._download(progress)
            self._start_all(down, say)
        return self.endpoints()

    def stop(self) -> None:
        """Stop all of them, also those that an earlier process started; nothing happens to what is down."""
        with locked(self.folder / "stack.lock"):
            self._load()
            for service in self.services:
                service.adopt()
            self._stop(self.services)
        self._started.clear()

    def status(self) -> dict[str, ServiceStatus]:
        """Return what is known of each server now, by name."""
        self._load()
        return {service.name: service.status() for service in self.services}

    def endpoints(self) -> Endpoints:
        """Return where the servers are. Raises Fatal when one of them is not running."""
        self._load()
        down = [service.title for service in self.services if not service.running]
        if down:
            raise Fatal(f"not running: {', '.join(down)} (data folder {self.folder})", hint="Run `tidelock up`.")

        def address(service: Service) -> str:
            return service.address if service in self.services else ""

        return Endpoints(address(self.kafka), address(self.registry), address(self.postgres))

    def remove(self) -> None:
        """Stop the servers and remove all their data."""
        self.stop()
        self.postgres.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self._bind()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _bind(self) -> None:
        """Tie what this object starts to the life of this process."""
        if not self._ephemeral:
            self._ephemeral = True
            for service in self.services:
                service.bound = True
            atexit.register(self._end)

    def _end(self) -> None:
        """Stop what this object started; what it found running stays."""
        atexit.unregister(self._end)
        started, self._started = self._started, []
        self._stop(started)

    def _download(self, progress: Progress | None) -> None:
        """Fetch everything in one go, before the servers start, so that one progress display tells of it."""
        pinned = read_lock()
        wanted = [*(kafka_jars(pinned) if self.kafka in self.services else [])]
        if self.registry in self.services:
            wanted.append(registry_archive(pinned))
        fetch(wanted, say=progress)

    def _start_all(self, down: Sequence[Service], say: Progress) -> None:
        def start(service: Service) -> None:
            begun = time.monotonic()
            fresh = service in down
            service.bring_up()
            verb = "is up" if fresh else "was up already"
            say(
                f"{service.title} {verb} at {service.record.ports[service.port_names[0]]} ({time.monotonic() - begun:.1f} s)"
            )

        self._started += down
        for service in self.services:
            service.abort.clear()
        jobs: list[Future[None]] = []
        with ThreadPoolExecutor(max(1, len(self.services))) as pool:
            try:
                jobs = [pool.submit(start, service) for service in self.services]
                wait(jobs, return_when=FIRST_EXCEPTION)
                failed = next((job.exception() for job in jobs if job.done() and job.exception()), None)
                if failed is not None:
                    raise failed
            except BaseException:  # also Ctrl-C: nothing half started stays behind
                for service in self.services:
                    service.abort.set()
                wait(jobs)
                self._started = [service for service in self._started if service not in down]
                self._stop(down)
                raise

    def _stop(self, services: Sequence[Service]) -> None:
        if services:
            with ThreadPoolExecutor(len(services)) as pool:
                for job in [pool.submit(service.stop) for service in services]:
                    job.result()

    def _load(self) -> None:
        records = read_state(self.folder)
        for service in self.services:
            if service.name in records:
                service.record = records.pop(service.name)
        self._others = records  # a stack with fewer servers must not forget the others' processes

    def _save(self) -> None:
        with self._write:
            own = {service.name: service.record for service in self.services}
            write_state(self.folder, self._others | own)
