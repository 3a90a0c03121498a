"""The demo's configuration file and the schemas of its databases, from the package's own data."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import psycopg

from tidelock.embedded import Endpoints

PREFIX = "demo."
DATABASES = ("crm", "erp", "legacy", "store", "central")
SYSTEMS = ("crm", "erp", "legacy", "store")  # those whose tables the demo makes


def write_config(path: Path, endpoints: Endpoints, dsns: dict[str, str], portals: dict[str, dict[str, Any]]) -> None:
    """Fill in the template with the addresses of this run; the file is readable by its owner only, since it holds passwords."""
    text = resources.files(__package__).joinpath("tidelock.yaml.template").read_text(encoding="utf-8")
    places: dict[str, Any] = {"kafka": endpoints.kafka, "registry": endpoints.registry, **dsns}
    for label, ready in portals.items():
        name = label.replace("/", "_")
        places |= {f"{name}_url": ready["https"], f"{name}_ca": ready["ca"]}
        given = ready["credentials"]
        places |= {f"{name}_{key}": value for key, value in given.items()}
        places[f"{name}_token_url"] = ready["https"] + given.get("token_path", "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    # JSON texts are YAML texts: quoted, whatever the password holds.
    path.write_text(Template(text).substitute({k: json.dumps(v) for k, v in places.items()}), encoding="utf-8")


def create_schema(system: str, dsn: str) -> None:
    """Create the tables of one system and the views by which the verification reads them."""
    script = resources.files(__package__).joinpath("sql", f"{system}.sql").read_text(encoding="utf-8")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(script.encode())
