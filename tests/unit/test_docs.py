"""The documentation against the code: generated pages, commands, options, make targets, connectors, links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from tidelock import config, configdocs, configtree

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [p for name in ("tidelock", "producers", "processors", "sinks") for p in sorted((ROOT / name).rglob("*.py"))]
COMMANDS = dict(configdocs.commands(configdocs.application()))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_generated_pages_are_current() -> None:
    for name, page in configdocs.PAGES.items():
        written = (ROOT / f"docs/reference/{name}.md").read_text()
        how = f"python -m tidelock.configdocs {name} > docs/reference/{name}.md"
        assert written == page(), f"bring docs/reference/{name}.md up to date: {how}"


def test_every_command_is_in_the_reference() -> None:
    written = (ROOT / "docs/reference/cli.md").read_text()
    assert COMMANDS
    for path, command in COMMANDS.items():
        assert f"\n## tidelock {' '.join(path)}\n" in written
        assert command.help, f"{path} does not say what it does"


def test_every_option_of_the_configuration_has_a_meaning() -> None:
    documented = {model for model, _, _ in configdocs.SECTIONS}
    assert documented == {
        m for m in vars(config).values() if isinstance(m, type) and issubclass(m, BaseModel) and m.model_fields
    }
    silent = [
        f"{m.__name__}.{n}" for m in documented for n, f in m.model_fields.items() if not configdocs.meaning(m, n, f)
    ]
    assert not silent
    options = {f"{m.__name__}.{n}" for m in documented for n in m.model_fields}
    assert configdocs.MEANINGS.keys() <= options, "a meaning of an option that is not there any more"


# ------------------------------------------------------------------------------------------------------- commands


def invocations(text: str) -> Iterator[str]:
    """Return everything in a page that is meant to be typed and begins with ``tidelock``."""
    for language, block in FENCE.findall(text):
        if language not in ("", "sh", "bash"):
            continue
        for line in block.splitlines():
            found = re.match(r"(?:\S*/)?tidelock (.*)", line.strip())
            if found is not None:
                yield found[1]
    for code in INLINE.findall(FENCE.sub("", text)):
        if code.startswith("tidelock "):
            yield code.removeprefix("tidelock ")


def fault(invocation: str) -> str | None:
    """Say what is wrong with an invocation; None if its command and its options exist."""
    if invocation.startswith("-"):
        return None
    words = shlex.split(re.sub(r"[\[\]…]", " ", invocation.partition(" #")[0]))
    plain = tuple(w for w in words if re.fullmatch(r"[a-z]+", w))
    path = next((plain[:n] for n in (2, 1) if words[:n] == list(plain[:n]) and plain[:n] in COMMANDS), None)
    if path is None or not words:
        return f"there is no command `tidelock {invocation}`"
    if hasattr(COMMANDS[path], "commands") and len(words) > 1:
        return f"`tidelock {path[0]}` has no command {words[1]!r}"
    known = {o for p in COMMANDS[path].params for o in p.opts} | {"--help", "-h"}
    wrong = [w for w in words if w.startswith("-") and w not in known and not re.fullmatch(r"-\d+[smhd]", w)]
    return f"`tidelock {' '.join(path)}` has no option {wrong[0]}" if wrong else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_the_pages_exists(page: Path) -> None:
    assert not [f for i in invocations(page.read_text()) if (f := fault(i)) is not None]


def test_every_command_that_the_code_advises_exists() -> None:
    """Messages end with what to do next; what they name must be there."""
    faults = {}
    for path in SOURCES:
        for code in re.findall(r"`tidelock ([a-z][^`\n]*)`", path.read_text()):
            text = re.sub(r"\{[^}]*\}", "x", code)
            if (wrong := fault(text)) is not None:
                faults[f"{name_of(path)}: tidelock {code}"] = wrong
    assert not faults


@pytest.mark.parametrize(
    ("invocation", "good"),
    [
        ("run --scale merge=2", True),
        ("dlq ls --all", True),
        ("replay plan --since -2h", True),
        ("--version", True),
        ("fly", False),
        ("run --fast", False),
        ("dlq burn", False),
    ],
)
def test_faults_are_noticed(invocation: str, good: bool) -> None:
    assert (fault(invocation) is None) is good


def test_the_readme_leads_through_the_commands() -> None:
    text = (ROOT / "README.md").read_text()
    shown = {" ".join(i.split()[:2]) for i in invocations(text)}
    for wanted in ("init", "check", "up", "run", "status", "links", "trace", "conflicts ls", "dlq ls", "down"):
        assert any(s == wanted or s.startswith(f"{wanted} ") for s in shown), wanted


def test_make_targets_and_modules_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        typed = [*INLINE.findall(page.read_text()), *(b for _, b in FENCE.findall(page.read_text()))]
        for text in typed:
            for target in re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
                assert target in targets, f"{name_of(page)}: make {target}"
            for module in re.findall(r"python -m ([a-z_.]+)", text):
                assert importlib.util.find_spec(module) is not None, f"{name_of(page)}: {module}"


# ------------------------------------------------------------------------------------------------------- examples

_PARTS: dict[str, Any] = {
    "systems": dict[str, config.SystemSpec],
    "entities": dict[str, dict[str, Any]],
    "flows": tuple[config.FlowSpec, ...],
    "kafka": config.KafkaSpec,
    "registry": config.RegistrySpec,
}


class _Anything(dict[str, str]):
    def get(self, key: str, default: object = None) -> str:
        return key


def examples() -> list[tuple[str, str]]:
    return [
        (name_of(p), block) for p in PAGES for language, block in FENCE.findall(p.read_text()) if language == "yaml"
    ]


@pytest.mark.parametrize(("page", "text"), examples())
def test_every_example_of_a_configuration_is_valid(page: str, text: str) -> None:
    tree = configtree.read_tree(text, _Anything())
    assert not tree.problems
    for part, value in tree.data.items():
        if part == "entities":
            for entity in value.values():
                full = {"fields": {"some": {}}, **entity}
                config.EntitySpec.model_validate(full)
        elif part in _PARTS:
            TypeAdapter(_PARTS[part]).validate_python(value)
        else:
            assert part in config.Config.model_fields, f"{page}: {part}"


# ------------------------------------------------------------------------------------------------------- pages and links

HEADINGS = ("guarantees", "required-rights", "configuration", "set-up-step-by-step", "limits", "what-to-do-when")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    text = FENCE.sub("", page.read_text())
    return {
        re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("group", ["producers", "sinks"])
def test_every_connector_has_a_page(group: str) -> None:
    points = entry_points(group=f"tidelock.{group}")
    assert points
    for point in points:
        page = ROOT / f"docs/connectors/{point.module.rpartition('.')[2]}.md"
        assert page.exists(), f"{point.name} ({point.value}) has no page {name_of(page)}"
        assert f"`{'capture' if group == 'producers' else 'kind'}: {point.name}`" in page.read_text()
        assert set(HEADINGS) <= anchors(page), name_of(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(other), f"{name_of(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", page.read_text()))
        todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert not [name_of(p) for p in PAGES if p not in seen]


def test_decisions_are_numbered_without_gaps_and_say_what_they_must() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("0*.md"))
    assert [int(p.name[:4]) for p in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]} ")
        assert all(f"**{word}.**" in text for word in ("Context", "Decision", "Consequences")), page.name
