"""simulate: serve a simulator of a vendor's API, for trying out a configuration without an account there."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from tidelock.errors import Fatal

GROUP = (
    "tidelock.simulators"  # entry points: name → callable(seed=…, **options) → something with `serve(port, https_port)`
)


def simulate(
    name: Annotated[str, typer.Argument(help="Which system, for example shop; an unknown name lists them.")],
    port: Annotated[int, typer.Option(help="Port of http; 0: a free one.")] = 0,
    https_port: Annotated[int, typer.Option(help="Port of https; 0: a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="What is made up or left to chance is the same for the same seed.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="name=value, a setting of this simulator (repeatable).")
    ] = None,
) -> None:
    """Serve a simulator on loopback until Ctrl-C; prints one JSON line with addresses and credentials when it is ready."""
    points = {p.name: p for p in entry_points(group=GROUP)}
    if name not in points:
        raise Fatal(f"there is no simulator {name!r}", hint=f"there are: {', '.join(sorted(points))}")
    try:
        simulator: Any = points[name].load()(seed=seed, **_options(option or []))
        simulator.serve(port, https_port)
    except ValueError as error:
        raise Fatal(
            str(error), hint=f"the options of a simulator stand in docs/simulators.md, section {name}"
        ) from error
    except OSError as error:
        raise Fatal(f"the simulator cannot listen: {error}", hint="choose another port, or 0 for a free one") from error


def _options(given: list[str]) -> dict[str, str]:
    out = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise Fatal(f"--option {item!r} is not name=value", hint="for example --option org=emea")
        out[name] = value
    return out
