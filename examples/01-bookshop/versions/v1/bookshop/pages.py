"""The shop as people see it. Functions from data to HTML; whatever is not from this file is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from urllib.parse import quote

from bookshop.catalogue import SUBJECTS
from bookshop.store import Book, Line, Order

_HUES = dict(zip(SUBJECTS, (205, 110, 35, 255, 18, 340), strict=True))

STYLE = """
:root { --paper: #faf7f1; --ink: #26221c; --soft: #6f675b; --line: #e4dccd; --accent: #8c3b2a; --card: #fffdf9 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1c1a17; --ink: #ece5d8; --soft: #a59b8b; --line: #37322a; --accent: #e08e72; --card: #24211c }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 1.2rem 1.5rem }
header { display: flex; flex-wrap: wrap; gap: .6rem 1.6rem; align-items: baseline; border-bottom: 1px solid var(--line) }
header .name, h1, h2, h3 { font-family: Georgia, 'Iowan Old Style', serif; font-weight: 600; letter-spacing: -.01em }
header .name { font-size: 1.5rem; color: inherit; text-decoration: none }
header form { flex: 1 1 12rem } h1 { font-size: 2rem; line-height: 1.2; margin: .4rem 0 } h3 { margin: 0; font-size: 1.02rem }
a { color: var(--accent) } h3 a { color: inherit; text-decoration: none } h3 a:hover { text-decoration: underline }
input[type=search] { width: 100%; max-width: 22rem; padding: .45rem .8rem; border: 1px solid var(--line);
  border-radius: 2rem; background: var(--card); color: inherit; font: inherit }
nav a { margin-right: 1rem; text-decoration: none } nav a[aria-current] { text-decoration: underline }
.shelf { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: 1.8rem 1.4rem;
  padding: 0; list-style: none }
.cover { display: flex; aspect-ratio: 2/3; border-radius: 3px 6px 6px 3px; padding: 1rem .9rem .8rem 1.3rem; color: #fff;
  flex-direction: column; justify-content: space-between; text-decoration: none; font-family: Georgia, serif;
  background: linear-gradient(90deg, #0004 0 .45rem, #fff2 .45rem .55rem, #0000 .55rem),
    linear-gradient(160deg, hsl(var(--h) 38% 42%), hsl(var(--h) 45% 24%)); box-shadow: 0 6px 16px #0003 }
.cover b { font-size: 1.15rem; line-height: 1.2 } .cover span { font-size: .8rem; opacity: .85 }
.shelf .cover { margin-bottom: .7rem; transition: transform .15s } .shelf .cover:hover { transform: translateY(-3px) }
.soft { color: var(--soft); font-size: .92rem } .price { font-variant-numeric: tabular-nums; font-weight: 600 }
.book { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: 2.4rem; align-items: start; margin: 1.4rem 0 }
@media (max-width: 40rem) { .book { grid-template-columns: 1fr } .book .cover { max-width: 13rem } }
button { font: inherit; padding: .55rem 1.3rem; border: 0; border-radius: 2rem; background: var(--accent);
  color: var(--paper); cursor: pointer } button.plain { background: none; color: var(--accent); padding: 0 .4rem }
table { border-collapse: collapse; width: 100%; max-width: 46rem } td, th { padding: .6rem .4rem; text-align: left;
  border-bottom: 1px solid var(--line) } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
footer { border-top: 1px solid var(--line); margin-top: 2.5rem; display: flex; justify-content: space-between; gap: 1rem }
"""

SCRIPT = """
const last = document.getElementById('last'), feed = new EventSource('/feed');
feed.addEventListener('order', e => {
  const books = JSON.parse(e.data).books;
  last.textContent = 'Just ordered: ' + books[0].title + (books.length > 1 ? ' and more' : '');
});
"""


def money(cents: int) -> str:
    return f"€ {cents // 100}.{cents % 100:02}"


def page(title: str, content: str, *, in_cart: int, version: str, text: str = "", subject: str = "") -> str:
    """The frame around every page."""
    links = "".join(
        f'<a href="/?subject={name}"{" aria-current=page" if name == subject else ""}>{name}</a>' for name in SUBJECTS
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Bookshop</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<header><a class="name" href="/">Bookshop</a><form action="/search" role="search">'
        f'<input type="search" name="q" value="{escape(text)}" placeholder="Title, author, subject" '
        f'aria-label="Search books"></form><a href="/cart">Cart ({in_cart})</a><nav>{links}</nav></header>'
        f'<main>{content}</main><footer class="soft"><span id="last" aria-live="polite"></span>'
        f"<span>Bookshop {escape(version)}</span></footer><script>{SCRIPT}</script></body></html>"
    )


@lru_cache(maxsize=1024)
def _cover(book: Book) -> str:
    return (
        f'<a class="cover" style="--h: {_HUES.get(book.subject, 200)}" href="/books/{book.id}">'
        f"<b>{escape(book.title)}</b><span>{escape(book.author)}</span></a>"
    )


@lru_cache(maxsize=1024)
def _card(book: Book) -> str:
    return (
        f'<li>{_cover(book)}<h3><a href="/books/{book.id}">{escape(book.title)}</a></h3>'
        f'<div class="soft">{escape(book.author)}, {book.year}</div><div class="price">{money(book.cents)}</div></li>'
    )


def shelf(books: Iterable[Book]) -> str:
    return f'<ul class="shelf">{"".join(map(_card, books))}</ul>'


def catalogue(books: Sequence[Book], subject: str, number: int, more: bool) -> str:
    about = SUBJECTS.get(subject)
    heading = f"Books about {about}" if about else "New and lasting"
    turn = []
    for label, to in (("← Newer", number - 1 if number > 1 else 0), ("Older →", number + 1 if more else 0)):
        if to:
            turn.append(f'<a href="/?subject={quote(subject)}&amp;page={to}">{label}</a>')
    return f"<h1>{escape(heading)}</h1>{shelf(books)}<p>{' &nbsp; '.join(turn)}</p>"


def found(books: Sequence[Book], text: str) -> str:
    if not books:
        return f"<h1>Nothing found</h1><p>No book here has “{escape(text)}” in its title, author or subject.</p>"
    count = "1 book" if len(books) == 1 else f"{len(books)} books"
    return f"<h1>{count} for “{escape(text)}”</h1>{shelf(books)}"


def book(one: Book, recommended: Sequence[Book]) -> str:
    reviews = (
        f"{one.stars / one.reviews:.1f} of 5 stars from {one.reviews} readers" if one.reviews else "No reviews yet"
    )
    below = f"<h2>You may also like</h2>{shelf(recommended)}" if recommended else ""
    return (
        f'<div class="book">{_cover(one)}<div><h1>{escape(one.title)}</h1><p>by {escape(one.author)}</p>'
        f'<p>{escape(one.blurb)}</p><p class="soft">{reviews} · {one.pages} pages · {one.year} · '
        f'<a href="/?subject={quote(one.subject)}">{escape(one.subject)}</a></p><p class="price">{money(one.cents)}</p>'
        f'<form method="post" action="/cart"><input type="hidden" name="book" value="{one.id}">'
        f"<button>Put into the cart</button></form></div></div>{below}"
    )


def cart(lines: Sequence[Line]) -> str:
    if not lines:
        return '<h1>Your cart is empty</h1><p><a href="/">See what there is</a>.</p>'
    rows = "".join(
        f'<tr><td><a href="/books/{line.book.id}">{escape(line.book.title)}</a></td><td class="n">{line.quantity}</td>'
        f'<td class="n">{money(line.cents)}</td><td><form method="post" action="/cart/remove">'
        f'<input type="hidden" name="book" value="{line.book.id}"><button class="plain">Remove</button></form></td></tr>'
        for line in lines
    )
    total = money(sum(line.cents for line in lines))
    return (
        f'<h1>Your cart</h1><table><tr><th>Book</th><th class="n">Copies</th><th class="n">Price</th><th></th></tr>{rows}'
        f'<tr><th>Total</th><th></th><th class="n">{total}</th><th></th></tr></table>'
        f'<form method="post" action="/checkout"><p><button>Buy</button></p></form>'
    )


def order(one: Order) -> str:
    rows = "".join(f'<tr><td>{escape(title)}</td><td class="n">{count}</td></tr>' for title, count in one.lines)
    return (
        f"<h1>Thank you</h1><p>Order {one.id} is on its way: {money(one.cents)}.</p>"
        f'<table><tr><th>Book</th><th class="n">Copies</th></tr>{rows}</table>'
    )


def sorry(heading: str, words: str) -> str:
    return f'<h1>{escape(heading)}</h1><p>{escape(words)} <a href="/">Back to the books</a>.</p>'
