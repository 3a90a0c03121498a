"""The SQL of capture by triggers, as far as it shows without a server."""

from __future__ import annotations

import pytest

from producers.outbox import OutboxProducer
from producers.outbox_sql import Captured, install_sql, remove_sql
from tests.captures import config_of
from tidelock.errors import Fatal


def test_every_object_that_is_installed_is_removed() -> None:
    table = Captured("public", "customer", ("id",))
    made, removed = install_sql([table]), remove_sql([table])
    for name in (
        "tidelock_capture",
        "tidelock_wake",
        "tidelock_truncate",
        table.function,
        "record",
        "wake",
        "queue",
        "archive",
    ):
        assert name in made
        assert name in removed


def test_names_are_quoted_and_functions_fit_into_63_characters() -> None:
    table = Captured("Odd", 'na"me' + "x" * 60, ("Key",))
    assert '"Odd"."na""me' in install_sql([table])
    assert len(table.function) <= 63
    assert Captured("public", "y" * 50, ("a",)).function != Captured("other", "y" * 50, ("a",)).function


def test_only_systems_captured_by_triggers_have_a_script() -> None:
    config = config_of("outbox", "postgresql://nowhere/db", {"table": "customer"})
    assert "trigger" in OutboxProducer.script(config, "erp")
    with pytest.raises(Fatal, match="no system nobody"):
        OutboxProducer.script(config, "nobody")
    polled = config_of("polling", "postgresql://nowhere/db", {"table": "customer", "modified": "at"})
    with pytest.raises(Fatal, match="not captured by triggers"):
        OutboxProducer.script(polled, "erp")
