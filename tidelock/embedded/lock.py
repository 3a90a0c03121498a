"""Pin the jars of the embedded stack: `python -m tidelock.embedded.lock` resolves them anew and writes jars.lock.json."""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import stamina

from tidelock.embedded.artifacts import LOCK_FILE, Artifact, Coordinates, maven_url, write_lock
from tidelock.embedded.download import cache_folder
from tidelock.embedded.pom import Dependency, Resolver
from tidelock.errors import Fatal, TidelockError

KAFKA_VERSION = "4.4.0"
APICURIO_VERSION = "3.3.3"
# slf4j-simple must be of the line that Kafka's own slf4j-api is of.
ROOTS = (
    Dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    Dependency("org.slf4j", "slf4j-simple", "1.7.36"),
)
REGISTRY = Coordinates("io.apicurio", "apicurio-registry-app", APICURIO_VERSION, "all", "tar.gz")


class Repository:
    """Read a Maven repository; transient trouble is tried again. Raises Fatal."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60.0, connect=10.0))

    def pom(self, coordinates: Coordinates) -> str:
        """Return the text of a POM."""
        name = f"{coordinates.folder}/{coordinates.artifact}-{coordinates.version}.pom"
        return self._get(name).decode("utf-8")

    def pin(self, coordinates: Coordinates, cache: Path) -> Artifact:
        """Download a file into the cache, hold it against the repository's SHA-1 sum, and pin it by SHA-256."""
        body = self._get(coordinates.path)
        told = self._get(coordinates.path + ".sha1").decode("ascii").split()[0]
        if hashlib.sha1(body, usedforsecurity=False).hexdigest() != told:
            raise Fatal(f"{self._url}/{coordinates.path} was damaged on the way", hint="Run `make lock` again.")
        target = cache / "maven" / coordinates.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".lock-part")
        part.write_bytes(body)
        part.replace(target)
        return Artifact(
            coordinates.group,
            coordinates.artifact,
            coordinates.version,
            coordinates.classifier,
            coordinates.type,
            hashlib.sha256(body).hexdigest(),
            len(body),
        )

    def _get(self, path: str) -> bytes:
        url = f"{self._url}/{path}"
        try:
            for attempt in stamina.retry_context(on=httpx.TransportError, attempts=5, timeout=None):
                with attempt:
                    answer = self._client.get(url)
        except httpx.TransportError as error:
            raise Fatal(f"cannot read {url}: {error}", hint="Check the network and TIDELOCK_MAVEN_URL.") from error
        if answer.status_code != httpx.codes.OK:
            raise Fatal(f"cannot read {url}: the server answered {answer.status_code}", hint="Check the coordinates.")
        return answer.content


def lock(path: Path = LOCK_FILE) -> list[Artifact]:
    """Resolve, download and pin everything the embedded stack needs; return it as written to `path`."""
    repository = Repository(maven_url())
    wanted = [*Resolver(repository.pom).resolve(ROOTS), REGISTRY]
    with ThreadPoolExecutor(4) as pool:
        artifacts = list(pool.map(lambda coordinates: repository.pin(coordinates, cache_folder()), wanted))
    write_lock(artifacts, path)
    return artifacts


def main() -> int:
    """Write the lock file and say what it holds; return the exit code."""
    try:
        artifacts = lock()
    except TidelockError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    size_mb = sum(artifact.size_bytes for artifact in artifacts) / 1e6
    sys.stderr.write(f"{LOCK_FILE.name}: {len(artifacts)} files, {size_mb:.0f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
