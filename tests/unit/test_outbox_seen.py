"""The memory of what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.seen import Seen
from tidelock.errors import Retry

A, B = b"a" * 16, b"b" * 16


def test_digests_survive_a_restart(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    seen.put([(b"1", A), (b"2", B)])
    seen.set_ready()
    seen.close()
    again = Seen(tmp_path / "s")
    assert again.ready
    assert [v and v[:16] for v in again.values([b"1", b"2", b"3"])] == [A, B, None]
    assert len(again) == 2
    again.close()


def test_a_sweep_finds_what_was_not_met(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    seen.put([(str(n).encode(), A) for n in range(2000)])
    seen.begin_sweep()
    for n, value in enumerate(seen.values([str(n).encode() for n in range(2000)])):
        assert value is not None
        if n % 7:
            assert not seen.mark(value)
    seen.put([(b"new", B)])
    gone = set(seen.unmarked())
    assert gone == {str(n).encode() for n in range(0, 2000, 7)}
    seen.forget(gone)
    assert len(seen) == 2001 - len(gone)
    seen.close()


def test_a_key_met_twice_is_noticed(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    seen.put([(b"1", A)])
    seen.begin_sweep()
    value = seen.values([b"1"])[0]
    assert value is not None
    assert [seen.mark(value), seen.mark(value)] == [False, True]
    seen.close()


def test_a_store_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "s")
    seen.put([(b"1", A)])
    with pytest.raises(Retry, match="in use"):
        Seen(tmp_path / "s")
    assert seen.values([b"1"])[0] is not None
    seen.close()
