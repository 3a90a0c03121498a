"""Clients of the Dataverse Web API that others wrote work against the simulator by their base URL alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential
from dataverse_api import DataverseClient as OtherClient  # type: ignore[import-untyped]
from PowerPlatform.Dataverse.client import DataverseClient
from PowerPlatform.Dataverse.core.errors import HttpError
from PowerPlatform.Dataverse.models.upsert import UpsertItem

from simulators.server import Running
from tests.simulators.dynamics_access import Credential, control, simulator, token

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:PowerPlatform.Dataverse")


@pytest.fixture
def sdk(dynamics: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataverseClient]:
    """The vendor's own Python client: it refuses plain http, so the certificate is checked too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", dynamics.ca)
    with DataverseClient(dynamics.https, Credential(dynamics)) as client:
        yield client


@pytest.fixture
def other(dynamics: Running) -> Iterator[OtherClient]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token(dynamics).json()['access_token']}"
        yield OtherClient(session, f"{dynamics.http}/")


# The vendor's client.


def test_sdk_creates_reads_changes_and_deletes(sdk: DataverseClient, dynamics: Running) -> None:
    made = sdk.records.create("account", {"name": "Fabrikam", "customertypecode": "Customer"})
    assert isinstance(made, str)
    found = sdk.records.retrieve("account", made, select=["name", "customertypecode"])
    assert found is not None
    assert (found["name"], found["customertypecode"]) == ("Fabrikam", 3)  # it asked for the choice's labels first
    sdk.records.update("account", made, {"name": "Fabrikam Ltd"})
    assert [r["name"] for r in sdk.records.list("account", filter="startswith(name,'fab')")] == ["Fabrikam Ltd"]
    sdk.records.delete("account", made)
    assert sdk.records.retrieve("account", made) is None
    users = {w["user"] for w in simulator(dynamics).written}
    assert users == {dynamics.ready["credentials"]["integration_user"]}


def test_sdk_raises_what_the_service_says(sdk: DataverseClient, dynamics: Running) -> None:
    with pytest.raises(HttpError) as missing:
        sdk.records.update("account", "00000000-0000-4000-8000-000000000000", {"name": "x"})
    assert missing.value.status_code == 404
    assert missing.value.details["service_error_code"] == "0x80040217"
    with control(dynamics) as there:
        there.post("/faults", json={"kind": "limit_requests", "retry_after_s": 17, "path": "accounts"})
    with pytest.raises(HttpError) as limited:
        sdk.records.create("account", {"name": "x"})
    assert limited.value.status_code == 429
    assert limited.value.is_transient
    assert limited.value.details["retry_after"] == 17


def test_sdk_writes_many_at_once_and_upserts_by_an_alternate_key(sdk: DataverseClient) -> None:
    ids = sdk.records.create("contact", [{"lastname": f"N{n}", "td_tidelockid": f"t{n}"} for n in range(120)])
    assert len(set(ids)) == 120
    sdk.records.update("contact", list(ids), {"department": "Sales"})
    keys: list[UpsertItem | dict[str, Any]] = [
        {"alternate_key": {"td_tidelockid": f"t{n}"}, "record": {"jobtitle": "Buyer"}} for n in (5, 500)
    ]
    sdk.records.upsert("contact", keys)
    buyers = sdk.records.list("contact", filter="jobtitle eq 'Buyer'", select=["td_tidelockid", "department"])
    assert {(b["td_tidelockid"], b["department"]) for b in buyers} == {("t5", "Sales"), ("t500", None)}
    assert sdk.records.delete("contact", list(ids)) is not None  # a job's id
    assert [b["td_tidelockid"] for b in sdk.records.list("contact", select=["td_tidelockid"])] == ["t500"]


def test_sdk_pages_to_the_end(sdk: DataverseClient) -> None:
    sdk.records.create("contact", [{"lastname": f"N{n:03}"} for n in range(55)])
    pages = list(sdk.records.list_pages("contact", select=["lastname"], orderby=["lastname desc"], page_size=20))
    assert [len(list(p)) for p in pages] == [20, 20, 15]
    assert [r["lastname"] for p in pages for r in p] == [f"N{n:03}" for n in reversed(range(55))]


