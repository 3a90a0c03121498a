"""Downloads against a small HTTP server on this machine, and the lock file they rest on."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tidelock.embedded import download
from tidelock.embedded.artifacts import (
    Artifact,
    kafka_jars,
    read_lock,
    registry_archive,
    write_lock,
)
from tidelock.embedded.ports import free_port
from tidelock.errors import Fatal

BODY = bytes(range(256)) * 4096


def artifact(name: str = "app", body: bytes = BODY) -> Artifact:
    return Artifact("g", name, "1", "", "jar", hashlib.sha256(body).hexdigest(), len(body))


class Server(ThreadingHTTPServer):
    """Serves `files`; notes what was asked; misbehaves as told by `faults`, one per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.faults: list[str] = []
        self.ranges = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        body = self.server.files.get(self.path.lstrip("/"))
        if fault.isdigit() or body is None:
            self.send_response(int(fault or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        self.wfile.write(rest[: len(rest) // 2] if fault == "cut" else rest)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("TIDELOCK_MAVEN_URL", f"http://127.0.0.1:{running.server_port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(download, "ATTEMPTS", 3)
        yield running
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_once_and_then_found_in_the_cache(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY
    lines: list[str] = []
    [first] = download.fetch([wanted], cache=tmp_path, say=lines.append)
    [second] = download.fetch([wanted], cache=tmp_path, say=lines.append)
    assert first == second
    assert first.read_bytes() == BODY
    assert len(server.asked) == 1
    assert lines == ["downloaded app-1.jar (1.0 MB)"]


def test_a_transfer_that_breaks_off_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY
    server.faults = ["cut"]
    [path] = download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert path.read_bytes() == BODY
    assert server.asked[1][1] == f"bytes={len(BODY) // 2}-"


def test_a_part_of_an_earlier_run_is_resumed(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY
    part = tmp_path / "maven" / f"{wanted.path}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:1000])
    [path] = download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert path.read_bytes() == BODY
    assert [asked[1] for asked in server.asked] == ["bytes=1000-"]
    assert not part.exists()


def test_a_server_that_cannot_resume_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY
    server.faults = ["cut"]
    server.ranges = False
    [path] = download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert path.read_bytes() == BODY


def test_a_part_of_another_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY
    part = tmp_path / "maven" / f"{wanted.path}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"other")
    [path] = download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert path.read_bytes() == BODY


def test_a_file_that_was_not_pinned_never_stands_in_the_cache(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY[:-1] + b"!"
    with pytest.raises(Fatal, match="is not the file that was pinned"):
        download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_trouble_that_passes_is_waited_for(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.files[wanted.path] = BODY
    server.faults = ["503", "429"]
    [path] = download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert path.read_bytes() == BODY


def test_trouble_that_stays_is_told_with_the_url(server: Server, tmp_path: Path) -> None:
    wanted = artifact()
    server.faults = ["503"] * 3
    with pytest.raises(Fatal, match=r"app-1\.jar from http://127.*: the server answered 503") as caught:
        download.fetch([wanted], cache=tmp_path, say=lambda _: None)
    assert "TIDELOCK_MAVEN_URL" in (caught.value.hint or "")


def test_a_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="answered 404"):
        download.fetch([artifact()], cache=tmp_path, say=lambda _: None)
    assert len(server.asked) == 1


def test_no_network_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TIDELOCK_MAVEN_URL", f"http://127.0.0.1:{free_port(set())}")
    with pytest.raises(Fatal, match=r"cannot download app-1\.jar from http://127") as caught:
        download.fetch([artifact()], cache=tmp_path, say=lambda _: None)
    assert "Check the network" in (caught.value.hint or "")


def test_two_that_fetch_at_once_download_once(server: Server, tmp_path: Path) -> None:
    wanted = [artifact("a"), artifact("b")]
    server.files = {each.path: BODY for each in wanted}
    threads = [
        threading.Thread(target=download.fetch, args=(wanted,), kwargs={"cache": tmp_path, "say": lambda _: None})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path for path, _ in server.asked) == sorted("/" + each.path for each in wanted)


def test_an_archive_is_unpacked_once_and_only_whole(tmp_path: Path) -> None:
    (tmp_path / "inside.txt").write_text("hello", encoding="utf-8")
    archive = tmp_path / "app.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "inside.txt", "app/inside.txt")
    target = download.unpack(archive, tmp_path / "home")
    assert (target / "app" / "inside.txt").read_text(encoding="utf-8") == "hello"
    archive.write_bytes(b"damaged")
    assert download.unpack(archive, target) == target
    with pytest.raises(Fatal, match="cannot unpack"):
        download.unpack(archive, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [("/own", "/shared", "/own"), (None, "/shared", "/shared/tidelock"), (None, None, "/home/x/.cache/tidelock")],
)
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, own: str | None, shared: str | None, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    for name, value in (("TIDELOCK_CACHE", own), ("XDG_CACHE_HOME", shared)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert download.cache_folder() == Path(expected)


def test_the_lock_file_of_this_project_pins_a_broker_and_a_registry() -> None:
    pinned = read_lock()
    names = {each.artifact for each in kafka_jars(pinned)}
    assert {"kafka_2.13", "kafka-clients", "slf4j-simple", "scala-library"} <= names
    assert registry_archive(pinned).file_name.endswith("-all.tar.gz")
    assert len({(each.group, each.artifact) for each in pinned}) == len(pinned)


def test_a_lock_file_survives_the_round_trip(tmp_path: Path) -> None:
    wanted = [artifact("b"), artifact("a")]
    write_lock(wanted, tmp_path / "lock.json")
    assert read_lock(tmp_path / "lock.json") == sorted(wanted)


@pytest.mark.parametrize("text", ["", "{}x", '[{"group": "g"}]', '[{"unknown": 1}]'])
def test_a_damaged_lock_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text, encoding="utf-8")
    with pytest.raises(Fatal, match=r"lock\.json is not a lock file"):
        read_lock(tmp_path / "lock.json")


def test_an_entry_without_a_sum_is_no_pin(tmp_path: Path) -> None:
    entry = {"group": "g", "artifact": "a", "version": "1", "sha256": "", "size_bytes": 3}
    (tmp_path / "lock.json").write_text(json.dumps([entry]), encoding="utf-8")
    with pytest.raises(Fatal, match=r"does not pin a-1\.jar"):
        read_lock(tmp_path / "lock.json")
