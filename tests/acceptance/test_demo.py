"""The demo: its verification finds what is wrong, and the whole of it runs to a green verdict as a newcomer would start it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tidelock.config import Config
from tidelock.demo import records
from tidelock.demo.evidence import ENTITIES, Evidence, Letter, text
from tidelock.demo.office import TYPO, Office
from tidelock.demo.portals import KINDS, PLACES
from tidelock.demo.settings import DATABASES, SYSTEMS, Hooks, create_schema, write_config
from tidelock.demo.users import Edit
from tidelock.demo.verify import CHECKS, PORTALS, SOURCES, verify
from tidelock.embedded import Endpoints, Stack

CID = "11111111-1111-5111-8111-111111111111"
GOLDEN = {
    "email": "ada@example.com",
    "first_name": "Ada",
    "last_name": "Yao",
    "phone": "+12122341234",
    "country": "USA",
    "birthday": "1990-01-02",
    "status": "active",
    "credit_limit": "12.50",
    "newsletter": "true",
    "account": None,
}


def evidence(**golden: Any) -> Evidence:
    """One contact that is everywhere what it should be."""
    record = {**GOLDEN, **golden}
    portals = {label: f"{label}-1" for label in sorted(PORTALS) if label != "salesforce/world"}  # Ada is an American
    keys = {"crm": "1", "erp": "e-1", "store": CID, **portals}
    rows: dict[tuple[str, str], dict[str, dict[str, str | None]]] = {c: {} for c in CHECKS}
    rows |= {(database, entity): {} for _, entity, database in SOURCES if (database, entity) not in rows}
    for system, key in keys.items():
        rows[system, "contact"] = {key: dict(record)}
    links = {(system, key): CID for system, key in keys.items() if system != "store"}
    return Evidence(
        golden={e: {} for e in ENTITIES} | {"contact": {CID: dict(record)}},
        links={e: {} for e in ENTITIES} | {"contact": links},
        ever={e: {} for e in ENTITIES} | {"contact": {k: {v} for k, v in links.items()}},
        rows=rows,
        columns={("erp", "contact"): {"credit_limit": {"limit_cents"}, "phone": {"tel"}}},
    )


def edit(number: int, system: str, name: str, value: str, **more: Any) -> Edit:
    key = {"crm": "1", "erp": "e-1"}[system]
    return replace(Edit(number, system, "contact", key, "edit", name, value, float(number), number + 0.5), **more)


def conflict(name: str, golden: str, theirs: str, outcome: str = "golden") -> dict[str, Any]:
    return {
        "canonical_id": CID,
        "field": name,
        "golden": json.dumps(golden),
        "theirs": json.dumps(theirs),
        "outcome": outcome,
        "system": "erp",
    }


def test_systems_in_step_with_every_edit_accounted_for_pass() -> None:
    verdict = verify(evidence(), [edit(1, "crm", "first_name", "Ada")], {})
    assert verdict.passed
    assert verdict.compared == 10 + 9 + 10 + 5 * 4 + 6  # the shop shows the status, too
    assert verdict.fates == {"in the golden record": 1}


@pytest.mark.parametrize(("system", "name"), [("crm", "newsletter"), ("erp", "phone"), ("store", "country")])
def test_a_field_that_differs_without_a_reason_fails(system: str, name: str) -> None:
    found = evidence()
    next(iter(found.rows[system, "contact"].values()))[name] = "something else"
    verdict = verify(found, [], {})
    assert not verdict.converged
    assert [(m.system, m.field, m.found) for m in verdict.mismatches] == [(system, name, "something else")]


def test_a_dead_letter_explains_only_the_field_it_carries() -> None:
    found = evidence()
    found.rows["erp", "contact"]["e-1"] |= {"credit_limit": "1.00"}
    found.letters.append(Letter("sink", "erp", "contact", CID, "check", "too much", frozenset({"limit_cents"})))
    assert verify(found, [], {}).converged
    found.rows["erp", "contact"]["e-1"] |= {"phone": None}
    assert [m.field for m in verify(found, [], {}).mismatches if not m.why] == ["phone"]


def test_a_missing_row_a_double_and_a_row_without_link_fail() -> None:
    missing = evidence()
    missing.rows["erp", "contact"].clear()
    assert [m.found for m in verify(missing, [], {}).mismatches] == ["none"]
    double = evidence()
    double.rows["crm", "contact"]["2"] = dict(double.rows["crm", "contact"]["1"])
    double.links["contact"]["crm", "2"] = CID
    assert [m.found for m in verify(double, [], {}).mismatches] == ["2 rows: 1, 2"]
    stray = evidence()
    stray.rows["crm", "contact"]["3"] = dict(GOLDEN)
    assert [m.found for m in verify(stray, [], {}).mismatches] == ["no link"]


def test_a_deleted_record_must_be_gone_or_switched_off() -> None:
    found = evidence()
    found.golden["contact"][CID] = None
    portals = PORTALS - {"salesforce/world"}
    assert {m.system for m in verify(found, [], {}).mismatches} == {"crm", "erp", "store", *portals}
    for system in {"crm", "store", *portals} - {"shop"}:
        found.rows[system, "contact"].clear()
    found.rows["erp", "contact"]["e-1"]["status"] = "inactive"
    found.rows["shop", "contact"]["shop-1"]["status"] = "inactive"
    assert not verify(found, [], {}).mismatches


def test_an_edit_that_nothing_tells_of_is_lost() -> None:
    verdict = verify(evidence(), [edit(1, "erp", "phone", "+12120000000")], {})
    assert verdict.converged
    assert not verdict.passed
    assert [e["value"] for e in verdict.lost] == ["+12120000000"]


def test_an_edit_is_not_lost_if_overwritten_decided_or_deleted() -> None:
    first = edit(1, "erp", "phone", "+12120000000")
    assert verify(evidence(), [first, edit(2, "crm", "phone", "+12122341234")], {}).fates["overwritten later"] == 1
    decided = evidence()
    decided.conflicts.append(conflict("phone", "+12122341234", "+12120000000"))
    assert verify(decided, [first], {}).fates == {"lost to a recorded conflict": 1}
    other = evidence()
    other.conflicts.append(conflict("phone", "+12122341234", "+19999999999"))
    assert verify(other, [first], {}).lost
    gone = evidence()
    gone.golden["contact"][CID] = None
    assert verify(gone, [first, edit(2, "crm", "", "", op="delete")], {}).fates["deleted later"] == 1


def test_an_earlier_edit_does_not_excuse_a_later_one() -> None:
    edits = [edit(1, "crm", "phone", "+12122341234"), edit(2, "erp", "phone", "+12120000000")]
    assert [e["number"] for e in verify(evidence(), edits, {}).lost] == [2]


def test_counters_must_add_up() -> None:
    found = evidence()
    found.golden["inventory"] = {CID: {"sku": "S", "quantity": 12, "reorder_level": 1}}
    for system, key in (("crm", "S"), ("erp", "1"), ("store", CID)):
        found.rows[system, "inventory"] = {key: {"sku": "S", "quantity": "12", "reorder_level": "1"}}
        found.links["inventory"][system, key] = CID
    booked = [
        Edit(1, "crm", "inventory", "S", "delta", "S", "5"),
        Edit(2, "erp", "inventory", "1", "delta", "S", "-3"),
    ]
    assert verify(found, booked, {"S": 10}).passed
    assert verify(found, booked, {"S": 11}).lost


# ------------------------------------------------------------------------------------------------------------- against a database


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("demo"), kafka=False, registry=False) as started:
        yield started


@pytest.fixture
def dsns(stack: Stack) -> Iterator[dict[str, str]]:
    found = {name: stack.postgres.create_database(name) for name in SYSTEMS}
    for name, dsn in found.items():
        create_schema(name, dsn)
    records.load(found, 1)
    yield found
    for name in SYSTEMS:
        stack.postgres.drop_database(name)


@pytest.mark.stack
def test_the_same_record_reads_the_same_in_every_system(dsns: dict[str, str]) -> None:
    """The views that the verification reads by undo every spelling: where both systems know a person, e-mail decides."""
    with psycopg.connect(dsns["crm"]) as crm, psycopg.connect(dsns["erp"]) as erp:
        query = "select email, first_name, birthday, account, country, phone from canon.contact"
        known = {r[0]: r[1:] for r in crm.execute(query)}
        other = {r[0]: r[1:] for r in erp.execute(query)}
    both = known.keys() & other.keys()
    assert len(both) > 100
    assert sum(known[e][:2] == other[e][:2] for e in both) >= len(both) - 1  # the shared mailbox
    assert sum(known[e] == other[e] for e in both) > len(both) * 0.6
    assert not [r for r in (*known.values(), *other.values()) if str(r[3]).startswith("?")]


@pytest.mark.stack
def test_people_work_and_keep_a_diary(dsns: dict[str, str]) -> None:
    office = Office(dsns, [], 1)
    try:
        stories = [office.round(n, 4) for n in range(5)]
    finally:
        office.close()
    edits = office.diary.edits
    assert TYPO in stories[0]
    assert {e.system for e in edits} == {"crm", "erp", "legacy", "directory"}
    assert {e.op for e in edits} == {"edit", "create", "delete", "delta"}
    assert [e.value for e in edits if e.value == TYPO]
    assert [e for e in edits if not e.accepted]
    last = next(e for e in reversed(edits) if (e.system, e.entity, e.field) == ("crm", "contact", "phone"))
    with psycopg.connect(dsns["crm"]) as crm:
        row = crm.execute("select phone from canon.contact where key = %s", [last.key]).fetchone()
    assert row is not None
    assert text("phone", row[0]) == last.value


CREDENTIALS = dict.fromkeys(("api_key", "tenant", "client_id", "client_secret", "token_path", "refresh_token"), "k")


def test_the_template_is_a_valid_configuration(tmp_path: Path) -> None:
    path = tmp_path / "tidelock.yaml"
    portals = {p.label: {"https": "https://127.0.0.1:3", "ca": "/ca.pem", "credentials": CREDENTIALS} for p in PLACES}
    write_config(
        path,
        Endpoints("127.0.0.1:1", "http://127.0.0.1:2", ""),
        dict.fromkeys(DATABASES, 'postgresql://a:"$@h/d'),
        portals,
        Hooks(1, "whsec_x"),
    )
    config = Config.model_validate(yaml.safe_load(path.read_text()))
    assert path.stat().st_mode & 0o077 == 0
    captures = {s.capture for s in config.systems.values()}
    assert captures >= {"replication", "outbox", "polling", "rowhash", "none", *KINDS}
    for system, entity in CHECKS:
        assert entity in config.systems[system.partition("/")[0]].entities


# --------------------------------------------------------------------------------------------------------------------- all of it


@pytest.mark.stack
@pytest.mark.timeout(400)
def test_the_demo_converges_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidelock", "demo", "--json", "--rounds", "3", "--folder", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    report = json.loads(done.stdout)
    told = {k: report[k] for k in ("converged", "at_rest", "lost", "fates")}
    unexplained = [m for m in report["mismatches"] if not m["why"]]
    assert done.returncode == 0, f"{told} {unexplained[:5]} {report['lost_edits'][:5]} {done.stderr[-2000:]}"
    assert report["converged"] is True
    assert report["lost"] == 0
    assert report["edits"] > 200
    assert report["conflicts"] > 0
    assert report["dead_letters"] >= 2  # the credit limit that the ERP refuses, and the shared mailbox
    portals = {p.label.partition("/")[0] for p in PLACES}
    assert set(report["systems"]) == {"crm", "erp", "legacy", "directory", "store", *portals}
    assert all(report["systems"][p]["api_calls"] > 0 and report["systems"][p]["writes"] > 0 for p in portals)
    assert json.loads((tmp_path / "demo" / "report.json").read_text()) == report
