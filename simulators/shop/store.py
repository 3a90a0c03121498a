"""What the shop does with records: create, update, delete, hand over; one record at a time, all or nothing per record."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from simulators.base import Simulator
from simulators.places import Place
from simulators.shop.problems import Problem, invalid
from simulators.shop.resources import BOOKKEEPING, RESOURCES, Resource
from simulators.shop.tables import Row, Table
from simulators.shop.values import Wrong, bad_postal_codes, checked, money, stamp

_KEPT = 100_000
OPERATIONS = ("create", "update", "upsert", "delete")
_PREFIX = {"orders": "W", "payments": "P"}
"""How the numbers begin that the shop gives itself."""


@dataclass(slots=True)
class Settings:
    """What the operator of the shop can switch."""

    reexport_on_edit: bool = False
    """Whether an edit after the hand-over resets `exported`."""
    validate_postal_code: bool = False
    """Whether the API checks American and Canadian postal codes; the storefront never does."""
    late_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: a client of the API by its credential, or a user of the shop."""

    name: str
    user: bool = False


@dataclass(slots=True)
class Done:
    """What became of one write: created, updated, unchanged, disabled or deleted."""

    result: str
    http: int
    data: dict[str, Any]


class Store:
    """All tables with their rules. Every method raises `Problem` and has then changed nothing."""

    def __init__(self, simulator: Simulator, settings: Settings) -> None:
        self._simulator = simulator
        self.settings = settings
        self._last_ms = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.tables = {name: Table(resource) for name, resource in RESOURCES.items()}
        self.deletions: dict[str, list[tuple[Place, dict[str, Any]]]] = {name: [] for name in RESOURCES}
        self.writes: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._numbers = dict.fromkeys(_PREFIX, 100_000)

    def now_ms(self) -> int:
        """Return the time of a change; it never goes back."""
        self._last_ms = max(self._last_ms, int(self._simulator.clock.now() * 1000))
        return self._last_ms

    def row(self, resource: Resource, record_id: int) -> Row:
        """Return a record by its id."""
        row = self.tables[resource.name].rows.get(record_id)
        if row is None:
            raise Problem(404, "not_found", f"There is no {resource.singular} {record_id}.")
        return row

    def apply(self, resource: Resource, operation: str, data: dict[str, Any], writer: Writer) -> Done:
        """Carry out one entry of a call with several records, and keep it for whoever asks what clients wrote."""
        entry = {"at": stamp(self.now_ms()), "writer": writer.name, "resource": resource.name, "operation": operation}
        try:
            done = self._apply(resource, operation, data, writer)
        except Problem as problem:
            self.writes.append({**entry, "sent": data, "result": "failed", "code": problem.code})
            raise
        self.writes.append({**entry, "sent": data, "result": done.result, "id": done.data["id"]})
        return done

    def _apply(self, resource: Resource, operation: str, data: dict[str, Any], writer: Writer) -> Done:
        faults = self._simulator.faults
        if not writer.user:
            if (fault := faults.take("partial_failure", operation, resource.name)) is not None:
                code = str(fault.more.get("code", "internal_error"))
                status = int(fault.more.get("status", 500))
                raise Problem(status, code, "The shop could not write this record; send it again.")
            if faults.take("locked", operation, resource.name) is not None:
                raise Problem(423, "record_locked", "Somebody has the record open; send it again in a moment.")
        if operation == "create":
            return self.create(resource, data, writer)
        fields = {k: v for k, v in data.items() if k not in ("id", "if_version")}
        row = self._named(resource, data, upsert=operation == "upsert")
        if row is None:
            if "if_version" in data:
                raise Problem(412, "version_mismatch", "There is no such record, so it has no version.", version=None)
            return self.create(resource, fields, writer)
        self.match(row, data.get("if_version"))
        if operation == "delete":
            return self.delete(resource, row, writer)
        return self.update(resource, row, fields, writer)

    def _named(self, resource: Resource, data: dict[str, Any], *, upsert: bool) -> Row | None:
        """Return the record that an entry means: by `id`, else by `external_ref`; None for an upsert of one that is not there."""
        table = self.tables[resource.name]
        record_id, ref = data.get("id"), data.get("external_ref")
        if "id" in data:
            if upsert:
                raise invalid(
                    [Wrong("read_only_field", "id", "An upsert finds its record by external_ref; leave id out.")]
                )
            if isinstance(record_id, bool) or not isinstance(record_id, int):
                raise invalid([Wrong("bad_type", "id", "id is a whole number.")])
            return self.row(resource, record_id)
        if not isinstance(ref, str) or not ref.strip():
            names = "external_ref" if upsert else "id or external_ref"
            raise invalid([Wrong("required", "external_ref", f"Say by {names} which {resource.singular} is meant.")])
        row = table.one("external_ref", ref.strip())
        if row is None and not upsert:
            raise Problem(404, "not_found", f"There is no {resource.singular} with external_ref {ref!r}.")
        return row

    def match(self, row: Row, version: Any) -> None:
        """Check the version that a writer has read, if it names one."""
        if version is None:
            return
        if isinstance(version, bool) or not isinstance(version, int):
            raise invalid([Wrong("bad_type", "if_version", "if_version is a whole number.")])
        if version != row.data["version"]:
            raise Problem(
                412,
                "version_mismatch",
                f"The record has version {row.data['version']}, not {version}: read it again, then decide.",
                version=row.data["version"],
            )

    def create(self, resource: Resource, data: dict[str, Any], writer: Writer) -> Done:
        """Add a record."""
        clean, wrong = checked(resource, data, creating=True)
        wrong += self._postal(clean, writer)
        if wrong:
            raise invalid(wrong)
        table = self.tables[resource.name]
        if resource.name in _PREFIX and resource.number is not None and clean.get(resource.number) is None:
            self._numbers[resource.name] += 1
            clean[resource.number] = f"{_PREFIX[resource.name]}{self._numbers[resource.name]}"
        if "status" not in clean and resource.field("status") is not None:
            clean["status"] = 1
        self._unique(resource, clean, None)
        self._references(resource, clean)
        at_ms = self.now_ms()
        values = {f.name: None for f in resource.fields} | clean
        values["source"] = values["source"] or writer.name
        if values.get("exported") == 1:
            values |= {"exported_at": stamp(at_ms), "exported_version": 1}
        row = Row({"id": table.new_id(), "version": 1, **values}, at_ms)
        _sums(resource, row.data)
        row.data |= {"created_at": stamp(at_ms), "updated_at": stamp(at_ms)}
        self._late(row, resource, "create")
        table.put(row)
        return Done("created", 201, row.data)

    def update(self, resource: Resource, row: Row, data: dict[str, Any], writer: Writer) -> Done:
        """Change a record. What does not differ changes nothing, and a record where nothing differs keeps its version."""
        clean, wrong = checked(resource, data, creating=False)
        wrong += self._postal({**row.data, **clean}, writer)
        if wrong:
            raise invalid(wrong)
        if clean.get("erp_import_status", "failed") != "failed":
            clean["erp_import_error"] = None
        changes = {k: v for k, v in clean.items() if k != "source" and row.data.get(k) != v}
        if not changes:
            return Done("unchanged", 200, row.data)
        self._unique(resource, changes, row)
        self._references(resource, changes)
        if set(changes) <= BOOKKEEPING and changes["exported"] == 1:
            self.hand_over(resource, row)
            return Done("updated", 200, row.data)
        table, at_ms = self.tables[resource.name], self.now_ms()
        table.take(row)
        version = row.data["version"] + 1
        row.data = {**row.data, **changes, "source": clean.get("source") or writer.name, "version": version}
        _sums(resource, row.data)
        if resource.exported:
            if changes.get("exported") == 1:
                row.data |= {"exported_at": stamp(at_ms), "exported_version": version}
            elif self.settings.reexport_on_edit and writer.user and "exported" not in changes:
                row.data["exported"] = 0
            if row.data["exported"] != 1:
                row.data |= {"exported_at": None, "exported_version": None}
        row.at_ms = at_ms
        row.data["updated_at"] = stamp(at_ms)
        self._late(row, resource, "update")
        table.put(row)
        return Done("updated", 200, row.data)

    def hand_over(self, resource: Resource, row: Row) -> None:
        """Set `exported`: neither version nor `updated_at` moves, since handing a record over is no edit of it."""
        table = self.tables[resource.name]
        table.take(row)
        now = stamp(self.now_ms())
        row.data = {**row.data, "exported": 1, "exported_at": now, "exported_version": row.data["version"]}
        table.put(row)

    def export_again(self, resource: Resource, row: Row, fields: dict[str, Any], writer: Writer) -> Done:
        """Let a record be pulled once more, as a worker does after mending it: an edit, with a new version."""
        fresh = {"exported": 0, "erp_import_status": None, "erp_import_error": None}
        return self.update(resource, row, {**fields, **fresh}, writer)

    def delete(self, resource: Resource, row: Row, writer: Writer) -> Done:
        """Do what a delete means for this resource: disable, remove or refuse."""
        if resource.delete == "refuse":
            raise Problem(
                409,
                "delete_refused",
                f"{resource.name.capitalize()} are records of account and stay; change their status instead.",
            )
        if resource.delete == "disable":
            done = self.update(resource, row, {"status": 0}, writer)
            return Done("disabled", 200, done.data)
        return self.remove(resource, row)

    def remove(self, resource: Resource, row: Row) -> Done:
        """Take a record away for good; the list of deletions tells it."""
        at_ms = self.now_ms()
        self.tables[resource.name].take(row)
        told = {
            "resource": resource.name,
            "id": row.id,
            "external_ref": row.data["external_ref"],
            "number": row.data[resource.number] if resource.number else None,
            "version": row.data["version"] + 1,
            "deleted_at": stamp(at_ms),
        }
        self.deletions[resource.name].append(((at_ms, row.id), told))
        return Done("deleted", 200, row.data)

    def _postal(self, record: dict[str, Any], writer: Writer) -> list[Wrong]:
        return bad_postal_codes(record) if self.settings.validate_postal_code and not writer.user else []

    def _unique(self, resource: Resource, values: dict[str, Any], row: Row | None) -> None:
        for name in ("external_ref", resource.number):
            value = values.get(name) if name else None
            if name is None or value is None:
                continue
            other = self.tables[resource.name].one(name, value)
            if other is not None and other is not row:
                raise Problem(
                    409,
                    f"duplicate_{name}",
                    f"{resource.singular.capitalize()} {other.id} has this {name} already.",
                    errors=[Wrong(f"duplicate_{name}", name, "It must be unique; update the other record instead.")],
                    existing_id=other.id,
                )

    def _references(self, resource: Resource, values: dict[str, Any]) -> None:
        for name, other in resource.refers:
            number = RESOURCES[other].number
            assert number is not None
            value = values.get(name)
            if value is not None and self.tables[other].one(number, value) is None:
                singular = RESOURCES[other].singular
                raise Problem(
                    409,
                    f"unknown_{singular}",
                    f"There is no {singular} with {number} {value!r}; write it first, then send this again.",
                    errors=[Wrong(f"unknown_{singular}", name, f"It must be the {number} of a {singular}.")],
                )

    def _late(self, row: Row, resource: Resource, operation: str) -> None:
        fault = self._simulator.faults.take("late", operation, resource.name)
        if fault is not None:
            row.visible_ms = row.at_ms + int(float(fault.more.get("delay_s", self.settings.late_s)) * 1000)


def _sums(resource: Resource, data: dict[str, Any]) -> None:
    """Compute the amounts of an order that the shop computes."""
    if resource.name == "orders":
        subtotal = sum((Decimal(line["line_total"]) for line in data["lines"]), Decimal())
        extra = Decimal(data["shipping_amount"] or "0") + Decimal(data["tax_amount"] or "0")
        data["subtotal"], data["total"] = money(subtotal), money(subtotal + extra)
