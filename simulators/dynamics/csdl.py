"""$metadata: the model as CSDL, for clients that generate code or check names from it."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from simulators.dynamics.schema import TYPES, Schema, Table

_BULK = ("CreateMultiple", "UpdateMultiple", "UpsertMultiple")


def document(schema: Schema, *, annotated: bool) -> bytes:
    """Return the document; annotated, it tells which sets have change tracking."""
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>',
        '<Schema Namespace="Microsoft.Dynamics.CRM" Alias="mscrm" xmlns="http://docs.oasis-open.org/odata/ns/edm">',
        '<EntityType Name="crmbaseentity" Abstract="true" />',
        (
            '<EntityType Name="principal" BaseType="mscrm.crmbaseentity"><Key><PropertyRef Name="ownerid" /></Key>'
            '<Property Name="ownerid" Type="Edm.Guid" /></EntityType>'
        ),
    ]
    for table in schema.tables.values():
        parts += _entity(schema, table)
    parts += [
        (
            '<ComplexType Name="WhoAmIResponse"><Property Name="BusinessUnitId" Type="Edm.Guid" Nullable="false" />'
            '<Property Name="UserId" Type="Edm.Guid" Nullable="false" />'
            '<Property Name="OrganizationId" Type="Edm.Guid" Nullable="false" /></ComplexType>'
        ),
        '<ComplexType Name="RetrieveVersionResponse"><Property Name="Version" Type="Edm.String" Unicode="false" /></ComplexType>',
        '<ComplexType Name="CreateMultipleResponse"><Property Name="Ids" Type="Collection(Edm.Guid)" /></ComplexType>',
        '<Function Name="WhoAmI"><ReturnType Type="mscrm.WhoAmIResponse" Nullable="false" /></Function>',
        '<Function Name="RetrieveVersion"><ReturnType Type="mscrm.RetrieveVersionResponse" Nullable="false" /></Function>',
    ]
    for message in _BULK:
        returns = (
            '<ReturnType Type="mscrm.CreateMultipleResponse" Nullable="false" />' if message == "CreateMultiple" else ""
        )
        parts.append(
            f'<Action Name="{message}" IsBound="true">'
            '<Parameter Name="entityset" Type="Collection(mscrm.crmbaseentity)" Nullable="false" />'
            f'<Parameter Name="Targets" Type="Collection(mscrm.crmbaseentity)" Nullable="false" />{returns}</Action>'
        )
    parts.append('<EntityContainer Name="System">')
    for table in schema.tables.values():
        parts += _set(schema, table, annotated)
    parts += [
        '<FunctionImport Name="WhoAmI" Function="mscrm.WhoAmI" />',
        '<FunctionImport Name="RetrieveVersion" Function="mscrm.RetrieveVersion" />',
        "</EntityContainer></Schema></edmx:DataServices></edmx:Edmx>",
    ]
    return "".join(parts).encode()


def _entity(schema: Schema, table: Table) -> list[str]:
    out = [
        (
            f'<EntityType Name={quoteattr(table.name)} BaseType="mscrm.crmbaseentity">'
            f"<Key><PropertyRef Name={quoteattr(table.primary_id)} /></Key>"
        )
    ]
    for column in table.columns.values():
        kind = TYPES[column.kind][1]
        unicode = ' Unicode="false"' if kind == "Edm.String" else ""
        out.append(f'<Property Name={quoteattr(column.property)} Type="{kind}"{unicode} />')
    for navigation, (column, target) in table.links.items():
        kind = "principal" if column.kind == "owner" else target
        refers = (
            f"<ReferentialConstraint Property={quoteattr(column.property)} "
            f"ReferencedProperty={quoteattr(schema.tables[target].primary_id)} />"
            if target in schema.tables and kind != "principal"
            else ""
        )
        out.append(
            f'<NavigationProperty Name={quoteattr(navigation)} Type="mscrm.{kind}" Nullable="false">{refers}</NavigationProperty>'
        )
    out += [
        f"<NavigationProperty Name={quoteattr(r.collection)} "
        f'Type="Collection(mscrm.{r.many})" Partner={quoteattr(r.navigation)} />'
        for r in schema.relationships
        if r.one == table.name
    ]
    out += [
        f'<NavigationProperty Name={quoteattr(m.name)} Type="Collection(mscrm.{m.other(table.name)})" />'
        for m in schema.many
        if table.name in (m.left, m.right)
    ]
    return [*out, "</EntityType>"]


def _set(schema: Schema, table: Table, annotated: bool) -> list[str]:
    out = [f'<EntitySet Name={quoteattr(table.set_name)} EntityType="mscrm.{table.name}">']
    for navigation, (column, target) in table.links.items():
        if target in schema.tables and column.kind != "owner":
            out.append(
                f"<NavigationPropertyBinding Path={quoteattr(navigation)} Target={quoteattr(schema.tables[target].set_name)} />"
            )
    if annotated and table.tracked:
        out.append(
            '<Annotation Term="Org.OData.Capabilities.V1.ChangeTracking"><Record>'
            '<PropertyValue Property="Supported" Bool="true" /></Record></Annotation>'
        )
    return [*out, "</EntitySet>"]
