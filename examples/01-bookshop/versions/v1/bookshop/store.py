"""Books, carts, sessions and orders, in a SQLite file that several processes and versions use at once."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bookshop.catalogue import BOOKS

SCHEMA = """
CREATE TABLE IF NOT EXISTS books (
  id INTEGER PRIMARY KEY, title TEXT NOT NULL, author TEXT NOT NULL, subject TEXT NOT NULL, year INTEGER NOT NULL,
  pages INTEGER NOT NULL, cents INTEGER NOT NULL, stars INTEGER NOT NULL, reviews INTEGER NOT NULL, blurb TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, began REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cart (
  session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE, book INTEGER NOT NULL REFERENCES books,
  quantity INTEGER NOT NULL CHECK (quantity BETWEEN 1 AND 99), PRIMARY KEY (session, book)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orders (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL, at REAL NOT NULL, cents INTEGER NOT NULL,
  lines TEXT NOT NULL
);
"""
MOST_OF_A_BOOK = 99
SESSION_DAYS = 30
_SESSION = re.compile(r"[0-9a-f]{36}")
_COLUMNS = "id, title, author, subject, year, pages, cents, stars, reviews, blurb"


@dataclass(frozen=True)
class Book:
    """``stars`` is the sum of all reviews' stars, 1 to 5 each."""

    id: int
    title: str
    author: str
    subject: str
    year: int
    pages: int
    cents: int
    stars: int
    reviews: int
    blurb: str


@dataclass(frozen=True)
class Line:
    """So many of one book."""

    book: Book
    quantity: int

    @property
    def cents(self) -> int:
        return self.book.cents * self.quantity


@dataclass(frozen=True)
class Order:
    """``lines`` are pairs of title and quantity; ``at`` is epoch seconds."""

    id: int
    at: float
    cents: int
    lines: Sequence[tuple[str, int]]


class Store:
    """One connection, for one thread. Reads take microseconds, so they are done where they are needed."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Turning a new file into WAL mode is the one step that SQLite does not let several processes wait for.
        with _only_one(file.with_name(file.name + ".lock")):
            self._db = sqlite3.connect(file, isolation_level=None, cached_statements=64)
            self._db.execute("PRAGMA busy_timeout = 5000")
            self._db.execute("PRAGMA journal_mode = WAL")
            # With WAL this loses nothing when a process is killed, and saves a wait for the disk at each order.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            with self._writing():
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.executemany(f"INSERT OR IGNORE INTO books ({_COLUMNS}) VALUES ({', '.join('?' * 10)})", BOOKS)  # noqa: S608 - columns only
                oldest = time.time() - SESSION_DAYS * 86400
                self._db.execute("DELETE FROM sessions WHERE began < ?", (oldest,))

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that has the right to write from its beginning on, so that it never has to be repeated."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Books

    def count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM books").fetchone()[0])

    def books(self, subject: str = "", limit: int = 100, offset: int = 0) -> list[Book]:
        """The newest first."""
        where = "WHERE subject = ?" if subject else "WHERE ? = ''"
        sql = f"SELECT {_COLUMNS} FROM books {where} ORDER BY year DESC, id LIMIT ? OFFSET ?"  # noqa: S608 - columns only
        rows = self._db.execute(sql, (subject, limit, offset))
        return [Book(*row) for row in rows]

    def book(self, number: int) -> Book | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM books WHERE id = ?", (number,)).fetchone()  # noqa: S608 - columns only
        return Book(*row) if row else None

    def search(self, text: str) -> list[Book]:
        """Books with every word of ``text`` somewhere in title, author or subject."""
        words = text.split()[:8]
        if not words:
            return []
        condition = " AND ".join("instr(lower(title || ' ' || author || ' ' || subject), lower(?)) > 0" for _ in words)
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM books WHERE {condition} ORDER BY title LIMIT 50", words)  # noqa: S608 - columns only
        return [Book(*row) for row in rows]

    # Carts. A session is in the database, not in a process: whichever version serves the next request knows it.

    def cart(self, session: str) -> list[Line]:
        if not session:
            return []
        rows = self._db.execute(
            f"SELECT {_COLUMNS}, quantity FROM cart JOIN books ON id = book WHERE session = ? ORDER BY title",  # noqa: S608 - columns only
            (session,),
        )
        return [Line(Book(*row[:-1]), row[-1]) for row in rows]

    def in_cart(self, session: str) -> int:
        """How many books."""
        if not session:
            return 0
        return int(self._db.execute("SELECT total(quantity) FROM cart WHERE session = ?", (session,)).fetchone()[0])

    def add(self, session: str, book: int, quantity: int = 1) -> str:
        """Put books into the cart; returns the session, a new one when the given one is not known."""
        with self._writing():
            if not self._knows(session):
                session = os.urandom(18).hex()
                self._db.execute("INSERT INTO sessions VALUES (?, ?)", (session, time.time()))
            self._db.execute(
                "INSERT INTO cart VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET quantity = min(quantity + ?3, ?4)",
                (session, book, quantity, MOST_OF_A_BOOK),
            )
        return session

    def remove(self, session: str, book: int) -> None:
        self._db.execute("DELETE FROM cart WHERE session = ? AND book = ?", (session, book))

    def _knows(self, session: str) -> bool:
        if not _SESSION.fullmatch(session):
            return False
        return self._db.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None

    # Orders

    def checkout(self, session: str) -> Order | None:
        """Turn the cart into an order, all or nothing; None when it is empty."""
        with self._writing():
            return self._checkout(session)

    def rehearse_checkout(self) -> bool:
        """Go through a checkout from the session to the order, and take all of it back. Raises sqlite3.Error."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("INSERT INTO sessions VALUES ('rehearsal', 0)")
            self._db.execute("INSERT INTO cart SELECT 'rehearsal', min(id), 2 FROM books")
            order = self._checkout("rehearsal")
            return order is not None and order.cents > 0 and not self.in_cart("rehearsal")
        finally:
            self._db.execute("ROLLBACK")

    def _checkout(self, session: str) -> Order | None:
        lines = self.cart(session)
        if not lines:
            return None
        at, cents = time.time(), sum(line.cents for line in lines)
        titles = [(line.book.title, line.quantity) for line in lines]
        done = self._db.execute(
            "INSERT INTO orders (session, at, cents, lines) VALUES (?, ?, ?, ?)",
            (session, at, cents, json.dumps(titles)),
        )
        self._db.execute("DELETE FROM cart WHERE session = ?", (session,))
        return Order(int(done.lastrowid or 0), at, cents, titles)

    def order(self, session: str, number: int) -> Order | None:
        """An order of this session's own."""
        row = self._db.execute(
            "SELECT id, at, cents, lines FROM orders WHERE id = ? AND session = ?", (number, session)
        ).fetchone()
        return _order(row) if row else None

    def last_order(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM orders").fetchone()[0])

    def orders_after(self, number: int, limit: int = 100) -> list[Order]:
        """Of anybody, oldest first."""
        rows = self._db.execute(
            "SELECT id, at, cents, lines FROM orders WHERE id > ? ORDER BY id LIMIT ?", (number, limit)
        )
        return [_order(row) for row in rows]


def _order(row: tuple[int, float, int, str]) -> Order:
    number, at, cents, lines = row
    return Order(number, at, cents, [(title, quantity) for title, quantity in json.loads(lines)])


@contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """While inside, every other process that comes here waits."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
