"""Metadata as JSON: the definitions of tables, columns, keys and relationships."""

from __future__ import annotations

from typing import Any

from simulators.dynamics.schema import TYPES, Column, Key, ManyToMany, Relationship, Schema, Table, metadata_id

CRM = "Microsoft.Dynamics.CRM."


def label(text: str) -> dict[str, Any]:
    """Return a label in English."""
    localized = {
        "Label": text,
        "LanguageCode": 1033,
        "IsManaged": True,
        "MetadataId": metadata_id("label", text),
        "HasChanged": None,
    }
    return {"LocalizedLabels": [localized], "UserLocalizedLabel": localized}


def managed(value: Any) -> dict[str, Any]:
    """Return a managed property."""
    return {"Value": value, "CanBeChanged": True, "ManagedPropertyLogicalName": "canmodify"}


def entity(table: Table) -> dict[str, Any]:
    """Return a table's definition without its lists."""
    return {
        "MetadataId": metadata_id(table.name),
        "LogicalName": table.name,
        "SchemaName": table.schema_name,
        "EntitySetName": table.set_name,
        "LogicalCollectionName": table.set_name,
        "CollectionSchemaName": f"{table.schema_name}s",
        "ObjectTypeCode": table.code,
        "PrimaryIdAttribute": table.primary_id,
        "PrimaryNameAttribute": table.primary_name,
        "PrimaryImageAttribute": None,
        "DisplayName": label(table.label),
        "DisplayCollectionName": label(f"{table.label}s"),
        "Description": label(table.label),
        "OwnershipType": "UserOwned" if "ownerid" in table.columns else "None",
        "TableType": "Standard",
        "IsActivity": False,
        "IsPrivate": False,
        "IsIntersect": False,
        "IsLogicalEntity": False,
        "IsCustomEntity": table.custom,
        "IsManaged": not table.custom,
        "IsValidForAdvancedFind": True,
        "ChangeTrackingEnabled": table.tracked,
        "CanChangeTrackingBeEnabled": managed(True),
        "IsCustomizable": managed(True),
        "IsDuplicateDetectionEnabled": managed(True),
        "HasActivities": not table.custom,
        "HasNotes": True,
    }


def option_set(table: Table, column: Column) -> dict[str, Any]:
    """Return the option set of a choice or a yes-and-no."""
    base = {
        "MetadataId": metadata_id(table.name, column.name, "options"),
        "Name": f"{table.name}_{column.name}",
        "DisplayName": label(column.label),
        "IsGlobal": False,
        "IsCustomOptionSet": column.custom,
        "IsManaged": not column.custom,
    }
    if column.kind == "boolean":
        labels = {0: "No", 1: "Yes", **column.options}
        return {
            **base,
            "OptionSetType": "Boolean",
            "TrueOption": {"Value": 1, "Label": label(labels[1])},
            "FalseOption": {"Value": 0, "Label": label(labels[0])},
        }
    options = []
    for value, text in column.options.items():
        option: dict[str, Any] = {"Value": value, "Label": label(text), "Color": None, "IsManaged": not column.custom}
        if column.kind == "status":
            option |= {"@odata.type": f"#{CRM}StatusOptionMetadata", "State": column.states[value]}
        elif column.kind == "state":
            default = next((s for s, state in _statuses(table).items() if state == value), value)
            option |= {"@odata.type": f"#{CRM}StateOptionMetadata", "DefaultStatus": default, "InvariantName": text}
        options.append(option)
    kind = {"multi": "Picklist"}.get(column.kind, TYPES[column.kind][0])
    return {**base, "OptionSetType": kind, "Options": options}


def _statuses(table: Table) -> dict[int, int]:
    status = table.columns.get("statuscode")
    return status.states if status is not None else {}


def type_name(column: Column) -> str:
    """Return the name of the metadata type of a column."""
    if column.kind == "multi":
        return "MultiSelectPicklistAttributeMetadata"
    if column.is_lookup:
        return "LookupAttributeMetadata"
    if column.kind == "uniqueidentifier":
        return "UniqueIdentifierAttributeMetadata"
    return f"{TYPES[column.kind][0]}AttributeMetadata"


