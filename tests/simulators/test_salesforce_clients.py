"""Clients of Salesforce written by others, against the simulator: they know nothing of it but its address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.simulators.orgs import Org, org

simple = pytest.importorskip(
    "simple_salesforce", reason="the clients written by others are not installed: make .venv/.clients"
)
aiosalesforce = pytest.importorskip(
    "aiosalesforce", reason="the clients written by others are not installed: make .venv/.clients"
)
from requests import Session  # noqa: E402
from requests.adapters import HTTPAdapter  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:simple_salesforce", "ignore::DeprecationWarning:aiosalesforce"
)


@pytest.fixture
def sf() -> Iterator[Org]:
    with org(passwords="on", bulk_delay_s="0") as serving:
        yield serving


# simple-salesforce, over https.


def trusting(sf: Org) -> Any:
    """Return a session that trusts the simulator and takes the vendor's login hosts for it."""
    there = urlsplit(sf.running.https)

    class Here(HTTPAdapter):
        def send(self, request: Any, *args: Any, **more: Any) -> Any:
            request.url = urlsplit(request.url)._replace(scheme=there.scheme, netloc=there.netloc).geturl()
            return super().send(request, *args, **more)

    session = Session()
    session.verify, session.trust_env = sf.running.ca, False  # or the environment has another word to say
    for host in ("login", "test", "acme.my"):
        session.mount(f"https://{host}.salesforce.com", Here())
    return session


@pytest.fixture
def client(sf: Org) -> Iterator[Any]:
    session = trusting(sf)
    with session:
        c = sf.credentials
        yield simple.Salesforce(
            consumer_key=c["client_id"],
            consumer_secret=c["client_secret"],
            domain="acme.my",
            session=session,
            version="60.0",
        )


@pytest.mark.parametrize("how", ["jwt", "password", "token", "soap"])
def test_simple_salesforce_signs_in(sf: Org, how: str) -> None:
    c = sf.credentials
    ways: dict[str, dict[str, str]] = {
        "jwt": {"username": c["username"], "consumer_key": c["client_id"], "privatekey": c["private_key"]},
        "password": {
            "username": c["username"],
            "password": c["password"],
            "consumer_key": c["client_id"],
            "consumer_secret": c["client_secret"],
        },
        "soap": {"username": c["username"], "password": c["password"], "security_token": c["security_token"]},
        "token": {"session_id": sf.refresh().json()["access_token"], "instance_url": sf.running.https},
    }
    with trusting(sf) as session:
        client = simple.Salesforce(**ways[how], session=session)
        assert client.is_sandbox() is False


def test_simple_salesforce_is_told_why_it_may_not_sign_in(sf: Org) -> None:
    c = sf.credentials
    with trusting(sf) as session:
        for version, password, code in (
            ("59.0", "wrong", "INVALID_LOGIN"),
            ("65.0", c["password"], "UNSUPPORTED_API_VERSION"),
        ):
            with pytest.raises(simple.SalesforceAuthenticationFailed) as error:
                simple.Salesforce(
                    username=c["username"],
                    password=password,
                    security_token=c["security_token"],
                    session=session,
                    version=version,
                )
            assert error.value.code == code


def test_simple_salesforce_reads_and_writes_records(sf: Org, client: Any) -> None:
    created = client.Contact.create({"LastName": "Lovelace", "Email": "ada@x.example"})
    assert created["success"] is True
    assert client.Contact.update(created["id"], {"FirstName": "Ada"}) == 204
    assert client.Contact.get(created["id"])["Name"] == "Ada Lovelace"
    assert client.Contact.upsert("Tidelock_Id__c/t1", {"LastName": "New"}) == 201
    assert client.Contact.upsert("Tidelock_Id__c/t1", {"LastName": "Newer"}) == 200
    assert client.Contact.get_by_custom_id("Tidelock_Id__c", "t1")["LastName"] == "Newer"
    assert client.Contact.describe()["name"] == "Contact"
    assert len(client.describe()["sobjects"]) == 8
    assert client.Contact.delete(created["id"]) == 204
    with pytest.raises(simple.SalesforceResourceNotFound):
        client.Contact.get(created["id"])
    with pytest.raises(simple.SalesforceMalformedRequest) as error:
        client.Contact.create({})
    assert error.value.content[0]["errorCode"] == "REQUIRED_FIELD_MISSING"
    assert client.limits()["DailyApiRequests"]["Max"] == 115000
    assert client.api_usage["api-usage"].total == 115000
    sf.load("Contact", {"LastName": "A", "Email": "same@x.example"}, {"LastName": "B", "Email": "same@x.example"})
    with pytest.raises(simple.SalesforceMoreThanOneRecord):
        client.Contact.get_by_custom_id("Email", "same@x.example")


