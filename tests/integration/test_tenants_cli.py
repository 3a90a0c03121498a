"""`tidelock tenants` as people type it, with secrets from stdin, and a sign-in from the address to the sealed refresh token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.access import SECRETS, make_config
from tests.apiserver import Api, serving
from tests.patience import DEADLINE_S
from tidelock.central import Central
from tidelock.cli.app import app
from tidelock.config import Config
from tidelock.configfile import load
from tidelock.errors import Fatal
from tidelock.limits import Limits, LimitSpec
from tidelock.tenants import Tenants, with_tenants

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with serving() as made:
        made.rotating = True
        yield made


class Installed:
    """A configuration file, and what its tenants are."""

    def __init__(self, folder: Path, dsn: str, api: Api) -> None:
        self.dsn, self.path = dsn, folder / "tidelock.yaml"
        content: dict[str, Any] = make_config(folder).model_dump(mode="json", exclude_unset=True, by_alias=True)
        options = {"authorise_url": f"{api.url}/authorise", "token_url": f"{api.url}/token", "scopes": ["crm"]}
        for name, spec in content["systems"].items():
            spec["kind"] = "postgres" if name == "crm" else "rest"
        content["systems"]["crm"]["dsn"] = "postgresql://nobody@127.0.0.1:1/db"
        content["systems"]["shop"]["credentials"] = {"client_id": "app", "client_secret": SECRETS[0]}
        content["systems"]["shop"]["options"] = options
        content["systems"]["single"]["credentials"] = {"token": SECRETS[2]}
        content["central"] = {"dsn": dsn}
        self.path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def run(self, *words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, ["tenants", *words, "--config", str(self.path)], input=stdin)

    def done(self, *words: str, stdin: str = "") -> str:
        result = self.run(*words, stdin=stdin)
        assert result.exception is None, result.output
        assert not [s for s in SECRETS if s in result.output]
        return result.output

    def refused(self, *words: str, stdin: str = "") -> str:
        result = self.run(*words, stdin=stdin)
        assert isinstance(result.exception, Fatal), result.output
        return str(result.exception)

    def listed(self, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
        result = self.run("ls", *words, "--json")
        assert result.exit_code == code, result.output
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        return {f"{r['system']}/{r['tenant']}": r for r in rows}


@pytest.fixture
def at(
    tmp_path: Path, database: Callable[[str], str], api: Api, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Installed, Tenants]]:
    monkeypatch.setattr("tidelock.configchecks.installed", lambda _: set())  # connectors are no part of this
    installed = Installed(tmp_path, database("central"), api)
    config: Config = load(installed.path)
    central = Central(config)
    yield installed, Tenants(config, central)
    central.close()


def test_a_tenant_from_adding_to_removing(at: tuple[Installed, Tenants], tmp_path: Path) -> None:
    cli, tenants = at
    (tmp_path / "key.pem").write_text("-----BEGIN\npr1vate\n-----END\n")
    said = cli.done(
        "add", "hub", "acme", "--url", "https://acme.example", "--option", "page=50", "--option", "country=NO",
        "--credential", "token", "--credential", "more", "--credential-file", f"private_key={tmp_path / 'key.pem'}",
        "--when", "name == 'x'", stdin=f"{SECRETS[2]}\nm0re\n",
    )  # fmt: skip
    assert "hub/acme is added, with credentials more, private_key, token" in said
    found = tenants.get("hub", "acme")
    assert found.credentials == {"token": SECRETS[2], "more": "m0re", "private_key": "-----BEGIN\npr1vate\n-----END"}
    assert (found.url, found.options, found.when) == (
        "https://acme.example", {"page": 50, "country": "NO"}, "name == 'x'",
    )  # fmt: skip
    assert cli.listed("hub")["hub/acme"]["from"] == "command line"
    cli.done("set", "hub", "acme", "--option", "page=60")
    cli.done("disable", "hub", "acme", "--reason", "moving house")
    row = cli.listed("hub")["hub/acme"]
    assert (row["state"], row["reason"]) == ("off", "moving house")
    cli.done("enable", "hub", "acme")
    assert cli.run("remove", "hub", "acme", stdin="n\n").exit_code == 1
    assert "hub/acme" in cli.listed("hub")
    cli.done("remove", "hub", "acme", "--yes")
    assert cli.listed("hub") == {}
    with psycopg.connect(cli.dsn) as db:
        assert db.execute("select count(*) from tidelock.tenant").fetchone() == (0,)


def test_what_a_tenant_gives_its_records_is_kept_shown_and_asked_of_the_next_one(
    at: tuple[Installed, Tenants],
) -> None:
    cli, tenants = at
    said = cli.done("add", "hub", "acme", "--field", "name=0010")
    assert "hub/acme is added" in said
    assert tenants.get("hub", "acme").fields == {"name": "0010"}, "as it is written"
    assert cli.listed("hub")["hub/acme"]["fields"] == "name=0010"
    assert "it would get everybody's" in cli.refused("add", "hub", "bolt")
    assert "did you mean `name`?" in cli.refused("add", "hub", "bolt", "--field", "nmae=0011")
    assert "is not name=value" in cli.refused("add", "hub", "bolt", "--field", "name=")
    assert list(cli.listed("hub")) == ["hub/acme"]
    cli.done("add", "hub", "bolt", "--field", "name=0011")
    specs = with_tenants(load(cli.path), tenants.central).systems["hub"].all_tenants
    assert {n: s.fields for n, s in specs.items()} == {"acme": {"name": "0010"}, "bolt": {"name": "0011"}}


def test_what_is_called_today_and_what_is_revoked(at: tuple[Installed, Tenants]) -> None:
    cli, tenants = at
    assert list(cli.listed()) == ["shop/north", "shop/south", "single/default"]
    limits = Limits(tenants.central, tenants.get("shop", "north"), LimitSpec(daily=1000))
    for _ in range(3):
        with limits.acquire():
            limits.observed(remaining_daily=700)
    limits.close()
    tenants.revoke("shop", "south", "expired access/refresh token")
    rows = cli.listed(code=3)
    north, south = rows["shop/north"], rows["shop/south"]
    assert (north["calls_today"], north["daily_budget"], north["left"]) == (3, 1000, 700)
    assert (south["state"], south["reason"]) == ("revoked", "expired access/refresh token")
    assert south["since"] is not None
    assert "south" in cli.run("ls").output


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("add", "hub", "a", "--credential", "token=s3cret"), "", "takes a name only"),
        (("add", "hub", "a", "--credential", "token"), "", "there is no value for token"),
        (("add", "hub", "a", "--option", "page"), "", "is not name=value"),
        (("add", "hub", "a", "--credential-file", "k=missing.pem"), "", "cannot be read"),
        (("add", "hub", "a", "--url", "acme.example"), "", "no address of an API"),
        (("add", "hub", "a", "--when", "city == 'x'"), "", "--when is wrong for entity contact"),
        (("add", "hub", "A B"), "", "is no name"),
        (("add", "nowhere", "a"), "", "there is no system nowhere"),
        (("add", "crm", "a"), "", "is a database"),
        (("add", "single", "a"), "", "has one tenant"),
        (("set", "shop", "north"), "", "nothing is to be changed"),
        (("set", "shop", "nobody", "--credential", "token"), "x\n", "has no tenant nobody"),
        (("enable", "shop", "nobody"), "", "has no tenant nobody"),
        (("connect", "hub", "nobody"), "", "has no tenant nobody"),
        (("connect", "single", "default"), "", "nothing says how a person signs in"),
    ],
)
def test_what_cannot_be_is_refused(
    at: tuple[Installed, Tenants], words: tuple[str, ...], stdin: str, said: str
) -> None:
    cli, _ = at
    text = cli.refused(*words, stdin=stdin)
    assert said in text
    assert "s3cret" not in text


def test_without_apis_there_are_no_tenants(tmp_path: Path) -> None:
    content = make_config(tmp_path, {"other": {"dsn": "postgresql://h/x"}}).model_dump(
        mode="json", exclude_unset=True, by_alias=True
    )
    for spec in content["systems"].values():
        spec["dsn"] = "postgresql://h/x"
    path = tmp_path / "tidelock.yaml"
    path.write_text(yaml.safe_dump(content))
    done = CliRunner().invoke(app, ["tenants", "ls", "--config", str(path)])
    assert isinstance(done.exception, Fatal)
    assert "no system" in str(done.exception)


# ------------------------------------------------------------------------------------------------------- connect


def _browser(url: str, **answer: str) -> int:
    """Do what a browser does after the person has signed in: go where the vendor sends it."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    back = query["redirect_uri"].replace("localhost", "127.0.0.1")
    return httpx.get(back, params={"state": query["state"], **answer}, timeout=DEADLINE_S).status_code


