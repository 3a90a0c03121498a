"""References between records of systems with several tenants: a key means a record only together with the tenant that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sinks.references import Referencing, text_of
from tests.sinking import ENTITIES, value, write
from tidelock.config import Config
from tidelock.envelopes import APPLIED, REJECTED, Receipt, Write

TABLES = {
    "contact": {"table": "contact", "map": [{"column": "email", "field": "email"}]},
    "order": {"table": "orders", "map": [{"column": "contact_id", "field": "contact"}]},
}
CONFIG = Config.model_validate(
    {
        "systems": {
            "crm": {"dsn": "postgresql://h/d", "entities": TABLES},
            "erp": {"kind": "saas", "capture": "saas", "tenants": {"north": {}, "default": {}}, "entities": TABLES},
        },
        "entities": ENTITIES,
        "flows": [{"entity": "order", "from": "crm", "to": "erp"}],
    }
)


LINKS = {
    ("crm", "default", "1"): "ann", ("erp", "north", "7"): "ann", ("erp", "default", "8"): "ann",
    ("crm", "default", "2"): "bob", ("erp", "default", "7"): "bob",
}  # fmt: skip


class View:
    """Links: two contacts, each known by the same number in two tenants."""

    def refresh(self, wait_s: float) -> int:
        return 0

    def canonical_id(self, system: str, tenant: str, key: str) -> str | None:
        return LINKS.get((system, tenant, key))

    def native_key(self, cid: str, system: str, tenant: str) -> str | None:
        return next((k for (s, t, k), c in LINKS.items() if (c, s, t) == (cid, system, tenant)), None)


class Sink:
    """Remember what was written."""

    def __init__(self) -> None:
        self.wrote: list[Write] = []

    def setup(self) -> None: ...

    def close(self) -> None: ...

    def write(self, batch: Sequence[Write]) -> list[Receipt]:
        self.wrote += batch
        return [Receipt(w.canonical_id, w.version, APPLIED, w.native_key) for w in batch]


@pytest.mark.parametrize(
    ("reference", "tenant", "key"),
    [
        ("crm:1", "north", "7"),
        ("crm:1", "default", "8"),
        ("crm:2", "default", "7"),
        ("erp/default:8", "north", "7"),
        ("erp/north:7", "north", "7"),
        ("erp/north:7", "default", "8"),
        ("erp/default:7", "default", "7"),
        ("erp:8", "north", "7"),  # from before the system had several: its tenant had no name but the default
        ("http://x:80/1", "north", "http://x:80/1"),
    ],
)
def test_a_reference_is_resolved_for_the_tenant_that_is_written(reference: str, tenant: str, key: str) -> None:
    sink = Sink()
    order = replace(write("o", "create", entity="order", contact_id=reference), tenant=tenant)
    (receipt,) = Referencing(sink, CONFIG, "erp", lambda _: View()).write([order])  # type: ignore[arg-type, return-value]
    assert receipt.outcome == APPLIED
    assert text_of(sink.wrote[0].columns["contact_id"][0]) == key


@pytest.mark.parametrize("reference", ["crm:2", "erp/default:7", "erp/gone:7"])
def test_a_parent_that_the_tenant_does_not_have_yet_is_waited_for(reference: str) -> None:
    sink: Any = Sink()
    order = replace(write("o", "create", entity="order", contact_id=reference), tenant="north")
    (receipt,) = Referencing(sink, CONFIG, "erp", lambda _: View()).write([order])  # type: ignore[arg-type, return-value]
    assert (receipt.outcome, receipt.kind) == (REJECTED, "missing_parent")
    assert receipt.message is not None
    assert receipt.message.endswith("which is not in erp/north yet")
    assert sink.wrote == []
    assert order.columns["contact_id"][0] == value(reference)
