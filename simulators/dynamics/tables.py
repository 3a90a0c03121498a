"""The tables that an organisation has: the standard ones of sales, the users, and the column that tidelock's customers add."""

from __future__ import annotations

from typing import Any

from simulators.dynamics.schema import Column, Key, ManyToMany, Relationship, Schema, Table

EXTERNAL = "td_tidelockid"
"""The custom column that takes an external id, with an alternate key on it."""
_CUSTOMER = ("account", "contact")
_OWNER = ("systemuser", "team")


def _text(names: str, max_length: int = 100) -> list[Column]:
    return [Column(name, "string", max_length=max_length) for name in names.split()]


def _numbers(names: str, kind: str, minimum: float | None = None, maximum: float | None = None) -> list[Column]:
    return [Column(name, kind, minimum=minimum, maximum=maximum) for name in names.split()]


def _money(names: str) -> list[Column]:
    return _numbers(names, "money", -922337203685477, 922337203685477)


def _choice(name: str, *labels: str, first: int = 1) -> Column:
    return Column(name, "picklist", options={first + n: label for n, label in enumerate(labels)})


def _yes_no(names: str) -> list[Column]:
    return [Column(name, "boolean", options={0: "No", 1: "Yes"}) for name in names.split()]


def _lookup(name: str, *targets: str, kind: str = "lookup") -> Column:
    return Column(name, kind, targets=targets)


def _address(number: int) -> list[Column]:
    prefix = f"address{number}_"
    parts = {
        "line1": 250,
        "line2": 250,
        "line3": 250,
        "city": 80,
        "stateorprovince": 50,
        "country": 80,
        "postalcode": 20,
        "county": 50,
        "name": 200,
        "telephone1": 50,
    }
    return [Column(prefix + part, "string", max_length=size) for part, size in parts.items()]


def _common(table: str) -> list[Column]:
    """Return the columns that every table with an owner has."""
    made = {"creatable": False, "updatable": False}
    users = [
        Column(name, "lookup", targets=("systemuser",), creatable=False, updatable=False)
        for name in ("createdby", "modifiedby", "createdonbehalfby", "modifiedonbehalfby", "owninguser")
    ]
    unit = Column("owningbusinessunit", "lookup", targets=("businessunit",), **made)  # type: ignore[arg-type]
    return [
        Column(f"{table}id", "uniqueidentifier", updatable=False, required="SystemRequired"),
        Column("createdon", "datetime", **made),  # type: ignore[arg-type]
        Column("modifiedon", "datetime", **made),  # type: ignore[arg-type]
        Column("versionnumber", "bigint", **made),  # type: ignore[arg-type]
        Column("overriddencreatedon", "datetime", updatable=False),
        Column("importsequencenumber", "integer", updatable=False),
        *users,
        unit,
        _lookup("ownerid", *_OWNER, kind="owner"),
    ]


def _states(states: dict[int, str], statuses: dict[int, tuple[str, int]]) -> list[Column]:
    return [
        Column("statecode", "state", options=states, creatable=False, required="SystemRequired"),
        Column(
            "statuscode",
            "status",
            options={value: label for value, (label, _) in statuses.items()},
            states={value: state for value, (_, state) in statuses.items()},
        ),
    ]


_ACTIVE = _states({0: "Active", 1: "Inactive"}, {1: ("Active", 0), 2: ("Inactive", 1)})


def _table(name: str, code: int, primary: str, columns: list[Column], *, set_name: str = "", **more: Any) -> Table:
    schema_name = {"salesorder": "SalesOrder", "systemuser": "SystemUser", "businessunit": "BusinessUnit"}.get(
        name, name.capitalize()
    )
    return Table(name, set_name or f"{name}s", schema_name, primary, code, {c.name: c for c in columns}, **more)


