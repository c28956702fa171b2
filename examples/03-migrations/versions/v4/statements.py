"""What version 4 says to its database."""

VERSION = "v4"
SHOWN = ("title", "author", "price", "copies_sold", "isbn")
FIND = "SELECT title, author, price, copies_sold, isbn FROM books WHERE title = %(title)s"
ADD = """
    INSERT INTO books (title, author, price, isbn) VALUES (%(title)s, %(author)s, %(price)s, %(isbn)s)
    RETURNING id
"""
SELL = "UPDATE books SET copies_sold = copies_sold + 1 WHERE title = %(title)s"


def book(given):
    """A request's book, as its columns. ``cents`` and ``author`` are as clients of all versions say them."""
    return {
        "title": given["title"],
        "author": given["author"],
        "price": int(given["cents"]) / 100,
        "isbn": given["isbn"],
    }
