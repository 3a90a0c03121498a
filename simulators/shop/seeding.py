"""Records that a shop has from the start: made from a seed, so the same options give the same shop."""

from __future__ import annotations

import random
from typing import Any

from simulators.shop.resources import RESOURCES
from simulators.shop.store import Store, Writer

_FIRST = ("Ada", "Björn", "Chen", "Dolores", "Emeka", "Fatima", "Grace", "Hiro", "Ines", "José", "Kavya", "Liam")
_LAST = (
    "Abara",
    "Brandt",
    "Castillo",
    "Dubois",
    "Eriksen",
    "Farouk",
    "García",
    "Hughes",
    "Ivanova",
    "O'Neill",
    "Tanaka",
)
_PLACES = (
    ("Springfield", "IL", "62701", "USA"),
    ("Toronto", "ON", "M5V 2T6", "CAN"),
    ("Köln", "NW", "50667", "DEU"),
    ("Lyon", "", "69001", "FRA"),
    ("Austin", "TX", "73301", "USA"),
)
_THINGS = ("Hex bolt", "Gasket", "Ball bearing", "Cable tie", "Hose clamp", "Relay", "Filter", "Valve")


def seed_shop(store: Store, seed: int, customers: int, products: int, orders: int) -> None:
    """Fill an empty shop as its users would have."""
    chance = random.Random(f"shop-data-{seed}")
    writer = Writer("storefront", user=True)
    for n in range(products):
        store.apply(RESOURCES["products"], "create", product(n, chance), writer)
    for n in range(customers):
        store.apply(RESOURCES["customers"], "create", customer(n, chance), writer)
    for _ in range(orders):
        store.apply(RESOURCES["orders"], "create", order(chance, customers, products), writer)


def product(n: int, chance: random.Random) -> dict[str, Any]:
    """Return a product."""
    return {
        "sku": f"SKU-{n + 1:05d}",
        "name": f"{chance.choice(_THINGS)} {n + 1}",
        "category": chance.choice(("Fasteners", "Seals", "Electrical")),
        "uom": "EA",
        "price": f"{chance.randint(50, 20_000) / 100:.2f}",
        "currency": "USD",
        "stock_quantity": chance.randint(0, 500),
    }


def customer(n: int, chance: random.Random) -> dict[str, Any]:
    """Return a customer."""
    first, last = chance.choice(_FIRST), chance.choice(_LAST)
    city, state, postal_code, country = chance.choice(_PLACES)
    return {
        "customer_number": f"C{n + 1:06d}",
        "email": f"person{n + 1}@shop.example",
        "first_name": first,
        "last_name": last,
        "company": f"{last} & Co.",
        "phone": f"+1 555 01{n % 100:02d}",
        "address1": f"{chance.randint(1, 999)} Main Street",
        "city": city,
        "state": state,
        "postal_code": postal_code,
        "country": country,
    }


def order(chance: random.Random, customers: int, products: int) -> dict[str, Any]:
    """Return an order of one of so many customers."""
    city, state, postal_code, country = chance.choice(_PLACES)
    number = chance.randint(1, customers) if customers else None
    lines = [
        {
            "sku": f"SKU-{chance.randint(1, max(products, 1)):05d}",
            "quantity": chance.randint(1, 20),
            "unit_price": f"{chance.randint(50, 20_000) / 100:.2f}",
        }
        for _ in range(chance.randint(1, 4))
    ]
    return {
        "customer_number": None if number is None else f"C{number:06d}",
        "email": None if number is None else f"person{number}@shop.example",
        "order_status": "open",
        "currency": "USD",
        "ship_name": f"{chance.choice(_FIRST)} {chance.choice(_LAST)}",
        "ship_address1": f"{chance.randint(1, 999)} Main Street",
        "ship_city": city,
        "ship_state": state,
        "ship_postal_code": postal_code,
        "ship_country": country,
        "shipping_amount": "9.50",
        "lines": lines,
    }
