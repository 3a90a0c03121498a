"""The command line: one module per command group; `main` is the console script."""

from __future__ import annotations

import sys

from tidelock.cli.app import app
from tidelock.cli.common import guarded


def main() -> None:
    """Run the command line; every error of this project becomes one message and an exit code."""

    def run() -> int:
        try:
            app()
        except SystemExit as done:  # usage errors and --help are typer's own
            return done.code if isinstance(done.code, int) else 1
        return 0

    sys.exit(guarded(run))
