"""Embedded Apicurio registry with its H2 file store; clients use its Confluent-compatible interface."""

from __future__ import annotations

import http.client
import os
from pathlib import Path
from typing import ClassVar

from tidelock.embedded.artifacts import read_lock, registry_archive
from tidelock.embedded.download import cache_folder, fetch, unpack
from tidelock.embedded.java import LEAN, java, scratch
from tidelock.embedded.ports import HOST, accepts
from tidelock.embedded.service import Command, Service, environment

DEFAULT_HEAP = "-Xms64m -Xmx384m"


class Apicurio(Service):
    """A schema registry on 127.0.0.1."""

    name: ClassVar[str] = "registry"
    title: ClassVar[str] = "the schema registry"
    port_names: ClassVar[tuple[str, ...]] = ("http", "management")

    @property
    def address(self) -> str:
        """Return the URL of the Confluent-compatible interface."""
        return f"http://{HOST}:{self.record.ports['http']}/apis/ccompat/v7"

    @property
    def marker(self) -> str:
        """Return the system property that names the data folder."""
        return f"-Dtidelock.folder={self.folder}"

    def prepare(self) -> None:
        """Download and unpack the distribution where that has not been done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        home = self._home()
        if not home.is_dir():
            [archive] = fetch([registry_archive(read_lock())])
            unpack(archive, home)

    def command(self) -> Command:
        """Return how to run the registry; `TIDELOCK_REGISTRY_HEAP` holds the heap's Java options."""
        heap = os.environ.get("TIDELOCK_REGISTRY_HEAP", DEFAULT_HEAP).split()
        jar = next(self._home().rglob("quarkus-run.jar"))
        env = environment(
            QUARKUS_HTTP_HOST=HOST,
            QUARKUS_HTTP_PORT=str(self.record.ports["http"]),
            # cannot be switched off at run time, and would listen on every interface, on port 9000
            QUARKUS_MANAGEMENT_HOST=HOST,
            QUARKUS_MANAGEMENT_PORT=str(self.record.ports["management"]),
            QUARKUS_BANNER_ENABLED="false",
            QUARKUS_LOG_LEVEL="WARN",
            QUARKUS_LOG_CATEGORY__IO_APICURIO__LEVEL="WARN",
            QUARKUS_HTTP_ACCESS_LOG_ENABLED="false",
            APICURIO_STORAGE_KIND="sql",
            APICURIO_STORAGE_SQL_KIND="h2",
            # without WRITE_DELAY=0 an id already given out could be lost in a crash and given to another schema
            APICURIO_DATASOURCE_URL=f"jdbc:h2:file:{self.folder / 'h2'};WRITE_DELAY=0",
        )
        arguments = [
            java(),
            *LEAN,
            "-XX:TieredStopAtLevel=1",
            scratch(self.folder),
            *heap,
            self.marker,
            "-jar",
            str(jar),
        ]
        return Command(arguments, env, self.folder)

    def healthy(self) -> bool:
        """Return whether the interface lists subjects."""
        if not accepts(self.record.ports["http"]):
            return False
        # not through httpx or urllib: a proxy set in the environment must not stand between us and our own server
        connection = http.client.HTTPConnection(HOST, self.record.ports["http"], timeout=5.0)
        try:
            connection.request("GET", "/apis/ccompat/v7/subjects")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @staticmethod
    def _home() -> Path:
        archive = registry_archive(read_lock())
        return cache_folder() / f"apicurio-{archive.version}-{archive.sha256[:12]}"
