"""A bookshop's schema for the tests of migrations, and what they do with it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import psycopg

from crossfade.databases.postgres.catalogue import read
from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.domain.migrations.catalogue import Catalogue
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Progress
from crossfade.ports.databases import Watch
from crossfade.spec.migrations import parse

SCHEMA = """
CREATE TYPE status AS ENUM ('new', 'paid', 'sent');
CREATE TABLE authors (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE books (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title varchar(80) NOT NULL, price int NOT NULL DEFAULT 5 CHECK (price >= 0),
  author int REFERENCES authors ON DELETE CASCADE, state status DEFAULT 'new', "Mixed Case" text, doc json,
  slug text, low text GENERATED ALWAYS AS (lower(slug)) STORED, first text, last text
);
CREATE INDEX books_price ON books (price) WHERE price > 10;
CREATE INDEX books_low ON books (lower(title));
CREATE TABLE loans (id bigserial PRIMARY KEY, book int NOT NULL REFERENCES books, note text CONSTRAINT note_short CHECK (length(note) < 9),
  UNIQUE (book, note));
CREATE TABLE bare (x int, y text);
CREATE TABLE log (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE log_25 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE log_26 (at date NOT NULL, what text);
INSERT INTO authors (name) VALUES ('Ada Byron'), ('Alan Turing');
INSERT INTO books (title, price, author, first, last) SELECT 'Book ' || g, g, 1 + g % 2, 'F' || g, 'L' || g FROM generate_series(1, 300) g;
INSERT INTO loans (book, note) SELECT g, 'n' || g FROM generate_series(1, 50) g;
INSERT INTO bare SELECT g, 'y' || g FROM generate_series(1, 300) g;
INSERT INTO log SELECT '2025-01-01'::date + g % 300, 'w' || g FROM generate_series(1, 300) g;
"""


@dataclass
class Heard:
    """A watch that remembers."""

    lines: list[str] = field(default_factory=list)
    numbers: list[Progress] = field(default_factory=list)
    throttle: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)

    def watch(self, **more: Any) -> Watch:
        return Watch(self.lines.append, self.numbers.append, lambda: self.throttle, self.cancel, **more)


class Shop:
    """A database with the bookshop in it."""

    def __init__(self, url: str, schema: str = SCHEMA) -> None:
        self.url = url
        self.direct = psycopg.connect(url, autocommit=True)
        self.direct.execute(schema.encode())
        self.database = PostgresDatabase(url)
        self.heard = Heard()

    def close(self) -> None:
        self.direct.close()

    def up(self, version: str, operations: str) -> Migration:
        """Expand, backfill and verify operations given as YAML."""
        migration = parse(f"{version}.yaml", "operations:\n" + operations)
        self.database.expand(migration, self.heard.watch())
        assert self.database.backfill(version, self.heard.watch())
        return migration

    def contract(self, version: str) -> None:
        self.database.contract(version, self.heard.watch())

    def abort(self, version: str) -> None:
        self.database.abort(version, self.heard.watch())

    def ask(self, version: str, query: str) -> list[tuple[Any, ...]]:
        """As a replica of a version does; empty: one from before all."""
        path = f'"public_{version}", public' if version else "public"
        with self.direct.transaction():
            self.direct.execute(f"SET LOCAL search_path = {path}".encode())
            cursor = self.direct.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def one(self, version: str, query: str) -> Any:
        return self.ask(version, query)[0][0]

    def catalogue(self) -> Catalogue:
        return read(self.direct, "public")

    def names(self) -> list[str]:
        """Everything of ours that is left: columns, constraints, indexes, types, functions, triggers."""
        rows = self.direct.execute(
            "SELECT attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE attname LIKE '\\_cf%' AND NOT attisdropped AND relkind IN ('r', 'p', 'v')"
            " UNION ALL SELECT conname FROM pg_constraint WHERE conname LIKE '\\_cf%'"
            " UNION ALL SELECT relname FROM pg_class WHERE relname LIKE '\\_cf%'"
            " UNION ALL SELECT typname FROM pg_type WHERE typname LIKE '\\_cf%'"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('crossfade')"
            " UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE '~crossfade%'"
        ).fetchall()
        return [name for (name,) in rows]
