"""The bodies of webhooks: how each kind of sender wraps a change, and how a receiver reads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from simulators.webhook.records import Happened, plural, singular
from simulators.webhook.schemes import Refused

FORM_OF = {
    "standard": "standard",
    "standard_ed25519": "standard",
    "shopify": "shopify",
    "shopify_events": "shopify",
    "stripe": "stripe",
    "github": "github",
    "static": "plain",
    "none": "plain",
}
"""The form of body that goes with a scheme, unless an endpoint or inbox names another."""
FORMS = ("standard", "shopify", "stripe", "github", "plain")
CONTENTS = ("full", "thin")
_OPERATIONS = {
    **dict.fromkeys(("created", "create", "opened", "add", "added"), "created"),
    **dict.fromkeys(("updated", "update", "edited", "changed", "upserted", "upsert"), "updated"),
    **dict.fromkeys(("deleted", "delete", "removed", "destroyed"), "deleted"),
}


def written(form: str, content: str, happened: Happened, event_id: str, moment: str) -> bytes:
    """Return the body that tells a change; a thin one tells only which record it was."""
    record, kind = happened.record, happened.record.kind
    one = singular(kind)
    if content == "thin":
        data: dict[str, Any] = {"id": record.id}
    elif happened.operation == "deleted":
        names = ("id", "version", "updated_at", "origin")
        data = {name: happened.shown[name] for name in names}
    else:
        data = happened.shown
    event = f"{one}.{happened.operation}"
    body: dict[str, Any]
    match form:
        case "standard":
            body = {"type": event, "timestamp": moment, "data": data}
        case "stripe":
            body = {"id": event_id, "object": "event", "type": event, "created": happened.at_ms // 1000}
            body["data"] = {"object": data}
        case "github":
            body = {"action": happened.operation, one: data}
        case "shopify":
            body = data
        case _:
            body = {"id": event_id, "event": event, "occurred_at": moment, "data": data}
    return msgspec.json.encode(body)


@dataclass(frozen=True, slots=True)
class Told:
    """What a received message says: ``message_id`` is its own, if the body holds one."""

    kind: str
    operation: str
    data: dict[str, Any]
    message_id: str | None


def read(form: str, headers: Mapping[str, str], body: bytes, kind: str | None) -> Told:
    """Read a message that was verified; ``kind`` is what the inbox is for, if it is for one. Raises Refused."""
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(400, "malformed_body", "the body is no JSON") from None
    if not isinstance(message, dict):
        raise Refused(400, "malformed_body", "the body is no JSON object")
    message_id: Any = None
    word: str
    verb: Any
    match form:
        case "shopify":
            topic = headers.get("x-shopify-topic") or headers.get("shopify-topic") or ""
            word, _, verb = topic.rpartition("/")
            data: Any = message
        case "github":
            word, verb = headers.get("x-github-event", ""), message.get("action")
            data = message.get(word)
        case "stripe":
            word, verb = _split(message.get("type"))
            data, message_id = message.get("data"), message.get("id")
            data = data.get("object") if isinstance(data, dict) else None
        case "standard":
            word, verb = _split(message.get("type"))
            data = message.get("data")
        case _:
            word, verb = _split(message.get("event", message.get("type")))
            data, message_id = message.get("data"), message.get("id")
    operation = _OPERATIONS.get(verb) if isinstance(verb, str) else None
    if operation is None:
        raise Refused(400, "unknown_event", f"{verb!r} is not created, updated or deleted")
    if not isinstance(data, dict):
        raise Refused(400, "malformed_body", "the message holds no record")
    if not kind and not word:
        raise Refused(400, "unknown_event", "the message does not say what kind of record it is about")
    return Told(kind or plural(word), operation, data, message_id if isinstance(message_id, str) else None)


def _split(event: Any) -> tuple[str, str]:
    word, _, verb = event.rpartition(".") if isinstance(event, str) else ("", "", "")
    return word, verb
