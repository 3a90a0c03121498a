"""`tidelock refresh`: what it asks for, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.apicaptures import config_of
from tidelock.cli.app import app
from tidelock.errors import Fatal
from tidelock.kafka import KafkaClients


class _Sent:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, dict[str, Any]]] = []

    def produce(self, topic: str, *, key: bytes, value: bytes) -> None:
        self.messages.append((topic, key.decode(), json.loads(value)))

    def flush(self, _: float) -> int:
        return 0


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> _Sent:
    made = _Sent()
    monkeypatch.setattr(KafkaClients, "producer", lambda *_, **__: made)
    return made


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a configuration with a vendor of two tenants; nothing of it runs."""
    whole = config_of("", tmp_path, "postgresql://nobody@127.0.0.1:1/x", ("one", "two"), options={})
    content = whole.model_dump(mode="json", exclude_unset=True, by_alias=True)
    shop = content["systems"]["shop"]
    shop.update(kind="rest", capture="rest", url="https://shop.example", credentials={"token": "t"})
    content.pop("central")
    content["kafka"], content["registry"] = {"bootstrap": "127.0.0.1:9"}, {"url": "http://127.0.0.1:9"}
    content["systems"]["crm"] = {
        "capture": "none",
        "dsn": "postgresql://nobody@127.0.0.1:1/x",
        "entities": content["systems"]["crm"]["entities"],
    }
    path = tmp_path / "tidelock.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr("tidelock.central.needed", lambda _: False)
    return path


def refused(config: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["refresh", *arguments, "--config", str(config)])
    assert isinstance(done.exception, Fatal), done.output
    return str(done.exception)


def test_it_asks_for_records_and_for_entities(config: Path, sent: _Sent) -> None:
    arguments = ["shop", "contact", "--key", "a", "--key", "b", "--tenant", "one"]
    for wanted in (arguments, ["shop"]):
        done = CliRunner().invoke(app, ["refresh", *wanted, "--config", str(config)])
        assert done.exit_code == 0, done.output or done.exception
    (topic, key, one), (_, other_key, two) = sent.messages
    assert topic == "ops.signals"
    assert key.startswith("request/refresh/shop/")
    assert key != other_key
    assert (one["kind"], one["entity"], one["tenant"], one["keys"]) == ("refresh", "contact", "one", ["a", "b"])
    assert (two["entity"], two["tenant"], two["keys"]) == (None, None, [])


def test_what_it_refuses(config: Path, sent: _Sent) -> None:
    assert "no system" in refused(config, "nowhere")
    assert "captured by none" in refused(config, "crm")
    assert "no entity 'order'" in refused(config, "shop", "order")
    assert "of which entity" in refused(config, "shop", "--key", "a")
    assert "several tenants" in refused(config, "shop", "contact", "--key", "a")
    assert "no tenant three" in refused(config, "shop", "contact", "--tenant", "three")
    assert not sent.messages
