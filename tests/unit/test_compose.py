"""docker-compose.yml against the compose specification's schema, and against the code: commands, roles, variables, addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import psycopg.conninfo
import pytest
import yaml

import tidelock
from tidelock.config import Config
from tidelock.configdocs import application, commands
from tidelock.configfile import load
from tidelock.embedded import lock
from tidelock.workers import roles

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("kafka", "registry", "postgres")
OURS = [name for name in SERVICES if name not in SERVERS]
CONFIG = ROOT / "deploy/compose/tidelock.yaml"
VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)")


def environment(service: str) -> dict[str, str]:
    """Return a service's variables; those that come from the host are empty, as on a host that sets none."""
    found = SERVICES[service]["environment"]
    return {k: "" if str(v).startswith("${") else str(v) for k, v in found.items()}


@pytest.fixture(scope="module")
def config() -> Config:
    return load(CONFIG, environment("setup"))


def words(service: str) -> list[list[str]]:
    """Return what a service runs: lists of words behind `tidelock`."""
    spec = SERVICES[service]
    if "entrypoint" not in spec:
        return [list(spec["command"])]
    assert spec["entrypoint"] == ["sh", "-c"]
    return [part.split()[1:] for part in spec["command"][0].split("&&")]


def test_it_is_valid_by_the_specification() -> None:
    schema = json.loads((Path(__file__).parent / "data/compose-spec.json").read_text())
    checker = jsonschema.validators.validator_for(schema)(schema)
    assert not [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in checker.iter_errors(COMPOSE)]


def test_the_schema_would_notice_an_error() -> None:
    schema = json.loads((Path(__file__).parent / "data/compose-spec.json").read_text())
    wrong = {**COMPOSE, "services": {**SERVICES, "kafka": {**SERVICES["kafka"], "imagee": "x"}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("service", OURS)
def test_every_command_and_its_options_exist(service: str) -> None:
    known = dict(commands(application()))
    for line in words(service):
        path = max((p for p in known if list(p) == line[: len(p)]), key=len, default=None)
        assert path is not None, line
        options = {o for p in known[path].params for o in p.opts}
        assert {w for w in line if w.startswith("-")} <= options


def test_every_role_is_a_service_of_its_own(config: Config) -> None:
    run = {name: line for name in OURS for line in words(name) if line[0] == "run"}
    found = {name: line[line.index("--worker") + 1] for name, line in run.items()}
    assert sorted(found.values()) == sorted(roles(config))
    assert all(name == role.replace(".", "-") for name, role in found.items())
    assert all("--slot" in line for line in run.values()), (
        "without --slot a service would supervise processes of its own"
    )


def test_systems_captured_by_triggers_get_them_installed(config: Config) -> None:
    installed = [line[2] for line in words("setup") if line[:2] == ["outbox", "install"]]
    assert installed == [name for name, system in config.systems.items() if system.capture == "outbox"]


@pytest.mark.parametrize("service", OURS)
def test_every_variable_of_the_configuration_is_set(service: str) -> None:
    assert set(VARIABLE.findall(CONFIG.read_text())) <= environment(service).keys()


def test_nothing_is_set_that_nobody_reads() -> None:
    read = set(VARIABLE.findall(CONFIG.read_text())) | {"TIDELOCK_CONFIG"}
    assert set(environment("setup")) == read


def test_the_configuration_is_mounted_where_it_is_looked_for() -> None:
    for name in OURS:
        target = environment(name)["TIDELOCK_CONFIG"]
        assert f"./{CONFIG.relative_to(ROOT)}:{target}:ro" in SERVICES[name]["volumes"]


def test_servers_are_reached_where_they_listen(config: Config) -> None:
    kafka = SERVICES["kafka"]["environment"]
    assert config.kafka.bootstrap is not None
    assert f"PLAINTEXT://{config.kafka.bootstrap}" == kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert f":{config.kafka.bootstrap.split(':')[1]}," in kafka["KAFKA_LISTENERS"]
    assert config.registry.url is not None
    registry = urlsplit(config.registry.url)
    assert registry.hostname in SERVICES
    probe = SERVICES["registry"]["healthcheck"]["test"][1]
    assert f"http://localhost:{registry.port}{registry.path}/" in probe


def test_databases_are_those_that_are_made(config: Config) -> None:
    made = set(re.findall(r"CREATE DATABASE (\w+)", (ROOT / "deploy/compose/init.sql").read_text()))
    password = SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    used = set()
    for system in config.systems.values():
        assert system.dsn is not None
        dsn = psycopg.conninfo.conninfo_to_dict(system.dsn.get_secret_value())
        assert (dsn["host"], dsn["port"], dsn["password"]) == ("postgres", "5432", password)
        used.add(dsn["dbname"])
    own = SERVICES["registry"]["environment"]
    assert own["APICURIO_DATASOURCE_PASSWORD"] == password
    used.add(urlsplit(own["APICURIO_DATASOURCE_URL"].removeprefix("jdbc:")).path[1:])
    assert used == made
    assert "wal_level=logical" in SERVICES["postgres"]["command"]


def test_tables_and_columns_are_those_that_are_made(config: Config) -> None:
    script = (ROOT / "deploy/compose/init.sql").read_text()
    by_database = {part.split()[0]: part for part in script.split("\\connect ")[1:]}
    for name, system in config.systems.items():
        for table in system.entities.values() if system.kind != "store" else ():
            found = re.search(rf"CREATE TABLE {table.table} \((.*)\);", by_database[name])
            assert found is not None, f"{name}: {table.table}"
            columns = {part.split()[0] for part in found.group(1).split(", ")}
            assert {*table.key, *(c for b in table.map for c in b.column_names)} <= columns


def test_services_wait_for_what_they_need() -> None:
    for name, spec in SERVICES.items():
        for other, how in spec.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
    assert SERVICES["setup"]["depends_on"].keys() == set(SERVERS)
    assert all(SERVICES[name]["depends_on"].keys() == {"setup"} for name in OURS if name != "setup")


def test_volumes_are_declared() -> None:
    named = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if not v.startswith((".", "/"))}
    assert named == set(COMPOSE["volumes"])


def test_servers_are_the_versions_that_the_tests_run() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{lock.KAFKA_VERSION}"
    assert SERVICES["registry"]["image"] == f"apicurio/apicurio-registry:{lock.APICURIO_VERSION}"


def test_one_image_with_all_that_it_needs() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for package in ("tidelock", "producers", "processors", "sinks", "schemas"):
        assert f"COPY {package} {package}" in dockerfile
    assert 'ENTRYPOINT ["tidelock"]' in dockerfile
    assert {SERVICES[name]["image"] for name in OURS} == {f"tidelock:{tidelock.__version__}"}
