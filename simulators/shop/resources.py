"""What the shop keeps: its resources, their fields with sizes, and what a delete and a text that is too long mean for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "email", "country", "currency", "money", "integer", "flag", "date", "moment", "lines"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a resource. ``size`` is in characters; ``read_only`` fields are the shop's own."""

    name: str
    kind: Kind = "text"
    size: int = 0
    required: bool = False
    one_of: tuple[str, ...] = ()
    lowest: int = 0
    read_only: bool = False
    cut: bool | None = None
    """Whether a text that is too long is cut rather than refused; None: as the resource says."""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of record.

    ``number`` is the field that is unique beside `id` and `external_ref`; ``refers`` says which fields must name a record of another
    resource by its number; ``indexed`` are the fields that a list can be asked for.
    """

    name: str
    singular: str
    number: str | None
    fields: tuple[Field, ...]
    too_long: Literal["reject", "truncate"]
    delete: Literal["disable", "remove", "refuse"]
    exported: bool
    indexed: tuple[str, ...]
    choices: tuple[str, ...] = ()
    """Fields with few values that a list can be asked for."""
    refers: tuple[tuple[str, str], ...] = ()

    def field(self, name: str) -> Field | None:
        """Return a field by its name."""
        return next((f for f in self.fields if f.name == name), None)


_EXPORT = (
    Field("exported", "flag", about="0 or 1; blank means 0. Set when the record is pulled or acknowledged."),
    Field("erp_import_status", one_of=("pending", "success", "failed"), about="Blank means pending."),
    Field("erp_import_error", size=255, cut=True, about="Why the import failed; cleared by any other status."),
    Field("exported_at", "moment", read_only=True, about="When the flag was last set."),
    Field("exported_version", "integer", read_only=True, about="The version that stood when the flag was last set."),
)
_STATUS = Field("status", "flag", about="1 or blank: enabled; 0: disabled.")
_COMMON = (
    Field("external_ref", size=64, about="The writer's own id of the record; unique per resource."),
    Field(
        "source",
        size=40,
        about="Who made this version: the writer's name for itself; a user's edit shows storefront or backoffice.",
    ),
)


def _address(prefix: str, country_required: bool) -> tuple[Field, ...]:
    return (
        Field(f"{prefix}address1", size=40),
        Field(f"{prefix}address2", size=40),
        Field(f"{prefix}city", size=30),
        Field(f"{prefix}state", size=20),
        Field(f"{prefix}postal_code", size=10),
        Field(f"{prefix}country", "country", required=country_required),
    )


LINE = (
    Field("line_number", "integer", read_only=True),
    Field("sku", size=30, required=True),
    Field("description", size=120),
    Field("quantity", "integer", required=True, lowest=1),
    Field("unit_price", "money", required=True),
    Field("line_total", "money", read_only=True, about="quantity × unit_price"),
)
MOST_LINES = 200

_ALL = (
    Resource(
        "customers",
        "customer",
        "customer_number",
        (
            Field("customer_number", size=20),
            Field("email", "email", size=80, required=True),
            Field("first_name", size=30),
            Field("last_name", size=40, required=True),
            Field("company", size=60),
            Field("phone", size=24),
            *_address("", country_required=True),
            Field("price_level", size=10),
            Field("credit_limit", "money"),
            Field("notes", size=255),
            _STATUS,
            *_EXPORT,
            *_COMMON,
        ),
        "reject",
        "disable",
        exported=True,
        indexed=("external_ref", "customer_number", "email"),
        choices=("status", "erp_import_status"),
    ),
    Resource(
        "products",
        "product",
        "sku",
        (
            Field(
                "sku", size=30, required=True, cut=False, about="Too long is refused here too: cut keys would collide."
            ),
            Field("name", size=60, required=True),
            Field("description", size=500),
            Field("category", size=40),
            Field("uom", size=6, about="Unit of measure."),
            Field("price", "money"),
            Field("currency", "currency"),
            Field("stock_quantity", "integer", lowest=-1_000_000),
            _STATUS,
            *_COMMON,
        ),
        "truncate",
        "disable",
        exported=False,
        indexed=("external_ref", "sku", "category"),
        choices=("status",),
    ),
    Resource(
        "prices",
        "price",
        None,
        (
            Field("sku", size=30, required=True),
            Field("price_level", size=10),
            Field("customer_number", size=20),
            Field("min_quantity", "integer", lowest=1),
            Field("price", "money", required=True),
            Field("currency", "currency", required=True),
            Field("valid_from", "date"),
            Field("valid_to", "date"),
            *_COMMON,
        ),
        "reject",
        "remove",
        exported=False,
        indexed=("external_ref", "sku", "customer_number"),
        refers=(("sku", "products"), ("customer_number", "customers")),
    ),
    Resource(
        "orders",
        "order",
        "order_number",
        (
            Field("order_number", size=20, about="Given by the shop if a writer gives none."),
            Field("order_date", "moment"),
            Field("order_status", one_of=("open", "processing", "shipped", "cancelled")),
            Field("customer_number", size=20),
            Field("email", "email", size=80),
            Field("po_number", size=30),
            Field("currency", "currency", required=True),
            Field("ship_name", size=60),
            *_address("ship_", country_required=True),
            Field("comments", size=255),
            Field("lines", "lines", required=True),
            Field("subtotal", "money", read_only=True),
            Field("shipping_amount", "money"),
            Field("tax_amount", "money"),
            Field("total", "money", read_only=True, about="subtotal + shipping_amount + tax_amount"),
            *_EXPORT,
            *_COMMON,
        ),
        "reject",
        "refuse",
        exported=True,
        indexed=("external_ref", "order_number", "customer_number", "email"),
        choices=("order_status", "erp_import_status"),
    ),
    Resource(
        "invoices",
        "invoice",
        "invoice_number",
        (
            Field("invoice_number", size=20, required=True),
            Field("customer_number", size=20, required=True),
            Field("order_number", size=20),
            Field("invoice_date", "date", required=True),
            Field("due_date", "date"),
            Field("invoice_status", one_of=("open", "paid", "void")),
            Field("currency", "currency", required=True),
            Field("total", "money", required=True),
            Field("open_amount", "money", required=True),
            *_COMMON,
        ),
        "reject",
        "refuse",
        exported=False,
        indexed=("external_ref", "invoice_number", "customer_number", "order_number"),
        choices=("invoice_status",),
        refers=(("customer_number", "customers"),),
    ),
    Resource(
        "payments",
        "payment",
        "payment_number",
        (
            Field("payment_number", size=20, about="Given by the shop if a writer gives none."),
            Field("customer_number", size=20, required=True),
            Field("invoice_number", size=20),
            Field("order_number", size=20),
            Field("paid_at", "moment"),
            Field("method", one_of=("card", "ach", "check", "account")),
            Field("payment_status", one_of=("authorised", "captured", "refunded", "failed")),
            Field("currency", "currency", required=True),
            Field("amount", "money", required=True),
            *_EXPORT,
            *_COMMON,
        ),
        "reject",
        "refuse",
        exported=True,
        indexed=("external_ref", "payment_number", "customer_number", "invoice_number"),
        choices=("payment_status", "erp_import_status"),
        refers=(("customer_number", "customers"), ("invoice_number", "invoices")),
    ),
)
RESOURCES = {resource.name: resource for resource in _ALL}
OWN = ("id", "version", "created_at", "updated_at")
"""What every record has beside its fields, written by the shop alone."""
BOOKKEEPING = frozenset({"exported"})
"""Setting these to 1 leaves version and `updated_at` alone: that a record was handed over is no edit of it."""
