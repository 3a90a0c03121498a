"""An installation with systems behind APIs, for tests of tenants, tokens, limits and the client. Nothing of it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidelock.config import Config

SECRETS = ("s3cret-client", "r3fresh-token", "acc3ss-token", "pr1vate")


def make_config(data: Path, systems: dict[str, Any] | None = None, *, dsn: str | None = None) -> Config:
    """Return a configuration: ``shop`` has two tenants in it, ``hub`` has none yet, ``crm`` is a database."""
    listed = systems or {
        "shop": {
            "capture": "none",
            "url": "https://shop.example",
            "credentials": {"client_id": "app", "client_secret": SECRETS[0]},
            "options": {"page": 100, "lang": "de"},
            "tenants": {"north": {}, "south": {"url": "https://south.example", "options": {"lang": "fr"}}},
        },
        "hub": {"capture": "none", "tenants": {}},
        "single": {"capture": "none", "credentials": {"token": SECRETS[2]}},
    }
    entities = {"contact": {"table": "contact", "map": [{"column": "name", "field": "name"}]}}
    content: dict[str, Any] = {
        "data": data,
        "systems": {
            "crm": {"dsn": "postgresql://u:pr1vate@h/crm", "entities": entities},
            **{name: {"entities": entities, **spec} for name, spec in listed.items()},
        },
        "entities": {"contact": {"fields": {"name": {}}}},
        "flows": [{"entity": "contact", "from": ["crm"], "to": ["crm", *listed]}],
    }
    if dsn is not None:
        content["central"] = {"dsn": dsn}
    return Config.model_validate(content)
