"""The promises of `ports.databases.Database`, kept by PostgreSQL and by its twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.domain.errors import Busy, NotFound, Refused
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Phase
from crossfade.fakes.database import FakeDatabase
from crossfade.ports.databases import Database
from crossfade.spec.migrations import parse
from tests.databases.servers import WHEEL, Server, running
from tests.databases.shop import Heard

ROWS = 300
MIGRATIONS = [
    parse(
        f"0{n}_column.yaml",
        f"operations:\n- add_column:\n    table: books\n    column: {{name: c{n}, type: int}}\n    up: 10 / price\n",
    )
    for n in (1, 2, 3)
]
FIRST, SECOND, THIRD = MIGRATIONS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(WHEEL, tmp_path_factory.mktemp("contract")) as server:
        yield server


@dataclass
class Bench:
    """A database with 300 rows, and one who follows what happens to it."""

    database: Database
    heard: Heard
    url: str = ""

    def spoil(self, version: str) -> None:
        """From now on a row cannot be filled."""
        if isinstance(self.database, FakeDatabase):
            self.database.bad[version] = ["id=7: division by zero"]
        else:
            self._direct("UPDATE books SET price = 0 WHERE id = 7")

    def mend(self, version: str) -> None:
        if isinstance(self.database, FakeDatabase):
            self.database.bad.pop(version)
        else:
            self._direct("UPDATE books SET price = 5 WHERE id = 7")

    def _direct(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def up(self, migration: Migration) -> None:
        self.database.expand(migration, self.heard.watch())
        assert self.database.backfill(migration.version, self.heard.watch())

    def phases(self) -> list[tuple[str, str]]:
        return [(one.version, one.phase.value) for one in self.database.ledger()]


@pytest.fixture(params=["fake", "postgres"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "fake":
        yield Bench(FakeDatabase(ROWS), Heard())
        return
    server: Server = request.getfixturevalue("server")
    url = server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE books (id int PRIMARY KEY, price int NOT NULL)")
        connection.execute("INSERT INTO books SELECT g, g FROM generate_series(1, 300) g")
    yield Bench(PostgresDatabase(url), Heard(), url)
    server.drop()


def test_a_migration_goes_through_its_phases_and_the_ledger_has_them_with_their_times(bench: Bench) -> None:
    database = bench.database
    assert list(database.ledger()) == []
    database.expand(FIRST, bench.heard.watch())
    (record,) = database.ledger()
    assert (record.version, record.checksum, record.source) == (FIRST.version, FIRST.checksum, FIRST.source)
    assert (record.phase, record.position, record.verified, record.contracted) == (Phase.EXPANDED, 1, 0.0, 0.0)
    assert record.expanded > 0
    assert database.backfill(FIRST.version, bench.heard.watch())
    (record,) = database.ledger()
    assert record.phase is Phase.VERIFIED
    assert record.verified >= record.expanded
    assert sum(one.done for one in record.progress) == ROWS
    assert bench.heard.numbers
    database.contract(FIRST.version, bench.heard.watch())
    (record,) = database.ledger()
    assert record.phase is Phase.CONTRACTED
    assert record.contracted >= record.verified


def test_a_phase_that_is_over_is_nothing_to_do(bench: Bench) -> None:
    bench.up(FIRST)
    bench.up(FIRST)
    before = list(bench.database.ledger())
    assert bench.phases() == [(FIRST.version, "verified")]
    bench.up(FIRST)
    assert list(bench.database.ledger()) == before
    for _ in range(2):
        bench.database.contract(FIRST.version, bench.heard.watch())
    bench.up(FIRST)
    assert bench.phases() == [(FIRST.version, "contracted")]


def test_a_plan_is_of_what_was_not_applied_and_changes_nothing(bench: Bench) -> None:
    bench.up(FIRST)
    plans = bench.database.plan(MIGRATIONS)
    assert [one.version for one in plans] == [SECOND.version, THIRD.version]
    assert all(one.expand for one in plans)
    assert bench.phases() == [(FIRST.version, "verified")]


def test_files_that_were_edited_or_are_missing_are_refused(bench: Bench) -> None:
    bench.up(FIRST)
    bench.up(SECOND)
    bench.database.check(MIGRATIONS)
    with pytest.raises(Refused, match="was edited after it was applied"):
        bench.database.check([replace(FIRST, checksum="sha256:" + "0" * 64), SECOND])
    with pytest.raises(Refused, match="is missing"):
        bench.database.check([SECOND, THIRD])


def test_a_backfill_that_is_throttled_says_why_ends_when_cancelled_and_goes_on(bench: Bench) -> None:
    heard = bench.heard
    bench.database.expand(FIRST, heard.watch())
    asked = 0

    def throttle() -> str:
        nonlocal asked
        asked += 1
        if asked == 3:
            heard.cancel.set()
        return "clients see too many errors"

    assert not bench.database.backfill(FIRST.version, replace(heard.watch(), throttle=throttle))
    assert bench.phases() == [(FIRST.version, "backfilling")]
    assert "clients see too many errors" in [one.waits for one in heard.numbers]
    heard.cancel.clear()
    assert bench.database.backfill(FIRST.version, heard.watch())
    assert bench.phases() == [(FIRST.version, "verified")]


def test_a_person_may_pause_a_backfill_and_let_it_go_on(bench: Bench) -> None:
    heard, database = bench.heard, bench.database
    database.expand(FIRST, heard.watch())
    database.pause(FIRST.version, True)
    assert database.ledger()[0].paused

    watch = heard.watch()
    waiting = replace(watch, progress=lambda one: heard.cancel.set() if one.waits else None)
    assert not database.backfill(FIRST.version, waiting)
    heard.cancel.clear()
    database.pause(FIRST.version, False)
    assert database.backfill(FIRST.version, watch)
    with pytest.raises(NotFound):
        database.pause("99_none", True)


def test_rows_that_cannot_be_filled_are_named_and_nothing_is_verified_until_they_can(bench: Bench) -> None:
    bench.spoil(FIRST.version)
    bench.database.expand(FIRST, bench.heard.watch())
    with pytest.raises(Refused, match="rows cannot be filled") as caught:
        bench.database.backfill(FIRST.version, bench.heard.watch())
    assert "division by zero" in str(caught.value)
    (record,) = bench.database.ledger()
    assert record.phase is Phase.BACKFILLING
    assert "cannot be filled" in record.trouble
    assert any("division by zero" in sample for sample in record.samples)
    with pytest.raises(Refused, match="must be complete and verified first"):
        bench.database.contract(FIRST.version, bench.heard.watch())
    bench.mend(FIRST.version)
    assert bench.database.backfill(FIRST.version, bench.heard.watch())
    (record,) = bench.database.ledger()
    assert (record.phase, record.trouble, record.samples) == (Phase.VERIFIED, "", ())


def test_contracts_go_from_the_oldest_and_aborts_from_the_newest(bench: Bench) -> None:
    for one in MIGRATIONS:
        bench.up(one)
    with pytest.raises(Refused, match=f"{FIRST.version} must be contracted first"):
        bench.database.contract(SECOND.version, bench.heard.watch())
    with pytest.raises(Refused, match=f"{THIRD.version} builds on {SECOND.version}"):
        bench.database.abort(SECOND.version, bench.heard.watch())
    bench.database.contract(FIRST.version, bench.heard.watch())
    bench.database.abort(THIRD.version, bench.heard.watch())
    assert bench.phases() == [
        (FIRST.version, "contracted"),
        (SECOND.version, "verified"),
        (THIRD.version, "aborted"),
    ]
    with pytest.raises(Refused, match="is gone, or going"):
        bench.database.abort(FIRST.version, bench.heard.watch())


def test_what_was_aborted_may_come_again_at_a_new_place(bench: Bench) -> None:
    bench.up(FIRST)
    bench.database.abort(FIRST.version, bench.heard.watch())
    bench.up(FIRST)
    assert bench.phases() == [(FIRST.version, "aborted"), (FIRST.version, "verified")]
    assert [one.position for one in bench.database.ledger()] == [1, 2]


def test_replicas_of_each_version_are_told_something_else(bench: Bench) -> None:
    bench.up(FIRST)
    bench.up(SECOND)
    told = [bench.database.environment(one)["DATABASE_URL"] for one in ("", FIRST.version, SECOND.version)]
    assert len(set(told)) == 3
    assert told == [bench.database.environment(one)["DATABASE_URL"] for one in ("", FIRST.version, SECOND.version)]
    assert bench.database.replicas(FIRST.version) == 0
    with pytest.raises(NotFound):
        bench.database.environment("99_none")


def test_only_one_works_on_the_migrations_of_a_database(bench: Bench) -> None:
    bench.database.expand(FIRST, bench.heard.watch())
    busy: list[Busy] = []

    def throttle() -> str:
        try:
            bench.database.abort(FIRST.version, bench.heard.watch())
        except Busy as error:
            busy.append(error)
        return ""

    assert bench.database.backfill(FIRST.version, replace(bench.heard.watch(), throttle=throttle))
    assert busy
    assert bench.phases() == [(FIRST.version, "verified")]
