"""The configuration as typed models: systems, entities, flows. Loading a file, with errors by line, is `tidelock.configfile`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from tidelock.avro import FieldType
from tidelock.errors import Fatal

DATABASE_CAPTURES = frozenset({"replication", "outbox", "polling", "rowhash"})
"""Captures of a database: they have a `dsn` and one tenant."""

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]


class Model(BaseModel):
    """Unknown keys are errors: a misspelt option must not be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Policy(StrEnum):
    """What decides a conflict of one field."""

    PRIORITY = "priority"
    NEWEST = "newest"
    KEEP_GOLDEN = "keep_golden"
    NON_NULL = "non_null"
    MAX = "max"
    MIN = "min"
    DELTA = "delta"
    UNION = "union"
    MANUAL = "manual"


class Deletes(StrEnum):
    """What a delete in a system means, or what a delete does in a destination."""

    DELETE = "delete"
    DISABLE = "disable"
    UNLINK = "unlink"
    IGNORE = "ignore"


class Sensitive(StrEnum):
    """What happens to a sensitive column before any topic is written."""

    DROP = "drop"
    MASK = "mask"
    HASH = "hash"


class FieldSpec(Model):
    """One canonical field of an entity."""

    type: FieldType = FieldType.STRING
    format: Literal["email", "phone", "country", "currency"] | None = None
    scale: int | None = Field(None, ge=0, le=18, description="decimals: digits behind the point; rounding is half-even")
    policy: Policy | None = Field(None, description="the entity's policy unless given")
    values: tuple[str, ...] | None = Field(
        None, description="the values that are allowed; others are flagged, not guessed"
    )
    references: Name | None = Field(None, description="the entity whose record this field points to")
    required: bool = False
    max_length: int | None = Field(None, gt=0)


class EntitySpec(Model):
    """One kind of record: its fields, how records of several systems are recognised as one, and who wins."""

    fields: dict[Name, FieldSpec] = Field(min_length=1)
    match: tuple[tuple[Name, ...], ...] = Field(
        (), description="match keys in order of precedence; each a list of fields"
    )
    policy: Policy = Policy.PRIORITY
    priority: tuple[Name, ...] = Field(
        (), description="systems, the one that wins first; the order of `systems` unless given"
    )
    ambiguous: Literal["quarantine", "separate", "merge"] = "quarantine"
    delete_against_edit: Literal["delete_wins", "edit_wins"] = "delete_wins"
    oscillation: int = Field(
        6, ge=2, description="a field that returns to an earlier value more often than this within the window is parked"
    )
    oscillation_window_s: float = Field(600.0, gt=0)
    max_skew_s: float = Field(
        300.0, ge=0, description="newest: source times further in the future than this against capture are capped"
    )


