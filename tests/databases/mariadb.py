"""MariaDB for tests: Debian's, one server for a worker, a fresh database for each test, and clients that write meanwhile."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
from pymysql.connections import Connection

from tests.free_port import free_port

COUNT = itertools.count(1)
RETRIED = (1205, 1213)
"""What a client of any InnoDB table must try again."""
PASSWORD = 'a "quoted" pass\\word#1'
NOBODY = 65534


@dataclass
class MariaServer:
    """A running server. ``url()`` is that of a new database."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    databases: list[str] = field(default_factory=list)

    def start(self) -> None:
        user = NOBODY if os.geteuid() == 0 else None
        data = self.folder / "data"
        common = ["--no-defaults", f"--datadir={data}"]
        # A server that starts takes away what it finds of temporary tables, also those of a running one that shares its folder.
        environment = {**os.environ, "TMPDIR": str(data)}
        if not data.exists():
            data.mkdir()
            if user is not None:
                os.chown(data, user, -1)
            subprocess.run(
                ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
                user=user,
                check=True,
                capture_output=True,
                cwd="/",
                env=environment,
            )
        command = [
            *("/usr/sbin/mariadbd", *common, f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve"),
            *(f"--socket={data / 's'}", f"--pid-file={data / 'pid'}", "--innodb-flush-log-at-trx-commit=0"),
            *("--innodb-flush-method=nosync", "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=64M"),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, user=user, stdout=log, stderr=log, cwd="/", env=environment)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connect("mysql").close()
                return
            except pymysql.MySQLError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def connect(self, database: str) -> Connection[Any]:
        return pymysql.connect(host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True)

    def database(self) -> MariaDatabase:
        name = f"t{next(COUNT)}_{os.getpid()}"
        with self.connect("mysql") as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            cursor.execute("CREATE USER IF NOT EXISTS mover@'127.0.0.1' IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("GRANT ALL ON *.* TO mover@'127.0.0.1'")
        self.databases.append(name)
        return MariaDatabase(self, name)

    def drop(self) -> None:
        with self.connect("mysql") as connection, connection.cursor() as cursor:
            for name in self.databases:
                cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        self.databases.clear()


@dataclass(frozen=True)
class MariaDatabase:
    """One of its databases."""

    server: MariaServer
    name: str

    @property
    def url(self) -> str:
        from urllib.parse import quote

        return f"mysql://mover:{quote(PASSWORD, safe='')}@127.0.0.1:{self.server.port}/{self.name}"

    @property
    def socket_url(self) -> str:
        return f"mysql://root@/{self.name}?unix_socket={self.server.folder / 'data' / 's'}"

    def connect(self) -> Connection[Any]:
        return self.server.connect(self.name)

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def items(self, count: int) -> None:
        """A table of that many rows."""
        self.query(
            "CREATE TABLE items (id int NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(40) NOT NULL, price int NOT NULL,"
            " note varchar(200))"
        )
        self.query(
            "INSERT INTO items (name, price, note)"  # noqa: S608 - a number
            f" SELECT CONCAT('item ', seq), seq % 97, REPEAT('x', 60) FROM seq_1_to_{count}"
        )

    def left(self) -> list[str]:
        """Whatever is there besides the tables of the test and the ledger's."""
        found = self.query(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE '%crossfade\\_%'"
            " AND TABLE_NAME NOT IN ('crossfade_migrations', 'crossfade_copies')"
            " UNION ALL SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()"
        )
        return [one for (one,) in found]

    def columns(self, table: str = "items") -> dict[str, str]:
        return {one[0]: one[1] for one in self.query(f"SHOW COLUMNS FROM {table}")}


class Writers:
    """Clients of an old release: each has rows of its own, and knows what they must be."""

    def __init__(self, database: MariaDatabase, count: int = 2) -> None:
        self._database = database
        self._stop = threading.Event()
        self.expected: dict[int, int] = {}
        self.errors: list[str] = []
        self.writes = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i, count)) for i in range(count)]

    def __enter__(self) -> Writers:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def _run(self, number: int, count: int) -> None:
        with self._database.connect() as connection:
            mine: list[int] = []
            n = 0
            while not self._stop.is_set():
                n += 1
                try:
                    if n % 3 == 0 or not mine:
                        key, price = (
                            self._write(connection, "INSERT INTO items (name, price) VALUES (%s, %s)", f"w{number}", n),
                            n,
                        )
                        mine.append(key)
                    elif n % 7 == 0:
                        key, price = mine.pop(0), None
                        self._write(connection, "DELETE FROM items WHERE id = %s", key)
                    else:
                        key, price = mine[n % len(mine)], n
                        self._write(connection, "UPDATE items SET price = %s WHERE id = %s", n, key)
                except pymysql.MySQLError as error:
                    self.errors.append(str(error))
                    continue
                with self._lock:
                    self.writes += 1
                    if price is None:
                        self.expected[key] = -1
                    else:
                        self.expected[key] = price
                self._stop.wait(0.002)

    @staticmethod
    def _write(connection: Connection[Any], sql: str, *values: Any) -> int:
        while True:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(sql, values)
                    return int(cursor.lastrowid or 0)
            except pymysql.MySQLError as error:
                if error.args[0] not in RETRIED:
                    raise

    def check(self) -> None:
        """Every write is there, and nothing else of these clients."""
        assert self.errors == []
        found = dict(self._database.query("SELECT id, price FROM items WHERE name LIKE 'w%'"))
        kept = {key: price for key, price in self.expected.items() if price != -1}
        assert found == kept


@contextmanager
def running_mariadb(folder: Path) -> Iterator[MariaServer]:
    """A server of its own in a folder, ended at the end."""
    for parent in (folder, *folder.parents):  # pytest's folders are its user's alone
        if os.geteuid() == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    server = MariaServer(folder, free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop()


def missing() -> Sequence[str]:
    """Programs of Debian's packages that are not there."""
    return [
        one
        for one in ("mariadbd", "mariadb-install-db", "pt-online-schema-change")
        if not shutil.which(one, path=f"{os.environ['PATH']}:/usr/sbin")
    ]
