"""The generated pages of the reference: the configuration from its models, the command line from its application.

    python -m tidelock.configdocs > docs/reference/configuration.md
    python -m tidelock.configdocs cli > docs/reference/cli.md

`tests/unit/test_docs.py` fails when a page is older than what it describes, and when an option has no meaning written anywhere.
"""

from __future__ import annotations

import enum
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tidelock import config
from tidelock.avro import FieldType

# In the order in which they stand in a file.
SECTIONS: tuple[tuple[type[BaseModel], str, str], ...] = (
    (config.Config, "The file", "What stands at the top level of `tidelock.yaml`."),
    (config.KafkaSpec, "`kafka`", "The cluster. Without `bootstrap`, `tidelock up` starts an embedded one."),
    (config.RegistrySpec, "`registry`", "The schema registry. Without `url`, `tidelock up` starts an embedded one."),
    (config.TracingSpec, "`tracing`", "Where OpenTelemetry spans go. Without `endpoint` none are made."),
    (
        config.CentralSpec,
        "`central`",
        "The installation's own database: what has to outlive a worker and be the same for all of them.",
    ),
    (
        config.HooksSpec,
        "`hooks`",
        "The service that takes webhooks. Without this section there is none; `hooks: {}` takes the defaults.",
    ),
    (config.SystemSpec, "`systems.<name>`", "One system of record. The name is what flows and priorities refer to."),
    (
        config.TenantSpec,
        "`systems.<name>.tenants.<tenant>`",
        "One organisation, portal or database of a system that has several. The name is part of every key: keep it.",
    ),
    (config.TableSpec, "`systems.<name>.entities.<entity>`", "Where an entity lives in that system."),
    (
        config.Binding,
        "`systems.<name>.entities.<entity>.map[]`",
        "How columns there and fields of the entity hold the same.",
    ),
    (config.EntitySpec, "`entities.<name>`", "One kind of record."),
    (config.FieldSpec, "`entities.<name>.fields.<field>`", "One typed field of an entity."),
    (config.FlowSpec, "`flows[]`", "Who feeds whom, for one entity. Every pair of `from` and `to` is one flow."),
)

# What the models themselves do not say.
MEANINGS: dict[str, str] = {
    "Config.partitions": "partitions of every topic of an entity; not to be changed later, because keys would move",
    "Config.data": "folder of local state and of the embedded servers; relative to the file",
    "Config.retention_days": "how long audit, conflicts, alerts and runs are kept",
    "Config.kafka": "see below",
    "Config.registry": "see below",
    "Config.tracing": "see below",
    "Config.central": "see below",
    "Config.hooks": "see below",
    "Config.systems": "the systems of record, by name",
    "Config.entities": "the kinds of records, by name",
    "Config.flows": "who feeds whom",
    "KafkaSpec.bootstrap": "addresses of the brokers, `host:port,host:port`",
    "KafkaSpec.replication": "replication factor of the topics that are created",
    "RegistrySpec.url": "the registry's Confluent-compatible interface",
    "RegistrySpec.user": "for a registry that asks for it",
    "RegistrySpec.password": "for a registry that asks for it",
    "TracingSpec.ratio": "share of changes that are traced from end to end; decided from the change's id alone",
    "SystemSpec.dsn": "connection string, `postgresql://user:password@host/database`; never shown in logs",
    "SystemSpec.tenant": "which organisation or database of this system it is; part of every key",
    "TenantSpec.enabled": "false: nothing is read from it or written to it; what is to be written there is parked until it is true again",
    "SystemSpec.enabled": "false: no worker runs for it; what is to be written waits in its topics",
    "SystemSpec.publication": "replication: a publication that exists already; its own is made and managed unless given",
    "SystemSpec.slot": "replication: name of the slot; made from the system's name unless given",
    "SystemSpec.heartbeat_s": "replication: how often an idle source gets a logical message, so that its log can be forgotten",
    "SystemSpec.entities": "what is kept there, by entity",
    "TableSpec.key": "columns of the primary key",
    "TableSpec.map": "the bindings",
    "TableSpec.overlap_schedule": "polling: when the overlap is read (cron expression)",
    "FieldSpec.format": "texts with one right spelling: e-mail address, E.164 number, ISO 3166 alpha-3, ISO 4217",
    "FieldSpec.type": "see *Types* below",
    "FieldSpec.required": "an empty value is flagged, never taken over",
    "FieldSpec.max_length": "longer texts are flagged, never taken over",
    "EntitySpec.fields": "the fields, by name",
    "EntitySpec.policy": "what decides a conflict of a field that has no policy of its own; see *Policies* below",
    "EntitySpec.ambiguous": "a record matches several, or one that has its place there taken: keep it aside for a person, "
    "make it a record of its own, or make the matching records one",
    "EntitySpec.delete_against_edit": "a delete in one system meets an edit it has not seen",
    "EntitySpec.oscillation_window_s": "the window of `oscillation`",
    "Binding.column": "one column of the table",
    "Binding.columns": "several columns: joined on reading, split on writing",
    "Binding.field": "one field of the entity",
    "Binding.fields": "several fields in one column: split on reading, joined on writing",
    "Binding.separator": "what stands between joined parts; splitting is from the left, the last part takes the rest",
    "Binding.decimal_separator": "of numbers kept as text",
    "Binding.overflow": "a value longer than `size`: keep it back, cut it off, or write it whole and report it",
    "Binding.direction": "`read`: never written there; `write`: never read from there",
    "Binding.sensitive": "hide the column before any topic is written; see *Sensitive columns* below",
    "Binding.case": "bring texts to upper or lower case, in both directions",
    "Binding.trim": "remove blanks around texts, in both directions",
    "FlowSpec.entity": "the entity",
    "FlowSpec.source": "one system or several, whose edits go this way",
    "FlowSpec.to": "one system or several, which are written",
    "FlowSpec.on_exit": "a record that stops meeting `when`: leave it there, disable it (`disable` of the table), or delete it",
}  # fmt: skip

