"""The standard objects that the org starts with, each with a custom external id beside the vendor's fields."""

from __future__ import annotations

from typing import Any

from simulators.salesforce.schema import Field, Kind

_SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other")
_INDUSTRIES = (
    "Agriculture|Apparel|Banking|Biotechnology|Chemicals|Communications|Construction|Consulting|Education|Electronics|Energy|"
    "Engineering|Entertainment|Environmental|Finance|Food & Beverage|Government|Healthcare|Hospitality|Insurance|Machinery|"
    "Manufacturing|Media|Not For Profit|Recreation|Retail|Shipping|Technology|Telecommunications|Transportation|Utilities|Other"
)
_STAGES = (
    "Prospecting|Qualification|Needs Analysis|Value Proposition|Id. Decision Makers|Perception Analysis|"
    "Proposal/Price Quote|Negotiation/Review|Closed Won|Closed Lost"
)


def kinds() -> list[Kind]:
    """Return fresh copies of the objects, in the order in which they refer to one another."""
    return [_user(), _organization(), _account(), _contact(), _lead(), _opportunity(), _product(), _order()]


def _text(name: str, length: int = 255, **more: Any) -> Field:
    return Field(name, length=length, **more)


def _phone(name: str) -> Field:
    return Field(name, "phone", length=40)


def _email(name: str = "Email", **more: Any) -> Field:
    return Field(name, "email", length=80, lookup=True, **more)


def _pick(name: str, values: str | tuple[str, ...], **more: Any) -> Field:
    return Field(
        name, "picklist", length=255, values=tuple(values.split("|")) if isinstance(values, str) else values, **more
    )


def _flag(name: str, default: bool = False, **more: Any) -> Field:
    return Field(name, "boolean", default=default, **more)


def _refers(name: str, *to: str, **more: Any) -> Field:
    return Field(name, "reference", refers=to, **more)


def _money(name: str, **more: Any) -> Field:
    return Field(name, "currency", scale=2, **more)


def _owner() -> Field:
    return _refers("OwnerId", "User", label="Owner ID")


def _address(prefix: str) -> list[Field]:
    whole = f"{prefix}Address"
    sizes = {"Street": 255, "City": 40, "State": 80, "PostalCode": 20, "Country": 80}
    parts = [
        Field(f"{prefix}{part}", "textarea" if part == "Street" else "string", length=size, part_of=whole)
        for part, size in sizes.items()
    ]
    parts += [
        Field(f"{prefix}{part}", "double", precision=18, scale=15, part_of=whole) for part in ("Latitude", "Longitude")
    ]
    return [*parts, Field(whole, "address", writes="never", parts=tuple(p.name for p in parts))]


def _person(name_length: int = 121) -> list[Field]:
    return [
        Field("LastName", length=80, required=True, part_of="Name"),
        Field("FirstName", length=40, part_of="Name"),
        _pick("Salutation", "Mr.|Ms.|Mrs.|Dr.|Prof.|Mx.", part_of="Name"),
        Field(
            "Name", label="Full Name", length=name_length, writes="never", parts=("LastName", "FirstName", "Salutation")
        ),
    ]


def _ours() -> Field:
    return Field("Tidelock_Id__c", length=64, unique=True, external=True, lookup=True)


def _account() -> Kind:
    return Kind(
        "Account",
        "001",
        [
            Field("Name", label="Account Name", length=255, required=True),
            _pick(
                "Type",
                "Prospect|Customer - Direct|Customer - Channel|Channel Partner / Reseller|Installation Partner|Technology Partner|Other",
            ),
            _refers("ParentId", "Account", children="ChildAccounts", label="Parent Account ID"),
            *_address("Billing"),
            *_address("Shipping"),
            _phone("Phone"),
            _phone("Fax"),
            _text("AccountNumber", 40),
            Field("Website", "url", length=255),
            _text("Sic", 20),
            _pick("Industry", _INDUSTRIES),
            _money("AnnualRevenue"),
            Field("NumberOfEmployees", "int", label="Employees", precision=8),
            _pick("Ownership", "Public|Private|Subsidiary|Other"),
            _text("TickerSymbol", 20),
            Field("Description", "textarea", length=32000),
            _pick("Rating", "Hot|Warm|Cold"),
            _text("Site", 80),
            _owner(),
            _pick("AccountSource", _SOURCES),
            Field("LastActivityDate", "date", writes="never"),
            _ours(),
        ],
    )


def _contact() -> Kind:
    return Kind(
        "Contact",
        "003",
        [
            _refers("AccountId", "Account", children="Contacts", label="Account ID"),
            *_person(),
            *_address("Other"),
            *_address("Mailing"),
            _phone("Phone"),
            _phone("Fax"),
            _phone("MobilePhone"),
            _phone("HomePhone"),
            _phone("OtherPhone"),
            _phone("AssistantPhone"),
            _refers("ReportsToId", "Contact", label="Reports To ID"),
            _email(),
            _text("Title", 128),
            _text("Department", 80),
            _text("AssistantName", 40),
            _pick("LeadSource", _SOURCES),
            Field("Birthdate", "date"),
            Field("Description", "textarea", length=32000),
            _owner(),
            _flag("HasOptedOutOfEmail"),
            _flag("DoNotCall"),
            Field("LastActivityDate", "date", writes="never"),
            _ours(),
        ],
    )


