"""How people name tenants and their records (tidelock.places)."""

from __future__ import annotations

import pytest

from tidelock.config import Config
from tidelock.errors import Fatal
from tidelock.places import every_place, find_place, find_tenants, read_native, seed_key, shown

TABLES = {"contact": {"table": "contact", "map": [{"column": "name", "field": "name"}]}}
CONFIG = Config.model_validate(
    {
        "systems": {
            "crm": {"dsn": "postgresql://h/d", "tenant": "main", "entities": TABLES},
            "portal": {"kind": "saas", "capture": "saas", "tenants": {"north": {}, "south": {}}, "entities": TABLES},
            "shop": {"kind": "saas", "capture": "saas", "tenants": {"only": {}}},
        },
        "entities": {"contact": {"fields": {"name": {}}}},
        "flows": [{"entity": "contact", "from": "portal", "to": "crm"}],
    }
)


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("crm/17", ("crm", "main", "17")),
        ("crm/a/b", ("crm", "main", "a/b")),
        ("portal/north/17", ("portal", "north", "17")),
        ("portal/south/a/b", ("portal", "south", "a/b")),
        ("shop/17", ("shop", "only", "17")),
    ],
)
def test_a_record_of_a_system(text: str, native: tuple[str, str, str]) -> None:
    assert read_native(CONFIG, text) == native


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("portal/17", "names none of them"),
        ("portal/north", "names none of them"),
        ("portal/east/17", "its tenants: north, south"),
        ("crm", "write crm/ and its key there"),
        ("nobody/17", "systems: crm, portal, shop"),
    ],
)
def test_what_is_no_record_or_could_be_several(text: str, message: str) -> None:
    with pytest.raises(Fatal) as caught:
        read_native(CONFIG, text)
    assert message in str(caught.value)


def test_a_place_is_a_system_or_one_of_its_tenants() -> None:
    assert find_place(CONFIG, "crm") == find_place(CONFIG, "crm/main") == ("crm", "main")
    assert find_place(CONFIG, "portal/south") == ("portal", "south")
    for text, message in (("portal", "say portal/north or portal/south"), ("portal/x", "it has: north, south")):
        with pytest.raises(Fatal) as caught:
            find_place(CONFIG, text)
        assert message in str(caught.value)
    assert find_tenants(CONFIG, "portal") == ["north", "south"]
    assert list(every_place(CONFIG, "contact")) == [("crm", "main"), ("portal", "north"), ("portal", "south")]


def test_the_tenant_is_named_where_it_says_something() -> None:
    crm, portal = CONFIG.systems["crm"], CONFIG.systems["portal"]
    assert [shown(crm, "crm", "main"), shown(crm, "crm", "former")] == ["crm", "crm/former"]
    assert shown(portal, "portal", "north") == "portal/north"
    assert seed_key(crm, "crm", "main", "contact") == "seed/crm/contact"
    assert seed_key(portal, "portal", "north", "contact") == "seed/portal/north/contact"
