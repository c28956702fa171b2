"""What version 1 says to its database."""

VERSION = "v1"
SHOWN = ("title", "author", "price", "sold")
FIND = "SELECT title, author, price, sold FROM books WHERE title = %(title)s"
ADD = """
    INSERT INTO books (title, author, price, shelf) VALUES (%(title)s, %(author)s, %(price)s, %(shelf)s)
    RETURNING id
"""
SELL = "UPDATE books SET sold = sold + 1 WHERE title = %(title)s"


def book(given):
    """A request's book, as its columns. ``cents`` and ``author`` are as clients of all versions say them."""
    return {"title": given["title"], "author": given["author"], "price": int(given["cents"]), "shelf": "A"}
