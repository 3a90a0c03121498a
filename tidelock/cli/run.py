"""up, down, run: start and stop the embedded servers and the workers."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Annotated

import psutil
import typer

from tidelock import central
from tidelock import log as logs
from tidelock.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    complete,
    endpoints,
    err,
    read_config,
    stack_of,
    with_central,
)
from tidelock.config import Config
from tidelock.embedded import Stack
from tidelock.errors import Fatal
from tidelock.kafka import KafkaClients, ensure_topics
from tidelock.registry import Registry
from tidelock.supervisor import Supervisor, read_status
from tidelock.tenants import Tenants
from tidelock.topology import all_topics
from tidelock.vault import VARIABLE
from tidelock.workers import make_context, roles
from tidelock.workers import run as run_worker


def start_servers(config: Config) -> tuple[str, str]:
    """Start what is embedded, create topics, set compatibility; return (bootstrap servers, registry URL)."""
    stack = stack_of(config)
    if stack is not None:
        stack.start(lambda line: err.print(line, markup=False))
        if stack.postgres in stack.services:
            stack.postgres.ensure_database(central.DATABASE)
    bootstrap, registry = endpoints(config)
    ensure_topics(KafkaClients(bootstrap, config.kafka.settings).admin(), all_topics(config))
    Registry(registry, auth=_auth(config)).require_backward()
    return bootstrap, registry


def _auth(config: Config) -> tuple[str, str] | None:
    spec = config.registry
    return (spec.user, spec.password.get_secret_value()) if spec.user and spec.password else None


def up(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Start the embedded servers (as far as the configuration names none) and create the topics. Twice is harmless.

    Kafka and the registry always; PostgreSQL where a system has `credentials`, `url` or `tenants`.
    """
    loaded = read_config(config)
    bootstrap, registry = start_servers(loaded)
    complete(loaded)
    err.print(f"Kafka    {bootstrap}\nregistry {registry}\nnext: [bold]tidelock run[/bold]")


def down(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Stop the workers and the embedded servers; data stays."""
    loaded = read_config(config)
    pid = read_status(loaded.data).get("supervisor")
    if isinstance(pid, int) and _is_supervisor(pid):
        err.print("stopping the workers")
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            os.kill(pid, signal.SIGTERM)
            process.wait(30)
    stack = stack_of(loaded)
    if stack is not None:  # PostgreSQL, too, if an earlier configuration needed it
        Stack(stack.folder, kafka=stack.kafka in stack.services, registry=stack.registry in stack.services).stop()
    err.print("down; nothing is lost: `tidelock run` goes on where it stopped")


def _is_supervisor(pid: int) -> bool:
    try:
        return "tidelock" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def run(
    config: ConfigOption = DEFAULT_CONFIG,
    worker: Annotated[
        list[str] | None,
        typer.Option("--worker", "-w", help="Only this role (repeatable), for example merge or sink.crm."),
    ] = None,
    slot: Annotated[
        int | None, typer.Option(help="Run one worker of the role in this very process, with this slot number.")
    ] = None,
    scale: Annotated[list[str] | None, typer.Option(help="role=number, for example merge=2.")] = None,
    link_only: Annotated[
        bool, typer.Option("--link-only", help="Read and link, create nothing: to look at the links first.")
    ] = False,
) -> None:
    """Run the workers until Ctrl-C: every one a process of its own, restarted if it ends. Starts the embedded servers if needed."""
    loaded = read_config(config)
    if link_only:
        loaded = without_creates(loaded)
    bootstrap, registry = start_servers(loaded)
    logs.set_up()
    base = with_central(loaded)
    _reseal(base)
    loaded = complete(base)
    unknown = sorted(set(worker or []) - set(roles(loaded)))
    if unknown:
        raise Fatal(
            f"there is no worker {', '.join(unknown)} in this configuration",
            hint=f"workers: {', '.join(roles(loaded))}",
        )
    if slot is not None:
        if not worker or len(worker) != 1:
            raise Fatal("--slot runs exactly one worker", hint="name it with --worker")
        raise typer.Exit(run_worker(make_context(loaded, bootstrap, registry, worker[0], slot)))
    other = read_status(loaded.data).get("supervisor")
    if isinstance(other, int) and other != os.getpid() and _is_supervisor(other):
        raise Fatal(f"the workers of this data folder run already (process {other})", hint="`tidelock down` stops them")
    supervisor = Supervisor(base, bootstrap, registry, only=worker, slots=_scale(scale or []))
    supervisor.start()
    err.print(f"{len(supervisor.pids)} workers run; Ctrl-C stops them")
    if link_only:
        err.print(
            "nothing is created: when `tidelock status` shows no seed under way, look at `tidelock links`; then stop this,"
            " `tidelock resync`, and `tidelock run`"
        )
    raise typer.Exit(supervisor.run())


def _reseal(config: Config) -> None:
    """Bring secrets under the present key: the earlier one can then be taken out of TIDELOCK_KEY."""
    if not central.needed(config):
        return
    with contextlib.closing(central.Central(config)) as database:
        done = Tenants(config, database).reseal()
    if done:
        err.print(
            f"{done} secrets are sealed under the present key now; an earlier one in {VARIABLE} is no longer needed"
        )


def without_creates(config: Config) -> Config:
    """Return the configuration with every flow creating nothing: links can be looked at, and corrected, before they have made anything."""
    return config.model_copy(update={"flows": tuple(f.model_copy(update={"create": False}) for f in config.flows)})


def _scale(given: list[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    for item in given:
        role, _, number = item.partition("=")
        if not number.isdigit() or int(number) < 1:
            raise Fatal(f"--scale {item!r} is not role=number", hint="for example --scale merge=2")
        out[role] = int(number)
    return out
