"""Each operation on a real PostgreSQL: both shapes at once, the way back, and the end of the old shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import psycopg
import pytest

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.migrations.catalogue import Catalogue
from tests.databases.servers import Server
from tests.databases.shop import Shop


class Case(NamedTuple):
    """``old`` and ``new`` are statements of an older and of the new version, with what each must see afterwards."""

    operations: str
    old: tuple[tuple[str, object], ...] = ()
    new: tuple[tuple[str, object], ...] = ()
    after: tuple[tuple[str, object], ...] = ()


CASES = {
    "create_table": Case(
        """
- create_table: {name: orders, columns: [{name: id, type: bigint, pk: true, generated: {identity: {}}}, {name: book, type: int,
    references: {name: orders_book, table: books, column: id, on_delete: CASCADE}}, {name: n, type: int, default: 1,
    check: {name: some, constraint: n > 0}}], constraints: [{name: once, type: unique, columns: [book, n]}], comment: What was bought}""",
        new=(("INSERT INTO orders (book) VALUES (1) RETURNING n", 1),),
        after=(("SELECT count(*) FROM orders WHERE book = 1", 0),),
    ),
    "rename_table": Case(
        "- rename_table: {from: loans, to: lendings}",
        old=(("INSERT INTO loans (book) VALUES (3) RETURNING book", 3),),
        new=(("SELECT count(*) FROM lendings WHERE book = 3", 2),),
        after=(("SELECT count(*) FROM lendings", 50),),
    ),
    "drop_table": Case(
        "- drop_table: {name: bare}", old=(("INSERT INTO bare VALUES (9, 'z') RETURNING x", 9),), after=()
    ),
    "rename_column": Case(
        "- rename_column: {table: books, from: author, to: writer}",
        old=(("UPDATE books SET author = 2 WHERE id = 1 RETURNING author", 2),),
        new=(
            ("SELECT writer FROM books WHERE id = 1", 2),
            ("UPDATE books SET writer = 1 WHERE id = 1 RETURNING writer", 1),
        ),
        after=(("SELECT count(writer) FROM books", 300),),
    ),
    "add_column": Case(
        "- add_column: {table: books, column: {name: isbn, type: text}, up: \"'isbn-' || id\"}",
        old=(("INSERT INTO books (title) VALUES ('o') RETURNING id", 301),),
        new=(
            ("SELECT isbn FROM books WHERE id = 301", "isbn-301"),
            ("INSERT INTO books (title, isbn) VALUES ('n', 'X') RETURNING isbn", "X"),
            ("UPDATE books SET isbn = 'mine' WHERE id = 5 RETURNING isbn", "mine"),
        ),
        after=(("SELECT count(*) FROM books WHERE isbn = 'isbn-' || id", 300),),
    ),
    "add_column with a default": Case(
        "- add_column: {table: books, column: {name: pages, type: int, default: 100, comment: How long it is}}",
        old=(("INSERT INTO books (title) VALUES ('o') RETURNING id", 301),),
        new=(("SELECT pages FROM books WHERE id = 301", 100),),
        after=(("SELECT sum(pages)::int FROM books", 30000),),
    ),
    "add_column with a default of its own for each row": Case(
        "- add_column: {table: bare, column: {name: token, type: uuid, default: gen_random_uuid(), unique: true}}",
        old=(("INSERT INTO bare VALUES (1, 'a') RETURNING x", 1),),
        new=(("SELECT count(DISTINCT token) FROM bare", 301),),
        after=(
            ("SELECT count(DISTINCT token) FROM bare", 300),
            ("INSERT INTO bare (x) VALUES (0) RETURNING token IS NOT NULL", True),
        ),
    ),
    "add_column of a sequence": Case(
        "- add_column: {table: bare, column: {name: n, type: bigserial}}",
        old=(("INSERT INTO bare VALUES (1, 'a') RETURNING x", 1),),
        new=(
            ("INSERT INTO bare (x) VALUES (2) RETURNING n IS NOT NULL", True),
            ("SELECT count(DISTINCT n) = count(*) FROM bare", True),
        ),
        after=(("SELECT max(n) >= 300 FROM bare", True), ("INSERT INTO bare (x) VALUES (0) RETURNING n > 300", True)),
    ),
    "drop_column": Case(
        "- drop_column: {table: books, column: title, down: \"'untitled ' || id\"}",
        old=(),
        new=(("INSERT INTO books (price) VALUES (4) RETURNING price", 4),),
        after=(),
    ),
    "drop_column that may be null": Case(
        '- drop_column: {table: books, column: "Mixed Case"}',
        old=(('UPDATE books SET "Mixed Case" = \'k\' WHERE id = 2 RETURNING "Mixed Case"', "k"),),
        new=(("INSERT INTO books (title) VALUES ('n') RETURNING title", "n"),),
    ),
    "alter_column type": Case(
        "- alter_column: {table: books, column: price, type: 'numeric(10,2)', up: price / 100.0, down: (price * 100)::int}",
        old=(
            ("UPDATE books SET price = 250 WHERE id = 1 RETURNING price", 250),
            ("INSERT INTO books (title) VALUES ('o') RETURNING price", 5),
        ),
        new=(
            ("SELECT price::text FROM books WHERE id = 1", "2.50"),
            ("UPDATE books SET price = 3.75 WHERE id = 2 RETURNING price::text", "3.75"),
            ("SELECT price::text FROM books WHERE id = 301", "0.05"),
        ),
        after=(("SELECT sum(price)::text FROM books", "451.50"),),
    ),
    "alter_column not null": Case(
        '- alter_column: {table: books, column: "Mixed Case", nullable: false, up: "coalesce(\\"Mixed Case\\", \'none\')"}',
        old=(("INSERT INTO books (title) VALUES ('o') RETURNING \"Mixed Case\"", None),),
        new=(('SELECT "Mixed Case" FROM books WHERE id = 301', "none"),),
        after=(('SELECT count("Mixed Case") FROM books', 300),),
    ),
    "alter_column nullable": Case(
        "- alter_column: {table: books, column: title, nullable: true, up: title, down: \"coalesce(title, '?')\"}",
        new=(("INSERT INTO books (title) VALUES (NULL) RETURNING title", None),),
        after=(("INSERT INTO books (title) VALUES (NULL) RETURNING title", None),),
    ),
    "alter_column default and comment": Case(
        "- alter_column: {table: books, column: price, default: 7, comment: In cents}",
        old=(("INSERT INTO books (title) VALUES ('o') RETURNING price", 5),),
        new=(("INSERT INTO books (title) VALUES ('n') RETURNING price", 7),),
        after=(("INSERT INTO books (title) VALUES ('n') RETURNING price", 7),),
    ),
    "alter_column check": Case(
        '- alter_column: {table: books, column: price, check: {name: dear, constraint: price < 1000}, up: "least(price, 999)", down: price}',
        old=(("UPDATE books SET price = 5000 WHERE id = 1 RETURNING price", 5000),),
        new=(("SELECT price FROM books WHERE id = 1", 999),),
        after=(("SELECT max(price) FROM books", 300),),
    ),
    "alter_column references": Case(
        """- alter_column: {table: bare, column: x, references: {name: bare_book, table: books, column: id},
    up: "(SELECT id FROM books WHERE id = x)", down: x}""",
        old=(("INSERT INTO bare VALUES (999, 'a') RETURNING x", 999),),
        new=(("SELECT x FROM bare WHERE y = 'a'", None), ("SELECT x FROM bare WHERE y = 'y7'", 7)),
        after=(("SELECT count(x) FROM bare", 300),),
    ),
    "alter_column unique": Case(
        "- alter_column: {table: books, column: title, unique: {name: title_once}, up: title, down: title}",
        old=(("INSERT INTO books (title) VALUES ('another') RETURNING title", "another"),),
        new=(("SELECT title FROM books WHERE id = 301", "another"),),
    ),
    "widen a primary key": Case(
        "- alter_column: {table: books, column: id, type: bigint}",
        old=(
            ("INSERT INTO books (title) VALUES ('o') RETURNING id", 301),
            ("INSERT INTO loans (book) VALUES (301) RETURNING book", 301),
        ),
        new=(
            ("SELECT pg_typeof(id)::text FROM books LIMIT 1", "bigint"),
            ("INSERT INTO books (title) VALUES ('n') RETURNING id > 301", True),
            ("INSERT INTO loans (book) SELECT max(id) FROM books RETURNING book > 301", True),
        ),
        after=(
            ("INSERT INTO books (title) VALUES ('n') RETURNING id > 300", True),
            ("SELECT count(*) FROM loans l JOIN books b ON b.id = l.book", 50),
        ),
    ),
    "widen a key of a sequence": Case(
        "- alter_column: {table: authors, column: id, type: bigint}",
        old=(("INSERT INTO authors (name) VALUES ('O') RETURNING id", 3),),
        new=(("INSERT INTO authors (name) VALUES ('N') RETURNING id > 3", True),),
        after=(("INSERT INTO authors (name) VALUES ('N') RETURNING id > 2", True),),
    ),
    "split_column": Case(
        """- split_column: {table: authors, column: name, into: [{name: given, type: text, up: "split_part(name, ' ', 1)"},
    {name: family, type: text, up: "split_part(name, ' ', 2)"}], down: "given || ' ' || family"}""",
        old=(("UPDATE authors SET name = 'Grace Hopper' WHERE id = 2 RETURNING name", "Grace Hopper"),),
        new=(
            ("SELECT family FROM authors WHERE id = 2", "Hopper"),
            ("UPDATE authors SET given = 'Augusta Ada', family = 'King' WHERE id = 1 RETURNING given", "Augusta Ada"),
        ),
        after=(("SELECT string_agg(given || family, ' ' ORDER BY id) FROM authors", "AdaByron AlanTuring"),),
    ),
    "merge_columns": Case(
        """- merge_columns: {table: books, columns: [first, last], into: {name: whole, type: text, nullable: true}, up: "first || '/' || last",
    down: {first: "split_part(whole, '/', 1)", last: "split_part(whole, '/', 2)"}}""",
        old=(("UPDATE books SET first = 'A' WHERE id = 1 RETURNING first", "A"),),
        new=(
            ("SELECT whole FROM books WHERE id = 1", "A/L1"),
            ("UPDATE books SET whole = 'B/C' WHERE id = 2 RETURNING whole", "B/C"),
        ),
        after=(("SELECT count(whole) FROM books", 300),),
    ),
    "create_index": Case(
        "- create_index: {name: by_state, table: books, columns: {state: {sort: DESC, nulls: LAST}}, predicate: price > 1}",
        old=(("INSERT INTO books (title) VALUES ('o') RETURNING price", 5),),
    ),
    "create_index of partitions": Case(
        "- create_index: {name: by_what, table: log, columns: [what]}",
        old=(("INSERT INTO log VALUES ('2025-02-02', 'o') RETURNING what", "o"),),
    ),
    "drop_index": Case("- drop_index: {name: books_low}"),
    "create_constraint unique": Case(
        "- create_constraint: {table: bare, name: y_once, type: unique, columns: [y]}",
        old=(("INSERT INTO bare VALUES (1, 'a') RETURNING x", 1),),
    ),
    "create_constraint check with up": Case(
        '- create_constraint: {table: bare, name: small, type: check, columns: [x], check: x < 500, up: {x: "least(x, 499)"}, down: {x: x}}',
        old=(("INSERT INTO bare VALUES (900, 'a') RETURNING x", 900),),
        new=(("SELECT x FROM bare WHERE y = 'a'", 499),),
    ),
    "create_constraint check": Case(
        "- create_constraint: {table: bare, name: small, type: check, columns: [x], check: x < 500}"
    ),
    "create_constraint foreign key": Case(
        "- create_constraint: {table: bare, name: of_book, type: foreign_key, columns: [x], references: {table: books, columns: [id]}}",
        old=(("INSERT INTO bare VALUES (5, 'a') RETURNING x", 5),),
    ),
    "drop_constraint": Case(
        '- drop_constraint: {table: books, name: books_price_check, up: price, down: "greatest(price, 0)"}',
        new=(("INSERT INTO books (title, price) VALUES ('n', -3) RETURNING price", -3),),
        after=(("INSERT INTO books (title, price) VALUES ('n', -3) RETURNING price", -3),),
    ),
    "drop_constraint of a foreign key": Case(
        '- drop_constraint: {table: loans, name: loans_book_fkey, up: book, down: "least(book, 300)"}',
        new=(("INSERT INTO loans (book) VALUES (777) RETURNING book", 777),),
    ),
    "drop_multicolumn_constraint": Case(
        "- drop_multicolumn_constraint: {table: loans, name: loans_book_note_key, up: {book: book, note: note}, down: {book: book, note: note || random()}}",
        old=(("INSERT INTO loans (book, note) VALUES (4, 'o') RETURNING book", 4),),
    ),
    "rename_constraint": Case("- rename_constraint: {table: books, from: books_price_check, to: not_negative}"),
    "set_replica_identity": Case("- set_replica_identity: {table: bare, identity: {type: full}}"),
    "sql": Case("- sql: {up: CREATE TABLE extra (x int), down: DROP TABLE extra}"),
    "add_enum_values": Case(
        "- add_enum_values: {type: status, values: [{value: packed, before: sent}, lost]}",
        new=(("UPDATE books SET state = 'packed' WHERE id = 1 RETURNING state::text", "packed"),),
    ),
    "replace_enum": Case(
        "- replace_enum: {type: status, values: [new, done], up: {paid: done, sent: done}, down: {done: sent}}",
        old=(("UPDATE books SET state = 'paid' WHERE id = 1 RETURNING state::text", "paid"),),
        new=(
            ("SELECT state::text FROM books WHERE id = 1", "done"),
            ("UPDATE books SET state = 'done' WHERE id = 2 RETURNING state::text", "done"),
            ("INSERT INTO books (title) VALUES ('n') RETURNING state::text", "new"),
        ),
        after=(("INSERT INTO books (title, state) VALUES ('n', 'done'::status) RETURNING state::text", "done"),),
    ),
    "attach_partition": Case(
        """- attach_partition: {table: log, partition: log_26, bounds: "FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    check: "at >= '2026-01-01' AND at < '2027-01-01'"}""",
        new=(("INSERT INTO log VALUES ('2026-02-02', 'n') RETURNING what", "n"),),
    ),
    "detach_partition": Case("- detach_partition: {table: log, partition: log_25}"),
}
PERMANENT = {"add_enum_values"}
"""What an abort cannot take back, as its hazard says."""


