"""``tidelock outbox``: the triggers and the queue table of systems that are captured by them."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from tidelock.cli.common import DEFAULT_CONFIG, PROBLEMS, ConfigOption, JsonOption, err, read_config, show
from tidelock.errors import Fatal

app = typer.Typer(help="Triggers and queue table of systems with `capture: outbox`.", no_args_is_help=True)

System = Annotated[str, typer.Argument(help="The system's name in the configuration.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the SQL and change nothing.")]


@app.command()
def install(system: System, config: ConfigOption = DEFAULT_CONFIG, dry_run: DryRun = False) -> None:
    """Install triggers, functions and tables in the schema `tidelock`; what is there stays."""
    _change(system, config=config, dry_run=dry_run, remove=False)


@app.command()
def remove(system: System, config: ConfigOption = DEFAULT_CONFIG, dry_run: DryRun = False) -> None:
    """Remove all of it again, and with it the changes that were not read yet."""
    _change(system, config=config, dry_run=dry_run, remove=True)


@app.command()
def status(system: System, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show which tables have triggers and what is in the queue; exit code 3 if something is missing or in error."""
    found = _connector().status(read_config(config), system)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show(
            [
                {"table": name, "triggers": "installed" if there else "missing"}
                for name, there in found["tables"].items()
            ],
            as_json=False,
            title=f"{system}: tables",
        )
        rows = [{"status": name, **row} for name, row in found["statuses"].items()]
        show(
            rows, as_json=False, title=f"{system}: queue", empty="the queue is empty" if found["queue"] else "no queue"
        )
    if not found["queue"] or not all(found["tables"].values()) or "error" in found["statuses"]:
        raise typer.Exit(PROBLEMS)


def _change(system: str, *, config: Any, dry_run: bool, remove: bool) -> None:
    settings, connector = read_config(config), _connector()
    script = connector.script(settings, system, remove=remove)
    if dry_run:
        sys.stdout.write(script)
        return
    connector.execute(settings, system, script)
    err.print(f"{system}: triggers and queue table are {'removed' if remove else 'installed'}")


def _connector() -> Any:
    """Return the connector by its entry point: the shared core imports no connectors."""
    for point in entry_points(group="tidelock.producers", name="outbox"):
        return point.load()
    raise Fatal("the outbox connector is not installed", hint="install tidelock from its own package: `make setup`")
