"""The peer's files: pinned by SHA-256 in peer.lock.json, which `python -m bench.lock` resolves anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tidelock.embedded.artifacts import Artifact, Coordinates, maven_url
from tidelock.embedded.download import cache_folder
from tidelock.embedded.lock import Repository
from tidelock.embedded.pom import Dependency, Resolver
from tidelock.errors import Fatal, TidelockError

LOCK_FILE = Path(__file__).with_name("peer.lock.json")
CONNECT_VERSION = "4.1.0"
DEBEZIUM_VERSION = "3.6.0.Final"
CONVERTER_VERSION = "2.6.8.Final"  # later ones do not resolve: they need artifacts that were never published

CONNECT = (
    Dependency("org.apache.kafka", "connect-runtime", CONNECT_VERSION),
    Dependency("org.apache.kafka", "connect-json", CONNECT_VERSION),
    Dependency("org.slf4j", "slf4j-simple", "1.7.36"),
)
PLUGINS = (
    Coordinates("io.debezium", "debezium-connector-postgres", DEBEZIUM_VERSION, "plugin", "tar.gz"),
    Coordinates("io.debezium", "debezium-connector-jdbc", DEBEZIUM_VERSION, "plugin", "tar.gz"),
)
# The worker brings these two; a second copy beside the converter would be another class of the same name.
CONVERTER = (
    Dependency(
        "io.apicurio",
        "apicurio-registry-utils-converter",
        CONVERTER_VERSION,
        exclusions=frozenset({"org.apache.kafka:kafka-clients", "org.apache.kafka:connect-api"}),
    ),
)


@dataclass(frozen=True)
class Peer:
    """What is installed: Connect's class path, the connectors' archives, the converter with what it needs."""

    connect: tuple[Artifact, ...]
    plugins: tuple[Artifact, ...]
    converter: tuple[Artifact, ...]

    @property
    def files(self) -> list[Artifact]:
        """Return every file once."""
        return sorted({*self.connect, *self.plugins, *self.converter})


def read(path: Path = LOCK_FILE) -> Peer:
    """Read the lock file. Raises Fatal when it is missing or damaged."""
    hint = "Restore it from version control, or make it anew: `python -m bench.lock`."
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        peer = Peer(
            **{part: tuple(Artifact(**entry) for entry in data[part]) for part in ("connect", "plugins", "converter")}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Fatal(f"the peer's lock file {path} cannot be read: {error}", hint=hint) from error
    for artifact in peer.files:
        if len(artifact.sha256) != 64 or artifact.size_bytes <= 0:
            raise Fatal(f"{path} does not pin {artifact.file_name} by SHA-256 and size", hint=hint)
    return peer


def write(peer: Peer, path: Path = LOCK_FILE) -> None:
    """Write the lock file, sorted, one file a line."""
    parts = []
    for name in ("connect", "plugins", "converter"):
        rows = ",\n".join("    " + json.dumps(asdict(artifact)) for artifact in sorted(getattr(peer, name)))
        parts.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def lock(path: Path = LOCK_FILE) -> Peer:
    """Resolve, download and pin everything the peer needs; return it as written to `path`."""
    repository = Repository(maven_url())

    def pin(wanted: Sequence[Coordinates]) -> tuple[Artifact, ...]:
        with ThreadPoolExecutor(4) as pool:
            return tuple(pool.map(lambda coordinates: repository.pin(coordinates, cache_folder()), wanted))

    peer = Peer(
        pin(Resolver(repository.pom).resolve(CONNECT)),
        pin(PLUGINS),
        pin(Resolver(repository.pom).resolve(CONVERTER)),
    )
    write(peer, path)
    return peer


def main() -> int:
    """Write the lock file and say what it holds; return the exit code."""
    try:
        peer = lock()
    except TidelockError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    size_mb = sum(artifact.size_bytes for artifact in peer.files) / 1e6
    sys.stderr.write(f"{LOCK_FILE.name}: {len(peer.files)} files, {size_mb:.0f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
