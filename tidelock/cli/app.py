"""The typer application, put together from its groups."""

from __future__ import annotations

from typing import Annotated

import typer

from tidelock import __version__
from tidelock.cli import change, decide, demo, dlq, foresee, look, outbox, replay, run, setup, simulate, status, tenants

app = typer.Typer(
    name="tidelock",
    help="Keeps systems of record in step: a change made in one reaches all the others, once, merged field by field.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Keep systems of record in step."""


app.command()(setup.init)
app.command()(setup.check)
app.command()(run.up)
app.command()(run.run)
app.command()(run.down)
app.command()(status.status)
app.command()(change.seed)
app.command()(change.refresh)
app.command()(change.resync)
app.command()(change.release)
app.command()(foresee.preview)
app.command()(foresee.duplicates)
app.command()(look.links)
app.command()(look.trace)
app.command()(demo.demo)
app.command()(simulate.simulate)
conflicts = typer.Typer(name="conflicts", help="Conflicts: ls, resolve.", no_args_is_help=True)
conflicts.command("ls")(look.conflicts)
conflicts.command("resolve")(change.resolve)
app.add_typer(conflicts)
app.add_typer(decide.app)
app.add_typer(dlq.app)
app.add_typer(replay.app)
app.add_typer(tenants.app)
app.add_typer(outbox.app, name="outbox")
