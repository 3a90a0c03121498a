"""The replication connection: starting the stream, reading what is there, and telling how far we are.

psycopg's ``pq`` layer is used directly: its higher layers do not speak CopyBoth. Source: PostgreSQL manual, "Streaming Replication
Protocol" and "Logical Streaming Replication Parameters".
"""

from __future__ import annotations

import select
import struct
import time

import psycopg
from psycopg import conninfo, pq

from producers.columns import SESSION
from tidelock.errors import Fatal, Retry, TidelockError

_STATUS = struct.Struct(">cQQQqB")
_PG_EPOCH_MICROS = 946_684_800_000_000
_COPY_ERROR = -2


def session_info(dsn: str, application: str, **more: str) -> str:
    """Return connection parameters with the session settings on which the texts of values depend.

    Raises Fatal if the connection string cannot be read.
    """
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise Fatal(
            f"the connection string of {application} cannot be read: {str(error).strip()}",
            hint="it should look like postgresql://user:password@host:5432/database",
        ) from error
    options = f"{given.pop('options', None) or ''} {SESSION}".strip()
    defaults = {"connect_timeout": "10", "keepalives_idle": "30", "application_name": application}
    return conninfo.make_conninfo("", **{**defaults, **given, "options": options, "client_encoding": "UTF8", **more})


def connect(dsn: str, application: str, system: str) -> psycopg.Connection[tuple[object, ...]]:
    """Open an ordinary connection in autocommit mode with the capture's session settings. Raises Retry or Fatal."""
    try:
        return psycopg.connect(session_info(dsn, application), autocommit=True)
    except psycopg.OperationalError as error:
        raise connection_error(str(error), error.sqlstate, system) from error


def connection_error(text: str, sqlstate: str | None, system: str) -> TidelockError:
    """Turn a failed connection into Fatal (credentials, names, rights) or Retry (everything that may pass)."""
    text = " ".join(text.split())
    message = f"cannot connect to the database of system {system}: {text}"
    # libpq gives no SQLSTATE for a refusal during start-up, so its words have to do.
    if sqlstate in {"28P01", "28000", "3D000", "42501"} or any(words in text for words in _REFUSALS):
        return Fatal(
            message, hint=f"correct `dsn` of system {system} (user, password, database name), or pg_hba.conf there"
        )
    if "must be superuser or replication role" in text or "permission denied to start WAL sender" in text:
        return Fatal(message, hint="let a superuser run there: ALTER ROLE <the user> REPLICATION;")
    return Retry(message, hint="check that the server is up and reachable; capture goes on by itself")


_REFUSALS = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "not permitted to log in",
)


class WalSender:
    """One stream of a logical replication slot, in text format. Raises Retry when the connection is lost."""

    def __init__(self, dsn: str, system: str) -> None:
        self._system = system
        info = session_info(dsn, f"tidelock-{system}", replication="database")
        self._conn = pq.PGconn.connect(info.encode())
        if self._conn.status != pq.ConnStatus.OK:
            text = self._conn.get_error_message()
            self._conn.finish()
            raise connection_error(text, None, system)
        self._conn.nonblocking = 1
        self.socket = self._conn.socket
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        self._get = self._conn.get_copy_data

    def start(self, slot: str, publication: str, lsn: int) -> None:
        """Start the stream. Raises Fatal or Retry (a slot that another session still uses)."""
        literal = publication.replace('"', '""').replace("'", "''")
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL {show_lsn(lsn)} '
            f"(proto_version '2', publication_names '\"{literal}\"', messages 'true')"
        )
        self._conn.nonblocking = 0
        result = self._conn.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise self._refused(result, slot)
        self._conn.nonblocking = 1

    def wait(self, wait_s: float) -> bool:
        """Wait until the server has sent something and take it in; return whether it has."""
        if not self._poll.poll(max(0, int(wait_s * 1000 + 0.999))):
            return False
        try:
            self._conn.consume_input()
        except psycopg.OperationalError as error:
            raise self._lost(str(error)) from error
        return True

    def read(self) -> bytes | None:
        """Return the next message that is already here, padded by four zero bytes, or None. Raises Retry or Fatal."""
        size, data = self._get(1)
        if size > 0:
            return bytes(data) + b"\x00\x00\x00\x00"
        if size == 0:
            return None
        raise self._ended(size)

    def acknowledge(self, lsn: int) -> None:
        """Tell the server that everything before ``lsn`` is safe with us."""
        now = time.time_ns() // 1000 - _PG_EPOCH_MICROS
        try:
            self._conn.put_copy_data(_STATUS.pack(b"r", lsn, lsn, lsn, now, 0))
            while self._conn.flush():
                select.select([], [self.socket], [], 1.0)
        except psycopg.OperationalError as error:
            raise self._lost(str(error)) from error

    def close(self) -> None:
        """Close the connection; the server keeps the slot."""
        self._poll.unregister(self.socket)
        self._conn.finish()

    def _ended(self, size: int) -> TidelockError:
        if size == _COPY_ERROR:
            return self._lost(self._conn.get_error_message())
        result = self._conn.get_result()
        text = result.get_error_message() if result is not None else "the server ended the stream"
        state = result.error_field(pq.DiagnosticField.SQLSTATE) if result is not None else None
        if state == b"55000" or b"publication" in text.encode():
            return Fatal(
                f"the replication stream of {self._system} ended: {' '.join(text.split())}",
                hint="check the slot and the publication there: SELECT * FROM pg_replication_slots; SELECT * FROM pg_publication;",
            )
        return self._lost(text)

    def _lost(self, text: str) -> Retry:
        return Retry(f"the replication stream of {self._system} broke: {' '.join(text.split())}")

    def _refused(self, result: pq.abc.PGresult, slot: str) -> TidelockError:
        text = " ".join(result.get_error_message().split())
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = f"replication slot {slot} of {self._system} cannot be read: {text}"
        if state == "55006":  # object in use
            return Retry(
                message, hint="another capture of this system is running, or the server has not noticed its end yet"
            )
        if state.startswith(("57", "08", "53")):
            return Retry(message)
        return Fatal(message, hint="SELECT * FROM pg_replication_slots; shows its state there")


def show_lsn(lsn: int) -> str:
    """Spell an LSN as PostgreSQL does."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Read an LSN as PostgreSQL spells it."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
