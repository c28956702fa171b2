"""What goes wrong in the middle of a migration: kills at every boundary, restarts, locks, rows that cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from crossfade.databases.postgres.connection import check_url, safe
from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.databases.postgres.ledger import Ledger
from crossfade.databases.postgres.throttle import Limits
from crossfade.domain.errors import Busy, CrossfadeError, Invalid, Refused, Unavailable
from crossfade.domain.migrations.phases import Phase
from crossfade.spec.migrations import parse
from tests.databases.dying import CHANGES, MORE, everything, migration
from tests.databases.servers import WHEEL, Server, running
from tests.databases.shop import Heard, Shop

ROOT = Path(__file__).parents[2]
BIG = '"My Shop"."Big ""Table"""'


@pytest.fixture
def shop(postgres: Server) -> Iterator[Shop]:
    shop = Shop(postgres.url())
    yield shop
    shop.close()


def dies(url: str, at: int) -> tuple[int, str]:
    """Exit status and output of a process that migrates, and kills itself at a boundary; 0: at none."""
    command = [sys.executable, "-m", "tests.databases.dying", url, str(at)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr[-500:]


@pytest.mark.timeout(115)
def test_killed_at_every_boundary_of_every_phase_a_migration_goes_on_or_is_taken_back_without_loss(
    postgres: Server,
) -> None:
    template = Shop(postgres.url())
    name = template.direct.info.dbname
    template.close()
    status, said = dies(postgres.url(name), 0)
    assert status == 0, said
    boundaries = int(said)
    assert boundaries > 40
    killed = list(range(1, boundaries + 1))[:: 1 if os.environ.get("CROSSFADE_EVERY_BOUNDARY") else 3]
    with ThreadPoolExecutor(3) as pool:
        assert [one for one in pool.map(lambda at: after(postgres, name, at), killed) if one] == []


def after(postgres: Server, name: str, at: int) -> str:
    """What is wrong when the work is done again that was killed; nothing in a good world."""
    url = postgres.url(name)
    status, said = dies(url, at)
    if status != -signal.SIGKILL:
        return f"{at}: {status} {said}"
    with psycopg.connect(url, autocommit=True) as connection:
        contracted = [r for r in Ledger(connection).records() if r.version == "02" and r.phase is Phase.CONTRACTED]
        if not contracted:  # the release that runs goes on writing
            connection.execute("INSERT INTO books (title, price) VALUES ('in between', 77)")
    everything(url)
    with psycopg.connect(url, autocommit=True) as connection:
        prices = [price * 100 for (price,) in connection.execute("SELECT price FROM books ORDER BY id")]
        authors = connection.execute("SELECT name FROM authors ORDER BY id").fetchall()
        left = connection.execute(
            "SELECT (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relkind = 'r'"
            " AND attname LIKE '\\_cf%' AND NOT attisdropped) + (SELECT count(*) FROM pg_index WHERE NOT indisvalid)"
        ).fetchone()
    wrong = []
    if prices != [*range(1, 301), *([] if contracted else [77])]:
        wrong.append(f"prices {prices[-3:]}")
    if authors != [("Ada Byron",), ("Alan Turing",)]:
        wrong.append(f"authors {authors}")
    if left != (0,):
        wrong.append(f"left {left}")
    return f"{at}: {wrong}" if wrong else ""


def test_a_server_that_restarts_in_the_middle_of_a_backfill_finds_it_going_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running(WHEEL, tmp_path_factory.mktemp("own")) as server:
        shop = Shop(server.url())
        shop.direct.execute("INSERT INTO bare SELECT g, 'y' || g FROM generate_series(1, 60000) g")
        one = migration("02", "- add_column: {table: bare, column: {name: z, type: text}, up: \"y || '!'\"}")
        shop.database.expand(one, shop.heard.watch())
        done: list[object] = []

        def fill() -> None:
            try:
                done.append(shop.database.backfill("02", shop.heard.watch(duty=0.2)))
            except CrossfadeError as error:
                done.append(error)

        thread = threading.Thread(target=fill)
        thread.start()
        wait(lambda: any(number.done for number in shop.heard.numbers))
        server.restart(signal.SIGQUIT)
        thread.join(60)
        if done != [True]:
            assert isinstance(done[0], Unavailable | Refused), done
            assert shop.database.backfill("02", shop.heard.watch())
        with psycopg.connect(shop.url) as connection:
            assert connection.execute("SELECT count(*) FROM bare WHERE z = y || '!'").fetchone() == (60300,)


def wait(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestLocks:
    def test_who_stands_in_the_way_is_named_and_everything_is_as_before(self, shop: Shop) -> None:
        shop.database = PostgresDatabase(shop.url, lock_tries=3)
        with psycopg.connect(shop.url, application_name="report") as reader:
            reader.execute("SELECT count(*) FROM books")
            with pytest.raises(
                Refused, match=r"no lock after 3 tries of 100 ms; all is as before\. In the way: report"
            ) as caught:
                shop.up("02", CHANGES)
            assert "SELECT count(*) FROM books" in caught.value.fields["blockers"][0]
        assert list(shop.database.ledger()) == [] and shop.names() == []
        shop.up("02", CHANGES)

    def test_writers_pass_while_a_migration_waits_for_a_long_reader(self, shop: Shop) -> None:
        waits: list[float] = []
        stop = threading.Event()

        def write() -> None:
            with psycopg.connect(shop.url, autocommit=True) as connection:
                while not stop.is_set():
                    began = time.monotonic()
                    connection.execute("UPDATE books SET price = price WHERE id = 1")
                    waits.append(time.monotonic() - began)

        writer = threading.Thread(target=write)
        with psycopg.connect(shop.url) as reader:
            reader.execute("SELECT count(*) FROM books")
            writer.start()
            migrating = threading.Thread(target=lambda: shop.up("02", CHANGES))
            migrating.start()
            wait(lambda: any("in the way" in line for line in shop.heard.lines))
            passed = len(waits)
            wait(lambda: len(waits) > passed + 50)  # they go on while it waits
            reader.rollback()
        migrating.join(30)
        stop.set()
        writer.join(10)
        assert [one.phase for one in shop.database.ledger()] == [Phase.VERIFIED]

    def test_blockers_are_ended_when_somebody_says_so(self, shop: Shop) -> None:
        with psycopg.connect(shop.url, application_name="forgotten") as reader:
            reader.execute("SELECT count(*) FROM books")
            shop.database.expand(migration("02", CHANGES), shop.heard.watch(cancel_blockers=True))
            with pytest.raises(psycopg.OperationalError):
                reader.execute("SELECT 1")
        assert any(line.startswith("ends forgotten") for line in shop.heard.lines)

    def test_an_invalid_index_that_was_left_is_built_again(self, shop: Shop) -> None:
        shop.direct.execute("INSERT INTO bare VALUES (1, 'y1')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            shop.direct.execute("CREATE UNIQUE INDEX CONCURRENTLY y_once ON bare (y)")
        with pytest.raises(CrossfadeError, match="a name that no relation of the schema has"):
            shop.up("02", "- create_index: {name: y_once, table: bare, columns: [y], unique: true}")
        shop.direct.execute("DROP INDEX y_once")
        with pytest.raises(Refused, match=r"two rows are the same: Key \(y\)=\(y1\) is duplicated"):
            shop.up("02", "- create_index: {name: y_once, table: bare, columns: [y], unique: true}")
        assert shop.direct.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)
        shop.direct.execute("DELETE FROM bare WHERE ctid = (SELECT max(ctid) FROM bare WHERE y = 'y1')")
        assert shop.database.backfill("02", shop.heard.watch())

    def test_a_second_worker_is_told_who_is_at_work(self, shop: Shop) -> None:
        with (
            psycopg.connect(shop.url, autocommit=True, application_name="crossfade") as other,
            Ledger(other).held(),
            pytest.raises(Busy, match="are being worked on by pid"),
        ):
            shop.up("02", CHANGES)


class TestBackfill:
    def test_rows_that_cannot_be_filled_are_named_and_the_rest_is_filled(self, shop: Shop) -> None:
        shop.direct.execute("UPDATE bare SET y = 'none' WHERE x IN (17, 200)")
        one = migration(
            "02", '- alter_column: {table: bare, column: y, type: int, up: "substr(y, 2)::int", down: "\'y\' || y"}'
        )
        shop.database.expand(one, shop.heard.watch())
        with pytest.raises(Refused, match="2 rows cannot be filled") as caught:
            shop.database.backfill("02", shop.heard.watch())
        assert all('invalid input syntax for type integer: "one"' in line for line in caught.value.fields["samples"])
        (record,) = shop.database.ledger()
        assert (
            record.phase is Phase.BACKFILLING
            and record.trouble == "2 rows cannot be filled"
            and len(record.samples) == 2
        )
        with pytest.raises(Refused, match="its backfill must be complete and verified first"):
            shop.contract("02")
        shop.ask("", "UPDATE bare SET y = 'y5' WHERE y = 'none'")
        assert shop.database.backfill("02", shop.heard.watch())

    def test_a_row_that_breaks_a_condition_is_named_before_anything_relies_on_it(self, shop: Shop) -> None:
        one = migration(
            "02",
            "- alter_column: {table: books, column: price, check: {name: even, constraint: price % 2 = 0}, up: price, down: price}",
        )
        shop.database.expand(one, shop.heard.watch())
        with pytest.raises(Refused) as caught:
            shop.database.backfill("02", shop.heard.watch())
        assert "150" in caught.value.what or "rows cannot be filled" in caught.value.what, caught.value.what

    def test_it_waits_for_reasons_and_says_which(self, shop: Shop) -> None:
        shop.database.expand(migration("02", CHANGES), shop.heard.watch())
        shop.database.pause("02", True)
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(shop.database.backfill("02", shop.heard.watch())))
        thread.start()
        wait(lambda: any(number.waits == "paused" for number in shop.heard.numbers))
        shop.heard.throttle = "the error budget burns"
        shop.database.pause("02", False)
        wait(lambda: any(number.waits == "the error budget burns" for number in shop.heard.numbers))
        shop.heard.throttle = ""
        thread.join(30)
        assert done == [True]

    def test_a_transaction_that_is_open_too_long_holds_it_up(self, shop: Shop) -> None:
        database = PostgresDatabase(shop.url, limits=Limits(oldest=0.05))
        database.expand(migration("02", CHANGES), shop.heard.watch())
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(database.backfill("02", shop.heard.watch())))
        with psycopg.connect(shop.url, application_name="report") as reader:
            reader.execute("SELECT 1")
            time.sleep(0.1)
            thread.start()
            wait(lambda: any("is open for" in number.waits for number in shop.heard.numbers))
        thread.join(30)
        assert done == [True]

    def test_cancelled_it_goes_on_where_it_was(self, shop: Shop) -> None:
        shop.direct.execute("INSERT INTO bare SELECT g, 'y' || g FROM generate_series(1, 30000) g")
        shop.database.expand(
            migration("02", "- add_column: {table: bare, column: {name: z, type: text}, up: y}"), shop.heard.watch()
        )
        heard = Heard()

        def progress(number: Any) -> None:
            heard.numbers.append(number)
            if number.done:
                heard.cancel.set()

        watch = heard.watch(duty=0.5)
        object.__setattr__(watch, "progress", progress)
        assert shop.database.backfill("02", watch) is False
        done = shop.database.ledger()[0].progress[0].done
        assert 0 < done < 30000
        assert shop.database.backfill("02", shop.heard.watch())
        assert shop.database.ledger()[0].progress[0].done == 30300


