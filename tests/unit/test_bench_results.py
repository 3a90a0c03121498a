"""The benchmark's arithmetic: medians, ratios of the same round, spans that never meet, a lock file that pins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import lock, results
from bench.contestant import Scene
from bench.rounds import Phase, Turn
from bench.tidelock_run import configuration
from bench.work import Span
from tidelock.config import Config
from tidelock.embedded import Endpoints, Stack
from tidelock.errors import Fatal
from tidelock.workers import roles


def turn(name: str, number: int, seconds: float, cpu_us: float) -> Turn:
    phases = {kind: Phase(1000, seconds, {"own": cpu_us, "kafka": 1.0}) for kind in ("inserts", "updates")}
    latency = {"300": {"p50": seconds, "p95": seconds, "p99": seconds}}
    return Turn(name, number, 1.0, phases=phases, latency_ms=latency, rate_reached={"300": 299.0})


def test_ratios_compare_turns_of_the_same_round() -> None:
    turns = [
        turn("debezium", 1, 4.0, 200.0),
        turn("tidelock", 1, 2.0, 100.0),
        turn("debezium", 2, 1.0, 100.0),
        turn("tidelock", 2, 1.0, 100.0),
        turn("debezium", 3, 3.0, 100.0),
        turn("tidelock", 3, 1.0, 25.0),
    ]
    found = results.ratios(turns)
    assert found["throughput"] == {"median": 2.0, "rounds": [2.0, 1.0, 3.0]}
    assert found["cpu_per_event"] == {"median": 0.5, "rounds": [0.5, 1.0, 0.25]}
    assert found["latency_p50_300"]["rounds"] == [0.5, 1.0, 0.333]


def test_a_round_without_the_peer_gives_no_ratio() -> None:
    assert results.ratios([turn("tidelock", 1, 1.0, 10.0), turn("debezium", 2, 1.0, 10.0)]) == {}


def test_document_has_medians_and_spread(tmp_path: Path) -> None:
    turns = [turn("debezium", number, seconds, 50.0) for number, seconds in enumerate((1.0, 2.0, 4.0), 1)]
    body = results.document(turns, {"cores": 2}, {"recovery_s": 1.5})
    assert body["debezium"]["events_per_s"] == {"inserts": 500, "updates": 500}
    assert body["debezium"]["spread"]["events_per_s.inserts"] == [250.0, 1000.0]
    assert body["debezium"]["latency_ms"]["300"]["p99"] == 2.0
    assert body["recovery_s"] == 1.5
    results.write(body, tmp_path / "results" / "latest.json")
    assert json.loads((tmp_path / "results" / "latest.json").read_text()) == body


def test_configuration_is_valid_and_has_one_worker_per_role(tmp_path: Path) -> None:
    place = Scene(
        Stack(tmp_path / "stack"), Endpoints("k:1", "http://r", "postgresql://p"), "s", "t", tmp_path, "b", print
    )
    one = Config.model_validate(configuration(place, tmp_path))
    assert roles(one) == ["identify", "route", "merge", "clock", "capture.source", "sink.target"]
    both = Config.model_validate(configuration(place, tmp_path, two_way=True))
    assert {"capture.source", "capture.target", "sink.source", "sink.target"} <= set(roles(both))


def test_a_span_counts_both_ends() -> None:
    assert Span(1, 500, "x").rows == 500


def test_the_peer_is_pinned_completely() -> None:
    peer = lock.read()
    names = {artifact.artifact for artifact in peer.files}
    assert {"connect-runtime", "debezium-connector-postgres", "debezium-connector-jdbc"} <= names
    # a second copy beside the converter would be another class of the same name
    assert not {"kafka-clients", "connect-api"} & {artifact.artifact for artifact in peer.converter}


def test_a_lock_file_without_sums_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "peer.lock.json"
    data = json.loads(lock.LOCK_FILE.read_text(encoding="utf-8"))
    data["plugins"][0]["sha256"] = ""
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(Fatal, match="does not pin"):
        lock.read(path)
