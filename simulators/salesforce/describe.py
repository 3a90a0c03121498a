"""Describe: objects and fields with the flags that clients look at, and the list of resources."""

from __future__ import annotations

from typing import Any

from simulators.salesforce.asking import Ask, Reply
from simulators.salesforce.context import Context
from simulators.salesforce.org import Org
from simulators.salesforce.schema import NUMBERS, TEXT, Field, Kind

OLDEST, LATEST = 31, 68
_SOAP = {
    "boolean": "xsd:boolean",
    "int": "xsd:int",
    "date": "xsd:date",
    "datetime": "xsd:dateTime",
    "address": "urn:address",
}
_RESOURCES = ("tooling", "sobjects", "search", "limits", "query", "queryAll", "composite", "jobs", "recent", "describe")


class Describe:
    """The handlers of describe and of the resource map."""

    def __init__(self, context: Context) -> None:
        self._org = context.org
        context.router.add("sobjects", GET=self._all)
        context.router.add("sobjects/*/describe", GET=self._one)

    def _all(self, ask: Ask) -> Reply:
        kinds = [brief(t.kind, ask.version) for t in self._org.tables.values()]
        return Reply(data={"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": kinds})

    def _one(self, ask: Ask) -> Reply:
        return Reply(data=described(self._org, self._org.resource(ask.parts[1]).kind, ask.version))


def versions() -> list[dict[str, str]]:
    """Return what ``/services/data`` lists."""
    seasons = ("Spring", "Summer", "Winter")

    def label(number: int) -> str:  # 31 was Summer '14, and there are three a year
        turn, year = (number - 30) % 3, 14 + (number - 30) // 3
        return f"{seasons[turn]} '{year + (turn == 2)}"

    return [
        {"label": label(n), "url": f"/services/data/v{n}.0", "version": f"{n}.0"} for n in range(OLDEST, LATEST + 1)
    ]


def resources(version: str, identity: str) -> dict[str, str]:
    """Return the resource map of a version."""
    return {**{name: f"/services/data/v{version}/{name}" for name in _RESOURCES}, "identity": identity}


def brief(kind: Kind, version: str) -> dict[str, Any]:
    """Return an object as the global describe shows it."""
    base = f"/services/data/v{version}/sobjects/{kind.name}"
    writable = kind.writable
    return {
        "activateable": False,
        "associateEntityType": None,
        "associateParentEntity": None,
        "createable": writable,
        "custom": kind.custom,
        "customSetting": False,
        "deepCloneable": False,
        "deletable": writable and kind.name != "User",
        "deprecatedAndHidden": False,
        "feedEnabled": writable,
        "hasSubtypes": False,
        "isInterface": False,
        "isSubtype": False,
        "keyPrefix": kind.prefix,
        "label": kind.label,
        "labelPlural": kind.plural,
        "layoutable": writable,
        "mergeable": kind.mergeable,
        "mruEnabled": writable,
        "name": kind.name,
        "queryable": True,
        "replicateable": writable,
        "retrieveable": True,
        "searchable": writable,
        "triggerable": writable,
        "undeletable": writable and kind.name != "User",
        "updateable": writable,
        "urls": {
            "rowTemplate": f"{base}/{{ID}}",
            "describe": f"{base}/describe",
            "sobject": base,
        },
    }


def described(org: Org, kind: Kind, version: str) -> dict[str, Any]:
    """Return an object as its own describe shows it."""
    children: list[dict[str, Any]] = [
        {
            "cascadeDelete": kind.name == "Account" and field.name == "AccountId",
            "childSObject": table.kind.name,
            "deprecatedAndHidden": False,
            "field": field.name,
            "junctionIdListNames": [],
            "junctionReferenceTo": [],
            "relationshipName": field.children,
            "restrictedDelete": False,
        }
        for table in org.tables.values()
        for field in table.kind.fields.values()
        if kind.name in field.refers
    ]
    return {
        "actionOverrides": [],
        **brief(kind, version),
        "childRelationships": children,
        "compactLayoutable": kind.writable,
        "fields": [_field(kind, f) for f in kind.fields.values()],
        "listviewable": None,
        "lookupLayoutable": None,
        "namedLayoutInfos": [],
        "networkScopeFieldName": None,
        "recordTypeInfos": [
            {
                "active": True,
                "available": True,
                "defaultRecordTypeMapping": True,
                "developerName": "Master",
                "master": True,
                "name": "Master",
                "recordTypeId": "012000000000000AAA",
                "urls": {
                    "layout": f"/services/data/v{version}/sobjects/{kind.name}/describe/layouts/012000000000000AAA"
                },
            }
        ],
        "searchLayoutable": kind.writable,
        "supportedScopes": [{"label": f"All {kind.plural.lower()}", "name": "everything"}],
    }