POLICIES: dict[config.Policy, str] = {
    config.Policy.PRIORITY: "the system that stands earlier in `priority`",
    config.Policy.NEWEST: "the later source time (capped by `max_skew_s`); a tie goes by priority",
    config.Policy.KEEP_GOLDEN: "what stands in the golden record",
    config.Policy.NON_NULL: "a value against none; two values go by priority",
    config.Policy.MAX: "the larger value",
    config.Policy.MIN: "the smaller value",
    config.Policy.DELTA: "numbers: both differences are applied (golden + theirs − base)",
    config.Policy.UNION: "sets (JSON arrays, or text with commas): what either side added, without what either side removed",
    config.Policy.MANUAL: "nobody: this field is parked for a person, the others flow",
}

DELETES: dict[config.Deletes, tuple[str, str]] = {
    config.Deletes.DELETE: ("the record is deleted", "the row is deleted"),
    config.Deletes.DISABLE: ("the fields bound to the columns of `disable` get those values", "the columns of `disable` are set"),
    config.Deletes.UNLINK: ("this system leaves the record, which lives on elsewhere", "the row stays and is let go"),
    config.Deletes.IGNORE: ("as `unlink`: nothing is deleted elsewhere, and nothing is created here again", "nothing"),
}  # fmt: skip

SENSITIVE: dict[config.Sensitive, str] = {
    config.Sensitive.DROP: "is not read at all",
    config.Sensitive.MASK: "is replaced by `***`",
    config.Sensitive.HASH: "is replaced by an HMAC-SHA-256 under the environment variable `TIDELOCK_SALT`",
}

TYPES: dict[FieldType, str] = {
    FieldType.STRING: "text",
    FieldType.INTEGER: "whole number, 64 bits",
    FieldType.NUMBER: "floating-point number, 64 bits",
    FieldType.DECIMAL: "exact number of any size; `scale` fixes its digits behind the point",
    FieldType.BOOLEAN: "true or false",
    FieldType.DATE: "calendar date",
    FieldType.TIMESTAMP: "moment, to the microsecond, in UTC",
    FieldType.LOCAL_TIMESTAMP: "date and time of day without a time zone",
    FieldType.JSON: "JSON value",
    FieldType.UUID: "UUID",
    FieldType.BYTES: "bytes",
}


def meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    """Return what an option means, from the model or from here; empty if nobody says."""
    return MEANINGS.get(f"{model.__name__}.{name}") or field.description or ""


