"""Data that a portal has from the start, the same for the same seed."""

from __future__ import annotations

import random
from typing import Any

_FIRST = "Amara Bjorn Carla Dmitri Elena Farid Grace Hiro Ines Jonas Kavya Liam Mira Noah Olga Pedro Quinn Rosa Samir Tove".split()  # noqa: SIM905 - a list of words
_LAST = "Adler Brandt Costa Dubois Eriksen Fischer Greco Haddad Ivanov Jensen Kumar Lopez Moreau Novak Okafor Park Rossi Silva Tanaka Weber".split()  # noqa: SIM905 - a list of words
_CITIES = (
    ("Berlin", "Germany"),
    ("Lyon", "France"),
    ("Austin", "United States"),
    ("Osaka", "Japan"),
    ("Porto", "Portugal"),
)
_STAGES = ("subscriber", "lead", "opportunity", "customer")


def contacts(count: int, seed: int) -> list[dict[str, Any]]:
    """Return properties of contacts, each with an e-mail address of its own."""
    made, draw = [], random.Random(seed)
    for n in range(count):
        first, last, (city, country) = draw.choice(_FIRST), draw.choice(_LAST), draw.choice(_CITIES)
        made.append(
            {
                "email": f"{first}.{last}.{n}@example.com".lower(),
                "firstname": first,
                "lastname": last,
                "phone": f"+49 30 {draw.randrange(10**6, 10**7)}",
                "city": city,
                "country": country,
                "lifecyclestage": draw.choice(_STAGES),
            }
        )
    return made


def companies(count: int, seed: int) -> list[dict[str, Any]]:
    """Return properties of companies."""
    made, draw = [], random.Random(seed + 1)
    for n in range(count):
        name, (city, country) = draw.choice(_LAST), draw.choice(_CITIES)
        domain = f"{name.lower()}-{n}.example.com"
        made.append({"name": f"{name} {n} Ltd", "domain": domain, "city": city, "country": country})
    return made


def deals(count: int, seed: int) -> list[dict[str, Any]]:
    """Return properties of deals."""
    draw = random.Random(seed + 2)
    stages = ("appointmentscheduled", "qualifiedtobuy", "contractsent", "closedwon")
    return [
        {"dealname": f"Deal {n}", "amount": f"{draw.randrange(100, 100_000)}.00", "dealstage": draw.choice(stages)}
        for n in range(count)
    ]


def products(count: int, seed: int) -> list[dict[str, Any]]:
    """Return properties of products."""
    draw = random.Random(seed + 3)
    return [
        {"name": f"Product {n}", "hs_sku": f"SKU-{n:05d}", "price": f"{draw.randrange(1, 1000)}.90"}
        for n in range(count)
    ]
