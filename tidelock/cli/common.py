"""What all commands share: the configuration, where the servers are, and how results and errors are shown.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 ran and found problems, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from tidelock import central
from tidelock.codec import Codec
from tidelock.config import CentralSpec, Config
from tidelock.configfile import load
from tidelock.embedded import Endpoints, Stack
from tidelock.errors import Fatal, TidelockError
from tidelock.kafka import KafkaClients
from tidelock.tenants import with_tenants
from tidelock.workers import make_context

PROBLEMS = 3

err = Console(stderr=True, highlight=False)
ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="TIDELOCK_CONFIG", help="The configuration file.", show_default="tidelock.yaml"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
DEFAULT_CONFIG = Path("tidelock.yaml")


def read_config(path: Path) -> Config:
    """Load the configuration; relative data folders are relative to the file. Raises Fatal with every error by line."""
    if not path.exists():
        raise Fatal(
            f"there is no configuration at {path}", hint="`tidelock init` writes one, or name another with --config"
        )
    config = load(path)
    return (
        config
        if config.data.is_absolute()
        else config.model_copy(update={"data": (path.parent / config.data).resolve()})
    )


def stack_of(config: Config) -> Stack | None:
    """Return the embedded stack as far as it is needed and the configuration names no servers of its own; None if nothing is left.

    PostgreSQL is needed where a system is reached through an API (`tidelock.central`).
    """
    kafka, registry = config.kafka.bootstrap is None, config.registry.url is None
    postgres = central.needed(config) and config.central.dsn is None
    if not (kafka or registry or postgres):
        return None
    return Stack(config.data / "stack", kafka=kafka, registry=registry, postgres=postgres)


def endpoints(config: Config) -> tuple[str, str]:
    """Return (bootstrap servers, registry URL). Raises Fatal with "run `tidelock up`" if the embedded ones are down."""
    stack = stack_of(config)
    found = stack.endpoints() if stack is not None else Endpoints("", "", "")
    return config.kafka.bootstrap or found.kafka, config.registry.url or found.registry


def with_central(config: Config) -> Config:
    """Return the configuration with the address of the embedded central database in it, if that is the one and it is needed.

    Raises Fatal with "run `tidelock up`" if it is down.
    """
    if not central.needed(config) or config.central.dsn is not None:
        return config
    return config.model_copy(update={"central": CentralSpec(dsn=SecretStr(central.address(config)))})


def complete(config: Config) -> Config:
    """Return the configuration as the workers have it: with the central database, and the tenants added at run time."""
    config = with_central(config)
    if not central.needed(config):
        return config
    with closing(central.Central(config)) as database:
        return with_tenants(config, database)


@cache
def _codec(url: str, prefix: str, user: str | None, password: str | None) -> Codec:
    from tidelock.registry import Registry

    return Codec(Registry(url, auth=(user, password) if user and password else None), prefix)


class Session:
    """What a command works with: configuration, clients, names."""

    def __init__(self, path: Path) -> None:
        loaded = read_config(path)
        bootstrap, registry = endpoints(loaded)
        self.config = complete(loaded)
        context = self.context = make_context(self.config, bootstrap, registry, "cli")
        self.kafka: KafkaClients = context.kafka
        self.codec: Codec = context.codec
        self.topics = context.topics


def show(rows: Iterable[Mapping[str, Any]], *, as_json: bool, title: str = "", empty: str = "nothing") -> int:
    """Print rows as one JSON object per line or as a table; return how many there were."""
    listed = list(rows)
    if as_json:
        for row in listed:
            sys.stdout.write(json.dumps(row, default=str) + "\n")
        return len(listed)
    if not listed:
        err.print(empty)
        return 0
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in listed[0]:
        table.add_column(name)
    for row in listed:
        table.add_row(*("" if v is None else str(v) for v in row.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 220).print(table)
    return len(listed)


def guarded(command: Callable[[], int | None]) -> int:
    """Run a program and turn its errors into messages and exit codes."""
    try:
        return command() or 0
    except TidelockError as error:
        err.print("[red]✗[/red] ", end="")
        err.print(str(error), markup=False)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted")
        return 130
