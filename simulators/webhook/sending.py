"""Who is told about changes, and how: endpoints with scheme, secrets and envelope, retries, what disables them, and faults."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from simulators.base import Simulator
from simulators.delivery import Deliveries, Delivery
from simulators.webhook import schemes
from simulators.webhook.messages import CONTENTS, FORM_OF, FORMS, written
from simulators.webhook.records import Happened, singular, stamp

_STANDARD_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
RETRIES_S: dict[str, tuple[float, ...]] = {
    "shopify": (60.0, 300.0, 600.0, 1200.0, 1800.0, 2700.0, 3600.0, 4200.0),
    "shopify_events": (60.0, 300.0, 600.0, 1200.0, 1800.0, 2700.0, 3600.0, 4200.0),
    "github": (),
}
"""Pauses before further attempts where a scheme's senders have other habits than the advice of Standard Webhooks."""
TIMEOUT_S = {"shopify": 5.0, "shopify_events": 5.0, "github": 10.0}
_SLOW_DOWN = (429, 502, 503, 504)
_AT_ONCE = 20
"""Deliveries under way at a time; the others wait their turn."""
FAULTS = {
    "bad_signature": "the signature belongs to another secret",
    "old_timestamp": "the attempt is signed as if it were made `age_s` seconds ago",
    "replay": "the message is sent once more afterwards, byte for byte, after `delay_s`",
    "oversize": "the body is filled up to `bytes` bytes",
    "malformed": "the body ends in the middle",
}


