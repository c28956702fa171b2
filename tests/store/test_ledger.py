"""What only the real ledger can show: its schema, its durability, its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from crossfade.domain.errors import StorageFailed
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.values import Digest, EnvKey
from crossfade.store.sql import SqlStore
from crossfade.store.tables import metadata

KEY = EnvKey("bookshop", "production")
DIGEST = Digest("sha256:" + "a" * 64)


def test_the_migrations_lead_to_exactly_the_tables(tmp_path: Path) -> None:
    SqlStore(f"sqlite:///{tmp_path / 'l.db'}").dispose()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'l.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.db'}"
    first = SqlStore(url)
    written = first.add_release(KEY, DIGEST, ReleaseConfig(("x",)), "v1", 1.0)
    first.dispose()
    second = SqlStore(url)
    assert second.releases(KEY) == (written,)
    second.dispose()


def test_a_ledger_that_cannot_be_opened_is_said_so_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match=r"cannot be used.*crossfade doctor"):
        SqlStore(f"sqlite:///{tmp_path / 'file' / 'l.db'}")


def test_a_full_disk_is_said_so_and_loses_nothing(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'l.db'}")
    kept = store.add_release(KEY, DIGEST, ReleaseConfig(("x",)), "v1", 1.0)
    with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        connection.detach()
    limit = f"PRAGMA max_page_count={pages}"
    sa.event.listen(store._engine, "begin", lambda c: c.exec_driver_sql(limit), insert=True)
    big = ReleaseConfig(("x" * 200_000,))
    with pytest.raises(StorageFailed, match="full"):
        store.add_release(KEY, DIGEST, big, "v2", 2.0)
    assert store.releases(KEY) == (kept,)
    store.dispose()
