"""The properties API: definitions and groups are listed, read, made, changed and archived."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.definitions import Definition
from simulators.hubspot.errors import Refused, invalid, not_found
from simulators.hubspot.gate import Gate, Need, Visit, whole
from simulators.hubspot.kinds import Kind
from simulators.hubspot.moments import spelt
from simulators.hubspot.paths import DATED, paths
from simulators.hubspot.portal import Portal
from simulators.hubspot.schema import MOST_UNIQUE

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
_FIELD_TYPES = {
    "string": {"text", "textarea", "html", "file", "phonenumber", "calculation_equation"},
    "number": {"number", "calculation_equation"},
    "date": {"date"},
    "datetime": {"date", "calculation_equation"},
    "bool": {"booleancheckbox", "calculation_equation"},
    "enumeration": {"select", "radio", "checkbox", "booleancheckbox", "calculation_equation"},
    "phone_number": {"phonenumber"},
}
_KEPT = (
    "calculationFormula",
    "currencyPropertyName",
    "dataSensitivity",
    "numberDisplayHint",
    "referencedObjectType",
    "showCurrencySymbol",
)


class Properties:
    """Handlers of definitions and groups."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths, in both families."""
        read: Need = "schema_read"
        write: Need = "schema_write"
        found: list[Route] = []
        for rest, handler, method in (
            ("/groups", gate(self.groups, read), "GET"),
            ("/groups", gate(self.create_group, write), "POST"),
            ("/groups/{name}", gate(self.group, read), "GET"),
            ("/groups/{name}", gate(self.update_group, write), "PATCH"),
            ("/groups/{name}", gate(self.archive_group, write), "DELETE"),
            ("/batch/read", gate(self.batch_read, read), "POST"),
            ("/batch/create", gate(self.batch_create, write), "POST"),
            ("/batch/archive", gate(self.batch_archive, write), "POST"),
            ("", gate(self.all, read), "GET"),
            ("", gate(self.create, write), "POST"),
            ("/{name}", gate(self.read, read), "GET"),
            ("/{name}", gate(self.update, write), "PATCH"),
            ("/{name}", gate(self.archive, write), "DELETE"),
        ):
            found += paths(
                handler, method, f"/crm/v3/properties/{{type}}{rest}", f"/crm/properties/{DATED}/{{type}}{rest}"
            )
        return found

    def all(self, visit: Visit) -> Response:
        """Answer all definitions of a kind."""
        archived = visit.flag("archived")
        found = self._portal.schema.of(visit.kind()).values()
        return answer({"results": [d.shown() for d in found if (d.archived_ms is not None) == archived]})

    def read(self, visit: Visit) -> Response:
        """Answer one definition."""
        return answer(
            self._found(visit.kind(), visit.request.path_params["name"], archived=visit.flag("archived")).shown()
        )

    def create(self, visit: Visit) -> Response:
        """Make a definition."""
        return answer(self._made(visit.kind(), visit.body()).shown(), 201)

    def update(self, visit: Visit) -> Response:
        """Change a definition: not its name, and nothing of those that the vendor made but their options."""
        kind, sent = visit.kind(), visit.body()
        definition = self._found(kind, visit.request.path_params["name"])
        if definition.own:
            raise invalid(f"Property {definition.name} is read only: HubSpot defined it")
        if "hasUniqueValue" in sent and bool(sent["hasUniqueValue"]) != definition.unique:
            raise invalid("hasUniqueValue cannot be changed after a property has been made")
        type_, field_type = str(sent.get("type", definition.type)), str(sent.get("fieldType", definition.field_type))
        _check_types(type_, field_type)
        definition.type, definition.field_type = type_, field_type
        if "groupName" in sent:
            definition.group = self._known_group(kind, sent)
        definition.label = str(sent.get("label", definition.label))
        definition.description = str(sent.get("description", definition.description))
        definition.hidden = bool(sent.get("hidden", definition.hidden))
        definition.form_field = bool(sent.get("formField", definition.form_field))
        definition.display_order = whole(sent, "displayOrder", definition.display_order)
        if "options" in sent:
            definition.options = _options(sent)
            definition.allow()
        definition.updated_ms = self._portal.now_ms()
        return answer(definition.shown())

    def archive(self, visit: Visit) -> Response:
        """Archive a definition; the records' values are no longer shown."""
        self._archive(visit.kind(), visit.request.path_params["name"])
        return Response(status_code=204)

    def batch_read(self, visit: Visit) -> Response:
        """Answer several definitions."""
        kind, archived = visit.kind(), bool(visit.body().get("archived"))
        found, missing = [], []
        for name in _names(visit.inputs()):
            definition = self._portal.schema.of(kind).get(name)
            if definition is None or (definition.archived_ms is not None) != archived:
                missing.append(name)
            else:
                found.append(definition.shown())
        return self._batch(found, missing, 200)

    def batch_create(self, visit: Visit) -> Response:
        """Make several definitions."""
        kind = visit.kind()
        return self._batch([self._made(kind, one).shown() for one in visit.inputs()], [], 201)

    def batch_archive(self, visit: Visit) -> Response:
        """Archive several definitions."""
        kind = visit.kind()
        for name in _names(visit.inputs()):
            if self._portal.schema.living(kind, name) is not None:
                self._archive(kind, name)
        return Response(status_code=204)

    def groups(self, visit: Visit) -> Response:
        """Answer all groups of a kind."""
        return answer({"results": list(self._portal.schema.groups[visit.kind().name].values())})

    def group(self, visit: Visit) -> Response:
        """Answer one group."""
        return answer(self._found_group(visit))

    def create_group(self, visit: Visit) -> Response:
        """Make a group."""
        sent, groups = visit.body(), self._portal.schema.groups[visit.kind().name]
        name = str(sent.get("name", ""))
        if not _NAME.fullmatch(name) or not sent.get("label"):
            raise invalid(
                "Some required fields were not set: [name, label]; a name has lower-case letters, digits and _"
            )
        if name in groups:
            raise Refused(409, f"A property group named '{name}' already exists.", "CONFLICT")
        order = whole(sent, "displayOrder", -1)
        groups[name] = {"name": name, "label": str(sent["label"]), "displayOrder": order, "archived": False}
        return answer(groups[name], 201)

    def update_group(self, visit: Visit) -> Response:
        """Change a group."""
        group, sent = self._found_group(visit), visit.body()
        group.update({name: sent[name] for name in ("label", "displayOrder") if name in sent})
        return answer(group)

    def archive_group(self, visit: Visit) -> Response:
        """Remove a group that has no properties."""
        group = self._found_group(visit)
        kind = visit.kind()
        if any(d.group == group["name"] and d.archived_ms is None for d in self._portal.schema.of(kind).values()):
            raise invalid(f"The property group {group['name']} has properties: move or archive them first")
        del self._portal.schema.groups[kind.name][group["name"]]
        return Response(status_code=204)

    def _made(self, kind: Kind, sent: dict[str, Any]) -> Definition:
        schema, now_ms = self._portal.schema, self._portal.now_ms()
        if missing := [m for m in ("name", "label", "type", "fieldType", "groupName") if not sent.get(m)]:
            raise invalid(f"Some required fields were not set: [{', '.join(missing)}]")
        name = str(sent["name"])
        if not _NAME.fullmatch(name):
            raise invalid(
                f"Property name {name} is invalid: it has lower-case letters, digits and _, and begins with a letter"
            )
        if (before := schema.of(kind).get(name)) is not None and before.archived_ms is None:
            text = f"A property named '{name}' already exists."
            raise Refused(409, text, "CONFLICT", subCategory="Properties.PROPERTY_WITH_NAME_EXISTS")
        _check_types(str(sent["type"]), str(sent["fieldType"]))
        unique = bool(sent.get("hasUniqueValue"))
        if unique and sent["type"] not in ("string", "number"):
            raise invalid("Only properties of type string or number can have unique values")
        if unique and len(schema.unique(kind)) >= MOST_UNIQUE:
            raise invalid(f"Only {MOST_UNIQUE} unique properties are allowed for {kind.name}")
        definition = Definition(
            name,
            str(sent["label"]),
            str(sent["type"]),
            str(sent["fieldType"]),
            self._known_group(kind, sent),
            str(sent.get("description") or ""),
            _options(sent),
            unique,
            own=False,
            owners=bool(sent.get("externalOptions")) and sent.get("referencedObjectType") == "OWNER",
            hidden=bool(sent.get("hidden")),
            form_field=bool(sent.get("formField")),
            display_order=whole(sent, "displayOrder", -1),
            more={m: sent[m] for m in _KEPT if sent.get(m) is not None},
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        schema.of(kind)[name] = definition
        if unique:
            self._portal.store.index(kind, name)
        return definition

    def _archive(self, kind: Kind, name: str) -> None:
        definition = self._found(kind, name)
        if definition.own:
            raise invalid(f"Property {name} cannot be archived: HubSpot defined it")
        definition.archived_ms = self._portal.now_ms()
        self._portal.store.tables[kind.name].unique.pop(name, None)

    def _found(self, kind: Kind, name: str, *, archived: bool = False) -> Definition:
        definition = self._portal.schema.of(kind).get(name)
        if definition is None or (definition.archived_ms is not None) != archived:
            raise not_found(name)
        return definition

    def _found_group(self, visit: Visit) -> dict[str, Any]:
        name = visit.request.path_params["name"]
        group = self._portal.schema.groups[visit.kind().name].get(name)
        if group is None:
            raise not_found(name)
        return group

    def _known_group(self, kind: Kind, sent: dict[str, Any]) -> str:
        name = str(sent["groupName"])
        if name not in self._portal.schema.groups[kind.name]:
            raise invalid(f"The property group {name} does not exist")
        return name

    def _batch(self, found: list[dict[str, Any]], missing: list[str], status: int) -> Response:
        now = spelt(self._portal.now_ms())
        body: dict[str, Any] = {"status": "COMPLETE", "results": found, "startedAt": now, "completedAt": now}
        if missing:
            error = Refused(404, "Could not get some properties.", "OBJECT_NOT_FOUND", context={"names": missing})
            body |= {"numErrors": len(missing), "errors": [error.entry()]}
        return answer(body, 207 if missing else status)


def _names(inputs: Iterable[dict[str, Any]]) -> list[str]:
    return [str(one.get("name")) for one in inputs]


def _check_types(type_: str, field_type: str) -> None:
    if type_ not in _FIELD_TYPES:
        raise invalid(f"Invalid input JSON on line 1, column 1: {type_} is not one of {', '.join(_FIELD_TYPES)}")
    if field_type not in _FIELD_TYPES[type_]:
        raise invalid(f"fieldType {field_type} does not fit type {type_}: use {', '.join(sorted(_FIELD_TYPES[type_]))}")


def _options(sent: dict[str, Any]) -> list[dict[str, Any]]:
    given = sent.get("options") or []
    if not isinstance(given, list) or not all(isinstance(o, dict) and "value" in o and "label" in o for o in given):
        raise invalid("Invalid input JSON on line 1, column 1: options are objects with label and value")
    values = [str(o["value"]) for o in given]
    if len(set(values)) < len(values):
        raise invalid("Property options have to be unique: a value occurs twice")
    if sent.get("type") == "bool" and not given:
        given = [{"label": "Yes", "value": "true"}, {"label": "No", "value": "false"}]
    return [
        {"displayOrder": n, "hidden": False, **{m: o[m] for m in o if o[m] is not None}, "value": str(o["value"])}
        for n, o in enumerate(given)
    ]