@pytest.fixture
def newer(postgres: Server) -> Iterator[Shop]:
    shop = Shop(postgres.url())
    yield shop
    shop.close()


@pytest.fixture
def older(debian: Server) -> Iterator[Shop]:
    shop = Shop(debian.url())
    yield shop
    shop.close()
    debian.drop()


@pytest.fixture
def shop(either: Server) -> Iterator[Shop]:
    shop = Shop(either.url())
    yield shop
    shop.close()


def still(catalogue: Catalogue) -> Catalogue:
    """Without what changes by itself."""
    return replace(
        catalogue,
        tables=tuple(replace(one, rows=0) for one in catalogue.tables),
        schemas=frozenset(),
        taken=frozenset(),
    )


@pytest.mark.parametrize("name", CASES)
def test_both_shapes_live_side_by_side_and_the_abort_leaves_nothing(older: Shop, name: str) -> None:
    shop = older
    case = CASES[name]
    before = still(shop.catalogue())
    shop.up("02", case.operations)
    for statement, expected in case.old:
        assert shop.one("", statement) == expected, statement
    for statement, expected in case.new:
        assert shop.one("02", statement) == expected, statement
    shop.abort("02")
    assert shop.names() == []
    if name not in PERMANENT:
        assert still(shop.catalogue()) == before


