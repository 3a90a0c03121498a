"""The shop's records: written one by one and by ten, with their rules, lists, hand-over and versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from simulators.shop import ShopSimulator
from tests.simulators.shopping import API, Shop, customer, order
from tests.simulators.shopping import shop as serving


@pytest.fixture
def shop() -> Iterator[Shop]:
    with serving() as running:
        yield running


def test_a_record_is_created_read_changed_and_told_with_its_version(shop: Shop) -> None:
    created = shop.write("POST", "customers", customer(email="Ada@Example.com", first_name=" Ada ", source="hub"))[0]
    assert (created["status"], created["http_status"], created["version"]) == ("created", 201, 1)
    path = f"{API}/customers/{created['id']}"
    got = shop.client.get(path)
    assert got.headers["etag"] == '"1"'
    assert got.json() == created["record"]
    assert (got.json()["email"], got.json()["first_name"], got.json()["source"]) == ("ada@example.com", "Ada", "hub")
    changed = shop.client.patch(path, json={"first_name": "Augusta"}, headers={"if-match": '"1"'})
    assert (changed.status_code, changed.headers["etag"], changed.json()["first_name"]) == (200, '"2"', "Augusta")
    assert changed.json()["source"] == "api"
    assert changed.json()["updated_at"] >= got.json()["updated_at"]


def test_a_write_that_changes_nothing_leaves_the_version(shop: Shop) -> None:
    created = shop.write("POST", "customers", customer())[0]
    again = shop.write("PATCH", "customers", {"id": created["id"], "last_name": "Lovelace", "source": "other"})[0]
    assert (again["status"], again["version"]) == ("unchanged", 1)
    assert again["record"] == created["record"]


def test_an_old_version_is_refused_in_both_ways_of_writing(shop: Shop) -> None:
    record_id = shop.load("customers", customer())[0]
    shop.edit("customers", {"id": record_id, "phone": "1"})
    path = f"{API}/customers/{record_id}"
    got = shop.client.patch(path, json={"phone": "2"}, headers={"if-match": '"1"'})
    assert (got.status_code, got.json()["code"], got.json()["version"]) == (412, "version_mismatch", 2)
    result = shop.write("PATCH", "customers", {"id": record_id, "if_version": 1, "phone": "2"})[0]
    assert (result["status"], result["http_status"], result["error"]["code"]) == ("failed", 412, "version_mismatch")
    assert shop.client.patch(path, json={"phone": "2"}, headers={"if-match": "W/2"}).json()["code"] == "bad_if_match"
    assert shop.client.get(path).json()["phone"] == "1"
    assert shop.client.patch(path, json={"phone": "2"}, headers={"if-match": "*"}).status_code == 200


def test_results_come_in_order_and_a_bad_record_holds_up_no_other(shop: Shop) -> None:
    results = shop.write("POST", "customers", customer(), customer(country="USX"), customer(nickname="x"), customer())
    assert [r["index"] for r in results] == [0, 1, 2, 3]
    assert [r["status"] for r in results] == ["created", "failed", "failed", "created"]
    assert [(e["code"], e["field"]) for r in results[1:3] for e in r["error"]["errors"]] == [
        ("country_not_iso3", "country"),
        ("unknown_field", "nickname"),
    ]


def test_ten_records_are_taken_and_eleven_are_not(shop: Shop) -> None:
    assert len(shop.write("POST", "products", *({"sku": f"S{n}", "name": "x"} for n in range(10)))) == 10
    got = shop.client.post(f"{API}/customers", json={"records": [customer()] * 11})
    assert (got.status_code, got.json()["code"]) == (413, "too_many_records")
    assert got.headers["content-type"] == "application/problem+json"
    assert shop.ids("customers") == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "malformed_json"),
        (b"[]", "malformed_envelope"),
        (b'{"records": []}', "malformed_envelope"),
        (b'{"records": [1]}', "malformed_envelope"),
        (b'{"records": [{}], "dry": 1}', "malformed_envelope"),
        (b'{"records": [{"last_name": "\xff"}]}', "malformed_json"),
    ],
)
def test_a_malformed_envelope_is_refused_as_a_whole(shop: Shop, body: bytes, code: str) -> None:
    got = shop.client.post(f"{API}/customers", content=body, headers={"content-type": "application/json"})
    assert (got.status_code, got.json()["code"]) == (400, code)
    assert shop.client.post(f"{API}/customers", content=body, headers={"content-type": "text/plain"}).status_code == 415


def test_text_that_is_too_long_is_refused_for_customers_and_cut_for_products_except_for_keys(shop: Shop) -> None:
    refused = shop.write("POST", "customers", customer(first_name="x" * 31))[0]
    assert [(e["code"], e["field"]) for e in refused["error"]["errors"]] == [("too_long", "first_name")]
    product = shop.write("POST", "products", {"sku": "S", "name": "x" * 61, "description": "y" * 600})[0]
    assert (product["record"]["name"], len(product["record"]["description"])) == ("x" * 60, 500)
    assert shop.write("POST", "products", {"sku": "s" * 31, "name": "x"})[0]["error"]["errors"][0]["code"] == "too_long"


@pytest.mark.parametrize(
    ("kind", "record", "code"),
    [
        ("customers", {"email": "a@b.c", "last_name": "X"}, "required"),
        ("customers", customer(last_name="  "), "required"),
        ("customers", customer(country="United States"), "country_not_iso3"),
        ("customers", customer(email="nobody"), "bad_email"),
        ("customers", customer(credit_limit=5), "bad_type"),
        ("customers", customer(credit_limit="5.123"), "bad_amount"),
        ("customers", customer(status=2), "bad_value"),
        ("customers", customer(version=3), "read_only_field"),
        ("orders", order(lines=[]), "out_of_range"),
        ("orders", order(lines=[{"sku": "A", "quantity": 0, "unit_price": "1"}]), "out_of_range"),
        ("orders", order(order_date="2026-11-26T09:30:00"), "bad_time"),
        ("orders", order(total="1.00"), "read_only_field"),
    ],
)
def test_a_wrong_value_is_named_with_code_and_field(shop: Shop, kind: str, record: dict[str, Any], code: str) -> None:
    result = shop.write("POST", kind, record)[0]
    assert (result["http_status"], result["error"]["errors"][0]["code"]) == (422, code)
    assert result["error"]["errors"][0]["field"]
    assert shop.ids(kind) == []


def test_a_time_long_ago_keeps_its_four_digits(shop: Shop) -> None:
    record = shop.write("POST", "orders", order(order_date="0044-03-15T11:00:00+01:00"))[0]["record"]
    assert record["order_date"] == "0044-03-15T10:00:00.000Z"


def test_an_order_gets_its_number_and_its_sums_from_the_shop(shop: Shop) -> None:
    record = shop.write("POST", "orders", order(shipping_amount="5", tax_amount="1.1"))[0]["record"]
    assert record["order_number"].startswith("W")
    assert [line["line_total"] for line in record["lines"]] == ["25.00", "0.99"]
    assert (record["subtotal"], record["shipping_amount"], record["total"]) == ("25.99", "5.00", "32.09")


def test_an_external_ref_is_unique_and_finds_its_record(shop: Shop) -> None:
    first = shop.write("POST", "customers", customer(external_ref="hub-1"))[0]
    twice = shop.write("POST", "customers", customer(external_ref="hub-1"))[0]
    assert (twice["http_status"], twice["error"]["code"]) == (409, "duplicate_external_ref")
    assert twice["error"]["existing_id"] == first["id"]
    assert shop.write("PATCH", "customers", {"external_ref": "hub-1", "phone": "5"})[0]["id"] == first["id"]
    missing = shop.write("PATCH", "customers", {"external_ref": "hub-9", "phone": "5"})[0]
    assert (missing["http_status"], missing["error"]["code"]) == (404, "not_found")
    results = shop.write("PUT", "customers", customer(external_ref="hub-1"), customer(external_ref="hub-2"))
    assert [r["status"] for r in results] == ["unchanged", "created"]
    assert shop.ids("customers", external_ref="hub-2") == [results[1]["id"]]


def test_numbers_are_unique_and_references_must_lead_somewhere(shop: Shop) -> None:
    shop.load("customers", customer(customer_number="C1"))
    assert (
        shop.write("POST", "customers", customer(customer_number="C1"))[0]["error"]["code"]
        == "duplicate_customer_number"
    )
    invoice = {
        "invoice_number": "I1",
        "invoice_date": "2026-11-26",
        "currency": "USD",
        "total": "9",
        "open_amount": "9",
    }
    results = shop.write("POST", "invoices", {**invoice, "customer_number": "C2"}, {**invoice, "customer_number": "C1"})
    assert [r["http_status"] for r in results] == [409, 201]
    assert results[0]["error"]["code"] == "unknown_customer"


def test_a_delete_disables_removes_or_refuses_by_resource(shop: Shop) -> None:
    customer_id = shop.load("customers", customer(customer_number="C1"))[0]
    shop.load("products", {"sku": "S", "name": "x"})
    price_id = shop.load("prices", {"sku": "S", "price": "1", "currency": "USD", "external_ref": "p"})[0]
    order_id = shop.load("orders", order())[0]
    got = shop.client.delete(f"{API}/customers/{customer_id}")
    assert (got.status_code, got.json()["status"], got.json()["version"]) == (200, 0, 2)
    assert shop.ids("customers", status=0) == [customer_id]
    assert shop.client.delete(f"{API}/prices/{price_id}").status_code == 204
    assert shop.client.get(f"{API}/prices/{price_id}").status_code == 404
    assert shop.client.delete(f"{API}/orders/{order_id}").json()["code"] == "delete_refused"
    several = shop.client.delete(f"{API}/customers", params={"id": [customer_id, 999]}).json()
    assert [(r["id"], r["status"]) for r in several["results"]] == [(customer_id, "disabled"), (999, "failed")]
    gone = shop.client.get(f"{API}/deletions", params={"resource": "prices"}).json()["data"]
    assert [(g["id"], g["external_ref"], g["version"]) for g in gone] == [(price_id, "p", 2)]


def test_what_a_user_removed_is_told_in_pages_from_a_time_on(shop: Shop) -> None:
    ids = shop.load("customers", *(customer(customer_number=f"C{n}") for n in range(3)))
    shop.control.post("/delete/customers", json=ids[:2])
    page = shop.client.get(f"{API}/deletions", params={"resource": "customers", "limit": 1}).json()
    rest = shop.client.get(
        f"{API}/deletions", params={"resource": "customers", "limit": 1, "cursor": page["next_cursor"]}
    ).json()
    assert [d["number"] for d in page["data"] + rest["data"]] == ["C0", "C1"]
    assert rest["next_cursor"] is None
    since = {"deleted_at_min": rest["data"][0]["deleted_at"], "after_id": rest["data"][0]["id"]}
    assert shop.client.get(f"{API}/deletions", params={"resource": "customers", **since}).json()["data"] == []
    shop.control.post("/clock", json={"advance_s": 31 * 86_400})
    assert shop.client.get(f"{API}/deletions", params={"resource": "customers"}).json()["data"] == []


def test_lists_are_paged_in_order_of_change_and_a_changed_record_moves_to_the_end(shop: Shop) -> None:
    ids = shop.load("customers", *(customer() for _ in range(7)))
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 3}
    for _ in range(3):
        page = shop.client.get(f"{API}/customers", params=query).json()
        seen += [r["id"] for r in page["data"]]
        if len(seen) == 3:
            shop.edit("customers", {"id": ids[0], "phone": "1"})
        if page["next_cursor"] is not None:
            query["cursor"] = page["next_cursor"]
    assert seen == [*ids, ids[0]]
    assert page["next_cursor"] is None
    other_filter = shop.client.get(f"{API}/customers", params={**query, "status": 1})
    assert (other_filter.status_code, other_filter.json()["code"]) == (400, "bad_parameter")


def test_the_lower_bound_includes_its_own_time_and_the_id_breaks_ties(shop: Shop) -> None:
    ids = shop.load("customers", *(customer() for _ in range(40)))
    records = shop.client.get(f"{API}/customers", params={"limit": 250}).json()["data"]
    assert [r["id"] for r in records] == ids
    assert len({r["updated_at"] for r in records}) < 40, "nothing shares a millisecond: there are no ties to break"
    at, last = records[20]["updated_at"], records[20]["id"]
    from_then = shop.ids("customers", updated_at_min=at)
    assert from_then == [r["id"] for r in records if r["updated_at"] >= at]
    assert shop.ids("customers", updated_at_min=at, after_id=last) == ids[21:]
    assert shop.ids("customers", updated_at_max=at) == [r["id"] for r in records if r["updated_at"] < at]
    zoned = at[:-1] + "+00:00"
    assert shop.ids("customers", updated_at_min=zoned) == from_then


@pytest.mark.parametrize(
    "query",
    [
        {"updated_at_min": "2026-11-26T10:00:00"},
        {"after_id": "5"},
        {"limit": "251"},
        {"limit": "0"},
        {"colour": "red"},
        {"exported": "2"},
        {"pull": "1", "exported": "1"},
        {"cursor": "abc"},
        {"erp_import_status": "lost"},
    ],
)
def test_a_list_cannot_be_asked_for_what_makes_no_sense(shop: Shop, query: dict[str, str]) -> None:
    got = shop.client.get(f"{API}/orders", params=query)
    assert (got.status_code, got.headers["content-type"]) == (400, "application/problem+json")


def test_pulling_returns_each_record_once_and_sets_the_flag_without_an_edit(shop: Shop) -> None:
    ids = shop.load("orders", *(order() for _ in range(5)))
    assert shop.ids("orders", exported=0) == ids
    first = shop.client.get(f"{API}/orders", params={"pull": 1, "limit": 3}).json()["data"]
    assert [(r["id"], r["exported"], r["version"], r["exported_version"]) for r in first] == [
        (i, 1, 1, 1) for i in ids[:3]
    ]
    assert first[0]["updated_at"] == first[0]["created_at"]
    assert shop.ids("orders", pull=1) == ids[3:]
    assert shop.ids("orders", pull=1) == []
    assert shop.ids("orders", exported=1) == ids


def test_pulling_needs_the_right_to_write(shop: Shop) -> None:
    reading = {"x-api-key": shop.credentials["read_only_api_key"]}
    assert shop.client.get(f"{API}/orders", headers=reading).status_code == 200
    got = shop.client.get(f"{API}/orders", params={"pull": 1}, headers=reading)
    assert (got.status_code, got.json()["code"]) == (403, "insufficient_scope")


def test_an_edit_between_reading_and_acknowledging_is_not_lost(shop: Shop) -> None:
    record_id = shop.load("orders", order())[0]
    read = shop.client.get(f"{API}/orders", params={"exported": 0}).json()["data"][0]
    shop.edit("orders", {"id": record_id, "comments": "call first"})
    results = shop.write("PATCH", "orders", {"id": record_id, "if_version": read["version"], "exported": 1})
    assert results[0]["error"]["code"] == "version_mismatch"
    assert shop.ids("orders", exported=0) == [record_id]
    acknowledged = shop.client.patch(
        f"{API}/orders/{record_id}", json={"exported": 1}, headers={"if-match": '"2"'}
    ).json()
    assert (acknowledged["exported"], acknowledged["version"], acknowledged["exported_version"]) == (1, 2, 2)
    assert shop.ids("orders", exported=0) == []


def test_an_edit_after_the_hand_over_shows_in_the_version_and_resets_the_flag_only_if_so_set(shop: Shop) -> None:
    record_id = shop.load("orders", order())[0]
    shop.ids("orders", pull=1)
    shop.edit("orders", {"id": record_id, "comments": "a"})
    record = shop.client.get(f"{API}/orders/{record_id}").json()
    assert (record["exported"], record["version"], record["exported_version"]) == (1, 2, 1)
    shop.control.post("/settings", json={"reexport_on_edit": True})
    shop.edit("orders", {"id": record_id, "comments": "b"})
    assert shop.ids("orders", exported=0) == [record_id]
    shop.ids("orders", pull=1)
    shop.write("PATCH", "orders", {"id": record_id, "erp_import_status": "success"})
    assert shop.ids("orders", exported=0) == [], "what the importer writes is no edit of a user"


def test_a_failed_import_is_told_mended_and_exported_again(shop: Shop) -> None:
    good, bad = shop.load("orders", order(), order(ship_postal_code="6270"))
    assert sorted(shop.ids("orders", erp_import_status="pending")) == [good, bad], "blank is pending"
    shop.ids("orders", pull=1)
    assert shop.control.post("/import/orders").json() == {"success": 1, "failed": 1}
    failed = shop.client.get(f"{API}/orders", params={"erp_import_status": "failed"}).json()["data"]
    assert [(r["id"], "6270" in r["erp_import_error"]) for r in failed] == [(bad, True)]
    again = shop.control.post("/export-again/orders", json=[{"id": bad, "ship_postal_code": "62701"}]).json()
    assert again[0]["version"] == failed[0]["version"] + 1
    record = shop.client.get(f"{API}/orders", params={"pull": 1}).json()["data"]
    assert [(r["id"], r["erp_import_status"], r["erp_import_error"]) for r in record] == [(bad, None, None)]
    assert record[0]["order_number"] == failed[0]["order_number"]
    assert shop.control.post("/import/orders").json() == {"success": 1, "failed": 0}


def test_an_import_error_is_cut_and_goes_away_with_success(shop: Shop) -> None:
    record_id = shop.load("orders", order())[0]
    failed = {"id": record_id, "erp_import_status": "failed", "erp_import_error": "x" * 400}
    assert len(shop.write("PATCH", "orders", failed)[0]["record"]["erp_import_error"]) == 255
    done = shop.write("PATCH", "orders", {"id": record_id, "erp_import_status": "success"})[0]["record"]
    assert done["erp_import_error"] is None


def test_the_api_checks_postal_codes_when_the_operator_wants_it(shop: Shop) -> None:
    assert shop.write("POST", "orders", order(ship_postal_code="1"))[0]["status"] == "created"
    shop.control.post("/settings", json={"validate_postal_code": True})
    refused = shop.write("POST", "orders", order(ship_postal_code="1"))[0]
    assert refused["error"]["errors"][0]["code"] == "bad_postal_code"
    assert shop.write("POST", "orders", order(ship_country="DEU", ship_postal_code="1"))[0]["status"] == "created"
    assert shop.load("orders", order(ship_postal_code="1")), "the storefront does not look"


def test_a_record_can_show_up_late_with_an_older_time(shop: Shop) -> None:
    shop.fault("late", delay_s=60)
    late, seen = shop.load("customers", customer(), customer())
    assert shop.ids("customers") == [seen]
    assert shop.client.get(f"{API}/customers/{late}").status_code == 200
    shop.control.post("/clock", json={"advance_s": 61})
    assert shop.ids("customers") == [late, seen]


def test_faults_hit_single_records(shop: Shop) -> None:
    shop.fault("partial_failure", method="create", path="customers", skip=1)
    shop.fault("locked", method="update")
    results = shop.write("POST", "customers", customer(), customer(), customer())
    assert [r["http_status"] for r in results] == [201, 500, 201]
    got = shop.client.patch(f"{API}/customers/{results[0]['id']}", json={"phone": "1"})
    assert (got.status_code, got.json()["code"]) == (423, "record_locked")


def test_what_clients_and_users_wrote_can_be_looked_at(shop: Shop) -> None:
    shop.write("POST", "customers", customer(external_ref="h"), customer(country="X"))
    shop.load("customers", customer())
    writes = shop.control.get("/writes", params={"resource": "customers"}).json()
    assert [(w["writer"], w["operation"], w["result"]) for w in writes] == [
        ("api", "create", "created"),
        ("api", "create", "failed"),
        ("storefront", "create", "created"),
    ]
    assert writes[0]["sent"]["external_ref"] == "h"


def test_a_shop_is_seeded_the_same_way_each_time() -> None:
    with serving(customers="20", products="5", orders="7") as one:
        assert [len(one.ids(kind)) for kind in ("customers", "products", "orders")] == [20, 5, 7]
        before = one.client.get(f"{API}/orders").json()["data"]
        one.load("customers", customer())
        one.control.post("/reset")
        after = one.client.get(f"{API}/orders").json()["data"]
        assert [(o["id"], o["total"]) for o in before] == [(o["id"], o["total"]) for o in after]
        assert len(one.ids("customers")) == 20


def test_a_path_that_does_not_exist_and_a_method_that_does_nothing_are_told_apart(shop: Shop) -> None:
    assert shop.client.get(f"{API}/coupons").status_code == 404
    got = shop.client.put(f"{API}/customers/1001", json={})
    assert (got.status_code, got.headers["allow"]) == (405, "DELETE, GET, HEAD, PATCH")


@pytest.mark.parametrize("option", [{"limit": "many"}, {"reexport_on_edit": "yes"}, {"colour": "red"}])
def test_an_option_that_makes_no_sense_is_named(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        ShopSimulator(**dict[str, Any](option))
