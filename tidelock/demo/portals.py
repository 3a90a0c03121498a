"""Systems that are reached through an API: their simulators, what stands in them at the start, the people who work there, and what they hold.

What the verification reads comes from the simulators' control API and is put into the hub's terms here, by hand, with no code of the product's.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tidelock.demo.evidence import text
from tidelock.demo.records import ALPHA_2, NAMES, Person
from tidelock.demo.users import Diary
from tidelock.errors import Fatal

START_S = 60.0
FIELDS = ("email", "first_name", "last_name", "phone", "country")


@dataclass(frozen=True)
class Kind:
    """What the demo knows of a vendor's contacts: the control API's name for them, and the property of each field."""

    table: str
    properties: Mapping[str, str]
    country: Mapping[str, str]
    """How the vendor spells countries, by ISO 3166 alpha-3."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    key: str = "id"
    nested: str = ""
    """Where in a dumped record the properties stand, if not at its top."""
    gone: Callable[[Mapping[str, Any]], bool] = lambda row: bool(row.get("deleted"))


def _named(*properties: str) -> dict[str, str]:
    return dict(zip(FIELDS, properties, strict=True))


_ALPHA_3 = {code: code for code in NAMES}
_NAME = {code: names[0] for code, names in NAMES.items()}
KINDS: dict[str, Kind] = {
    "dynamics": Kind(
        "contact",
        _named("emailaddress1", "firstname", "lastname", "telephone1", "address1_country"),
        _NAME,
        key="contactid",
        gone=lambda row: bool(row.get("@deleted")),
    ),
    "hubspot": Kind(
        "contacts",
        _named("email", "firstname", "lastname", "phone", "country"),
        _NAME,
        nested="properties",
        gone=lambda row: bool(row["archived"]),
    ),
    "webhook": Kind("contacts", _named("email", "given_name", "family_name", "tel", "country_code"), ALPHA_2),
    "salesforce": Kind(
        "Contact",
        _named("Email", "FirstName", "LastName", "Phone", "MailingCountry"),
        _NAME,
        key="Id",
        gone=lambda row: bool(row["IsDeleted"]),
    ),
    "shop": Kind("customers", {**_named(*FIELDS), "status": "status"}, _ALPHA_3),
}


@dataclass(frozen=True)
class Place:
    """One tenant of a system in the demo, and who is in it at the start (by number)."""

    label: str
    simulator: str
    people: range
    options: tuple[str, ...] = ()
    lives_in: Callable[[Person], bool] = lambda _: True
    dies: bool = True
    """Whether a deleted contact vanishes here; else it is only switched off."""

    @property
    def path(self) -> str:
        """Return system and tenant as they stand in keys of records."""
        return self.label if "/" in self.label else f"{self.label}/default"


PLACES: tuple[Place, ...] = (
    Place("salesforce/us", "salesforce", range(100), ("org=tide_us",), lambda p: p.country == "USA"),
    Place("salesforce/world", "salesforce", range(130), ("org=tide_world",), lambda p: p.country != "USA"),
    Place("hubspot", "hubspot", range(40, 150)),
    Place("dynamics", "dynamics", range(60, 170)),
    Place("shop", "shop", range(30, 140), dies=False),
    Place("partner", "webhook", range(0)),
)