def configuration_page() -> str:
    """Return docs/reference/configuration.md."""
    out = [
        "# Configuration",
        "",
        "*Generated from `tidelock/config.py` by `python -m tidelock.configdocs`; do not edit.*",
        "",
        "One YAML file, `tidelock.yaml` unless `--config` or `TIDELOCK_CONFIG` names another. `tidelock init` writes one to start",
        "with; `tidelock check` tests it, and names file, line, option and what would be right. Unknown options are errors.",
        "`${NAME}` and `${NAME:-default}` are replaced from the environment; `$${` stands for `${`. Plain scalars are read by YAML 1.2's",
        "core schema: `NO` is a text, dates are texts. An option in bold must be given.",
        "",
    ]
    for model, title, text in SECTIONS:
        out += [f"## {title}", "", text, "", "| option | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            shown = f"`{field.alias or name}`"
            required = field.is_required()
            default = "" if required else _default(field)
            row = (f"**{shown}**" if required else shown, _kind(field.annotation), default, meaning(model, name, field))
            out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        out.append("")
    out += _words()
    return "\n".join(out)


def _words() -> list[str]:
    out = ["## Types", "", "| type | holds |", "|---|---|", *(f"| `{t.value}` | {TYPES[t]} |" for t in FieldType), ""]
    out += ["## Policies", "", "Two systems have changed one field, each on top of the same base. Who wins:", ""]
    out += [
        "| policy | the value that stands |",
        "|---|---|",
        *(f"| `{p.value}` | {POLICIES[p]} |" for p in config.Policy),
    ]
    out += ["", "Every such decision is recorded: `tidelock conflicts ls`.", "", "## Deletes", ""]
    out += ["| value | `on_delete`: a delete here | `write_delete`: a deleted record, here |", "|---|---|---|"]
    out += [f"| `{d.value}` | {DELETES[d][0]} | {DELETES[d][1]} |" for d in config.Deletes]
    out += ["", "## Sensitive columns", "", "| value | the column |", "|---|---|"]
    out += [f"| `{s.value}` | {SENSITIVE[s]} |" for s in config.Sensitive]
    text = "Such a column is not written to either, unless its binding says `direction: write`. A column of the key cannot be sensitive."
    return [*out, "", text, ""]


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None or isinstance(field.default, BaseModel):
        return ""
    value = field.default
    if value is PydanticUndefined or value is None or value in ((), ""):
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = f"[{', '.join(map(str, value))}]"
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 and value != int(value) else f"`{_plain(value)}`"


def _plain(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


_NAMES: dict[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "text (secret)",
    Any: "any value",
}


def _kind(annotation: Any) -> str:
    """Spell a type for people."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(a) for a in arguments if a is not type(None)))
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "options"
    return _NAMES.get(annotation, str(annotation))


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command of the application by its words, groups before what is in them."""
    for name, command in group.commands.items():
        here = (*path, name)
        yield here, command
        if hasattr(command, "commands"):
            yield from commands(command, here)


def application() -> Any:
    """Return the command line as the library below typer sees it."""
    from tidelock.cli.app import app  # late: the documentation knows the command line, not the other way round

    return typer.main.get_command(app)


def cli_page() -> str:
    """Return docs/reference/cli.md."""
    out = [
        "# Commands",
        "",
        "*Generated from the command line by `python -m tidelock.configdocs cli`; do not edit.*",
        "",
        "Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 ran and found problems, 130",
        "interrupted. Without `make setup`'s environment activated, write `.venv/bin/tidelock`.",
        "",
    ]
    for path, command in commands(application()):
        parameters = [p for p in command.params if p.name != "help"]
        arguments = [p for p in parameters if p.param_type_name == "argument"]
        options = [p for p in parameters if p.param_type_name == "option"]
        inside = hasattr(command, "commands")
        words = [*("tidelock", *path), *(_argument(a) for a in arguments), *(["[options]"] if options else [])]
        title = " ".join(("tidelock", *path))
        out += [f"## {title}", "", *(line.strip() for line in (command.help or "").strip().splitlines()), ""]
        if inside:
            out += [f"Commands: {', '.join(f'`{title} {name}`' for name in command.commands)}", ""]
            continue
        out += ["```", " ".join(words), "```", ""]
        if parameters:
            out += ["| | meaning | default |", "|---|---|---|"]
            out += [f"| `{a.name.upper()}` | {_cell(a.help)} | |" for a in arguments]
            out += [f"| {_option(o)} | {_cell(o.help)} | {_shown(o)} |" for o in options]
            out.append("")
    return "\n".join(out)


def _argument(argument: Any) -> str:
    name = str(argument.name).upper()
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    repeatable = "" if option.is_flag or not option.multiple else ", repeatable"
    return ", ".join(f"`{o}`" for o in sorted(option.opts, key=lambda o: (not o.startswith("--"), o))) + repeatable


def _shown(option: Any) -> str:
    if option.is_flag or option.default in (None, (), []):
        return ""
    text = f"`{option.default}`"
    return f"{text}, or `{option.envvar}`" if option.envvar else text


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PAGES = {"configuration": configuration_page, "cli": cli_page}


def main() -> None:
    """Write one page to stdout."""
    name = sys.argv[1] if len(sys.argv) > 1 else "configuration"
    if name not in PAGES:
        sys.stderr.write(f"there is no page {name!r}; pages: {', '.join(PAGES)}\n")
        sys.exit(2)
    sys.stdout.write(PAGES[name]())


if __name__ == "__main__":
    main()
