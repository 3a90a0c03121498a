"""Systems with several tenants in the configuration: what is allowed, what is an error, and where secrets go."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import SecretStr

from tidelock import configchecks, supervisor
from tidelock.config import Config, SystemSpec
from tidelock.configfile import parse
from tidelock.errors import Fatal

GOOD = """\
systems:
  crm:
    dsn: ${CRM}
    entities:
      contact: {table: contacts, map: [{column: mail, field: email}, {column: country, field: country}]}
      product: {table: products, map: [{column: code, field: code}]}
  portal:
    kind: saas
    capture: saas
    url: https://api.example
    credentials:
      client_id: ours
      client_secret: ${SECRET}
    options: {hold_s: 2.5}
    tenants:
      north:
        credentials:
          token: ${NORTH}
        when: "country == 'NO'"
      south:
        enabled: false
    entities:
      contact: {table: contacts, map: [{column: email, field: email}, {column: country, field: country}]}
      product: {table: products, map: [{column: code, field: code}]}
entities:
  contact: {match: [[email]], fields: {email: {}, country: {}}}
  product: {match: [[code]], fields: {code: {}}}
flows:
  - {entity: contact, from: crm, to: portal}
  - {entity: contact, from: portal, to: crm}
  - {entity: product, from: portal, to: crm}
central: {dsn: "postgresql://hub:hub-word@host/hub"}
"""
VARIABLES = {"CRM": "postgresql://crm", "SECRET": "0123", "NORTH": "north-word"}


@pytest.fixture(autouse=True)
def saas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a connector that can have several tenants."""
    known = configchecks.installed
    monkeypatch.setattr(configchecks, "installed", lambda group: known(group) | {"saas"})


def errors(old: str, new: str) -> dict[str, str]:
    """Return what is wrong, by path, after a replacement."""
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(Fatal) as caught:
        parse(text, "t.yaml", VARIABLES)
    found = [re.fullmatch(r"  t\.yaml:\d+  ([\w.\[\]]+): (.*)", line) for line in caught.value.message.splitlines()[1:]]
    return {m[1]: m[2] for m in found if m}


def test_tenants_keep_their_order_and_a_system_without_them_has_one() -> None:
    config = parse(GOOD, "t.yaml", VARIABLES)
    portal, crm = config.systems["portal"], config.systems["crm"]
    assert list(portal.all_tenants) == ["north", "south"]
    assert portal.all_tenants["north"].when == "country == 'NO'"
    assert not portal.all_tenants["south"].enabled
    assert list(crm.all_tenants) == [crm.only_tenant] == ["default"]
    assert crm.all_tenants["default"].enabled
    assert SystemSpec(tenant="main").only_tenant == "main"
    assert SystemSpec.model_validate({"tenants": {"main": {}}}).only_tenant == "main"


def test_who_can_serve_one_tenant_only_says_so() -> None:
    with pytest.raises(Fatal, match=r"several tenants \(north, south\)") as caught:
        _ = parse(GOOD, "t.yaml", VARIABLES).systems["portal"].only_tenant
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("    url:", "    tenant: north\n    url:", "systems.portal.tenant", "remove `tenant`"),
        ("    kind: saas", "    kind: store\n    dsn: x", "systems.portal.tenants", "(`kind: store`)"),
        ("    capture: saas", "    capture: outbox\n    dsn: x", "systems.portal.tenants", "(`capture: outbox`)"),
        ("country == 'NO'", "contry == 'NO'", "systems.portal.tenants.north.when", "did you mean `country`?"),
        ("country == 'NO'", "country ==", "systems.portal.tenants.north.when", "for entity `contact` at character"),
        ("      north:", "      North:", "systems.portal.tenants.North", "lower-case letters"),
        ("enabled: false", "enable: false", "systems.portal.tenants.south.enable", "did you mean `enabled`?"),
        ("hold_s: 2.5", "hold_s: -1", "systems.portal.options.hold_s", "seconds"),
        ("hold_s: 2.5", "hold_s: soon", "systems.portal.options.hold_s", "seconds"),
        ("hold_s: 2.5", "tenants_at_once: 0", "systems.portal.options.tenants_at_once", "for example 8"),
    ],
)  # fmt: skip
def test_one_error_with_its_path_and_way_out(old: str, new: str, path: str, message: str) -> None:
    found = errors(old, new)
    assert list(found) == [path]
    assert message in found[path]


def test_a_condition_must_fit_every_entity_that_is_written_to_the_tenant() -> None:
    """One that an entity has no field for would send all of it to nobody, or to everybody."""
    found = errors("{entity: contact, from: crm, to: portal}", "{entity: product, from: crm, to: portal}")
    assert list(found) == ["systems.portal.tenants.north.when"]
    assert "for entity `product`" in found["systems.portal.tenants.north.when"]


def test_a_condition_where_nothing_is_written_has_only_to_be_one() -> None:
    source_only = GOOD.replace("  - {entity: contact, from: crm, to: portal}\n", "")
    assert parse(source_only, "t.yaml", VARIABLES).systems["portal"].all_tenants["north"].when
    with pytest.raises(Fatal, match="condition is wrong"):
        parse(source_only.replace("country ==", "country =="[:-1]), "t.yaml", VARIABLES)


def test_a_secret_is_taken_as_it_is_written() -> None:
    """A password of digits that comes from the environment is no number."""
    portal = parse(GOOD, "t.yaml", VARIABLES | {"NORTH": "1e5"}).systems["portal"]
    assert portal.credentials["client_secret"].get_secret_value() == "0123"
    assert portal.all_tenants["north"].credentials["token"].get_secret_value() == "1e5"
    merged = GOOD.replace("      south:\n", "      south:\n        credentials: {token: 00700}\n")
    assert parse(merged, "t.yaml", VARIABLES).systems["portal"].all_tenants["south"].credentials == {
        "token": SecretStr("00700")
    }


@pytest.mark.parametrize("value", ["[geheim]", "{a: geheim}", "geheim"])
def test_no_error_shows_a_secret(value: str) -> None:
    text = GOOD.replace(
        "\n          token: ${NORTH}", f" {value}" if value == "geheim" else f"\n          token: {value}"
    )
    assert text != GOOD
    with pytest.raises(Fatal) as caught:
        parse(text, "t.yaml", VARIABLES)
    assert "geheim" not in str(caught.value)


def test_workers_get_every_secret_and_dumps_show_none() -> None:
    """The configuration goes to a worker's process as a dump, with the secrets beside it."""
    config = parse(GOOD, "t.yaml", VARIABLES)
    dumped = config.model_dump_json(by_alias=True)
    secrets = list(supervisor._secrets(config))
    assert {".".join(map(str, path)) for path, _ in secrets} == {
        "central.dsn",
        "systems.crm.dsn",
        "systems.portal.credentials.client_id",
        "systems.portal.credentials.client_secret",
        "systems.portal.tenants.north.credentials.token",
    }
    for word in (*VARIABLES.values(), "hub-word"):
        assert word not in dumped + repr(config) + str(config.systems["portal"])
    whole: Config = supervisor._whole(json.dumps(json.loads(dumped)), secrets)
    assert whole == config
    assert list(whole.systems["portal"].all_tenants) == ["north", "south"]
