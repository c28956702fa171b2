"""What version 6 says to its database."""

VERSION = "v6"
SHOWN = ("title", "given_name", "family_name", "price", "copies_sold", "isbn")
FIND = "SELECT title, given_name, family_name, price, copies_sold, isbn FROM books WHERE title = %(title)s"
ADD = """
    INSERT INTO books (title, given_name, family_name, price, isbn) VALUES (%(title)s, %(given_name)s, %(family_name)s, %(price)s, %(isbn)s)
    RETURNING id
"""
SELL = "UPDATE books SET copies_sold = copies_sold + 1 WHERE title = %(title)s"


def book(given):
    """A request's book, as its columns. ``cents`` and ``author`` are as clients of all versions say them."""
    return {
        "title": given["title"],
        "given_name": given["author"].partition(" ")[0],
        "family_name": given["author"].partition(" ")[2],
        "price": int(given["cents"]) / 100,
        "isbn": given["isbn"],
    }
