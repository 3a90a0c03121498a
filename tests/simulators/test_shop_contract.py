"""The shop does what its OpenAPI document says: schemathesis writes the calls and judges the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import CheckContext, CheckFunction
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection

from simulators.shop.contract import contract, written
from simulators.shop.resources import RESOURCES
from tests.simulators.shopping import Shop, customer, order
from tests.simulators.shopping import shop as serving

FILE = Path(__file__).parents[2] / "docs" / "openapi" / "shop.yaml"
_EXPECTED = ["2xx", "401", "403", "404", "409", "412", "429"]
"""What a call that fits its schema may meet: 412 if it names a version by chance, 409 if it names a record that is not there."""
SCHEMA = schemathesis.openapi.from_path(
    FILE,
    config=SchemathesisConfig.from_dict(
        {
            "checks": {
                "positive_data_acceptance": {"expected-statuses": _EXPECTED},
                "negative_data_rejection": {"expected-statuses": ["4xx"]},
            },
            "generation": {"database": "none", "deterministic": True},
        }
    ),
)
_DOCUMENT = yaml.safe_load(FILE.read_text())
_SEVERAL = {
    (f"/api/v1/{name}", method): f"{resource.singular.capitalize()}{kind}"
    for name, resource in RESOURCES.items()
    for method, kind in (("POST", "Create"), ("PATCH", "Update"), ("PUT", "Upsert"))
}


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with serving(customers="3", products="3", orders="3") as running:
        running.load(
            "invoices",
            {
                "invoice_number": "I1",
                "customer_number": "C000001",
                "invoice_date": "2026-11-26",
                "currency": "USD",
                "total": "9",
                "open_amount": "9",
            },
        )
        yield running


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as kept:
        yield kept


@pytest.fixture(scope="module")
def probed() -> set[str]:
    """Return the operations of which it is known by now whether they ask who calls."""
    return set()


def test_the_document_is_what_the_simulator_writes() -> None:
    assert FILE.read_text() == written(), (
        "bring it up to date: python -m simulators.shop.contract > docs/openapi/shop.yaml"
    )
    assert yaml.safe_load(FILE.read_text()) == contract()


def results_belong_to_the_records(
    _: CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that a call with several records has a result for each, and that no record passed which its schema forbids."""
    name = _SEVERAL.get((case.path, case.method))
    if name is None or response.status_code != 200:
        return
    body: Any = case.body
    sent, results = body["records"], response.json()["results"]
    assert [r["index"] for r in results] == list(range(len(sent)))
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{name}", **_DOCUMENT})
    for record, result in zip(sent, results, strict=True):
        if not validator.is_valid(record):
            assert result["status"] == "failed", f"{record} was taken, but {name} forbids it"
            assert 400 <= result["http_status"] < 500


@SCHEMA.parametrize()
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_every_call_is_answered_as_the_document_says(
    shop: Shop, session: requests.Session, probed: set[str], case: schemathesis.Case[Any]
) -> None:
    positive = case.meta is None or case.meta.generation.mode.is_positive
    if positive and case.query:
        case.query.pop("cursor", None)  # it is told by a page before, and only that is taken
        if not {"updated_at_min", "deleted_at_min"} & set(case.query):
            case.query.pop("after_id", None)
        if str(case.query.get("pull")) == "1":
            case.query.pop("exported", None)
    form = case.operation.path == "/oauth/token"
    several = (case.path, case.method) in _SEVERAL or form
    if positive and form:
        case.body = {
            "grant_type": "client_credentials",
            "client_id": shop.credentials["client_id"],
            "client_secret": shop.credentials["client_secret"],
        }
    excluded: list[CheckFunction] = [negative_data_rejection] if several else []
    if case.operation.label in probed:
        excluded.append(ignored_auth)  # it costs two calls more, and one per operation tells as much as hundreds
    probed.add(case.operation.label)
    case.call_and_validate(
        base_url=shop.running.http,
        headers={"X-Api-Key": shop.credentials["api_key"]},
        additional_checks=[results_belong_to_the_records],
        excluded_checks=excluded,
        session=session,
    )


@pytest.mark.parametrize("name", ["customer", "order"])
def test_what_these_tests_write_fits_the_document(name: str) -> None:
    record: dict[str, Any] = {"customer": customer, "order": order}[name]()
    schema = {"$ref": f"#/components/schemas/{name.capitalize()}Create", **_DOCUMENT}
    assert list(Draft202012Validator(schema).iter_errors(record)) == []