class Binding(Model):
    """How columns of one system and fields of the entity hold the same information. One unit of synchronisation.

    One column and one field is the usual case. One column and several fields: `split` reads, `join` writes. Several columns and
    one field: the columns are joined on reading and split on writing.
    """

    column: str | None = None
    columns: tuple[str, ...] = ()
    field: Name | None = None
    fields: tuple[Name, ...] = ()
    separator: str = " "
    path: str | None = Field(None, description="a JSON column: where in it the value stands, as dotted names")
    date_format: str | None = Field(None, description="text dates: strftime format, for example %d/%m/%Y")
    decimal_separator: Literal[".", ","] = "."
    minor_units: bool = Field(False, description="the column holds cents (or what the currency's minor unit is)")
    currency: str | None = Field(None, description="ISO 4217 code that fixes the minor unit; 2 digits unless given")
    values: dict[str, Any] | None = Field(None, description="value map: what the column holds → what the field holds")
    country: Literal["alpha_2", "alpha_3", "name"] | None = Field(None, description="how this system spells countries")
    region: str | None = Field(None, description="phone numbers without country code: ISO 3166 alpha-2 code to assume")
    constant: Any = Field(None, description="always write this; never read")
    size: int | None = Field(None, gt=0, description="the column's length in characters")
    overflow: Literal["reject", "truncate", "flag"] = "reject"
    direction: Literal["both", "read", "write"] = "both"
    blank: Literal["clear", "unknown"] = Field(
        "clear", description="unknown: an empty value here never erases the field"
    )
    sensitive: Sensitive | None = None
    enforced: bool = Field(False, description="an edit here that is not accepted is set back")
    case: Literal["upper", "lower"] | None = None
    trim: bool = False

    @model_validator(mode="after")
    def _sides(self) -> Binding:
        if (self.column is None) == (not self.columns):
            raise ValueError("give either `column` or `columns`")
        if self.field is not None and self.fields:
            raise ValueError("give either `field` or `fields`")
        if self.field is None and not self.fields and self.constant is None and self.sensitive is None:
            raise ValueError("give `field`, `fields`, `constant` or `sensitive`")
        if len(self.columns) > 1 and len(self.fields) > 1:
            raise ValueError("one side of a binding is a single column or a single field")
        return self

    @property
    def column_names(self) -> tuple[str, ...]:
        """Return the columns, however they were given."""
        return self.columns or (str(self.column),)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Return the fields, however they were given."""
        return self.fields or ((self.field,) if self.field else ())


class TableSpec(Model):
    """Where an entity lives in a system, how it is captured there, and its bindings."""

    table: str = Field(description="table (or view) to capture, with its schema if it is not `public`")
    write_table: str | None = Field(None, description="table to write to, if `table` is a view")
    key: tuple[str, ...] = Field(("id",), min_length=1)
    key_from: Literal["generated", "canonical_id"] | Name = Field(
        "generated",
        description="where the key of a record we create comes from: the destination, our canonical id, or a field",
    )
    canonical_id: str | None = Field(None, description="a column of that system that keeps our canonical id")
    modified: str | None = Field(None, description="polling: the last-modified column")
    actor: str | None = Field(None, description="a column that says who changed the row")
    where: str | None = Field(None, description="capture only rows for which this SQL condition holds")
    map: tuple[Binding, ...] = Field(min_length=1)
    on_delete: Deletes = Field(Deletes.DELETE, description="what a delete here means for the record")
    write_delete: Deletes = Field(Deletes.DELETE, description="what a deleted record does here")
    disable: dict[str, Any] = Field(
        default_factory=dict, description="columns and values that mean disabled, for `disable`"
    )
    schedule: str | None = Field(None, description="cron expression: capture runs then, instead of all the time")
    every_s: float = Field(5.0, gt=0, description="polling without a schedule: seconds between two reads")
    overlap_s: float = Field(86_400.0, ge=0, description="polling: how far the nightly overlap reads back")
    overlap_schedule: str = "0 3 * * *"
    actor_limit_per_min: int | None = Field(
        None, gt=0, description="more changes than this of one actor are parked until released"
    )


class TenantSpec(Model):
    """One organisation, portal or database of a system: what is different there from what the system says."""

    enabled: bool = True
    url: str | None = Field(None, description="where this tenant's API answers; the system's `url` unless given")
    credentials: dict[str, SecretStr] = Field(
        default_factory=dict, description="instead of the system's `credentials`, name by name"
    )
    fields: dict[Name, str] = Field(
        default_factory=dict,
        description="fields that every record of this tenant has, and their values: what is captured here gets them, only records "
        "that have them are written here, and they are part of every match key",
    )
    when: str | None = Field(
        None,
        description="only records for which this condition holds are written to this tenant, on top of the flow's own",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="instead of the system's `options`, name by name")


class SystemSpec(Model):
    """One system of record."""

    kind: Name = Field("postgres", description="the connector that writes: an entry point of tidelock.sinks")
    capture: str = Field(
        "replication", description="how changes are noticed: replication, outbox, polling, rowhash, or none"
    )
    dsn: SecretStr | None = None
    url: str | None = Field(None, description="where the system's API answers")
    credentials: dict[str, SecretStr] = Field(
        default_factory=dict, description="what the connector signs in with; each connector's page lists the names"
    )
    tenant: Name = "default"
    tenants: dict[Name, TenantSpec] | None = Field(
        None,
        description="the tenants of a system that has several; left out: there is one, named `tenant`; `{}`: all are added at run time",
    )
    enabled: bool = True
    publication: str | None = None
    slot: str | None = None
    heartbeat_s: float = Field(10.0, gt=0)
    batch: int = Field(2000, gt=0, description="rows in one write statement or request")
    max_retries: int = Field(5, gt=0, description="outbox: attempts before a queue row stays in error")
    archive_after_s: float = Field(86_400.0, ge=0, description="outbox: completed rows older than this are archived")
    entities: dict[Name, TableSpec] = Field(default_factory=dict)
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of the connector that no other connector has; with several tenants also `hold_s` (5: how long a tenant's "
        "failing writes are tried again before they are parked) and `tenants_at_once` (how many are written at the same time)",
    )

    @property
    def all_tenants(self) -> dict[str, TenantSpec]:
        """Return the tenants by name, in the order of the file: those of `tenants`, else the single one that `tenant` names.

        ``tenants: {}`` says that all are added at run time: until then there are none.
        """
        return {self.tenant: TenantSpec()} if self.tenants is None else self.tenants

    @property
    def only_tenant(self) -> str:
        """Return the name of the single tenant. Raises Fatal where there are several: whoever asks can serve one only."""
        first, *more = self.all_tenants or ("",)
        if not first:
            raise Fatal(
                f"this {self.kind} system has no tenant yet (`tenants` is empty)",
                hint="`tidelock tenants add`, or leave `tenants` out where there is only one",
            )
        if more:
            raise Fatal(
                f"this {self.kind} system has several tenants ({', '.join((first, *more))}), and its connector knows only one",
                hint="make each of them a system of its own",
            )
        return first


class FlowSpec(Model):
    """Which systems feed which, for one entity. `from` and `to` are each one system or a list; every pair is a flow."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    entity: Name
    source: tuple[Name, ...] = Field(alias="from", min_length=1)
    to: tuple[Name, ...] = Field(min_length=1)
    when: str | None = Field(
        None, description="condition on the record's fields, for example: status == 'active' and balance > 0"
    )
    on_exit: Literal["keep", "disable", "delete"] = "keep"
    delay_s: float = Field(0.0, ge=0, description="wait this long before writing; what happens meanwhile is folded in")
    fields: tuple[Name, ...] = Field((), description="only these fields; all that are bound on both sides unless given")
    create: bool = Field(True, description="false: update what exists, never create")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = {k: [v] if k in ("from", "to") and isinstance(v, str) else v for k, v in data.items()}
        return data


