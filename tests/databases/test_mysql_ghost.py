"""gh-ost by its documented command line, socket and files: spoken by a stand-in, for gh-ost is in no package registry."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crossfade.databases.mysql.database import MysqlDatabase
from crossfade.domain.errors import CrossfadeError, Invalid, Refused
from crossfade.domain.migrations.operations import Migration, Phased
from crossfade.domain.migrations.phases import Phase, Progress
from crossfade.ports.databases import Watch
from tests.databases.mariadb import MariaDatabase

STOCK = Migration(
    "01_stock",
    "sha256:1",
    "01_stock.sql",
    sql=Phased(
        expand=("ALTER TABLE items ADD COLUMN stock int NOT NULL DEFAULT 7",),
        contract=("ALTER TABLE items DROP COLUMN note",),
    ),
)
PATIENCE = 90.0


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where PATH has it. The real one is a program: so is this. Its copy stops at the half while the file exists."""
    program = tmp_path / "gh-ost"
    source = Path(__file__).with_name("gh_ost.py")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{source}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    hold = tmp_path / "hold"
    monkeypatch.setenv("GH_OST_HOLDS_HALFWAY", str(hold))
    return hold


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_gh_ost_copies_waits_when_told_and_swaps_when_it_need_not_wait_any_more(
    maria: MariaDatabase, stand_in: Path
) -> None:
    maria.items(200)
    stand_in.touch()
    seen: list[Progress] = []
    reason = [""]
    never = threading.Event()
    watch = Watch(lambda _: None, seen.append, lambda: reason[0], never)
    database = MysqlDatabase(maria.url)
    database.expand(STOCK, watch)
    results: list[bool] = []
    run = threading.Thread(target=lambda: results.append(database.backfill("01_stock", watch)))
    run.start()
    until(lambda: any(0 < one.done < one.total for one in seen))
    reason[0] = "the error budget burns"
    until(lambda: seen[-1].waits == "the error budget burns")
    stand_in.unlink()
    assert "stock" not in maria.columns()
    reason[0] = ""
    run.join(PATIENCE)
    assert results == [True] and database.ledger()[0].phase is Phase.VERIFIED
    database.contract("01_stock", watch)
    assert set(maria.columns()) == {"id", "name", "price", "stock"} and maria.left() == []
    assert maria.query("SELECT COUNT(*) FROM items") == [(200,)]


def test_gh_ost_is_ended_by_its_panic_file_and_leaves_nothing(maria: MariaDatabase, stand_in: Path) -> None:
    maria.items(1000)
    stand_in.touch()
    seen: list[Progress] = []
    cancel = threading.Event()
    watch = Watch(lambda _: None, seen.append, lambda: "", cancel)
    database = MysqlDatabase(maria.url, tool="ghost")
    database.expand(STOCK, watch)
    results: list[bool] = []
    run = threading.Thread(target=lambda: results.append(database.backfill("01_stock", watch)))
    run.start()
    until(lambda: any(one.done for one in seen))
    assert maria.left()
    cancel.set()
    run.join(PATIENCE)
    assert results == [False] and maria.left() == []
    database.abort("01_stock", Watch(lambda _: None, seen.append, lambda: "", threading.Event()))
    assert "stock" not in maria.columns() and database.ledger()[0].phase is Phase.ABORTED


@pytest.mark.usefixtures("stand_in")
def test_what_gh_ost_cannot_do_is_refused_or_left_to_percona(maria: MariaDatabase) -> None:
    maria.query("CREATE TABLE shops (id int PRIMARY KEY)")
    maria.query(
        "CREATE TABLE items (id int PRIMARY KEY, note text, shop int, FOREIGN KEY (shop) REFERENCES shops (id))"
    )
    watch = Watch(lambda _: None, lambda _: None, lambda: "", threading.Event())
    only = MysqlDatabase(maria.url, tool="ghost")
    with pytest.raises(Refused, match="no table with foreign keys"):
        MysqlDatabase(maria.url, tool="ghost").expand(STOCK, watch)
    assert only.ledger() == []
    either = MysqlDatabase(maria.url)
    either.expand(STOCK, watch)
    assert either.backfill("01_stock", watch) and "stock" in maria.columns()
    with pytest.raises(Invalid, match="auto, percona, ghost"):
        MysqlDatabase(maria.url, tool="gh-ost")


@pytest.mark.usefixtures("stand_in")
def test_what_gh_ost_says_at_its_end_is_told(maria: MariaDatabase) -> None:
    maria.items(10)
    watch = Watch(lambda _: None, lambda _: None, lambda: "", threading.Event())
    database = MysqlDatabase(maria.url)
    database.expand(STOCK, watch)
    maria.query("ALTER TABLE items ADD COLUMN stock int")  # behind our back
    with pytest.raises(CrossfadeError, match=r"gh-ost ended with 1: .*Duplicate column"):
        database.backfill("01_stock", watch)
    assert maria.left() == []
