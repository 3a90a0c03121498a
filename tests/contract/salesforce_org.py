"""A simulated Salesforce org as a subject of the contracts, with people as records of a custom object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from producers.salesforce import SalesforceSource
from simulators.server import Running
from sinks.salesforce import SalesforceSink
from tests.contract.simulated import Simulated

OBJECT = "Person__c"
FIELDS = [
    {"name": "Email__c", "type": "email", "length": 80, "unique": True},
    {"name": "Title__c", "type": "string", "length": 80},
]
NAMES = {"email": "Email__c", "name": "Title__c"}
TABLE = {
    "table": OBJECT,
    "canonical_id": "Tidelock_Id__c",
    "map": [{"column": "Email__c", "field": "email"}, {"column": "Title__c", "field": "name"}],
}
GRANTS = {
    "refresh_token": ("client_id", "client_secret", "refresh_token"),
    "client_credentials": ("client_id", "client_secret"),
    "jwt": ("client_id", "username", "private_key"),
}


class SalesforceSubject(Simulated):
    """One org."""

    kind = "salesforce"
    make_source = SalesforceSource
    make_sink = SalesforceSink

    def __init__(
        self,
        running: Running,
        data: Path,
        *,
        grant: str = "refresh_token",
        capture: str | None = None,
        table: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        credentials = {name: running.ready["credentials"][name] for name in GRANTS[grant]}
        given = {"listen_s": 0.2, **options}
        super().__init__(running, data, table or TABLE, credentials, options=given, capture=capture)
        self.control_post("/objects", {"name": OBJECT, "fields": FIELDS})

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the people that are not in the Recycle Bin."""
        return {
            r["Id"]: {"email": r["Email__c"], "name": r["Title__c"]} for r in self.held(OBJECT) if not r["IsDeleted"]
        }

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Make people."""
        return self.load(OBJECT, [_own(p) for p in people])

    def edit_there(self, key: str, **values: Any) -> None:
        """Change a person."""
        self.control_post(f"/edit/{OBJECT}", [{"id": key, **_own(values)}])

    def delete_there(self, key: str) -> None:
        """Put a person into the Recycle Bin."""
        self.control_post(f"/delete/{OBJECT}", [key])

    def settle(self) -> None:
        """Let so much time pass that windows of whole minutes hold what was done."""
        self.advance(130.0)

    def revoke(self) -> None:
        """End all grants, and let no application sign in again."""
        self.control_post("/tokens/revoke", {})
        self.fault(kind="revoke", times=None)

    def control_post(self, path: str, body: Any) -> Any:
        """Call the control API."""
        got = self.control.post(path, json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def forget_calls(self) -> None:
        """Count calls from here on."""
        self.control.delete("/calls")

    def counted(self) -> dict[str, int]:
        """Return the calls that count against the org's limit, by method and path."""
        return {c: n for c, n in self.calls().items() if "/services/data/v" in c}


def _own(values: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(n, n): v for n, v in values.items()}
