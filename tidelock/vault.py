"""Secrets at rest: AES-256-GCM under a key that stands outside the database.

A sealed text is one byte of format, four of the key's id, twelve of nonce, then ciphertext and tag. The label (what it is, and
whose) is authenticated but not stored: what was sealed for one tenant does not open as another's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tidelock.config import Config
from tidelock.errors import Fatal

VARIABLE = "TIDELOCK_KEY"
_FORMAT = 1
_ID_BYTES, _NONCE_BYTES, _KEY_BYTES = 4, 12, 32
_HEAD_BYTES = 1 + _ID_BYTES + _NONCE_BYTES

log = structlog.get_logger()


class Vault:
    """Seal and open. Keys come from ``TIDELOCK_KEY``, else from the file ``key`` in the data folder, made at the first use.

    Several keys (base64 of 32 bytes each, with commas between them) are a rotation: the first one seals, all of them open.
    """

    def __init__(self, config: Config) -> None:
        self._file = config.data / "key"
        self._known: list[tuple[bytes, bytes]] | None = None

    def seal(self, data: bytes, label: str) -> bytes:
        """Encrypt and authenticate. Raises Fatal if there is no usable key."""
        number, key = self._keys()[0]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return bytes([_FORMAT]) + number + nonce + AESGCM(key).encrypt(nonce, data, label.encode())

    def open(self, sealed: bytes, label: str) -> bytes:
        """Decrypt what was sealed under the same label. Raises Fatal if the key is not among ours or the data was changed."""
        number, nonce = sealed[1 : 1 + _ID_BYTES], sealed[1 + _ID_BYTES : _HEAD_BYTES]
        if len(sealed) < _HEAD_BYTES or sealed[0] != _FORMAT:
            raise Fatal(
                f"what is stored for {label} is no sealed secret of this version", hint="store the secret again"
            )
        key = dict(self._keys()).get(number)
        if key is None:
            ours = ", ".join(n.hex() for n, _ in self._keys())
            raise Fatal(
                f"the key is wrong: {label} was sealed with key {number.hex()}, {self._whence()} has {ours}",
                hint=f"put the key with which it was sealed into {VARIABLE} (after the new one, with a comma), on every machine",
            )
        try:
            return AESGCM(key).decrypt(nonce, sealed[_HEAD_BYTES:], label.encode())
        except InvalidTag as error:
            raise Fatal(
                f"what is stored for {label} does not open: it was changed, or is another one's",
                hint="restore it from a backup, or store the secret again",
            ) from error

    def current(self, sealed: bytes) -> bool:
        """Return whether it was sealed with the key that seals now."""
        return sealed[:1] == bytes([_FORMAT]) and sealed[1 : 1 + _ID_BYTES] == self._keys()[0][0]

    def fingerprint(self, data: bytes) -> bytes:
        """Return 16 bytes that tell whether secrets are the same, and nothing else to whoever has no key."""
        return _fingerprint(self._keys()[0][1], data)

    def matches(self, data: bytes, fingerprint: bytes | None) -> bool:
        """Return whether a fingerprint, made with any of the keys, is that of these secrets."""
        return fingerprint is not None and any(
            hmac.compare_digest(_fingerprint(key, data), fingerprint) for _, key in self._keys()
        )

    def _whence(self) -> str:
        return VARIABLE if os.environ.get(VARIABLE) else str(self._file)

    def _keys(self) -> list[tuple[bytes, bytes]]:
        """Return (id, key) pairs, the sealing one first."""
        if self._known is None:
            text = os.environ.get(VARIABLE) or _read(self._file)
            keys = [_decode(part, self._whence()) for part in text.split(",") if part.strip()]
            if not keys:
                raise Fatal(f"there is no key in {self._whence()}", hint=_HOW)
            self._known = [(hashlib.sha256(b"id\0" + k).digest()[:_ID_BYTES], k) for k in keys]
        return self._known


_HOW = "a key is 32 random bytes in base64, for example from `openssl rand -base64 32`"


def _fingerprint(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, b"fingerprint\0" + data, hashlib.sha256).digest()[:16]


def _decode(text: str, whence: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise Fatal(f"{whence} holds something that is no key", hint=_HOW)
    return key


def _read(file: Path) -> str:
    """Return the content of the key file, making it if it is not there; of several that make it at once, one wins."""
    try:
        if not file.exists():
            _make(file)
        if file.stat().st_mode & 0o077:
            log.warning(
                "others can read the key of this installation", action="key_exposed", file=str(file), next="chmod 600"
            )
        return file.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise Fatal(
            f"the key of this installation cannot be read or made at {file}: {error.strerror}",
            hint=f"mend the file's rights, or give the key in {VARIABLE}",
        ) from error


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(partial)
    finally:
        partial.unlink()
