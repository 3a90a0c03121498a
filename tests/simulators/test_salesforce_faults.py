"""Salesforce when it does not do as it is asked: limits, locks, failing parts, and answers from before the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.simulators.orgs import Org, org, refused


@pytest.fixture
def sf() -> Iterator[Org]:
    with org() as serving:
        yield serving


@pytest.mark.parametrize(
    ("kind", "status", "code", "message"),
    [
        ("limit", 403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
        ("concurrent", 403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded."),
        ("disabled", 403, "API_DISABLED_FOR_ORG", None),
        ("forbidden", 403, "INSUFFICIENT_ACCESS_OR_READONLY", None),
        ("unknown", 500, "UNKNOWN_EXCEPTION", None),
        ("unavailable", 503, "SERVER_UNAVAILABLE", None),
    ],
)
def test_refusals_by_order(sf: Org, kind: str, status: int, code: str, message: str | None) -> None:
    sf.fault(kind, path="/sobjects/Contact")
    error = refused(sf.client.post("/sobjects/Contact", json={"LastName": "A"}), status, code)
    assert message in {None, error["message"]}
    assert sf.client.post("/sobjects/Contact", json={"LastName": "A"}).status_code == 201


def test_edge_answers_have_no_body(sf: Org) -> None:
    sf.fault("edge")
    sf.fault("edge", status=406)
    got = [sf.client.get("/limits") for _ in range(3)]
    assert [(g.status_code, g.content[:1]) for g in got] == [(420, b""), (406, b""), (200, b"{")]


def test_the_calls_of_a_day_are_told_on_every_answer_and_run_out() -> None:
    with org(daily_limit="3") as sf:
        got = [sf.client.get("/sobjects/Contact/003000000000009") for _ in range(4)]
        assert [g.status_code for g in got] == [404, 404, 404, 403]
        assert [g.headers["sforce-limit-info"] for g in got] == [f"api-usage={n}/3" for n in (1, 2, 3, 3)]
        assert refused(got[3], 403, "REQUEST_LIMIT_EXCEEDED")["message"] == "TotalRequests Limit exceeded."
        assert "retry-after" not in got[3].headers
        sf.advance(24 * 3600 + 61)
        with sf.signed_in() as again:
            assert again.get("/limits").json()["DailyApiRequests"] == {"Max": 3, "Remaining": 2}


def test_a_locked_row_fails_alone(sf: Org) -> None:
    id_ = sf.load("Contact", {"LastName": "A"})[0]
    sf.fault("lock", method="PATCH")
    error = refused(sf.client.patch(f"/sobjects/Contact/{id_}", json={"Phone": "1"}), 400, "UNABLE_TO_LOCK_ROW")
    assert error["message"] == f"unable to obtain exclusive access to this record or 1 records: {id_[:15]}"
    sf.fault("lock", skip=1)
    records = [{"attributes": {"type": "Contact"}, "LastName": n} for n in "XYZ"]
    results = sf.client.post("/composite/sobjects", json={"records": records}).json()
    assert [r["success"] for r in results] == [True, False, True]
    assert results[1]["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW"


def test_a_share_of_a_collection_fails_as_ordered(sf: Org) -> None:
    sf.fault("partial", share=0.3, times=None, code="FIELD_CUSTOM_VALIDATION_EXCEPTION", message="no")
    records = [{"attributes": {"type": "Contact"}, "LastName": f"N{n}"} for n in range(200)]
    results: list[dict[str, Any]] = sf.client.post("/composite/sobjects", json={"records": records}).json()
    failed = [r for r in results if not r["success"]]
    assert 30 < len(failed) < 90
    assert failed[0]["errors"] == [{"statusCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION", "message": "no", "fields": []}]
    assert sf.values("SELECT COUNT(Id) FROM Contact") == [200 - len(failed)]


def test_a_lost_answer_leaves_the_record_there(sf: Org) -> None:
    sf.fault("lost", method="PATCH")
    with pytest.raises(httpx.RemoteProtocolError):
        sf.client.patch("/sobjects/Contact/Tidelock_Id__c/t1", json={"LastName": "A"})
    got = sf.client.patch("/sobjects/Contact/Tidelock_Id__c/t1", json={"LastName": "A"})
    assert (got.status_code, got.json()["created"]) == (200, False)


def test_options_that_make_no_sense_are_refused() -> None:
    for options, said in (
        ({"nose": "1"}, "no option nose"),
        ({"records": "many"}, "is a number"),
        ({"records": "-1"}, "not negative"),
        ({"passwords": "maybe"}, "on or off"),
        ({"duplicate_key": "x"}, "one of auto"),
        ({"duplicate_rules": "Contact:Nose:alert"}, "kind:field"),
        ({"duplicate_rules": "Nothing:Nose:alert"}, "no object 'Nothing'"),
    ):
        with pytest.raises(ValueError, match=said), org(**options):
            pass


def test_a_reset_org_is_as_at_the_start(sf: Org) -> None:
    sf.load("Contact", {"LastName": "A"})
    before = sf.client.headers["authorization"]
    assert sf.control.post("/reset").status_code == 200
    refused(sf.client.get("/limits", headers={"authorization": before}), 401, "INVALID_SESSION_ID")
    with sf.signed_in() as again:
        assert again.get("/query", params={"q": "SELECT COUNT() FROM Contact"}).json()["totalSize"] == 0
    assert sf.control.get("/events").json() == []