def _field(kind: Kind, field: Field) -> dict[str, Any]:
    text, number = field.type in TEXT or field.type in {"id", "reference"}, field.type in NUMBERS
    stored = not field.compound
    whole = kind.fields.get(field.part_of) if field.part_of else None
    return {
        "aggregatable": stored and field.type != "textarea",
        "aiPredictionField": False,
        "autoNumber": field.name == "OrderNumber",
        "byteLength": field.length * 3
        if text and field.type not in {"id", "reference"}
        else field.length
        if text
        else 0,
        "calculated": False,
        "calculatedFormula": None,
        "cascadeDelete": False,
        "caseSensitive": False,
        "compoundFieldName": whole.name if whole is not None else None,
        "controllerName": None,
        "createable": field.writes != "never" and kind.writable,
        "custom": field.custom,
        "defaultValue": field.default,
        "defaultValueFormula": None,
        "defaultedOnCreate": field.default is not None or field.name in {"OwnerId", "CreatedDate", "Id"},
        "dependentPicklist": False,
        "deprecatedAndHidden": False,
        "digits": field.precision if field.type == "int" else 0,
        "displayLocationInDecimal": False,
        "encrypted": False,
        "externalId": field.external,
        "extraTypeInfo": "personname" if field.parts and not field.compound else None,
        "filterable": stored and not (field.type == "textarea" and field.length > 4000),
        "filteredLookupInfo": None,
        "formulaTreatNullNumberAsZero": False,
        "groupable": stored and field.type not in {"textarea", "datetime", "double", "currency", "percent"},
        "highScaleNumber": False,
        "htmlFormatted": False,
        "idLookup": field.lookup,
        "inlineHelpText": None,
        "label": field.label,
        "length": field.length if text else 0,
        "mask": None,
        "maskType": None,
        "name": field.name,
        "nameField": field.name == kind.name_field,
        "namePointing": False,
        "nillable": not field.required and field.type != "boolean" and not _given(field),
        "permissionable": not field.required and field.writes == "both",
        "picklistValues": [
            {"active": True, "defaultValue": v == field.default, "label": v, "validFor": None, "value": v}
            for v in field.values
        ],
        "polymorphicForeignKey": len(field.refers) > 1,
        "precision": field.precision if number and field.type != "int" else 0,
        "queryByDistance": field.compound,
        "referenceTargetField": None,
        "referenceTo": list(field.refers),
        "relationshipName": field.relation if field.refers else None,
        "relationshipOrder": None,
        "restrictedDelete": False,
        "restrictedPicklist": field.restricted,
        "scale": field.scale if number else 0,
        "searchPrefilterable": False,
        "soapType": _SOAP.get(
            field.type, "tns:ID" if field.type in {"id", "reference"} else "xsd:double" if number else "xsd:string"
        ),
        "sortable": stored and not (field.type == "textarea" and field.length > 4000),
        "type": field.type,
        "unique": field.unique,
        "updateable": field.writes == "both" and kind.writable,
        "writeRequiresMasterRead": False,
    }


def _given(field: Field) -> bool:
    """Return whether the system itself always fills a field."""
    return field.name in {
        "Id",
        "OwnerId",
        "CreatedDate",
        "CreatedById",
        "LastModifiedDate",
        "LastModifiedById",
        "SystemModstamp",
        "OrderNumber",
    }