def _lead() -> Kind:
    return Kind(
        "Lead",
        "00Q",
        [
            *_person(),
            _text("Title", 128),
            _text("Company", 255, required=True),
            *_address(""),
            _phone("Phone"),
            _phone("MobilePhone"),
            _email(),
            Field("Website", "url", length=255),
            Field("Description", "textarea", length=32000),
            _pick("LeadSource", _SOURCES),
            _pick(
                "Status",
                "Open - Not Contacted|Working - Contacted|Closed - Converted|Closed - Not Converted",
                default="Open - Not Contacted",
            ),
            _pick("Industry", _INDUSTRIES),
            _pick("Rating", "Hot|Warm|Cold"),
            _money("AnnualRevenue"),
            Field("NumberOfEmployees", "int", precision=8),
            _owner(),
            _flag("IsConverted", writes="never"),
            _flag("HasOptedOutOfEmail"),
            _ours(),
        ],
    )


def _opportunity() -> Kind:
    return Kind(
        "Opportunity",
        "006",
        [
            _refers("AccountId", "Account", children="Opportunities", label="Account ID"),
            Field("Name", length=120, required=True),
            Field("Description", "textarea", length=32000),
            _pick("StageName", _STAGES, required=True, label="Stage"),
            _money("Amount"),
            Field("Probability", "percent", precision=3),
            Field("CloseDate", "date", required=True),
            _pick(
                "Type",
                "Existing Customer - Upgrade|Existing Customer - Replacement|Existing Customer - Downgrade|New Customer",
            ),
            _text("NextStep", 255),
            _pick("LeadSource", _SOURCES),
            _flag("IsPrivate"),
            _refers("ContactId", "Contact", writes="create"),
            _owner(),
            _ours(),
        ],
        plural="Opportunities",
    )


def _product() -> Kind:
    return Kind(
        "Product2",
        "01t",
        [
            Field("Name", label="Product Name", length=255, required=True),
            _text("ProductCode", 255),
            Field("Description", "textarea", length=4000),
            _flag("IsActive"),
            _pick("Family", "None|Hardware|Software|Services"),
            _text("ExternalId", 255),
            Field("DisplayUrl", "url", length=1000),
            _pick("QuantityUnitOfMeasure", "Each|Box|Kilogram"),
            _text("StockKeepingUnit", 180),
            _ours(),
        ],
        label="Product",
    )


def _order() -> Kind:
    return Kind(
        "Order",
        "801",
        [
            _owner(),
            _refers("AccountId", "Account", children="Orders", label="Account ID", required=True),
            Field("EffectiveDate", "date", label="Order Start Date", required=True),
            Field("EndDate", "date", label="Order End Date"),
            _pick("Status", "Draft|Activated", required=True, restricted=True),
            Field("Description", "textarea", length=32000),
            _pick("Type", "New|Replacement"),
            _text("Name", 80, label="Order Name"),
            _text("PoNumber", 80, label="PO Number"),
            _text("OrderReferenceNumber", 80),
            Field("PoDate", "date", label="PO Date"),
            _refers("BillToContactId", "Contact"),
            _refers("ShipToContactId", "Contact"),
            *_address("Billing"),
            *_address("Shipping"),
            Field("OrderNumber", length=30, writes="never", lookup=True),
            _money("TotalAmount", writes="never"),
            _ours(),
        ],
    )


def _user() -> Kind:
    return Kind(
        "User",
        "005",
        [
            Field("Username", length=80, required=True, unique=True, lookup=True),
            *_person(),
            _text("CompanyName", 80),
            _text("Division", 80),
            _text("Department", 80),
            _text("Title", 80),
            *_address(""),
            _email(required=True),
            _phone("Phone"),
            _text("Alias", 8, required=True),
            _flag("IsActive", True),
            _pick("TimeZoneSidKey", "Europe/Berlin|America/Los_Angeles|America/New_York|GMT", required=True),
            _pick("LocaleSidKey", "de_DE|en_US|en_GB", required=True),
            _pick("EmailEncodingKey", "UTF-8|ISO-8859-1", required=True),
            _pick("LanguageLocaleKey", "de|en_US", required=True),
            _text("ProfileId", 18, required=True),
            _text("UserType", 40, writes="never"),
            _text("FederationIdentifier", 512),
            _ours(),
        ],
    )


def _organization() -> Kind:
    return Kind(
        "Organization",
        "00D",
        [
            Field("Name", length=80, writes="never"),
            _flag("IsSandbox", writes="never"),
            _text("OrganizationType", 40, writes="never"),
            _text("InstanceName", 5, writes="never"),
            _text("NamespacePrefix", 15, writes="never"),
            _text("LanguageLocaleKey", 40, writes="never"),
            _text("TimeZoneSidKey", 40, writes="never"),
            Field("TrialExpirationDate", "datetime", writes="never"),
        ],
        writable=False,
    )