class Portal:
    """A running simulator with the people who work in it. Not thread-safe: one thread per portal."""

    def __init__(self, place: Place, diary: Diary | None, seed: int, options: Iterable[str] = ()) -> None:
        self.place, self.kind = place, KINDS[place.simulator]
        self.system = place.label
        self.rng = random.Random(f"{seed}/{place.label}")
        self.diary = diary
        line = [sys.executable, "-m", "tidelock", "simulate", place.simulator, "--seed", str(seed)]
        for option in (*place.options, *options):
            line += ["--option", option]
        self._process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.ready: dict[str, Any] = {}
        self._control: httpx.Client | None = None

    def wait(self) -> None:
        """Wait until the simulator answers. Raises Fatal with what it said if it does not."""
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first:
            said = self._process.stderr.read() if self._process.stderr is not None else ""
            raise Fatal(f"the simulator of {self.system} did not start: {said.strip()[-500:]}")
        self.ready = json.loads(first)
        self._control = httpx.Client(base_url=self.ready["control"], timeout=START_S)

    @property
    def control(self) -> httpx.Client:
        """Return the client of the control API."""
        assert self._control is not None, "the simulator has not answered yet"
        return self._control

    def stop(self) -> None:
        """Stop the simulator."""
        if self._control is not None:
            self._control.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """Nothing beyond `stop`: the desk is the portal."""

    # ------------------------------------------------------------------------------------------------ people

    def load(self, people: Iterable[Person]) -> None:
        """Put contacts there as they stand before anybody edits."""
        self._post(f"/load/{self.kind.table}", [self._typed(p) for p in people])

    def keys(self, entity: str, name: str) -> dict[str, str]:
        """Return the native key of every contact by one of its fields."""
        rows = self.rows() if entity == "contact" else {}
        return {str(row[name]): key for key, row in rows.items()}

    def edit(self, entity: str, key: str, name: str, value: Any, *, accepted: bool = True) -> None:
        """Type a value, given in the hub's terms, into one field; nothing happens if the record is gone or has that value."""
        before = self.rows().get(key)
        shown = text(name, value)
        if before is None or before.get(name) == shown:
            return
        began = time.time()
        typed = [{"id": self._id(key), self.kind.properties[name]: self._spell(name, value)}]
        if self._typed_into(key, f"/edit/{self.kind.table}", typed) and self.diary is not None:
            self.diary.note(began, self.system, entity, key, "edit", name, shown, accepted=accepted)

    def create_contact(self, p: Person) -> str | None:
        """Enter a new contact; return its key, or None if the system refuses it because it is there."""
        began = time.time()
        got = self.control.post(f"/load/{self.kind.table}", json=[self._typed(p)])
        if got.status_code != 200:
            return None
        key = str(got.json()["ids"][0])
        if self.diary is not None:
            self.diary.note(began, self.system, "contact", key, "create", "", p.email)
        return key

    def delete(self, entity: str, key: str) -> None:
        """Delete a contact; nothing happens if it is gone."""
        if key not in self.rows():
            return
        began = time.time()
        if self._typed_into(key, f"/delete/{self.kind.table}", [self._id(key)]) and self.diary is not None:
            self.diary.note(began, self.system, entity, key, "delete")

    def fault(self, **fault: Any) -> None:
        """Order a fault."""
        self._post("/faults", fault)

    def calls(self) -> int:
        """Return how many requests the API has answered."""
        return sum(self.control.get("/calls", params={"last": 0}).json()["counts"].values())

    # ------------------------------------------------------------------------------------------------ evidence

    def rows(self) -> dict[str, dict[str, str | None]]:
        """Return what stands there, in the hub's terms, by native key."""
        out = {}
        for record in self.control.get(f"/records/{self.kind.table}").json():
            if self.kind.gone(record):
                continue
            row = record[self.kind.nested] if self.kind.nested else record
            out[str(record[self.kind.key])] = {
                name: self._read(name, row.get(p)) for name, p in self.kind.properties.items()
            }
        return out

    def _read(self, name: str, value: Any) -> str | None:
        if value is None or value == "":
            return None
        if name == "email":
            return str(value).strip().lower()
        if name == "phone":
            return "+" + "".join(ch for ch in str(value) if ch.isdigit())
        if name == "country":
            return next((code for code, names in NAMES.items() if value in (code, ALPHA_2[code], *names)), str(value))
        if name == "status":
            return {0: "inactive", 1: "active"}.get(value, str(value))
        return text(name, value)

    def _spell(self, name: str, value: Any) -> Any:
        if name == "country" and value is not None:
            return self.kind.country[value]
        return None if value is None else str(value)

    def _typed(self, p: Person) -> dict[str, Any]:
        return {
            **self.kind.fixed,
            **{
                prop: self._spell(name, getattr(p, name))
                for name, prop in self.kind.properties.items()
                if name in FIELDS
            },
        }

    def _id(self, key: str) -> Any:
        return int(key) if key.isdigit() else key

    def _typed_into(self, key: str, path: str, body: Any) -> bool:
        """Do what somebody does with a record; return False if a delete from elsewhere has come first. Raises Fatal."""
        try:
            self._post(path, body)
        except Fatal:
            if key in self.rows():
                raise
            return False
        return True

    def _post(self, path: str, body: Any) -> None:
        got = self.control.post(path, json=body)
        if got.status_code != 200:
            raise Fatal(f"the simulator of {self.system} refused {path}: {got.text[:500]}")
