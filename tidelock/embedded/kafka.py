"""Embedded Kafka: one KRaft node, broker and controller in one process."""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from pathlib import Path
from typing import ClassVar

from tidelock.embedded.artifacts import kafka_jars, read_lock
from tidelock.embedded.download import fetch
from tidelock.embedded.java import LEAN, java, scratch
from tidelock.embedded.ports import HOST, accepts
from tidelock.embedded.process import tail
from tidelock.embedded.service import Command, Service, environment
from tidelock.errors import Fatal

DEFAULT_HEAP = "-Xms256m -Xmx768m"
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # one node holds the only copy
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # sized for one machine: fewer files, threads and buffers
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.dedupe.buffer.size": "33554432",
    "log.index.size.max.bytes": "4194304",
    # an idle controller otherwise writes a record every half second
    "metadata.max.idle.interval.ms": "10000",
    # A broker killed and started again may register only when its old session is over: the default of 9 s is a long outage.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
}


class Kafka(Service):
    """A Kafka broker on 127.0.0.1."""

    name: ClassVar[str] = "kafka"
    title: ClassVar[str] = "Kafka"
    port_names: ClassVar[tuple[str, ...]] = ("broker", "controller")

    @property
    def address(self) -> str:
        """Return the bootstrap server, `host:port`."""
        return f"{HOST}:{self.record.ports['broker']}"

    @property
    def marker(self) -> str:
        """Return the system property that names the data folder."""
        return f"-Dtidelock.folder={self.folder}"

    def prepare(self) -> None:
        """Write the settings; format the storage on the first start. Raises Fatal when it cannot be formatted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self._settings_file()
        ports = self.record.ports
        lines = _SETTINGS | {
            "controller.quorum.voters": f"1@{HOST}:{ports['controller']}",
            "listeners": f"PLAINTEXT://{HOST}:{ports['broker']},CONTROLLER://{HOST}:{ports['controller']}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{ports['broker']}",
            "log.dirs": str(self.folder / "data"),
        }
        settings.write_text("".join(f"{key}={value}\n" for key, value in lines.items()), encoding="utf-8")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(settings)

    def command(self) -> Command:
        """Return how to run the broker; `TIDELOCK_KAFKA_HEAP` holds the heap's Java options."""
        heap = os.environ.get("TIDELOCK_KAFKA_HEAP", DEFAULT_HEAP).split()
        return Command([*self._java(heap), "kafka.Kafka", str(self._settings_file())], environment(), self.folder)

    def healthy(self) -> bool:
        """Return whether the broker answers a metadata request and knows a controller."""
        if not accepts(self.record.ports["broker"]):
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0, "socket.timeout.ms": 5000})
        try:
            metadata = admin.list_topics(timeout=5.0)
        except KafkaException:
            return False
        return bool(metadata.brokers) and metadata.controller_id >= 0

    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, heap: list[str]) -> list[str]:
        jars = ":".join(str(path) for path in fetch(kafka_jars(read_lock())))
        logging = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        form = "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS"
        server = "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info"
        return [java(), *LEAN, scratch(self.folder), *heap, self.marker, *logging, form, server, "-cp", jars]

    def _format(self, settings: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        if cluster.startswith("-"):
            cluster = "A" + cluster[1:]  # the tool would take it for an option
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", str(settings)]
        with self.log.open("ab") as log:
            done = subprocess.run(
                [*self._java(["-Xmx128m", "-XX:TieredStopAtLevel=1"]), *tool],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                check=False,
                timeout=120,
            )
        if done.returncode != 0:
            raise Fatal(
                f"Kafka's storage at {self.folder} cannot be formatted; the end of the log {self.log}:\n{tail(self.log)}",
                hint="Check the free space and permissions there, or remove the folder to start afresh.",
            )