class TestTables:
    def test_quoted_and_mixed_names_and_another_schema(self, postgres: Server) -> None:
        url = postgres.url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute('CREATE SCHEMA "My Shop"')
            connection.execute(
                f'CREATE TABLE {BIG} ("Key Col" text PRIMARY KEY, "select" int, "ünïcode" text)'.encode()
            )
            rows = "SELECT 'k''' || g, g, 'x' FROM generate_series(1, 100) g"
            connection.execute(f"INSERT INTO {BIG} {rows}".encode())
        database, heard = PostgresDatabase(url, schema="My Shop"), Heard()
        one = migration(
            "02",
            """- alter_column: {table: 'Big "Table"', column: select, type: text, up: '"select"::text || "ünïcode"', down: 'rtrim("select", ''x'')::int'}""",
        )
        database.expand(one, heard.watch())
        assert database.backfill("02", heard.watch())
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute('SET search_path = "My Shop_02"')
            query = f'SELECT "select" FROM {BIG.partition(chr(46))[2]}'  # noqa: S608 - a constant
            found = connection.execute(f'{query} WHERE "Key Col" = %s'.encode(), ("k'7",))
            assert found.fetchone() == ("7x",)
        database.contract("02", heard.watch())

    def test_a_table_without_a_key_and_a_partitioned_one_are_walked_block_by_block(self, shop: Shop) -> None:
        shop.direct.execute("INSERT INTO bare SELECT g, repeat('y', 500) FROM generate_series(1, 3000) g")
        shop.up(
            "02",
            "- add_column: {table: bare, column: {name: n, type: int}, up: length(y)}\n"
            "- add_column: {table: log, column: {name: n, type: int}, up: length(what)}",
        )
        assert shop.one("02", "SELECT count(*) FROM bare WHERE n = length(y)") == 3300
        assert shop.one("02", "SELECT count(*) FROM log WHERE n = length(what)") == 300
        shop.contract("02")


