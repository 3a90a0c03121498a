"""What every simulator is: a vendor's API with its state, a clock, faults, and a control API beside it.

A simulator is one process and one thread: handlers are coroutines and change its state without locks. It is written for clients that
know nothing of it, so paths, headers and bodies are the vendor's; only what stands under ``/_control`` is ours.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.clock import Clock
from simulators.faults import Faults

Handler = Callable[[Request], Awaitable[Response]]
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Address:
    """Where a simulator answers: base URLs without a trailing slash, and the file with the certificate that signed its own."""

    http: str
    https: str
    ca: str


@dataclass(slots=True)
class Call:
    """One request as the simulator saw it."""

    at: float
    method: str
    path: str
    query: str
    status: int
    took_s: float
    received_bytes: int
    sent_bytes: int


class Simulator:
    """One vendor's API. Subclasses give `name`, `routes` and `credentials`, and what the control API needs to load and look."""

    name: ClassVar[str]
    fault_kinds: ClassVar[dict[str, str]] = {}
    """The vendor's own kinds of fault, with a sentence about each."""

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        if options:
            raise ValueError(f"{self.name} has no option {', '.join(sorted(options))}")
        self.clock = Clock()
        self.faults = Faults(self.fault_kinds, seed)
        self.address = Address("", "", "")  # the server says where it is before the first request
        self.calls: deque[Call] = deque(maxlen=_KEPT)
        self.counts: Counter[str] = Counter()
        """How often what happened: requests by ``METHOD /path/shape status``, and whatever a vendor's code counts."""
        self.at_end: list[Callable[[], Awaitable[None]]] = []
        """What is to be closed when the simulator stops."""
        self._tasks: set[asyncio.Task[None]] = set()

    # What a vendor's simulator says.

    def routes(self) -> Sequence[BaseRoute]:
        """Return the vendor's paths."""
        raise NotImplementedError

    def credentials(self) -> dict[str, Any]:
        """Return what a client signs in with, for the ready line."""
        raise NotImplementedError

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:  # noqa: ARG002
        """Put records there as a user of the system would have, and return their ids. Raises ValueError."""
        raise ValueError(f"{self.name} loads nothing of kind {kind!r}")

    def dump(self, kind: str) -> list[dict[str, Any]]:
        """Return all records of a kind with all their fields, deleted ones included. Raises ValueError."""
        raise ValueError(f"{self.name} has nothing of kind {kind!r}")

    def reset(self) -> None:
        """Forget all records, tokens and deliveries; faults, calls and counts are cleared by the control API."""
        raise NotImplementedError

    def controls(self) -> Sequence[Route]:
        """Return further paths of the control API, without ``/_control`` before them."""
        return ()

    def not_found(self, request: Request) -> Response:
        """Answer a path that the vendor does not have either."""
        return answer({"message": f"no such path: {request.url.path}"}, 404)

    def started(self) -> None:
        """Begin what runs beside the requests (`background`); called once, in the loop."""

    def serve(self, port: int = 0, https_port: int = 0) -> None:
        """Serve until SIGTERM or SIGINT, as `simulators.server.serve` does. Raises OSError if a port is taken."""
        from simulators.server import serve

        serve(self, port, https_port)

    # What subclasses use.

    def background(self, work: Awaitable[None]) -> None:
        """Run something beside the requests until it is done or the simulator stops."""

        async def running() -> None:
            await work

        task = asyncio.ensure_future(running())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{self.name}: background work failed", "exception": error}
            )

    async def stopped(self) -> None:
        """End what runs beside the requests."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for close in self.at_end:
            await close()


def answer(
    data: Any, status: int = 200, headers: dict[str, str] | None = None, *, media: str = "application/json"
) -> Response:
    """Return data as a JSON response."""
    return Response(msgspec.json.encode(data), status, headers, media_type=media)


async def body_of(request: Request) -> Any:
    """Return the request's JSON body, None if it is empty. Raises ValueError (json.JSONDecodeError) if it is no JSON."""
    raw = await request.body()
    return json.loads(raw) if raw.strip() else None


def shown(call: Call) -> dict[str, Any]:
    """Return a call as the control API shows it."""
    return asdict(call)
