"""Load `tidelock.yaml`: every error at once, each with its line, its path, what is wrong and what would be right.

Also writes the file that `tidelock init` starts people with.
"""

from __future__ import annotations

import json
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from tidelock import configchecks, configtree, tenantfields
from tidelock.avro import FieldType
from tidelock.config import Config
from tidelock.configtree import Problem, Tree
from tidelock.errors import Fatal

_NAME_RULE = "lower-case letters, digits and underscores, starting with a letter"


def load(path: Path, variables: Mapping[str, str] | None = None) -> Config:
    """Read a configuration; ``${VAR}`` and ``${VAR:-default}`` come from ``variables``, the environment unless given.

    Raises Fatal that lists every error as ``file:line  path: what is wrong; what would be right``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise Fatal(f"{path} cannot be read: {reason}", hint="`tidelock init` writes one to start with") from error
    except UnicodeDecodeError as error:
        raise Fatal(f"{path} is not text in UTF-8: {error}", hint="save it as UTF-8") from error
    return parse(text, str(path), os.environ if variables is None else variables)


def parse(text: str, name: str, variables: Mapping[str, str]) -> Config:
    """Read a configuration from text; ``name`` stands for the file in errors. Raises Fatal as `load` does."""
    tree = configtree.read_tree(text, variables)
    config: Config | None = None
    if tree.data is None and not tree.problems:
        tree.report((), "the file is empty", "`tidelock init` writes one to start with")
    elif tree.data is not None and not isinstance(tree.data, dict):
        tree.report((), "the file is not a mapping", "start with `systems:`, `entities:` and `flows:`")
    elif tree.data is not None:
        _keep_secrets(tree)
        try:
            config = Config.model_validate(tree.data)
        except ValidationError as error:
            unset = {p.path for p in tree.problems}
            for detail in error.errors(include_url=False):
                _report(tree, detail, unset)
        configchecks.check(tree)
        tenantfields.check(tree)
    if config is None or tree.problems:
        raise Fatal(_message(name, tree.problems), hint="correct the file; `tidelock check` tests it")
    return config


def _keep_secrets(tree: Tree) -> None:
    """Take secrets, and the fields that tenants give, as they are written: a password of digits is no number, and loses no zero."""
    for (*parents, leaf), text in tree.texts.items():
        given = parents[::2] == ["systems", "tenants", "fields"] and len(parents) == 5
        if not text or not (given or _model_at((*parents, leaf)) is SecretStr):
            continue
        at: Any = tree.data
        for step in parents:
            at = at.get(step) if isinstance(at, dict) else None
        if isinstance(at, dict) and not isinstance(at.get(leaf), str) and not (given and at.get(leaf) is None):
            at[leaf] = text


def _message(name: str, problems: list[Problem]) -> str:
    listed = sorted(dict.fromkeys(problems), key=lambda p: (p.line, p.path))
    head = f"{name} has {len(listed)} errors:" if len(listed) > 1 else f"{name} has an error:"
    lines = []
    for p in listed:
        where = f"{p.path}: " if p.path else ""
        lines.append(f"  {name}:{p.line}  {where}{p.what}{f'; {p.right}' if p.right else ''}")
    return "\n".join([head, *lines])


# ---------------------------------------------------------------------------------------------------------- pydantic's errors


def _report(tree: Tree, detail: ErrorDetails, unset: set[str]) -> None:
    """Translate one error of pydantic's into one of ours."""
    path = tuple(step for step in detail["loc"] if step != "[key]")
    if configtree.spell(path) in unset:
        return  # the variable that is not set has been reported
    if detail["type"] == "too_short" and detail["input"]:
        return  # its items are wrong, and have been reported
    given, context = detail["input"], detail.get("ctx", {})
    last = str(path[-1]) if path else ""
    right = ""
    match detail["type"]:
        case "extra_forbidden":
            what = f"there is no option `{last}`"
            right = configchecks.suggest(last, _options(path[:-1]), "options")
        case "missing":
            what, right = f"`{last}` is missing", "add it"
        case "enum" | "literal_error":
            expected = str(context.get("expected", ""))
            known = [w.strip("' ") for w in expected.replace(" or ", ",").split(",")]
            what, right = f"`{given}` is not possible here", configchecks.suggest(str(given), known, "possible values")
        case "string_pattern_mismatch":
            rule = "letters, digits, - and _, and a dot at the end" if path == ("prefix",) else _NAME_RULE
            what, right = f"`{given}` is not a name", rule
        case "value_error":
            what = str(context.get("error", detail["msg"]))
        case "dict_type" | "model_type" | "model_attributes_type":
            what, right = "here should be options, each as `name: value`", ""
        case "list_type" | "tuple_type":
            what, right = "here should be a list", f"[{given}]" if isinstance(given, str | int) else "write [one, two]"
        case "string_type":
            what, right = f"here should be a text, not {_shown(given)}", "put it into quotes"
        case "too_short":
            what, right = "this is empty", "at least one is needed"
        case _:
            what = f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, not {_shown(given)}"
    tree.report(path, what, right)