def test_somebody_signs_in_and_the_refresh_token_is_sealed(at: tuple[Installed, Tenants], api: Api) -> None:
    cli, tenants = at
    tenants.revoke("shop", "north", "expired")
    script = "import tidelock.configchecks as c; c.installed = lambda _: set(); from tidelock.cli import main; raise SystemExit(main())"
    command = [
        sys.executable,
        "-c",
        script,
        "tenants",
        "connect",
        "shop",
        "north",
        "--port",
        "0",
        "--config",
        str(cli.path),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "300"}
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith(f"{api.url}/authorise?")
        assert _browser(url, code="c0de") == 200
        out, told = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert "shop/north is connected" in told
    tenants.forget("shop")
    north = tenants.get("shop", "north")
    assert (north.state, north.credentials["refresh_token"]) == ("on", f"r3fresh-token-{api.issued}")
    for secret in (*SECRETS, "r3fresh", "c0de", f"token-{api.issued}"):
        assert secret not in out + told
    with psycopg.connect(cli.dsn) as db:
        assert "r3fresh" not in str(db.execute("select * from tidelock.tenant").fetchall())


def test_the_address_can_be_copied_by_hand(at: tuple[Installed, Tenants], monkeypatch: pytest.MonkeyPatch) -> None:
    cli, tenants = at
    seen: list[str] = []

    def copied(name: str) -> str:
        assert name == "that address"
        query = parse_qs(urlsplit(seen[-1]).query)
        return f"http://localhost:8765/callback?code=x&state={query['state'][0]}"

    monkeypatch.setattr("tidelock.cli.tenants._tell", lambda url, _: seen.append(url))
    monkeypatch.setattr("tidelock.cli.tenants._secret", copied)
    cli.done("connect", "shop", "south", "--paste")
    tenants.forget("shop")
    assert tenants.get("shop", "south").credentials["refresh_token"].startswith("r3fresh")


def test_nobody_signs_in(at: tuple[Installed, Tenants]) -> None:
    cli, _ = at
    assert "nobody has signed in within 0.1 s" in cli.refused(
        "connect", "shop", "north", "--port", "0", "--timeout", "0.1"
    )
