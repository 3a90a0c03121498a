"""The Avro contracts as data: ``*.avsc`` files and a loader. Nothing of the project is imported here."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


def names() -> list[str]:
    """List the envelopes, without their ending."""
    return sorted(f.name.removesuffix(".avsc") for f in resources.files(__name__).iterdir() if f.name.endswith(".avsc"))


@cache
def load(name: str) -> dict[str, Any]:
    """Return the parsed JSON of one envelope; raises FileNotFoundError for a name that is not in `names`."""
    schema: dict[str, Any] = json.loads(resources.files(__name__).joinpath(f"{name}.avsc").read_text())
    return schema