class KafkaSpec(Model):
    """The cluster; without `bootstrap` the embedded one is used."""

    bootstrap: str | None = None
    replication: int = Field(1, gt=0)
    settings: dict[str, Any] = Field(
        default_factory=dict, description="librdkafka settings, for example security.protocol"
    )


class RegistrySpec(Model):
    """The schema registry; without `url` the embedded one is used."""

    url: str | None = None
    user: str | None = None
    password: SecretStr | None = None


class TracingSpec(Model):
    """Where spans go and how many; without an endpoint none are exported."""

    endpoint: str | None = Field(None, description="OTLP/HTTP endpoint, for example http://127.0.0.1:4318")
    ratio: float = Field(0.01, ge=0, le=1)


class CentralSpec(Model):
    """The database of the installation itself: tenants added at run time, tokens, shared limits."""

    dsn: SecretStr | None = Field(
        None, description="PostgreSQL; without it the embedded one is used, if a system needs it at all"
    )


class HooksSpec(Model):
    """Where webhooks of all systems are taken: `POST /hooks/<system>` or `/hooks/<system>/<tenant>`. Put a proxy with TLS before it."""

    host: str = Field("127.0.0.1", description="address to listen on; `0.0.0.0` is every address of this machine")
    port: int = Field(8485, ge=0, le=65_535, description="port to listen on; 0 is a free one")
    url: str | None = Field(
        None,
        pattern=r"^https?://[^/]+",
        description="the address that senders call, without `/hooks/…`: some signatures cover it",
    )
    max_body_bytes: int = Field(1_048_576, gt=0, description="larger calls are answered 413")
    patience_s: float = Field(
        4.0, gt=0, description="a call that Kafka has not acknowledged by then is answered 503, and is sent again"
    )


class Config(Model):
    """One installation."""

    prefix: str = Field(
        "", pattern=r"^([a-zA-Z0-9][a-zA-Z0-9_-]*\.)?$", description="stands before every topic; ends with a dot"
    )
    partitions: int = Field(4, gt=0, le=256)
    data: Path = Path(".tidelock")
    retention_days: int = Field(30, gt=0)
    kafka: KafkaSpec = KafkaSpec()
    registry: RegistrySpec = RegistrySpec()
    tracing: TracingSpec = TracingSpec()
    central: CentralSpec = CentralSpec()
    hooks: HooksSpec | None = None
    systems: dict[Name, SystemSpec] = Field(min_length=1)
    entities: dict[Name, EntitySpec] = Field(min_length=1)
    flows: tuple[FlowSpec, ...] = Field(min_length=1)
