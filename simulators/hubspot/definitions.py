"""The properties that every portal has, kind by kind, and what a definition is. `tidelock_id` is not among them: who wants it creates it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simulators.hubspot.moments import spelt

STAGES = (
    "subscriber lead marketingqualifiedlead salesqualifiedlead opportunity customer evangelist other".split()  # noqa: SIM905 - a list of words
)
"""The life-cycle stages, in the order in which a record moves through them."""


@dataclass(slots=True)
class Definition:
    """One property of one kind. ``options`` are its allowed values, as the API shows them; ``owners`` means: the ids of owners."""

    name: str
    label: str
    type: str
    field_type: str
    group: str
    description: str = ""
    options: list[dict[str, Any]] = field(default_factory=list)
    unique: bool = False
    own: bool = True
    """Whether the vendor defined it."""
    read_only: bool = False
    owners: bool = False
    hidden: bool = False
    form_field: bool = False
    display_order: int = -1
    more: dict[str, Any] = field(default_factory=dict)
    """Members that are kept and shown without a meaning here."""
    created_ms: int = 1_567_296_000_000
    updated_ms: int = 1_567_296_000_000
    archived_ms: int | None = None
    allowed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.allow()

    def allow(self) -> None:
        """Take the allowed values from the options."""
        self.allowed = frozenset(str(o["value"]) for o in self.options)

    def shown(self) -> dict[str, Any]:
        """Return the definition as the API shows it."""
        body: dict[str, Any] = {
            "updatedAt": spelt(self.updated_ms),
            "createdAt": spelt(self.created_ms),
            "name": self.name,
            "label": self.label,
            "type": self.type,
            "fieldType": self.field_type,
            "description": self.description,
            "groupName": self.group,
            "options": self.options,
            "displayOrder": self.display_order,
            "calculated": False,
            "externalOptions": self.owners,
            "hasUniqueValue": self.unique,
            "hidden": self.hidden,
            "hubspotDefined": self.own,
            "modificationMetadata": {
                "archivable": not self.own,
                "readOnlyDefinition": self.own,
                "readOnlyOptions": self.own,
                "readOnlyValue": self.read_only,
            },
            "formField": self.form_field,
            "dataSensitivity": "non_sensitive",
            **self.more,
        }
        if self.owners:
            body["referencedObjectType"] = "OWNER"
        if not self.own:
            body["createdUserId"] = body["updatedUserId"] = "1"
        body["archived"] = self.archived_ms is not None
        if self.archived_ms is not None:
            body["archivedAt"] = spelt(self.archived_ms)
        return body


def options_of(*values: str) -> list[dict[str, Any]]:
    """Return options for values; a label is the value in words."""
    return [
        {"label": v.replace("_", " ").capitalize(), "value": v, "displayOrder": n, "hidden": False}
        for n, v in enumerate(values)
    ]


GROUPS: dict[str, list[tuple[str, str]]] = {
    "contacts": [("contactinformation", "Contact information"), ("emailinformation", "Email information")],
    "companies": [("companyinformation", "Company information")],
    "deals": [("dealinformation", "Deal information")],
    "products": [("productinformation", "Product information")],
    "line_items": [("lineiteminformation", "Line item information")],
    "tickets": [("ticketinformation", "Ticket information")],
}

_INDUSTRIES = """ACCOUNTING AIRLINES_AVIATION ALTERNATIVE_DISPUTE_RESOLUTION ALTERNATIVE_MEDICINE ANIMATION APPAREL_FASHION
ARCHITECTURE_PLANNING ARTS_AND_CRAFTS AUTOMOTIVE AVIATION_AEROSPACE BANKING BIOTECHNOLOGY BROADCAST_MEDIA BUILDING_MATERIALS
BUSINESS_SUPPLIES_AND_EQUIPMENT CAPITAL_MARKETS CHEMICALS CIVIC_SOCIAL_ORGANIZATION CIVIL_ENGINEERING COMMERCIAL_REAL_ESTATE
COMPUTER_NETWORK_SECURITY COMPUTER_GAMES COMPUTER_HARDWARE COMPUTER_NETWORKING COMPUTER_SOFTWARE INTERNET CONSTRUCTION
CONSUMER_ELECTRONICS CONSUMER_GOODS CONSUMER_SERVICES COSMETICS DAIRY DEFENSE_SPACE DESIGN EDUCATION_MANAGEMENT E_LEARNING
ELECTRICAL_ELECTRONIC_MANUFACTURING ENTERTAINMENT ENVIRONMENTAL_SERVICES EVENTS_SERVICES EXECUTIVE_OFFICE FACILITIES_SERVICES
FARMING FINANCIAL_SERVICES FINE_ART FISHERY FOOD_BEVERAGES FOOD_PRODUCTION FUND_RAISING FURNITURE GAMBLING_CASINOS
GLASS_CERAMICS_CONCRETE GOVERNMENT_ADMINISTRATION GOVERNMENT_RELATIONS GRAPHIC_DESIGN HEALTH_WELLNESS_AND_FITNESS
HIGHER_EDUCATION HOSPITAL_HEALTH_CARE HOSPITALITY HUMAN_RESOURCES IMPORT_AND_EXPORT INDIVIDUAL_FAMILY_SERVICES
INDUSTRIAL_AUTOMATION INFORMATION_SERVICES INFORMATION_TECHNOLOGY_AND_SERVICES INSURANCE INTERNATIONAL_AFFAIRS
INTERNATIONAL_TRADE_AND_DEVELOPMENT INVESTMENT_BANKING INVESTMENT_MANAGEMENT JUDICIARY LAW_ENFORCEMENT LAW_PRACTICE
LEGAL_SERVICES LEGISLATIVE_OFFICE LEISURE_TRAVEL_TOURISM LIBRARIES LOGISTICS_AND_SUPPLY_CHAIN LUXURY_GOODS_JEWELRY MACHINERY
MANAGEMENT_CONSULTING MARITIME MARKET_RESEARCH MARKETING_AND_ADVERTISING MECHANICAL_OR_INDUSTRIAL_ENGINEERING
MEDIA_PRODUCTION MEDICAL_DEVICES MEDICAL_PRACTICE MENTAL_HEALTH_CARE MILITARY MINING_METALS MOTION_PICTURES_AND_FILM
MUSEUMS_AND_INSTITUTIONS MUSIC NANOTECHNOLOGY NEWSPAPERS NON_PROFIT_ORGANIZATION_MANAGEMENT OIL_ENERGY ONLINE_MEDIA
OUTSOURCING_OFFSHORING PACKAGE_FREIGHT_DELIVERY PACKAGING_AND_CONTAINERS PAPER_FOREST_PRODUCTS PERFORMING_ARTS
PHARMACEUTICALS PHILANTHROPY PHOTOGRAPHY PLASTICS POLITICAL_ORGANIZATION PRIMARY_SECONDARY_EDUCATION PRINTING
PROFESSIONAL_TRAINING_COACHING PROGRAM_DEVELOPMENT PUBLIC_POLICY PUBLIC_RELATIONS_AND_COMMUNICATIONS PUBLIC_SAFETY PUBLISHING
RAILROAD_MANUFACTURE RANCHING REAL_ESTATE RECREATIONAL_FACILITIES_AND_SERVICES RELIGIOUS_INSTITUTIONS RENEWABLES_ENVIRONMENT
RESEARCH RESTAURANTS RETAIL SECURITY_AND_INVESTIGATIONS SEMICONDUCTORS SHIPBUILDING SPORTING_GOODS SPORTS
STAFFING_AND_RECRUITING SUPERMARKETS TELECOMMUNICATIONS TEXTILES THINK_TANKS TOBACCO TRANSLATION_AND_LOCALIZATION
TRANSPORTATION_TRUCKING_RAILROAD UTILITIES VENTURE_CAPITAL_PRIVATE_EQUITY VETERINARY WAREHOUSING WHOLESALE
WINE_AND_SPIRITS WIRELESS WRITING_AND_EDITING MOBILE_GAMES"""

_LEAD_STATES = "NEW OPEN IN_PROGRESS OPEN_DEAL UNQUALIFIED ATTEMPTED_TO_CONTACT CONNECTED BAD_TIMING"
_CURRENCIES = "USD EUR GBP CAD AUD CHF JPY SEK NOK DKK PLN"

_LANGUAGES = "af ar bg bn cs da de de-at de-ch de-de el en en-au en-ca en-gb en-us es es-es es-mx et fi fr fr-ca fr-ch fr-fr he hi hr hu id it ja ko lt lv nb nl nl-be no pl pt pt-br ro ru sk sl sv th tr uk vi zh zh-cn zh-tw"

# One line each: name, type (s text, a text area, n number, d date, t moment, b yes or no, e one of, m any of, o owner), allowed values.
_ADDRESS = "address s|city s|state s|zip s|country s|phone s|website s"
_TABLES = {
    "contacts": f"""email s|firstname s|lastname s|{_ADDRESS}|mobilephone s|fax s|company s|jobtitle s|salutation s|date_of_birth s|
        industry s|annualrevenue s|message a|lifecyclestage e {" ".join(STAGES)}|hs_lead_status e {_LEAD_STATES}|
        hs_language e {_LANGUAGES}|hs_additional_emails s|hs_persona s|hubspot_owner_id o|twitterhandle s|
        hs_legal_basis m Not_applicable Performance_of_a_contract Freely_given_consent_from_contact""",
    "companies": f"""name s|domain s|{_ADDRESS}|address2 s|description a|industry e {_INDUSTRIES}|type e PROSPECT PARTNER RESELLER VENDOR OTHER|
        numberofemployees n|annualrevenue n|founded_year s|is_public b|timezone s|lifecyclestage e {" ".join(STAGES)}|
        hs_lead_status e {_LEAD_STATES}|hubspot_owner_id o|linkedin_company_page s""",
    "deals": f"""dealname s|amount n|closedate t|pipeline e|dealstage e|dealtype e newbusiness existingbusiness|description a|
        hs_priority e low medium high|deal_currency_code e {_CURRENCIES}|hubspot_owner_id o|hs_next_step s|closed_won_reason a|closed_lost_reason a""",
    "products": f"""name s|description a|price n|hs_sku s|hs_cost_of_goods_sold n|hs_recurring_billing_period s|
        recurringbillingfrequency e weekly biweekly monthly quarterly per_six_months annually per_two_years per_three_years per_four_years per_five_years|
        hs_product_type e inventory non-inventory service|hs_url s|hs_images s|tax n|hs_active b|hs_price_currency e {_CURRENCIES}|hubspot_owner_id o""",
    "line_items": f"""name s|description a|quantity n|price n|amount n|discount n|hs_discount_percentage n|hs_product_id n|hs_sku s|
        hs_line_item_currency_code e {_CURRENCIES}|hs_recurring_billing_period s|tax n|
        recurringbillingfrequency e weekly biweekly monthly quarterly per_six_months annually""",
    "tickets": """subject s|content a|hs_pipeline e|hs_pipeline_stage e|hs_ticket_category m PRODUCT_ISSUE BILLING_ISSUE FEATURE_REQUEST GENERAL_INQUIRY|
        hs_ticket_priority e LOW MEDIUM HIGH URGENT|source_type e CHAT EMAIL FORM PHONE|hubspot_owner_id o|closed_date t""",
}
_SYSTEM = "createdate t|{modified} t|hs_object_id n|hs_merged_object_ids m|hs_object_source s|hs_object_source_id s|hs_object_source_label s"
_TYPES = {
    "s": ("string", "text"),
    "a": ("string", "textarea"),
    "n": ("number", "number"),
    "d": ("date", "date"),
    "t": ("datetime", "date"),
    "b": ("bool", "booleancheckbox"),
    "e": ("enumeration", "select"),
    "m": ("enumeration", "checkbox"),
    "o": ("enumeration", "select"),
}


def built_in(kind: str, modified: str) -> dict[str, Definition]:
    """Return the properties that every portal has for a kind, by name; those that the system alone writes are read-only."""
    group = GROUPS[kind][0][0]
    found: dict[str, Definition] = {}
    for table, read_only in ((_TABLES[kind], False), (_SYSTEM.format(modified=modified), True)):
        for line in table.split("|"):
            name, letter, *values = line.split()
            type_, field_type = _TYPES[letter]
            if type_ == "bool":
                values = ["true", "false"]
            found[name] = Definition(
                name,
                name.removeprefix("hs_").replace("_", " ").capitalize(),
                type_,
                field_type,
                group,
                options=options_of(*values),
                read_only=read_only,
                owners=letter == "o",
                form_field=not read_only and letter in "sae",
            )
    return found
