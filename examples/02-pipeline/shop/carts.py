from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from http.cookies import CookieError, SimpleCookie
from typing import Any

from shop import catalogue

COOKIE = "cart"
MOST = 10_000


class Carts:
    """What visitors have chosen, by the cookie that they carry."""

    def __init__(self) -> None:
        self._carts: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> list[int]:
        with self._lock:
            return list(self._carts.get(name, ()))

    def put(self, name: str, book: int) -> list[int]:
        with self._lock:
            if name not in self._carts and len(self._carts) >= MOST:
                self._carts.pop(next(iter(self._carts)))
            self._carts.setdefault(name, []).append(book)
            return list(self._carts[name])

    def empty(self, name: str) -> None:
        with self._lock:
            self._carts.pop(name, None)


def name_of(header: str) -> str:
    """The cart that a Cookie header names; empty when it names none."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def new_cookie() -> tuple[str, str]:
    """A fresh cart's name, and the header that gives it to the browser."""
    name = secrets.token_urlsafe(12)
    return name, f"{COOKIE}={name}; Path=/; HttpOnly; SameSite=Lax"


def order(database: sqlite3.Connection, carts: Carts, name: str) -> dict[str, Any] | None:
    """Buy what is in the cart; None when it is empty."""
    chosen = carts.of(name)
    if not chosen:
        return None
    prices = [found["price"] for number in chosen if (found := catalogue.book(database, number)) is not None]
    total = sum(prices)
    done = database.execute("INSERT INTO orders (books, total) VALUES (?, ?)", (json.dumps(chosen), total))
    database.commit()
    carts.empty(name)
    return {"order": done.lastrowid, "books": chosen, "total": total}
