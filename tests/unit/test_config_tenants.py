"""Systems with several tenants in the configuration: what is allowed, what is an error, and where secrets go."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import SecretStr

from processors.mapping import compile_plans
from tidelock import configchecks, supervisor
from tidelock.config import Config, SystemSpec, TenantSpec
from tidelock.configfile import parse
from tidelock.errors import Fatal
from tidelock.tenantfields import check_added

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


OWNED = """\
systems:
  product:
    dsn: ${CRM}
    entities:
      contact: {table: contacts, map: [{column: mail, field: email}, {column: customer, field: customer}]}
  org:
    kind: saas
    capture: saas
    tenants:
      acme: {fields: {customer: 0010}}
      bolt: {fields: {customer: "0011"}}
    entities:
      contact: {table: Contact, map: [{column: Email, field: email}]}
entities:
  contact: {match: [[email]], fields: {email: {}, customer: {max_length: 4}}}
flows:
  - {entity: contact, from: product, to: org}
  - {entity: contact, from: org, to: product}
"""


def owned_errors(old: str, new: str) -> dict[str, str]:
    """Return what is wrong, by line and path, after a replacement."""
    text = OWNED.replace(old, new, 1)
    assert text != OWNED
    with pytest.raises(Fatal) as caught:
        parse(text, "t.yaml", VARIABLES)
    found = [
        re.fullmatch(r"  t\.yaml:(\d+)  ([\w.\[\]]+): (.*)", line) for line in caught.value.message.splitlines()[1:]
    ]
    return {f"{m[1]} {m[2]}": m[3] for m in found if m}


def test_what_tenants_give_is_taken_as_it_is_written() -> None:
    """A customer's number keeps its zeros, and every worker gets it."""
    config = parse(OWNED, "t.yaml", VARIABLES)
    tenants = config.systems["org"].all_tenants
    assert {name: t.fields for name, t in tenants.items()} == {
        "acme": {"customer": "0010"},
        "bolt": {"customer": "0011"},
    }
    assert Config.model_validate_json(config.model_dump_json(by_alias=True)).systems["org"].tenants == tenants


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("{customer: 0010}", "{custmer: x}", "10 systems.org.tenants.acme.fields.custmer", "did you mean `customer`?"),
        ("{customer: 0010}", "{customer: ' '}", "10 systems.org.tenants.acme.fields.customer", "blank"),
        ("{customer: 0010}", "{customer: }", "10 systems.org.tenants.acme.fields.customer", "put it into quotes"),
        ("{customer: 0010}", "{customer: [a]}", "10 systems.org.tenants.acme.fields.customer", "not a list"),
        ("customer: {max_length: 4}", "customer: {values: ['0010', '0012']}", "11 systems.org.tenants.bolt.fields.customer", "did you mean"),
        ("customer: {max_length: 4}", "customer: {type: integer}", "10 systems.org.tenants.acme.fields.customer", "only plain texts"),
        ("customer: {max_length: 4}", "customer: {format: country}", "10 systems.org.tenants.acme.fields.customer", "is country"),
        ("{customer: 0010}", "{customer: 00100}", "10 systems.org.tenants.acme.fields.customer", "longer than the 4"),
        ("customer: {max_length: 4}", "customer: {references: contact}", "10 systems.org.tenants.acme.fields.customer", "another record"),
        ('bolt: {fields: {customer: "0011"}}', "bolt: {}", "11 systems.org.tenants.bolt", "it would get everybody's"),
        (
            "[{column: Email, field: email}]", "[{column: Email, field: email}, {column: Owner, field: customer}]",
            "10 systems.org.tenants.acme.fields.customer", "map[1] of `contact` reads `customer`",
        ),
        ("match: [[email]]", "match: [[email], [customer]]", "15 entities.contact.match[1]", "all records of a tenant would be one"),
        ("from: org, to: product}", "from: org, to: product, fields: [email]}", "18 flows[1].fields", "has to know whose it is"),
    ],
)  # fmt: skip
def test_one_error_of_what_tenants_give_with_its_line_and_way_out(old: str, new: str, path: str, message: str) -> None:
    found = owned_errors(old, new)
    assert path in found
    assert message in found[path]
    assert len(found) == 1


