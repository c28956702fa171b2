"""A small bookshop on the web, of Python's standard library and SQLite alone."""
