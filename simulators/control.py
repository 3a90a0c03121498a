"""The control API of every simulator, under ``/_control``: load and look at data, advance the clock, order faults, see what happened.

    GET    /_control/                     what there is: name, kinds of faults, paths
    POST   /_control/load/{kind}          records as JSON array → {"ids": [...]}
    GET    /_control/records/{kind}       all records, deleted ones included
    POST   /_control/clock                {"advance_s": 3600} → {"now": ...};  GET shows it
    POST   /_control/faults               one fault or an array → what was ordered;  GET lists;  DELETE [?kind=] removes
    GET    /_control/calls?last=100       the latest requests, and counts by method, path and status;  DELETE forgets them
    POST   /_control/reset                everything as at the start

A vendor's simulator adds its own (`Simulator.controls`).
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from simulators.base import Simulator, answer, body_of, shown


class Control:
    """The handlers of one simulator's control API."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def mount(self) -> Mount:
        """Return the routes."""
        own = [
            Route("/", self._index),
            Route("/load/{kind}", self._load, methods=["POST"]),
            Route("/records/{kind}", self._records),
            Route("/clock", self._clock, methods=["GET", "POST"]),
            Route("/faults", self._faults, methods=["GET", "POST", "DELETE"]),
            Route("/calls", self._calls, methods=["GET", "DELETE"]),
            Route("/reset", self._reset, methods=["POST"]),
        ]
        return Mount("/_control", routes=[*own, *self._simulator.controls()])

    async def _index(self, _: Request) -> Response:
        paths = sorted(r.path for r in self._simulator.controls())
        return answer({"name": self._simulator.name, "faults": self._simulator.faults.kinds, "paths": paths})

    async def _load(self, request: Request) -> Response:
        records = await body_of(request)
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            return _wrong("send an array of objects")
        try:
            return answer({"ids": self._simulator.load(request.path_params["kind"], records)})
        except ValueError as error:
            return _wrong(str(error))

    async def _records(self, request: Request) -> Response:
        try:
            return answer(self._simulator.dump(request.path_params["kind"]))
        except ValueError as error:
            return _wrong(str(error))

    async def _clock(self, request: Request) -> Response:
        clock = self._simulator.clock
        if request.method == "POST":
            wish = await body_of(request) or {}
            try:
                clock.advance(float(wish.get("advance_s", 0)))
            except (TypeError, ValueError) as error:
                return _wrong(str(error))
        return answer({"now": clock.now(), "moment": clock.moment().isoformat()})

    async def _faults(self, request: Request) -> Response:
        faults = self._simulator.faults
        if request.method == "DELETE":
            return answer({"removed": faults.clear(request.query_params.get("kind"))})
        if request.method == "GET":
            return answer(faults.shown())
        wish = await body_of(request)
        try:
            ordered = [faults.order(w).shown() for w in (wish if isinstance(wish, list) else [wish])]
        except (TypeError, ValueError, AttributeError) as error:
            return _wrong(str(error))
        return answer(ordered)

    async def _calls(self, request: Request) -> Response:
        simulator = self._simulator
        if request.method == "DELETE":
            simulator.calls.clear()
            simulator.counts.clear()
            return answer({})
        last = int(request.query_params.get("last", "100"))
        calls: list[Any] = [shown(c) for c in list(simulator.calls)[-last:]] if last else []
        return answer({"counts": dict(simulator.counts), "calls": calls})

    async def _reset(self, _: Request) -> Response:
        simulator = self._simulator
        simulator.faults.clear()
        simulator.calls.clear()
        simulator.counts.clear()
        simulator.reset()
        return answer({})


def _wrong(message: str) -> Response:
    return answer({"error": message}, 400)