@pytest.mark.parametrize("name", CASES)
def test_the_contract_leaves_the_new_shape_alone_under_its_own_names(newer: Shop, name: str) -> None:
    shop = newer
    case = CASES[name]
    shop.up("02", case.operations)
    shop.contract("02")
    assert shop.names() == []
    for version in ("02", ""):
        for statement, expected in case.after:
            with shop.direct.transaction(force_rollback=True):
                assert shop.one(version, statement) == expected, statement
    shop.up("03", "- add_column: {table: authors, column: {name: born, type: int, nullable: true}}")
    assert shop.one("03", "SELECT count(*) FROM authors WHERE born IS NULL") == 2


def test_what_one_version_writes_the_other_one_reads(shop: Shop) -> None:
    shop.up("02", CASES["split_column"].operations)
    shop.ask("02", "UPDATE authors SET given = 'Augusta Ada', family = 'King' WHERE id = 1")
    assert shop.one("", "SELECT name FROM authors WHERE id = 1") == "Augusta Ada King"
    shop.ask("", "UPDATE authors SET id = id WHERE id = 1")
    assert shop.ask("02", "SELECT given, family FROM authors WHERE id = 1") == [("Augusta Ada", "King")]


def test_a_chain_of_three_keeps_every_shape_current_and_is_contracted_one_by_one(shop: Shop) -> None:
    shop.up("02", CASES["add_column"].operations + "\n" + CASES["rename_column"].operations)
    shop.up("03", CASES["alter_column type"].operations + "\n" + CASES["split_column"].operations)
    shop.up("04", CASES["widen a primary key"].operations + "\n" + CASES["replace_enum"].operations)
    for version, writer in (("", "author"), ("02", "writer"), ("03", "writer"), ("04", "writer")):
        more = ", isbn" if version else ""
        value = f", 'isbn {version}'" if version else ""
        columns = f"title, {writer}{more}"
        shop.ask(version, f"INSERT INTO books ({columns}) VALUES ('from {version}', 1{value})")  # noqa: S608 - of the four above
    for version in ("", "02", "03", "04"):
        assert shop.one(version, "SELECT count(*) FROM books WHERE title LIKE 'from%'") == 4
    cents = [row[0] for row in shop.ask("", "SELECT price FROM books ORDER BY id")]
    assert [row[0] * 100 for row in shop.ask("04", "SELECT price FROM books ORDER BY id")] == cents
    with pytest.raises(CrossfadeError, match="02 must be contracted first"):
        shop.contract("03")
    for version in ("02", "03", "04"):
        shop.contract(version)
        assert [row[0] * 100 for row in shop.ask("04", "SELECT price FROM books ORDER BY id")] == cents
        assert shop.one("04", "INSERT INTO books (title, isbn) VALUES ('later', 'x') RETURNING id > 304") is True
        cents = [row[0] * 100 for row in shop.ask("04", "SELECT price FROM books ORDER BY id")]
    assert shop.names() == []


