"""MariaDB 10.11 and the real pt-online-schema-change, while clients of an old release write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pymysql
import pytest
from typer.testing import CliRunner

from crossfade.cli.main import app
from crossfade.databases.mysql.connection import connect, impatiently, place, rows
from crossfade.databases.mysql.database import MysqlDatabase
from crossfade.databases.mysql.leftovers import sweep
from crossfade.databases.mysql.online import Change
from crossfade.databases.mysql.verify import verify
from crossfade.domain.errors import Busy, CrossfadeError, Invalid, NotFound, Refused, Unavailable
from crossfade.domain.migrations.operations import Migration, Phased
from crossfade.domain.migrations.phases import Phase, Progress
from crossfade.ports.databases import Watch
from tests.databases.mariadb import PASSWORD, MariaDatabase, Writers

PATIENCE = 90.0
STOCK = Phased(
    expand=("ALTER TABLE items ADD COLUMN stock int NOT NULL DEFAULT 7",),
    abort=("ALTER TABLE items DROP COLUMN stock",),
)
MANY = Phased(
    expand=(
        "CREATE TABLE shelves (id int PRIMARY KEY)",
        "ALTER TABLE items ADD COLUMN stock int NOT NULL DEFAULT 7, MODIFY price bigint NOT NULL",
        "CREATE INDEX by_price ON items (price)",
        "INSERT INTO shelves VALUES (1)",
    ),
    contract=("ALTER TABLE items DROP COLUMN note",),
    abort=("ALTER TABLE items DROP COLUMN stock, MODIFY price int NOT NULL, DROP INDEX by_price", "DROP TABLE shelves"),
)


def migration(sql: Phased, version: str = "01_stock") -> Migration:
    return Migration(version, "sha256:" + version, f"{version}.sql", sql=sql)


@dataclass
class Follower:
    """A watch that keeps what it was told."""

    reason: str = ""
    duty: float = 1.0
    lines: list[str] = field(default_factory=list)
    seen: list[Progress] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def watch(self) -> Watch:
        return Watch(self.lines.append, self.seen.append, lambda: self.reason, self.cancel, self.duty)


class Backfilling:
    """A backfill in a thread of its own."""

    def __init__(self, database: MysqlDatabase, follower: Follower, version: str = "01_stock") -> None:
        self.done: bool | None = None
        self.error: CrossfadeError | None = None

        def run() -> None:
            try:
                self.done = database.backfill(version, follower.watch)
            except CrossfadeError as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def end(self) -> bool | None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.done


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tools(database: MariaDatabase) -> list[int]:
    """Processes of the tool that work on this database."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdecimal():
            try:
                line = (one / "cmdline").read_bytes()
            except OSError:
                continue
            if b"pt-online-schema-change" in line and f"D={database.name},".encode() in line:
                found.append(int(one.name))
    return found


def phase(database: MysqlDatabase, version: str = "01_stock") -> Phase:
    return [one.phase for one in database.ledger() if one.version == version][-1]


def test_a_table_is_changed_while_it_is_written_and_changed_back(maria: MariaDatabase) -> None:
    maria.items(20_000)
    database, follower = MysqlDatabase(maria.url), Follower()
    with Writers(maria) as writers:
        (plan,) = database.plan([migration(MANY)])
        assert [fill.table.name for fill in plan.fills] == ["items"] and not plan.hazards
        assert maria.query("SHOW TABLES") == [("items",)]
        database.expand(migration(MANY), follower.watch)
        assert phase(database) is Phase.EXPANDED and "stock" not in maria.columns()
        assert database.backfill("01_stock", follower.watch) and database.backfill("01_stock", follower.watch)
        assert phase(database) is Phase.VERIFIED
        columns = maria.columns()
        assert columns["stock"] == "int(11)" and columns["price"] == "bigint(20)" and maria.left() == []
        assert maria.query("SELECT COUNT(*) FROM shelves") == [(1,)]
        until(lambda: writers.writes > 200)
        database.abort("01_stock", follower.watch)
        assert set(maria.columns()) == {"id", "name", "price", "note"} and maria.columns()["price"] == "int(11)"
        assert (
            phase(database) is Phase.ABORTED and maria.left() == [] and maria.query("SHOW TABLES LIKE 'shelves'") == []
        )
        database.expand(migration(MANY), follower.watch)
        assert database.backfill("01_stock", follower.watch)
        database.contract("01_stock", follower.watch)
        assert set(maria.columns()) == {"id", "name", "price", "stock"} and maria.left() == []
        assert phase(database) is Phase.CONTRACTED
    writers.check()
    assert any(line.startswith("verified items: 2") for line in follower.lines)
    assert maria.query("SELECT COUNT(*) FROM items WHERE name LIKE 'item %' AND price = id % 97") == [(20_000,)]
    with pytest.raises(Refused, match="old shape is gone"):
        database.abort("01_stock", follower.watch)


