"""The local store and the overlay of a batch, and what a killed process leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.store import MB, Mark, Overlay, Store
from tests.patience import DEADLINE_S
from tidelock.errors import Fatal

A, B = ("journal.contact", 0), ("journal.contact", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return one store for all examples of a property: opening one takes longer than an example."""
    opened = Store(tmp_path_factory.mktemp("shared"))
    yield opened
    opened.close()


def test_scopes_are_apart_and_keys_come_in_order(store: Store) -> None:
    store.write({A: {b"b": b"2", b"a": b"1", b"c": b"3"}, B: {b"a": b"other"}}, {})
    assert list(store.scan(A)) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert store.get_many(B, [b"a", b"b"]) == [b"other", None]


def test_a_wipe_forgets_one_scope_and_its_mark(store: Store) -> None:
    store.write({A: {b"a": b"1"}, B: {b"a": b"2"}}, {A: Mark(5), B: Mark(7, 9, 11.0, "id")})
    store.wipe(A)
    assert (list(store.scan(A)), store.mark(A)) == ([], None)
    assert (list(store.scan(B)), store.mark(B)) == ([(b"a", b"2")], Mark(7, 9, 11.0, "id"))


def test_a_touch_makes_a_mark_young_and_keeps_its_offsets(store: Store) -> None:
    store.write({}, {A: Mark(5, 6, 1.0, "id")})
    store.touch([A, B])
    mark = store.mark(A)
    assert mark is not None
    assert (mark.changelog, mark.input, mark.topic_id) == (5, 6, "id")
    assert mark.at > 1.0
    assert store.mark(B) is None


def test_it_is_there_after_closing(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.write({A: {b"a": b"1"}}, {A: Mark(3)})
    first.close()
    second = Store(tmp_path)
    assert (second.get(A, b"a"), second.mark(A)) == (b"1", Mark(3))
    second.close()


def test_a_damaged_store_is_begun_anew(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.write({A: {b"a": b"1"}}, {A: Mark(3)})
    first.close()
    for manifest in first.folder.glob("MANIFEST-*"):
        manifest.write_bytes(b"not a manifest")
    second = Store(tmp_path)
    assert (second.get(A, b"a"), second.mark(A)) == (None, None)
    second.close()


def test_a_second_owner_of_the_folder_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="in use by another process"):
        Store(tmp_path)


WRITER = """
import sys
from pathlib import Path
from processors.store import Mark, Store
store = Store(Path(sys.argv[1]), buffer_bytes=int(sys.argv[2]))
n = 0
while True:
    n += 1
    value = b"%d " % n + b"x" * 200
    store.write({("t", p): {b"key%d" % k: value for k in range(50)} for p in (0, 1)}, {("t", p): Mark(n) for p in (0, 1)})
    if n % 100 == 0:
        print(n, flush=True)
"""


@pytest.mark.parametrize("batches", [300, 2000])
def test_a_killed_process_leaves_whole_batches_with_the_mark_that_belongs_to_them(tmp_path: Path, batches: int) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(3 * MB)], stdout=subprocess.PIPE, text=True, env=env
    )
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if int(line) >= batches:
                child.send_signal(signal.SIGKILL)
                break
    assert child.wait(DEADLINE_S) == -signal.SIGKILL
    store = Store(tmp_path)
    marks = {store.mark(("t", p)) for p in (0, 1)}
    assert len(marks) == 1  # both scopes were in one batch
    mark = marks.pop()
    assert mark is not None, "no memtable was flushed: the test says nothing"
    assert mark.changelog >= 100
    for p in (0, 1):
        values = {value.split()[0] for _, value in store.scan(("t", p))}
        assert values == {b"%d" % mark.changelog}
    store.close()


KEYS = st.sampled_from([b"", b"a", b"ab", b"abc", b"b", b"ba", b"c"])
VALUES = st.none() | st.binary(max_size=2)


@given(st.dictionaries(KEYS, st.binary(max_size=2)), st.lists(st.tuples(KEYS, VALUES, st.booleans())), KEYS)
def test_an_overlay_is_the_store_with_the_changes_of_the_batch(
    shared: Store,
    stored: dict[bytes, bytes],
    puts: list[tuple[bytes, bytes | None, bool]],
    prefix: bytes,
) -> None:
    store = shared
    store.wipe(A)
    store.write({A: dict(stored)}, {})
    overlay, model = Overlay(store), dict(stored)
    for key, value, load in puts:
        if load:
            overlay.load(*A, [key, b"a"])
        overlay.put(*A, key, value)
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
        assert overlay.get(*A, key) == value
    wanted = sorted((k, v) for k, v in model.items() if k.startswith(prefix))
    assert list(overlay.scan(*A, prefix)) == wanted
    assert overlay.get(*A, prefix) == model.get(prefix)
    assert dict(store.scan(A)) == stored
    store.write(overlay.changes, {})
    assert dict(store.scan(A)) == model


def test_undo_takes_back_what_came_after_the_savepoint(store: Store) -> None:
    store.write({A: {b"a": b"stored", b"b": b"stored"}}, {})
    overlay = Overlay(store)
    overlay.put(*A, b"a", b"1")
    overlay.savepoint()
    overlay.put(*A, b"a", b"2")
    overlay.put(*A, b"a", None)
    overlay.put(*A, b"b", b"2")
    overlay.put(*B, b"a", b"2")
    overlay.undo()
    assert overlay.changes == {A: {b"a": b"1"}, B: {}}
    assert [overlay.get(*A, b"a"), overlay.get(*A, b"b"), overlay.get(*B, b"a")] == [b"1", b"stored", None]
