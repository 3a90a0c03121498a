"""Tenants of the configuration file: what they inherit, how they show themselves, and how they reach the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from processors.mapping import compile_plans
from tests.access import SECRETS, make_config
from tidelock import central, supervisor
from tidelock.cli.common import stack_of
from tidelock.config import Config, KafkaSpec, RegistrySpec
from tidelock.errors import Fatal
from tidelock.tenants import Tenants, with_tenants
from tidelock.workers import roles


def test_a_tenant_inherits_name_by_name(tmp_path: Path) -> None:
    tenants = Tenants(make_config(tmp_path), None)
    north, south = tenants.all("shop")
    assert (north.name, north.url, north.options) == ("north", "https://shop.example", {"page": 100, "lang": "de"})
    assert (south.name, south.url, south.options) == ("south", "https://south.example", {"page": 100, "lang": "fr"})
    assert south.credentials == {"client_id": "app", "client_secret": SECRETS[0]}
    assert (south.state, south.reason, south.added) == ("on", None, False)
    assert south.path == "shop/south"


def test_a_system_without_tenants_has_the_one_it_names_unless_the_list_is_empty(tmp_path: Path) -> None:
    tenants = Tenants(make_config(tmp_path), None)
    assert [t.name for t in tenants.all("single")] == ["default"]
    assert tenants.all("hub") == []
    with pytest.raises(Fatal, match=r"hub has no tenant default(.|\n)*tidelock tenants add"):
        tenants.get("hub", "default")


def test_credentials_are_shown_by_name_only(tmp_path: Path) -> None:
    shown = repr(Tenants(make_config(tmp_path), None).all("shop"))
    assert "client_id, client_secret" in shown
    assert not [s for s in (*SECRETS, "'app'") if s in shown]


def test_the_configuration_file_switches_off(tmp_path: Path) -> None:
    systems: dict[str, dict[str, Any]] = {"shop": {"capture": "none", "tenants": {"a": {}, "b": {"enabled": False}}}}
    a, b = Tenants(make_config(tmp_path, systems), None).all("shop")
    assert (a.state, b.state) == ("on", "off")
    assert b.reason == "systems.shop.tenants.b has `enabled: false` in the configuration file"
    systems["shop"]["enabled"] = False
    a, _ = Tenants(make_config(tmp_path, systems), None).all("shop")
    assert a.reason == "systems.shop has `enabled: false` in the configuration file"


def test_nothing_is_changed_without_a_central_database(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"no central database(.|\n)*tidelock up"):
        Tenants(make_config(tmp_path), None).add("hub", "one")


def test_who_needs_the_central_database(tmp_path: Path) -> None:
    assert central.needed(make_config(tmp_path))
    specs: list[dict[str, Any]] = [
        {"url": "https://x"}, {"credentials": {"a": "b"}}, {"tenants": {}}, {"tenants": {"a": {}}},
    ]  # fmt: skip
    for spec in specs:
        assert central.needed(make_config(tmp_path, {"x": {"capture": "none", **spec}})), spec
    assert not central.needed(make_config(tmp_path, {"x": {"dsn": "postgresql://h/x"}}))


def test_a_system_that_has_no_tenants_yet_has_no_workers_and_no_place(tmp_path: Path) -> None:
    config = with_tenants(make_config(tmp_path), None)
    assert "sink.hub" not in roles(config)
    assert "sink.shop" in roles(config)
    plan = compile_plans(config)["contact"]
    assert set(plan.places) == {"crm/default", "shop/north", "shop/south", "single/default"}
    assert [flow.to for flow in config.flows] == [("crm", "shop", "hub", "single")], (
        "what others write goes into the hub"
    )
    with pytest.raises(Fatal, match="has no tenant yet"):
        _ = config.systems["hub"].only_tenant


def test_workers_get_the_configuration_as_it_is_secrets_included(tmp_path: Path) -> None:
    config = make_config(tmp_path, dsn="postgresql://u:pr1vate@h/central")
    text, secrets = config.model_dump_json(by_alias=True), list(supervisor._secrets(config))
    assert not [s for s in SECRETS if s in text]
    assert set(SECRETS) & {value for _, value in secrets} == {SECRETS[0], SECRETS[2]}
    again = supervisor._whole(text, secrets)
    assert again == config
    assert [t.name for t in Tenants(again, None).all("single")] == ["default"], "what was not set stays so"
    assert Tenants(again, None).all("hub") == []


def test_postgresql_is_started_only_where_it_is_needed(tmp_path: Path) -> None:
    def names(config: Config) -> set[str]:
        stack = stack_of(config)
        return set() if stack is None else {service.name for service in stack.services}

    databases = {"x": {"dsn": "postgresql://h/x"}}
    assert names(make_config(tmp_path)) == {"kafka", "registry", "postgres"}
    assert names(make_config(tmp_path, databases)) == {"kafka", "registry"}
    assert names(make_config(tmp_path, dsn="postgresql://h/central")) == {"kafka", "registry"}
    kafka = KafkaSpec(bootstrap="h:1")
    outside = make_config(tmp_path).model_copy(update={"kafka": kafka, "registry": RegistrySpec(url="http://h")})
    assert names(outside) == {"postgres"}