def test_a_backfill_waits_while_it_is_paused_or_throttled_and_shows_how_far_it_is(maria: MariaDatabase) -> None:
    maria.items(40_000)
    database, follower = MysqlDatabase(maria.url), Follower(duty=0.05)
    with Writers(maria) as writers:
        database.expand(migration(STOCK), follower.watch)
        database.pause("01_stock", True)
        run = Backfilling(database, follower)
        until(lambda: len(maria.left()) == 4 and follower.seen[-1].waits == "paused")
        with pytest.raises(Busy, match="connection"):
            database.abort("01_stock", follower.watch)
        follower.reason = "the error budget burns"
        database.pause("01_stock", False)
        until(lambda: follower.seen[-1].waits == "the error budget burns")
        assert maria.query("SELECT COUNT(*) FROM crossfade_1_expand_0_new WHERE name LIKE 'item %'") == [(0,)]
        follower.reason = ""
        until(lambda: any(0 < one.done < one.total and not one.waits for one in follower.seen))
        assert "stock" not in maria.columns()
        assert run.end() is True
    writers.check()
    assert "stock" in maria.columns() and maria.left() == []


def test_cancelling_and_aborting_in_the_middle_leave_nothing_behind(maria: MariaDatabase) -> None:
    maria.items(40_000)
    database, follower = MysqlDatabase(maria.url), Follower(duty=0.05)
    with Writers(maria) as writers:
        database.expand(migration(STOCK), follower.watch)
        run = Backfilling(database, follower)
        until(lambda: any(one.done for one in follower.seen))
        assert len(maria.left()) == 4 and tools(maria)
        lines = b"".join(
            Path(f"/proc/{pid}/{part}").read_bytes() for pid in tools(maria) for part in ("cmdline", "environ")
        )
        assert PASSWORD.encode() not in lines and b"pass" not in lines.lower().replace(b"bypass", b"")
        follower.cancel.set()
        assert run.end() is False and run.error is None
        assert maria.left() == [] and tools(maria) == [] and phase(database) is Phase.BACKFILLING
        database.abort("01_stock", Follower().watch)
    writers.check()
    assert maria.left() == [] and "stock" not in maria.columns() and phase(database) is Phase.ABORTED


def test_a_tool_that_is_killed_leaves_nothing_and_the_next_run_begins_anew(maria: MariaDatabase) -> None:
    maria.items(40_000)
    database, follower = MysqlDatabase(maria.url), Follower(duty=0.05)
    with Writers(maria) as writers:
        database.expand(migration(STOCK), follower.watch)
        run = Backfilling(database, follower)
        until(lambda: any(one.done for one in follower.seen))
        for pid in tools(maria):
            os.kill(pid, signal.SIGKILL)
        assert run.end() is None and run.error is not None and "killed (signal 9)" in run.error.what
        assert "killed" in database.ledger()[0].trouble and maria.left() == []
        assert database.backfill("01_stock", Follower().watch)
    writers.check()
    assert "stock" in maria.columns() and database.ledger()[0].trouble == ""


DRIVER = """
import os, signal, sys, threading
from crossfade.databases.mysql.database import MysqlDatabase
from crossfade.ports.databases import Watch
def here(word):
    if word.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
MysqlDatabase(sys.argv[1]).backfill("01_stock", Watch(here, lambda one: here(f"progress {one.done}"), lambda: "", threading.Event()))
"""


@pytest.mark.parametrize(
    ("where", "then"),
    [
        ("progress", "abort"),
        ("progress", "resume"),
        ("verify", "resume"),
        ("swap", "abort"),
        ("swap", "resume"),
        ("swap", "swapped"),
    ],
)
def test_a_killed_process_is_gone_on_from_or_taken_back(
    maria: MariaDatabase, tmp_path: Path, where: str, then: str
) -> None:
    maria.items(5_000)
    database, follower = MysqlDatabase(maria.url), Follower()
    with Writers(maria) as writers:
        database.expand(migration(STOCK), follower.watch)
        # The URL is an argument only here: `ps` shows it.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
        ended = subprocess.run(
            [sys.executable, "-c", DRIVER, maria.url, where], env=environment, check=False, timeout=PATIENCE
        )
        assert ended.returncode == -signal.SIGKILL
        until(lambda: not tools(maria))
        if then == "swapped":  # and killed before it was noted
            with connect(place(maria.url)) as connection:
                sql = "RENAME TABLE items TO crossfade_1_expand_0_old, crossfade_1_expand_0_new TO items"
                impatiently(connection, place(maria.url), sql, threading.Event())
        until(lambda: _free(database, follower) if then == "abort" else _filled(database, follower))
        until(lambda: writers.writes > 20)
    writers.check()
    assert maria.left() == [] and ("stock" in maria.columns()) is (then != "abort")


