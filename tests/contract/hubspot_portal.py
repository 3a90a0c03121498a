"""A simulated portal of HubSpot as a subject of the contracts of API connectors, and what a person does there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from producers.hubspot import HubSpotSource
from simulators.server import Running
from sinks.hubspot import HubSpotSink
from tests.contract.simulated import Simulated

NAMES = {"name": "firstname"}
TABLE = {
    "table": "contacts",
    "canonical_id": "tidelock_id",
    "map": [{"column": "email", "field": "email"}, {"column": "firstname", "field": "name"}],
}


class HubSpotSubject(Simulated):
    """A simulated portal."""

    kind = "hubspot"
    make_source = HubSpotSource
    make_sink = HubSpotSink

    def __init__(
        self,
        running: Running,
        data: Path,
        *,
        oauth: bool = False,
        table: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        given = running.ready["credentials"]
        names = ("client_id", "client_secret", "refresh_token")
        credentials = {n: given[n] for n in names} if oauth else {"token": given["private_token"]}
        # The connector's own limits are tested elsewhere; here they would only take time.
        options = {"rate": [10_000, 1], "searches_per_s": 1000, "bin_every_s": 0, **options}
        super().__init__(running, data, table or TABLE, credentials, options=options)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands there and is not in the bin."""
        return {
            r["id"]: {"email": r["properties"].get("email"), "name": r["properties"].get("firstname")}
            for r in self.held("contacts")
            if not r["archived"]
        }

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Make contacts."""
        return self.load("contacts", [_own(p) for p in people])

    def edit_there(self, key: str, **values: Any) -> None:
        """Change a contact."""
        self.done("edit/contacts", [{"id": key, **_own(values)}])

    def delete_there(self, key: str) -> None:
        """Put a contact into the bin."""
        self.done("delete/contacts", [key])

    def merge_there(self, primary: str, other: str) -> str:
        """Merge two contacts, and return the id of what is left."""
        return str(self.done("merge/contacts", {"primary": primary, "other": other})["id"])

    def settle(self) -> None:
        """Let searches catch up."""
        self.advance(2.0)

    def revoke(self) -> None:
        """Disconnect the app."""
        self.done("revoke", {})

    def done(self, what: str, body: Any) -> Any:
        """Do something by a control path."""
        got = self.control.post(f"/{what}", json=body)
        assert got.status_code == 200, got.text
        return got.json()

    def counted(self, before: Mapping[str, int]) -> dict[str, int]:
        """Return how often which call was made since then, by the end of its path."""
        out: dict[str, int] = {}
        for what, n in self.calls().items():
            if n > before.get(what, 0):
                path = what.split()[1]
                out[path] = out.get(path, 0) + n - before.get(what, 0)
        return out


def _own(values: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(n, n): v for n, v in values.items()}
