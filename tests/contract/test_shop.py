"""The shop's connector against its simulator: the contracts, the hand-over of orders, batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from producers.shop import ShopSource
from producers.source import Source, Task
from simulators.server import Running
from simulators.shop import ShopSimulator
from sinks.base import Sink
from sinks.shop import ShopSink
from tests.contract.api_contract import ApiSubject, SourceContract, TargetContract, drain
from tests.contract.simulated import Simulated
from tidelock.config import TableSpec
from tidelock.envelopes import APPLIED
from tidelock.errors import Lost

TABLE = {
    "table": "customers",
    "canonical_id": "external_ref",
    "map": [
        {"column": "email", "field": "email"},
        {"column": "last_name", "field": "name"},
        {"column": "country", "constant": "USA"},
    ],
}
NAMES = {"name": "first_name"}


class ShopSubject(Simulated):
    """A simulated shop; the contract's name is the first name, which may be empty."""

    kind = "shop"
    make_source = ShopSource
    make_sink = ShopSink

    def __init__(self, running: Running, data: Path, **options: Any) -> None:
        table = {**TABLE, "map": [*TABLE["map"], {"column": "first_name", "field": "score"}]}
        super().__init__(running, data, table, {"api_key": running.ready["credentials"]["api_key"]}, options=options)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return what stands there and is not disabled."""
        return {
            str(r["id"]): {"email": r["email"], "name": r["first_name"]}
            for r in self.held("customers")
            if r["status"] != 0 and not r.get("deleted")
        }

    def create_there(self, people: Sequence[dict[str, Any]]) -> list[str]:
        """Make customers."""
        return self.load(
            "customers",
            [
                {"last_name": "Person", "country": "USA", "email": f"nobody{n}@example.com", **_own(p)}
                for n, p in enumerate(people)
            ],
        )

    def edit_there(self, key: str, **values: Any) -> None:
        """Change a customer."""
        assert self.control.post("/edit/customers", json=[{"id": int(key), **_own(values)}]).status_code == 200

    def delete_there(self, key: str) -> None:
        """Remove a customer for good."""
        assert self.control.post("/delete/customers", json=[int(key)]).status_code == 200

    def settle(self) -> None:
        """What is written in the shop is listed at once."""

    def revoke(self) -> None:
        """Revoke the key."""
        assert self.control.post("/revoke", json={"what": "api_key"}).status_code == 200


def _own(values: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(n, n): v for n, v in values.items()}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopSubject]:
    options: dict[str, Any] = {"limit": "0", "batch_delay_s": "0"}
    with Running(ShopSimulator(**options)) as running:
        subject = ShopSubject(running, tmp_path)
        yield subject
        subject.close()


class TestSource(SourceContract):
    """What every source does."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    MANY: ClassVar[int] = 520
    EMPTY: ClassVar[str] = "name"

    @pytest.fixture
    def subject(self, shop: ShopSubject) -> ApiSubject:
        """Return the shop."""
        return shop


