"""The Web API behind its path: which part of it a request is for, in one transaction, with the faults that rows meet."""

from __future__ import annotations

import uuid
from typing import Any

from simulators.clock import Clock
from simulators.dynamics import csdl
from simulators.dynamics.batch import Batch
from simulators.dynamics.customizing import Customizer
from simulators.dynamics.errors import JSON, ODataError, bad_payload, no_segment, not_allowed
from simulators.dynamics.fetch import Fetcher
from simulators.dynamics.functions import Functions
from simulators.dynamics.messages import Ask, Reply, answered, failed, named, segments
from simulators.dynamics.metadata import Metadata
from simulators.dynamics.reading import Reader
from simulators.dynamics.rows import Rows
from simulators.dynamics.schema import Schema
from simulators.dynamics.sql import Sql
from simulators.dynamics.store import Store
from simulators.dynamics.webhooks import Events
from simulators.dynamics.writes import Context, Writer, restricted
from simulators.faults import Faults

FAULTS = {
    "limit_requests": "429: too many requests in five minutes; Retry-After is `retry_after_s` (default 30)",
    "limit_execution": "429: too much execution time in five minutes; Retry-After is `retry_after_s`",
    "limit_concurrent": "429: too many requests at one time; Retry-After is `retry_after_s`",
    "unavailable": "503, as while an environment is moved or updated; `retry_after_s` gives a Retry-After",
    "expire_token": "401: the token of this request has expired and is forgotten",
    "revoke": "the token endpoint refuses the application (secret expired, grant revoked); on the Web API, 401",
    "denied": "the person at the authorize page declines",
    "deadlock": "500 0x80044150: this write was the victim of a deadlock; nothing is done",
    "sql_timeout": "500 0x80044151: this write or query ran into a time-out of the database; nothing is done",
    "forbidden": "403 0x80040220: a privilege on the table is missing",
    "plugin": "400 0x80040265: a plug-in refuses this write with `message`",
    "delete_restricted": "405 0x80040227: a relationship forbids this delete",
    "late": "what this write made is seen by queries and change tracking only `delay_s` later, with the version and time it has",
}


