"""Duplicate rules: what looks like a record that is there already is refused, or allowed when the client says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulators.salesforce.errors import Refusal
from simulators.salesforce.org import Org, Rule
from simulators.salesforce.tables import Row, Table

if TYPE_CHECKING:
    from simulators.salesforce.unit import Actor

SPELLINGS = ("auto", "duplicateResut", "duplicateResult")
_MISSPELT_UNTIL = 51


def spelling(option: str, version: int) -> str:
    """Return the key under which answers of this version tell the duplicates; old ones misspell it."""
    if option != "auto":
        return option
    return "duplicateResut" if version <= _MISSPELT_UNTIL else "duplicateResult"


def check(org: Org, actor: Actor, table: Table, row: Row, old: Row | None) -> None:
    """Hold a record against the rules of its object. Raises Refusal (DUPLICATES_DETECTED)."""
    for rule in org.rules:
        if rule.kind != table.kind.name or (old is not None and all(old.get(f) == row.get(f) for f in rule.fields)):
            continue
        if rule.action == "alert" and actor.allow_save:
            continue
        if found := _matches(table, rule, row):
            allow = rule.action == "alert"
            raise Refusal(
                "DUPLICATES_DETECTED",
                "Use one of these records?",
                more={actor.duplicate_key: _told(table, rule, found, allow, actor)},
            )


def _matches(table: Table, rule: Rule, row: Row) -> list[Row]:
    first = rule.fields[0]
    if any(row.get(f) is None for f in rule.fields):
        return []
    out = []
    for id_ in table.with_value(first, row[first]):
        other = table.rows[id_]
        if other["IsDeleted"] or id_ == row.get("Id"):
            continue
        if all(str(other.get(f)).lower() == str(row[f]).lower() for f in rule.fields):
            out.append(other)
    return out


def _told(table: Table, rule: Rule, found: list[Row], allow: bool, actor: Actor) -> dict[str, Any]:
    kind = table.kind
    records = []
    for row in found:
        record: dict[str, Any] = {
            "attributes": {
                "type": kind.name,
                "url": f"/services/data/v{actor.version}.0/sobjects/{kind.name}/{row['Id']}",
            },
            "Id": row["Id"],
        }
        if actor.details:
            record |= {name: row.get(name) for name in (kind.name_field, *rule.fields)}
        records.append({"additionalInformation": [], "fieldDiffs": [], "matchConfidence": 100.0, "record": record})
    return {
        "allowSave": allow,
        "duplicateRule": rule.name,
        "duplicateRuleEntityType": kind.name,
        "errorMessage": "Use one of these records?",
        "matchResults": [
            {
                "entityType": kind.name,
                "errors": [],
                "matchEngine": "ExactMatchEngine",
                "matchRecords": records,
                "rule": f"{rule.name}_Match",
                "size": len(records),
                "success": True,
            }
        ],
    }
