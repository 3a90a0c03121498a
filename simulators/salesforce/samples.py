"""Accounts and contacts that look like an org in use, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from simulators.salesforce.org import Org

_FIRST = (
    "Ada",
    "Ben",
    "Chiara",
    "David",
    "Elif",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kaja",
    "Luis",
    "Mina",
    "Noah",
)
_LAST = (
    "Adler",
    "Brandt",
    "Conti",
    "Dupont",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Hansen",
    "Ivanov",
    "Jansen",
    "Kowalski",
    "Lang",
)
_FIRMS = ("Nordlicht", "Alpenblick", "Seestern", "Birkenhof", "Steinadler", "Goldregen", "Windrose", "Morgentau")
_CITIES = (
    ("Hamburg", "DE", "20095"),
    ("Graz", "AT", "8010"),
    ("Lyon", "FR", "69001"),
    ("Bergen", "NO", "5003"),
    ("Turin", "IT", "10121"),
)
_SECTORS = ("Manufacturing", "Retail", "Energy", "Consulting", "Technology")
_CONTACTS_PER_ACCOUNT = 5


def fill(org: Org, load: Callable[[str, list[dict[str, Any]]], list[str]], contacts: int, seed: int) -> None:
    """Create as many contacts, and an account for every five of them."""
    chance = random.Random(f"{org.name} {seed}")
    accounts = []
    for number in range(-(-contacts // _CONTACTS_PER_ACCOUNT)):
        city, country, code = chance.choice(_CITIES)
        accounts.append(
            {
                "Name": f"{chance.choice(_FIRMS)} {number + 1} GmbH",
                "BillingCity": city,
                "BillingCountry": country,
                "BillingPostalCode": code,
                "Industry": chance.choice(_SECTORS),
                "AnnualRevenue": chance.randrange(100, 90_000) * 1000.0,
                "AccountNumber": f"{org.name}-{number + 1:06d}",
            }
        )
    ids = load("Account", accounts)
    people = []
    for number in range(contacts):
        first, last = chance.choice(_FIRST), chance.choice(_LAST)
        people.append(
            {
                "FirstName": first,
                "LastName": last,
                "Email": f"{first}.{last}.{number + 1}@{org.name}.example".lower(),
                "Phone": f"+49 40 {chance.randrange(10**6, 10**7)}",
                "AccountId": ids[number // _CONTACTS_PER_ACCOUNT],
            }
        )
    load("Contact", people)