def test_simple_salesforce_queries_with_pages(sf: Org, client: Any) -> None:
    sf.load("Contact", *({"LastName": f"N{n:04d}"} for n in range(2500)))
    found = client.query_all("SELECT Id, LastName FROM Contact ORDER BY LastName")
    assert (found["totalSize"], len(found["records"]), found["records"][-1]["LastName"]) == (2500, 2500, "N2499")
    assert len(list(client.query_all_iter("SELECT Id FROM Contact"))) == 2500
    sf.act("/delete/Contact", [found["records"][0]["Id"]])
    assert client.query("SELECT COUNT() FROM Contact")["totalSize"] == 2499
    assert client.query_all("SELECT Id FROM Contact", include_deleted=True)["totalSize"] == 2500
    end = datetime.now(UTC) + timedelta(minutes=1)
    assert len(client.Contact.updated(end - timedelta(minutes=10), end)["ids"]) == 2499
    assert len(client.Contact.deleted(end - timedelta(minutes=10), end)["deletedRecords"]) == 1


def test_simple_salesforce_loads_and_reads_in_bulk(sf: Org, client: Any) -> None:
    records = [{"LastName": f"N{n}", "Tidelock_Id__c": f"t{n}"} for n in range(20)]
    loaded = client.bulk2.Contact.upsert(
        records=[*records, {"LastName": "", "Tidelock_Id__c": "t20"}], external_id_field="Tidelock_Id__c", wait=0.01
    )
    assert [(r["numberRecordsProcessed"], r["numberRecordsFailed"]) for r in loaded] == [(21, 1)]
    job = loaded[0]["job_id"]
    assert "REQUIRED_FIELD_MISSING" in client.bulk2.Contact.get_failed_records(job)
    assert client.bulk2.Contact.get_successful_records(job).count("\n") == 21
    assert client.bulk2.Contact.get_unprocessed_records(job).count("\n") == 1
    pages = list(client.bulk2.Contact.query("SELECT Id, LastName FROM Contact", max_records=8, wait=0.01))
    assert [page.count("\n") for page in pages] == [9, 9, 5]
    ids = [{"Id": v} for v in sf.values("SELECT Id FROM Contact LIMIT 5")]
    assert client.bulk2.Contact.delete(records=ids, wait=0.01)[0]["numberRecordsFailed"] == 0
    assert sf.values("SELECT COUNT(Id) FROM Contact") == [15]


def test_simple_salesforce_signs_in_again_when_its_token_has_ended(sf: Org, client: Any) -> None:
    before = client.session_id
    sf.act("/tokens/expire", None)
    assert client.query("SELECT Id FROM Contact")["totalSize"] == 0
    assert client.session_id != before
    sf.fault("limit")
    with pytest.raises(simple.SalesforceRefusedRequest) as error:
        client.query("SELECT Id FROM Contact")
    assert error.value.content[0]["errorCode"] == "REQUEST_LIMIT_EXCEEDED"
    sf.fault("revoke")
    sf.act("/tokens/expire", None)
    with pytest.warns(UserWarning, match="self-authorize"), pytest.raises(simple.SalesforceAuthenticationFailed):
        client.query("SELECT Id FROM Contact")


# aiosalesforce: it insists on the vendor's host names, so a transport takes them for the simulator.


class Here(httpx.AsyncHTTPTransport):
    """A transport that takes every host for the simulator."""

    def __init__(self, sf: Org) -> None:
        super().__init__()
        self._there = httpx.URL(sf.http)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme=self._there.scheme, host=self._there.host, port=self._there.port)
        return await super().handle_async_request(request)


@asynccontextmanager
async def signed_in(sf: Org, auth: Any) -> AsyncIterator[Any]:
    async with httpx.AsyncClient(transport=Here(sf)) as http:
        yield aiosalesforce.Salesforce(http, base_url="https://acme.my.salesforce.com", auth=auth, retry_policy=None)


def with_client(sf: Org, work: Callable[[Any], Awaitable[None]]) -> None:
    async def run() -> None:
        auth = aiosalesforce.ClientCredentialsFlow(sf.credentials["client_id"], sf.credentials["client_secret"])
        async with signed_in(sf, auth) as client:
            await work(client)

    asyncio.run(run())