def attribute(table: Table, column: Column) -> dict[str, Any]:
    """Return a column's definition."""
    is_id = column.name == table.primary_id
    out: dict[str, Any] = {
        "@odata.type": f"#{CRM}{type_name(column)}",
        "MetadataId": metadata_id(table.name, column.name),
        "LogicalName": column.name,
        "SchemaName": column.schema_name,
        "EntityLogicalName": table.name,
        "AttributeType": TYPES[column.kind][0],
        "AttributeTypeName": {
            "Value": "MultiSelectPicklistType" if column.kind == "multi" else f"{TYPES[column.kind][0]}Type"
        },
        "AttributeOf": None,
        "DisplayName": label(column.label),
        "Description": label(column.label),
        "IsPrimaryId": is_id,
        "IsPrimaryName": column.name == table.primary_name,
        "IsValidForCreate": column.creatable,
        "IsValidForRead": True,
        "IsValidForUpdate": column.updatable,
        "IsLogical": False,
        "IsFilterable": True,
        "IsCustomAttribute": column.custom,
        "IsManaged": not column.custom,
        "RequiredLevel": managed(column.required),
        "SourceType": 0,
    }
    if column.kind in ("string", "memo"):
        out |= {"MaxLength": column.max_length, "Format": "Text", "FormatName": {"Value": "Text"}}
    elif column.kind in ("integer", "bigint"):
        out |= {"MinValue": column.minimum, "MaxValue": column.maximum, "Format": "None"}
    elif column.kind in ("decimal", "double", "money"):
        out |= {"MinValue": column.minimum, "MaxValue": column.maximum, "Precision": column.precision}
    elif column.kind in ("datetime", "date"):
        only = column.kind == "date"
        out["Format"] = "DateOnly" if only else "DateAndTime"
        out["DateTimeBehavior"] = {"Value": "DateOnly" if only else "UserLocal"}
    elif column.is_lookup:
        out |= {"Targets": list(column.targets), "Format": "None"}
    return out


def key(table: Table, alternate: Key) -> dict[str, Any]:
    """Return an alternate key's definition."""
    return {
        "MetadataId": metadata_id(table.name, "key", alternate.name),
        "LogicalName": alternate.name.lower(),
        "SchemaName": alternate.name,
        "EntityLogicalName": table.name,
        "DisplayName": label(alternate.label or alternate.name),
        "KeyAttributes": list(alternate.columns),
        "EntityKeyIndexStatus": "Active",
        "IsManaged": False,
        "IsExportKey": False,
        "IsSynchronous": False,
    }


def one_to_many(schema: Schema, relationship: Relationship) -> dict[str, Any]:
    """Return a one-to-many relationship's definition."""
    one = schema.tables[relationship.one]
    cascade = {"Assign": "NoCascade", "Delete": relationship.on_delete, "Merge": "NoCascade", "Share": "NoCascade"}
    return {
        "@odata.type": f"#{CRM}OneToManyRelationshipMetadata",
        "MetadataId": metadata_id("relationship", relationship.name),
        "SchemaName": relationship.name,
        "RelationshipType": "OneToManyRelationship",
        "ReferencedEntity": relationship.one,
        "ReferencedAttribute": one.primary_id,
        "ReferencedEntityNavigationPropertyName": relationship.collection,
        "ReferencingEntity": relationship.many,
        "ReferencingAttribute": relationship.column,
        "ReferencingEntityNavigationPropertyName": relationship.navigation,
        "CascadeConfiguration": {**cascade, "Reparent": "NoCascade", "Unshare": "NoCascade", "RollupView": "NoCascade"},
        "IsCustomRelationship": schema.tables[relationship.many].columns[relationship.column].custom,
        "IsManaged": False,
        "IsValidForAdvancedFind": True,
        "SecurityTypes": "Append",
    }


def many_to_many(many: ManyToMany, schema: Schema) -> dict[str, Any]:
    """Return a many-to-many relationship's definition."""
    return {
        "@odata.type": f"#{CRM}ManyToManyRelationshipMetadata",
        "MetadataId": metadata_id("relationship", many.name),
        "SchemaName": many.name,
        "RelationshipType": "ManyToManyRelationship",
        "Entity1LogicalName": many.left,
        "Entity1IntersectAttribute": schema.tables[many.left].primary_id,
        "Entity1NavigationPropertyName": many.name,
        "Entity2LogicalName": many.right,
        "Entity2IntersectAttribute": schema.tables[many.right].primary_id,
        "Entity2NavigationPropertyName": many.name,
        "IntersectEntityName": many.name,
        "IsCustomRelationship": False,
        "IsManaged": False,
    }


def relationships(schema: Schema) -> list[dict[str, Any]]:
    """Return the definitions of all relationships."""
    return [
        *(one_to_many(schema, r) for r in schema.relationships),
        *(many_to_many(m, schema) for m in schema.many),
    ]


def listed(schema: Schema, table: Table, name: str) -> list[dict[str, Any]]:
    """Return one of the lists of a table's definition."""
    match name:
        case "Attributes":
            return [attribute(table, c) for c in table.columns.values()]
        case "Keys":
            return [key(table, k) for k in table.keys.values()]
        case "OneToManyRelationships":
            return [one_to_many(schema, r) for r in schema.relationships if r.one == table.name]
        case "ManyToOneRelationships":
            return [one_to_many(schema, r) for r in schema.relationships if r.many == table.name]
    return [many_to_many(m, schema) for m in schema.many if table.name in (m.left, m.right)]