def test_a_write_of_the_old_release_never_fails_for_the_sake_of_the_new_shape(shop: Shop) -> None:
    shop.up("02", '- alter_column: {table: bare, column: y, type: int, up: "substr(y, 2)::int", down: "\'y\' || y"}')
    assert shop.one("", "INSERT INTO bare VALUES (1, 'not a number') RETURNING y") == "not a number"
    assert shop.one("02", "SELECT y FROM bare ORDER BY x DESC LIMIT 1") == 300
    with pytest.raises(CrossfadeError, match="rows of bare have been written since that have no new values"):
        shop.contract("02")
    with pytest.raises(CrossfadeError, match="1 rows cannot be filled") as caught:
        shop.database.backfill("02", shop.heard.watch())
    assert "invalid input syntax for type integer" in caught.value.what
    shop.ask("", "DELETE FROM bare WHERE y = 'not a number'")
    assert shop.database.backfill("02", shop.heard.watch())
    shop.contract("02")


def test_a_write_of_the_new_release_that_the_old_one_could_not_read_fails(shop: Shop) -> None:
    shop.up("02", CASES["widen a primary key"].operations)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        shop.ask("02", "INSERT INTO books (id, title) OVERRIDING SYSTEM VALUE VALUES (3000000000, 'far')")


@pytest.mark.parametrize(
    ("operations", "said"),
    [
        (
            "- add_column: {table: nowhere, column: {name: a, type: int, nullable: true}}",
            "'nowhere' is not allowed; allowed: one of authors",
        ),
        (
            "- add_column: {table: books, column: {name: price, type: int, nullable: true}}",
            "a name that no column of books has",
        ),
        (
            "- add_column: {table: books, column: {name: a, type: int}}",
            "an expression, or a default: a is not nullable",
        ),
        (
            "- add_column: {table: books, column: {name: a, type: 'int; drop table books', nullable: true}}",
            "a type as SQL knows it",
        ),
        ("- add_column: {table: books, column: {name: a, type: int}, up: '1; drop table books'}", "one SQL expression"),
        (
            "- add_column: {table: books, column: {name: a, type: text}, up: upper(low)}",
            "which PostgreSQL generates only afterwards",
        ),
        ("- drop_column: {table: books, column: title}", "an expression for title, which is not nullable"),
        ("- drop_column: {table: books, column: id}", "a column that is not in the primary key"),
        ("- drop_table: {name: books}", "a table that no foreign key points to; loans does"),
        ("- rename_column: {table: books, from: title, to: price}", "a name that no column of books has"),
        ("- create_index: {name: books_price, table: books, columns: [id]}", "a name that no relation"),
        ("- drop_constraint: {table: books, name: no}", "books_author_fkey, books_pkey, books_price_check"),
        ("- replace_enum: {type: status, values: [new]}", "a mapping of paid to one of new"),
        ("- attach_partition: {table: books, partition: log_26, bounds: DEFAULT}", "a partitioned table"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_changes(shop: Shop, operations: str, said: str) -> None:
    before = still(shop.catalogue())
    with pytest.raises(CrossfadeError) as caught:
        shop.up("02", operations)
    assert said in caught.value.what
    assert still(shop.catalogue()) == before
    assert list(shop.database.ledger()) == []


def test_a_view_of_the_users_in_the_way_is_named_before_anything_changes(shop: Shop) -> None:
    shop.direct.execute("CREATE VIEW cheap AS SELECT id, title FROM books WHERE price < 3")
    with pytest.raises(CrossfadeError, match=r"on this one view public\.cheap"):
        shop.up("02", CASES["alter_column type"].operations)
    shop.up("02", CASES["add_column"].operations)
    shop.contract("02")
    assert shop.one("", "SELECT count(*) FROM cheap") == 2


def test_the_users_triggers_see_writes_but_not_the_backfill(shop: Shop) -> None:
    shop.direct.execute(
        "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title := NEW.title || '!'; RETURN NEW; END $$;"
        "CREATE TRIGGER zz BEFORE UPDATE ON books FOR EACH ROW EXECUTE FUNCTION bump()"
    )
    shop.up("02", "- add_column: {table: books, column: {name: loud, type: text}, up: upper(title)}")
    assert shop.one("", "SELECT count(*) FROM books WHERE title LIKE '%!'") == 0
    shop.ask("", "UPDATE books SET price = 1 WHERE id = 1")
    assert shop.one("02", "SELECT loud FROM books WHERE id = 1") == "BOOK 1!"


def test_the_version_is_known_by_the_first_schema_of_a_path_of_several(shop: Shop) -> None:
    shop.up("02", CASES["alter_column type"].operations)
    with shop.direct.transaction():
        shop.direct.execute('SET LOCAL search_path = nowhere, "public_02", public')
        shop.direct.execute("UPDATE books SET price = 42.42 WHERE id = 1")
    assert shop.one("", "SELECT price FROM books WHERE id = 1") == 4242
    with shop.direct.transaction():
        shop.direct.execute("SET LOCAL crossfade.version = 'public_02'")
        shop.direct.execute("UPDATE public_02.books SET price = 1.5 WHERE id = 1")
    assert shop.one("", "SELECT price FROM books WHERE id = 1") == 150
