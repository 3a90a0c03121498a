"""``tidelock demo``: the whole product on real input, with simulated people, verified at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tidelock.cli.common import PROBLEMS
from tidelock.demo.run import Demo, Options, Outcome
from tidelock.demo.view import View


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="How long people work; a round has about 100 edits.")] = 6,
    seed: Annotated[int, typer.Option(help="Another seed, other people and other edits.")] = 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the servers' data for a look; otherwise it is removed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on stdout, and nothing else.")] = False,
    folder: Annotated[Path, typer.Option(help="Where everything of the demo lives; its contents are wiped.")] = Path(
        ".tidelock/demo"
    ),
) -> None:
    """Start five systems, let people edit in all of them at once, and check that nothing is lost. Ends by itself."""
    console = Console(stderr=as_json, highlight=False)
    options = Options(folder, rounds, seed, keep)
    with View(console, quiet=as_json) as view:
        run = Demo(options, view)
        try:
            outcome = run.run()
        finally:
            run.close()
    if as_json:
        sys.stdout.write(json.dumps(outcome.report, default=str) + "\n")
    else:
        _tell(console, outcome, folder)
    if not outcome.verdict.passed or not outcome.report["converged"]:
        raise typer.Exit(PROBLEMS)


def _tell(console: Console, outcome: Outcome, folder: Path) -> None:
    report: dict[str, Any] = outcome.report
    table = Table(title="What happened", title_justify="left", header_style="bold")
    table.add_column("system")
    names = ("edits", "changes", "writes", "echoes", "conflicts", "dead_letters")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for system, counts in report["systems"].items():
        table.add_row(system, *(str(counts[n]) for n in names))
    table.add_section()
    table.add_row("all", *(str(report[n]) for n in names))
    console.print(table)
    console.print(
        "Where the edits went: "
        + ", ".join(f"{n} {fate}" for fate, n in sorted(report["fates"].items(), key=lambda f: -f[1]))
    )
    explained = [m for m in outcome.verdict.mismatches if m.why]
    for why in sorted({m.why for m in explained}):
        some = [m for m in explained if m.why == why]
        first = some[0]
        console.print(
            f"  [yellow]kept apart[/yellow] {len(some)} × {why}: for example {first.system} {first.entity} {first.field} should be {first.expected}",
        )
    for m in [m for m in outcome.verdict.mismatches if not m.why][:12]:
        console.print(
            f"  [red]differs[/red] {m.system} {m.entity} {m.record} {m.field}: expected {m.expected}, found {m.found}"
        )
    for edit in outcome.verdict.lost[:12]:
        console.print(f"  [red]lost[/red] {json.dumps(edit, default=str)}", markup=True)
    if not report["at_rest"]:
        console.print("  [red]not at rest[/red] something still moved when time was up")
    passed = outcome.verdict.passed and report["converged"]
    color, word = ("green", "converged") if passed else ("red", "NOT converged")
    console.print(
        f"[bold {color}]{'✓' if passed else '✗'} {word}[/bold {color}]: {report['compared']} fields of {report['records']} records compared, "
        f"{report['edits']} edits, {report['lost']} lost, {report['duration_s']} s. Report: {folder / 'report.json'}"
    )
    if not passed:
        console.print(f"The workers' log: {folder / 'workers.log'}; run again with --keep to look into it.")
