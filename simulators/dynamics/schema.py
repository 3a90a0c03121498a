"""What tables are made of: columns, keys and relationships, by the names that the Web API uses."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from simulators.dynamics.errors import no_segment

_NAMES = uuid.UUID("5c0d1d0e-6a0f-4b52-9a9b-0f4a3f1c9d21")
TYPES = {
    "string": ("String", "Edm.String"),
    "memo": ("Memo", "Edm.String"),
    "integer": ("Integer", "Edm.Int32"),
    "bigint": ("BigInt", "Edm.Int64"),
    "decimal": ("Decimal", "Edm.Decimal"),
    "double": ("Double", "Edm.Double"),
    "money": ("Money", "Edm.Decimal"),
    "boolean": ("Boolean", "Edm.Boolean"),
    "datetime": ("DateTime", "Edm.DateTimeOffset"),
    "date": ("DateTime", "Edm.Date"),
    "picklist": ("Picklist", "Edm.Int32"),
    "multi": ("Virtual", "Edm.String"),
    "state": ("State", "Edm.Int32"),
    "status": ("Status", "Edm.Int32"),
    "lookup": ("Lookup", "Edm.Guid"),
    "customer": ("Customer", "Edm.Guid"),
    "owner": ("Owner", "Edm.Guid"),
    "uniqueidentifier": ("Uniqueidentifier", "Edm.Guid"),
}
"""Kind of column → its AttributeType in metadata, its type in OData."""
LOOKUPS = frozenset({"lookup", "customer", "owner"})
CHOICES = frozenset({"picklist", "multi", "state", "status"})


def metadata_id(*names: str) -> str:
    """Return the id of a piece of metadata: the same in every run."""
    return str(uuid.uuid5(_NAMES, "/".join(names)))


@dataclass(slots=True)
class Column:
    """One column. ``targets`` of a lookup are tables; ``options`` of a choice are value → label."""

    name: str
    kind: str
    schema_name: str = ""
    label: str = ""
    max_length: int = 100
    minimum: float | None = None
    maximum: float | None = None
    precision: int = 2
    options: dict[int, str] = field(default_factory=dict)
    states: dict[int, int] = field(default_factory=dict)
    """Of a status: value → the state it belongs to."""
    targets: tuple[str, ...] = ()
    navigation: str = ""
    """Of a lookup: the case-sensitive name before ``@odata.bind``, without the target that several targets add."""
    creatable: bool = True
    updatable: bool = True
    custom: bool = False
    required: str = "None"

    def __post_init__(self) -> None:
        self.schema_name = self.schema_name or self.name
        self.label = self.label or self.name
        self.navigation = self.navigation or (self.schema_name if self.custom else self.name)

    @property
    def is_lookup(self) -> bool:
        """Return whether the column refers to a row."""
        return self.kind in LOOKUPS

    @property
    def property(self) -> str:
        """Return the name under which a row shows the value."""
        return f"_{self.name}_value" if self.kind in LOOKUPS else self.name

    def navigations(self) -> dict[str, str]:
        """Return the navigation properties of a lookup: name → table."""
        if not self.is_lookup:
            return {}
        if len(self.targets) == 1 or self.kind == "owner":
            return {self.navigation: self.targets[0]}
        return {f"{self.navigation}_{target}": target for target in self.targets}


@dataclass(slots=True)
class Key:
    """An alternate key: one or more columns whose values, together, no two rows share."""

    name: str
    columns: tuple[str, ...]
    label: str = ""


@dataclass(slots=True)
class Relationship:
    """A one-to-many relationship. ``on_delete`` is what a delete of the one does to the many."""

    name: str
    one: str
    many: str
    column: str
    navigation: str
    collection: str
    on_delete: str = "RemoveLink"


@dataclass(slots=True)
class ManyToMany:
    """A many-to-many relationship; both sides name it alike."""

    name: str
    left: str
    right: str

    def other(self, table: str) -> str:
        """Return the table on the other side."""
        return self.right if table == self.left else self.left


@dataclass(slots=True)
class Table:
    """One table. ``tracked`` says whether change tracking is on."""

    name: str
    set_name: str
    schema_name: str
    primary_name: str
    code: int
    columns: dict[str, Column]
    keys: dict[str, Key] = field(default_factory=dict)
    tracked: bool = True
    custom: bool = False
    stamped: bool = True
    """Whether rows carry who created and changed them."""
    label: str = ""
    primary_id: str = ""
    properties: dict[str, Column] = field(default_factory=dict)
    links: dict[str, tuple[Column, str]] = field(default_factory=dict)
    """Navigation property of a lookup → column and table."""

    def __post_init__(self) -> None:
        self.primary_id = self.primary_id or f"{self.name}id"
        self.label = self.label or self.schema_name
        for column in list(self.columns.values()):
            self.add(column)

    def add(self, column: Column) -> None:
        """Add a column."""
        self.columns[column.name] = column
        self.properties[column.property] = column
        for navigation, target in column.navigations().items():
            self.links[navigation] = (column, target)

    def remove(self, name: str) -> None:
        """Remove a column."""
        column = self.columns.pop(name)
        self.properties.pop(column.property, None)
        for navigation in column.navigations():
            self.links.pop(navigation, None)


class Schema:
    """All tables and relationships of one organisation."""

    def __init__(self, tables: list[Table], relationships: list[Relationship], many: list[ManyToMany]) -> None:
        self.tables = {t.name: t for t in tables}
        self.sets = {t.set_name: t for t in tables}
        self.relationships: list[Relationship] = []
        self.many = many
        self._collections: dict[tuple[str, str], Relationship] = {}
        for relationship in relationships:
            self.relate(relationship)

    def relate(self, relationship: Relationship) -> None:
        """Add a one-to-many relationship."""
        self.relationships.append(relationship)
        self._collections[relationship.one, relationship.collection] = relationship

    def add(self, table: Table) -> None:
        """Add a table."""
        self.tables[table.name] = self.sets[table.set_name] = table

    def remove(self, table: Table) -> None:
        """Remove a table and its relationships."""
        del self.tables[table.name], self.sets[table.set_name]
        self.relationships = [r for r in self.relationships if table.name not in (r.one, r.many)]
        self.many = [m for m in self.many if table.name not in (m.left, m.right)]

    def by_set(self, name: str) -> Table:
        """Return a table by the name of its entity set. Raises ODataError."""
        table = self.sets.get(name)
        if table is None:
            raise no_segment(name)
        return table

    def collection(self, table: Table, navigation: str) -> Relationship | None:
        """Return the relationship behind a collection-valued navigation property of the one side."""
        return self._collections.get((table.name, navigation))

    def association(self, table: Table, navigation: str) -> ManyToMany | None:
        """Return the many-to-many relationship behind a navigation property."""
        for many in self.many:
            if many.name == navigation and table.name in (many.left, many.right):
                return many
        return None