class Service:
    """Answers requests of the Web API."""

    def __init__(self, schema: Schema, clock: Clock, faults: Faults, organisation: tuple[str, str], seed: int) -> None:
        self.schema = schema
        self.store = Store(schema, clock, seed)
        self.events = Events(self.store, clock, organisation)
        self.reader = Reader(self.store, clock)
        self.writer = Writer(self.store, clock, self.events.tell)
        self.metadata = Metadata(schema)
        self.customizer = Customizer(schema, self.store, self.metadata)
        self._clock = clock
        self._faults = faults
        self._rows = Rows(self.store, self.reader, self.writer)
        self._fetcher = Fetcher(self.store, self.reader)
        self._sql = Sql(self.store, self.reader)
        self._functions = Functions(self.store, self.writer, organisation)
        self._batch = Batch(self.store, self.single, self.events.mark)

    def handle(self, ask: Ask) -> Reply:
        """Answer a request; errors become answers, and nothing of what failed stays."""
        begin = self.store.begin()
        forget = self.events.mark()
        try:
            reply = self._batch.handle(ask) if ask.path == "$batch" and ask.method == "POST" else self.single(ask)
        except ODataError as error:
            forget()
            self.store.rollback(begin)
            return failed(error, bool(ask.annotations.patterns))
        except BaseException:
            forget()
            self.store.rollback(begin)
            raise
        self.store.commit()
        self.events.flush()
        return reply

    def single(self, ask: Ask) -> Reply:
        """Answer one request that is no batch. Raises ODataError."""
        if ask.path.startswith("$") and ask.path.partition("/")[0] not in ("$metadata", "$batch"):
            word, _, rest = ask.path[1:].partition("/")
            if word not in ask.references:
                raise no_segment(ask.path)
            whole = ask.references[word].partition("/api/data/v")[2].partition("/")[2]
            ask.path = f"{whole}/{rest}" if rest else whole
        parts = segments(ask.path)
        if not parts:
            return self._document(ask)
        first, key = named(parts[0])
        if first == "$metadata":
            annotated = ask.parameters.get("annotations", "").lower() == "true"
            return Reply(200, csdl.document(self.schema, annotated=annotated), {"Content-Type": "application/xml"})
        if first in ("EntityDefinitions", "RelationshipDefinitions", "CreateEntities", "EntityMetadata"):
            return self._metadata(ask, parts, first)
        if first in self._functions.names and first not in self.schema.sets:
            return self._functions.handle(ask, first, key, self._context(ask))
        self._meet_faults(ask, first)
        if ask.method == "GET" and len(parts) == 1 and key is None:
            given = ask.parameters
            if "fetchXml" in given:
                return self._fetcher.answer(ask, self.schema.by_set(first), given["fetchXml"])
            if "sql" in given:
                return self._sql.answer(ask, self.schema.by_set(first), given["sql"])
        return self._rows.handle(ask, parts, self._context(ask))

    def _metadata(self, ask: Ask, parts: list[str], first: str) -> Reply:
        if ask.method != "GET":
            if first == "EntityMetadata":
                parts[0] = parts[0].replace("EntityMetadata", "EntityDefinitions", 1)
            try:
                return self.customizer.handle(ask, parts)
            except (TypeError, ValueError, AttributeError, KeyError) as error:  # a definition of another shape
                raise bad_payload(first, f"The definition cannot be read: {error}") from error
        if first == "RelationshipDefinitions":
            return self.metadata.relationships(ask, parts)
        if first == "EntityDefinitions":
            return self.metadata.handle(ask, parts)
        raise not_allowed(ask.method)

    def _document(self, ask: Ask) -> Reply:
        if ask.method != "GET":
            raise not_allowed(ask.method)
        value: list[dict[str, Any]] = [
            {"name": t.set_name, "kind": "EntitySet", "url": t.set_name} for t in self.schema.tables.values()
        ]
        return answered({"@odata.context": f"{ask.root}$metadata", "value": value}, headers={"Content-Type": JSON})

    def _context(self, ask: Ask) -> Context:
        late = None if ask.method == "GET" else self._faults.take("late", ask.method, f"/{ask.path}")
        bypass = ask.headers.get("mscrm.bypassbusinesslogicexecution", "").lower()
        return Context(
            ask.caller,
            ask.tag,
            ask.headers.get("x-ms-correlation-id") or str(uuid.uuid4()),
            str(uuid.uuid4()),
            detect_duplicates=ask.headers.get("mscrm.suppressduplicatedetection", "").lower() == "false",
            bypass="customasync" in bypass,
            references=ask.references,
            hidden_until=self._clock.now() + float(late.more.get("delay_s", 5.0)) if late is not None else 0.0,
        )

    def _meet_faults(self, ask: Ask, table: str) -> None:
        take, method, path = self._faults.take, ask.method, f"/{ask.path}"
        if take("forbidden", method, path) is not None:
            verb = {"GET": "Read", "POST": "Create", "DELETE": "Delete"}.get(method, "Write")
            logical = self.schema.by_set(table)
            raise ODataError(
                403,
                "0x80040220",
                f"Principal user (Id={ask.caller.user}, type=8, roleCount=1, privilegeCount=1, accessMode=4) is missing "
                f"prv{verb}{logical.schema_name} privilege on OTC={logical.code} for entity '{logical.name}'.",
            )
        if take("sql_timeout", method, path) is not None:
            raise ODataError(
                500,
                "0x80044151",
                "Sql error: SQL timeout expired. CRM ErrorCode: -2147204783 Sql ErrorCode: -2146232060 Sql Number: -2",
            )
        if method == "GET":
            return
        if take("deadlock", method, path) is not None:
            raise ODataError(
                500,
                "0x80044150",
                "Sql error: Generic SQL error. CRM ErrorCode: -2147204784 Sql ErrorCode: -2146232060 Sql Number: 1205",
            )
        if (fault := take("plugin", method, path)) is not None:
            raise ODataError(400, "0x80040265", str(fault.more.get("message", "The plug-in refused the operation.")))
        if method == "DELETE" and take("delete_restricted", method, path) is not None:
            raise restricted()
