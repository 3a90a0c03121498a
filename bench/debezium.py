"""The peer: Kafka Connect, standalone, with Debezium's PostgreSQL source and its JDBC sink, Avro through the same registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx

from bench import lock
from bench.contestant import Contestant, Program, Scene
from bench.machine import Memory, cpu_s, memory
from tidelock.embedded.artifacts import Artifact
from tidelock.embedded.download import cache_folder, fetch, locked, unpack
from tidelock.embedded.java import java, scratch
from tidelock.embedded.ports import HOST, free_port
from tidelock.errors import Fatal
from tidelock.kafka import KafkaClients, TopicSpec, ensure_topics

# What Kafka's own start script gives to Connect.
_JVM = (
    "-Xms256m",
    "-Xmx2g",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
_POLL_MS = {"throughput": "50", "latency": "10"}
_START_S = 120.0


class Debezium(Contestant):
    """One Connect worker with both connectors."""

    name: ClassVar[str] = "debezium"

    def __init__(self, scene: Scene, *, sink_tasks: int = 1) -> None:
        super().__init__(scene)
        self._sink_tasks = sink_tasks
        self._program = Program("Kafka Connect", scene.folder / "connect.log")
        self._port = free_port(set())
        self._source: dict[str, str] = {}

    def start(self) -> None:
        """Install what is missing, create the topic, start the worker, wait until both connectors run."""
        home = install(self.scene.say)
        folder = self.scene.folder
        folder.mkdir(parents=True, exist_ok=True)
        self._source = self._source_settings("throughput")
        # An unprivileged reader of the process list must not find the password: it stands in files, not in arguments.
        files = {"worker": self._worker_settings(home), "source": self._source, "sink": self._sink_settings()}
        paths = [_write(folder / f"{name}.properties", settings) for name, settings in files.items()]
        self._create_topic()
        logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        self._program.start(
            [
                *(java(), *_JVM, logging, "-Dorg.slf4j.simpleLogger.showDateTime=true", scratch(folder)),
                *("-cp", f"{home / 'connect'}/*", "org.apache.kafka.connect.cli.ConnectStandalone"),
                *map(str, paths),
            ],
            folder,
        )
        self._wait_running()

    def stop(self) -> None:
        """Stop the worker."""
        self._program.stop()

    def check(self) -> None:
        """Raise Fatal if the worker has died or one of its tasks failed."""
        self._program.check()
        for connector in ("source", "sink"):
            for state, trace in self._states(connector):
                if state == "FAILED":
                    raise Fatal(
                        f"Debezium's {connector} failed: {trace.partition(chr(10))[0]}",
                        hint=f"See {self._program.log}.",
                    )

    def cpu_s(self) -> float:
        """Return the CPU seconds of the Connect process."""
        return cpu_s([self._program.pid])

    def memory(self) -> dict[str, Memory]:
        """Return the memory of the Connect process."""
        pid = self._program.pid
        found = memory(pid) if pid is not None else None
        return {"connect": found} if found is not None else {}

    def tune(self, work: str) -> bool:
        """Set how often the source looks for events; only its task starts anew, the JVM stays warm."""
        wanted = self._source_settings(work)
        if wanted == self._source:
            return False
        self._source = wanted
        answer = httpx.put(f"{self._url}/connectors/source/config", json=wanted, timeout=30.0, trust_env=False)
        if answer.is_error:
            raise Fatal(f"Connect refused a new configuration: {answer.text[:500]}", hint=f"See {self._program.log}.")
        self._wait_running()
        return True

    def about(self) -> dict[str, Any]:
        """Return versions and settings."""
        return {
            "debezium": lock.DEBEZIUM_VERSION,
            "connect": lock.CONNECT_VERSION,
            "converter": f"apicurio {lock.CONVERTER_VERSION}",
            "java": java_version(),
            "sink_tasks": self._sink_tasks,
        }

    @property
    def _url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def _create_topic(self) -> None:
        """Create the topic beforehand: a sink that finds none would look again only minutes later."""
        topic = TopicSpec(f"{self.scene.name}.public.contact", self._sink_tasks)
        ensure_topics(KafkaClients(self.scene.endpoints.kafka).admin(), [topic])

    def _wait_running(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            self.check()
            states = [state for connector in ("source", "sink") for state, _ in self._states(connector)]
            # a connector and its tasks each have a state
            if len(states) == 3 + self._sink_tasks and set(states) == {"RUNNING"}:
                return
            time.sleep(0.2)
        raise Fatal(f"Kafka Connect was not running within {_START_S:.0f} s", hint=f"See {self._program.log}.")

    def _states(self, connector: str) -> list[tuple[str, str]]:
        try:
            answer = httpx.get(f"{self._url}/connectors/{connector}/status", timeout=5.0, trust_env=False)
        except httpx.HTTPError:
            return []
        if answer.status_code != httpx.codes.OK:
            return []
        body = answer.json()
        parts = [body["connector"], *body["tasks"]]
        return [(str(part["state"]), str(part.get("trace", ""))) for part in parts]

    def _worker_settings(self, home: Path) -> dict[str, str]:
        registry = urlsplit(self.scene.endpoints.registry)
        converter = {
            "": "io.apicurio.registry.utils.converter.AvroConverter",
            ".apicurio.registry.url": f"{registry.scheme}://{registry.netloc}/apis/registry/v2",
            ".apicurio.registry.auto-register": "true",
            ".apicurio.registry.find-latest": "true",
        }
        return {
            "bootstrap.servers": self.scene.endpoints.kafka,
            "plugin.path": str(home / "plugins"),
            "listeners": self._url,
            "offset.storage.file.filename": str(self.scene.folder / "connect.offsets"),
            "producer.compression.type": "lz4",
            "producer.linger.ms": "20",
            "producer.batch.size": "262144",
            "consumer.max.poll.records": "5000",
            **{f"key.converter{key}": value for key, value in converter.items()},
            **{f"value.converter{key}": value for key, value in converter.items()},
        }

    def _source_settings(self, work: str) -> dict[str, str]:
        dsn = urlsplit(self.scene.source)
        return {
            "name": "source",
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "database.hostname": str(dsn.hostname),
            "database.port": str(dsn.port),
            "database.user": str(dsn.username),
            "database.password": str(dsn.password),
            "database.dbname": dsn.path.lstrip("/"),
            "topic.prefix": self.scene.name,
            "table.include.list": "public.contact",
            "plugin.name": "pgoutput",
            "slot.name": "bench_debezium",
            "publication.name": "bench_debezium",
            "publication.autocreate.mode": "filtered",
            "snapshot.mode": "no_data",
            "decimal.handling.mode": "string",
            "max.batch.size": "8192",
            "max.queue.size": "32768",
            "poll.interval.ms": _POLL_MS[work],
        }

    def _sink_settings(self) -> dict[str, str]:
        dsn = urlsplit(self.scene.target)
        return {
            "name": "sink",
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": str(self._sink_tasks),
            "topics": f"{self.scene.name}.public.contact",
            # decimals come as text; so the server, not the driver, says what type they are
            "connection.url": f"jdbc:postgresql://{dsn.hostname}:{dsn.port}{dsn.path}?stringtype=unspecified",
            "connection.username": str(dsn.username),
            "connection.password": str(dsn.password),
            "collection.name.format": "contact",
            "insert.mode": "upsert",
            "primary.key.mode": "record_key",
            "delete.enabled": "true",
            "schema.evolution": "basic",
            "batch.size": "2000",
        }


def install(say: Any) -> Path:
    """Download, check and lay out the peer once; return its folder in the cache."""
    peer = lock.read()
    digest = hashlib.sha256("".join(artifact.sha256 for artifact in peer.files).encode()).hexdigest()[:12]
    home = cache_folder() / f"debezium-{lock.DEBEZIUM_VERSION}-{digest}"
    if home.is_dir():
        return home
    fetch(peer.files, say=say)
    with locked(home.with_name(home.name + ".lock")):
        if not home.is_dir():
            fresh = home.with_name(home.name + ".new")
            shutil.rmtree(fresh, ignore_errors=True)
            _lay(peer.connect, fresh / "connect")
            _lay(peer.converter, fresh / "plugins" / "apicurio-converter")
            for artifact, archive in zip(peer.plugins, fetch(peer.plugins), strict=True):
                unpack(archive, fresh / "plugins" / artifact.artifact)
                (fresh / "plugins" / f"{artifact.artifact}.lock").unlink(missing_ok=True)
            fresh.replace(home)
    return home


def java_version() -> str:
    """Return what the runtime says it is."""
    release = Path(java()).parent.parent / "release"
    for line in release.read_text(encoding="utf-8").splitlines():
        if line.startswith("JAVA_VERSION="):
            return line.partition("=")[2].strip('"')
    return "unknown"


def _lay(artifacts: Sequence[Artifact], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in fetch(artifacts):
        try:
            os.link(path, folder / path.name)
        except OSError:  # another file system
            shutil.copyfile(path, folder / path.name)


def _write(path: Path, settings: Mapping[str, str]) -> Path:
    path.touch(mode=0o600)
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
    return path