def test_every_entity_of_a_system_whose_tenants_give_a_field_has_it() -> None:
    text = OWNED.replace("entities:\n  contact:", "entities:\n  product: {fields: {code: {}}}\n  contact:")
    text = text.replace(
        "      contact: {table: Contact,",
        "      product: {table: Product, map: [{column: Code, field: code}]}\n      contact: {table: Contact,",
    )
    with pytest.raises(
        Fatal, match=r"entity `product` of this system has no field `customer`; add it to entities\.product\.fields"
    ):
        parse(text, "t.yaml", VARIABLES)


@pytest.mark.parametrize("value", ["7", "[7]", "{a: 7}", "[[7]]", "[[[a]]]", "[{a: [b]}]", "null"])
@pytest.mark.parametrize(
    "old",
    [
        "[[email]]",
        "[{column: Email, field: email}]",
        "{max_length: 4}",
        "{customer: 0010}",
        "{fields: {customer: 0010}}",
        "org, to: product}",
    ],
)
def test_whatever_has_the_wrong_shape_is_an_error_and_no_accident(old: str, value: str) -> None:
    """What is no mapping, list or name where there should be one is reported by the models, and skipped by the checks."""
    text = OWNED.replace(old, value + ("}" if old.endswith("t}") else ""), 1)
    assert text != OWNED
    with pytest.raises(Fatal, match=r"t\.yaml has"):
        parse(f"{text}unknown: 1\n", "t.yaml", VARIABLES)


def test_what_nobody_reads_may_be_bound() -> None:
    """A webhook is sent its customer with everything else."""
    text = OWNED.replace("capture: saas", "capture: none").replace(
        "  - {entity: contact, from: org, to: product}\n", ""
    )
    text = text.replace(
        "[{column: Email, field: email}]", "[{column: Email, field: email}, {column: Owner, field: customer}]"
    )
    compile_plans(parse(text, "t.yaml", VARIABLES))


def test_a_column_that_is_only_written_may_show_whose_a_record_is() -> None:
    shown = "[{column: Email, field: email}, {column: Owner, field: customer, direction: write}]"
    assert parse(OWNED.replace("[{column: Email, field: email}]", shown), "t.yaml", VARIABLES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "it would get everybody's"),
        ({"customer": "0012", "region": "eu"}, "there is no field `region`"),
        ({"region": "eu"}, "there is no field `region`"),
    ],
)
def test_a_tenant_is_not_added_without_saying_whose_its_records_are(fields: dict[str, str], message: str) -> None:
    config = parse(OWNED, "t.yaml", VARIABLES)
    with pytest.raises(Fatal, match="org/west cannot be added") as caught:
        check_added(config, "org", "west", fields)
    assert message in caught.value.message


def test_a_tenant_is_added_with_the_fields_that_others_have_and_the_first_may_have_any() -> None:
    config = parse(OWNED, "t.yaml", VARIABLES)
    check_added(config, "org", "west", {"customer": "0012"})
    check_added(parse(GOOD, "t.yaml", VARIABLES), "portal", "west", {})
    text = OWNED.replace('      acme: {fields: {customer: 0010}}\n      bolt: {fields: {customer: "0011"}}\n', "")
    empty = parse(text.replace("    tenants:\n", "    tenants: {}\n"), "t.yaml", VARIABLES)
    check_added(empty, "org", "acme", {"customer": "0010"})
    with pytest.raises(Fatal, match=r"flows|match"):
        check_added(parse(text.replace("    tenants:\n", "    tenants: {}\n").replace("[[email]]", "[[customer]]"), "t.yaml", VARIABLES), "org", "acme", {"customer": "0010"})  # fmt: skip


@pytest.mark.parametrize(
    ("tenants", "message"),
    [
        ({"acme": {"fields": {"customer": "a"}}, "west": {}}, "this one does not: |other tenants"),
        ({"acme": {"fields": {"customer": "a", "region": "eu"}}}, "has no such field"),
        ({"acme": {"fields": {"customer": ""}}}, "blank"),
    ],
)
def test_plans_refuse_what_would_mix_customers(tenants: dict[str, Any], message: str) -> None:
    """A tenant that was added at run time does not pass by the file's checks once the file has changed."""
    config = parse(OWNED, "t.yaml", VARIABLES)
    org = config.systems["org"].model_copy(
        update={"tenants": {n: TenantSpec.model_validate(t) for n, t in tenants.items()}}
    )
    with pytest.raises(Fatal, match=message):
        compile_plans(config.model_copy(update={"systems": {**config.systems, "org": org}}))
