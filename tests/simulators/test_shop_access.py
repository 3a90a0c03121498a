"""Who may call the shop, how often, and what becomes of a batch."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.patience import until
from tests.simulators.shopping import API, Shop, customer
from tests.simulators.shopping import shop as serving


@pytest.fixture
def shop() -> Iterator[Shop]:
    with serving() as running:
        yield running


def _token(shop: Shop, **form: str) -> httpx.Response:
    names = {"client_id": shop.credentials["client_id"], "client_secret": shop.credentials["client_secret"]}
    return httpx.post(f"{shop.running.http}/oauth/token", data={"grant_type": "client_credentials", **names, **form})


def _as(shop: Shop, token: str) -> httpx.Response:
    return httpx.get(f"{shop.running.http}{API}/customers", headers={"authorization": f"Bearer {token}"})


def _submit(shop: Shop, *records: dict[str, Any], key: str | None = None, **more: Any) -> httpx.Response:
    body = {"resource": "customers", "operation": "upsert", "records": list(records), **more}
    return shop.client.post(f"{API}/batches", json=body, headers={} if key is None else {"idempotency-key": key})


def _ended(shop: Shop, batch_id: str) -> dict[str, Any]:
    path = f"{API}/batches/{batch_id}"
    until(lambda: shop.client.get(path).json()["state"] in ("done", "failed"))
    return dict(shop.client.get(path).json())


def test_a_token_is_fetched_by_form_and_by_basic_and_opens_the_api_until_it_expires(shop: Shop) -> None:
    got = _token(shop)
    assert (got.status_code, got.json()["token_type"], got.json()["scope"]) == (200, "Bearer", "read write")
    pair = f"{shop.credentials['client_id']}:{shop.credentials['client_secret']}".encode()
    basic = httpx.post(
        f"{shop.running.http}/oauth/token",
        data={"grant_type": "client_credentials", "scope": "read"},
        headers={"authorization": "Basic " + base64.b64encode(pair).decode()},
    ).json()
    assert _as(shop, basic["access_token"]).status_code == 200
    shop.control.post("/clock", json={"advance_s": got.json()["expires_in"] + 1})
    expired = _as(shop, got.json()["access_token"])
    assert (expired.status_code, expired.json()["code"]) == (401, "token_expired")
    assert 'error="invalid_token"' in expired.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"scope": "read admin"}, 400, "invalid_scope"),
    ],
)
def test_a_token_is_refused_in_the_words_of_the_standard(
    shop: Shop, form: dict[str, str], status: int, error: str
) -> None:
    got = _token(shop, **form)
    assert (got.status_code, got.json()["error"]) == (status, error)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_credentials"),
        ({"authorization": "Basic abc"}, "missing_credentials"),
        ({"authorization": "Bearer nobody"}, "invalid_token"),
        ({"x-api-key": "nobody"}, "invalid_api_key"),
    ],
)
def test_a_call_without_a_good_credential_is_refused(shop: Shop, headers: dict[str, str], code: str) -> None:
    got = httpx.get(f"{shop.running.http}{API}/customers", headers=headers)
    assert (got.status_code, got.json()["code"]) == (401, code)


def test_credentials_are_revoked_given_back_and_expired_by_the_operator(shop: Shop) -> None:
    token = _token(shop).json()["access_token"]
    shop.control.post("/revoke", json={"what": "api_key"})
    assert shop.client.get(f"{API}/customers").json()["code"] == "api_key_revoked"
    assert _as(shop, token).status_code == 200
    shop.control.post("/revoke", json={"what": "client"})
    assert _as(shop, token).json()["code"] == "token_revoked"
    assert _token(shop).json()["error"] == "invalid_client"
    for what in ("api_key", "client"):
        shop.control.post("/revoke", json={"what": what, "undo": True})
    assert shop.client.get(f"{API}/customers").status_code == _token(shop).status_code == 200
    shop.control.post("/expire", json={"what": "api_key"})
    assert shop.client.get(f"{API}/customers").json()["code"] == "api_key_expired"
    shop.fault("expired")
    assert _as(shop, token).json()["code"] == "token_expired"
    assert shop.control.post("/revoke", json={"what": "everything"}).status_code == 400


def test_a_token_that_may_only_read_writes_nothing(shop: Shop) -> None:
    token = _token(shop, scope="read").json()["access_token"]
    got = httpx.post(
        f"{shop.running.http}{API}/customers",
        json={"records": [customer()]},
        headers={"authorization": f"Bearer {token}"},
    )
    assert (got.status_code, got.json()["code"]) == (403, "insufficient_scope")
    assert shop.ids("customers") == []


def test_the_limit_counts_per_credential_and_says_how_long_to_wait() -> None:
    with serving(limit="3", limit_window_s="10") as shop:
        codes = [shop.client.get(f"{API}/customers").status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        refused = shop.client.get(f"{API}/customers")
        assert refused.json()["code"] == "too_many_requests"
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert _as(shop, _token(shop).json()["access_token"]).status_code == 200
        shop.control.post("/clock", json={"advance_s": int(refused.headers["retry-after"])})
        assert shop.client.get(f"{API}/customers").status_code == 200
        shop.control.post("/settings", json={"limit": 0})
        shop.fault("limit", retry_after_s=7)
        assert shop.client.get(f"{API}/customers").headers["retry-after"] == "7"


def test_https_is_served_with_a_certificate_to_trust(shop: Shop) -> None:
    trusting = ssl.create_default_context(cafile=shop.running.ca)
    key = {"x-api-key": shop.credentials["api_key"]}
    assert httpx.get(f"{shop.running.https}{API}/customers", headers=key, verify=trusting).status_code == 200


def test_a_batch_is_queued_done_and_tells_a_result_per_record_in_pages(shop: Shop) -> None:
    records = [customer(external_ref=f"h{n}", country="USA" if n % 10 else "US") for n in range(250)]
    got = _submit(shop, *records)
    assert (got.status_code, got.json()["state"]) == (202, "queued")
    batch = _ended(shop, got.json()["id"])
    assert got.headers["location"] == f"{API}/batches/{batch['id']}"
    assert [batch[k] for k in ("state", "records", "processed", "succeeded", "failed")] == ["done", 250, 250, 225, 25]
    path, query, results = f"{API}/batches/{batch['id']}/results", {"limit": "100"}, []
    while True:
        page = shop.client.get(path, params=query).json()
        results += page["results"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert [r["index"] for r in results] == list(range(250))
    assert [r["external_ref"] for r in results] == [r["external_ref"] for r in records]
    assert all(r["record"] is None for r in results)
    failed = shop.client.get(path, params={"failed": 1}).json()["results"]
    assert [r["index"] for r in failed] == list(range(0, 250, 10))
    assert {r["error"]["errors"][0]["code"] for r in failed} == {"country_not_iso3"}


def test_a_batch_can_return_the_records_and_can_delete(shop: Shop) -> None:
    made = _ended(shop, _submit(shop, customer(external_ref="a"), **{"return": "representation"}).json()["id"])
    record = shop.client.get(f"{API}/batches/{made['id']}/results").json()["results"][0]["record"]
    assert record["external_ref"] == "a"
    gone = _ended(shop, _submit(shop, {"id": record["id"]}, operation="delete").json()["id"])
    assert shop.client.get(f"{API}/batches/{gone['id']}/results").json()["results"][0]["status"] == "disabled"


def test_an_idempotency_key_makes_one_batch_and_refuses_another_body(shop: Shop) -> None:
    first, again = (_submit(shop, customer(external_ref="a"), key="k1") for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = _submit(shop, customer(external_ref="b"), key="k1")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    _ended(shop, first.json()["id"])
    assert len(shop.ids("customers")) == 1
    shop.control.post("/clock", json={"advance_s": 86_401})
    assert _submit(shop, customer(external_ref="b"), key="k1").status_code == 202


def test_a_submission_whose_answer_was_lost_is_found_again_by_its_key(shop: Shop) -> None:
    shop.fault("lost", method="POST", path="/batches")
    with pytest.raises(httpx.RemoteProtocolError):
        _submit(shop, customer(external_ref="a"), key="k")
    _ended(shop, _submit(shop, customer(external_ref="a"), key="k").json()["id"])
    assert len(shop.client.get(f"{API}/batches").json()["data"]) == 1


def test_results_are_refused_before_the_end_and_after_their_time(shop: Shop) -> None:
    shop.fault("stuck_batch")
    batch_id = _submit(shop, customer(external_ref="a")).json()["id"]
    path = f"{API}/batches/{batch_id}"
    until(lambda: shop.client.get(path).json()["state"] == "processing")
    early = shop.client.get(f"{path}/results")
    assert (early.status_code, early.json()["code"], early.headers["retry-after"]) == (409, "batch_not_done", "1")
    other = _ended(shop, _submit(shop, customer(external_ref="b")).json()["id"])
    assert other["state"] == "done", "a stuck batch holds up no other"
    shop.control.post("/batches/release")
    assert _ended(shop, batch_id)["succeeded"] == 1
    shop.control.post("/clock", json={"advance_s": 86_401})
    assert shop.client.get(f"{path}/results").json()["code"] == "results_expired"
    assert shop.client.get(path).status_code == 200
    shop.control.post("/clock", json={"advance_s": 6 * 86_400})
    assert shop.client.get(path).status_code == 404


def test_a_slow_batch_waits_for_the_clock(shop: Shop) -> None:
    shop.fault("slow_batch", delay_s=3600)
    path = f"{API}/batches/{_submit(shop, customer(external_ref='a')).json()['id']}"
    until(lambda: shop.client.get(path).json()["state"] == "processing")
    assert shop.ids("customers") == []
    shop.control.post("/clock", json={"advance_s": 3601})
    until(lambda: shop.client.get(path).json()["state"] == "done")


def test_a_batch_that_broke_off_and_one_whose_results_are_lost(shop: Shop) -> None:
    shop.fault("failed_batch", after=2)
    broken = _ended(shop, _submit(shop, *(customer(external_ref=f"h{n}") for n in range(5))).json()["id"])
    assert (broken["state"], broken["processed"], broken["error"]["code"]) == ("failed", 2, "batch_failed")
    assert len(shop.client.get(f"{API}/batches/{broken['id']}/results").json()["results"]) == 2
    shop.fault("lost_results")
    lost = _ended(shop, _submit(shop, customer(external_ref="x")).json()["id"])
    assert (lost["state"], lost["succeeded"]) == ("done", 1)
    assert shop.client.get(f"{API}/batches/{lost['id']}/results").status_code == 410
    assert len(shop.ids("customers", external_ref="x")) == 1


def test_batches_are_bounded_in_number_and_in_size() -> None:
    with serving(most_waiting="1", batch_delay_s="3600") as shop:
        assert _submit(shop, customer(external_ref="a")).status_code == 202
        full = _submit(shop, customer(external_ref="b"))
        assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (429, "queue_full", "5")
        large = _submit(shop, *({"external_ref": str(n)} for n in range(5001)))
        assert (large.status_code, large.json()["code"]) == (413, "too_many_records")
        assert _submit(shop, customer(external_ref="c"), operation="merge").status_code == 400
