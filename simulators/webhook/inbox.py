"""Inboxes: what is sent to ``/inbox/{name}`` is verified on its raw bytes, remembered by its id, stored and applied to the records."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from simulators.base import Simulator, answer
from simulators.webhook import schemes
from simulators.webhook.messages import FORM_OF, FORMS, Told, read
from simulators.webhook.records import Records, stamp
from simulators.webhook.schemes import Refused
from simulators.webhook.sending import chosen

MOST_BYTES = 262_144
REMEMBERED_S = 4 * 86_400.0
"""Longer than any sender retries."""
_KEPT = 10_000


@dataclass(slots=True)
class Inbox:
    """One inbox: how its messages are signed, what they are about, which field names the record."""

    name: str
    scheme: str
    secrets: list[str]
    form: str
    kind: str | None = None
    key: str = "id"
    header: str | None = None
    tolerance_s: float = schemes.TOLERANCE_S
    received: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    seen: OrderedDict[str, float] = field(default_factory=OrderedDict)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    """Per record the newest version that a sender has told."""

    def shown(self) -> dict[str, Any]:
        """Return it as the control API shows it."""
        names = ("name", "scheme", "secrets", "form", "kind", "key", "header", "tolerance_s")
        return {name: getattr(self, name) for name in names} | {"received": list(self.received)}


class Inboxes:
    """All inboxes of one system."""

    def __init__(self, simulator: Simulator, records: Records, seed: int) -> None:
        self._simulator, self._records = simulator, records
        self._chance = Random(f"inboxes-{seed}")
        self.held: dict[str, Inbox] = {}

    def open(self, name: str, wish: dict[str, Any]) -> Inbox:
        """Open an inbox, or give one other settings; what it has received stays. Raises ValueError."""
        unknown = set(wish) - {"scheme", "secrets", "form", "kind", "key", "header", "tolerance_s"}
        if unknown:
            raise ValueError(f"an inbox has no {', '.join(sorted(unknown))}")
        scheme = chosen("scheme", wish.get("scheme", "standard"), schemes.SCHEMES)
        secrets = wish.get("secrets") or [schemes.new_secret(scheme, self._chance)]
        if not isinstance(secrets, list) or not all(isinstance(s, str) for s in secrets):
            raise ValueError("secrets is an array of strings")
        for secret in secrets:
            schemes.check(scheme, secret)
        form = chosen("form", wish.get("form") or FORM_OF[scheme], FORMS)
        tolerance_s = float(wish.get("tolerance_s", schemes.TOLERANCE_S))
        kind, key, header = wish.get("kind"), str(wish.get("key", "id")), wish.get("header")
        inbox = Inbox(name, scheme, secrets, form, kind, key, header, tolerance_s)
        if (before := self.held.get(name)) is not None:
            inbox.received, inbox.seen, inbox.versions = before.received, before.seen, before.versions
        self.held[name] = inbox
        return inbox

    async def receive(self, request: Request) -> Response:
        """Answer a message."""
        inbox = self.held.get(request.path_params["name"])
        if inbox is None:
            return answer({"code": "no_such_inbox", "message": "there is no such inbox"}, 404)
        entry: dict[str, Any] = {"at": stamp(int(self._simulator.clock.now() * 1000)), "status": 200}
        entry["headers"] = dict(request.headers)
        try:
            body = await self._body(request)
            entry["body"] = body.decode(errors="replace")
            entry["result"] = result = self._take(inbox, request.headers, body)
        except Refused as refused:
            entry |= {"status": refused.status, "result": {"code": refused.code, "message": refused.message}}
            return answer(entry["result"], refused.status)
        finally:
            inbox.received.append(entry)
        return answer(result)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise Refused(413, "too_large", f"at most {MOST_BYTES} bytes are taken")
        return b"".join(parts)

    def _take(self, inbox: Inbox, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        now = self._simulator.clock.now()
        message_id = schemes.verify(inbox.scheme, inbox.secrets, headers, body, now, inbox.tolerance_s, inbox.header)
        told = read(inbox.form, headers, body, inbox.kind)
        message_id = message_id or told.message_id
        while inbox.seen and next(iter(inbox.seen.values())) < now - REMEMBERED_S:
            inbox.seen.popitem(last=False)
        if message_id is not None and message_id in inbox.seen:
            return {"result": "duplicate", "message_id": message_id}
        result = self._apply(inbox, told)
        if message_id is not None:
            inbox.seen[message_id] = now
        return {**result, "message_id": message_id}

    def _apply(self, inbox: Inbox, told: Told) -> dict[str, Any]:
        named = told.data.get(inbox.key)
        if isinstance(named, bool) or not isinstance(named, str | int) or named == "":
            raise Refused(422, "no_key", f"the record has no {inbox.key}")
        record_id, version = str(named), told.data.get("version")
        if isinstance(version, int):
            if inbox.versions.get((told.kind, record_id), -1) >= version:
                return {"result": "stale", "id": record_id}
            inbox.versions[told.kind, record_id] = version
        origin = told.data.get("origin")
        origin = origin if isinstance(origin, str) else f"inbox:{inbox.name}"
        if told.operation != "deleted":
            result = self._records.put(told.kind, record_id, told.data, origin, whole=False)
        else:
            found = self._records.get(told.kind, record_id)
            if found is None:
                return {"result": "missing", "id": record_id}
            self._records.delete(found, origin)
            result = "deleted"
        record = self._records.kinds[told.kind][record_id]
        return {"result": result, "id": record_id, "version": record.version, "updated_at": stamp(record.at_ms)}
