"""The service for webhooks and its capture against the simulator, which signs by code of its own: every scheme, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from producers.webhook import WebhookProducer
from simulators.server import Running
from simulators.webhook import WebhookSimulator
from tests.apicaptures import ApiRig
from tests.integration.test_hooks import Service
from tidelock.config import Config
from tidelock.context import Context
from tidelock.embedded import Stack

pytestmark = pytest.mark.stack

SYSTEM = "shop"
KEY = "whk_simulated"
FORMS: dict[str, dict[str, Any]] = {
    "standard": {"scheme": "standard"},
    "standard_ed25519": {"scheme": "standard"},
    "shopify": {
        "scheme": "shopify",
        "type": "header:x-shopify-topic",
        "record": "",
        "time": "header:x-shopify-triggered-at",
    },
    "shopify_events": {
        "scheme": "shopify",
        "type": "header:shopify-topic",
        "record": "",
        "time": "header:shopify-triggered-at",
    },
    "stripe": {"scheme": "stripe", "record": "data.object", "time": "created", "delivery": "id"},
    "github": {"scheme": "github", "type": ["header:x-github-event", "action"], "record": "contact", "time": None},
    "static": {"scheme": {"static": "X-Hook-Key"}, "type": "event", "time": "occurred_at", "delivery": "id"},
}


class World:
    """The simulator, the service and a capture."""

    def __init__(self, rig: ApiRig, service: Service, there: httpx.Client, secrets: dict[str, str]) -> None:
        self.rig, self.service, self.there, self.secrets = rig, service, there, secrets

    def subscribe(self, tenant: str, **wish: Any) -> dict[str, Any]:
        """Have the simulator send to a tenant's address."""
        url = f"http://127.0.0.1:{self.service.worker.port}/hooks/{SYSTEM}/{tenant}"
        answer = self.there.post("/webhooks", json={"url": url, "retries_s": [0.1, 0.1, 0.2, 0.5], **wish})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def counted(self, name: str) -> int:
        """Return how many webhooks met a fate."""
        return self.service.context.activity.totals[f"hooks_{name}"]


Make = Callable[..., World]


@pytest.fixture
def make(stack: Stack, topic_prefix: str, tmp_path: Path, database: Callable[[str], str]) -> Iterator[Make]:
    made: list[Any] = []
    simulator = WebhookSimulator(api_key=KEY, jitter="0")
    with Running(simulator) as running:

        def world(**more: Any) -> World:
            columns = [{"column": c, "field": c} for c in ("email", "name")]
            secrets = {name: f"secret-of-{name}" for name in FORMS}
            secrets["standard"] = "whsec_c2VjcmV0LW9mLXN0YW5kYXJkLXdlYmhvb2tz"
            private = "whsk_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
            secrets["standard_ed25519"] = private
            entities = {
                kind: "contact"
                for head in ("contact.", "contacts/")
                for verb in ("created", "updated", "deleted", "create", "update", "delete")
                for kind in [head + verb]
            }
            tenants = {
                name: {
                    "options": {"in": {**form, "entities": entities, "deletes": DELETES}},
                    "credentials": {"hook_secret": secrets[name]},
                }
                for name, form in FORMS.items()
            }
            config = Config.model_validate(
                {
                    "prefix": topic_prefix,
                    "partitions": 2,
                    "data": str(tmp_path),
                    "central": {"dsn": database("central")},
                    "hooks": {"port": 0},
                    "systems": {
                        SYSTEM: {
                            "kind": "webhook",
                            "capture": "webhook",
                            "url": running.http,
                            "credentials": {"token": KEY},
                            "options": {"version": "integer", **more},
                            "tenants": tenants,
                            "entities": {
                                "contact": {"table": "contacts", "modified": "version", "every_s": 0.3, "map": columns}
                            },
                        },
                        "crm": {"capture": "none", "entities": {"contact": {"table": "contact", "map": columns}}},
                    },
                    "entities": {"contact": {"fields": {"email": {}, "name": {}}}},
                    "flows": [{"entity": "contact", "from": SYSTEM, "to": "crm"}],
                }
            )
            rig = ApiRig(stack, config, WebhookProducer)
            made.append(rig)
            service = Service(Context(config, rig.clients, rig.codec, "hooks"))
            made.append(service)
            there = httpx.Client(base_url=f"{running.http}/_control", timeout=30)
            made.append(there)
            return World(rig, service, there, secrets)

        yield world
        for one in reversed(made):
            one.close()


DELETES = ["contact.deleted", "contact.delete", "contacts/deleted", "contacts/delete"]


def test_every_scheme_is_understood_from_the_first_record_to_the_last(make: Make) -> None:
    world = make()
    for tenant in FORMS:
        header = {"header": "x-hook-key"} if tenant == "static" else {}
        world.subscribe(tenant, scheme=tenant, secret=world.secrets[tenant], **header)
    world.rig.start()
    (key,) = world.there.post("/load/contacts", json=[{"email": "a@example.com", "name": "A"}]).json()["ids"]
    world.rig.until(lambda: all(key in world.rig.known(t) for t in FORMS))
    world.there.post("/edit/contacts", json=[{"id": key, "name": "B"}])
    world.rig.until(lambda: all((world.rig.known(t)[key] or {})["name"].endswith(b"B") for t in FORMS))
    world.there.post("/delete/contacts", json=[key])
    world.rig.until(lambda: all(world.rig.known(t)[key] is None for t in FORMS))
    assert world.counted("accepted") == 3 * len(FORMS)


def test_doubled_late_and_shuffled_deliveries_end_in_what_stands_there(make: Make) -> None:
    world = make()
    world.subscribe("standard", secret=world.secrets["standard"])
    world.rig.start()
    for fault in (
        {"kind": "webhook_twice", "times": 2},
        {"kind": "replay", "times": 2},
        {"kind": "bad_signature", "times": 1},
        {"kind": "old_timestamp", "times": 1, "skip": 1, "age_s": 600},
    ):
        world.there.post("/faults", json=fault)
    (key,) = world.there.post("/load/contacts", json=[{"email": "a@example.com", "name": "0"}]).json()["ids"]
    world.rig.until(lambda: key in world.rig.known("standard"))
    world.there.post("/faults", json={"kind": "webhook_shuffled", "times": 4, "count": 4})
    for n in range(1, 5):
        world.there.post("/edit/contacts", json=[{"id": key, "name": str(n)}])
    world.rig.until(lambda: (world.rig.known("standard")[key] or {})["name"].endswith(b"4"))
    world.rig.until(lambda: world.counted("repeated") >= 2)
    assert world.counted("refused_signature_wrong") == 1
    assert world.counted("refused_too_old") == 1


def test_a_secret_is_replaced_without_losing_a_call(make: Make) -> None:
    world = make()
    first = world.secrets["standard"]
    world.subscribe("standard", secret=first)
    world.rig.start()
    (key,) = world.there.post("/load/contacts", json=[{"name": "A"}]).json()["ids"]
    world.rig.until(lambda: key in world.rig.known("standard"))
    second = "whsec_dGhlLW5ldy1zZWNyZXQtb2Ytc3RhbmRhcmQtd2ViaG9va3M="
    tenants = world.service.context.access.tenants
    tenants.connected(SYSTEM, "standard", {"hook_secret": second})
    world.subscribe("standard", secret=second)
    (other,) = world.there.post("/load/contacts", json=[{"name": "B"}]).json()["ids"]
    world.rig.until(lambda: other in world.rig.known("standard"))
    assert world.counted("refused_signature_wrong") > 0, "the old endpoint still signs with the old secret"
