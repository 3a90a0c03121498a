"""The kinds of objects of a HubSpot portal: their names, type ids, scopes, and what is shown of them when nothing is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of objects. ``scopes`` are those of reading, writing, and reading and writing property definitions."""

    name: str
    singular: str
    type_id: str
    defaults: tuple[str, ...]
    searched: tuple[str, ...]
    scopes: tuple[str, str, str, str]
    required: tuple[str, ...] = ()
    title: str = "name"
    """The property that a person would call the record by."""

    @property
    def modified(self) -> str:
        """Return the property that holds the time of the last change: contacts have a name of their own for it."""
        return "lastmodifieddate" if self.name == "contacts" else "hs_lastmodifieddate"

    @property
    def system(self) -> tuple[str, ...]:
        """Return what is shown of every record, whatever was asked for."""
        return ("createdate", "hs_object_id", self.modified)


def _crm(name: str) -> tuple[str, str, str, str]:
    return (
        f"crm.objects.{name}.read",
        f"crm.objects.{name}.write",
        f"crm.schemas.{name}.read",
        f"crm.schemas.{name}.write",
    )


KINDS: tuple[Kind, ...] = (
    Kind(
        "contacts",
        "contact",
        "0-1",
        ("email", "firstname", "lastname"),
        ("firstname", "lastname", "email", "hs_additional_emails", "phone", "mobilephone", "fax", "company"),
        _crm("contacts"),
        title="email",
    ),
    Kind("companies", "company", "0-2", ("name", "domain"), ("name", "domain", "phone", "website"), _crm("companies")),
    Kind(
        "deals",
        "deal",
        "0-3",
        ("dealname", "amount", "closedate", "pipeline", "dealstage"),
        ("dealname", "pipeline", "dealstage", "description", "dealtype"),
        _crm("deals"),
        title="dealname",
    ),
    Kind(
        "products",
        "product",
        "0-7",
        ("name", "description", "price"),
        ("name", "description", "price", "hs_sku"),
        ("e-commerce",) * 4,
    ),
    Kind(
        "line_items",
        "line_item",
        "0-8",
        ("name", "quantity", "price", "amount", "hs_product_id"),
        ("name", "description", "hs_sku"),
        ("e-commerce",) * 4,
    ),
    Kind(
        "tickets",
        "ticket",
        "0-5",
        ("subject", "content", "hs_pipeline", "hs_pipeline_stage", "hs_ticket_category", "hs_ticket_priority"),
        ("subject", "content", "hs_ticket_category"),
        ("tickets",) * 4,
        required=("hs_pipeline_stage",),
        title="subject",
    ),
)

_BY_NAME = {spelt: kind for kind in KINDS for spelt in (kind.name, kind.singular, kind.type_id)}

SCOPES: tuple[str, ...] = (
    "oauth",
    *dict.fromkeys(scope for kind in KINDS for scope in kind.scopes),
    "crm.objects.owners.read",
)
"""All scopes that mean something here."""


def kind_named(spelt: str) -> Kind | None:
    """Return the kind that a path names by plural, singular or type id, in any case; None if there is none."""
    return _BY_NAME.get(spelt.lower())