def _sales(name: str, code: int, columns: list[Column], number: str) -> Table:
    """Return one of the documents of sales: they share customers, addresses and totals."""
    shared = [
        *_text(f"name {number}", 300),
        Column("description", "memo", max_length=2000),
        _lookup("customerid", *_CUSTOMER, kind="customer"),
        _lookup("opportunityid", "opportunity"),
        _lookup("transactioncurrencyid", "transactioncurrency"),
        *_text("billto_line1 billto_city billto_country billto_postalcode billto_stateorprovince", 250),
        *_text("shipto_line1 shipto_city shipto_country shipto_postalcode shipto_stateorprovince", 250),
        *_money("totalamount totallineitemamount totaltax totalamountlessfreight freightamount discountamount"),
        Column("discountpercentage", "decimal", minimum=0, maximum=100),
        _choice("paymenttermscode", "Net 30", "2% 10, Net 30", "Net 45", "Net 60"),
        Column("datefulfilled", "date"),
    ]
    return _table(name, code, "name", [*_common(name), *shared, *columns], keys=_keys(EXTERNAL))


def _external() -> Column:
    return Column(EXTERNAL, "string", "td_TidelockId", "Tidelock id", max_length=100, custom=True)


def _keys(*columns: str) -> dict[str, Key]:
    keys = [Key("td_tidelockkey", (column,), "Tidelock key") for column in columns]
    return {k.name: k for k in keys}


def _people() -> list[Column]:
    """Return what contacts and leads share."""
    return [
        *_text("firstname lastname middlename", 50),
        Column("fullname", "string", max_length=160, creatable=False, updatable=False),
        *_text("jobtitle emailaddress1 emailaddress2 emailaddress3"),
        *_text("telephone1 telephone2 telephone3 mobilephone fax", 50),
        *_text("websiteurl", 200),
        _choice("salutationcode", "Mr.", "Ms."),
        *_yes_no("donotemail donotphone donotbulkemail"),
        *_address(1),
        *_address(2),
    ]


