"""The demo's configuration file and the schemas of its databases, from the package's own data."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import psycopg

from tidelock.embedded import Endpoints
from tidelock.embedded.ports import free_port

PREFIX = "demo."
DATABASES = ("crm", "erp", "legacy", "store", "central")
SYSTEMS = ("crm", "erp", "legacy", "store")  # those whose tables the demo makes


@dataclass(frozen=True)
class Hooks:
    """Where the demo takes webhooks, and the secret that both sides sign with."""

    port: int
    secret: str

    @classmethod
    def new(cls) -> Hooks:
        """Choose a free port and make up a secret."""
        return cls(free_port(set()), f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}")

    def options(self, place: str) -> tuple[str, ...]:
        """Return the options of a simulator that sends its webhooks here and takes ours."""
        target = f"target=http://127.0.0.1:{self.port}/hooks/{place}"
        return (target, f"secret={self.secret}", f"inbox_secret={self.secret}", "kinds=contacts", "inbox_kind=contacts")


def write_config(
    path: Path, endpoints: Endpoints, dsns: dict[str, str], portals: dict[str, dict[str, Any]], hooks: Hooks
) -> None:
    """Fill in the template with the addresses of this run; the file is readable by its owner only, since it holds passwords."""
    text = resources.files(__package__).joinpath("tidelock.yaml.template").read_text(encoding="utf-8")
    places: dict[str, Any] = {"kafka": endpoints.kafka, "registry": endpoints.registry, **dsns}
    places |= {"hooks_port": hooks.port, "hook_secret": hooks.secret}
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
