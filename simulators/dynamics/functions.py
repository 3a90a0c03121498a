"""Unbound functions and actions, and the lists of messages: WhoAmI, RetrieveVersion, BulkDelete, sdkmessagefilters and others."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from simulators.dynamics.definitions import attribute
from simulators.dynamics.errors import bad_payload, no_segment, not_allowed
from simulators.dynamics.messages import Ask, Reply, answered
from simulators.dynamics.metadata import matches
from simulators.dynamics.query import Options as QueryOptions
from simulators.dynamics.query import Query, parse_options
from simulators.dynamics.schema import metadata_id
from simulators.dynamics.store import Store
from simulators.dynamics.syntax import Node
from simulators.dynamics.writes import Context, Writer

VERSION = "9.2.25113.00182"
_MESSAGES = (
    "Create",
    "Update",
    "Delete",
    "Retrieve",
    "RetrieveMultiple",
    "CreateMultiple",
    "UpdateMultiple",
    "UpsertMultiple",
)
_TYPE = "#Microsoft.Dynamics.CRM."


class Functions:
    """Answers what is no table."""

    names = frozenset(
        {
            "WhoAmI",
            "RetrieveVersion",
            "RetrieveCurrentOrganization",
            "RetrieveAvailableLanguages",
            "RetrieveProvisionedLanguages",
            "RetrieveTotalRecordCount",
            "RetrieveMetadataChanges",
            "BulkDelete",
            "sdkmessagefilters",
            "sdkmessages",
        }
    )

    def __init__(self, store: Store, writer: Writer, organisation: tuple[str, str]) -> None:
        self._store = store
        self._writer = writer
        self._organisation = organisation

    def handle(self, ask: Ask, name: str, arguments: str | None, context: Context) -> Reply:
        """Answer a request. Raises ODataError."""
        if name == "BulkDelete":
            try:
                return self._bulk_delete(ask, context)
            except (TypeError, AttributeError) as error:  # a query of another shape
                raise bad_payload(name, f"The query cannot be read: {error}") from error
        if ask.method != "GET":
            raise not_allowed(ask.method)
        marker = f"{ask.root}$metadata{_TYPE}"
        match name:
            case "WhoAmI":
                unit = self._writer.platform.defaults.get("businessunit")
                who = {"BusinessUnitId": unit, "UserId": ask.caller.acting, "OrganizationId": self._organisation[0]}
                return answered({"@odata.context": f"{marker}WhoAmIResponse", **who})
            case "RetrieveVersion":
                return answered({"@odata.context": f"{marker}RetrieveVersionResponse", "Version": VERSION})
            case "RetrieveAvailableLanguages" | "RetrieveProvisionedLanguages":
                field = "LocaleIds" if name == "RetrieveAvailableLanguages" else "RetrieveProvisionedLanguages"
                return answered({"@odata.context": f"{marker}{name}Response", field: [1033]})
            case "RetrieveCurrentOrganization":
                return self._current(ask, marker)
            case "RetrieveTotalRecordCount":
                return self._totals(ask, arguments, marker)
            case "RetrieveMetadataChanges":
                return self._metadata_changes(ask, marker)
            case "sdkmessagefilters" | "sdkmessages":
                return self._messages(ask, name)
        raise no_segment(name)

    def _current(self, ask: Ask, marker: str) -> Reply:
        detail = {
            "OrganizationId": self._organisation[0],
            "FriendlyName": self._organisation[1],
            "OrganizationVersion": VERSION,
            "UniqueName": self._organisation[1],
            "UrlName": self._organisation[1],
            "State": "Enabled",
            "Geo": "EMEA",
            "Endpoints": {
                "Count": 2,
                "IsReadOnly": False,
                "Keys": ["WebApplication", "OrganizationDataService"],
                "Values": [ask.root.partition("api/data")[0], ask.root],
            },
        }
        return answered({"@odata.context": f"{marker}RetrieveCurrentOrganizationResponse", "Detail": detail})

    def _totals(self, ask: Ask, arguments: str | None, marker: str) -> Reply:
        text = (arguments or "").partition("=")[2]
        for alias, value in ask.parameters.items():
            if alias.startswith("@"):
                text = text.replace(alias, value)
        names = [n.strip(" \"'") for n in text.strip("[] ").split(",") if n.strip(" \"'")]
        tables = [self._store.schema.tables[n] for n in names if n in self._store.schema.tables]
        counts = {
            "Count": len(tables),
            "IsReadOnly": False,
            "Keys": [t.name for t in tables],
            "Values": [len(self._store.data(t).rows) for t in tables],
        }
        return answered(
            {"@odata.context": f"{marker}RetrieveTotalRecordCountResponse", "EntityRecordCountCollection": counts}
        )

    def _metadata_changes(self, ask: Ask, marker: str) -> Reply:
        """Answer with the attributes of the tables that the query's criteria name."""

        text = next((v for n, v in ask.parameters.items() if n.startswith("@")), "{}")
        try:
            query = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise bad_payload("RetrieveMetadataChanges", f"The parameter Query is no valid JSON: {error}") from error
        conditions = (query.get("Criteria") or {}).get("Conditions") or []
        wanted = {str((c.get("Value") or {}).get("Value", "")).lower() for c in conditions}
        tables = [t for t in self._store.schema.tables.values() if not wanted or {t.name, metadata_id(t.name)} & wanted]
        entities = [
            {
                "LogicalName": t.name,
                "MetadataId": metadata_id(t.name),
                "SchemaName": t.schema_name,
                "HasChanged": None,
                "Attributes": [attribute(t, c) for c in t.columns.values()],
            }
            for t in tables
        ]
        return answered(
            {
                "@odata.context": f"{marker}RetrieveMetadataChangesResponse",
                "ServerVersionStamp": f"{self._store.version}!{ask.caller.user}",
                "EntityMetadata": entities,
                "DeletedMetadata": None,
            }
        )

    def _messages(self, ask: Ask, name: str) -> Reply:
        rows: list[dict[str, Any]] = []
        if name == "sdkmessages":
            rows = [{"sdkmessageid": metadata_id("message", m), "name": m} for m in _MESSAGES]
        else:
            for table in self._store.schema.tables.values():
                for message in _MESSAGES:
                    rows.append(
                        {
                            "sdkmessagefilterid": metadata_id("filter", table.name, message),
                            "primaryobjecttypecode": table.name,
                            "_sdkmessageid_value": metadata_id("message", message),
                            "sdkmessageid": {"sdkmessageid": metadata_id("message", message), "name": message},
                        }
                    )
        options = parse_options(ask.parameters)
        if options.filter is not None:
            node = options.filter
            rows = [r for r in rows if matches(node, r)]
        expanded = {e.navigation for e in options.expand}
        if "sdkmessageid" not in expanded and name == "sdkmessagefilters":
            rows = [{n: v for n, v in r.items() if n != "sdkmessageid"} for r in rows]
        if options.select:
            kept = {*options.select, *expanded, f"{name[:-1]}id"}
            rows = [{n: v for n, v in r.items() if n in kept} for r in rows]
        return answered({"@odata.context": f"{ask.root}$metadata#{name}", "value": rows})

    def _bulk_delete(self, ask: Ask, context: Context) -> Reply:
        """Start a job that deletes what queries find. Here it is done when the answer comes."""
        if ask.method != "POST":
            raise not_allowed(ask.method)
        for query in ask.json("BulkDelete").get("QuerySet") or []:
            table = self._store.schema.tables.get(str(query.get("EntityName", "")))
            if table is None:
                raise bad_payload("BulkDelete", f"There is no table '{query.get('EntityName')}'.")
            nodes: list[Node] = []
            for condition in (query.get("Criteria") or {}).get("Conditions") or []:
                if condition.get("Operator") not in ("In", "Equal"):
                    raise bad_payload(
                        "BulkDelete", f"The operator '{condition.get('Operator')}' is not simulated here."
                    )
                values = [("lit", "string", str(v.get("Value"))) for v in condition.get("Values") or []]
                nodes.append(("in", ("prop", str(condition.get("AttributeName"))), values))
            if not nodes:
                raise bad_payload(
                    "BulkDelete", "A query without conditions would delete everything; it is refused here."
                )
            found = Query(self._store, table, QueryOptions(filter=("and", *nodes))).everything()
            for row_id in [str(values[table.primary_id]) for values in found]:
                row = self._store.get(table, row_id)
                if row is not None:
                    self._writer.delete(table, row, context)
        job = str(uuid.uuid4())
        return answered({"@odata.context": f"{ask.root}$metadata{_TYPE}BulkDeleteResponse", "JobId": job})
