"""$batch of the Dynamics simulator, as clients spell it and as they get it wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from simulators.dynamics.batch import boundary_of, split
from simulators.server import Running
from tests.simulators.dynamics_access import simulator


def _part(
    method: str, url: str, body: Any = None, *, end: str = "\r\n", content_id: int | None = None, **headers: str
) -> str:
    lines = ["Content-Type: application/http", "Content-Transfer-Encoding: binary"]
    lines += [f"Content-ID: {content_id}"] if content_id is not None else []
    lines += ["", f"{method} {url} HTTP/1.1", "Content-Type: application/json; type=entry"]
    lines += [f"{n.replace('_', '-')}: {v}" for n, v in headers.items()]
    return end.join([*lines, "", json.dumps(body) if body is not None else "", ""])


def _joined(parts: list[str], boundary: str, end: str = "\r\n") -> str:
    return "".join(f"--{boundary}{end}{p}" for p in parts) + f"--{boundary}--{end}"


def _change_set(*parts: str) -> str:
    return "Content-Type: multipart/mixed; boundary=cs_1\r\n\r\n" + _joined(list(parts), "cs_1")


def _send(api: httpx.Client, *parts: str, quoted: bool = False, end: str = "\r\n", **headers: str) -> httpx.Response:
    boundary = '"batch_1"' if quoted else "batch_1"
    kind = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
    return api.post("$batch", content=_joined(list(parts), "batch_1", end), headers={**kind, **headers})


def _statuses(got: httpx.Response) -> list[int]:
    return [int(s) for s in re.findall(r"^HTTP/1\.1 (\d+)", got.text, re.MULTILINE)]


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("root", ["", "/api/data/v9.2/", "http://127.0.0.1/api/data/v9.1/"])
def test_parts_are_read_however_they_are_spelt(api: httpx.Client, end: str, quoted: bool, root: str) -> None:
    parts = [
        _part("POST", f"{root}accounts", {"name": "A"}, end=end),
        _part("GET", f"{root}accounts?$filter=name eq 'A'&$select=name", end=end),
    ]
    got = _send(api, *parts, quoted=quoted, end=end)
    assert (got.status_code, _statuses(got)) == (200, [204, 200])
    boundary = boundary_of(got.headers["content-type"])
    assert boundary is not None
    assert boundary.startswith("batchresponse_")
    assert '"name":"A"' in split(got.text, boundary)[1][1]


def test_without_continue_on_error_the_first_failure_ends_it_and_what_was_done_stays(api: httpx.Client) -> None:
    parts = [_part("POST", "accounts", {"name": n}) for n in ("A", "B")]
    parts.insert(1, _part("POST", "accounts", {"nonsense": 1}))
    got = _send(api, *parts)
    assert (got.status_code, _statuses(got)) == (400, [400])
    assert "0x80048d19" in got.text
    assert [a["name"] for a in api.get("accounts").json()["value"]] == ["A"]


def test_with_continue_on_error_every_part_has_its_own_status(api: httpx.Client) -> None:
    parts = [_part("POST", "accounts", {"name": n}) for n in ("A", "B")]
    parts.insert(1, _part("POST", "accounts", {"nonsense": 1}))
    got = _send(api, *parts, Prefer="odata.continue-on-error")
    assert (got.status_code, _statuses(got)) == (200, [204, 400, 204])
    assert [a["name"] for a in api.get("accounts").json()["value"]] == ["A", "B"]


def test_a_change_set_is_one_transaction_with_references(api: httpx.Client, dynamics: Running) -> None:
    good = _change_set(
        _part("POST", "/api/data/v9.2/accounts", {"name": "Parent"}, content_id=1),
        _part(
            "POST",
            "/api/data/v9.2/contacts",
            {"lastname": "C", "parentcustomerid_account@odata.bind": "$1"},
            content_id=2,
        ),
        _part("PATCH", "$1", {"primarycontactid@odata.bind": "$2"}, content_id=3),
    )
    got = _send(api, good)
    assert (got.status_code, _statuses(got)) == (200, [204, 204, 204])
    assert "boundary=changesetresponse_" in got.text
    assert re.findall(r"Content-ID: (\d)", got.text) == ["1", "2", "3"]
    row = api.get("accounts?$select=name&$expand=primarycontactid($select=lastname)").json()["value"][0]
    assert row["primarycontactid"]["lastname"] == "C"

    seen = len(simulator(dynamics).written)
    bad = _change_set(
        _part("POST", "accounts", {"name": "Lost"}, content_id=1),
        _part("DELETE", "accounts(00000000-0000-4000-8000-000000000000)", content_id=2),
    )
    got = _send(api, bad, _part("GET", "accounts?$select=name"), Prefer="odata.continue-on-error")
    assert (got.status_code, _statuses(got)) == (200, [404, 200])
    assert "Lost" not in got.text
    assert len(simulator(dynamics).written) == seen
    assert _statuses(_send(api, _change_set(_part("GET", "accounts", content_id=1)))) == [400]


def test_a_change_set_that_fails_takes_back_updates_deletes_and_associations(api: httpx.Client) -> None:
    made = api.post("accounts", json={"name": "A", "td_tidelockid": "a"})
    account = made.headers["odata-entityid"].rpartition("/")[2]
    lead = api.post("leads", json={"lastname": "L"}).headers["odata-entityid"].rpartition("/")[2]
    other = (
        api.post("accounts", json={"name": "Other", "td_tidelockid": "b"}).headers["odata-entityid"].rpartition("/")[2]
    )
    link = api.get("accounts?$select=name", headers={"Prefer": "odata.track-changes"}).json()["@odata.deltaLink"]
    before = api.get(account).json()
    steps = [
        ("PATCH", account, {"name": "Changed", "td_tidelockid": "c"}),
        ("POST", f"{account}/accountleads_association/$ref", {"@odata.id": lead}),
        ("DELETE", other, None),
        ("POST", "accounts", {"name": "New", "td_tidelockid": "b"}),
        ("POST", "accounts", {"nonsense": 1}),
    ]
    failing = _change_set(*(_part(m, url, body, content_id=n) for n, (m, url, body) in enumerate(steps, 1)))
    assert _statuses(_send(api, failing)) == [400]
    assert api.get(account).json() == before
    assert api.get(f"{lead}/accountleads_association").json()["value"] == []
    assert api.get("accounts(td_tidelockid='b')").json()["name"] == "Other"
    assert api.get("accounts(td_tidelockid='c')").status_code == 404
    assert api.get(link).json()["value"] == []


def test_inner_conditions_and_preferences_count(api: httpx.Client) -> None:
    got = _send(
        api,
        _part(
            "PATCH", "accounts(td_tidelockid='1')?$select=versionnumber", {"name": "A"}, Prefer="return=representation"
        ),
        _part("PATCH", "accounts(td_tidelockid='2')", {"name": "B"}, If_Match="*"),
        Prefer="odata.continue-on-error",
    )
    assert _statuses(got) == [201, 404]
    assert "versionnumber" in got.text


def test_an_envelope_that_cannot_be_read_is_answered_in_json(api: httpx.Client, there: httpx.Client) -> None:
    assert api.post("$batch", content=b"x", headers={"Content-Type": "text/plain"}).json()["error"]["message"]
    assert _send(api).status_code == 400
    many = _send(api, *[_part("GET", "accounts")] * 1001)
    assert "1000" in many.json()["error"]["message"]
    there.post("/faults", json={"kind": "deadlock", "path": "accounts", "skip": 1})
    got = _send(api, *[_part("POST", "accounts", {"name": "A"})] * 3, Prefer="odata.continue-on-error")
    assert _statuses(got) == [204, 500, 204]
    assert "Sql Number: 1205" in got.text
