"""A small bookshop: a catalogue that can be searched, carts, orders."""
