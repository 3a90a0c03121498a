"""Rows of the Dynamics simulator: conditions, keys, lookups, states, what is refused and with which words."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from simulators.server import Running
from tests.simulators.dynamics_access import simulator

ANYONE = "00000000-0000-4000-8000-00000000000a"
WHOLE = {"Prefer": "return=representation"}


def _made(api: httpx.Client, entity_set: str, **values: Any) -> str:
    got = api.post(entity_set, json=values)
    assert got.status_code == 204, got.text
    return got.headers["odata-entityid"].rpartition("(")[2].rstrip(")")


def _error(got: httpx.Response) -> tuple[int, str]:
    return got.status_code, got.json()["error"]["code"]


def test_a_create_answers_with_the_address_or_with_the_row(api: httpx.Client) -> None:
    bare = api.post("accounts", json={"name": "A"})
    assert (bare.status_code, bare.content) == (204, b"")
    assert bare.headers["odata-entityid"] == bare.headers["location"]
    assert bare.headers["odata-version"] == "4.0"
    whole = api.post("accounts?$select=name", json={"name": "B"}, headers=WHOLE)
    assert whole.status_code == 201
    assert set(whole.json()) == {"@odata.context", "@odata.etag", "accountid", "name"}
    assert whole.headers["preference-applied"] == "return=representation"


def test_a_client_may_choose_the_id_once(api: httpx.Client) -> None:
    assert _made(api, "contacts", contactid=ANYONE, lastname="A") == ANYONE
    again = api.post("contacts", json={"contactid": ANYONE, "lastname": "B"})
    assert _error(again) == (412, "0x80040237")


def test_a_patch_creates_what_is_missing_unless_it_is_told_not_to(api: httpx.Client) -> None:
    path = f"contacts({ANYONE})"
    only = api.patch(path, json={"lastname": "A"}, headers={"If-Match": "*"})
    assert _error(only) == (404, "0x80040217")
    assert "Does Not Exist" in only.json()["error"]["message"]
    made = api.patch(path, json={"lastname": "A"})
    assert (made.status_code, made.headers["odata-entityid"].endswith(path)) == (204, True)
    assert api.patch(path, json={"lastname": "B"}, headers={"If-None-Match": "*"}).status_code == 412
    assert api.patch(path, json={"lastname": "B"}, headers={"If-None-Match": "null"}).status_code == 204
    assert api.get(path).json()["lastname"] == "B"


def test_a_stale_etag_is_refused_and_changes_nothing(api: httpx.Client) -> None:
    row = _made(api, "contacts", lastname="A")
    etag = api.get(f"contacts({row})").headers["etag"]
    fresh = api.patch(f"contacts({row})", json={"lastname": "B"}, headers={"If-Match": etag, **WHOLE})
    assert (fresh.status_code, fresh.json()["@odata.etag"] != etag) == (200, True)
    for stale in (
        api.patch(f"contacts({row})", json={"lastname": "C"}, headers={"If-Match": etag}),
        api.delete(f"contacts({row})", headers={"If-Match": etag}),
    ):
        assert _error(stale) == (412, "0x80060882")
    assert api.get(f"contacts({row})?$select=lastname").json()["lastname"] == "B"
    unchanged = api.get(f"contacts({row})", headers={"If-None-Match": fresh.json()["@odata.etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert api.get(f"contacts({row})", headers={"If-None-Match": etag}).status_code == 200


def test_an_upsert_by_alternate_key_answers_with_the_keys_address(api: httpx.Client) -> None:
    key = "contacts(td_tidelockid='it''s%2F1')"
    created = api.patch(key, json={"lastname": "A"})
    assert (created.status_code, created.headers["odata-entityid"].endswith("(td_tidelockid='it''s/1')")) == (204, True)
    assert api.patch(f"{key}?$select=contactid", json={"lastname": "B"}, headers=WHOLE).status_code == 200
    new = api.patch("contacts(td_tidelockid='n')?$select=contactid", json={"lastname": "N"}, headers=WHOLE)
    assert new.status_code == 201
    # A key column in the body is dropped from an update, and wins over the address in a create.
    api.patch(key, json={"td_tidelockid": "other"})
    assert api.get(key).json()["td_tidelockid"] == "it's/1"
    api.patch("contacts(td_tidelockid='asked')", json={"td_tidelockid": "given", "lastname": "G"})
    assert _error(api.get("contacts(td_tidelockid='asked')")) == (404, "0x80060891")
    assert api.get("contacts(td_tidelockid='GIVEN')").json()["lastname"] == "G"


def test_alternate_keys_are_unique_and_may_have_several_columns(api: httpx.Client, there: httpx.Client) -> None:
    wish = [{"name": "region_key", "columns": ["accountnumber", "numberofemployees"]}]
    assert there.post("/keys/account", json=wish).status_code == 200
    _made(api, "accounts", name="A", accountnumber="1", numberofemployees=5)
    _made(api, "accounts", name="B", accountnumber="1", numberofemployees=6)
    taken = api.post("accounts", json={"name": "C", "accountnumber": "1", "numberofemployees": 6})
    assert _error(taken) == (412, "0x80060892")
    assert api.get("accounts(accountnumber='1',numberofemployees=6)").json()["name"] == "B"
    assert api.get("accounts(accountnumber='1')").status_code == 400
    assert there.post("/keys/account", json=[{"name": "by_number", "columns": ["accountnumber"]}]).status_code == 400


def test_two_contacts_may_share_an_e_mail_address(api: httpx.Client) -> None:
    for _ in range(2):
        _made(api, "contacts", lastname="A", emailaddress1="same@example.com")
    assert api.get("contacts?$filter=emailaddress1 eq 'SAME@example.com'&$count=true").json()["@odata.count"] == 2


def test_lookups_are_bound_by_their_case_sensitive_name_and_shown_with_their_table(api: httpx.Client) -> None:
    account = _made(api, "accounts", name="Parent")
    bind = {"parentcustomerid_account@odata.bind": f"/accounts({account})"}
    contact = _made(api, "contacts", lastname="Child", **bind)
    row = api.get(
        f"contacts({contact})?$select=_parentcustomerid_value", headers={"Prefer": 'odata.include-annotations="*"'}
    ).json()
    value = "_parentcustomerid_value"
    assert row[value] == account
    assert row[f"{value}@Microsoft.Dynamics.CRM.lookuplogicalname"] == "account"
    assert row[f"{value}@OData.Community.Display.V1.FormattedValue"] == "Parent"
    assert row[f"{value}@Microsoft.Dynamics.CRM.associatednavigationproperty"] == "parentcustomerid_account"
    for body in ({"ParentCustomerId_account@odata.bind": f"/accounts({account})"}, {value: account}):
        assert _error(api.patch(f"contacts({contact})", json=body)) == (400, "0x80048d19")
    missing = api.patch(f"contacts({contact})", json={"parentcustomerid_account@odata.bind": f"/accounts({ANYONE})"})
    assert _error(missing) == (404, "0x80040217")
    assert api.patch(f"contacts({contact})", json={"parentcustomerid_account": None}).status_code == 204
    assert api.get(f"contacts({contact})").json()[value] is None


def test_references_are_set_read_and_taken_away(api: httpx.Client) -> None:
    account, contact = _made(api, "accounts", name="A"), _made(api, "contacts", lastname="C")
    reference = {"@odata.id": f"{api.base_url}contacts({contact})"}
    assert api.put(f"accounts({account})/primarycontactid/$ref", json=reference).status_code == 204
    assert api.get(f"accounts({account})/primarycontactid?$select=lastname").json()["lastname"] == "C"
    assert api.get(f"accounts({account})/primarycontactid/$ref").json()["@odata.id"].endswith(f"contacts({contact})")
    assert api.delete(f"accounts({account})/primarycontactid/$ref").status_code == 204
    assert api.get(f"accounts({account})/primarycontactid").status_code == 204
    assert api.post(f"accounts({account})/contact_customer_accounts/$ref", json=reference).status_code == 204
    assert len(api.get(f"accounts({account})/contact_customer_accounts").json()["value"]) == 1
    assert api.delete(f"accounts({account})/contact_customer_accounts({contact})/$ref").status_code == 204
    assert api.get(f"accounts({account})/contact_customer_accounts").json()["value"] == []
    lead = _made(api, "leads", lastname="L")
    pair = {"@odata.id": f"leads({lead})"}
    assert api.post(f"accounts({account})/accountleads_association/$ref", json=pair).status_code == 204
    assert [a["name"] for a in api.get(f"leads({lead})/accountleads_association").json()["value"]] == ["A"]


def test_single_properties_are_read_set_and_cleared(api: httpx.Client) -> None:
    row = _made(api, "contacts", lastname="A", jobtitle="Buyer")
    assert api.get(f"contacts({row})/jobtitle").json()["value"] == "Buyer"
    assert api.get(f"contacts({row})/jobtitle/$value").text == "Buyer"
    assert api.put(f"contacts({row})/jobtitle", json={"value": "Seller"}).status_code == 204
    assert api.get(f"contacts({row})").json()["jobtitle"] == "Seller"
    assert api.delete(f"contacts({row})/jobtitle").status_code == 204
    assert api.get(f"contacts({row})/jobtitle").status_code == 204


def test_nested_rows_are_created_with_their_parent_or_not_at_all(api: httpx.Client) -> None:
    account = _made(
        api,
        "accounts",
        name="A",
        primarycontactid={"lastname": "First"},
        contact_customer_accounts=[{"lastname": "Second"}, {"lastname": "Third"}],
    )
    row = api.get(
        f"accounts({account})?$select=name&$expand=primarycontactid($select=lastname),"
        "contact_customer_accounts($select=lastname;$orderby=lastname desc)"
    ).json()
    assert row["primarycontactid"]["lastname"] == "First"
    assert [c["lastname"] for c in row["contact_customer_accounts"]] == ["Third", "Second"]
    bad = api.post("accounts", json={"name": "B", "primarycontactid": {"lastname": "Lost"}, "numberofemployees": -1})
    assert bad.status_code == 400
    assert api.get("contacts?$filter=lastname eq 'Lost'").json()["value"] == []


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"name": "x" * 161}, "0x80044331"),
        ({"contact_customer_accounts": [5]}, "0x80048d19"),
        ({"primarycontactid": "x"}, "0x80048d19"),
        ({"no_such_column": 1}, "0x80048d19"),
        ({"Name": "x"}, "0x80048d19"),
        ({"numberofemployees": "many"}, "0x80048d19"),
        ({"numberofemployees": -1}, "0x80044330"),
        ({"customertypecode": 99}, "0x8004431a"),
        ({"statuscode": 2}, "0x80048408"),
    ],
)
def test_values_that_do_not_fit_are_refused(api: httpx.Client, values: dict[str, Any], code: str) -> None:
    assert _error(api.post("accounts", json={"name": "A", **values})) == (400, code)
    assert api.get("accounts").json()["value"] == []


def test_values_are_kept_as_the_platform_keeps_them(api: httpx.Client) -> None:
    given = {
        "name": "A",
        "revenue": 10.005,
        "telephone1": "",
        "statecode": 1,
        "overriddencreatedon": "2020-02-03T04:05:06.7+01:00",
    }
    row = api.post("accounts", json=given, headers=WHOLE).json()
    assert (row["revenue"], row["telephone1"]) == (10.01, None)
    assert (row["statecode"], row["statuscode"]) == (0, 1)  # a row is created active, whatever the body says
    assert row["createdon"] == "2020-02-03T03:05:06Z"
    inactive = api.patch(f"accounts({row['accountid']})", json={"statecode": 1}, headers=WHOLE).json()
    assert (inactive["statecode"], inactive["statuscode"]) == (1, 2)


def test_versions_grow_with_every_change_while_times_are_whole_seconds(api: httpx.Client) -> None:
    row = api.post("contacts", json={"lastname": "0"}, headers=WHOLE).json()
    seen = [row["versionnumber"]]
    for n in range(5):
        row = api.patch(f"contacts({row['contactid']})", json={"lastname": str(n)}, headers=WHOLE).json()
        seen.append(row["versionnumber"])
        assert row["@odata.etag"] == f'W/"{row["versionnumber"]}"'
        assert len(row["modifiedon"]) == len("2026-11-22T18:00:00Z")
    assert seen == sorted(set(seen))


def test_a_delete_takes_children_along_or_clears_what_points_there(api: httpx.Client) -> None:
    account = _made(api, "accounts", name="A")
    child = _made(api, "contacts", lastname="C", **{"parentcustomerid_account@odata.bind": f"accounts({account})"})
    pointing = _made(api, "accounts", name="B", **{"primarycontactid@odata.bind": f"contacts({child})"})
    assert api.delete(f"accounts({account})").status_code == 204
    assert api.get(f"contacts({child})").status_code == 404
    assert api.get(f"accounts({pointing})").json()["_primarycontactid_value"] is None
    assert _error(api.delete(f"accounts({account})")) == (404, "0x80040217")
    parent = _made(api, "products", name="P")
    _made(api, "products", name="Part", **{"parentproductid@odata.bind": f"products({parent})"})
    assert _error(api.delete(f"products({parent})")) == (405, "0x80040227")


def test_impersonation_shows_both_users(api: httpx.Client, dynamics: Running) -> None:
    known = dynamics.ready["credentials"]
    row = api.post("contacts", json={"lastname": "A"}, headers={**WHOLE, "MSCRMCallerID": known["user"]}).json()
    assert row["_modifiedby_value"] == row["_ownerid_value"] == known["user"]
    assert row["_modifiedonbehalfby_value"] == known["integration_user"]
    unknown = api.post("contacts", json={}, headers={"CallerObjectId": ANYONE})
    assert _error(unknown) == (403, "0x80072560")


def test_bulk_messages_do_everything_or_nothing(api: httpx.Client) -> None:
    kind = {"@odata.type": "Microsoft.Dynamics.CRM.contact"}
    action = "contacts/Microsoft.Dynamics.CRM."
    made = api.post(f"{action}CreateMultiple", json={"Targets": [{**kind, "lastname": f"{n}"} for n in range(3)]})
    ids = made.json()["Ids"]
    assert (made.status_code, len(ids)) == (200, 3)
    changes = [{**kind, "contactid": i, "jobtitle": "x"} for i in ids]
    lost = api.post(f"{action}UpdateMultiple", json={"Targets": [*changes, {**kind, "contactid": ANYONE}]})
    assert _error(lost) == (404, "0x80040217")
    assert {c["jobtitle"] for c in api.get("contacts").json()["value"]} == {None}
    assert api.post(f"{action}UpdateMultiple", json={"Targets": changes}).status_code == 204
    targets = [{**kind, "@odata.id": f"contacts(td_tidelockid='{n}')", "lastname": "U"} for n in (1, 2)]
    assert api.post(f"{action}UpsertMultiple", json={"Targets": targets}).status_code == 204
    assert api.post(f"{action}UpsertMultiple", json={"Targets": targets}).status_code == 204
    assert len(api.get("contacts").json()["value"]) == 5
    assert _error(api.post(f"{action}CreateMultiple", json={"Targets": [{"lastname": "no type"}]})) == (
        400,
        "0x80048d19",
    )


def test_errors_carry_annotations_when_they_are_asked_for(api: httpx.Client) -> None:
    plain = api.get(f"contacts({ANYONE})").json()["error"]
    assert set(plain) == {"code", "message"}
    annotated = api.get(f"contacts({ANYONE})", headers={"Prefer": 'odata.include-annotations="*"'}).json()["error"]
    assert "@Microsoft.PowerApps.CDS.HelpLink" in annotated
    assert _error(api.get("nothing")) == (404, "0x80060888")


def test_the_control_api_edits_and_deletes_as_a_user_and_tells_what_clients_wrote(
    api: httpx.Client, there: httpx.Client, dynamics: Running
) -> None:
    known = dynamics.ready["credentials"]
    (row,) = there.post("/load/contacts", json=[{"lastname": "Loaded"}]).json()["ids"]
    assert api.get(f"contacts({row})").json()["_modifiedby_value"] == known["user"]
    api.patch(f"contacts({row})?tag=ours", json={"lastname": "Ours"})
    assert api.get(f"contacts({row})").json()["_modifiedby_value"] == known["integration_user"]
    there.post("/edit/contact", json=[{"id": row, "lastname": "Theirs"}])
    assert api.get(f"contacts({row})").json()["_modifiedby_value"] == known["user"]
    there.post("/delete/contact", json=[row])
    assert [(w["message"], w["tag"], w["app"] != "") for w in there.get("/written").json()] == [
        ("Create", None, False),
        ("Update", "ours", True),
        ("Update", None, False),
        ("Delete", None, False),
    ]
    assert there.get("/records/contact").json()[0]["@deleted"] is True
    assert there.post("/load/contact", json=[{"lastname": "A"}, {"nonsense": 1}]).status_code == 400
    assert there.post("/edit/contact", json=[{"id": ANYONE}]).status_code == 400
    assert len(simulator(dynamics).dump("contact")) == 1
