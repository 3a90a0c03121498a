"""What every simulator does: serves on http and https, obeys faults and clock, and tells what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulators.base import Simulator, answer, body_of
from simulators.delivery import FAULTS, Deliveries, Delivery
from simulators.server import Running
from tests.patience import until


class Parrot(Simulator):
    """A system that remembers words and sends what it hears to whoever asked for it."""

    name = "parrot"
    fault_kinds: ClassVar[dict[str, str]] = {"mumble": "says something else", **FAULTS}

    def __init__(self, *, seed: int = 0, **options: str) -> None:
        super().__init__(seed=seed, **options)
        self.words: list[str] = []
        self.hooks: Deliveries | None = None

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/words", self._words, methods=["GET", "POST"]), Route("/words/{id}", self._word)]

    def credentials(self) -> dict[str, Any]:
        return {"key": "k"}

    def load(self, kind: str, records: list[dict[str, Any]]) -> list[str]:
        if kind != "words":
            raise ValueError(f"a parrot knows words, not {kind}")
        self.words += [str(r["word"]) for r in records]
        return [str(r["word"]) for r in records]

    def dump(self, kind: str) -> list[dict[str, Any]]:
        return [{"word": w} for w in self.words]

    def reset(self) -> None:
        self.words.clear()

    def started(self) -> None:
        self.hooks = Deliveries(self, (5.0, 3600.0), 2.0)

    async def _words(self, request: Request) -> Response:
        if request.method == "POST":
            said = await body_of(request)
            self.words.append("squawk" if self.faults.take("mumble") else said["word"])
            if "tell" in said and self.hooks is not None:
                self.hooks.send(Delivery(said["tell"], self.words[-1].encode(), lambda n: {"x-attempt": str(n)}))
        return answer(self.words)

    async def _word(self, request: Request) -> Response:
        return answer(request.path_params["id"])


@pytest.fixture
def parrot() -> Iterator[Running]:
    with Running(Parrot()) as running:
        yield running


@pytest.fixture
def control(parrot: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{parrot.http}/_control") as client:
        yield client


def test_it_answers_on_http_and_on_https_with_a_certificate_that_its_own_authority_signed(parrot: Running) -> None:
    assert httpx.get(f"{parrot.http}/words").json() == []
    import ssl

    trusting = ssl.create_default_context(cafile=parrot.ca)
    assert httpx.get(f"{parrot.https}/words", verify=trusting).json() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{parrot.https}/words")


def test_the_ready_line_says_where_it_is_and_how_to_sign_in(parrot: Running) -> None:
    assert set(parrot.ready) == {"name", "http", "https", "ca", "control", "credentials"}
    assert parrot.ready["name"] == "parrot"
    assert parrot.ready["credentials"] == {"key": "k"}


def test_records_are_loaded_shown_and_forgotten(control: httpx.Client) -> None:
    assert control.post("/load/words", json=[{"word": "hello"}]).json() == {"ids": ["hello"]}
    assert control.get("/records/words").json() == [{"word": "hello"}]
    assert control.post("/load/nuts", json=[{}]).status_code == 400
    control.post("/reset")
    assert control.get("/records/words").json() == []


def test_a_status_fault_answers_instead_as_often_as_ordered(parrot: Running, control: httpx.Client) -> None:
    control.post(
        "/faults", json={"kind": "status", "status": 503, "times": 2, "method": "POST", "headers": {"retry-after": "7"}}
    )
    got = [httpx.post(f"{parrot.http}/words", json={"word": "a"}) for _ in range(3)]
    assert [g.status_code for g in got] == [503, 503, 200]
    assert got[0].headers["retry-after"] == "7"
    assert httpx.get(f"{parrot.http}/words").json() == ["a"]


def test_a_lost_answer_comes_after_everything_was_done_and_a_refused_one_before(
    parrot: Running, control: httpx.Client
) -> None:
    control.post("/faults", json=[{"kind": "lost", "method": "POST"}, {"kind": "refused", "method": "PUT"}])
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{parrot.http}/words", json={"word": "done"})
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.put(f"{parrot.http}/words")
    assert httpx.get(f"{parrot.http}/words").json() == ["done"]


def test_a_slow_answer_takes_as_long_as_ordered(parrot: Running, control: httpx.Client) -> None:
    control.post("/faults", json={"kind": "slow", "delay_s": 30})
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{parrot.http}/words", timeout=0.2)


def test_faults_pick_by_path_can_skip_and_can_be_removed(parrot: Running, control: httpx.Client) -> None:
    control.post("/faults", json={"kind": "status", "status": 500, "times": None, "path": "/words/b", "skip": 1})
    codes = [httpx.get(f"{parrot.http}/words/{w}").status_code for w in ("a", "b", "b", "b")]
    assert codes == [200, 200, 500, 500]
    assert control.delete("/faults", params={"kind": "status"}).json() == {"removed": 1}
    assert httpx.get(f"{parrot.http}/words/b").status_code == 200


def test_a_fault_that_does_not_exist_is_refused_with_the_ones_that_do(control: httpx.Client) -> None:
    got = control.post("/faults", json={"kind": "gremlin"})
    assert got.status_code == 400
    assert "mumble" in got.json()["error"]


def test_calls_are_logged_and_counted_by_the_shape_of_their_path(parrot: Running, control: httpx.Client) -> None:
    httpx.get(f"{parrot.http}/words/003AAAA00000001AAA")
    httpx.get(f"{parrot.http}/words/003AAAA00000002AAA")
    seen = control.get("/calls").json()
    assert seen["counts"] == {"GET /words/* 200": 2}
    assert [c["path"] for c in seen["calls"]] == ["/words/003AAAA00000001AAA", "/words/003AAAA00000002AAA"]
    assert seen["calls"][0]["sent_bytes"] == len('"003AAAA00000001AAA"')


def test_deliveries_are_tried_again_when_the_clock_says_so(parrot: Running, control: httpx.Client) -> None:
    with Running(Parrot()) as other, httpx.Client(base_url=f"{other.http}/_control") as there:
        there.post("/faults", json={"kind": "status", "status": 500, "times": 2})
        httpx.post(f"{parrot.http}/words", json={"word": "hear", "tell": f"{other.http}/words"})
        simulator = parrot.simulator
        assert isinstance(simulator, Parrot)
        assert simulator.hooks is not None
        hooks = simulator.hooks
        until(lambda: hooks.made and len(hooks.made[0].attempts) == 1)
        control.post("/clock", json={"advance_s": 6})
        until(lambda: len(hooks.made[0].attempts) == 2)
        assert hooks.made[0].state == "waiting"
        control.post("/clock", json={"advance_s": 3601})
        until(lambda: len(hooks.made[0].attempts) == 3)
        assert [a["status"] for a in hooks.made[0].attempts][:2] == [500, 500]


@pytest.mark.parametrize(("kind", "attempts"), [("webhook_lost", 0), ("webhook_twice", 2)])
def test_deliveries_are_lost_or_made_twice_when_a_fault_says_so(
    parrot: Running, control: httpx.Client, kind: str, attempts: int
) -> None:
    control.post("/faults", json={"kind": kind})
    httpx.post(f"{parrot.http}/words", json={"word": "hear", "tell": f"{parrot.http}/words/heard"})
    simulator = parrot.simulator
    assert isinstance(simulator, Parrot)
    assert simulator.hooks is not None
    hooks = simulator.hooks
    until(lambda: len(hooks.made[0].attempts) == attempts)
    assert (hooks.made[0].state == "lost") is (attempts == 0)