@dataclass(slots=True)
class Endpoint:
    """One receiver. ``secrets`` are the newest first, each with the time until which it signs; None: no end."""

    id: str
    url: str
    scheme: str
    form: str
    content: str
    kinds: tuple[str, ...]
    secrets: list[tuple[str, float | None]]
    header: str | None
    created_ms: int
    retries_s: tuple[float, ...]
    enabled: bool = True
    reason: str | None = None
    """Why it was disabled."""

    def shown(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        secret = self.secrets[0][0]
        done = {name: getattr(self, name) for name in ("id", "url", "scheme", "form", "content", "header", "enabled")}
        done |= {"kinds": list(self.kinds), "disabled_reason": self.reason, "created_at": stamp(self.created_ms)}
        done |= {"secret": secret, "secrets_in_force": len(self.secrets)}
        if self.scheme == "standard_ed25519":
            done["public_key"] = schemes.public_key(secret)
        return done


@dataclass(slots=True, kw_only=True)
class Parcel(Delivery):
    """A delivery that knows where it goes and what it sent last."""

    endpoint: Endpoint
    sent: dict[str, str] = field(default_factory=dict)
    replayed: float | None = None
    """Seconds after which it is sent again as it was; None: not at all."""


class Sender(Deliveries):
    """The deliveries of the webhook system."""

    def __init__(self, simulator: Simulator, seed: int, jitter: float, trust: str = "") -> None:
        super().__init__(simulator, (), 15.0)
        if trust:
            self._client = httpx.AsyncClient(verify=ssl.create_default_context(cafile=trust), follow_redirects=False)
            simulator.at_end.append(self._client.aclose)
        self.simulator = simulator
        self._chance = Random(f"webhooks-{seed}")
        self._jitter = jitter
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self.endpoints: dict[str, Endpoint] = {}
        self._next = 0

    def add(self, wish: dict[str, Any], retries_s: Sequence[float] | None = None) -> Endpoint:
        """Add an endpoint. Raises ValueError."""
        scheme = str(wish.get("scheme", "standard"))
        unknown = set(wish) - {"url", "scheme", "form", "content", "kinds", "secret", "header", "retries_s"}
        if unknown:
            raise ValueError(f"an endpoint has no {', '.join(sorted(unknown))}")
        url = wish.get("url")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError("url is an http or https address")
        chosen("scheme", scheme, schemes.SCHEMES)
        content = chosen("content", wish.get("content", "full"), CONTENTS)
        form = chosen("form", wish.get("form") or FORM_OF[scheme], FORMS)
        secret = wish.get("secret") or schemes.new_secret(scheme, self._chance)
        pauses = wish.get("retries_s", retries_s)
        if scheme == "standard_ed25519" and not str(secret).startswith("whsk_"):
            raise ValueError("standard_ed25519 signs with a whsk_ secret")
        self._next += 1
        endpoint = Endpoint(
            f"ep_{self._next:06d}",
            url,
            scheme,
            form,
            content,
            tuple(str(kind) for kind in wish.get("kinds") or ()),
            [(str(secret), None)],
            wish.get("header"),
            int(self.simulator.clock.now() * 1000),
            RETRIES_S.get(scheme, _STANDARD_S) if pauses is None else tuple(float(p) for p in pauses),
        )
        schemes.check(scheme, str(secret))
        self.endpoints[endpoint.id] = endpoint
        return endpoint

    def rotate(self, endpoint: Endpoint, overlap_s: float, secret: str | None = None) -> None:
        """Give an endpoint a new secret; the present one goes on signing beside it for ``overlap_s``."""
        now = self.simulator.clock.now()
        ends = now + overlap_s
        old = [(s, ends if until is None else min(until, ends)) for s, until in endpoint.secrets]
        endpoint.secrets = [(secret or schemes.new_secret(endpoint.scheme, self._chance), None), *old]

    def tell(self, happened: Happened) -> None:
        """Tell every endpoint that wants to know."""
        moment = stamp(happened.at_ms)
        event_id = f"evt_{self._chance.getrandbits(96):024x}"
        for endpoint in self.endpoints.values():
            if endpoint.enabled and (not endpoint.kinds or happened.record.kind in endpoint.kinds):
                body = written(endpoint.form, endpoint.content, happened, event_id, moment)
                self.send(self._parcel(endpoint, body, happened, event_id, moment))

    def _parcel(self, endpoint: Endpoint, body: bytes, happened: Happened, event_id: str, moment: str) -> Parcel:
        faults = self.simulator.faults
        if (large := faults.take("oversize", "POST", endpoint.url)) is not None:
            body = body[:-1] + b" " * (int(large.more.get("bytes", 1_000_000)) - len(body)) + body[-1:]
        if faults.take("malformed", "POST", endpoint.url) is not None:
            body = body[: len(body) // 2]
        message_id = f"msg_{self._chance.getrandbits(96):024x}"

        def sign(_: int) -> Mapping[str, str]:
            secrets = self._in_force(endpoint)
            if faults.take("bad_signature", "POST", endpoint.url) is not None:
                secrets = [schemes.new_secret(endpoint.scheme, self._chance) for _ in secrets]
            old = faults.take("old_timestamp", "POST", endpoint.url)
            age_s = float(old.more.get("age_s", 600)) if old is not None else 0.0
            letter = schemes.Letter(
                message_id,
                int(self.simulator.clock.now() - age_s),
                body,
                happened.record.kind,
                singular(happened.record.kind),
                happened.operation,
                happened.record.id,
                event_id,
                moment,
            )
            parcel.sent = schemes.sign(endpoint.scheme, secrets, letter, endpoint.header)
            return parcel.sent

        parcel = Parcel(endpoint.url, body, sign, endpoint=endpoint)
        if (replay := faults.take("replay", "POST", endpoint.url)) is not None:
            parcel.replayed = float(replay.more.get("delay_s", 0))
        return parcel

    def _in_force(self, endpoint: Endpoint) -> list[str]:
        now = self.simulator.clock.now()
        endpoint.secrets = [(s, until) for s, until in endpoint.secrets if until is None or until > now]
        return [secret for secret, _ in endpoint.secrets]

    async def _deliver(self, delivery: Delivery, delay_s: float) -> None:
        assert isinstance(delivery, Parcel)
        endpoint, clock = delivery.endpoint, self.simulator.clock
        if delay_s:
            await clock.until(clock.now() + delay_s)
        for number in range(len(endpoint.retries_s) + 1):
            if not endpoint.enabled:
                break
            async with self._turns:
                status, wait_s = await self._try(delivery, number)
            if 200 <= status < 300:
                delivery.state = "done"
                await self._again(delivery)
                return
            if status == 410:
                endpoint.enabled, endpoint.reason = False, "gone"
                break
            if number < len(endpoint.retries_s):
                pause_s = endpoint.retries_s[number] * (1 + self._jitter * self._chance.random())
                await clock.until(clock.now() + max(pause_s, wait_s if status in _SLOW_DOWN else 0.0))
        delivery.state = "failed"
        if endpoint.enabled and endpoint.retries_s:
            endpoint.enabled, endpoint.reason = False, "exhausted"

    async def _again(self, delivery: Parcel) -> None:
        """Send what was sent once more, as somebody would who has listened."""
        if delivery.replayed is None:
            return
        clock, headers = self.simulator.clock, dict(delivery.sent)
        await clock.until(clock.now() + delivery.replayed)
        again = Parcel(delivery.url, delivery.body, lambda _: headers, endpoint=delivery.endpoint)
        self.made.append(again)
        async with self._turns:
            status, _ = await self._try(again, 0)
        again.state = "done" if 200 <= status < 300 else "failed"

    async def _try(self, delivery: Parcel, number: int) -> tuple[int, float]:
        """Make one attempt; return the status, 0 if there was none, and how long the receiver wants to be left alone."""
        headers = {"content-type": "application/json", **delivery.sign(number)}
        entry: dict[str, Any] = {"at": self.simulator.clock.now(), "number": number}
        delivery.attempts.append(entry)
        wait_s = 0.0
        try:
            timeout_s = TIMEOUT_S.get(delivery.endpoint.scheme, 15.0)
            got = await self._client.post(
                delivery.url, content=delivery.body, headers=headers, timeout=httpx.Timeout(timeout_s, pool=None)
            )
            entry["status"] = got.status_code
            after = got.headers.get("retry-after", "")
            wait_s = float(after) if after.isascii() and after.isdigit() else 0.0
        except httpx.HTTPError as error:
            entry["error"] = type(error).__name__
        return int(entry.get("status", 0)), wait_s


def chosen(name: str, value: Any, known: Sequence[str]) -> str:
    """Return a value that is one of those there are. Raises ValueError."""
    if value not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
    return str(value)
