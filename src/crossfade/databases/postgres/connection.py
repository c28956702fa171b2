"""Connections, and what their errors mean for people. A password is never shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from crossfade.domain.errors import Invalid, Refused, Unavailable

APPLICATION: Final = "crossfade"
SCHEMES: Final = ("postgresql", "postgres")
OLDEST: Final = 140000
"""The oldest server that is known to do all that is asked of it."""


def check_url(url: str) -> str:
    """The URL. Raises Invalid, without its password."""
    try:
        parts = urlsplit(url)
        conninfo_to_dict(url)
    except (ValueError, psycopg.ProgrammingError):
        raise Invalid("database", safe(url), "postgresql://user:password@host:port/database") from None
    if parts.scheme not in SCHEMES or not parts.path.strip("/"):
        raise Invalid("database", safe(url), "postgresql://user:password@host:port/database")
    return url


def safe(url: str) -> str:
    """The URL for people: no password, no query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that cannot be read"
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, "", ""))


def with_user(url: str, user: str, password: str | None) -> str:
    """The same place for another user. A URL without a password stays without one."""
    parts = urlsplit(url)
    at = parts.netloc.rpartition("@")[2]
    secret = f":{quote(password, safe='')}" if password and parts.password else ""
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}{secret}@{at}"))


def user_of(url: str) -> tuple[str, str]:
    """User and password, as they are; empty where the URL has none."""
    parts = urlsplit(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Errors of the driver as errors of ours: Unavailable for a server that is away or full, Refused for what it will not do."""
    try:
        yield
    except (errors.DiskFull, errors.OutOfMemory, errors.TooManyConnections) as error:
        raise Unavailable(
            f"{doing}: {first_line(error)}.", hint="Free some space there, then run it again: it goes on."
        ) from error
    except (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow) as error:
        raise Unavailable(
            f"{doing}: the database is going down or starting.", hint="Run it again: it goes on."
        ) from error
    except errors.InsufficientPrivilege as error:
        raise Refused(
            f"{doing}: {first_line(error)}.", hint="Migrations are run as the owner of the tables."
        ) from error
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"{doing}: {first_line(error)}.", hint="Is the database up? Run it again: it goes on."
        ) from error
    except psycopg.Error as error:
        raise Refused(f"{doing}: {first_line(error)}.", detail=error.diag.message_detail or "") from error


def first_line(error: BaseException) -> str:
    """What the server said, in a line, without the connection string."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


def connect(url: str, *, autocommit: bool = True, name: str = APPLICATION, timeout: int = 5) -> psycopg.Connection[Any]:
    """A connection. Raises Invalid, Unavailable; Refused for a server that is too old."""
    check_url(url)
    try:
        connection = psycopg.connect(
            url,
            autocommit=autocommit,
            connect_timeout=timeout,
            application_name=name,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            prepare_threshold=None,
        )
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"{safe(url)} does not answer: {first_line(error)}.", hint="Is it up, and is the URL right?"
        ) from None
    except psycopg.Error as error:
        raise Invalid("database", safe(url), f"a URL of a PostgreSQL database ({first_line(error)})") from None
    if connection.info.server_version < OLDEST:
        version = connection.info.server_version // 10_000
        connection.close()
        raise Refused(f"{safe(url)} is PostgreSQL {version}.", hint="PostgreSQL 14 or newer is needed.")
    return connection
