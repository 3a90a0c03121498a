"""The verdict: does every system hold what the golden records say, and is every edit accounted for?

Independent of the product's own code for mapping and merging: systems are read through SQL views written by hand (sql/*.sql), edits
come from the diary of the simulated people, and only the topics that any consumer may read are believed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tidelock.demo.evidence import Evidence, Letter, text
from tidelock.demo.users import Edit


@dataclass(frozen=True)
class Check:
    """What a system must hold of an entity. ``only``, ``but``: (field, value) a record must have, or must not have, to get there; ``off``: how it looks when disabled."""

    fields: tuple[str, ...]
    only: tuple[str, str] | None = None
    but: tuple[str, str] | None = None
    off: tuple[str, str] | None = None
    cut: dict[str, int] = field(default_factory=dict)


_CONTACT = ("email", "first_name", "last_name", "phone", "country", "birthday", "status", "credit_limit", "account")
_PORTAL = ("email", "first_name", "last_name", "phone", "country")
_ACCOUNT = ("number", "name", "country", "industry", "balance")
_ORDER = ("number", "account_no", "ordered_on", "status", "total", "note")
_LINE = ("order_no", "line_no", "sku", "quantity", "price")
_STOCK = ("sku", "quantity", "reorder_level")
_USER = ("login", "name", "email", "role")
CHECKS: dict[tuple[str, str], Check] = {
    ("crm", "account"): Check(_ACCOUNT),
    ("erp", "account"): Check(_ACCOUNT),
    ("legacy", "account"): Check(("number", "name", "country"), off=("closed", "true")),
    ("store", "account"): Check(_ACCOUNT),
    ("crm", "contact"): Check((*_CONTACT, "newsletter")),
    ("erp", "contact"): Check(_CONTACT, only=("status", "active"), off=("status", "inactive")),
    ("store", "contact"): Check((*_CONTACT, "newsletter")),
    ("salesforce/us", "contact"): Check(_PORTAL, only=("country", "USA")),
    ("salesforce/world", "contact"): Check(_PORTAL, but=("country", "USA")),
    ("hubspot", "contact"): Check(_PORTAL),
    ("partner", "contact"): Check(_PORTAL),
    ("dynamics", "contact"): Check(_PORTAL),
    ("shop", "contact"): Check((*_PORTAL, "status"), only=("status", "active"), off=("status", "inactive")),
    ("crm", "order"): Check(_ORDER),
    ("erp", "order"): Check(_ORDER, cut={"note": 40}),
    ("store", "order"): Check(_ORDER),
    ("crm", "order_line"): Check(_LINE),
    ("erp", "order_line"): Check(_LINE),
    ("store", "order_line"): Check(_LINE),
    ("crm", "inventory"): Check(_STOCK),
    ("erp", "inventory"): Check(_STOCK),
    ("store", "inventory"): Check(_STOCK),
    ("crm", "user"): Check(_USER),
    ("store", "user"): Check(_USER),
}
PORTALS = frozenset(("salesforce/us", "salesforce/world", "hubspot", "dynamics", "shop", "partner"))
TOLD_LATE_S = 10.0
# Systems that only give: system, entity, and the database whose view shows its rows. Every one of their rows must be linked.
SOURCES = (("legacy", "contact", "legacy"), ("directory", "user", "legacy"))


@dataclass(frozen=True)
class Mismatch:
    """Something that a system should hold and does not. ``why`` is empty if nothing explains it: then the run has failed."""

    system: str
    entity: str
    record: str
    field: str
    expected: str | None
    found: str | None
    why: str = ""


@dataclass
class Verdict:
    """The outcome, and how it was reached."""

    compared: int = 0
    records: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)

    @property
    def converged(self) -> bool:
        """Return whether every difference has a reason on record."""
        return self.compared > 0 and not any(not m.why for m in self.mismatches)

    @property
    def passed(self) -> bool:
        """Return whether the run is a success."""
        return self.converged and not self.lost


def verify(evidence: Evidence, edits: list[Edit], stock_before: dict[str, int]) -> Verdict:
    """Judge a run at rest."""
    verdict = Verdict(records=sum(1 for records in evidence.golden.values() for r in records.values() if r is not None))
    for (system, entity), check in CHECKS.items():
        verdict.mismatches += _compare(evidence, system, entity, check, verdict)
    for system, entity, database in SOURCES:
        for key in evidence.rows[database, entity]:
            if (system, key) not in evidence.links[entity]:
                verdict.mismatches.append(
                    Mismatch(
                        system,
                        entity,
                        key,
                        "(record)",
                        "linked",
                        "no link",
                        _reason(evidence.letter(system, entity, {key})),
                    )
                )
    _account_for(evidence, edits, verdict)
    _count_stock(evidence, edits, stock_before, verdict)
    return verdict


# ------------------------------------------------------------------------------------------------- system against golden record


def _compare(evidence: Evidence, system: str, entity: str, check: Check, verdict: Verdict) -> Iterator[Mismatch]:
    rows = evidence.rows[system, entity]
    linked: dict[str, list[str]] = defaultdict(list)
    for key in rows:
        cid = key if system == "store" else evidence.links[entity].get((system, key))
        if cid is None:
            letter = evidence.letter(system, entity, {key})
            yield Mismatch(system, entity, key, "(record)", "linked", "no link", _reason(letter))
        else:
            linked[cid].append(key)
    for cid, record in evidence.golden[entity].items():
        keys = linked.pop(cid, [])
        if len(keys) > 1:
            yield Mismatch(system, entity, cid, "(record)", "one row", f"{len(keys)} rows: {', '.join(keys)}")
        wanted = (
            record is not None
            and (check.only is None or text("", record.get(check.only[0])) == check.only[1])
            and (check.but is None or text("", record.get(check.but[0])) != check.but[1])
        )
        if not wanted:
            for key in keys:
                if check.off is None or rows[key].get(check.off[0]) != check.off[1]:
                    wish = "no row" if check.off is None else f"{check.off[0]} = {check.off[1]}"
                    yield Mismatch(
                        system,
                        entity,
                        cid,
                        "(record)",
                        wish,
                        "a row",
                        _reason(evidence.letter(system, entity, {cid, key})),
                    )
            continue
        assert record is not None
        if not keys:
            yield Mismatch(
                system, entity, cid, "(record)", "a row", "none", _reason(evidence.letter(system, entity, {cid}))
            )
        for key in keys:
            for name in check.fields:
                expected: str | None = evidence.spelt(record, name)
                found = text(name, rows[key].get(name))
                if expected is not None and name in check.cut:
                    expected = expected[: check.cut[name]]
                verdict.compared += 1
                if expected != found:
                    yield Mismatch(
                        system,
                        entity,
                        cid,
                        name,
                        expected,
                        found,
                        _why(evidence, system, entity, cid, key, name, found),
                    )
    for cid, keys in linked.items():
        yield Mismatch(system, entity, cid, "(record)", "a golden record", f"only the row {', '.join(keys)}")


def _why(evidence: Evidence, system: str, entity: str, cid: str, key: str, name: str, found: str | None) -> str:
    letter = evidence.letter(system, entity, {cid, key}, name)
    if letter is not None:
        return _reason(letter)
    if evidence.parked(cid, name):
        return "parked for a person"
    if (
        found is not None
        and found.startswith("?")
        and any(a["subject"] == cid and a["system"] == system for a in evidence.alerts)
    ):
        return "a spelling that nobody has mapped: reported, not overwritten"
    return ""


def _reason(letter: Letter | None) -> str:
    return "" if letter is None else f"dead letter ({letter.stage}, {letter.kind})"


# --------------------------------------------------------------------------------------------------------- every edit accounted for


def _account_for(evidence: Evidence, edits: list[Edit], verdict: Verdict) -> None:
    by_record: dict[tuple[str, str], list[Edit]] = defaultdict(list)
    for edit in edits:
        for cid in evidence.ever[edit.entity].get((edit.system, edit.key), ()):
            by_record[edit.entity, cid].append(edit)
        by_record[edit.entity, f"{edit.system}/{edit.key}"].append(edit)
    for edit in edits:
        if edit.op == "delta":
            continue
        fate = _fate(evidence, edit, by_record)
        verdict.fates[fate] += 1
        if fate == "lost":
            verdict.lost.append(
                {**asdict(edit), "now": [evidence.value(edit.entity, c, edit.field) for c in _cids(evidence, edit)]}
            )


def _cids(evidence: Evidence, edit: Edit) -> set[str]:
    return evidence.ever[edit.entity].get((edit.system, edit.key), set())


def _fate(evidence: Evidence, edit: Edit, by_record: dict[tuple[str, str], list[Edit]]) -> str:
    """Say what became of one edit; ``lost`` if nothing on record tells."""
    if not edit.accepted:
        return "not accepted, as configured"
    cids = _cids(evidence, edit)
    same_row = by_record[edit.entity, f"{edit.system}/{edit.key}"]
    if edit.op != "delete" and any(e.op == "delete" and e.number > edit.number for e in same_row):
        return "deleted later"
    if not cids:
        return "dead letter" if evidence.letter(edit.system, edit.entity, {edit.key}) else "lost"
    if edit.op == "delete":
        gone = all(evidence.golden[edit.entity].get(c) is None for c in cids)
        return "in the golden record" if gone or any(evidence.decided(c, "", None) for c in cids) else "lost"
    if edit.op == "create":
        alive = any(evidence.golden[edit.entity].get(c) is not None for c in cids)
        return "in the golden record" if alive or _deleted(cids, edit, by_record) else "lost"
    for cid in cids:
        if evidence.golden[edit.entity].get(cid) is not None and evidence.value(edit.entity, cid, edit.field) == text(
            edit.field, edit.value
        ):
            return "in the golden record"
    for cid in cids:
        others = by_record[edit.entity, cid]
        if any(
            e.field == edit.field
            and e.accepted
            and e.number != edit.number
            and e.ended >= edit.began
            and e.number > edit.number
            for e in others
        ):
            return "overwritten later"
    if _deleted(cids, edit, by_record):
        return "deleted later"
    if any(evidence.decided(c, edit.field, text(edit.field, edit.value)) for c in cids):
        return "lost to a recorded conflict"
    if any(evidence.parked(c, edit.field) for c in cids):
        return "parked"
    if evidence.letter(edit.system, edit.entity, {edit.key, *cids}):
        return "dead letter"
    if any(a["subject"] in cids and a["system"] == edit.system for a in evidence.alerts):
        return "parked"
    return "lost"


def _deleted(cids: set[str], edit: Edit, by_record: dict[tuple[str, str], list[Edit]]) -> bool:
    """Tell whether somebody deleted the record behind an edit, in the order in which the hub heard of them: a portal is asked only now and then,
    so its deletes are told later than they were made."""
    return any(
        e.op == "delete" and e.ended + (TOLD_LATE_S if e.system in PORTALS else 0.0) >= edit.began
        for c in cids
        for e in by_record[edit.entity, c]
    )


def _count_stock(evidence: Evidence, edits: list[Edit], before: dict[str, int], verdict: Verdict) -> None:
    """Check the counters: what was there, and everything that anybody booked in any system."""
    booked: dict[str, list[int]] = defaultdict(list)
    for edit in edits:
        if edit.op == "delta":
            booked[edit.field].append(int(edit.value or 0))
    now = {r["sku"]: r["quantity"] for r in evidence.golden["inventory"].values() if r is not None}
    for sku, amounts in booked.items():
        expected = before[sku] + sum(amounts)
        if now.get(sku) == expected:
            verdict.fates["in the golden record"] += len(amounts)
        else:
            verdict.fates["lost"] += 1
            verdict.lost.append(
                {
                    "entity": "inventory",
                    "key": sku,
                    "op": "delta",
                    "before": before[sku],
                    "booked": amounts,
                    "expected": expected,
                    "now": now.get(sku),
                }
            )
