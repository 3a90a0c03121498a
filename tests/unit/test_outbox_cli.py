"""`tidelock outbox`, as far as it shows without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.captures import config_of
from tidelock.cli import outbox
from tidelock.errors import Fatal


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration with a system captured by triggers."""
    whole = config_of("outbox", "postgresql://nowhere/db", {"table": "contact"}, data=tmp_path)
    content = whole.model_dump(mode="json", exclude_unset=True, by_alias=True)
    for system in content["systems"].values():
        system["dsn"] = "postgresql://nobody@127.0.0.1:1/db"
    path = tmp_path / "tidelock.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(("command", "words"), [("install", "create trigger"), ("remove", "drop trigger")])
def test_a_dry_run_prints_the_sql_and_needs_no_server(config: Path, command: str, words: str) -> None:
    done = CliRunner().invoke(outbox.app, [command, "erp", "--dry-run", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert words in done.output.replace("create or replace trigger", "create trigger")


def test_another_system_is_refused_with_the_names_that_would_do(config: Path) -> None:
    done = CliRunner().invoke(outbox.app, ["install", "crm", "--dry-run", "--config", str(config)])
    assert isinstance(done.exception, Fatal)
    assert "erp" in str(done.exception)
