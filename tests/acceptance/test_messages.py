"""What people are told when something is wrong: what happened, where, and what to do next; and the exit code for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fix_installation import Installation
from tests.patience import DEADLINE_S

pytestmark = pytest.mark.stack
FAILED, PROBLEMS = 1, 3


def told(at: Installation, text: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with another configuration; return how it ended."""
    file = folder / "tidelock.yaml"
    file.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "tidelock", *command, "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=os.environ | {"COLUMNS": "400", "NO_COLOR": "1"},
        cwd=folder,
        check=False,
    )


def finding(done: subprocess.CompletedProcess[str], where: str) -> dict[str, str]:
    """Return what `check --json` says of one place, which must be an error."""
    assert done.returncode == PROBLEMS, (done.returncode, done.stdout, done.stderr)
    found: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
    (one,) = [f for f in found if f["level"] == "error"]
    assert one["where"] == where
    assert any(f["level"] == "ok" for f in found), "the other places are looked at all the same"
    return one


def test_a_wrong_password_is_named_with_the_system_and_never_shown(installation: Installation, tmp_path: Path) -> None:
    at = installation
    right = at.dsn["erp"]
    wrong = right.replace(f":{urlsplit(right).password}@", ":no-such-secret@")
    done = told(at, at.config.read_text().replace(right, wrong), tmp_path, "check", "--json")
    one = finding(done, "systems.erp.dsn")
    assert "password authentication failed" in one["message"]
    assert "password" in one["hint"]
    assert "dsn" in one["hint"]
    assert "no-such-secret" not in done.stdout + done.stderr


def test_a_database_that_does_not_answer_is_named_with_its_address(installation: Installation, tmp_path: Path) -> None:
    at = installation
    right = at.dsn["crm"]
    text = at.config.read_text().replace(right, right.replace(f":{urlsplit(right).port}/", ":1/"))
    one = finding(told(at, text, tmp_path, "check", "--json"), "systems.crm.dsn")
    assert "127.0.0.1" in one["message"]
    assert "port 1" in one["message"]
    assert "host" in one["hint"]
    assert "dsn" in one["hint"]


def test_a_worker_that_cannot_begin_says_why_and_ends(installation: Installation, tmp_path: Path) -> None:
    at = installation
    text = at.config.read_text().replace("table: person", "table: persons")
    done = told(at, text, tmp_path, "run", "--worker", "capture.erp", "--slot", "0")
    assert done.returncode == FAILED, done.stderr
    assert "persons" in done.stderr
    assert "erp" in done.stderr
    assert "→" in done.stderr or "\\u2192" in done.stderr, done.stderr


def test_a_table_that_is_not_there_is_named_with_its_place_in_the_file(
    installation: Installation, tmp_path: Path
) -> None:
    text = installation.config.read_text().replace("table: person", "table: persons")
    one = finding(told(installation, text, tmp_path, "check", "--json"), "systems.erp.entities.contact.table")
    assert "there is no table or view persons" in one["message"]
    assert one["hint"]


def test_every_error_of_a_configuration_is_listed_with_its_line(installation: Installation, tmp_path: Path) -> None:
    text = installation.config.read_text()
    wrongs = {
        "policy: delta": ("policy: delat", "delta"),
        "from: erp": ("from: epr", "erp"),
        "capture: outbox": ("capture: outobx", "outbox"),
        "partitions: 2": ("partition: 2", "partitions"),
    }
    for right, (wrong, _) in wrongs.items():
        assert right in text
        text = text.replace(right, wrong)
    for command in (["check"], ["run"]):
        done = told(installation, text, tmp_path, *command)
        assert done.returncode == FAILED
        for wrong, right in wrongs.values():
            line = next(n for n, content in enumerate(text.splitlines(), 1) if wrong in content)
            (said,) = [s for s in done.stderr.splitlines() if f"tidelock.yaml:{line} " in s]
            assert wrong.rpartition(" ")[2] in said or wrong.partition(":")[0] in said
            assert f"`{right}`" in said, said
        assert "Traceback" not in done.stderr


def test_a_configuration_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tidelock", "run", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == FAILED
    assert "none.yaml" in done.stderr.replace("\n", "")
    assert "tidelock init" in done.stderr


def test_a_second_run_of_the_same_folder_is_refused_and_disturbs_nothing(installation: Installation) -> None:
    installation.start(only=["clock"])
    try:
        before = installation.pids()
        done = installation.cli("run")
        assert done.returncode == FAILED
        assert "run already" in done.stderr
        assert "`tidelock down`" in done.stderr
        assert installation.running
        assert installation.pids() == before
    finally:
        installation.stop()
    assert not installation.pids()
    assert installation.cli("down").returncode == 0


def test_an_unknown_worker_gets_the_list_of_those_there_are(installation: Installation) -> None:
    done = installation.cli("run", "--worker", "sink.epr")
    assert done.returncode == FAILED
    assert "sink.epr" in done.stderr
    assert "sink.erp" in done.stderr
