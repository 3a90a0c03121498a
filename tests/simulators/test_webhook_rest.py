"""The REST API of the webhook system: records with versions, and lists in three styles of paging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from simulators.webhook import WebhookSimulator
from tests.simulators.hooks import Hooks
from tests.simulators.hooks import hooks as serving


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with serving() as running:
        yield running


def _people(count: int) -> list[dict[str, Any]]:
    return [{"id": f"p{n:03d}", "email": f"p{n}@example.com"} for n in range(count)]


def _all(hooks: Hooks, style: str, **query: Any) -> list[str]:
    """Walk through a list in a style of paging; return the ids."""
    found: list[str] = []
    match style:
        case "cursor":
            query["limit"], query["cursor"] = 7, ""
            while True:
                page = hooks.client.get("/api/contacts", params=query).json()
                found += [r["id"] for r in page["items"]]
                if page["next_cursor"] is None:
                    return found
                query["cursor"] = page["next_cursor"]
        case "page":
            got = hooks.client.get("/api/contacts", params={**query, "page": 1, "per_page": 7})
            found += [r["id"] for r in got.json()["items"]]
            while "next" in got.links:
                got = hooks.client.get(got.links["next"]["url"])
                found += [r["id"] for r in got.json()["items"]]
            assert len(found) == got.json()["total"]
        case _:
            total = 1
            while len(found) < total:
                page = hooks.client.get("/api/contacts", params={**query, "offset": len(found), "limit": 7}).json()
                found += [r["id"] for r in page["items"]]
                total = page["total"]
    return found


@pytest.mark.parametrize("style", ["cursor", "page", "offset"])
def test_every_style_of_paging_walks_through_all_records(hooks: Hooks, style: str) -> None:
    ids = hooks.load("contacts", *_people(30))
    assert _all(hooks, style) == ids


@pytest.mark.parametrize("style", ["cursor", "page", "offset"])
def test_a_list_of_what_was_modified_since_has_ties_and_includes_its_bound(style: str) -> None:
    with serving(resolution_s="3600") as hooks:
        old = hooks.load("contacts", *_people(5))
        hooks.advance(3600)
        new = hooks.load("contacts", *({**p, "id": "q" + p["id"]} for p in _people(20)))
        since = hooks.records("contacts")[new[0]]["updated_at"]
        assert len({r["updated_at"] for r in hooks.records("contacts").values()}) == 2
        assert _all(hooks, style, modified_since=since) == new
        assert _all(hooks, style, modified_since=since, after_id=new[9]) == new[10:]
        assert _all(hooks, style, modified_since="0") == old + new


def test_the_bound_can_be_exclusive() -> None:
    with serving(since="exclusive", resolution_s="3600") as hooks:
        ids = hooks.load("contacts", *_people(3))
        at = hooks.records("contacts")[ids[0]]["updated_at"]
        assert hooks.client.get("/api/contacts", params={"modified_since": at}).json()["items"] == []


def test_records_are_created_changed_and_deleted_with_versions(hooks: Hooks) -> None:
    made = hooks.client.post("/api/contacts", json={"email": "a@example.com"})
    assert (made.status_code, made.headers["etag"], made.json()["id"]) == (201, '"1"', "contact_000001")
    path = "/api/contacts/contact_000001"
    assert hooks.client.post("/api/contacts", json={"id": "contact_000001"}).status_code == 409
    changed = hooks.client.patch(path, json={"phone": "1"}, headers={"if-match": '"1"', "x-origin": "hub"})
    assert (changed.json()["version"], changed.json()["origin"], changed.json()["email"]) == (2, "hub", "a@example.com")
    assert hooks.client.patch(path, json={"phone": "2"}, headers={"if-match": '"1"'}).status_code == 412
    whole = hooks.client.put(path, json={"phone": "3"}).json()
    assert "email" not in whole
    assert hooks.client.put(path, json={"phone": "3"}).json()["version"] == whole["version"]
    assert hooks.client.delete(path).status_code == 204
    assert hooks.client.get(path).status_code == 404
    assert hooks.client.get("/api/contacts").json()["items"] == []
    tombs = hooks.client.get("/api/contacts", params={"include_deleted": 1}).json()["items"]
    assert [(t["id"], t["deleted"]) for t in tombs] == [("contact_000001", True)]
    again = hooks.client.put(path, json={"email": "b@example.com"})
    assert (again.status_code, again.json()["version"]) == (201, 5)


def test_an_indexed_field_finds_its_records_and_others_cannot_be_asked_for(hooks: Hooks) -> None:
    hooks.load("contacts", *_people(5))
    found = hooks.client.get("/api/contacts", params={"email": "p3@example.com"}).json()["items"]
    assert [r["id"] for r in found] == ["p003"]
    hooks.control.post("/edit/contacts", json=[{"id": "p003", "email": "new@example.com"}])
    assert hooks.client.get("/api/contacts", params={"email": "p3@example.com"}).json()["items"] == []
    assert hooks.client.get("/api/contacts", params={"colour": "red"}).json()["code"] == "unknown_parameter"


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"modified_since": "2026-11-26"}, {"after_id": "x"}, {"page": "0"}, {"cursor": "x"}]
)
def test_a_list_cannot_be_asked_for_what_makes_no_sense(hooks: Hooks, query: dict[str, str]) -> None:
    got = hooks.client.get("/api/contacts", params=query)
    assert (got.status_code, got.json()["code"]) == (400, "bad_parameter")


def test_the_key_is_checked_and_can_be_revoked(hooks: Hooks) -> None:
    url = f"{hooks.running.http}/api/contacts"
    assert httpx.get(url).json()["code"] == "missing_credentials"
    assert httpx.get(url, headers={"x-api-key": "wrong"}).status_code == 401
    assert httpx.get(url, headers={"x-api-key": hooks.credentials["api_key"]}).status_code == 200
    hooks.control.post("/revoke", json={})
    assert hooks.client.get("/api/contacts").json()["code"] == "invalid_credentials"
    hooks.control.post("/revoke", json={"undo": True})
    hooks.fault("limit", retry_after_s=9)
    limited = hooks.client.get("/api/contacts")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "9")


def test_what_happened_can_be_looked_at_and_forgotten() -> None:
    with serving(contacts="2", inbox="a,b") as hooks:
        hooks.client.patch("/api/contacts/contact_000001", json={"phone": "1"}, headers={"x-origin": "hub"})
        changes = hooks.control.get("/changes", params={"last": 1}).json()
        assert [(c["operation"], c["record"]["origin"]) for c in changes] == [("updated", "hub")]
        hooks.control.post("/reset")
        assert [r["version"] for r in hooks.records("contacts").values()] == [1, 1]
        assert set(hooks.credentials["inboxes"]) == {"a", "b"}


def test_methods_and_paths_that_do_nothing_are_told_apart(hooks: Hooks) -> None:
    assert hooks.client.put("/api/contacts").status_code == 405
    assert hooks.client.get("/nothing").status_code == 404


@pytest.mark.parametrize(
    "option", [{"scheme": "pigeon"}, {"since": "x"}, {"paging": "x"}, {"jitter": "x"}, {"colour": "red"}]
)
def test_an_option_that_makes_no_sense_is_named(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        WebhookSimulator(**option)
