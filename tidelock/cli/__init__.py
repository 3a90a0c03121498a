"""The command line: one module per command group; `main` is the console script."""

from __future__ import annotations

import sys

from tidelock.cli.app import app
from tidelock.cli.common import guarded


def main() -> None:
    """Run the command line; every error of this project becomes one message and an exit code."""
    sys.exit(guarded(lambda: app(standalone_mode=False)))
