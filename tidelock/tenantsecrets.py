"""Credentials and tokens of tenants as the central database has them: sealed, and told apart by fingerprints."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tidelock.central import Connection
from tidelock.vault import Vault

_INSTALLATION = "what this installation keeps secret"


class TenantSecrets:
    """Seal and open what belongs to a tenant; every label names it, so nothing opens as another one's."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def seal(self, system: str, name: str, credentials: Mapping[str, str]) -> bytes | None:
        """Seal credentials; None if there are none."""
        return self._vault.seal(_dumped(credentials), _credentials(system, name)) if credentials else None

    def open(self, system: str, name: str, sealed: bytes | None) -> dict[str, str]:
        """Return sealed credentials. Raises Fatal if the key is another one."""
        return json.loads(self._vault.open(sealed, _credentials(system, name))) if sealed else {}

    def seal_token(self, system: str, name: str, content: bytes) -> bytes:
        """Seal a token."""
        return self._vault.seal(content, _token(system, name))

    def open_token(self, system: str, name: str, sealed: bytes) -> bytes:
        """Return a sealed token. Raises Fatal if the key is another one."""
        return self._vault.open(sealed, _token(system, name))

    def fingerprint(self, credentials: Mapping[str, str]) -> bytes:
        """Return what tells these credentials from others, and nothing of them."""
        return self._vault.fingerprint(_dumped(credentials))

    def matches(self, credentials: Mapping[str, str], fingerprint: bytes | None) -> bool:
        """Return whether a fingerprint is that of these credentials."""
        return self._vault.matches(_dumped(credentials), fingerprint)

    def prove(self, db: Connection) -> None:
        """See that the key is the one with which this installation began, or a successor. Raises Fatal if it is another one.

        Fingerprints of another key would just never match: two machines with keys of their own would sign in by turns for ever.
        """
        row = db.execute(b"select proof from tidelock.central").fetchone()
        if row is not None and row[0] is None:
            db.execute(
                b"update tidelock.central set proof = %s where proof is null",
                (self._vault.seal(b"", _INSTALLATION),),
            )
            row = db.execute(b"select proof from tidelock.central").fetchone()
        assert row is not None
        self._vault.open(row[0], _INSTALLATION)

    def prove_again(self, db: Connection) -> None:
        """Seal the proof under the present key."""
        row = db.execute(b"select proof from tidelock.central for update").fetchone()
        if row is not None and row[0] is not None and not self._vault.current(row[0]):
            self._vault.open(row[0], _INSTALLATION)
            db.execute(b"update tidelock.central set proof = %s", (self._vault.seal(b"", _INSTALLATION),))

    def keep(self, db: Connection, system: str, name: str, credentials: Mapping[str, str]) -> None:
        """Store credentials beside those of other names, in a transaction of the caller's."""
        row = db.execute(
            b"select credentials from tidelock.tenant where system = %s and name = %s for update", (system, name)
        ).fetchone()
        there = self.open(system, name, row[0]) if row is not None else {}
        db.execute(
            b"insert into tidelock.tenant (system, name, added, credentials) values (%s, %s, false, %s)"
            b" on conflict (system, name) do update set credentials = excluded.credentials",
            (system, name, self.seal(system, name, {**there, **credentials})),
        )

    def reseal(self, db: Connection, system: str, name: str) -> int:
        """Seal under the present key what is sealed under an earlier one, in a transaction of the caller's; return how much it was."""
        done = 0
        for table, column, label in (("token", "sealed", _token), ("tenant", "credentials", _credentials)):
            row = db.execute(
                f"select {column} from tidelock.{table} where system = %s and name = %s for update".encode(),
                (system, name),
            ).fetchone()
            if row is None or row[0] is None or self._vault.current(row[0]):
                continue
            again = self._vault.seal(self._vault.open(row[0], label(system, name)), label(system, name))
            done += db.execute(
                f"update tidelock.{table} set {column} = %s where system = %s and name = %s".encode(),
                (again, system, name),
            ).rowcount
        return done

    def mark_again(self, db: Connection, system: str, name: str, credentials: Mapping[str, str]) -> None:
        """Make fingerprints by the present key, too: else a token would be got anew, and a revoked tenant tried once more."""
        for table, column in (("token", "made_with"), ("tenant", "refused")):
            row = db.execute(
                f"select {column} from tidelock.{table} where system = %s and name = %s".encode(), (system, name)
            ).fetchone()
            if row is not None and self.matches(credentials, row[0]):
                db.execute(
                    f"update tidelock.{table} set {column} = %s where system = %s and name = %s".encode(),
                    (self.fingerprint(credentials), system, name),
                )


def _dumped(credentials: Mapping[str, str]) -> bytes:
    return json.dumps(dict(credentials), sort_keys=True).encode()


def _credentials(system: str, name: str) -> str:
    return f"the credentials of {system}/{name}"


def _token(system: str, name: str) -> str:
    return f"the token of {system}/{name}"
