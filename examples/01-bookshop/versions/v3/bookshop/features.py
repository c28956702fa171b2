"""What a version adds to the shop as it opened: recommendations by likeness, across all subjects.

The bad version. It looks good at the desk, and its health check passes, since the check reads the catalogue and
rehearses a checkout, but shows no book. In traffic, every fifth book has no reviews yet and divides by zero, and the
comparison with all other books takes milliseconds where a query took a fraction of one.
"""

from __future__ import annotations

from bookshop.store import Book, Store

HOW_MANY = 4


def recommended(store: Store, book: Book) -> list[Book]:
    """The books that are most like this one."""
    rating = book.stars / book.reviews
    others = [other for other in store.books() if other.id != book.id]
    return sorted(others, key=lambda other: _likeness(book, rating, other), reverse=True)[:HOW_MANY]


def _likeness(book: Book, rating: float, other: Book) -> float:
    """How many words both have in common, and how near their ratings are."""
    words = 0
    for word in f"{book.title} {book.blurb} {book.subject}".lower().split():
        for same in f"{other.title} {other.blurb} {other.subject}".lower().split():
            words += word.strip(".,:;") == same.strip(".,:;")
    distance = abs(rating - other.stars / other.reviews) if other.reviews else 5.0
    return words - distance