def _free(database: MysqlDatabase, follower: Follower) -> bool:
    """The server notices a moment later that a client is gone."""
    try:
        database.abort("01_stock", follower.watch)
    except Busy:
        return False
    return True


def _filled(database: MysqlDatabase, follower: Follower) -> bool:
    try:
        return database.backfill("01_stock", follower.watch)
    except Busy:
        return False


def test_what_cannot_be_done_is_refused_with_its_reason_before_anything_changes(maria: MariaDatabase) -> None:
    maria.items(100)
    maria.query(
        "CREATE TABLE orders (id int PRIMARY KEY, item int, CONSTRAINT of_item FOREIGN KEY (item) REFERENCES items (id))"
    )
    maria.query("CREATE TABLE heap (a int)")
    maria.query("CREATE TABLE old (id int PRIMARY KEY) ENGINE=MyISAM")
    maria.query("CREATE TABLE noted (id int PRIMARY KEY, a int)")
    maria.query("CREATE TRIGGER mine AFTER INSERT ON noted FOR EACH ROW DO 0")
    maria.query("CREATE TABLE `it's` (id int PRIMARY KEY)")
    before = maria.query("SHOW TABLES")
    database, follower = MysqlDatabase(maria.url), Follower()
    for sql, reason in (
        ("ALTER TABLE items ADD a int", "foreign keys refer to .of_item of orders."),
        ("ALTER TABLE heap ADD b int", "no primary key"),
        ("ALTER TABLE old ADD b int", "only tables of InnoDB"),
        ("ALTER TABLE noted ADD b int", "triggers of its own .mine."),
        ("ALTER TABLE nowhere ADD b int", "there is no table nowhere"),
        ("ALTER TABLE orders DROP COLUMN item", "server says: .*item|drops item"),
        ("ALTER TABLE orders ADD a int NOT NULL", "NOT NULL without a default"),
        ("ALTER TABLE orders CHANGE item thing int", "renames the column item"),
        ("ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES items (id)", "changes foreign keys"),
        ("ALTER TABLE orders ADD a int, ADD UNIQUE (item)", "the copy would lose rows"),
        ("ALTER TABLE orders DROP PRIMARY KEY, ADD PRIMARY KEY (id, item)", "the key by which the copy follows"),
        ("ALTER TABLE orders ADD nonsense", "the server says"),
        ("DROP TABLE orders", "takes something away"),
        ("ALTER TABLE `it's` ADD b int", "no name that the tool can take"),
        ("CREATE TABLE IF NOT EXISTS heap (a int)", "there is a table heap already"),
    ):
        one = migration(Phased(expand=(sql,)))
        (plan,) = database.plan([one])
        assert any(hazard.blocks for hazard in plan.hazards), sql
        with pytest.raises(Refused, match=reason):
            database.expand(one, follower.watch)
    assert database.ledger() == []
    with pytest.raises(Invalid, match="operations are PostgreSQL's"):
        database.plan([Migration("02", "sha256:2", "02.yaml")])
    with pytest.raises(Refused, match=r"nothing.*exist"):
        database.expand(migration(Phased(expand=("CREATE VIEW v AS SELECT * FROM nothing",))), follower.watch)
    assert database.ledger() == [] and maria.left() == ["mine"]
    assert {one for (one,) in maria.query("SHOW TABLES")} == {one for (one,) in before} | {
        "crossfade_migrations",
        "crossfade_copies",
    }


def test_a_table_that_refers_to_others_keeps_its_foreign_keys(maria: MariaDatabase) -> None:
    maria.query("CREATE TABLE shops (id int PRIMARY KEY)")
    maria.query("INSERT INTO shops VALUES (1)")
    maria.query(
        "CREATE TABLE items (id int PRIMARY KEY, shop int, CONSTRAINT of_shop FOREIGN KEY (shop) REFERENCES shops (id))"
    )
    maria.query("INSERT INTO items VALUES (1, 1), (2, NULL)")
    database, follower = MysqlDatabase(maria.url), Follower()
    database.expand(migration(STOCK), follower.watch)
    assert database.backfill("01_stock", follower.watch)
    found = maria.query(
        "SELECT TABLE_NAME, REFERENCED_TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = DATABASE()"
    )
    assert found == [("items", "shops")]


