"""A tenant whose system is a simulator, as a subject of the contracts of API connectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx

from producers.apirows import wanted
from producers.source import Source, Task
from simulators.server import Running
from sinks.base import Sink
from tests.sinking import ENTITIES, SYSTEM
from tidelock.codec import Codec
from tidelock.config import Config
from tidelock.context import Context
from tidelock.kafka import KafkaClients
from tidelock.registry import Registry

NOWHERE = "127.0.0.1:9"


class Simulated:
    """Contacts of one simulated tenant. A connector's test gives the rest of `tests.contract.api_contract.ApiSubject`."""

    kind: ClassVar[str]
    """The kind of system, by which source and sink are found."""
    make_source: ClassVar[Callable[..., Source]]
    make_sink: ClassVar[Callable[..., Sink]]

    def __init__(
        self,
        running: Running,
        data: Path,
        table: Mapping[str, Any],
        credentials: Mapping[str, str],
        *,
        options: Mapping[str, Any] | None = None,
        capture: str | None = None,
    ) -> None:
        self.running = running
        self.control = httpx.Client(base_url=f"{running.http}/_control", timeout=60.0)
        config = Config.model_validate(
            {
                "data": str(data),
                "systems": {
                    SYSTEM: {
                        "kind": self.kind,
                        "capture": self.kind if capture is None else capture,
                        "url": running.http,
                        "credentials": dict(credentials),
                        "options": {"delete_wait_s": 0, **(options or {})},
                        "entities": {"contact": dict(table)},
                    },
                    "crm": {
                        "capture": "replication",
                        "entities": {"contact": {"table": "contact", "map": table["map"]}},
                    },
                },
                "entities": ENTITIES,
                "flows": [{"entity": "contact", "from": "crm", "to": SYSTEM}],
            }
        )
        self.context = Context(config, KafkaClients(NOWHERE), Codec(Registry(f"http://{NOWHERE}")), f"sink.{SYSTEM}")
        # The tenants are those of the file, and tokens are this process's own: no database takes part.
        self.context.access.central = None
        self.context.access.tenants.central = None
        self.tenant = self.context.access.tenants.get(SYSTEM, "default")
        self.table = config.systems[SYSTEM].entities["contact"]

    def close(self) -> None:
        """Close connections."""
        self.control.close()
        self.context.access.close()

    def sink(self) -> Sink:
        """Make a sink."""
        return type(self).make_sink(self.context, SYSTEM)

    def source(self) -> Source:
        """Make a source."""
        return type(self).make_source(self.context, self.tenant)

    def task(self, source: Source) -> Task:
        """Return the task of reading contacts."""
        columns = source.columns(self.table)
        return Task("contact", self.table, {n: columns[n] for n in wanted(self.table)})

    def fault(self, **fault: Any) -> None:
        """Order a fault."""
        got = self.control.post("/faults", json=fault)
        assert got.status_code == 200, got.text

    def interrupted(self) -> Callable[[], None]:
        """Let every call fail until it is taken back."""
        self.fault(kind="refused", times=None)

        def restore() -> None:
            self.control.delete("/faults", params={"kind": "refused"})

        return restore

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        """Put records there as a user would, and return their ids."""
        got = self.control.post(f"/load/{kind}", json=records)
        assert got.status_code == 200, got.text
        return [str(i) for i in got.json()["ids"]]

    def held(self, kind: str) -> list[dict[str, Any]]:
        """Return all records of a kind, as the simulator has them."""
        got = self.control.get(f"/records/{kind}")
        assert got.status_code == 200, got.text
        return list(got.json())

    def advance(self, seconds: float) -> None:
        """Put the simulator's clock forward."""
        self.control.post("/clock", json={"advance_s": seconds})

    def calls(self) -> dict[str, int]:
        """Return how often which call was made."""
        counts: dict[str, int] = self.control.get("/calls", params={"last": 0}).json()["counts"]
        return {what: n for what, n in counts.items() if "/" in what}  # a vendor's simulator counts more than requests
