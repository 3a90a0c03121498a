"""Secrets at rest: keys from the environment or a file, rotation, and what is said when the key is wrong."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.access import make_config
from tidelock.errors import Fatal
from tidelock.vault import VARIABLE, Vault

ONE, TWO = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def vault(folder: Path) -> Vault:
    return Vault(make_config(folder))


def test_what_is_sealed_opens_under_its_label_only(tmp_path: Path) -> None:
    box = vault(tmp_path)
    sealed = box.seal(b"pr1vate", "a")
    assert box.open(sealed, "a") == b"pr1vate"
    assert b"pr1vate" not in sealed
    assert box.seal(b"pr1vate", "a") != sealed, "a nonce is used once"
    with pytest.raises(Fatal, match="b does not open"):
        box.open(sealed, "b")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    box = vault(tmp_path)
    sealed = bytearray(box.seal(b"x" * 20, "a"))
    for i in range(5, len(sealed)):
        changed = bytes(sealed[:i]) + bytes([sealed[i] ^ 1]) + bytes(sealed[i + 1 :])
        with pytest.raises(Fatal, match="does not open"):
            box.open(changed, "a")


@pytest.mark.parametrize("other", [b"", b"\x01", b"\x02" + bytes(60), b"plain text, never sealed by anybody"])
def test_what_is_no_sealed_secret_is_said_to_be_none(tmp_path: Path, other: bytes) -> None:
    with pytest.raises(Fatal, match="no sealed secret"):
        vault(tmp_path).open(other, "a")


def test_the_key_file_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    boxes = [vault(folder) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda box: box.seal(b"x", "a"), boxes))
    assert {vault(folder).open(s, "a") for s in sealed} == {b"x"}
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in folder.iterdir()] == ["key"]


def test_a_key_file_that_others_can_read_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vault(tmp_path).seal(b"x", "a")
    (tmp_path / "key").chmod(0o644)
    vault(tmp_path).seal(b"x", "a")
    told = "".join(capfd.readouterr())
    assert "key_exposed" in told
    assert (tmp_path / "key").read_text().strip() not in told


def test_a_wrong_key_is_fatal_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = vault(tmp_path).seal(b"x", "the token of shop/north")
    monkeypatch.setenv(VARIABLE, ONE)
    with pytest.raises(
        Fatal, match=r"the key is wrong: the token of shop/north was sealed(.|\n)*TIDELOCK_KEY"
    ) as found:
        vault(tmp_path).open(sealed, "the token of shop/north")
    assert ONE not in str(found.value)


def test_rotation_the_first_key_seals_and_all_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ONE)
    old = vault(tmp_path)
    sealed, print_ = old.seal(b"x", "a"), old.fingerprint(b"x")
    monkeypatch.setenv(VARIABLE, f"{TWO}, {ONE}")
    both = vault(tmp_path)
    assert both.open(sealed, "a") == b"x"
    assert not both.current(sealed)
    assert both.matches(b"x", print_)
    assert not both.matches(b"y", print_)
    again = both.seal(b"x", "a")
    assert both.current(again)
    monkeypatch.setenv(VARIABLE, TWO)
    assert vault(tmp_path).open(again, "a") == b"x"
    with pytest.raises(Fatal, match="the key is wrong"):
        vault(tmp_path).open(sealed, "a")
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"x" * 31).decode(), "ä" * 44, ","])
def test_what_is_no_key_is_refused_without_being_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(Fatal, match="openssl rand -base64 32") as found:
        vault(tmp_path).seal(b"x", "a")
    assert len(text) < 2 or text not in str(found.value)
