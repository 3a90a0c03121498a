"""Checking and carrying out writes of records: values, unique values, associations; what a handler asks for, one record at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulators.hubspot.definitions import Definition
from simulators.hubspot.errors import Refused, contact_exists, invalid, not_found, values_invalid
from simulators.hubspot.kinds import Kind, kind_named
from simulators.hubspot.links import TYPES, LinkType
from simulators.hubspot.portal import Portal
from simulators.hubspot.records import Origin, Record, Table, unique_values
from simulators.hubspot.values import Unfit, normal

Wanted = list[tuple[LinkType, Record]]


@dataclass(slots=True)
class Claims:
    """The unique values that a batch has asked for so far, so that two inputs do not ask for the same one."""

    taken: set[tuple[str, str]] = field(default_factory=set)


class Writer:
    """Writes for one portal."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def checked(self, kind: Kind, given: Any, record: Record | None, *, system: bool = False) -> dict[str, str]:
        """Return properties as they are stored. Raises Refused (400) with everything that is wrong with them."""
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise invalid("Invalid input JSON on line 1, column 1: properties are an object")
        schema, faults = self._portal.schema, []
        values: dict[str, str] = {}
        for name, raw in given.items():
            definition = schema.living(kind, name.lower())
            if definition is None:
                faults.append((name, "PROPERTY_DOESNT_EXIST", f'Property "{name}" does not exist'))
                continue
            if definition.read_only and not system:
                text = f'"{name}" is a read only property; its value cannot be set.'
                faults.append((name, "READ_ONLY_VALUE", text))
                continue
            try:
                before = "" if record is None else record.values.get(definition.name, "")
                values[definition.name] = normal(definition, raw, before, schema.owner_ids)
            except Unfit as error:
                faults.append((name, error.code, str(error)))
        if faults:
            raise values_invalid(faults)
        if record is None and (missing := [n for n in kind.required if not values.get(n)]):
            raise invalid(
                f"Error creating {kind.singular.upper()}. Some required properties were not set.",
                errors=[
                    {
                        "message": "Some required properties were not set.",
                        "code": "REQUIRED_FIELD",
                        "context": {"properties": missing},
                    }
                ],
            )
        return values

    def claimed(
        self, kind: Kind, values: Mapping[str, str], record: Record | None, claims: Claims | None = None
    ) -> None:
        """Check that unique values are free. Raises Refused: 409 for an e-mail address, 400 for another property."""
        table = self._portal.store.tables[kind.name]
        after = {**({} if record is None else record.values), **values}
        for name in table.unique:
            if name not in values and not (name == "email" and "hs_additional_emails" in values):
                continue
            for value in unique_values(after, name):
                holder = table.unique[name].get(value)
                if holder is not None and (record is None or holder != record.id):
                    raise self._conflict(name, value, holder)
                if claims is not None:
                    if (name, value) in claims.taken:
                        raise invalid(f"Duplicate IDs found in batch input: [{value}]. IDs must be unique.")
                    claims.taken.add((name, value))

    def links(self, kind: Kind, given: Any) -> Wanted:
        """Return the associations that a new record is to have. Raises Refused (400)."""
        wanted: Wanted = []
        if given is not None and not isinstance(given, list):
            raise invalid("Invalid input JSON on line 1, column 1: associations are an array")
        for one in given or ():
            try:
                end_id, types = str(one["to"]["id"]), [int(t["associationTypeId"]) for t in one["types"]]
            except (TypeError, KeyError, ValueError):
                raise invalid(
                    'Invalid input JSON on line 1, column 1: an association is {"to": {"id"}, "types": […]}'
                ) from None
            for number in types:
                link = TYPES.get(number)
                if link is None or link.start != kind.name:
                    raise invalid(
                        f"One or more associations are not valid: there is no type {number} from {kind.singular}"
                    )
                record = self._portal.store.tables[link.end].find(end_id)
                if record is None:
                    end = kind_named(link.end)
                    raise invalid(f"No {link.end if end is None else end.singular} with ID {end_id} exists")
                wanted.append((link, record))
        return wanted

    def create(self, kind: Kind, values: dict[str, str], wanted: Wanted, origin: Origin) -> Record:
        """Make a record of checked values, with its associations."""
        record = self._portal.store.create(kind, self._completed(kind, values), origin)
        for link, end in wanted:
            self._portal.links.add(link, record, end, origin)
        return record

    def find(self, kind: Kind, spelt: str, id_property: Any, *, archived: bool = False) -> Record | None:
        """Return a record by id or by a unique property. Raises Refused (400) if the property is not unique."""
        table = self._portal.store.tables[kind.name]
        if id_property is None or id_property == "hs_object_id":
            return table.find(spelt, archived=archived)
        if not isinstance(id_property, str):
            raise invalid("Invalid input JSON on line 1, column 1: idProperty is a string")
        self.unique(kind, id_property)
        return None if archived else table.find_by(id_property, spelt)

    def found(self, kind: Kind, spelt: str, id_property: Any, *, archived: bool = False) -> Record:
        """Return a record by id or by a unique property. Raises Refused (400, 404)."""
        record = self.find(kind, spelt, id_property, archived=archived)
        if record is None:
            raise not_found(spelt)
        return record

    def unique(self, kind: Kind, name: str) -> Definition:
        """Return the definition of a unique property. Raises Refused (400) if it is not unique."""
        definition = self._portal.schema.living(kind, name)
        if definition is None or name not in self._table(kind).unique:
            raise invalid(f"{name} is not a unique property of {kind.name}: idProperty must have hasUniqueValue")
        return definition

    def _table(self, kind: Kind) -> Table:
        return self._portal.store.tables[kind.name]

    def _conflict(self, name: str, value: str, holder: int) -> Refused:
        if name == "email":
            return contact_exists(holder)
        text = f"The value {value} of {name} belongs to object {holder} already."
        return values_invalid([(name, "CONFLICTING_UNIQUE_VALUE", text)])

    def _completed(self, kind: Kind, values: dict[str, str]) -> dict[str, str]:
        """Return the values with those that the vendor sets when nobody does."""
        if kind.name == "deals" and "dealstage" in values:
            return {"pipeline": "default", **values}
        if kind.name == "tickets":
            return {"hs_pipeline": "0", **values}
        if kind.name == "line_items" and values.get("price") and values.get("quantity"):
            amount = float(values["price"]) * float(values["quantity"])
            return {"amount": f"{amount:.2f}", **values}
        return values