def _shown(given: object) -> str:
    if given is None:
        return "nothing"
    return f"`{given}`" if isinstance(given, str | int | float) else f"a {type(given).__name__}"


def _options(path: tuple[int | str, ...]) -> set[str]:
    """Return the options that may stand at a path."""
    here = _model_at(path)
    return {f.alias or n for n, f in here.model_fields.items()} if _is_model(here) else set()


def _model_at(path: tuple[int | str, ...]) -> Any:
    """Return the type of what may stand at a path, by following the types of the models; None if nothing may."""
    here: Any = Config
    for step in path:
        if _is_model(here):
            here = next((f.annotation for n, f in here.model_fields.items() if step in (n, f.alias)), None)
        else:
            arguments = typing.get_args(here)  # dict[name, model] or tuple[model, ...]
            here = next((a for a in reversed(arguments) if a is not ...), None)
        if typing.get_origin(here) in (typing.Union, types.UnionType, typing.Annotated):
            here = typing.get_args(here)[0]
    return here


def _is_model(kind: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


# ---------------------------------------------------------------------------------------------------------- a file to start with


@dataclass(frozen=True)
class SharedTable:
    """A table that both systems have: the entity's name, the table and key in each, and the columns they share (keys left out)."""

    entity: str
    first: str
    second: str
    columns: Mapping[str, FieldType]
    match: tuple[str, ...] = ()
    first_key: tuple[str, ...] = ("id",)
    second_key: tuple[str, ...] = ("id",)


def example() -> str:
    """Return a commented configuration of two PostgreSQL systems that `load` accepts as it is."""
    contact = dict.fromkeys(("email", "first_name", "last_name", "phone"), FieldType.STRING)
    tables = (SharedTable("contact", "contacts", "contacts", {**contact, "birthday": FieldType.DATE}, ("email",)),)
    host = "postgresql://user:password@localhost:5432"
    return starting_config(f"${{FIRST_DSN:-{host}/first}}", f"${{SECOND_DSN:-{host}/second}}", tables)


def starting_config(first_dsn: str, second_dsn: str, tables: Sequence[SharedTable]) -> str:
    """Return a commented `tidelock.yaml` for two PostgreSQL systems that hold the same things."""
    entities = "\n".join(_entity_text(t) for t in tables)
    flows = "\n".join(f"  - {{entity: {t.entity}, from: [first, second], to: [first, second]}}" for t in tables)
    first = "\n".join(_table_text(t.entity, t.first, t.first_key, t.columns) for t in tables)
    second = "\n".join(_table_text(t.entity, t.second, t.second_key, t.columns) for t in tables)
    return f"""\
# tidelock.yaml: which systems hold what, what a record is, and who feeds whom.
# `tidelock check` tests this file and the connections; `tidelock up`, then `tidelock run`, starts working.
# ${{NAME}} and ${{NAME:-default}} are replaced from the environment, so that passwords need not stand here.

# Systems of record. `first` and `second` are only names: choose your own, and use them in `flows` and `priority` below.
systems:
  first:
    kind: postgres
    capture: replication      # by the log (needs wal_level=logical); or outbox (triggers), polling, rowhash, none
    dsn: {_quoted(first_dsn)}
    entities:
{first}
  second:
    kind: postgres
    capture: replication
    dsn: {_quoted(second_dsn)}
    entities:
{second}
# What a record is: typed fields, and by which of them records of several systems are recognised as the same.
# More about a field: format: email | phone | country, values: [a, b], required: true, max_length: 80, policy: newest
entities:
{entities}
# Who feeds whom. Remove a name from `to` for one direction only; `when` limits a flow to some records, for example
#   when: "status == 'active'"
flows:
{flows}
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _entity_text(table: SharedTable) -> str:
    match = ", ".join(_field_name(c) for c in table.match)
    known = f"match: [[{match}]]" if match else "match: []"
    lines = [
        f"  {table.entity}:",
        f"    {known:<32}# several keys are tried in order: [[email], [last_name, phone]]",
        "    priority: [first, second]       # who wins if both change the same field at the same time",
        "    fields:",
    ]
    for column, kind in table.columns.items():
        options = "{format: email}" if column == "email" else f"{{type: {kind.value}}}"
        lines.append(f"      {_field_name(column)}: {options}")
    return "\n".join([*lines, ""])


def _table_text(entity: str, table: str, key: tuple[str, ...], columns: Mapping[str, FieldType]) -> str:
    lines = [
        f"      {entity}:",
        f"        table: {_quoted(table)}",
        f"        key: [{', '.join(_quoted(k) for k in key)}]",
        "        map:",
    ]
    lines += [f"          - {{column: {_quoted(c)}, field: {_field_name(c)}}}" for c in columns]
    return "\n".join([*lines, ""])


def _field_name(column: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column).lower()).strip("_")
    return name if name[:1].isalpha() else f"f_{name}"