def test_sdk_batches_with_change_sets_and_references(sdk: DataverseClient) -> None:
    batch = sdk.batch.new()
    with batch.changeset() as changes:
        reference = changes.records.create("account", {"name": "Parent"})
        changes.records.update("account", reference, {"telephone1": "1"})
        changes.records.create("contact", {"lastname": "Child", "parentcustomerid_account@odata.bind": reference})
    batch.records.list("contact", select=["lastname"], expand=["parentcustomerid_account($select=name,telephone1)"])
    result = batch.execute()
    assert not result.has_errors
    answer = result.responses[-1].data
    assert answer is not None
    assert answer["value"][0]["parentcustomerid_account"]["telephone1"] == "1"

    failing = sdk.batch.new()
    with failing.changeset() as changes:
        changes.records.create("account", {"name": "Rolled back"})
        changes.records.create("account", {"no_such_column": 1})
    failing.records.create("account", {"name": "Stays"})
    result = failing.execute(continue_on_error=True)
    assert [r.status_code for r in result.responses] == [400, 204]
    assert {r["name"] for r in sdk.records.list("account", select=["name"])} == {"Parent", "Stays"}


def test_sdk_reads_fetchxml(sdk: DataverseClient) -> None:
    sdk.records.create("account", [{"name": f"A{n}", "revenue": n * 10.5} for n in range(30)])
    xml = """<fetch count="8"><entity name="account"><attribute name="name"/><order attribute="name"/>
      <filter><condition attribute="revenue" operator="ge" value="105"/><condition attribute="name" operator="like" value="A%"/></filter>
    </entity></fetch>"""
    names = [r["name"] for r in sdk.query.fetchxml(xml).execute()]
    assert names == [f"A{n}" for n in range(10, 30)]


def test_sdk_reads_sql(sdk: DataverseClient) -> None:
    sdk.records.create("account", [{"name": f"A={n}", "revenue": n, "accountnumber": "xy"[n % 2]} for n in range(12)])
    some = "SELECT TOP 3 a.name, a.revenue FROM account a WHERE a.name LIKE 'a=%' AND a.revenue >= 4 AND a.name <> 'A=5' ORDER BY a.revenue DESC"
    assert [r["name"] for r in sdk.query.sql(some)] == ["A=11", "A=10", "A=9"]
    assert [r["total"] for r in sdk.query.sql("SELECT COUNT(*) AS total FROM account WHERE telephone1 IS NULL")] == [12]
    groups = sdk.query.sql("SELECT accountnumber, SUM(revenue) AS total FROM account GROUP BY accountnumber")
    assert {(g["accountnumber"], g["total"]) for g in groups} == {("x", 30), ("y", 36)}


def test_sdk_changes_the_schema(sdk: DataverseClient) -> None:
    made = sdk.tables.create("td_Sample", {"td_Amount": "decimal", "td_When": "datetime", "td_Code": "string"})
    assert made.entity_set_name == "td_samples"
    sdk.tables.create_alternate_key("td_Sample", "td_samplekey", ["td_code"])
    assert [k.key_attributes for k in sdk.tables.get_alternate_keys("td_Sample")] == [["td_code"]]
    sdk.tables.create_lookup_field("td_sample", "td_AccountId", "account")
    account = sdk.records.create("account", {"name": "Owner"})
    row = sdk.records.create(
        "td_sample", {"td_code": "1", "td_amount": 1.239, "td_AccountId@odata.bind": f"/accounts({account})"}
    )
    found = sdk.records.retrieve("td_sample", str(row), select=["td_amount", "_td_accountid_value"])
    assert found is not None
    assert (found["td_amount"], found["_td_accountid_value"]) == (1.24, account)
    with pytest.raises(HttpError, match="already exists"):
        sdk.records.create("td_sample", {"td_code": "1"})
    sdk.tables.delete("td_sample")
    assert sdk.tables.get("td_sample") is None


