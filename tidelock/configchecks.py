"""Cross references of a configuration: every name that must exist elsewhere, every option that needs another one.

Works on the data as it stands in the file, not on the models, so that all errors are found in one go even if some values are
not valid at all; what has the wrong shape is skipped here and reported by the models.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any

from croniter import croniter

from tidelock.avro import FieldType
from tidelock.conditions import compile_condition
from tidelock.config import DATABASE_CAPTURES
from tidelock.configtree import Path, Tree

_SQL_SINKS = {"postgres", "store"}
_TEMPORAL = {FieldType.DATE, FieldType.TIMESTAMP, FieldType.LOCAL_TIMESTAMP}
_NUMERIC = {FieldType.INTEGER, FieldType.NUMBER, FieldType.DECIMAL}


def check(tree: Tree) -> None:
    """Add every broken cross reference to the tree's problems."""
    _Checks(tree).run()


def suggest(wrong: str, known: Iterable[str], what: str) -> str:
    """Say what would be right instead of a name: the nearest one, or all there are."""
    names = sorted(set(known))
    near = difflib.get_close_matches(wrong, names, 1, 0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"{what}: {', '.join(names)}" if names else f"there are no {what}"


def installed(group: str) -> set[str]:
    """Return the names of the installed connectors of a kind (``producers``, ``sinks``)."""
    return {e.name for e in entry_points(group=f"tidelock.{group}")}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [v for v in _list(value) if isinstance(v, str)]


class _Checks:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        data = _dict(tree.data)
        self._systems = {k: _dict(v) for k, v in _dict(data.get("systems")).items()}
        self._entities = {k: _dict(v) for k, v in _dict(data.get("entities")).items()}
        self._flows = [_dict(f) for f in _list(data.get("flows"))]

    def run(self) -> None:
        for name, entity in self._entities.items():
            self._entity(("entities", name), entity)
        for name, system in self._systems.items():
            self._system(("systems", name), system)
        for i, flow in enumerate(self._flows):
            self._flow(("flows", i), flow)

    def _wrong(self, path: Path, what: str, right: str = "") -> None:
        self._tree.report(path, what, right)

    def _known(self, path: Path, name: Any, known: Iterable[str], what: str) -> bool:
        """Report a name that does not exist; ``what`` is its kind, such as ``field``."""
        if not isinstance(name, str) or name in known:
            return True
        self._wrong(path, f"there is no {what} `{name}`", suggest(name, known, f"{what}s"))
        return False

    def _fields(self, entity: str) -> dict[str, dict[str, Any]]:
        return {k: _dict(v) for k, v in _dict(self._entities.get(entity, {}).get("fields")).items()}

    # ------------------------------------------------------------------------------------------------ entities

    def _entity(self, path: Path, entity: dict[str, Any]) -> None:
        fields = {k: _dict(v) for k, v in _dict(entity.get("fields")).items()}
        for i, key in enumerate(_list(entity.get("match"))):
            if isinstance(key, str):
                self._match((*path, "match", i), key, fields)
            for j, name in enumerate(_list(key)):
                self._match((*path, "match", i, j), name, fields)
        for i, name in enumerate(_list(entity.get("priority"))):
            self._known((*path, "priority", i), name, self._systems, "system")
        for name, spec in fields.items():
            here = (*path, "fields", name)
            kind = _type(spec)
            self._known((*here, "references"), spec.get("references"), self._entities, "entity")
            if spec.get("scale") is not None and kind is not FieldType.DECIMAL:
                self._wrong(
                    (*here, "scale"), f"only decimals have a scale; this is {kind.value}", "add `type: decimal`"
                )
            if spec.get("format") is not None and kind is not FieldType.STRING:
                self._wrong((*here, "format"), f"only strings have a format; this is {kind.value}", "remove `type`")
            policy = spec.get("policy", entity.get("policy"))
            if policy == "delta" and kind not in _NUMERIC and "policy" in spec:
                right = "make it `type: integer` or `type: decimal`, or choose another policy"
                self._wrong((*here, "policy"), f"only numbers are merged by delta; this is {kind.value}", right)

    def _match(self, path: Path, name: Any, fields: dict[str, dict[str, Any]]) -> None:
        self._known(path, name, fields, "field")
        if isinstance(name, str) and fields.get(name, {}).get("references") is not None:
            right = "match by fields that all systems spell alike"
            self._wrong(path, f"`{name}` points to another record, which each system knows by a key of its own", right)

    # ------------------------------------------------------------------------------------------------ systems

    def _system(self, path: Path, system: dict[str, Any]) -> None:
        capture, kind = system.get("capture", "replication"), system.get("kind", "postgres")
        producers, sinks = installed("producers"), installed("sinks")
        if producers:
            self._known((*path, "capture"), capture, producers | {"none"}, "way of capture")
        if sinks:
            self._known((*path, "kind"), kind, sinks, "kind of system")
        if not system.get("dsn") and (capture in DATABASE_CAPTURES or kind in _SQL_SINKS):
            right = f"add `dsn: postgresql://user:password@host/database`, or `dsn: ${{{str(path[-1]).upper()}_DSN}}`"
            self._wrong((*path, "dsn"), "there is no connection string", right)
        if _dict(system.get("tenants")):
            self._tenants(path, system, capture, kind)
        for entity, table in _dict(system.get("entities")).items():
            here = (*path, "entities", entity)
            if self._known(here, entity, self._entities, "entity"):
                self._table(here, _dict(table), capture, self._fields(entity))

    def _tenants(self, path: Path, system: dict[str, Any], capture: Any, kind: Any) -> None:
        if "tenant" in system:
            self._wrong((*path, "tenant"), "the tenants stand in `tenants` already", "remove `tenant`")
        for option, name in (("kind", kind), ("capture", capture)):
            if name in DATABASE_CAPTURES | _SQL_SINKS:
                right = "make each of them a system of its own; `tenant` names the only one of a system"
                self._wrong((*path, "tenants"), f"a database is one tenant (`{option}: {name}`)", right)
                break
        hold_s = _dict(system.get("options")).get("hold_s")
        if hold_s is not None and (isinstance(hold_s, bool) or not isinstance(hold_s, int | float) or hold_s < 0):
            right = "seconds for which a tenant's writes are tried again before they are parked, for example 5"
            self._wrong((*path, "options", "hold_s"), "this is not a number of seconds", right)
        at_once = _dict(system.get("options")).get("tenants_at_once")
        if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
            right = "how many tenants are written at the same time, for example 8"
            self._wrong((*path, "options", "tenants_at_once"), "this is not a number of tenants", right)
        for name, tenant in _dict(system.get("tenants")).items():
            condition = _dict(tenant).get("when")
            if isinstance(condition, str):
                self._tenant_condition((*path, "tenants", name, "when"), system, condition)

    def _tenant_condition(self, path: Path, system: dict[str, Any], condition: str) -> None:
        """Test a tenant's condition on every entity that is written to it: one that it does not fit would go to nobody, or to all."""
        entities = [e for e in _dict(system.get("entities")) if e in self._entities]
        written = [
            e for e in entities if any(f.get("entity") == e and path[1] in _names(f.get("to")) for f in self._flows)
        ]
        asked = [(f" for entity `{e}`", self._fields(e)) for e in written]
        if not asked:  # nothing is written there: it only has to be a condition on what there is
            asked = [("", {n: spec for e in entities for n, spec in self._fields(e).items()})]
        for whose, fields in asked:
            try:
                compile_condition(condition, {n: _type(spec) for n, spec in fields.items()})
            except ValueError as error:
                self._wrong(path, f"the condition is wrong{whose} {error}")
                return

    def _table(self, path: Path, table: dict[str, Any], capture: Any, fields: dict[str, dict[str, Any]]) -> None:
        if capture == "polling" and not table.get("modified"):
            right = "name the last-modified column, or use `capture: rowhash` if there is none"
            self._wrong((*path, "modified"), "polling needs the column that says when a row was modified", right)
        for option in ("schedule", "overlap_schedule"):
            self._cron((*path, option), table.get(option))
        key_from = table.get("key_from", "generated")
        self._known((*path, "key_from"), key_from, {"generated", "canonical_id", *fields}, "field")
        uses = {table.get("on_delete"), table.get("write_delete")} | {
            f.get("on_exit") for f in self._flows if f.get("entity") == path[-1] and path[1] in _names(f.get("to"))
        }
        if "disable" in uses and not table.get("disable"):
            right = "add `disable: {status: 0}` with the column and the value that mean it"
            self._wrong((*path, "disable"), "nothing says what `disable` means in this table", right)
        writers: dict[str, int] = {}
        for i, binding in enumerate(_list(table.get("map"))):
            self._binding((*path, "map", i), _dict(binding), fields, writers)

    def _cron(self, path: Path, text: Any) -> None:
        if not isinstance(text, str):
            return
        try:
            croniter(text)
        except (ValueError, KeyError, AttributeError) as error:
            right = 'five fields: minute hour day month weekday, for example "0 3 * * *" for every night at three'
            self._wrong(path, f"`{text}` is not a cron expression: {error}", right)

    def _binding(
        self, path: Path, binding: dict[str, Any], fields: dict[str, dict[str, Any]], writers: dict[str, int]
    ) -> None:
        bound = []
        for option in ("field", "fields"):
            listed = isinstance(binding.get(option), list)
            for j, name in enumerate(_names(binding.get(option))):
                if self._known((*path, option, j) if listed else (*path, option), name, fields, "field"):
                    bound.append(name)
        if binding.get("direction") != "read" and not binding.get("path") and not binding.get("sensitive"):
            for option in ("column", "columns"):
                for name in _names(binding.get(option)):
                    i = int(path[-1])
                    if writers.setdefault(name, i) != i:
                        right = "keep one of them, or make one `direction: read`"
                        self._wrong(path, f"column `{name}` is written by map[{writers[name]}] too", right)
        for name in bound:
            self._options(path, binding, name, fields[name])

    def _options(self, path: Path, binding: dict[str, Any], name: str, spec: dict[str, Any]) -> None:
        kind, allowed = _type(spec), _names(spec.get("values"))
        if allowed and not spec.get("format"):
            for key, value in _dict(binding.get("values")).items():
                if isinstance(value, str) and value not in allowed:
                    what = f"`{value}` is not one of the values of field `{name}`"
                    self._wrong((*path, "values", key), what, suggest(value, allowed, "values"))
        pattern = binding.get("date_format")
        if isinstance(pattern, str):
            if kind not in _TEMPORAL:
                self._wrong((*path, "date_format"), f"field `{name}` is {kind.value}", "make the field `type: date`")
            elif "%" not in pattern:
                self._wrong((*path, "date_format"), f"`{pattern}` has no %", "strftime format, for example %d/%m/%Y")
        if binding.get("minor_units") and kind not in _NUMERIC:
            right = "make the field `type: decimal`"
            self._wrong((*path, "minor_units"), f"field `{name}` is {kind.value}, not a number", right)
        code, region = binding.get("currency"), binding.get("region")
        if isinstance(code, str):
            from babel.numbers import list_currencies

            if code not in list_currencies():
                self._wrong((*path, "currency"), f"`{code}` is not a currency", "an ISO 4217 code, for example EUR")
        if isinstance(region, str):
            from phonenumbers import SUPPORTED_REGIONS

            if region not in SUPPORTED_REGIONS:
                right = suggest(region.upper(), SUPPORTED_REGIONS, "regions")
                self._wrong((*path, "region"), f"`{region}` is not a region", right)

    # ------------------------------------------------------------------------------------------------ flows

    def _flow(self, path: Path, flow: dict[str, Any]) -> None:
        entity = flow.get("entity")
        known = self._known((*path, "entity"), entity, self._entities, "entity")
        ends = {side: list(self._ends(path, flow, side, entity, known)) for side in ("from", "to")}
        sources, targets = ([name for _, name in ends[side]] for side in ("from", "to"))
        if len(sources) == 1 and sources == targets:
            self._wrong((*path, "to"), f"this flow leads from `{targets[0]}` to itself", "name another system")
        for place, name in ends["from"]:
            if self._systems[name].get("capture") == "none":
                right = "give the system a `capture`, or remove the flow"
                self._wrong(place, f"nothing flows from `{name}`, because it is not captured (`capture: none`)", right)
        if not known or not isinstance(entity, str):
            return
        fields = self._fields(entity)
        for i, name in enumerate(_names(flow.get("fields"))):
            self._known((*path, "fields", i), name, fields, "field")
        condition = flow.get("when")
        if isinstance(condition, str):
            try:
                compile_condition(condition, {n: _type(spec) for n, spec in fields.items()})
            except ValueError as error:
                self._wrong((*path, "when"), f"the condition is wrong {error}")

    def _ends(
        self, path: Path, flow: dict[str, Any], side: str, entity: Any, known: bool
    ) -> Iterator[tuple[Path, str]]:
        """Yield the systems at one end of a flow that exist and have the entity."""
        listed = isinstance(flow.get(side), list)
        for i, name in enumerate(_names(flow.get(side))):
            here: Path = (*path, side, i) if listed else (*path, side)
            if not self._known(here, name, self._systems, "system"):
                continue
            have = _dict(self._systems[name].get("entities"))
            if known and isinstance(entity, str) and entity not in have:
                what = f"system `{name}` has no table for entity `{entity}`"
                self._wrong(here, what, f"add systems.{name}.entities.{entity}, or leave `{name}` out of this flow")
                continue
            yield here, name


def _type(spec: dict[str, Any]) -> FieldType:
    try:
        return FieldType(spec.get("type", "string"))
    except ValueError:
        return FieldType.STRING
