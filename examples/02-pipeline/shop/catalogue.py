from __future__ import annotations

import sqlite3
from typing import Any

ADJECTIVES = ("Quiet", "Blue", "Lost", "Green", "Late", "Golden", "Winter", "Hidden", "Second", "Open")
NOUNS = ("River", "Garden", "Letter", "Harbour", "Window", "Mountain", "Orchard", "Lantern", "Bridge", "Island")
BOOKS = 2000
SHOWN = 20


def fill(database: sqlite3.Connection) -> None:
    """Make the tables, and the books that the shop begins with."""
    database.executescript(
        """
        CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, price INTEGER NOT NULL);
        CREATE TABLE words (word TEXT NOT NULL, book INTEGER NOT NULL);
        CREATE TABLE orders (id INTEGER PRIMARY KEY, books TEXT NOT NULL, total INTEGER NOT NULL);
        """
    )
    for number in range(1, BOOKS + 1):
        adjective = ADJECTIVES[number % len(ADJECTIVES)]
        noun = NOUNS[number // len(ADJECTIVES) % len(NOUNS)]
        title = f"The {adjective} {noun}, volume {number}"
        price = 900 + number * 37 % 2100
        database.execute("INSERT INTO books VALUES (?, ?, ?)", (number, title, price))
        for word in (adjective, noun, str(number)):
            database.execute("INSERT INTO words VALUES (?, ?)", (word.lower(), number))
    database.execute("CREATE INDEX words_by_word ON words (word, book)")
    database.commit()


def book(database: sqlite3.Connection, number: int) -> dict[str, Any] | None:
    """One book; None when there is none of that number."""
    row = database.execute("SELECT id, title, price FROM books WHERE id = ?", (number,)).fetchone()
    return None if row is None else {"id": row[0], "title": row[1], "price": row[2]}


def listed(database: sqlite3.Connection, page: int) -> list[dict[str, Any]]:
    """A page of the catalogue; pages count from 1."""
    rows = database.execute(
        "SELECT id, title, price FROM books ORDER BY id LIMIT ? OFFSET ?", (SHOWN, (page - 1) * SHOWN)
    )
    return [{"id": row[0], "title": row[1], "price": row[2]} for row in rows]


def search(database: sqlite3.Connection, text: str) -> list[dict[str, Any]]:
    """The first books that have all the words."""
    wanted = sorted(set(text.lower().split()))[:5]
    if not wanted:
        return []
    rows = database.execute(
        "SELECT books.id, title, price FROM words JOIN books ON books.id = words.book WHERE word IN (?, ?, ?, ?, ?)"
        " GROUP BY books.id HAVING count(*) = ? ORDER BY books.id LIMIT ?",
        (*wanted, *[None] * (5 - len(wanted)), len(wanted), SHOWN),
    )
    return [{"id": row[0], "title": row[1], "price": row[2]} for row in rows]