def standard() -> Schema:
    """Return the schema of a new organisation."""
    account = _table(
        "account",
        1,
        "name",
        [
            *_common("account"),
            *_ACTIVE,
            *_text("name", 160),
            *_text("accountnumber", 20),
            *_text("emailaddress1 emailaddress2 emailaddress3"),
            *_text("telephone1 telephone2 telephone3 fax", 50),
            *_text("websiteurl", 200),
            *_text("tickersymbol", 10),
            Column("description", "memo", max_length=2000),
            *_money("revenue creditlimit marketcap"),
            *_numbers("numberofemployees", "integer", 0, 1000000000),
            _choice("accountcategorycode", "Preferred Customer", "Standard"),
            _choice("customertypecode", "Competitor", "Consultant", "Customer", "Investor", "Partner"),
            _choice("industrycode", "Accounting", "Agriculture and Non-petrol Natural Resource Extraction", "Brokers"),
            _choice("paymenttermscode", "Net 30", "2% 10, Net 30", "Net 45", "Net 60"),
            *_yes_no("creditonhold donotemail donotphone donotbulkemail"),
            *_address(1),
            *_address(2),
            _lookup("primarycontactid", "contact"),
            _lookup("parentaccountid", "account"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
            _external(),
        ],
        keys=_keys(EXTERNAL),
    )
    contact = _table(
        "contact",
        2,
        "fullname",
        [
            *_common("contact"),
            *_ACTIVE,
            *_people(),
            *_text("department governmentid employeeid", 100),
            Column("description", "memo", max_length=2000),
            Column("birthdate", "date"),
            *_money("annualincome creditlimit"),
            _choice("gendercode", "Male", "Female"),
            _choice("preferredcontactmethodcode", "Any", "Email", "Phone", "Fax", "Mail"),
            *_yes_no("creditonhold"),
            _lookup("parentcustomerid", *_CUSTOMER, kind="customer"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
            _external(),
        ],
        keys=_keys(EXTERNAL),
    )
    lead = _table(
        "lead",
        4,
        "fullname",
        [
            *_common("lead"),
            *_states(
                {0: "Open", 1: "Qualified", 2: "Disqualified"},
                {
                    1: ("New", 0),
                    2: ("Contacted", 0),
                    3: ("Qualified", 1),
                    4: ("Lost", 2),
                    5: ("Cannot Contact", 2),
                    6: ("No Longer Interested", 2),
                    7: ("Canceled", 2),
                },
            ),
            *_people(),
            *_text("subject", 300),
            *_text("companyname"),
            Column("description", "memo", max_length=2000),
            *_money("revenue estimatedamount budgetamount"),
            *_numbers("numberofemployees", "integer", 0, 1000000),
            _choice("leadsourcecode", "Advertisement", "Employee Referral", "External Referral", "Partner", "Web"),
            _choice("leadqualitycode", "Hot", "Warm", "Cold"),
            _lookup("parentaccountid", "account"),
            _lookup("parentcontactid", "contact"),
            _external(),
        ],
        keys=_keys(EXTERNAL),
    )
    opportunity = _table(
        "opportunity",
        3,
        "name",
        [
            *_common("opportunity"),
            *_states(
                {0: "Open", 1: "Won", 2: "Lost"},
                {1: ("In Progress", 0), 2: ("On Hold", 0), 3: ("Won", 1), 4: ("Canceled", 2), 5: ("Out-Sold", 2)},
            ),
            *_text("name", 300),
            Column("description", "memo", max_length=2000),
            *_money("estimatedvalue actualvalue budgetamount totalamount"),
            *_numbers("closeprobability", "integer", 0, 100),
            Column("estimatedclosedate", "date"),
            Column("actualclosedate", "date"),
            _lookup("customerid", *_CUSTOMER, kind="customer"),
            _lookup("parentaccountid", "account"),
            _lookup("parentcontactid", "contact"),
            _lookup("originatingleadid", "lead"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
            _external(),
        ],
        set_name="opportunities",
        keys=_keys(EXTERNAL),
    )
    product = _table(
        "product",
        1024,
        "name",
        [
            *_common("product"),
            *_states(
                {0: "Active", 1: "Retired", 2: "Draft", 3: "Under Revision"},
                {1: ("Active", 0), 2: ("Retired", 1), 0: ("Draft", 2), 3: ("Under Revision", 3)},
            ),
            *_text("name productnumber vendorname vendorid suppliername"),
            *_text("size", 200),
            Column("description", "memo", max_length=2000),
            *_money("price standardcost currentcost"),
            *_numbers("quantityonhand stockweight stockvolume", "decimal", -100000000000, 100000000000),
            *_numbers("quantitydecimal", "integer", 0, 5),
            _choice("producttypecode", "Sales Inventory", "Miscellaneous Charges", "Services", "Flat Fees"),
            *_yes_no("isstockitem iskit"),
            Column("validfromdate", "date"),
            Column("validtodate", "date"),
            _lookup("parentproductid", "product"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
            _external(),
        ],
        keys=_keys(EXTERNAL),
    )
    order = _sales(
        "salesorder",
        1088,
        [
            *_states(
                {0: "Active", 1: "Submitted", 2: "Canceled", 3: "Fulfilled", 4: "Invoiced"},
                {
                    1: ("New", 0),
                    2: ("Pending", 0),
                    3: ("In Progress", 1),
                    4: ("No Money", 2),
                    100001: ("Complete", 3),
                    100002: ("Partial", 3),
                    100003: ("Invoiced", 4),
                },
            ),
            Column("requestdeliveryby", "date"),
            Column("submitdate", "date"),
            _external(),
        ],
        "ordernumber",
    )
    invoice = _sales(
        "invoice",
        1090,
        [
            *_states(
                {0: "Active", 1: "Closed", 2: "Paid", 3: "Canceled"},
                {
                    1: ("New", 0),
                    2: ("Partially Shipped", 0),
                    4: ("Billed", 0),
                    5: ("Booked", 0),
                    6: ("Installed", 0),
                    3: ("Canceled", 1),
                    7: ("Paid in Full", 1),
                    100001: ("Complete", 2),
                    100002: ("Partial", 2),
                    100003: ("Canceled", 3),
                },
            ),
            Column("duedate", "date"),
            Column("datedelivered", "date"),
            _lookup("salesorderid", "salesorder"),
            _external(),
        ],
        "invoicenumber",
    )
    tables = [account, contact, lead, opportunity, product, order, invoice, *_administration()]
    return Schema(tables, _relationships(tables), _associations())


def _administration() -> list[Table]:
    user = _table(
        "systemuser",
        8,
        "fullname",
        [
            *(c for c in _common("systemuser") if c.kind != "owner" and not c.name.startswith("owning")),
            *_text("fullname firstname lastname domainname internalemailaddress title", 256),
            Column("applicationid", "uniqueidentifier"),
            Column("azureactivedirectoryobjectid", "uniqueidentifier"),
            *_yes_no("isdisabled"),
            _lookup("businessunitid", "businessunit"),
        ],
    )
    plain = (
        _table("team", 9, "name", [Column("teamid", "uniqueidentifier"), *_text("name", 160)], stamped=False),
        _table(
            "businessunit",
            10,
            "name",
            [Column("businessunitid", "uniqueidentifier"), *_text("name", 160)],
            stamped=False,
        ),
        _table(
            "organization",
            1019,
            "name",
            [
                Column("organizationid", "uniqueidentifier"),
                *_text("name", 160),
                *_numbers("expirechangetrackingindays expiresubscriptionsindays", "integer"),
            ],
            stamped=False,
        ),
        _table(
            "transactioncurrency",
            9105,
            "currencyname",
            [
                Column("transactioncurrencyid", "uniqueidentifier"),
                *_text("currencyname isocurrencycode currencysymbol"),
                Column("exchangerate", "decimal"),
            ],
            set_name="transactioncurrencies",
            stamped=False,
        ),
    )
    for table in plain:
        table.tracked = False
        table.add(Column("versionnumber", "bigint", creatable=False, updatable=False))
    return [user, *plain]


_COLLECTIONS = {
    ("account", "contact", "parentcustomerid"): ("contact_customer_accounts", "Cascade"),
    ("contact", "contact", "parentcustomerid"): ("contact_customer_contacts", "Cascade"),
    ("contact", "account", "primarycontactid"): ("account_primary_contact", "RemoveLink"),
    ("account", "account", "parentaccountid"): ("account_parent_account", "RemoveLink"),
    ("account", "opportunity", "customerid"): ("opportunity_customer_accounts", "Cascade"),
    ("contact", "opportunity", "customerid"): ("opportunity_customer_contacts", "Cascade"),
    ("account", "salesorder", "customerid"): ("order_customer_accounts", "Cascade"),
    ("contact", "salesorder", "customerid"): ("order_customer_contacts", "Cascade"),
    ("account", "invoice", "customerid"): ("invoice_customer_accounts", "Cascade"),
    ("contact", "invoice", "customerid"): ("invoice_customer_contacts", "Cascade"),
    ("opportunity", "salesorder", "opportunityid"): ("opportunity_sales_orders", "RemoveLink"),
    ("opportunity", "invoice", "opportunityid"): ("opportunity_invoices", "RemoveLink"),
    ("salesorder", "invoice", "salesorderid"): ("order_invoices", "RemoveLink"),
    ("product", "product", "parentproductid"): ("product_parent_product", "Restrict"),
}
"""Which collections have names and rules of their own; the rest are named ``table_many_column``."""


def _relationships(tables: list[Table]) -> list[Relationship]:
    known = {t.name for t in tables}
    out = []
    for table in tables:
        for navigation, (column, target) in table.links.items():
            if target not in known:
                continue
            name, on_delete = _COLLECTIONS.get(
                (target, table.name, column.name), (f"{target}_{table.name}_{column.name}", "RemoveLink")
            )
            out.append(Relationship(name, target, table.name, column.name, navigation, name, on_delete))
    return out


def _associations() -> list[ManyToMany]:
    return [
        ManyToMany("accountleads_association", "account", "lead"),
        ManyToMany("contactleads_association", "contact", "lead"),
        ManyToMany("contactorders_association", "contact", "salesorder"),
        ManyToMany("productassociation_association", "product", "product"),
    ]
