"""What a new organisation holds: its users, unit and currency, and made-up customers if they are asked for."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import Any

from simulators.clock import Clock
from simulators.dynamics.messages import Caller
from simulators.dynamics.schema import metadata_id
from simulators.dynamics.store import Store, Values
from simulators.dynamics.values import stamp
from simulators.dynamics.writes import Context, Writer

_FIRST = ("Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Femi", "Greta", "Hiro", "Ines", "Jonas", "Kaja", "Luis")
_LAST = ("Adeyemi", "Berg", "Costa", "Dvorak", "Eriksen", "Fontaine", "Garcia", "Haas", "Ito", "Jensen", "Kowalski")
_FIRMS = ("Adventure Works", "Blue Yonder", "Coho Vineyard", "Fabrikam", "Litware", "Northwind", "Proseware", "Wingtip")


@dataclass(frozen=True, slots=True)
class People:
    """The ids of the users that every organisation has."""

    integration: str
    person: str
    system: str
    organisation: str
    unit: str
    currency: str

    @classmethod
    def of(cls, name: str) -> People:
        """Return the ids for an organisation: the same in every run."""
        words = ("integration", "person", "system", "organization", "businessunit", "currency")
        return cls(*(metadata_id(name, word) for word in words))


def found(store: Store, writer: Writer, clock: Clock, name: str, people: People, client_id: str) -> None:
    """Put users, unit, currency and the organisation itself there."""
    now = stamp(clock.moment())

    def put(table_name: str, row_id: str, values: Values) -> None:
        table = store.schema.tables[table_name]
        stamps = {"createdon": now, "modifiedon": now} if table.stamped else {}
        store.insert(table, row_id, {table.primary_id: row_id, **stamps, **values})

    put("organization", people.organisation, {"name": name, "expirechangetrackingindays": 7})
    put("businessunit", people.unit, {"name": name})
    put(
        "transactioncurrency",
        people.currency,
        {"currencyname": "US Dollar", "isocurrencycode": "USD", "currencysymbol": "$", "exchangerate": 1},
    )
    users = {
        people.system: {"fullname": "SYSTEM", "lastname": "SYSTEM"},
        people.person: {
            "fullname": "Dana Admin",
            "firstname": "Dana",
            "lastname": "Admin",
            "domainname": f"dana@{name}.example",
            "internalemailaddress": f"dana@{name}.example",
            "azureactivedirectoryobjectid": metadata_id(name, "object", "dana"),
        },
        people.integration: {
            "fullname": "# Integration",
            "firstname": "#",
            "lastname": "Integration",
            "applicationid": client_id,
            "azureactivedirectoryobjectid": metadata_id(name, "object", "integration"),
        },
    }
    for user_id, values in users.items():
        unit = {"_businessunitid_value": people.unit, "isdisabled": False}
        put(
            "systemuser",
            user_id,
            {"_createdby_value": people.system, "_modifiedby_value": people.system, **unit, **values},
        )
    writer.platform.defaults = {"businessunit": people.unit, "transactioncurrency": people.currency}


def populate(store: Store, writer: Writer, people: People, seed: int, accounts: int, contacts: int) -> None:
    """Make up accounts and contacts, as a user would have entered them."""
    chance = random.Random(seed)
    context = Context(Caller(people.person), bypass=True)
    schema = store.schema
    ids = []
    for number in range(accounts):
        body: dict[str, Any] = {
            "name": f"{chance.choice(_FIRMS)} {number + 1}",
            "accountnumber": f"A{number + 1:06}",
            "telephone1": f"+1 555 {number % 10000:04}",
        }
        ids.append(writer.create(schema.tables["account"], body, context).id)
    for number in range(contacts):
        first, last = chance.choice(_FIRST), chance.choice(_LAST)
        body = {
            "firstname": first,
            "lastname": last,
            "emailaddress1": f"{first}.{last}.{number + 1}@example.com".lower(),
            "telephone1": f"+1 555 {number % 10000:04}",
        }
        if ids:
            body["parentcustomerid_account@odata.bind"] = f"accounts({chance.choice(ids)})"
        writer.create(schema.tables["contact"], body, context)


def client(name: str) -> tuple[str, str, str]:
    """Return tenant, client id and secret of an organisation's integration: the same in every run."""
    space = uuid.UUID(metadata_id(name, "directory"))
    tenant, client_id = str(uuid.uuid5(space, "tenant")), str(uuid.uuid5(space, "client"))
    return tenant, client_id, f"sim8Q~{uuid.uuid5(space, 'secret').hex}"
