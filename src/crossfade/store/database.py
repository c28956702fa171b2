"""The database under the ledger: SQLAlchemy's engine, brought up to date, its errors said in our words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from crossfade.domain.errors import StorageFailed


class Database:
    """SQLite in WAL mode by default, PostgreSQL by URL. The tables are brought up to date on opening.

    Raises StorageFailed when it cannot be opened or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        sqlite = url.startswith("sqlite")
        self._engine = sa.create_engine(
            url, poolclass=QueuePool, pool_size=4, connect_args={"timeout": 15} if sqlite else {}
        )
        if sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            # pysqlite opens a transaction only at the first write; a read before it would see an older state.
            sa.event.listen(self._engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        with _storage(url):
            upgrade(self._engine)

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with _storage(self.url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _storage(self.url), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's "begin" event says BEGIN IMMEDIATE itself
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


@contextmanager
def _storage(url: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise StorageFailed(
            f"the ledger {sa.make_url(url).render_as_string()} cannot be used: {error.orig}.",
            hint="Look at the free space and permissions of the state folder; `crossfade doctor` checks both.",
        ) from error


MIGRATIONS: Final = Path(__file__).parent / "migrations"


def _is_up_to_date(engine: sa.Engine) -> bool:
    """Whether the tables are those of the newest migration, which are numbered."""
    newest = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            known = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
        except sa.exc.DatabaseError:
            return False  # there is no such table yet, or something is wrong: Alembic will say what
    return known == [newest]


def upgrade(engine: sa.Engine) -> None:
    """Bring the tables up to date. A database newer than this program is refused. Raises StorageFailed."""
    if _is_up_to_date(engine):
        return  # most often, and Alembic takes a while to find that out itself
    from alembic import command as alembic  # noqa: PLC0415 - only who changes the tables needs it
    from alembic.config import Config  # noqa: PLC0415 - and this with it

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        config.attributes["connection"] = connection
        alembic.upgrade(config, "head")
