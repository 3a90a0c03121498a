"""Artifacts of a Maven repository: coordinates, where they lie, and the lock file that pins them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tidelock.errors import Fatal

LOCK_FILE = Path(__file__).with_name("jars.lock.json")
CENTRAL = "https://repo1.maven.org/maven2"
REGISTRY_ARTIFACT = "apicurio-registry-app"


@dataclass(frozen=True, order=True)
class Coordinates:
    """Name one file of a Maven repository."""

    group: str
    artifact: str
    version: str
    classifier: str = ""
    type: str = "jar"

    @property
    def folder(self) -> str:
        """Return the folder below the repository's root."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}"

    @property
    def file_name(self) -> str:
        """Return the file's own name."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{classifier}.{self.type}"

    @property
    def path(self) -> str:
        """Return the path below the repository's root; the cache uses the same one."""
        return f"{self.folder}/{self.file_name}"


@dataclass(frozen=True, order=True)
class Artifact(Coordinates):
    """Pin one file by its SHA-256 sum (hex) and its size in bytes."""

    sha256: str = ""
    size_bytes: int = 0


def maven_url() -> str:
    """Return the repository to download from, without a trailing slash (`TIDELOCK_MAVEN_URL` overrides Maven Central)."""
    return os.environ.get("TIDELOCK_MAVEN_URL", CENTRAL).rstrip("/")


def read_lock(path: Path = LOCK_FILE) -> list[Artifact]:
    """Read the pinned artifacts. Raises Fatal when the file is missing or not a lock file."""
    hint = "Restore the file from version control, or make it anew with `make lock`."
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        artifacts = [Artifact(**entry) for entry in entries]
    except OSError as error:
        raise Fatal(f"cannot read the lock file {path}: {error.strerror}", hint=hint) from error
    except (ValueError, TypeError) as error:
        raise Fatal(f"{path} is not a lock file of jars: {error}", hint=hint) from error
    for artifact in artifacts:
        if len(artifact.sha256) != 64 or artifact.size_bytes <= 0:
            raise Fatal(f"{path} does not pin {artifact.file_name} by SHA-256 and size", hint=hint)
    return artifacts


def write_lock(artifacts: Iterable[Artifact], path: Path = LOCK_FILE) -> None:
    """Write the lock file, sorted, so that a new resolution shows as a small difference."""
    rows = ",\n".join("  " + json.dumps(asdict(artifact)) for artifact in sorted(artifacts))
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def kafka_jars(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Return what stands on the broker's class path."""
    return [artifact for artifact in artifacts if artifact.artifact != REGISTRY_ARTIFACT]


def registry_archive(artifacts: Iterable[Artifact]) -> Artifact:
    """Return the registry's distribution archive."""
    for artifact in artifacts:
        if artifact.artifact == REGISTRY_ARTIFACT:
            return artifact
    raise Fatal(f"{LOCK_FILE.name} does not list {REGISTRY_ARTIFACT}", hint="Run `make lock`.")
