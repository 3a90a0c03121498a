"""The rules of the house that no linter knows: module sizes, where packages stand, versions, entry points."""

from __future__ import annotations

import importlib
import re
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import fastavro
import pytest

import schemas
import tidelock

ROOT = Path(__file__).parents[2]
PACKAGES = ("tidelock", "producers", "processors", "sinks", "schemas")
MOST_LINES = 600


def _modules() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


def test_no_module_has_more_than_600_lines() -> None:
    sizes = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in _modules()}
    assert not {name: n for name, n in sizes.items() if n > MOST_LINES}


def test_all_packages_stand_side_by_side() -> None:
    """A second `producers` somewhere on the path would shadow ours without a word."""
    parents = {name: Path(str(importlib.import_module(name).__file__)).parents[1] for name in PACKAGES}
    assert len(set(parents.values())) == 1, parents


def test_every_package_is_typed() -> None:
    assert all((ROOT / name / "py.typed").exists() for name in PACKAGES)


@pytest.mark.parametrize("group", ["tidelock.producers", "tidelock.sinks", "tidelock.workers"])
def test_every_entry_point_loads(group: str) -> None:
    points = entry_points(group=group)
    assert points
    for point in points:
        assert callable(point.load())


@pytest.mark.parametrize("name", schemas.names())
def test_every_envelope_is_valid_avro(name: str) -> None:
    schema = schemas.load(name)
    fastavro.parse_schema(schema)
    assert schema["namespace"] == "tidelock"


def test_version_and_changelog_agree() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first.group(1) == tidelock.__version__


def test_nothing_names_a_folder_of_one_machine() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(r"(?<![\w.])/(work|farm)/|\.\./shared|\.library")
    own = "tests/unit/test_layout.py"
    found = []
    for name in files:
        path = ROOT / name
        if name != own and path.is_file() and path.suffix not in (".png", ".lock", ".gif"):
            found += [f"{name}: {m.group()}" for m in pattern.finditer(path.read_text(errors="replace"))]
    assert not found