def test_a_replica_of_a_version_comes_as_a_user_of_its_own_who_sees_its_shape(shop: Shop) -> None:
    shop.up("02", CHANGES)
    env = shop.database.environment("02")
    assert env["CROSSFADE_SCHEMA"] == "public_02"
    with psycopg.connect(env["DATABASE_URL"], autocommit=True) as replica:
        assert replica.execute("SELECT current_user::text, current_schema()::text").fetchone() == (
            "postgres_public_02",
            "public_02",
        )
        assert replica.execute("SELECT price::text FROM books WHERE id = 250").fetchone() == ("2.50",)
        replica.execute("UPDATE books SET price = 3 WHERE id = 250")
        assert shop.database.replicas("02") == 1
    assert shop.one("", "SELECT price FROM books WHERE id = 250") == 300
    shop.abort("02")
    assert shop.direct.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'postgres_public_02'").fetchone() == (0,)


def test_a_user_who_may_not_make_others_gets_the_shape_by_options(shop: Shop) -> None:
    shop.direct.execute(
        "CREATE ROLE owner LOGIN; ALTER SCHEMA public OWNER TO owner; GRANT CREATE ON DATABASE "
        + shop.direct.info.dbname
        + " TO owner"
    )
    for table in ("books", "authors", "loans", "bare", "log", "log_25", "log_26"):
        shop.direct.execute(f"ALTER TABLE {table} OWNER TO owner".encode())
    url = shop.url.replace("postgres@", "owner@")
    database, heard = PostgresDatabase(url), Heard()
    database.expand(migration("02", CHANGES), heard.watch())
    assert database.backfill("02", heard.watch())
    env = database.environment("02")
    with psycopg.connect(env["DATABASE_URL"], autocommit=True) as replica:
        assert replica.execute("SELECT current_user::text, current_schema()::text").fetchone() == ("owner", "public_02")
        assert database.replicas("02") == 1
    database.contract("02", heard.watch())
    shop.direct.execute("REASSIGN OWNED BY owner TO postgres; DROP OWNED BY owner")


