"""The two families of paths, old (v3, v4) and date versions, which lead to the same handlers."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route

from simulators.base import Handler


class _Version(Convertor[str]):
    """A date version that the vendor has."""

    regex = "(?:2025-09|2026-03|2026-09)(?:-beta)?"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("hubspot_version", _Version())
DATED = "{version:hubspot_version}"
"""The place of a date version in a path."""


def paths(handler: Handler, method: str, *spelt: str) -> list[Route]:
    """Return one handler under several paths."""
    return [Route(path, handler, methods=[method]) for path in spelt]


def objects(rest: str, handler: Handler, method: str) -> list[Route]:
    """Return a handler of records in both families."""
    return paths(handler, method, f"/crm/v3/objects{rest}", f"/crm/objects/{DATED}{rest}")
