from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from crossfade.bootstrap.databases import linter
from crossfade.databases.lint import SquawkLinter
from crossfade.databases.postgres.trace import examine, split
from crossfade.databases.sarif import sarif
from crossfade.gates.files import open_report
from crossfade.gates.sarif import findings as read_by_the_gate
from crossfade.ports.databases import Finding
from crossfade.spec.migrations import parse
from tests.databases.servers import Server
from tests.databases.shop import Shop

REWRITES = "ALTER TABLE books ADD COLUMN lucky int DEFAULT (random() * 6)::int;\n"
PHASED = """-- crossfade: expand
ALTER TABLE books ADD COLUMN y int;
CREATE INDEX by_y ON books (y);
-- crossfade: contract
ALTER TABLE books DROP COLUMN doc;
"""


@pytest.fixture
def shop(postgres: Server) -> Iterator[Shop]:
    shop = Shop(postgres.url())
    yield shop
    shop.close()


def found(name: str, text: str) -> list[Finding]:
    return list(SquawkLinter().lint([(parse(name, text), text)]))


def test_sql_is_looked_at_by_squawk_and_what_a_contract_may_do_is_no_finding() -> None:
    findings = found("02.sql", PHASED)
    assert [(one.rule, one.line, one.tool, one.severity) for one in findings if one.severity == "error"] == [
        ("require-concurrent-index-creation", 3, "squawk", "error")
    ]


def test_operations_are_looked_at_by_our_own_rules_with_their_lines() -> None:
    text = "operations:\n  - rename_column: {table: a, from: b, to: c}\n  - add_column: {table: a, column: {name: n, type: int}}\n"
    (one,) = found("02.yaml", text)
    assert (one.rule, one.severity, one.line) == ("not-null-without-up", "error", 3)
    assert "Give `up` or a default." in one.hint


def test_a_statement_that_rewrites_a_table_is_seen_on_a_copy_and_the_copy_is_gone_afterwards(shop: Shop) -> None:
    findings = examine(shop.url, "public", [parse("02.sql", REWRITES)])
    assert [one.rule for one in findings if one.severity == "error"] == ["rewrites-table"]
    assert "writes all of" in findings[0].sentence
    left = shop.direct.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'crossfade_scratch%'").fetchone()
    assert left == (0,)
    assert shop.catalogue().table(shop.catalogue().tables[1].name) is not None


def test_operations_neither_rewrite_a_table_nor_break_a_query_of_the_running_release(shop: Shop) -> None:
    text = """operations:
- alter_column: {table: books, column: price, type: 'numeric(10,2)', up: price / 100.0, down: (price * 100)::int}
- rename_column: {table: books, from: author, to: writer}
"""
    queries = split(
        "SELECT price FROM books; UPDATE books SET author = $1; SELECT 'a;b' FROM books; SELECT x FROM nowhere"
    )
    assert len(queries) == 4
    findings = examine(shop.url, "public", [parse("02.yaml", text)], queries)
    assert {one.rule for one in findings} == {"locks-table", "needs-old-shape"}
    assert any("UPDATE books SET author = $1" in one.sentence for one in findings)


def test_a_migration_that_does_not_run_on_a_copy_says_why(shop: Shop) -> None:
    (one,) = examine(shop.url, "public", [parse("02.sql", "ALTER TABLE nowhere ADD COLUMN x int;")])
    assert (one.rule, one.severity) == ("does-not-run", "error") and 'relation "nowhere" does not exist' in one.sentence


def test_the_linter_of_a_database_says_all_of_it(shop: Shop, tmp_path: Path) -> None:
    queries = tmp_path / "queries.sql"
    queries.write_text("SELECT doc FROM books;")
    text = "operations:\n- drop_column: {table: books, column: doc}\n"
    rules = {one.rule for one in linter(shop.url, queries=queries).lint([(parse("02.yaml", text), text)])}
    assert {"drops-data", "old-value", "needs-old-shape"} <= rules


def test_findings_are_read_by_the_gate_of_stage_one(tmp_path: Path) -> None:
    (tmp_path / "lint.sarif").write_text(json.dumps(sarif(found("02.sql", PHASED))))
    read = read_by_the_gate(open_report(tmp_path, "lint.sarif"), tmp_path)
    assert ("require-concurrent-index-creation", "error", "02.sql", 3) in [
        (one.rule, one.level, one.path, one.line) for one in read.all
    ]


def test_nothing_is_changed_by_looking(shop: Shop) -> None:
    before = shop.catalogue()
    examine(shop.url, "public", [parse("02.sql", REWRITES)])
    with psycopg.connect(shop.url) as connection:
        assert connection.execute("SELECT to_regnamespace('crossfade')").fetchone() == (None,)
    assert shop.catalogue().tables == before.tables