def test_an_edited_a_missing_and_a_late_file_are_refused(shop: Shop) -> None:
    first, second = migration("02", CHANGES), migration("04", MORE)
    shop.database.expand(first, shop.heard.watch())
    edited = parse("02.yaml", "operations:\n" + CHANGES + "# edited\n")
    with pytest.raises(Refused, match=r"02.yaml was edited after it was applied"):
        shop.database.check([edited, second])
    with pytest.raises(Refused, match=r"02.yaml was applied and is missing"):
        shop.database.check([second])
    shop.database.expand(second, shop.heard.watch())
    with pytest.raises(Refused, match=r"03.yaml stands before 04.yaml, which was applied already"):
        shop.database.check([first, migration("03", MORE), second])
    shop.database.check([first, second, migration("05", MORE)])


def test_a_password_is_never_shown() -> None:
    with pytest.raises(Invalid) as caught:
        check_url("postgresql://ada:s3cret@[::1/shop")
    assert "s3cret" not in str(caught.value)
    assert (
        safe("postgresql://ada:s3cret@db.example:5432/shop?sslmode=require&password=s3cret")
        == "postgresql://ada@db.example:5432/shop"
    )
    with pytest.raises(Unavailable) as away:
        PostgresDatabase("postgresql://ada:s3cret@127.0.0.1:1/shop").ledger()
    assert "s3cret" not in str(away.value)
