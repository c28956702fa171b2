"""What a version adds to the shop as it opened."""

from __future__ import annotations

from bookshop.store import Book, Store


def recommended(_store: Store, _book: Book) -> list[Book]:
    """The books to show below a book. None yet."""
    return []
