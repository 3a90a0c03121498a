"""What `status` says of one flow: never ok while something is known to stand in its way."""

from __future__ import annotations

import pytest

from tests.model.scene import configure
from tests.model.systems import System
from tidelock.status import _flow
from tidelock.topics import Topics

CONFIG = configure([System("alpha"), System("beta")])
FULL = "no room left: make some"


@pytest.mark.parametrize(
    ("lag", "letters", "silent", "down", "state"),
    [
        (0, 0, set(), {}, "ok"),
        (7, 0, set(), {}, "ok"),
        (7, 0, set(), {"beta": FULL}, "waits"),
        (7, 2, set(), {"beta": FULL}, "waits"),
        (0, 2, set(), {"beta": FULL}, "degraded"),
        (0, 0, set(), {"beta": FULL}, "ok"),  # nothing is to be written there, so nothing waits
        (7, 0, set(), {"alpha": FULL}, "ok"),
        (7, 0, {"sink.beta"}, {"beta": FULL}, "no signal"),
        (10_001, 0, set(), {}, "late"),
    ],
)
def test_the_state_of_a_flow(lag: int, letters: int, silent: set[str], down: dict[str, str], state: str) -> None:
    topic = Topics(CONFIG.prefix).sync("beta", "contact")
    flow = _flow(CONFIG, "beta", "contact", {}, None, {topic: lag}, {("beta", "contact"): letters}, silent, [], down)
    assert flow.state == state
    assert (flow.next == "") == (state == "ok")
    if state == "waits":
        assert flow.next == FULL
