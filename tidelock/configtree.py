"""YAML as data that remembers its lines: interpolation of `${VAR}`, duplicate keys, and where every value stood.

Plain scalars are read by YAML 1.2's core schema: only ``true`` and ``false`` are booleans, so that the country NO stays one, and
dates stay texts. Keys are always texts, as they are written: value maps may say ``1: active``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$(\$(?=\{)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")
_STR, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DEEPEST = 40


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the line, the path of the value, what is wrong, what would be right."""

    line: int
    path: str
    what: str
    right: str = ""


@dataclass
class Tree:
    """A file as data; ``lines`` has the line of every path, ``texts`` how a scalar that is no text was written."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest thing around it that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def report(self, path: Path, what: str, right: str = "") -> None:
        """Add a problem."""
        self.problems.append(Problem(self.line(path), spell(path), what, right))


def spell(path: Path) -> str:
    """Spell a path as people do: ``systems.crm.entities.contact.map[2].field``."""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out


def read_tree(text: str, variables: Mapping[str, str]) -> Tree:
    """Read a YAML text; what is wrong with it is in the tree's ``problems``."""
    tree = Tree()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        tree.problems.append(Problem(mark.line + 1 if mark else 1, "", f"this is not YAML: {what}", _hint(what)))
        return tree
    except yaml.YAMLError as error:
        tree.problems.append(Problem(1, "", f"this is not YAML: {error}"))
        return tree
    if node is not None:
        tree.data = _Builder(tree, variables).build(node, ())
    return tree


def _hint(what: str) -> str:
    if "\\t" in what:
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in what or "could not find expected ':'" in what:
        return "look at the indentation here, and put texts that contain `: ` into quotes"
    if "cannot start any token" in what or "escape" in what:
        return "put the text into quotes"
    return "look at the brackets, quotes and indentation here and in the line above"


class _Builder:
    def __init__(self, tree: Tree, variables: Mapping[str, str]) -> None:
        self._tree = tree
        self._variables = variables

    def build(self, node: yaml.Node, path: Path) -> Any:
        """Turn a node and all below it into data."""
        self._tree.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > _DEEPEST:
            self._tree.report(path, "this is nested too deeply, or contains itself", "remove the alias")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._tree.problems.append(Problem(line, spell(path), "a key is not a text", "write `name: value`"))
                continue
            key = key_node.value
            below = (*path, key)
            if key in first:
                self._tree.problems.append(
                    Problem(
                        line,
                        spell(below),
                        f"`{key}` stands here twice; the first is in line {first[key]}",
                        "remove one",
                    )
                )
                continue
            first[key] = line
            self._tree.lines[below] = line
            out[key] = self.build(value_node, below)
        for other in merged:
            if isinstance(other, yaml.MappingNode):
                for key, value in self._mapping(other, path).items():
                    out.setdefault(key, value)
        return out

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = self._interpolate(node, path)
        plain = node.style is None
        if plain and (node.tag != _STR or text != node.value):
            value = core_value(text)
            if not isinstance(value, str):
                self._tree.texts.setdefault(path, text)  # what is merged in comes after what stands here
            return value
        return text

    def _interpolate(self, node: yaml.ScalarNode, path: Path) -> str:
        raw: str = node.value
        if "$" not in raw:
            return raw

        def replace(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if name is None:
                return "$"
            value = self._variables.get(name)
            if default is not None:
                return value or default
            if value is None:
                line = node.start_mark.line + 1 + raw.count("\n", 0, match.start())
                right = f"set it in the environment, or write ${{{name}:-a default}}"
                self._tree.problems.append(Problem(line, spell(path), f"the variable {name} is not set", right))
                return match[0]
            return value

        return _VARIABLE.sub(replace, raw)


def core_value(text: str) -> Any:
    """Read a plain scalar by YAML 1.2's core schema."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