def test_sdk_reads_metadata(sdk: DataverseClient) -> None:
    assert {"account", "contact"} <= {t["LogicalName"] for t in sdk.tables.list(select=["LogicalName"])}
    columns = {c["LogicalName"]: c for c in sdk.tables.list_columns("account")}
    assert columns["name"]["AttributeType"] == "String"
    names = {r["SchemaName"] for r in sdk.tables.list_table_relationships("account")}
    assert {"contact_customer_accounts", "account_primary_contact", "accountleads_association"} <= names


# dataverse-api.


def test_other_client_reads_and_writes_in_all_its_modes(other: OtherClient) -> None:
    contacts = other.entity("contact")
    assert contacts.supports_create_multiple
    assert contacts.alternate_keys == {"td_tidelockkey": ["td_tidelockid"]}
    assert "parentcustomerid_account" in contacts.relationships.single_valued
    assert contacts.create([{"lastname": "One"}], return_created=True)[0].json()["lastname"] == "One"
    assert len(contacts.create([{"lastname": f"M{n}"} for n in range(7)], mode="multiple")[0].json()["Ids"]) == 7
    assert contacts.create([{"lastname": f"B{n}"} for n in range(6)], mode="batch")[0].status_code == 200
    rows = contacts.read(select=["lastname"], order_by="lastname", page_size=5)
    assert [r["lastname"] for r in rows] == [*(f"B{n}" for n in range(6)), *(f"M{n}" for n in range(7)), "One"]
    data = [{"td_tidelockid": "k1", "lastname": "Upserted"}, {"td_tidelockid": "k2", "lastname": "Upserted"}]
    contacts.upsert(data, mode="batch", altkey_name="td_tidelockkey")
    contacts.upsert([{"td_tidelockid": "k2", "lastname": "Again"}], altkey_name="td_tidelockkey")
    kept = contacts.read(select=["td_tidelockid", "lastname"], filter="td_tidelockid ne null", order_by="td_tidelockid")
    assert [(r["td_tidelockid"], r["lastname"]) for r in kept][-1] == ("k2", "Again")
    contacts.delete_columns(["lastname"], filter="td_tidelockid eq 'k2'")
    assert contacts.read(filter="td_tidelockid eq 'k2'")[0]["lastname"] is None
    contacts.delete(mode="batch", filter="all")
    assert contacts.read() == []


def test_other_client_sees_formatted_values_and_duplicates(other: OtherClient) -> None:
    accounts = other.entity("account")
    accounts.create([{"name": "A", "revenue": 1234.5, "emailaddress1": "a@example.com"}])
    row = accounts.read(select=["revenue", "statecode", "_ownerid_value"], return_formatted_values=True)[0]
    shown = {n.partition("@")[0]: v for n, v in row.items() if n.endswith("FormattedValue")}
    assert shown == {"revenue": "$1,234.50", "statecode": "Active", "_ownerid_value": "# Integration"}
    refused = accounts.create([{"name": "B", "emailaddress1": "A@example.com"}], detect_duplicates=True)
    assert (refused[0].status_code, refused[0].json()["error"]["code"]) == (412, "0x80040333")
    assert accounts.create([{"name": "B", "emailaddress1": "A@example.com"}])[0].status_code == 204


# azure-identity, which most programs sign in with.


def _credential(dynamics: Running, **more: Any) -> ClientSecretCredential:
    known = dynamics.ready["credentials"]
    return ClientSecretCredential(
        known["tenant"],
        known["client_id"],
        more.pop("secret", known["client_secret"]),
        authority=dynamics.https.replace("127.0.0.1", "localhost"),
        disable_instance_discovery=True,
        connection_verify=dynamics.ca,
        **more,
    )


def test_azure_identity_signs_in_for_the_sdk(dynamics: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", dynamics.ca)
    with _credential(dynamics) as credential, DataverseClient(dynamics.https, credential) as client:
        assert client.records.create("contact", {"lastname": "Signed in"})


def test_azure_identity_says_why_a_secret_is_refused(dynamics: Running) -> None:
    with (
        _credential(dynamics, secret="wrong") as credential,
        pytest.raises(ClientAuthenticationError, match="AADSTS7000215"),
    ):
        credential.get_token(f"{dynamics.https}/.default")
