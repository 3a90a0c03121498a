"""Processes, ports and the state file of the embedded stack, with `sleep` in place of a server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import DEADLINE_S
from tidelock.embedded.ports import accepts, free_port, is_free
from tidelock.embedded.process import Handle, find, spawn, tail, wait_until
from tidelock.embedded.service import Command, Record, Service
from tidelock.embedded.state import read_state, write_state
from tidelock.errors import Fatal


class Sleeper(Service):
    """A server that is up when `ready` exists; `script` is what it runs."""

    name = "sleeper"
    title = "the sleeper"
    port_names = ("main",)
    executable = "sh"
    script = "echo began; sleep 600"
    start_timeout_s = 5.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.record.ports['main']}"

    @property
    def marker(self) -> str:
        return f"marker={self.folder}"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> Command:
        return Command(["/bin/sh", "-c", self.script, self.marker], {"PATH": os.environ["PATH"]}, self.folder)

    def healthy(self) -> bool:
        return "began" in tail(self.log)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    service = Sleeper(tmp_path)
    yield service
    service.stop()


def test_a_service_starts_keeps_its_port_and_stops(sleeper: Sleeper) -> None:
    sleeper.start()
    pid, ports = sleeper.pid, dict(sleeper.record.ports)
    assert pid is not None
    assert os.getsid(pid) == pid  # a Ctrl-C in our terminal is not for it
    sleeper.start()
    assert sleeper.pid == pid
    sleeper.kill()
    assert not sleeper.running
    sleeper.start()
    assert sleeper.pid not in (None, pid)
    assert sleeper.record.ports == ports
    assert sleeper.status().state == "up"
    sleeper.stop()
    assert sleeper.status().state == "down"


def test_a_service_whose_handle_was_not_recorded_is_found_again(sleeper: Sleeper, tmp_path: Path) -> None:
    sleeper.start()
    other = Sleeper(tmp_path)
    other.record.ports = dict(sleeper.record.ports)
    assert other.adopt()
    assert other.pid == sleeper.pid


def test_a_service_whose_ports_are_forgotten_is_ended(sleeper: Sleeper, tmp_path: Path) -> None:
    sleeper.start()
    other = Sleeper(tmp_path)
    assert not other.adopt()
    assert not sleeper.running


def test_a_service_that_ends_while_starting_shows_the_end_of_its_log(sleeper: Sleeper) -> None:
    sleeper.script = "echo 'write failed: No space left on device' >&2; exit 3"
    with pytest.raises(Fatal, match="ended while starting") as caught:
        sleeper.start()
    assert "No space left on device" in caught.value.message
    assert str(sleeper.log) in caught.value.message
    assert "disk is full" in (caught.value.hint or "")


def test_a_service_that_never_answers_is_told(sleeper: Sleeper) -> None:
    sleeper.script = "sleep 600"
    sleeper.start_timeout_s = 0.2  # type: ignore[misc]
    with pytest.raises(Fatal, match="did not answer within"):
        sleeper.start()


def test_a_taken_port_is_told_for_one_service_and_changed_for_a_stack(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidelock.embedded.service.wait_until", lambda condition, _: condition())
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        sleeper.record.ports = {"main": port}
        with pytest.raises(Fatal, match=f"port {port} on 127.0.0.1 is taken"):
            sleeper.start()
        [told] = sleeper.choose_ports(set())
        assert f"port {port} is taken" in told
        assert sleeper.record.ports["main"] != port


def test_a_recycled_pid_is_not_ours() -> None:
    mine = Handle(os.getpid(), 1.0)
    assert not mine.alive()
    mine.signal(signal.SIGKILL)  # would end this test run


def test_a_bound_process_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from tidelock.embedded.process import spawn\n"
        "here = Path(sys.argv[1])\n"
        "spawn(['/bin/sleep', '600.' + str(os.getpid())], log=here / 'log', cwd=here, env={}, bound_signal=signal.SIGTERM)\n"
        "print('started', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        argument = f"600.{starter.pid}"
        assert wait_until(lambda: find("sleep", argument) is not None, DEADLINE_S)
        starter.kill()
        starter.wait()
    assert wait_until(lambda: find("sleep", argument) is None, DEADLINE_S)


def test_a_program_that_cannot_be_run_says_so_in_the_log(tmp_path: Path) -> None:
    handle = spawn(["/nowhere/server"], log=tmp_path / "log", cwd=tmp_path, env={})
    assert handle.wait(DEADLINE_S)
    assert "cannot run /nowhere/server" in tail(tmp_path / "log")


def test_the_end_of_a_log_leaves_out_what_helps_nobody(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n\nCaused by: trouble\n" + "\tat some.Class\n" * 50, encoding="utf-8")
    assert tail(log, 2, leave_out="\tat ") == "    one\n    Caused by: trouble"
    assert tail(tmp_path / "none") == ""


def test_free_ports_are_free_and_below_the_kernels_own_range() -> None:
    port = free_port(set())
    assert is_free(port)
    assert not accepts(port)
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    assert port < lowest or lowest <= 16_000
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert accepts(port)


def test_the_state_survives_the_round_trip(tmp_path: Path) -> None:
    records = {"kafka": Record(Handle(12, 3.5), {"broker": 9092}), "postgres": Record(None, {})}
    write_state(tmp_path, records)
    assert read_state(tmp_path) == records
    assert read_state(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"services": {"kafka": {}}}', '{"services": {"kafka": {"pid": 1, "created": 1, "ports": 2}}}']
)
def test_a_damaged_state_file_is_told_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text, encoding="utf-8")
    with pytest.raises(Fatal, match="cannot be understood") as caught:
        read_state(tmp_path)
    assert "Delete it" in (caught.value.hint or "")