def test_aiosalesforce_signs_in_with_an_assertion(sf: Org, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text(sf.credentials["private_key"])

    async def run() -> None:
        async with signed_in(
            sf, aiosalesforce.JwtBearerFlow(sf.credentials["client_id"], sf.credentials["username"], key)
        ) as client:
            assert (await client.get_limits())["DailyApiRequests"]["Max"] == 115000

    asyncio.run(run())


def test_aiosalesforce_reads_and_writes_records(sf: Org) -> None:
    async def work(client: Any) -> None:
        made = await client.sobject.create("Contact", {"LastName": "Lovelace"})
        await client.sobject.update("Contact", made, {"FirstName": "Ada"})
        assert (await client.sobject.get("Contact", made, fields=["Name"]))["Name"] == "Ada Lovelace"
        first = await client.sobject.upsert("Contact", "t1", "Tidelock_Id__c", {"LastName": "A"})
        again = await client.sobject.upsert(
            "Contact", "t1", "Tidelock_Id__c", {"LastName": "B", "Tidelock_Id__c": "t1"}
        )
        assert (first.created, again.created, first.id) == (True, False, again.id)
        await client.sobject.delete("Contact", "t1", "Tidelock_Id__c")
        with pytest.raises(aiosalesforce.exceptions.NotFoundError):
            await client.sobject.get("Contact", "t1", "Tidelock_Id__c")
        sf.load("Contact", *({"LastName": f"N{n}"} for n in range(2100)))
        assert len([r async for r in client.query("SELECT Id FROM Contact")]) == 2101
        sf.act("/tokens/expire", None)
        assert len([r async for r in client.query("SELECT Id FROM Contact LIMIT 3")]) == 3

    with_client(sf, work)
    assert sf.control.get("/writes", params={"clients": "true"}).json()[0]["client"].startswith("aiosalesforce/")


def test_aiosalesforce_sends_many_calls_in_one(sf: Org) -> None:
    async def work(client: Any) -> None:
        async with client.composite(all_or_none=True) as many:
            firm = many.sobject.create("Account", {"Name": "Acme"})
            person = many.sobject.create("Contact", {"LastName": "A", "AccountId": str(firm.reference.id)})
            found = many.query("SELECT Id FROM Account")
        assert (firm.id[:3], person.id[:3], len(found.records)) == ("001", "003", 1)
        async with client.composite.batch(halt_on_error=True) as batch:
            read = batch.sobject.get("Account", firm.id)
            batch.sobject.upsert("Contact", "t9", "Tidelock_Id__c", {"LastName": "B"})
        assert read.record["Name"] == "Acme"

    with_client(sf, work)
    assert sf.values("SELECT COUNT(Id) FROM Contact") == [2]


def test_aiosalesforce_loads_in_bulk(sf: Org) -> None:
    async def work(client: Any) -> None:
        from aiosalesforce.bulk.v2.ingest import BulkIngestClient

        ingest: Any = client.bulk_v2.ingest
        assert isinstance(ingest, BulkIngestClient)
        data = [{"LastName": f"N{n}", "Tidelock_Id__c": f"t{n}", "DoNotCall": True} for n in range(30)]
        results = [
            r
            async for r in ingest.perform_operation(
                "upsert",
                "Contact",
                [*data, {"LastName": None, "Tidelock_Id__c": "x"}],
                external_id_field="Tidelock_Id__c",
                polling_interval=0.01,
            )
        ]
        assert [r.job_info.state for r in results] == ["JobComplete"]
        assert len(results[0].successful_results) == 30
        assert results[0].failed_results[0]["sf__Error"].startswith("REQUIRED_FIELD_MISSING")
        assert results[0].unprocessed_records == []

    with_client(sf, work)


def test_aiosalesforce_understands_what_is_refused(sf: Org) -> None:
    there = sf.load("Contact", {"LastName": "A", "Email": "a@x.example"})[0]
    sf.act("/duplicate-rules", {"kind": "Contact", "fields": ["Email"], "action": "alert"})

    async def work(client: Any) -> None:
        errors = aiosalesforce.exceptions
        with pytest.raises(errors.DuplicatesDetectedError) as doubles:
            await client.sobject.create("Contact", {"LastName": "B", "Email": "a@x.example"})
        assert doubles.value.duplicates[0]["id"] == there
        sf.load("Contact", {"LastName": "C", "Email": "a@x.example"})
        with pytest.raises(errors.MoreThanOneRecordError):
            await client.sobject.get("Contact", "a@x.example", "Email")
        for kind, error in (
            ("limit", errors.RequestLimitExceededError),
            ("unknown", errors.ServerError),
            ("forbidden", errors.AuthorizationError),
        ):
            sf.fault(kind)
            with pytest.raises(error):
                await client.get_limits()

    with_client(sf, work)