def test_odd_names_types_partitions_and_texts_are_copied_as_they_are(maria: MariaDatabase) -> None:
    maria.query(
        "CREATE TABLE `Odd näme%-x` (`k%s` int PRIMARY KEY, `v 1` varchar(9), g int GENERATED ALWAYS AS (`k%s` + 1) STORED,"
        " d decimal(9,2), e enum('a','b'), b blob, t timestamp NULL, f float, j json, n bit(3))"
    )
    maria.query("INSERT INTO `Odd näme%-x` VALUES (1, 'ü', DEFAULT, 1.5, 'a', 0xff00, NOW(), 0.1, '{}', b'101')")
    maria.query("CREATE TABLE parts (id int PRIMARY KEY, a int) PARTITION BY HASH (id) PARTITIONS 3")
    maria.query("CREATE TABLE texts (id int PRIMARY KEY, a text, FULLTEXT (a))")
    maria.query("INSERT INTO parts SELECT seq, seq FROM seq_1_to_100")
    sql = Phased(
        expand=(
            "ALTER TABLE `Odd näme%-x` ADD c int COMMENT '100% it''s', MODIFY d decimal(12,4), MODIFY e enum('a','b','c'), MODIFY f double",
            "ALTER TABLE parts ADD b int",
            "ALTER TABLE texts ADD b int",
        )
    )
    database, follower = MysqlDatabase(maria.url), Follower()
    database.expand(migration(sql), follower.watch)
    assert database.backfill("01_stock", follower.watch)
    assert len([line for line in follower.lines if line.startswith("verified")]) == 3
    assert maria.query("SELECT d, e, b, c FROM `Odd näme%-x`")[0][2:] == (b"\xff\x00", None)
    assert maria.columns("parts").keys() == {"id", "a", "b"} and maria.left() == []


def test_rows_that_would_be_changed_are_named_and_the_table_stays(maria: MariaDatabase) -> None:
    maria.query(
        "CREATE TABLE items (a varchar(10), b int, name varchar(40) COLLATE utf8mb4_general_ci, PRIMARY KEY (a, b))"
    )
    maria.query("INSERT INTO items VALUES ('x', 1, 'Ünï'), ('x', 2, 'has more than ten'), ('y%%', 1, NULL)")
    shorter = Phased(expand=("ALTER TABLE items MODIFY name varchar(10)",))
    database, follower = MysqlDatabase(maria.url), Follower()
    database.expand(migration(shorter), follower.watch)
    with pytest.raises(Refused) as caught:
        database.backfill("01_stock", follower.watch)
    assert "items" in caught.value.what
    assert maria.left() == [] and maria.columns()["name"] == "varchar(40)" and phase(database) is Phase.BACKFILLING
    maria.query("UPDATE items SET name = 'short' WHERE b = 2")
    assert database.backfill("01_stock", follower.watch)


def test_a_comparison_sees_what_is_missing_more_or_different(maria: MariaDatabase) -> None:
    maria.query("CREATE TABLE a (x int, y varchar(9), v varchar(9), n int, PRIMARY KEY (x, y))")
    maria.query("INSERT INTO a SELECT seq % 40, CONCAT('k', seq), 'v', seq FROM seq_1_to_1000")
    maria.query("CREATE TABLE b LIKE a")
    maria.query("INSERT INTO b SELECT * FROM a")
    never = threading.Event()
    with connect(place(maria.url)) as connection:
        same = verify(connection, "a", "b", never)
        assert (same.rows, same.wrong, same.finished) == (1000, 0, True)
        maria.query("UPDATE b SET v = 'V' WHERE n = 77")
        maria.query("DELETE FROM b WHERE n = 78")
        found = verify(connection, "a", "b", never)
        assert found.wrong == 2 and sorted(found.samples) == [
            "37, k77: v differs",
            "38, k78: it is missing in the copy",
        ]
        maria.query("UPDATE b SET v = 'v' WHERE n = 77")
        maria.query("INSERT INTO b SELECT * FROM a WHERE n = 78")
        maria.query("INSERT INTO b VALUES (99, 'more', 'v', 1)")
        assert verify(connection, "a", "b", never).wrong == 1
        never.set()
        assert not verify(connection, "a", "b", never).finished


