"""One transaction: records are created, changed and deleted, checked as the vendor does, and become visible together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulators.salesforce import duplicates
from simulators.salesforce.errors import Refusal, not_found
from simulators.salesforce.feed import Change
from simulators.salesforce.ids import normal
from simulators.salesforce.org import Org
from simulators.salesforce.schema import Field
from simulators.salesforce.tables import Row, Table
from simulators.salesforce.times import stamp
from simulators.salesforce.values import coerced, full_name

_CASCADES = {"Account": (("Contact", "AccountId"), ("Opportunity", "AccountId"), ("Order", "AccountId"))}


@dataclass(slots=True)
class Actor:
    """Who writes, through what. ``origin`` is what change events say about it; ``method`` and ``path`` are for faults."""

    user: str
    origin: str = ""
    client: str | None = None
    version: int = 60
    method: str = ""
    path: str = ""
    allow_save: bool = False
    details: bool = False
    duplicate_key: str = "duplicateResult"
    text: bool = False
    """Values come as text, from a CSV."""


class Unit:
    """A transaction of one actor. `commit` ends it; `rollback` takes back what was done since a savepoint."""

    def __init__(self, org: Org, actor: Actor) -> None:
        self._org = org
        self._actor = actor
        self._now = stamp(org.clock.now())
        self._undo: list[tuple[Table, str, Row | None]] = []
        self._changes: list[Change] = []
        self._log: list[dict[str, Any]] = []

    def savepoint(self) -> tuple[int, int, int]:
        """Return a mark for `rollback`."""
        return len(self._undo), len(self._changes), len(self._log)

    def rollback(self, to: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Take back what was done since the mark."""
        while len(self._undo) > to[0]:
            table, id_, old = self._undo.pop()
            if old is None:
                table.remove(id_)
            else:
                table.put(old)
                if not old["IsDeleted"]:
                    table.deletions.discard(id_)
        del self._changes[to[1] :]
        del self._log[to[2] :]

    def commit(self) -> None:
        """Make everything visible, or late if a fault says so, and tell the feed."""
        org, actor, changes = self._org, self._actor, self._changes
        if not self._log:
            return
        org.writes.extend(self._log)
        instead = next(
            (k for k in ("gap", "overflow") if org.faults.take(k, actor.method, actor.path) is not None), None
        )

        def tell() -> None:
            org.feed.publish(changes, org.clock.now(), actor.origin, actor.user, instead=instead)

        late = org.faults.take("late", actor.method, actor.path)
        until = org.clock.now() + float(late.more.get("delay_s", 60.0)) if late is not None else 0.0
        # What comes on top of something that is not to be seen yet cannot be seen before it.
        until = max([until, *(t.hidden[i][0] for t, i, _ in self._undo if i in t.hidden)])
        if until > org.clock.now():
            org.hold(until, [(t, i, old) for t, i, old in self._undo if i in t.rows], tell)
        else:
            tell()
        self._undo, self._changes, self._log = [], [], []

    # Operations; each raises Refusal and then leaves the record as it was.

    def create(self, table: Table, given: Mapping[str, Any]) -> str:
        """Create a record and return its id."""
        kind, org = table.kind, self._org
        self._allowed(table, "created")
        values = self._checked(table, given, creating=True)
        row: Row = {**dict.fromkeys(kind.fields), **kind.defaults, **values}
        missing = [f.name for f in kind.required if row.get(f.name) is None]
        if missing:
            raise Refusal(
                "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", fields=missing
            )
        self._unique(table, values, None)
        duplicates.check(org, self._actor, table, row, None)
        self._lock(table, None)
        id_ = org.new_id(kind)
        row.update(
            Id=id_,
            IsDeleted=False,
            CreatedDate=self._now,
            CreatedById=self._actor.user,
            LastModifiedDate=self._now,
            LastModifiedById=self._actor.user,
            SystemModstamp=self._now,
        )
        if "OwnerId" in kind.fields and row["OwnerId"] is None:
            row["OwnerId"] = self._actor.user
        if "OrderNumber" in kind.fields:
            row["OrderNumber"] = f"{org.next_number('order'):08d}"
        if kind.custom and row.get("Name") is None and "Name" in kind.fields:
            row["Name"] = id_[:15]
        self._put(table, row, "CREATE", tuple(values), values)
        return id_

    def update(self, table: Table, id_: str, given: Mapping[str, Any]) -> None:
        """Change fields of a record."""
        old = self.existing(table, id_)
        self._allowed(table, "updated")
        values = self._checked(table, given, creating=False)
        missing = [f.name for f in table.kind.required if f.name in values and values[f.name] is None]
        if missing:
            raise Refusal(
                "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", fields=missing
            )
        self._unique(table, values, old["Id"])
        row = {**old, **values}
        duplicates.check(self._org, self._actor, table, row, old)
        self._lock(table, old["Id"])
        row.update(LastModifiedDate=self._now, LastModifiedById=self._actor.user, SystemModstamp=self._now)
        changed = [n for n, v in values.items() if old.get(n) != v]
        changed += [n for n in ("LastModifiedDate", "LastModifiedById") if old[n] != row[n]]
        self._put(table, row, "UPDATE", tuple(changed), values)

    def delete(self, table: Table, id_: str, *, hard: bool = False, master: str | None = None) -> None:
        """Put a record into the Recycle Bin, and what belongs to it; with ``hard``, past it."""
        old = self.existing(table, id_)
        if not table.kind.writable or table.kind.name == "User":
            raise Refusal(
                "INSUFFICIENT_ACCESS_OR_READONLY", f"entity type cannot be deleted: {table.kind.label}", 403, fields=[]
            )
        self._lock(table, old["Id"])
        for child, field in _CASCADES.get(table.kind.name, ()):
            children = self._org.tables[child]
            for child_id in children.with_value(field, old["Id"]):
                if not children.rows[child_id]["IsDeleted"]:
                    self.delete(children, child_id, hard=hard)
        row = {**old, "IsDeleted": True, "SystemModstamp": self._now}
        row.update(LastModifiedDate=self._now, LastModifiedById=self._actor.user)
        if master is not None:
            row["MasterRecordId"] = master
        self._put(table, row, "DELETE", (), {})
        if hard:
            table.remove(old["Id"])
            table.deletions.add(self._now, old["Id"])

    def undelete(self, table: Table, id_: str) -> None:
        """Take a record out of the Recycle Bin."""
        old = table.rows.get(normal(id_) or "")
        if old is None or not old["IsDeleted"]:
            raise Refusal("UNDELETE_FAILED", f"Entity is not in the recycle bin: {id_}", fields=[])
        self._unique(table, old, old["Id"])
        row = {**old, "IsDeleted": False, "SystemModstamp": self._now, "LastModifiedDate": self._now}
        row["LastModifiedById"] = self._actor.user
        if "MasterRecordId" in row:
            row["MasterRecordId"] = None
        self._put(table, row, "UNDELETE", (), {})

    def touch(self, table: Table, id_: str) -> None:
        """Move a record's SystemModstamp as a background process does, without a change that anybody made."""
        row = {**self.existing(table, id_), "SystemModstamp": self._now}
        self._undo.append((table, row["Id"], table.put(row)))
        self._note("touch", table, row["Id"], {})

    def merge(self, table: Table, master: str, losers: list[str], given: Mapping[str, Any]) -> None:
        """Merge records into one: the losers go to the Recycle Bin, what referred to them refers to the master."""
        if not table.kind.mergeable:
            raise Refusal("INVALID_OPERATION", f"{table.kind.name} records cannot be merged")
        kept = self.existing(table, master)["Id"]
        for loser in losers:
            gone = self.existing(table, loser)["Id"]
            for other in self._org.tables.values():
                for field in other.kind.fields.values():
                    if table.kind.name not in field.refers or not other.has_index(field.name):
                        continue
                    for child in other.with_value(field.name, gone):
                        if not other.rows[child]["IsDeleted"]:
                            self._repoint(other, child, field.name, kept)
            self.delete(table, gone, master=kept)
        self.update(table, kept, given)

    def existing(self, table: Table, id_: str) -> Row:
        """Return a living record; one that readers do not see yet is there for whoever writes. Raises Refusal."""
        known = normal(id_)
        row = table.rows.get(known) if known is not None else None
        if row is None:
            if known is None:
                raise Refusal("MALFORMED_ID", f"malformed id {id_}", fields=["Id"])
            if not known.startswith(table.kind.prefix):
                raise Refusal(
                    "MALFORMED_ID", f"{table.kind.label} ID: id value of incorrect type: {id_}", fields=["Id"]
                )
            raise not_found()
        if row["IsDeleted"]:
            raise Refusal("ENTITY_IS_DELETED", "entity is deleted", 404, fields=[])
        return row

    # What the operations share.

    def _repoint(self, table: Table, id_: str, field: str, to: str) -> None:
        old = table.rows[id_]
        row = {**old, field: to, "SystemModstamp": self._now, "LastModifiedDate": self._now}
        row["LastModifiedById"] = self._actor.user
        self._put(table, row, "UPDATE", (field, "LastModifiedDate"), {field: to})

    def _put(self, table: Table, row: Row, type_: str, changed: tuple[str, ...], given: Mapping[str, Any]) -> None:
        if table.kind.person:
            row["Name"] = full_name(row)
        self._undo.append((table, row["Id"], table.put(row)))
        self._changes.append(Change(table.kind, type_, row["Id"], row, changed if type_ == "UPDATE" else ()))
        self._note(type_.lower(), table, row["Id"], given)

    def _note(self, op: str, table: Table, id_: str, given: Mapping[str, Any]) -> None:
        actor = self._actor
        self._log.append(
            {
                "at": self._now,
                "op": op,
                "kind": table.kind.name,
                "id": id_,
                "fields": dict(given),
                "user": actor.user,
                "client": actor.client,
                "origin": actor.origin,
            }
        )

    def _checked(self, table: Table, given: Mapping[str, Any], *, creating: bool) -> dict[str, Any]:
        kind, text, out, forbidden = table.kind, self._actor.text, dict[str, Any](), list[str]()
        for name, value in given.items():
            field = kind.fields.get(name) or kind.find(name)
            if field is None:
                if name.lower() == "attributes":
                    continue
                relation = kind.relations.get(name.lower())
                if relation is not None and isinstance(value, Mapping):
                    out[relation.name] = self._foreign(relation, value)
                    continue
                raise Refusal("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind.name}")
            if field.writes != "both" and (field.writes == "never" or not creating):
                if field.name == "Id":
                    if creating and value:
                        raise Refusal(
                            "INVALID_FIELD_FOR_INSERT_UPDATE", "cannot specify Id in an insert call", fields=["Id"]
                        )
                    continue
                forbidden.append(field.name)
                continue
            stored = coerced(field, value, text=text)
            if field.type == "reference" and stored is not None:
                self._refers(field, stored)
            if field.type == "boolean" and stored is None:
                stored = bool(field.default)
            out[field.name] = stored
        if forbidden:
            raise Refusal(
                "INVALID_FIELD_FOR_INSERT_UPDATE",
                f"Unable to create/update fields: {', '.join(forbidden)}. Please check the security settings of this field "
                "and verify that it is read/write for your profile or permission set.",
                fields=forbidden,
            )
        return out

    def _refers(self, field: Field, id_: str) -> None:
        table = self._org.prefixes.get(id_[:3])
        if table is None or (field.refers and table.kind.name not in field.refers):
            raise Refusal(
                "FIELD_INTEGRITY_EXCEPTION", f"{field.label}: id value of incorrect type: {id_}", fields=[field.name]
            )
        row = table.rows.get(id_)
        if row is None:
            raise Refusal("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", fields=[field.name])
        if row["IsDeleted"]:
            raise Refusal("ENTITY_IS_DELETED", "entity is deleted", fields=[])

    def _foreign(self, field: Field, given: Mapping[str, Any]) -> str | None:
        """Return the id of the parent that a record names by an external id."""
        named = {k: v for k, v in given.items() if k.lower() not in {"attributes", "type"}}
        target = self._org.tables[field.refers[0]]
        name, value = next(iter(named.items()), ("", None))
        key = target.kind.find(name)
        if len(named) != 1 or key is None or not (key.external or key.lookup):
            raise Refusal(
                "INVALID_FIELD",
                f"'{name}' is not an external ID or indexed field for {target.kind.name}",
                fields=[field.name],
            )
        if value is None:
            return None
        found = [i for i in target.with_value(key.name, value) if not target.rows[i]["IsDeleted"]]
        if len(found) != 1:
            raise Refusal(
                "INVALID_FIELD",
                f"Foreign key external ID: {value} not {'unique' if found else 'found'} for field {key.name} in entity "
                f"{target.kind.name}",
            )
        return found[0]

    def _unique(self, table: Table, values: Mapping[str, Any], own: str | None) -> None:
        for name in table.kind.uniques:
            if (value := values.get(name)) is None:
                continue
            for other in table.with_value(name, value):
                if other != own and not table.rows[other]["IsDeleted"]:
                    raise Refusal(
                        "DUPLICATE_VALUE",
                        f"duplicate value found: {name} duplicates value on record with id: {other[:15]}",
                        fields=[],
                    )

    def _allowed(self, table: Table, what: str) -> None:
        if not table.kind.writable:
            raise Refusal(
                "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", f"entity type cannot be {what}: {table.kind.label}", fields=[]
            )

    def _lock(self, table: Table, id_: str | None) -> None:
        actor = self._actor
        if actor.method and self._org.faults.take("lock", actor.method, actor.path) is not None:
            shown = (id_ or f"{table.kind.prefix}000000000000")[:15]
            raise Refusal(
                "UNABLE_TO_LOCK_ROW",
                f"unable to obtain exclusive access to this record or 1 records: {shown}",
                fields=[],
            )


def transacted(org: Org, actor: Actor, work: Callable[[Unit], Any]) -> Any:
    """Do something in a transaction of its own and commit; what it raises takes everything back."""
    unit = Unit(org, actor)
    try:
        out = work(unit)
    except Refusal:
        unit.rollback()
        raise
    unit.commit()
    return out
