"""Capture of systems that send webhooks (`capture: webhook`), described in the configuration: no code.

What comes is the whole record, or only its key, and then the record is read (`options.read`, as of `producers.rest`). Where the API
can list records as well (`options.list`), lost webhooks are made good by polling.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from producers.rest import RestProducer, RestSource
from producers.schedule import Schedule
from producers.source import Call, Cursor, Notice, Task
from tidelock.apis.described import GONE, MISSING, dig, epoch_micros, text_at
from tidelock.apis.records import Record
from tidelock.apis.rest import Incoming, Records, description_of
from tidelock.config import TableSpec
from tidelock.context import Context
from tidelock.errors import Fatal, Reject, Revoked
from tidelock.signatures import Scheme, scheme_of
from tidelock.tenants import Tenant

_DELETES = ("deleted", "delete", "removed", "archived", "destroyed")
_CREATES = ("created", "create", "added")
_HEADER = "header:"
_MICROS = 1_000_000


class WebhookHook:
    """Understands calls as the configuration describes them (`producers.source.Hook`)."""

    def __init__(self, context: Context, tenant: Tenant) -> None:
        self._tenant = tenant
        self._spec = context.config.systems[tenant.system]
        where = f"options.in of {tenant.path}"
        try:
            self._in = msgspec.convert(dict(tenant.options.get("in", {})), Incoming, strict=False)
        except msgspec.ValidationError as error:
            raise Fatal(f"{where}: {error}", hint="docs/connectors/webhook.md lists what can stand there") from error
        self.scheme: Scheme = scheme_of(self._in.scheme, f"{where}.scheme")
        self._described = description_of(tenant)

    @property
    def secrets(self) -> Sequence[str]:
        """Return the secrets that are there; raises Revoked if none is."""
        found = [s for name in self._in.secrets if (s := self._tenant.credentials.get(name))]
        if not found:
            raise Revoked(
                f"{self._tenant.path} has no credential `{self._in.secrets[0]}`, so no webhook can be checked",
                hint=f"`tidelock tenants set {self._tenant.system} {self._tenant.name} --credential {self._in.secrets[0]}`",
            )
        return found

    def delivery(self, call: Call) -> str | None:
        """Return the number of the delivery, where the body tells it."""
        return None if self._in.delivery is None else text_at(_json(call.body), self._in.delivery)

    def receive(self, call: Call) -> list[Notice]:
        """Return what the events tell. What is of no entity that is captured is left out."""
        body = _json(call.body)
        events = dig(body, self._in.events)
        if events is MISSING:
            raise Reject(f"there is nothing at {self._in.events}", kind="unreadable")
        out = []
        for n, event in enumerate(events if isinstance(events, list) else [events]):
            notice = self._notice(event, call, n)
            if notice is not None:
                out.append(notice)
        return out

    def _notice(self, event: Any, call: Call, number: int) -> Notice | None:
        types = (self._in.type,) if isinstance(self._in.type, str) else self._in.type
        kind = ".".join(found for path in types if (found := _text(event, call, path)) is not None)
        entity = self._entity(kind)
        if entity is None:
            return None
        table = self._spec.entities[entity]
        record = MISSING if self._in.record is None else dig(event, self._in.record)
        key = text_at(event, self._in.key) if self._in.key is not None else text_at(record, table.key[0])
        if key is None:
            raise Reject(f"an event {kind or 'without type'} has no key", kind="no_key")
        if self._described.read is not None:
            return Notice(entity, keys=[key])
        return Notice(entity, records=[self._record(table, key, kind, event, record, call, number)])

    def _record(
        self, table: TableSpec, key: str, kind: str, event: Any, record: Any, call: Call, number: int
    ) -> Record:
        """Make the record of a whole payload."""
        received = time.time_ns() // 1000
        now, tie = self._time(event, call, received), received + number
        verb = _split(kind)[1]
        deleted = kind in self._in.deletes or (not self._in.deletes and verb in _DELETES)
        records = Records(self._described, table, self._tenant)
        ours = text_at(event, self._in.origin) == "tidelock"
        if deleted or records.gone(record):
            version, _ = records.version(record, now=now, tie=tie)
            if self._described.version == "integer" and dig(record, table.modified or "") is MISSING:
                version = (GONE, now)
            return Record(key, {}, version, now, deleted=True, ours=ours)
        if not isinstance(record, dict):
            raise Reject(f"an event {kind} holds no record", kind="unreadable")
        if self._described.version == "integer" and dig(record, table.modified or "") is MISSING:
            raise Reject(f"an event {kind} has no version at {table.modified}", kind="no_version")
        made = records.of(record, now=now, tie=tie if self._described.version == "time" else 0)
        made.key, made.ours = key, ours or made.ours
        made.created = verb in _CREATES
        return made

    def _time(self, event: Any, call: Call, received: int) -> int:
        """Return when it happened: as the event says, else as the signature says, else now."""
        told = None if self._in.time is None else _text(event, call, self._in.time)
        try:
            if told is not None:
                return epoch_micros(told)
            sent = next((call.headers[f.timestamp] for f in self.scheme.families if f.timestamp in call.headers), None)
            if sent is not None:
                return int(sent) * (1000 if self.scheme.unit == "ms" else _MICROS)
        except (ValueError, ArithmeticError) as error:
            raise Reject(f"the time of an event cannot be read at {self._in.time}", kind="unreadable") from error
        return received

    def _entity(self, kind: str) -> str | None:
        """Return the entity of a type of event: as the option says, else by the table's name before the dot."""
        if self._in.entities:
            named = self._in.entities.get(kind)
            return named if named in self._spec.entities else None
        head = _split(kind)[0]
        return next((e for e, t in self._spec.entities.items() if t.table == head), None)


def _text(event: Any, call: Call, path: str) -> str | None:
    """Return what stands at a path of the event, or in a header: ``header:x-shopify-topic``."""
    if path.startswith(_HEADER):
        return call.headers.get(path.removeprefix(_HEADER).lower())
    return text_at(event, path)


def _split(kind: str) -> tuple[str, str]:
    """Cut a type of event into what it is about and what happened to it: ``contact.created``, ``orders/create``."""
    at = max(kind.rfind("."), kind.rfind("/"))
    return (kind[:at], kind[at + 1 :]) if at >= 0 else (kind, kind)


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Reject("the body is no JSON", kind="unreadable") from error


class WebhookSource(RestSource):
    """What can be read beside the webhooks, if anything (`producers.source.Source`)."""

    def parts(self, task: Task, where: str | None) -> list[Cursor]:
        """Return the one part, or none if nothing can be listed."""
        return [] if self._described.list is None and where is None else super().parts(task, where)


class WebhookProducer(RestProducer):
    """Capture what comes, and poll beside it where that is described."""

    source = WebhookSource
    hook = WebhookHook

    @property
    def polls(self) -> bool:
        """Return whether polling finds again what a webhook named."""
        return "list" in self.spec.options

    def schedules(self, entity: str) -> dict[str, Schedule]:
        """Return the schedules: of an API that lists nothing there are none."""
        found = super().schedules(entity)
        return found if self.polls else {}
