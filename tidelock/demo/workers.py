"""The product's own commands as the demo runs them: as processes, exactly as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tidelock.embedded import launch
from tidelock.errors import Fatal

STOP_S = 25.0


def command(config: Path, *arguments: str, timeout_s: float = 90.0) -> str:
    """Run one command to its end and return what it printed. Raises Fatal with its words if it fails."""
    line = [sys.executable, "-m", "tidelock", *arguments, "--config", str(config)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise Fatal(f"`tidelock {' '.join(arguments)}` did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        raise Fatal(
            f"`tidelock {' '.join(arguments)}` failed (exit code {done.returncode}):\n{done.stderr.strip()[-2000:]}"
        )
    return done.stdout


class Workers:
    """`tidelock run` with its log in a file; stopped in order at the end, whatever happens."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, config: Path) -> None:
        """Start the supervisor, which starts every worker as a process of its own."""
        # A session of its own: Ctrl-C on the terminal reaches us alone, and we stop it in order. If we die otherwise, the kernel
        # tells it to stop.
        options = {
            "uid": None,
            "gid": None,
            "parent": os.getpid(),
            "signal": signal.SIGTERM,
            "cwd": os.getcwd(),  # noqa: PTH109 - a text is wanted
            "umask": 0o077,
        }
        line = [
            *(sys.executable, launch.__file__, json.dumps(options)),
            *(sys.executable, "-m", "tidelock", "run", "--config", str(config)),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def check(self) -> None:
        """Raise Fatal, with the end of the log, if the supervisor has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise Fatal(
                f"`tidelock run` ended (exit code {self._process.returncode}); the end of its log {self.log}:\n{self.tail()}"
            )

    def wait_for(self, data: Path, timeout_s: float) -> dict[str, int]:
        """Wait until the workers have process ids, and return them. Raises Fatal."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, int] = json.loads((data / "workers.json").read_text())["workers"]
                if found:
                    return found
            time.sleep(0.1)
        raise Fatal(
            f"the workers did not start within {timeout_s:.0f} s; the end of the log {self.log}:\n{self.tail()}"
        )

    def stop(self) -> None:
        """Stop the supervisor and with it all workers; kill what does not obey."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"
