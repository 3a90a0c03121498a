"""Bulk API 2.0: CSV in and out, the states of a job, and what stands in its results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.patience import until
from tests.simulators.orgs import Org, org, refused


@pytest.fixture
def sf() -> Iterator[Org]:
    with org(bulk_delay_s="0") as serving:
        yield serving


def rows(got: httpx.Response, delimiter: str = ",") -> list[dict[str, str]]:
    assert got.status_code == 200, got.text
    return list(csv.DictReader(io.StringIO(got.text, newline=""), delimiter=delimiter))


def state(sf: Org, kind: str, id_: str) -> dict[str, Any]:
    got: dict[str, Any] = sf.client.get(f"/jobs/{kind}/{id_}").json()
    return got


def ended(sf: Org, kind: str, id_: str) -> dict[str, Any]:
    until(lambda: state(sf, kind, id_)["state"] in {"JobComplete", "Failed", "Aborted"})
    return state(sf, kind, id_)


def begun(sf: Org, data: str, operation: str = "insert", object_: str = "Contact", **more: str) -> str:
    body = {"object": object_, "operation": operation, "contentType": "CSV", **more}
    job = sf.client.post("/jobs/ingest", json=body).json()
    assert (job["state"], job["contentUrl"]) == ("Open", f"services/data/v68.0/jobs/ingest/{job['id']}/batches")
    assert (job["apiVersion"], job["concurrencyMode"]) == (68.0, "Parallel")
    sent = sf.client.put(f"{sf.http}/{job['contentUrl']}", content=data.encode(), headers={"content-type": "text/csv"})
    assert (sent.status_code, sent.content) == (201, b"")
    assert (
        sf.client.patch(f"/jobs/ingest/{job['id']}", json={"state": "UploadComplete"}).json()["state"]
        == "UploadComplete"
    )
    return str(job["id"])


def test_lines_are_loaded_each_on_its_own(sf: Org) -> None:
    account = sf.create("Account", Name="Acme", Tidelock_Id__c="a1")
    id_ = begun(sf, 'LastName,Email,Account.Tidelock_Id__c\nA,a@x.example,a1\n,b@x.example,\nC,no,\n"D\ne",,\n')
    job = ended(sf, "ingest", id_)
    assert (job["state"], job["numberRecordsProcessed"], job["numberRecordsFailed"]) == ("JobComplete", 4, 2)
    assert (job["jobType"], job["retries"]) == ("V2Ingest", 0)
    done = rows(sf.client.get(f"/jobs/ingest/{id_}/successfulResults"))
    assert [(r["sf__Created"], r["LastName"], r["Account.Tidelock_Id__c"]) for r in done] == [
        ("true", "A", "a1"),
        ("true", "D\ne", ""),
    ]
    failed = rows(sf.client.get(f"/jobs/ingest/{id_}/failedResults"))
    assert [r["sf__Error"] for r in failed] == [
        "REQUIRED_FIELD_MISSING:Required fields are missing: [LastName]:LastName--",
        "INVALID_EMAIL_ADDRESS:Email: invalid email address: no:Email--",
    ]
    for name in ("unprocessedrecords", "unprocessedRecords"):
        assert sf.client.get(f"/jobs/ingest/{id_}/{name}").text == '"LastName","Email","Account.Tidelock_Id__c"\n'
    assert sf.row("Contact", done[0]["sf__Id"])["AccountId"] == account


def test_an_empty_cell_leaves_a_value_and_null_is_spelt(sf: Org) -> None:
    id_ = sf.load("Contact", {"LastName": "A", "Phone": "1", "Email": "a@x.example", "Tidelock_Id__c": "t1"})[0]
    data = "Tidelock_Id__c;LastName;Phone;Email;DoNotCall\r\nt1;B;;#N/A;true\r\nt2;New;;;false\r\n"
    job = begun(
        sf, data, "upsert", externalIdFieldName="Tidelock_Id__c", columnDelimiter="SEMICOLON", lineEnding="CRLF"
    )
    assert ended(sf, "ingest", job)["numberRecordsFailed"] == 0
    row = sf.row("Contact", id_)
    assert (row["LastName"], row["Phone"], row["Email"], row["DoNotCall"]) == ("B", "1", None, True)
    got = sf.client.get(f"/jobs/ingest/{job}/successfulResults")
    assert "\r\n" in got.text
    assert [(r["sf__Created"], r["Tidelock_Id__c"]) for r in rows(got, ";")] == [("false", "t1"), ("true", "t2")]
    writes = sf.control.get("/writes", params={"clients": "true"}).json()
    assert writes[-1]["origin"] == "com/salesforce/api/bulkapi/68.0"


def test_lines_are_updated_and_deleted_by_id(sf: Org) -> None:
    a, b = sf.load("Contact", {"LastName": "A"}, {"LastName": "B"})
    job = begun(sf, f"Id,LastName\n{a},X\n003000000000009,Y\n", "update")
    assert ended(sf, "ingest", job)["numberRecordsFailed"] == 1
    assert rows(sf.client.get(f"/jobs/ingest/{job}/failedResults"))[0]["sf__Error"].startswith(
        "INVALID_CROSS_REFERENCE_KEY:"
    )
    ended(sf, "ingest", begun(sf, f"Id\n{a}\n", "delete"))
    ended(sf, "ingest", begun(sf, f"Id\n{b}\n", "hardDelete"))
    assert [r["LastName"] for r in sf.query("SELECT LastName FROM Contact", "/queryAll")] == ["X"]


def test_jobs_go_through_their_states_as_time_does() -> None:
    with org(bulk_delay_s="60") as sf:
        body = {"object": "Contact", "operation": "insert", "contentType": "CSV"}
        open_ = sf.client.post("/jobs/ingest", json=body).json()["id"]
        refused(sf.client.patch(f"/jobs/ingest/{open_}", json={"state": "UploadComplete"}), 400, "INVALIDJOBSTATE")
        assert sf.client.patch(f"/jobs/ingest/{open_}", json={"state": "Aborted"}).json()["state"] == "Aborted"
        answer = sf.client.delete(f"/jobs/ingest/{open_}")
        assert (answer.status_code, answer.content) == (204, b"")
        refused(sf.client.get(f"/jobs/ingest/{open_}"), 404, "NOT_FOUND")
        id_ = begun(sf, "LastName\nA\n")
        assert state(sf, "ingest", id_)["state"] == "UploadComplete"
        refused(sf.client.get(f"/jobs/ingest/{id_}/successfulResults"), 400, "INVALIDJOBSTATE")
        sf.advance(61)
        until(lambda: state(sf, "ingest", id_)["state"] == "InProgress")
        sf.advance(61)
        until(lambda: state(sf, "ingest", id_)["state"] == "JobComplete")
        assert [j["id"] for j in sf.client.get("/jobs/ingest").json()["records"]] == [id_]
        sf.advance(7 * 86400)
        with sf.signed_in() as later:
            refused(later.get(f"/jobs/ingest/{id_}"), 404, "NOT_FOUND")


def test_a_job_that_fails_half_way_says_what_it_left(sf: Org) -> None:
    sf.fault("bulk_fail", after=200)
    id_ = begun(sf, "LastName\n" + "".join(f"N{n}\n" for n in range(500)))
    job = ended(sf, "ingest", id_)
    assert (job["state"], job["numberRecordsProcessed"]) == ("Failed", 200)
    assert job["errorMessage"].startswith("InternalServerError")
    assert [r["LastName"] for r in rows(sf.client.get(f"/jobs/ingest/{id_}/unprocessedRecords"))] == [
        f"N{n}" for n in range(200, 500)
    ]
    assert sf.values("SELECT COUNT(Id) FROM Contact") == [200]


def test_a_locked_row_is_a_failed_line(sf: Org) -> None:
    sf.fault("lock", skip=1)
    sf.fault("partial", skip=2)
    id_ = begun(sf, "LastName\nA\nB\nC\n")
    assert ended(sf, "ingest", id_)["numberRecordsFailed"] == 2
    errors = [r["sf__Error"] for r in rows(sf.client.get(f"/jobs/ingest/{id_}/failedResults"))]
    assert errors[0].startswith("UNABLE_TO_LOCK_ROW:unable to obtain exclusive access to this record or 1 records: 003")
    assert errors[1].startswith("FIELD_CUSTOM_VALIDATION_EXCEPTION:")


@pytest.mark.parametrize("data", ["LastName,Nose\nA,b\n", "Id,LastName\n", '"LastName\nA\n', ""])
def test_data_that_cannot_be_read_fails_the_job(sf: Org, data: str) -> None:
    operation = "delete" if data.startswith("Id") else "insert"
    if not data:
        id_ = begun(sf, "\n", operation)
    else:
        id_ = begun(sf, data, operation)
    job = ended(sf, "ingest", id_)
    assert job["state"] == "Failed"
    assert job["errorMessage"].startswith("InvalidBatch : ")


def test_a_query_is_answered_page_by_page_and_the_last_locator_is_the_word_null(sf: Org) -> None:
    sf.load("Account", {"Name": "Acme"})
    account = sf.values("SELECT Id FROM Account")[0]
    sf.load("Contact", *({"LastName": f"N{n}", "AccountId": account} for n in range(5)))
    text = "SELECT Id, LastName, Account.Name, DoNotCall, Email, SystemModstamp FROM Contact ORDER BY LastName"
    job = sf.client.post("/jobs/query", json={"operation": "query", "query": text}).json()
    assert (job["state"], job["object"]) == ("UploadComplete", "Contact")
    assert ended(sf, "query", job["id"])["numberRecordsProcessed"] == 5
    found: list[dict[str, str]] = []
    locator, sizes = "", []
    for _ in range(3):
        got = sf.client.get(f"/jobs/query/{job['id']}/results", params={"maxRecords": "2", "locator": locator})
        found += rows(got)
        sizes.append(got.headers["sforce-numberofrecords"])
        locator = got.headers["sforce-locator"]
    assert (sizes, locator) == (["2", "2", "1"], "null")
    assert [r["LastName"] for r in found] == [f"N{n}" for n in range(5)]
    assert (found[0]["Account.Name"], found[0]["DoNotCall"], found[0]["Email"]) == ("Acme", "false", "")
    assert found[0]["SystemModstamp"].endswith(".000Z")
    nobody = sf.client.post(
        "/jobs/query", json={"operation": "query", "query": f"{text.split(' ORDER')[0]} WHERE LastName = 'x'"}
    ).json()
    ended(sf, "query", nobody["id"])
    got = sf.client.get(f"/jobs/query/{nobody['id']}/results")
    assert (got.headers["sforce-locator"], got.headers["sforce-numberofrecords"], rows(got)) == ("null", "0", [])


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("SELECT COUNT(Id) FROM Contact", "API_ERROR", "Aggregate"),
        ("SELECT COUNT() FROM Contact", "API_ERROR", "Aggregate"),
        ("SELECT Id FROM Contact OFFSET 5", "API_ERROR", "OFFSET"),
        ("SELECT Id, (SELECT Id FROM Contacts) FROM Account", "API_ERROR", "Child relationships"),
        ("SELECT MailingAddress FROM Contact", "API_ERROR", "Selecting compound data not supported in Bulk Query"),
        ("SELECT FIELDS(STANDARD) FROM Contact", "API_ERROR", "FIELDS"),
        ("SELECT Id FROM Nothing", "INVALIDENTITY", "is not supported by the Bulk API"),
        ("SELECT Nose FROM Contact", "INVALID_FIELD", "No such column"),
        ("SELECT FROM Contact", "API_ERROR", "MALFORMED_QUERY"),
    ],
)
def test_what_a_bulk_query_cannot_do(sf: Org, query: str, code: str, said: str) -> None:
    assert (
        said
        in refused(sf.client.post("/jobs/query", json={"operation": "query", "query": query}), 400, code)["message"]
    )


def test_jobs_that_make_no_sense_are_refused(sf: Org) -> None:
    good = {"object": "Contact", "operation": "insert"}
    for wrong, code in (
        ({"operation": "shred"}, "INVALIDJOB"),
        ({"object": "Nothing"}, "INVALIDENTITY"),
        ({"operation": "upsert"}, "INVALIDJOB"),
        ({"operation": "upsert", "externalIdFieldName": "Phone"}, "INVALIDJOB"),
        ({"columnDelimiter": "DOT"}, "INVALIDJOB"),
        ({"lineEnding": "CR"}, "INVALIDJOB"),
    ):
        refused(sf.client.post("/jobs/ingest", json={**good, **wrong}), 400, code)
    id_ = sf.client.post("/jobs/ingest", json=good).json()["id"]
    url = f"/jobs/ingest/{id_}/batches"
    refused(
        sf.client.put(url, content=b"{}", headers={"content-type": "application/json"}), 415, "UNSUPPORTED_MEDIA_TYPE"
    )
    chunks = sf.client.put(
        url, content=iter([b"LastName\n", b"A\n"]), headers={"content-type": "text/csv; charset=UTF-8"}
    )
    assert chunks.status_code == 201
    refused(sf.client.put(url, content=b"LastName\n", headers={"content-type": "text/csv"}), 400, "INVALIDJOBSTATE")


def test_the_batches_of_a_day_run_out() -> None:
    with org(bulk_delay_s="0", bulk_batches="1") as sf:
        assert ended(sf, "ingest", begun(sf, "LastName\nA\n"))["state"] == "JobComplete"
        job = ended(sf, "ingest", begun(sf, "LastName\nB\n"))
        assert (job["state"], job["errorMessage"]) == ("Failed", "ExceededQuota : ApiBatchItems Limit exceeded.")
        assert sf.client.get("/limits").json()["DailyBulkApiBatches"] == {"Max": 1, "Remaining": 0}
