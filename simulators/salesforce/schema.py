"""Objects and fields of an org: what describe shows and what every write is checked against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

TEXT = frozenset(
    {"string", "textarea", "email", "phone", "url", "picklist", "multipicklist", "combobox", "encryptedstring"}
)
NUMBERS = frozenset({"int", "double", "currency", "percent"})
_SYSTEM = frozenset(
    {"Id", "IsDeleted", "CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById", "SystemModstamp"}
)


@dataclass(slots=True)
class Field:
    """One field. ``writes`` says on which operations a client may give it: create and update, create only, or never."""

    name: str
    type: str = "string"
    label: str = ""
    length: int = 0
    required: bool = False
    unique: bool = False
    external: bool = False
    lookup: bool = False
    values: tuple[str, ...] = ()
    restricted: bool = False
    refers: tuple[str, ...] = ()
    relation: str | None = None
    children: str | None = None
    precision: int = 18
    scale: int = 0
    writes: str = "both"
    default: Any = None
    part_of: str | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.label = self.label or spaced(self.name)
        if self.type == "reference":
            self.length = 18
            if self.relation is None:
                self.relation = f"{self.name[:-3]}__r" if self.custom else self.name.removesuffix("Id")

    @property
    def custom(self) -> bool:
        """Return whether the org's own administrators made the field."""
        return self.name.endswith("__c")

    @property
    def indexed(self) -> bool:
        """Return whether records are found by the field without looking at all of them."""
        return self.unique or self.external or self.lookup or (self.type == "reference" and self.refers != ("User",))

    @property
    def compound(self) -> bool:
        """Return whether the value is put together from other fields and is not stored."""
        return self.type == "address"


class Kind:
    """One object with its fields, system fields first."""

    def __init__(
        self,
        name: str,
        prefix: str,
        fields: Iterable[Field],
        *,
        label: str = "",
        plural: str = "",
        writable: bool = True,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.label = label or spaced(name)
        self.plural = plural or f"{self.label}s"
        self.writable = writable
        self.fields: dict[str, Field] = {}
        self.lower: dict[str, Field] = {}
        self.relations: dict[str, Field] = {}
        self.required: list[Field] = []
        self.uniques: list[str] = []
        self.defaults: dict[str, Any] = {}
        self.mergeable = name in {"Account", "Contact", "Lead", "Case"}
        for field in (*_system(self.mergeable), *fields):
            self.add(field)

    @property
    def custom(self) -> bool:
        """Return whether the org's own administrators made the object."""
        return self.name.endswith("__c")

    @property
    def event(self) -> str:
        """Return the name of its change event, without the channel's ``/data/``."""
        return f"{self.name[:-3]}__ChangeEvent" if self.custom else f"{self.name}ChangeEvent"

    @property
    def name_field(self) -> str:
        """Return the field that names a record for people."""
        return next((n for n in ("Name", "OrderNumber", "CaseNumber", "Subject") if n in self.fields), "Id")

    @property
    def person(self) -> bool:
        """Return whether its name is put together from first and last name."""
        return "LastName" in self.fields

    def add(self, field: Field) -> None:
        """Add a field, or replace the one of the same name."""
        self.fields[field.name] = self.lower[field.name.lower()] = field
        if field.relation:
            self.relations[field.relation.lower()] = field
        self.required = [f for f in self.fields.values() if f.required]
        self.uniques = [f.name for f in self.fields.values() if f.unique]
        self.defaults = {f.name: f.default for f in self.fields.values() if f.default is not None}

    def find(self, name: str) -> Field | None:
        """Return a field by its name, in whatever case."""
        return self.fields.get(name) or self.lower.get(name.lower())


def is_system(name: str) -> bool:
    """Return whether the system itself keeps a field."""
    return name in _SYSTEM


def spaced(name: str) -> str:
    """Return an API name as a label: words apart, suffix gone."""
    out = ""
    for i, c in enumerate(name.removesuffix("__c").replace("_", " ")):
        out += f" {c}" if i and c.isupper() and not out[-1].isupper() and out[-1] != " " else c
    return f"{out[:-3]} ID" if out.endswith(" Id") else out


def _system(mergeable: bool) -> list[Field]:
    fields = [
        Field("Id", "id", "Record ID", 18, lookup=True, writes="never"),
        Field("IsDeleted", "boolean", "Deleted", writes="never"),
    ]
    if mergeable:
        fields.append(Field("MasterRecordId", "reference", "Master Record ID", refers=(), writes="never"))
    return [
        *fields,
        Field("CreatedDate", "datetime", writes="never"),
        Field("CreatedById", "reference", refers=("User",), writes="never"),
        Field("LastModifiedDate", "datetime", writes="never"),
        Field("LastModifiedById", "reference", refers=("User",), writes="never"),
        Field("SystemModstamp", "datetime", writes="never"),
    ]
