"""The property definitions, groups, pipelines and owners of one portal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulators.hubspot.definitions import GROUPS, Definition, built_in, options_of
from simulators.hubspot.kinds import KINDS, Kind
from simulators.hubspot.moments import spelt

_BORN = spelt(1_567_296_000_000)
MOST_UNIQUE = 10
"""How many unique properties of its own a kind may have."""


def _stages(*stages: tuple[str, str, dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "label": label,
            "displayOrder": n,
            "metadata": metadata,
            "id": number,
            "createdAt": _BORN,
            "updatedAt": _BORN,
            "archived": False,
            "writePermissions": "CRM_PERMISSIONS_ENFORCEMENT",
        }
        for n, (number, label, metadata) in enumerate(stages)
    ]


def _pipeline(number: str, label: str, stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "label": label,
        "displayOrder": 0,
        "id": number,
        "stages": stages,
        "createdAt": _BORN,
        "updatedAt": _BORN,
        "archived": False,
    }


def _deal_stage(number: str, label: str, probability: str) -> tuple[str, str, dict[str, str]]:
    closed = "true" if probability in ("1.0", "0.0") else "false"
    return number, label, {"isClosed": closed, "probability": probability}


def pipelines() -> dict[str, list[dict[str, Any]]]:
    """Return the pipelines that a new portal has, by kind."""
    return {
        "deals": [
            _pipeline(
                "default",
                "Sales Pipeline",
                _stages(
                    _deal_stage("appointmentscheduled", "Appointment Scheduled", "0.2"),
                    _deal_stage("qualifiedtobuy", "Qualified To Buy", "0.4"),
                    _deal_stage("presentationscheduled", "Presentation Scheduled", "0.6"),
                    _deal_stage("decisionmakerboughtin", "Decision Maker Bought-In", "0.8"),
                    _deal_stage("contractsent", "Contract Sent", "0.9"),
                    _deal_stage("closedwon", "Closed Won", "1.0"),
                    _deal_stage("closedlost", "Closed Lost", "0.0"),
                ),
            )
        ],
        "tickets": [
            _pipeline(
                "0",
                "Support Pipeline",
                _stages(
                    ("1", "New", {"ticketState": "OPEN"}),
                    ("2", "Waiting on contact", {"ticketState": "OPEN"}),
                    ("3", "Waiting on us", {"ticketState": "OPEN"}),
                    ("4", "Closed", {"ticketState": "CLOSED"}),
                ),
            )
        ],
    }


def owners() -> list[dict[str, Any]]:
    """Return the people of a new portal."""
    people = [("Ada", "Keller"), ("Bruno", "Marin"), ("Chioma", "Obi")]
    return [
        {
            "id": str(41_629_779 + n),
            "email": f"{first.lower()}@example.com",
            "type": "PERSON",
            "firstName": first,
            "lastName": last,
            "userId": 9_586_504 + n,
            "userIdIncludingInactive": 9_586_504 + n,
            "createdAt": _BORN,
            "updatedAt": _BORN,
            "archived": False,
            "teams": [],
        }
        for n, (first, last) in enumerate(people)
    ]


class Schema:
    """What a portal's records are made of."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.pipelines = pipelines()
        self.owners = owners()
        self.owner_ids = frozenset(str(o["id"]) for o in self.owners)
        self.definitions: dict[str, dict[str, Definition]] = {k.name: built_in(k.name, k.modified) for k in KINDS}
        self.groups: dict[str, dict[str, dict[str, Any]]] = {
            kind.name: {
                name: {"name": name, "label": label, "displayOrder": n, "archived": False}
                for n, (name, label) in enumerate(GROUPS[kind.name])
            }
            for kind in KINDS
        }
        for kind, (pipeline, stage) in {
            "deals": ("pipeline", "dealstage"),
            "tickets": ("hs_pipeline", "hs_pipeline_stage"),
        }.items():
            self._allow(kind, pipeline, [p["id"] for p in self.pipelines[kind]])
            self._allow(kind, stage, [s["id"] for p in self.pipelines[kind] for s in p["stages"]])

    def of(self, kind: Kind) -> dict[str, Definition]:
        """Return the definitions of a kind, archived ones included."""
        return self.definitions[kind.name]

    def living(self, kind: Kind, name: str) -> Definition | None:
        """Return the definition that records may use, None if there is none."""
        definition = self.definitions[kind.name].get(name)
        return definition if definition is not None and definition.archived_ms is None else None

    def unique(self, kind: Kind) -> list[Definition]:
        """Return the unique properties of a kind that somebody has made."""
        return [d for d in self.of(kind).values() if d.unique and d.archived_ms is None]

    def _allow(self, kind: str, name: str, values: list[str]) -> None:
        definition = self.definitions[kind][name]
        definition.options = options_of(*values)
        definition.allow()
