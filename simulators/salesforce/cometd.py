"""Change events over CometD (Bayeux): handshake, long polling, subscriptions with a replay id, disconnect."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.faults import Faults
from simulators.salesforce.feed import Event
from simulators.salesforce.oauth import token_of
from simulators.salesforce.org import Org
from simulators.salesforce.sessions import Session, Sessions

ALL = "/data/ChangeEvents"
_GONE_S = 120.0
_PER_ANSWER = 500

Message = dict[str, Any]


@dataclass(slots=True)
class Listener:
    """One CometD client: what it wants and what waits for it."""

    id: str
    user: str
    version: str
    seen: float
    channels: dict[str, None] = field(default_factory=dict)
    waiting: deque[tuple[str, Event]] = field(default_factory=deque)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    connected: bool = False
    polling: int = 0


class Cometd:
    """The endpoint ``/cometd/{NN.0}``. ``poll_s`` is how long a connect waits for something to happen."""

    def __init__(self, org: Org, sessions: Sessions, faults: Faults, poll_s: float) -> None:
        self._org = org
        self._sessions = sessions
        self._faults = faults
        self._poll_s = poll_s
        self._listeners: dict[str, Listener] = {}
        org.feed.heard = self._heard

    def routes(self) -> list[Route]:
        """Return the paths; some clients put the kind of message behind the address."""
        methods = ["POST"]
        return [
            Route("/cometd/{version}", self._endpoint, methods=methods),
            Route("/cometd/{version}/", self._endpoint, methods=methods),
            Route("/cometd/{version}/{kind}", self._endpoint, methods=methods),
        ]

    def reset(self) -> None:
        """Forget all clients."""
        for listener in self._listeners.values():
            listener.more.set()
        self._listeners.clear()
        self._org.feed.heard = self._heard

    def listeners(self) -> list[dict[str, Any]]:
        """Return who listens to what, for the control API."""
        return [
            {
                "id": li.id,
                "user": li.user,
                "channels": list(li.channels),
                "waiting": len(li.waiting),
                "polling": li.polling > 0,
            }
            for li in self._listeners.values()
        ]

    def _heard(self, event: Event) -> None:
        own = f"/data/{event.kind.event}"
        for listener in self._listeners.values():
            for channel in (own, ALL):
                if channel in listener.channels:
                    listener.waiting.append((channel, event))
                    listener.more.set()

    async def _endpoint(self, request: Request) -> Response:
        try:
            messages = msgspec.json.decode(await request.body())
        except msgspec.DecodeError:
            return Response("400::Malformed message", 400)
        messages = messages if isinstance(messages, list) else [messages]
        token = token_of(request.headers.get("authorization", ""))
        session = self._sessions.find(token) if token is not None else None
        if session is not None and self._faults.take("expire_tokens", "POST", request.url.path) is not None:
            self._sessions.expire()
            session = None
        out: list[Message] = []
        headers: dict[str, str] = {}
        for message in messages:
            channel = message.get("channel", "")
            if session is None:
                out.append(_unauthorised(message))
            elif channel == "/meta/handshake":
                reply, listener = self._handshake(message, session, request.path_params["version"])
                headers["set-cookie"] = f"BAYEUX_BROWSER={listener.id[:16]}; Path=/cometd/; HttpOnly"
                out.append(reply)
            elif (known := self._known(message, session)) is None:
                out.append(_unknown(message))
            elif channel == "/meta/connect":
                rest = [m for m in messages if m is not message]
                out += [self._other(other, known) for other in rest]  # subscriptions sent along
                out[:0] = await self._connect(message, known, waits=not rest)
                break
            else:
                out.append(self._other(message, known))
        return answer(out, headers=headers, media="application/json;charset=UTF-8")

    def _known(self, message: Message, session: Session) -> Listener | None:
        id_ = message.get("clientId")
        if self._faults.take("unknown_client", "POST", f"/cometd {message.get('channel')}") is not None:
            self._listeners.pop(str(id_), None)
        listener = self._listeners.get(str(id_))
        if listener is None or listener.user != session.user:
            return None
        now = self._org.clock.now()
        if now - listener.seen > _GONE_S + self._poll_s and not listener.polling:
            del self._listeners[listener.id]
            return None
        listener.seen = now
        return listener

    def _other(self, message: Message, listener: Listener) -> Message:
        handlers = {
            "/meta/subscribe": self._subscribe,
            "/meta/unsubscribe": self._unsubscribe,
            "/meta/disconnect": self._disconnect,
        }
        handler = handlers.get(message.get("channel", ""))
        if handler is not None:
            return handler(message, listener)
        return _said(message, successful=False, error="403:denied_by_not_granting:publish_denied")

    def _handshake(self, message: Message, session: Session, version: str) -> tuple[Message, Listener]:
        listener = Listener(self._sessions.secret(28).replace(".", "0"), session.user, version, self._org.clock.now())
        self._listeners[listener.id] = listener
        reply = _said(
            message,
            successful=True,
            ext={"replay": True, "payload.format": True},
            version="1.0",
            minimumVersion="1.0",
            clientId=listener.id,
            supportedConnectionTypes=["long-polling"],
            advice={"reconnect": "retry", "interval": 0, "timeout": int(self._poll_s * 1000)},
        )
        return reply, listener

    async def _connect(self, message: Message, listener: Listener, *, waits: bool) -> list[Message]:
        first, listener.connected = not listener.connected, True
        if not first and waits:
            listener.polling += 1
            try:
                if not listener.waiting:
                    listener.more.clear()
                    await asyncio.wait_for(listener.more.wait(), self._patience_s(message))
            except TimeoutError:
                pass
            finally:
                listener.polling -= 1
        listener.seen = self._org.clock.now()
        if listener.id not in self._listeners:
            return [_unknown(message)]
        reply = _said(message, successful=True, clientId=listener.id)
        if first:
            reply["advice"] = {"reconnect": "retry", "interval": 0, "timeout": int(self._poll_s * 1000)}
        out: list[Message] = []
        while listener.waiting and len(out) < _PER_ANSWER:
            channel, event = listener.waiting.popleft()
            if channel in listener.channels:
                out.append({"data": event.data(), "channel": channel})
        return [*out, reply]

    def _patience_s(self, message: Message) -> float:
        """Return how long a connect waits: as long as the server likes, or less if the client's advice says so."""
        wished = (message.get("advice") or {}).get("timeout")
        return min(self._poll_s, float(wished) / 1000) if isinstance(wished, int | float) else self._poll_s

    def _subscribe(self, message: Message, listener: Listener) -> Message:
        wanted = message.get("subscription")
        channels = wanted if isinstance(wanted, list) else [wanted]
        for channel in channels:
            if not self._exists(str(channel)):
                return _said(
                    message,
                    successful=False,
                    subscription=channel,
                    clientId=listener.id,
                    error=f"404::The channel you requested to subscribe to does not exist {{{channel}}}",
                )
        replay = (message.get("ext") or {}).get("replay")
        replay = replay if isinstance(replay, dict) else {}
        for channel in channels:
            id_ = replay.get(channel, -1)
            events = self._org.feed.since(id_, self._org.clock.now()) if isinstance(id_, int) else None
            if events is None:
                return _said(
                    message,
                    successful=False,
                    subscription=channel,
                    clientId=listener.id,
                    error=f"400::The replayId {{{id_}}} you provided was invalid.  Please provide a valid ID, -2 to replay all events, "
                    "or -1 to replay only new events.",
                )
            fresh = channel not in listener.channels
            listener.channels[str(channel)] = None
            if fresh or channel in replay:
                own = [(str(channel), e) for e in events if channel in {ALL, f"/data/{e.kind.event}"}]
                waiting = [w for w in listener.waiting if w[0] != channel] if id_ != -1 else list(listener.waiting)
                listener.waiting = deque([*waiting, *own])
                if own:
                    listener.more.set()
        return _said(message, successful=True, subscription=wanted, clientId=listener.id)

    def _exists(self, channel: str) -> bool:
        if channel == ALL:
            return True
        kinds = (t.kind for t in self._org.tables.values() if t.kind.writable)
        return channel in {f"/data/{k.event}" for k in kinds}

    def _unsubscribe(self, message: Message, listener: Listener) -> Message:
        wanted = message.get("subscription")
        for channel in wanted if isinstance(wanted, list) else [wanted]:
            listener.channels.pop(str(channel), None)
        return _said(message, successful=True, subscription=wanted, clientId=listener.id)

    def _disconnect(self, message: Message, listener: Listener) -> Message:
        self._listeners.pop(listener.id, None)
        listener.more.set()
        return _said(message, successful=True, clientId=listener.id)


def _said(message: Message, **more: Any) -> Message:
    out = {"channel": message.get("channel", ""), **more}
    if "id" in message:
        out["id"] = message["id"]
    return out


def _unknown(message: Message) -> Message:
    return _said(
        message, successful=False, error="403::Unknown client", advice={"reconnect": "handshake", "interval": 0}
    )


def _unauthorised(message: Message) -> Message:
    failure = "401::Authentication invalid"
    return _said(
        message,
        successful=False,
        error=failure,
        ext={"sfdc": {"failureReason": failure}, "replay": True, "payload.format": True},
        advice={"reconnect": "none", "interval": 500},
    )
