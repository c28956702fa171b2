"""Connections, and what their errors mean for people. A password is never shown."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.connections import Connection

from crossfade.domain.errors import Busy, CrossfadeError, Invalid, Refused, Unavailable
from crossfade.ports.pipeline import Cancel

SCHEMES: Final = ("mysql", "mariadb")
ALLOWED: Final = "mysql://user:password@host:port/database, and ?unix_socket=/path where there is no host"
PORT: Final = 3306
AWAY: Final = frozenset(
    (1021, 1037, 1038, 1040, 1041, 1053, 1077, 1078, 1079, 1114, 1203, 1226, 2002, 2003, 2006, 2013)
)
"""Codes of a server that is away, full, or going down."""
LOCKED: Final = frozenset((1205, 1213, 1317, 1969, 3024))
"""Codes of a statement that was in the way of others, or they of it: a later try may succeed."""
PATIENCE: Final = 0.2
"""Seconds for which a statement may wait for a table's lock: whoever comes after it waits as long."""
TRIES: Final = 60


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says. ``socket`` is a path, or empty: then ``host`` and ``port`` count."""

    user: str
    password: str = field(repr=False)
    host: str
    port: int
    database: str
    socket: str = ""

    def __str__(self) -> str:
        return f"{self.user}@{self.socket or f'{self.host}:{self.port}'}/{self.database}"


def place(url: str) -> Place:
    """Raises Invalid, without the password."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or PORT
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise Invalid("database", "a URL that cannot be read", ALLOWED) from None
    found = Place(
        unquote(parts.username or "root"),
        unquote(parts.password or ""),
        parts.hostname or "127.0.0.1",
        port,
        unquote(parts.path.lstrip("/")),
        query.pop("unix_socket", ""),
    )
    if parts.scheme not in SCHEMES or parts.fragment:
        raise Invalid("database", f"{parts.scheme}://…", ALLOWED)
    if query:
        raise Invalid("database", f"…?{'&'.join(sorted(query))}", ALLOWED)
    texts = (found.user, found.password, found.host, found.database, found.socket)
    # The tools are given the database's name in a list with commas.
    if not found.database or any(not one.isprintable() for one in texts) or {",", "\\"} & set(found.database):
        raise Invalid("database", str(found) if found.database.isprintable() else "a name that cannot be", ALLOWED)
    return found


def connect(where: Place, timeout: float = 5) -> Connection[Any]:
    """A connection where each statement is a transaction. Raises Unavailable; Refused for one that is not let in."""
    try:
        return pymysql.connect(
            host=where.host,
            port=where.port,
            unix_socket=where.socket or None,
            user=where.user,
            password=where.password,
            database=where.database,
            charset="utf8mb4",
            connect_timeout=timeout,
            autocommit=True,
            program_name="crossfade",
        )
    except pymysql.MySQLError as error:
        raise Unavailable(f"{where} does not answer: {said(error)}.", hint="Is it up, and is the URL right?") from None
    except OSError as error:
        raise Unavailable(f"{where} does not answer: {error}.", hint="Is it up, and is the URL right?") from None


def rows(connection: Connection[Any], sql: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """All that a query gives, or nothing for what is none. A % in ``sql`` is doubled where there are values, even none."""
    with connection.cursor() as cursor:
        cursor.execute(sql, None if values is None else tuple(values))
        return list(cursor.fetchall()) if cursor.description else []


def value(connection: Connection[Any], sql: str, values: Sequence[Any] | None = None) -> Any:
    """The first value of the first row; None when there is none."""
    found = rows(connection, sql, values)
    return found[0][0] if found else None


def quoted(name: str) -> str:
    """An identifier for SQL, always in quotes."""
    return "`" + name.replace("`", "``") + "`"


def code(error: BaseException) -> int:
    """The server's number of an error; 0 when it has none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def said(error: BaseException) -> str:
    """What the server said, in a line."""
    text = str(error.args[-1] if error.args else error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Errors of the driver as errors of ours: Unavailable for a server that is away or full, Refused for what it will not do."""
    try:
        yield
    except CrossfadeError:
        raise
    except (pymysql.MySQLError, OSError) as error:
        number = code(error)
        if isinstance(error, (OSError, pymysql.InterfaceError)) or number in AWAY:
            raise Unavailable(
                f"{doing}: {said(error)}.", hint="Is the database up, with space? Run it again: it goes on."
            ) from error
        hint = "Migrations are run as a user that may do all with the database." if number in (1044, 1142, 1227) else ""
        raise Refused(f"{doing}: {said(error)} ({number}).", hint=hint) from error


@contextmanager
def alone(connection: Connection[Any], where: Place) -> Iterator[None]:
    """Work on migrations, alone. Raises Busy, which names who does already."""
    # A name is at most 64 characters, as is that of a database; the lock is the server's, so it must name both.
    name = f"crossfade.{where.database}"[-64:]
    if value(connection, "SELECT GET_LOCK(%s, 0)", (name,)) != 1:
        holder = value(connection, "SELECT IS_USED_LOCK(%s)", (name,))
        who = f"connection {holder} of the server" if holder else "somebody"
        raise Busy(
            f"The migrations of this database are being worked on by {who}.", hint="Wait for its end, or end it."
        )
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # without a connection there is no lock
            rows(connection, "SELECT RELEASE_LOCK(%s)", (name,))


def impatiently(
    connection: Connection[Any],
    where: Place,
    sql: str,
    cancel: Cancel,
    *,
    tries: int = TRIES,
    patience: float = PATIENCE,
) -> None:
    """A statement that waits for locks for a moment only, again and again. Raises Refused after the last try.

    The server counts ``lock_wait_timeout`` in whole seconds, for which all who come after would wait too: so it is ended from
    beside.
    """
    for n in range(tries):
        watch = _Watchdog(where, int(value(connection, "SELECT CONNECTION_ID()")), patience)
        try:
            with watch:
                rows(connection, sql)
        except pymysql.MySQLError as error:
            if code(error) not in LOCKED:
                raise
        else:
            return
        if cancel.wait(random.uniform(0.5, 1.0) * min(1.0, 0.05 * 1.3**n)):  # noqa: S311 - so that two do not meet again
            break
    raise Refused(
        f"{' '.join(sql.split()[:3])} …: the table is locked by others.",
        hint="End the transactions that are open on it, then run it again: it goes on.",
    )


class _Watchdog:
    """Ends a connection's statement once it has taken too long."""

    def __init__(self, where: Place, thread: int, patience: float) -> None:
        self._where, self._thread, self._patience = where, thread, patience
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._watcher.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:  # from here on nothing is ended any more: the next statement is another's
            self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        began = time.monotonic()
        try:
            beside = connect(self._where)
        except CrossfadeError:
            return
        with beside:
            self._done.wait(max(0.0, self._patience - (time.monotonic() - began)))
            with self._lock:
                if not self._done.is_set():
                    with contextlib.suppress(Exception):  # it has just come to its end
                        rows(beside, f"KILL QUERY {self._thread:d}")
