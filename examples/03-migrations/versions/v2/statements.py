"""What version 2 says to its database."""

VERSION = "v2"
SHOWN = ("title", "author", "price", "sold", "isbn")
FIND = "SELECT title, author, price, sold, isbn FROM books WHERE title = %(title)s"
ADD = """
    INSERT INTO books (title, author, price, isbn, shelf) VALUES (%(title)s, %(author)s, %(price)s, %(isbn)s, %(shelf)s)
    RETURNING id
"""
SELL = "UPDATE books SET sold = sold + 1 WHERE title = %(title)s"


def book(given):
    """A request's book, as its columns. ``cents`` and ``author`` are as clients of all versions say them."""
    return {
        "title": given["title"],
        "author": given["author"],
        "price": int(given["cents"]),
        "isbn": given["isbn"],
        "shelf": "B",
    }
