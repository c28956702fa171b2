"""`crossfade migrate` as it is typed, on a real PostgreSQL and without a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from crossfade.bootstrap.databases import open_database
from crossfade.cli.main import app
from crossfade.cli.migrate_show import Display, progress
from crossfade.domain.errors import Invalid
from crossfade.domain.migrations.phases import Phase, Progress
from tests.databases.servers import WHEEL, Server, running

DONE, FAILED, USAGE = 0, 1, 2
PATIENCE = 30.0
PRICE = """
operations:
  - add_column: {table: books, column: {name: cents, type: bigint}, up: (price * 100)::bigint}
"""
SPLIT = """
operations:
  - split_column:
      table: books
      column: author
      into:
        - {name: first, type: text, up: "split_part(author, ' ', 1)"}
        - {name: last, type: text, up: "split_part(author, ' ', 2)"}
      down: first || ' ' || last
"""


@dataclass
class Place:
    """A folder with two migrations, and a database that has had none of them."""

    folder: Path
    url: str

    def run(self, *words: str | Path, url: str | None = None) -> tuple[int, str]:
        """What a command ends with, and all that it says."""
        environment = {"CROSSFADE_DATABASE": self.url if url is None else url, "COLUMNS": "160", "DATABASE_URL": ""}
        done = CliRunner().invoke(app, ["migrate", *map(str, words)], env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done.exit_code, done.output

    def data(self, *words: str | Path) -> tuple[int, Any]:
        code, said = self.run(*words, "--json")
        return code, json.loads(said)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "CROSSFADE_DATABASE": self.url, "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-m", "crossfade.cli.main", "migrate", *map(str, words)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=self.folder
        )

    def query(self, sql: str) -> Any:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(sql.encode()).fetchone()
            return row[0] if row else None

    def change(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())

    def phases(self) -> dict[str, str]:
        return {one["version"]: one["phase"] for one in self.data("status")[1]["migrations"]}

    def done(self) -> int:
        """Rows that the open backfill has filled."""
        return int(self.query("SELECT coalesce(max(done), 0) FROM crossfade.backfills WHERE NOT finished") or 0)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(WHEEL, tmp_path_factory.mktemp("pg")) as found:
        yield found


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "01_cents.yaml").write_text(PRICE)
    (folder / "02_split.yaml").write_text(SPLIT)
    url = server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE books (id int PRIMARY KEY, author text NOT NULL, price numeric)")
        connection.execute("INSERT INTO books SELECT i, 'A' || i || ' B' || i, i FROM generate_series(1, 2000) i")
    yield Place(folder, url)
    server.drop()


class TestTheWholeWay:
    def test_a_folder_is_expanded_filled_verified_and_contracted_oldest_first(self, place: Place) -> None:
        code, said = place.run("expand", place.folder)
        assert code == DONE, said
        assert "01_cents, 02_split: expanded, filled and verified." in said
        assert place.query("SELECT cents FROM public_01_cents.books WHERE id = 7") == 700
        assert place.query("SELECT last FROM public_02_split.books WHERE id = 7") == "B7"
        assert place.query("SELECT author FROM books WHERE id = 7") == "A7 B7"
        assert place.phases() == {"01_cents": "contractable", "02_split": "verified"}
        code, said = place.run("contract")
        assert code == DONE, said
        assert "01_cents: contracted." in said
        assert place.data("contract", "02_split")[0] == DONE
        assert place.phases() == {"01_cents": "contracted", "02_split": "contracted"}
        assert place.query("SELECT count(*) FROM information_schema.columns WHERE table_name = 'books'"
                           " AND column_name = 'author'") == 0  # fmt: skip
        assert "No migration is open." in place.run("contract")[1]

    def test_one_file_of_a_folder_can_be_named_unless_one_before_it_was_forgotten(self, place: Place) -> None:
        code, said = place.run("expand", place.folder / "02_split.yaml")
        assert code == FAILED
        assert "01_cents.yaml comes before 02_split.yaml" in said
        assert place.phases() == {}
        assert place.run("expand", place.folder / "01_cents.yaml")[0] == DONE
        assert place.phases() == {"01_cents": "contractable"}
        assert place.run("expand", place.folder / "02_split.yaml")[0] == DONE
        assert list(place.phases()) == ["01_cents", "02_split"]

    def test_expanded_twice_is_expanded_once(self, place: Place) -> None:
        assert place.run("expand", place.folder)[0] == place.run("expand", place.folder)[0] == DONE
        assert len(place.data("ledger")[1]) == 2

    def test_aborted_it_leaves_no_trace_in_the_schema_and_may_come_again(self, place: Place) -> None:
        place.run("expand", place.folder)
        code, said = place.run("abort")
        assert (code, "02_split: aborted." in said) == (DONE, True)
        assert place.run("abort", place.folder)[0] == DONE
        assert place.query("SELECT count(*) FROM information_schema.columns WHERE table_name = 'books'") == 3
        assert place.run("expand", place.folder)[0] == DONE

    def test_a_plan_shows_the_sql_of_each_phase_and_changes_nothing(self, place: Place) -> None:
        code, said = place.run("plan", place.folder)
        assert code == DONE, said
        for text in ("expand", "backfill and verify", "contract", "abort", 'ADD COLUMN "cents" bigint'):
            assert text in said
        assert place.run("expand", place.folder, "--dry-run")[1] == said
        assert [one["version"] for one in place.data("plan", place.folder)[1]] == ["01_cents", "02_split"]
        assert place.query("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\_%'") == 0
        place.run("expand", place.folder)
        assert "All of them were applied." in place.run("plan", place.folder)[1]


class TestWhatIsRefused:
    @pytest.mark.parametrize("command", ["expand", "ledger", "contract"])
    def test_a_file_that_was_edited_after_it_was_applied(self, place: Place, command: str) -> None:
        place.run("expand", place.folder / "01_cents.yaml")
        (place.folder / "01_cents.yaml").write_text(PRICE + "# more\n")
        code, said = place.run(command, place.folder)
        assert code == FAILED
        assert "01_cents.yaml was edited after it was applied" in said
        assert place.phases() == {"01_cents": "contractable"}

    def test_a_file_that_is_missing(self, place: Place) -> None:
        place.run("expand", place.folder)
        (place.folder / "01_cents.yaml").unlink()
        code, said = place.run("ledger", place.folder)
        assert (code, "01_cents.yaml was applied and is missing" in said) == (FAILED, True)

    def test_a_contract_while_an_older_version_is_connected_unless_it_is_overridden(self, place: Place) -> None:
        place.run("expand", place.folder)
        place.run("contract")
        url = open_database(place.url).environment("01_cents")["DATABASE_URL"]
        with psycopg.connect(url):
            code, said = place.run("contract")
            assert code == FAILED
            assert "version 01_cents has 1 session connected and needs the shape before 02_split" in said
            _, found = place.data("status")
            assert found["migrations"][1]["waits_for"][0].startswith("version 01_cents has 1 session connected")
            assert place.run("contract", "--override")[0] == DONE

    def test_an_abort_while_the_version_is_connected(self, place: Place) -> None:
        place.run("expand", place.folder)
        with psycopg.connect(open_database(place.url).environment("02_split")["DATABASE_URL"]):
            code, said = place.run("abort")
            assert (code, "02_split stays as it is: 1 session of it connected" in said) == (FAILED, True)
        assert place.phases()["02_split"] == "verified"

    def test_a_version_that_was_never_applied(self, place: Place) -> None:
        code, found = place.data("contract", "07_more")
        assert (code, found["error"]) == (FAILED, "not-found")

    def test_rows_that_cannot_be_filled_are_named_and_the_command_goes_on_after_they_were_changed(
        self, place: Place
    ) -> None:
        place.change("UPDATE books SET price = 1e30 WHERE id = 13")
        code, said = place.run("expand", place.folder)
        assert code == FAILED
        assert "01_cents: 1 rows cannot be filled" in said
        assert "id" in said and "13" in said
        place.change("UPDATE books SET price = 1 WHERE id = 13")
        assert place.run("expand", place.folder)[0] == DONE
        assert place.query("SELECT cents FROM public_01_cents.books WHERE id = 13") == 100

    @pytest.mark.parametrize(
        ("url", "code"),
        [
            ("", USAGE),
            ("postgresql://ada:tops3cret@127.0.0.1:1/shop", FAILED),
            ("sqlite:///tops3cret", USAGE),
            ("ada:tops3cret@host/shop", USAGE),
            ("postgresql+psycopg://ada:tops3cret@host/shop", USAGE),
            ("postgresql://ada:tops3cret@host:port/shop", USAGE),
        ],
    )
    def test_a_database_that_cannot_be_and_no_password_is_ever_shown(self, place: Place, url: str, code: int) -> None:
        found, said = place.run("status", url=url)
        assert found == code, said
        assert "tops3cret" not in said

    def test_a_duty_that_is_no_share_and_a_level_that_is_none(self, place: Place) -> None:
        assert place.run("expand", place.folder, "--duty", "0%")[0] == USAGE
        assert place.run("lint", place.folder, "--level", "loud")[0] == USAGE

    def test_files_that_are_no_migrations_with_everything_that_is_wrong(self, place: Place) -> None:
        (place.folder / "03_bad.yaml").write_text("operations:\n  - add_colum: {}\n")
        code, found = place.data("expand", place.folder)
        assert (code, found["error"]) == (USAGE, "invalid-config")
        assert place.run("status", place.folder / "none.yaml")[0] == FAILED


class TestABackfillOnItsWay:
    @pytest.fixture
    def slow(self, place: Place) -> Iterator[subprocess.Popen[str]]:
        """A backfill in another process that has begun and would take minutes."""
        place.change("INSERT INTO books SELECT i, 'A' || i || ' B' || i, i FROM generate_series(2001, 40000) i")
        process = place.start("expand", place.folder, "--duty", "1%")
        try:
            ready = "SELECT to_regclass('crossfade.backfills') IS NOT NULL"
            until(lambda: bool(place.query(ready)) and place.done() > 0, "a first batch")
            yield process
        finally:
            end(process)

    def test_ctrl_c_ends_it_at_the_next_boundary_says_how_to_go_on_and_loses_nothing(
        self, place: Place, slow: subprocess.Popen[str]
    ) -> None:
        before = place.done()
        slow.send_signal(signal.SIGINT)
        said, _ = slow.communicate(timeout=PATIENCE)
        assert slow.returncode == FAILED
        assert "ends at the next boundary" in said
        assert "Stopped; nothing is lost. The same command goes on from there." in said
        assert place.phases() == {"01_cents": "backfilling"}
        assert place.done() >= before
        assert place.run("expand", place.folder)[0] == DONE
        assert place.query("SELECT sum(cents - price * 100) FROM public_01_cents.books") == 0

    def test_a_second_ctrl_c_ends_it_where_it_is_and_it_goes_on_all_the_same(
        self, place: Place, slow: subprocess.Popen[str]
    ) -> None:
        assert slow.stdout is not None
        with psycopg.connect(place.url) as holder:
            holder.execute("LOCK books IN ACCESS EXCLUSIVE MODE")
            slow.send_signal(signal.SIGINT)
            while "boundary" not in slow.stdout.readline():
                assert slow.poll() is None
            slow.send_signal(signal.SIGINT)
            slow.communicate(timeout=PATIENCE)
        # The second one may find it on its way out, where Python has given its handlers up already.
        assert slow.returncode in (FAILED, -signal.SIGINT)
        assert place.run("backfill")[0] == DONE
        assert place.phases() == {"01_cents": "contractable"}

    def test_killed_it_goes_on_from_its_cursor(self, place: Place, slow: subprocess.Popen[str]) -> None:
        before = place.done()
        end(slow)
        until(lambda: place.run("backfill", "01_cents")[0] == DONE, "its session has ended")
        assert before > 0
        assert place.phases() == {"01_cents": "contractable"}

    def test_paused_it_waits_wherever_it_runs_and_resumed_it_goes_on(
        self, place: Place, slow: subprocess.Popen[str]
    ) -> None:
        assert place.data("pause")[1] == {"paused": ["01_cents"]}
        assert slow.stdout is not None
        while "waits: paused" not in slow.stdout.readline():
            assert slow.poll() is None
        code, said = place.run("status")
        assert (code, "paused" in said) == (DONE, True)
        seen = place.done()
        code, said = place.run("resume")
        assert (code, "goes on where it is being run" in said) == (DONE, True)
        until(lambda: place.done() > seen, "more rows")

    def test_nobody_else_may_work_on_the_migrations_meanwhile(self, place: Place, slow: subprocess.Popen[str]) -> None:
        code, found = place.data("backfill")
        assert (code, found["error"]) == (FAILED, "busy")

    def test_its_progress_is_told_in_rows_and_rate(self, place: Place, slow: subprocess.Popen[str]) -> None:
        _, found = place.data("status")
        (progress,) = found["migrations"][0]["progress"]
        assert 0 < progress["done"] < 40_000
        slow.send_signal(signal.SIGINT)
        said, _ = slow.communicate(timeout=PATIENCE)
        assert "rows" in said and "01_cents: backfill" in said


def test_who_stands_in_the_way_of_a_lock_is_told_and_nothing_is_ended_that_was_not_asked_for(place: Place) -> None:
    process = None
    try:
        with psycopg.connect(place.url, application_name="report") as holder:
            holder.execute("SELECT count(*) FROM books")
            process = place.start("expand", place.folder / "01_cents.yaml")
            assert process.stdout is not None
            while "in the way: report (pid" not in process.stdout.readline():
                assert process.poll() is None
            assert holder.execute("SELECT 1").fetchone() == (1,)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == DONE
    finally:
        if process is not None:
            end(process)


def test_without_rows_to_fill_now_the_backfill_is_left_for_later(place: Place) -> None:
    assert place.run("expand", place.folder, "--no-backfill")[0] == DONE
    assert place.phases() == {"01_cents": "expanded", "02_split": "expanded"}
    assert "is expanded: its backfill must be complete" in place.run("contract")[1]
    assert place.run("backfill")[0] == DONE
    assert place.phases() == {"01_cents": "contractable", "02_split": "verified"}


def test_a_status_with_files_shows_what_is_planned_and_a_ledger_its_checksums(place: Place) -> None:
    place.run("expand", place.folder / "01_cents.yaml")
    assert place.data("status", place.folder)[1]["planned"] == ["02_split"]
    (row,) = place.data("ledger", place.folder / "01_cents.yaml")[1]
    assert row["checksum"].startswith("sha256:") and row["expanded"] <= row["verified"]
    code, said = place.run("ledger")
    assert (code, row["checksum"][7:19] in said) == (DONE, True)


def test_a_schema_other_than_public_has_its_own_version_schemas(place: Place) -> None:
    place.change("CREATE SCHEMA shop; ALTER TABLE books SET SCHEMA shop")
    assert place.run("expand", place.folder, "--schema", "shop")[0] == DONE
    assert place.query("SELECT first FROM shop_02_split.books WHERE id = 3") == "A3"


def test_an_unknown_kind_of_url_names_those_that_are_known() -> None:
    with pytest.raises(Invalid, match="postgresql://, postgres://, mysql:// or mariadb://"):
        open_database("oracle://x")


class TestTheDisplay:
    def test_progress_says_rows_rate_and_what_is_left_or_what_it_waits_for(self) -> None:
        moving = progress(Progress(Phase.BACKFILLING, "books", 510_000, 1_000_000, 62_000.4, 7.9)).plain
        assert moving.startswith("books  ━")
        assert moving.endswith(" 51 %  510,000 of 1,000,000 rows, 62,000 rows/s, 8 s left")
        waiting = progress(Progress(Phase.BACKFILLING, "books", 5, 0, waits="a replica is 7 s behind")).plain
        assert waiting == "books  5 rows, waits: a replica is 7 s behind"

    def test_where_nothing_can_be_painted_over_only_what_it_waits_for_is_told_at_once(self) -> None:
        out = StringIO()
        with Display(Console(file=out, width=200), silent=False) as display:
            for done in range(1, 100):
                display.progress(Progress(Phase.BACKFILLING, "books", done, 100))
            display.progress(Progress(Phase.BACKFILLING, "books", 99, 100, waits="paused"))
            display.tell("an [odd] line")
        lines = out.getvalue().splitlines()
        assert len(lines) == 3
        assert lines[1].endswith("waits: paused") and lines[2] == "  an [odd] line"

    def test_with_json_nothing_is_told_before_the_end(self) -> None:
        out = StringIO()
        with Display(Console(file=out, force_terminal=True), silent=True) as display:
            display.tell("a line")
            display.progress(Progress(Phase.BACKFILLING, "books", 1, 2))
        assert out.getvalue() == ""