def test_what_is_swept_away_ends_no_client_whose_write_is_in_a_trigger(maria: MariaDatabase) -> None:
    maria.items(10)
    change = Change("items", "", "crossfade_1_expand_0")
    maria.query(f"CREATE TABLE {change.new} LIKE items")
    maria.query(
        f"CREATE TRIGGER pt_osc_ins AFTER INSERT ON items FOR EACH ROW REPLACE INTO `{change.new}` (id, name, price) VALUES (NEW.id, SLEEP(1), 1)"  # noqa: S608 - a test's own names
    )
    errors: list[Exception] = []

    def write() -> None:
        try:
            maria.query("INSERT INTO items (name, price) VALUES ('w', 1)")
        except pymysql.MySQLError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'REPLACE INTO %'"
    until(lambda: maria.query(seen))
    with connect(place(maria.url)) as connection:
        sweep(connection, place(maria.url), change)
    writer.join(PATIENCE)
    assert errors == [] and maria.left() == [] and maria.query("SELECT COUNT(*) FROM items") == [(11,)]


def test_a_lock_that_cannot_be_had_holds_nobody_up_for_long(maria: MariaDatabase) -> None:
    maria.items(10)
    with maria.connect() as reader, connect(place(maria.url)) as connection:
        reader.begin()
        rows(reader, "SELECT * FROM items")
        with pytest.raises(Refused, match="locked by others"):
            impatiently(connection, place(maria.url), "RENAME TABLE items TO things", threading.Event(), tries=3)
        reader.commit()
        impatiently(connection, place(maria.url), "RENAME TABLE items TO things", threading.Event())
        assert rows(connection, "SELECT 1") == [(1,)]


def test_migrations_come_one_after_the_other(maria: MariaDatabase) -> None:
    maria.items(10)
    database, follower = MysqlDatabase(maria.socket_url), Follower()
    assert database.describe().startswith("MariaDB 1") and database.ledger() == [] and database.environment("x") == {}
    first, second = migration(STOCK), migration(Phased(expand=("ALTER TABLE items ADD c int",)), "02_c")
    assert len(database.plan([first, second])) == 2
    database.expand(first, follower.watch)
    with pytest.raises(Refused, match="01_stock is expanded"):
        database.expand(second, follower.watch)
    with pytest.raises(Refused, match="its backfill must be complete"):
        database.contract("01_stock", follower.watch)
    assert database.backfill("01_stock", follower.watch)
    database.expand(second, follower.watch)
    assert database.backfill("02_c", follower.watch)
    with pytest.raises(Refused, match="02_c builds on 01_stock"):
        database.abort("01_stock", follower.watch)
    with pytest.raises(Refused, match="no abort section"):
        database.abort("02_c", follower.watch)
    with pytest.raises(Refused, match="01_stock must be contracted first"):
        database.contract("02_c", follower.watch)
    database.contract("01_stock", follower.watch)
    database.contract("02_c", follower.watch)
    with pytest.raises(NotFound):
        database.pause("03", True)
    with pytest.raises(Refused, match="is missing"):
        database.check([first])
    assert database.replicas("01_stock") == 0


def test_it_goes_by_hand_as_it_does_with_postgresql(maria: MariaDatabase, tmp_path: Path) -> None:
    maria.items(100)
    (tmp_path / "01_stock.sql").write_text(
        "-- crossfade: expand\nALTER TABLE `items` ADD COLUMN stock int NOT NULL DEFAULT 7;\n"
        "-- crossfade: contract\nALTER TABLE items DROP COLUMN note;\n"
        "-- crossfade: abort\nALTER TABLE items DROP COLUMN stock;\n"
    )

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["migrate", *words], env={"CROSSFADE_DATABASE": maria.url, "COLUMNS": "160"})
        assert done.exit_code == 0, done.output
        assert PASSWORD not in done.output
        return done.output

    assert "items, on a copy that takes its place" in run("plan", str(tmp_path)) and "by id" in run(
        "plan", str(tmp_path)
    )
    assert "01_stock: expanded, filled and verified." in run("expand", str(tmp_path))
    assert "contractable" in run("status")
    assert "01_stock: contracted." in run("contract")
    assert "contracted" in run("ledger", str(tmp_path))
    assert set(maria.columns()) == {"id", "name", "price", "stock"}


def test_a_server_that_does_not_answer_is_said_without_the_password() -> None:
    with pytest.raises(Unavailable) as caught:
        MysqlDatabase("mysql://root:secret@127.0.0.1:1/shop").ledger()
    assert "secret" not in str(caught.value) and "127.0.0.1:1/shop" in str(caught.value)
