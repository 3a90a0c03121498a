"""The records of a portal: values, history, unique values, what was merged into what. Nothing here knows HTTP."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from simulators.hubspot.definitions import STAGES
from simulators.hubspot.kinds import KINDS, Kind
from simulators.hubspot.moments import spelt

_VERSIONS = 45
_FIRST_ID = 151_000_001


@dataclass(frozen=True, slots=True)
class Origin:
    """Who writes: a user of the portal, or an app."""

    source_type: str
    source_id: str
    label: str | None = None
    user_id: int | None = None

    @property
    def person(self) -> bool:
        """Return whether it is a user."""
        return self.user_id is not None


class Version(NamedTuple):
    """A value that a property had from a moment on."""

    value: str
    at_ms: int
    origin: Origin


@dataclass(slots=True)
class Record:
    """One record. ``values`` holds only properties that have a value."""

    id: int
    kind: Kind
    created_ms: int
    updated_ms: int
    values: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[Version]] = field(default_factory=dict)
    archived_ms: int | None = None


class Watcher(Protocol):
    """What wants to know of every change, after it has been made."""

    def created(self, record: Record, changed: dict[str, str], origin: Origin) -> None: ...

    def updated(self, record: Record, changed: dict[str, str], origin: Origin) -> None: ...

    def archived(self, record: Record, origin: Origin, *, erased: bool) -> None: ...

    def restored(self, record: Record, origin: Origin) -> None: ...

    def merged(self, record: Record, primary: int, other: int, moved: int, origin: Origin) -> None: ...


@dataclass(slots=True)
class Table:
    """The records of one kind; ``live`` and ``archived`` are ids in ascending order, ``unique`` finds an id by a unique value."""

    kind: Kind
    records: dict[int, Record] = field(default_factory=dict)
    live: list[int] = field(default_factory=list)
    archived: list[int] = field(default_factory=list)
    aliases: dict[int, int] = field(default_factory=dict)
    unique: dict[str, dict[str, int]] = field(default_factory=dict)

    def find(self, spelt_id: str | int, *, archived: bool = False) -> Record | None:
        """Return the record with an id, or the one into which it was merged; None if it is not there."""
        try:
            number = int(spelt_id)
        except ValueError:
            return None
        while number in self.aliases:
            number = self.aliases[number]
        record = self.records.get(number)
        return record if record is not None and (record.archived_ms is not None) == archived else None

    def find_by(self, name: str, value: str) -> Record | None:
        """Return the living record that has a unique value."""
        number = self.unique.get(name, {}).get(value.strip().lower())
        return None if number is None else self.records[number]


def unique_values(record_values: dict[str, str], name: str) -> list[str]:
    """Return what a record claims of a unique property: an e-mail address may be the first one or a further one."""
    own = [record_values[name].lower()] if name in record_values else []
    if name == "email":
        own += [a for a in record_values.get("hs_additional_emails", "").split(";") if a]
    return own


class Store:
    """All tables of a portal. Values given to it have been checked; it stamps, indexes, and tells the watchers."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.tables = {kind.name: Table(kind) for kind in KINDS}
        self.tables["contacts"].unique["email"] = {}
        self.watchers: list[Watcher] = []
        self._next_id = _FIRST_ID

    def create(self, kind: Kind, values: dict[str, str], origin: Origin, number: int | None = None) -> Record:
        """Make a record; ``number`` is its id if it is given and not taken."""
        table, now_ms = self.tables[kind.name], self._now_ms()
        if number is None or number in table.records or number in table.aliases:
            number = self._new_id()
        record = Record(number, kind, now_ms, now_ms)
        stamp = spelt(now_ms)
        own = {
            "hs_object_id": str(number),
            "createdate": stamp,
            "hs_object_source": origin.source_type,
            "hs_object_source_id": origin.source_id,
            "hs_object_source_label": origin.label or origin.source_type,
        }
        table.records[number] = record
        insort(table.live, number)
        changed = {name: value for name, value in values.items() if value}
        self._put(record, {**changed, **own}, now_ms, origin)
        for watcher in self.watchers:
            watcher.created(record, changed, origin)
        return record

    def update(self, record: Record, values: dict[str, str], origin: Origin) -> dict[str, str]:
        """Change what differs, and return it. A write that changes nothing leaves the time of the last change as it was."""
        changed = {name: value for name, value in values.items() if record.values.get(name, "") != value}
        if not origin.person and "lifecyclestage" in changed and _backwards(record, changed["lifecyclestage"]):
            del changed["lifecyclestage"]
        if changed:
            self._put(record, changed, self._now_ms(), origin)
            for watcher in self.watchers:
                watcher.updated(record, changed, origin)
        return changed

    def archive(self, record: Record, origin: Origin, *, erase: bool = False) -> None:
        """Put a record into the bin, or destroy it altogether."""
        table = self.tables[record.kind.name]
        self._release(table, record)
        _drop(table.live, record.id)
        record.archived_ms = self._now_ms()
        if erase:
            del table.records[record.id]
        else:
            insort(table.archived, record.id)
        for watcher in self.watchers:
            watcher.archived(record, origin, erased=erase)

    def restore(self, record: Record, origin: Origin) -> None:
        """Take a record out of the bin. Raises ValueError if another one has one of its unique values by now."""
        table = self.tables[record.kind.name]
        for name, index in table.unique.items():
            for value in unique_values(record.values, name):
                if value in index:
                    raise ValueError(f"{name} {value} belongs to {table.kind.singular} {index[value]} by now")
        _drop(table.archived, record.id)
        record.archived_ms = None
        insort(table.live, record.id)
        self._claim(table, record)
        self._put(record, {}, self._now_ms(), origin)
        for watcher in self.watchers:
            watcher.restored(record, origin)

    def merge(self, primary: Record, other: Record, origin: Origin, *, keep_id: bool) -> Record:
        """Make one record of two: the primary's values win, and both ids lead to the one that is left, which has a new id by default."""
        table = self.tables[primary.kind.name]
        now_ms = self._now_ms()
        taken = {n: v for n, v in other.values.items() if n not in primary.values}
        if primary.kind.name == "contacts":
            addresses = dict.fromkeys(unique_values(primary.values, "email") + unique_values(other.values, "email"))
            first = primary.values.get("email") or other.values.get("email", "")
            if further := ";".join(a for a in addresses if a != first):
                taken["hs_additional_emails"] = further
        stages = [r.values["lifecyclestage"] for r in (primary, other) if "lifecyclestage" in r.values]
        if stages:
            taken["lifecyclestage"] = max(stages, key=_rank)
        before = [i for r in (primary, other) for i in r.values.get("hs_merged_object_ids", "").split(";") if i]
        numbers = [str(other.id)] if keep_id else [str(primary.id), str(other.id)]
        self._release(table, primary)
        self._release(table, other)
        gone = [other] if keep_id else [primary, other]
        for record in gone:
            _drop(table.live, record.id)
            del table.records[record.id]
        if keep_id:
            left = primary
        else:
            left = Record(self._new_id(), primary.kind, min(primary.created_ms, other.created_ms), now_ms)
            left.values = dict(primary.values)
            left.history = {name: list(versions) for name, versions in primary.history.items()}
            table.records[left.id] = left
            insort(table.live, left.id)
        table.aliases.update({record.id: left.id for record in gone})
        merging = Origin(
            "MERGE_CONTACTS" if primary.kind.name == "contacts" else "MERGE_OBJECTS",
            f"{primary.id};{other.id}",
            None,
            origin.user_id,
        )
        moved = {n: v for n, v in taken.items() if left.values.get(n, "") != v}
        own = {"hs_object_id": str(left.id), "createdate": spelt(left.created_ms)}
        own["hs_merged_object_ids"] = ";".join(dict.fromkeys([*before, *numbers]))
        self._put(left, {**moved, **own}, now_ms, merging)
        self._claim(table, left)
        for watcher in self.watchers:
            watcher.merged(left, primary.id, other.id, len(moved), origin)
        return left

    def merges(self, record: Record) -> int:
        """Return how many records have been merged into one."""
        return len([i for i in record.values.get("hs_merged_object_ids", "").split(";") if i])

    def index(self, kind: Kind, name: str) -> None:
        """Begin to find records by a unique property."""
        table = self.tables[kind.name]
        table.unique[name] = {}
        for number in table.live:
            self._claim(table, table.records[number], name)

    def _put(self, record: Record, values: dict[str, str], at_ms: int, origin: Origin) -> None:
        table, history = self.tables[record.kind.name], record.history
        claims = [n for n in table.unique if n in values or (n == "email" and "hs_additional_emails" in values)]
        if claims and record.archived_ms is None:
            self._release(table, record, *claims)
        record.updated_ms = max(record.updated_ms, at_ms)
        for name, value in {**values, record.kind.modified: spelt(record.updated_ms)}.items():
            if value:
                record.values[name] = value
            else:
                record.values.pop(name, None)
            versions = history.setdefault(name, [])
            versions.append(Version(value, at_ms, origin))
            if len(versions) > _VERSIONS:
                del versions[0]
        if claims and record.archived_ms is None:
            self._claim(table, record, *claims)

    def _claim(self, table: Table, record: Record, *names: str) -> None:
        for name in names or table.unique:
            for value in unique_values(record.values, name):
                table.unique[name][value] = record.id

    def _release(self, table: Table, record: Record, *names: str) -> None:
        for name in names or table.unique:
            index = table.unique[name]
            for value in unique_values(record.values, name):
                if index.get(value) == record.id:
                    del index[value]

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id


def _drop(ids: list[int], number: int) -> None:
    at = bisect_left(ids, number)
    if at < len(ids) and ids[at] == number:
        del ids[at]


def _rank(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else -1


def _backwards(record: Record, stage: str) -> bool:
    """Return whether a life-cycle stage would move back: the vendor leaves it then, without a word. Clearing it is allowed."""
    now = record.values.get("lifecyclestage")
    return bool(stage) and now is not None and 0 <= _rank(stage) < _rank(now)