class TestTarget(TargetContract):
    """What every target does."""

    NAMES: ClassVar[dict[str, str]] = NAMES
    UNIQUE_EMAIL: ClassVar[bool] = False
    CREATE_PATH: ClassVar[str] = "/customers$"

    def write(self, who: object, op: str = "update", key: object = None, version: int = 1, /, **columns: Any) -> Any:
        """Make a write; a customer has to have a last name and a country."""
        more = {"last_name": "Person", "country": "USA"} if op == "create" else {}
        return super().write(who, op, key, version, **columns, **more)

    @pytest.fixture
    def subject(self, shop: ShopSubject) -> ApiSubject:
        """Return the shop."""
        return shop

    def test_a_number_that_is_written_as_text_is_no_other_value(self, sink: Sink, shop: ShopSubject) -> None:
        """A value map writes texts; the shop keeps numbers, and what is told of them must not change their type."""
        (receipt,) = self.done(sink, [self.write("a", "create", email="a@example.com", name="A", status="1")])
        assert receipt.values == {}
        key = receipt.native_key
        (receipt,) = self.done(sink, [self.write("a", "update", key, 2, status=("0", "0"))])
        assert (receipt.refused, receipt.values) == (("status",), {"status": b"\x02\x021"})
        (receipt,) = self.done(sink, [self.write("a", "update", key, 3, status=("0", "1"))])
        assert (receipt.outcome, receipt.refused, receipt.values) == (APPLIED, (), {})

    def test_batches_are_used_where_there_are_many_and_take_few_calls(self, sink: Sink, shop: ShopSubject) -> None:
        self.done(sink, [self.write(f"w{n}", "create", email=f"w{n}@example.com", name=f"n{n}") for n in range(1000)])
        assert len(shop.rows()) == 1000
        writing = {c: n for c, n in shop.calls().items() if "POST" in c}
        assert sum(writing.values()) == 1, writing

    def test_a_batch_that_takes_too_long_is_asked_for_again_and_done_once(
        self, sink: Sink, shop: ShopSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sinks.shop._PATIENCE_S", 0.0)
        shop.fault(kind="stuck_batch")
        batch = [self.write(f"w{n}", "create", email=f"w{n}@example.com", name=f"n{n}") for n in range(60)]
        with pytest.raises(Lost):
            self.done(sink, batch)
        assert shop.control.post("/batches/release", json={}).status_code == 200
        monkeypatch.setattr("sinks.shop._PATIENCE_S", 30.0)
        assert {r.outcome for r in self.done(sink, batch)} == {APPLIED}
        assert len(shop.rows()) == 60


class TestHandOver:
    """New transactions: pulled while they are not exported, marked when they are in Kafka, never lost and never doubled."""

    def order(self, shop: ShopSubject, **more: Any) -> str:
        """Let a customer order something."""
        lines = [{"sku": "A-1", "quantity": 1, "unit_price": "9.50"}]
        return shop.load("orders", [{"currency": "USD", "ship_country": "USA", "lines": lines, **more}])[0]

    @pytest.fixture
    def task(self, shop: ShopSubject) -> tuple[Source, Task]:
        """Return a source and the task of reading orders."""
        table = TableSpec.model_validate(
            {
                "table": "orders",
                "map": [
                    {"column": "order_number", "field": "email"},
                    {"column": "total", "field": "name"},
                    {"column": "erp_import_status", "field": "score"},
                ],
            }
        )
        source = shop.source()
        columns = source.columns(table)
        return source, Task(
            "order", table, {n: columns[n] for n in ("id", "order_number", "total", "erp_import_status")}
        )

    def test_an_order_is_marked_only_when_it_is_in_kafka(self, shop: ShopSubject, task: tuple[Source, Task]) -> None:
        source, orders = task
        key = self.order(shop)
        pages = source.run(
            orders,
            "poll",
            {"updated_at": "1970-01-01T00:00:00.000Z", "id": 0, "deleted_at": "1970-01-01T00:00:00.000Z"},
        )
        told: list[str] = []
        for page in pages:
            told += [r.key for r in page.records]
            if told.count(key) == 1:
                assert shop.held("orders")[0]["exported"] != 1, "marked before anybody has it"
        assert key in told
        assert shop.held("orders")[0]["exported"] == 1
        pages.close()  # type: ignore[attr-defined]

    def test_an_order_that_is_edited_before_it_is_marked_stays_on_offer(
        self, shop: ShopSubject, task: tuple[Source, Task]
    ) -> None:
        source, orders = task
        key = self.order(shop)
        _, cursor, _ = drain(source.run(orders, "poll", None))
        pages = source.run(orders, "poll", cursor)
        for page in pages:
            if any(r.key == key for r in page.records):
                break
        assert shop.control.post("/edit/orders", json=[{"id": int(key), "comments": "ring twice"}]).status_code == 200
        list(pages)
        assert shop.held("orders")[0]["exported"] != 1
        again, _, _ = drain(source.run(orders, "poll", cursor))
        assert shop.held("orders")[0]["exported"] == 1
        assert {r.version for r in again if r.key == key} == {(2, 0)}

    def test_an_order_that_is_exported_again_is_told_with_a_new_version_and_the_same_number(
        self, shop: ShopSubject, task: tuple[Source, Task]
    ) -> None:
        """S26: the importer finds it by its number, so nothing is doubled."""
        source, orders = task
        key = self.order(shop)
        first, cursor, _ = drain(
            source.run(
                orders,
                "poll",
                {"updated_at": "1970-01-01T00:00:00.000Z", "id": 0, "deleted_at": "1970-01-01T00:00:00.000Z"},
            )
        )
        assert shop.control.post("/export-again/orders", json=[int(key)]).status_code == 200
        again, _, _ = drain(source.run(orders, "poll", cursor))
        old, new = (next(r for r in told if r.key == key) for told in (first, again))
        assert new.version > old.version
        assert new.values["order_number"] == old.values["order_number"]
        assert shop.held("orders")[0]["exported"] == 1
