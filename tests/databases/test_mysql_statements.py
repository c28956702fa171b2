"""What is known of a MySQL migration before any server is asked: its steps, the tools' command lines, what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.databases.mysql import ghost, percona
from crossfade.databases.mysql.connection import Place, place
from crossfade.databases.mysql.inspection import Column, Table, differences
from crossfade.databases.mysql.online import Change, Seen, environment
from crossfade.databases.mysql.statements import Copy, Direct, actions, has_foreign_key, renames, steps
from crossfade.domain.errors import Invalid

TEXTS = st.text(st.characters(exclude_categories=["C"]), max_size=12)
PARTS = st.one_of(
    TEXTS.map(lambda text: "ADD a varchar(9) DEFAULT '" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    TEXTS.map(lambda text: "DROP `" + text.replace("`", "``") + "`"),
    TEXTS.map(lambda text: "ADD INDEX (a, b) /* " + text.replace("*", "").replace("!", "") + " */"),
)
WHERE = Place("mover", 'pass "word\\', "10.0.0.7", 3307, "shop")
CHANGE = Change("items", "ADD COLUMN stock int NOT NULL DEFAULT 0", "crossfade_3_expand_0")


def test_an_alter_table_is_split_into_its_table_and_what_changes() -> None:
    for sql in (
        "ALTER TABLE items ADD COLUMN a int",
        "alter table `items` ADD COLUMN a int;",
        "/* why */ ALTER ONLINE TABLE IF EXISTS items WAIT 5 ADD COLUMN a int",
        "ALTER TABLE items -- of the shop\n ADD COLUMN a int",
    ):
        assert steps([sql]).copies == (Copy("items", "ADD COLUMN a int"),), sql


def test_all_changes_of_one_table_are_one_copy_and_an_index_goes_with_it() -> None:
    found = steps(
        [
            "CREATE TABLE shelves (id int PRIMARY KEY)",
            "ALTER TABLE items ADD COLUMN shelf int",
            "ALTER TABLE shelves ADD COLUMN name text",
            "CREATE INDEX by_shelf USING BTREE ON items (shelf, id)",
            "ALTER TABLE orders ADD COLUMN place int, ADD INDEX (place)",
            "ALTER TABLE items MODIFY note text",
            "UPDATE shelves SET name = 'a, b; (c'",
        ]
    )
    assert found.before == (Direct("CREATE TABLE shelves (id int PRIMARY KEY)", "create", "shelves"),)
    assert found.copies == (
        Copy("items", "ADD COLUMN shelf int, ADD INDEX by_shelf USING BTREE (shelf, id), MODIFY note text"),
        Copy("orders", "ADD COLUMN place int, ADD INDEX (place)"),
    )
    assert [one.kind for one in found.after] == ["alter", "write"]


def test_what_the_server_does_online_by_itself_is_left_to_it() -> None:
    found = steps(
        [
            "ALTER TABLE items ADD COLUMN a int, ALGORITHM=INSTANT",
            "ALTER TABLE items ADD UNIQUE KEY one (a)",
            "CREATE UNIQUE INDEX two ON items (b)",
        ]
    )
    assert [one.sql for one in found.before] == [
        "ALTER TABLE items ADD COLUMN a int, ALGORITHM=INSTANT",
        "ALTER TABLE items ADD UNIQUE KEY one (a), ALGORITHM=INPLACE, LOCK=NONE",
        "CREATE UNIQUE INDEX two ON items (b) ALGORITHM=INPLACE LOCK=NONE",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER IGNORE TABLE a ADD b int",
        "ALTER TABLE other.a ADD b int",
        "USE other",
        "LOCK TABLES a WRITE",
        "ALTER TABLE a",
    ],
)
def test_a_statement_that_has_no_business_in_a_migration_is_named(sql: str) -> None:
    with pytest.raises(Invalid, match=r"01\.sql: expand\[0\]"):
        steps([sql], "01.sql: expand")


@pytest.mark.parametrize(
    ("clause", "sentence"),
    [
        ("RENAME TO b", "it renames the table"),
        ("ADD c int, RENAME COLUMN a TO b", "it renames a column"),
        ("CHANGE `a` b int", "it renames the column a"),
        ("CHANGE COLUMN a a bigint", ""),
        ("RENAME INDEX a TO b", ""),
        ("ADD COLUMN a text DEFAULT 'x, RENAME TO b'", ""),
    ],
)
def test_renames_are_seen(clause: str, sentence: str) -> None:
    assert list(renames(clause)) == ([sentence] if sentence else [])


@given(st.lists(PARTS, min_size=1, max_size=6))
def test_a_clause_has_as_many_parts_as_were_joined_whatever_is_in_their_texts(parts: list[str]) -> None:
    clause = ", ".join(parts)
    assert len(actions(clause)) == len(parts)
    assert steps([f"ALTER TABLE items {clause}"]).copies == (Copy("items", clause),)
    assert list(renames(clause)) == []


def test_the_parts_of_a_clause_are_split_at_its_own_commas_only() -> None:
    assert len(actions("ADD a decimal(10, 2) COMMENT 'x, y', ADD INDEX (a, b), DROP c")) == 3
    assert has_foreign_key("ADD a int REFERENCES b (c)") and not has_foreign_key("ADD a text COMMENT 'references'")


def test_what_older_releases_would_not_survive_is_named() -> None:
    def table(*columns: Column, unique: frozenset[tuple[str, ...]] = frozenset({("id",)})) -> Table:
        return Table("t", columns, ("id",), ("id",), unique)

    key = Column("id", "int", "", False, True, False)
    old = table(key, Column("a", "int", "", True, False, False))
    new = table(key, Column("b", "int", "", False, False, False), unique=frozenset({("id",), ("b",)}))
    assert [code for code, _, _ in differences(old, new, "expand")] == ["drops-data", "not-null", "unique"]
    assert [code for code, _, _ in differences(old, new, "contract")] == ["unique"]
    tighter = table(key, Column("a", "int", "", False, True, False))
    assert [code for code, _, _ in differences(old, tighter, "expand")] == ["not-null"]
    assert list(differences(old, tighter, "contract")) == []


def test_the_whole_command_line_of_percona_has_no_password() -> None:
    line = percona.command(
        "/usr/bin/pt-online-schema-change", CHANGE, WHERE, Path("/run/x"), "/proc/self/fd/9", percona.Limits(), 0.5
    )
    assert line == (
        "/usr/bin/pt-online-schema-change",
        "--execute",
        "--alter=ADD COLUMN stock int NOT NULL DEFAULT 0",
        "--new-table-name=crossfade_3_expand_0_new",
        "--no-version-check",
        "--no-swap-tables",
        "--no-drop-new-table",
        "--no-drop-triggers",
        "--no-drop-old-table",
        "--no-check-unique-key-change",
        "--pause-file=/run/x/pause",
        "--plugin=/run/x/plugin.pm",
        "--chunk-time=0.1",
        "--sleep=0.1",
        "--max-lag=5",
        "--check-interval=1",
        "--max-load=Threads_running=50",
        "--critical-load=Threads_running=500",
        "--set-vars=lock_wait_timeout=1,innodb_lock_wait_timeout=2",
        "--tries=create_triggers:30:0.5,copy_rows:30:0.25",
        "--progress=time,1",
        "D=shop,t=items,F=/proc/self/fd/9",
    )
    assert percona.defaults(WHERE).splitlines() == [
        "[client]",
        'host="10.0.0.7"',
        "port=3307",
        'user="mover"',
        'password="pass \\"word\\\\"',
        "default-character-set=utf8mb4",
    ]


def test_the_whole_command_line_of_gh_ost_has_no_password() -> None:
    line = ghost.command(
        "/opt/gh-ost",
        CHANGE,
        WHERE,
        Path("/run/x"),
        "/proc/self/fd/9",
        duty=0.25,
        throttle_http="http://127.0.0.1:7420/slo",
        mariadb=True,
    )
    assert line == (
        "/opt/gh-ost",
        "--execute",
        "--conf=/proc/self/fd/9",
        "--host=10.0.0.7",
        "--port=3307",
        "--database=shop",
        "--table=items",
        "--alter=ADD COLUMN stock int NOT NULL DEFAULT 0",
        "--force-table-names=crossfade_3_expand_0",
        "--allow-on-master",
        "--assume-rbr",
        "--initially-drop-ghost-table",
        "--initially-drop-socket-file",
        "--max-lag-millis=5000",
        "--max-load=Threads_running=50",
        "--critical-load=Threads_running=500",
        "--nice-ratio=3",
        "--cut-over-lock-timeout-seconds=1",
        "--default-retries=60",
        "--postpone-cut-over-flag-file=/run/x/postpone",
        "--panic-flag-file=/run/x/panic",
        "--serve-socket-file=/run/x/s",
        "--throttle-http=http://127.0.0.1:7420/slo",
        "--skip-metadata-lock-check",
    )


@pytest.mark.parametrize(
    ("line", "share", "seconds"),
    [
        ("Copying `t`.`items`:  51% 00:02 remain", 0.51, 2),
        ("Copying `t`.`a: 7% b`:   3% 01:02:03 remain", 0.03, 3723),
        ("Copying `t`.`items`:   0% 2+01:00:00 remain", 0.0, 176_400),
    ],
)
def test_progress_is_read_from_what_percona_says(line: str, share: float, seconds: float) -> None:
    assert percona.progress(line) == (share, seconds)
    assert percona.progress("Copied rows OK.") is None


def test_progress_is_read_from_what_gh_ost_says() -> None:
    begin = (
        "Copy: 1500/3000 50.0%; Applied: 2; Backlog: 0/1000; Time: 4s(total), 3s(copy); streamer: bin.1:7; Lag: 0.02s, "
    )
    assert ghost.status(begin + "State: migrating; ETA: 1m5s") == Seen(0.5, 65.0)
    assert ghost.status(begin + "State: throttled, flag-file; ETA: N/A") == Seen(0.5, None, "throttled, flag-file")
    assert ghost.status(begin + "State: postponing cut-over; ETA: due") == Seen(1.0, 0.0, copied=True)
    assert ghost.status("# nothing of the kind") is None


def test_a_tool_sees_no_variable_that_may_be_secret() -> None:
    own = {"PATH": "/bin", "DATABASE_URL": "mysql://secret", "MYSQL_PWD": "secret", "HOME": "/root"}
    assert environment(Path("/run/x"), own) == {"PATH": "/bin", "HOME": "/run/x", "LC_ALL": "C.UTF-8"}


def test_a_url_says_where_and_hides_its_password() -> None:
    found = place("mariadb://a%40b:p%2Fw@db.example:3307/shop")
    assert found == Place("a@b", "p/w", "db.example", 3307, "shop")
    assert str(found) == "a@b@db.example:3307/shop" and "p/w" not in repr(found)
    assert place("mysql://root@/shop?unix_socket=/run/s").socket == "/run/s"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/",
        "mysql://u:secret@h:x/d",
        "mysql://u:secret@h/d?ssl=1",
        "http://u:secret@h/d",
        "mysql://u:secret@h/d%0aF=x",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        place(url)
    assert "secret" not in str(caught.value)
