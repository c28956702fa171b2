"""What the shop answers: pages for people, JSON for programs, a feed, and its health."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from bookshop import features, pages, websocket
from bookshop.feed import Beat, Feed, Listener, News, text
from bookshop.server import Answer, BadRequest, Request, Response, Stream
from bookshop.store import MOST_OF_A_BOOK, Book, Line, Order, Store
from bookshop.version import VERSION

SESSION_COOKIE = "bookshop_session"
PER_PAGE = 24
HIGHEST = 2**31


class Shop:
    """The handler of the server. One for a process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.feed = Feed(store)
        self._sockets: dict[websocket.WebSocket, Listener] = {}
        self._routes: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "/"): self.catalogue,
            ("GET", "/search"): self.search,
            ("GET", "/cart"): self.cart,
            ("POST", "/cart"): self.put_into_cart,
            ("POST", "/cart/remove"): self.take_from_cart,
            ("POST", "/checkout"): self.checkout,
            ("GET", "/health"): self.health,
            ("GET", "/feed"): self.follow,
            ("GET", "/ws"): self.talk,
            ("GET", "/api/books"): self.api_books,
            ("GET", "/api/cart"): self.api_cart,
            ("POST", "/api/cart"): self.api_put_into_cart,
            ("POST", "/api/checkout"): self.api_checkout,
        }
        self._numbered: dict[str, Callable[[Request, int], Answer]] = {
            "/books/": self.book,
            "/orders/": self.order,
            "/api/books/": self.api_book,
        }

    def close(self) -> None:
        """End the streams, in good order."""
        self.feed.close()

    def answer(self, request: Request) -> Answer | Awaitable[Answer]:
        """See `server.Handler`."""
        try:
            return self._answer(request)
        except BadRequest as error:
            if request.path.startswith("/api/"):
                return _json({"error": str(error)}, error.status)
            return self._page(request, "Sorry", pages.sorry("Sorry", f"{error}."), error.status)

    def _answer(self, request: Request) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._routes.get((method, request.path))
        if handler is not None:
            return handler(request)
        folder, _, number = request.path.rpartition("/")
        numbered = self._numbered.get(folder + "/")
        if numbered is not None and method == "GET" and number.isascii() and number.isdigit() and len(number) < 10:
            return numbered(request, int(number))
        if any(path == request.path for _, path in self._routes):
            raise BadRequest(405, f"{request.method} is not possible here")
        raise BadRequest(404, "There is no such page")

    # Pages

    def catalogue(self, request: Request) -> Answer:
        subject = request.query.get("subject", "")
        number = _number(request.query.get("page", "1"), "page", 1, 10_000)
        books = self.store.books(subject, PER_PAGE + 1, (number - 1) * PER_PAGE)
        content = pages.catalogue(books[:PER_PAGE], subject, number, len(books) > PER_PAGE)
        return self._page(request, subject or "New and lasting", content, subject=subject)

    def search(self, request: Request) -> Answer:
        sought = request.query.get("q", "")[:200]
        return self._page(request, f"Search: {sought}", pages.found(self.store.search(sought), sought), text=sought)

    def book(self, request: Request, number: int) -> Answer:
        book = self._book(number)
        return self._page(request, book.title, pages.book(book, features.recommended(self.store, book)))

    def cart(self, request: Request) -> Answer:
        return self._page(request, "Your cart", pages.cart(self.store.cart(_session(request))))

    def put_into_cart(self, request: Request) -> Answer:
        form = request.form
        return _see_other("/cart", self._add(request, form.get("book"), form.get("quantity", "1")))

    def take_from_cart(self, request: Request) -> Answer:
        self.store.remove(_session(request), _number(request.form.get("book"), "book", 1, HIGHEST))
        return _see_other("/cart")

    def checkout(self, request: Request) -> Answer:
        order = self.store.checkout(_session(request))
        return _see_other(f"/orders/{order.id}" if order else "/cart")

    def order(self, request: Request, number: int) -> Answer:
        order = self.store.order(_session(request), number)
        if order is None:
            raise BadRequest(404, "You have no such order")
        return self._page(request, "Thank you", pages.order(order))

    # JSON

    def api_books(self, request: Request) -> Answer:
        sought = request.query.get("q", "")[:200]
        books = self.store.search(sought) if sought else self.store.books()
        return _json({"books": [_book(book) for book in books]})

    def api_book(self, request: Request, number: int) -> Answer:
        book = self._book(number)
        recommended = [other.id for other in features.recommended(self.store, book)]
        return _json(_book(book) | {"blurb": book.blurb, "recommended": recommended})

    def api_cart(self, request: Request) -> Answer:
        return _json(_cart(self.store.cart(_session(request))))

    def api_put_into_cart(self, request: Request) -> Answer:
        try:
            asked = json.loads(request.body)
        except (ValueError, RecursionError):
            raise BadRequest(400, "the body is not JSON") from None
        if not isinstance(asked, dict):
            raise BadRequest(400, "the body is not a JSON object")
        cookie = self._add(request, asked.get("book"), asked.get("quantity", 1))
        session = cookie[0][1].partition("=")[2].partition(";")[0] if cookie else _session(request)
        return _json(_cart(self.store.cart(session)), headers=cookie)

    def api_checkout(self, request: Request) -> Answer:
        order = self.store.checkout(_session(request))
        if order is None:
            return _json({"error": "the cart is empty"}, 409)
        return _json({"order": order.id, "cents": order.cents}, 201)

    # Health and streams

    def health(self, request: Request) -> Answer:
        """Not "the process lives", but "one can buy a book": the catalogue is read and a checkout rehearsed."""
        try:
            books, checkout = self.store.count(), self.store.rehearse_checkout()
            facts = {"database": "ok", "books": books, "checkout": "ok" if checkout else "does not work"}
            good = books > 0 and checkout
        except sqlite3.Error as error:
            facts, good = {"database": str(error), "books": 0, "checkout": "unknown"}, False
        release = os.environ.get("CROSSFADE_RELEASE", "")
        status = {"status": "ok" if good else "failing", **facts, "version": VERSION, "release": release}
        return _json(status, 200 if good else 503)

    def follow(self, request: Request) -> Answer:
        last = request.headers.get("last-event-id", "")
        return Stream(self.feed.events(int(last) if last.isascii() and last.isdigit() and len(last) < 10 else None))

    def talk(self, request: Request) -> Answer:
        """A WebSocket: says orders as they happen, and whatever it is told it says back."""

        def begin(socket: websocket.WebSocket) -> None:
            def tell(news: News) -> None:
                if isinstance(news, Order):
                    socket.send(text(news))
                elif news is Beat.HEARTBEAT:
                    socket.send('{"heartbeat": true}')
                else:
                    socket.close()

            self._sockets[socket] = tell
            self.feed.listen(tell)

        def end(socket: websocket.WebSocket) -> None:
            tell = self._sockets.pop(socket, None)
            if tell is not None:
                self.feed.leave(tell)

        return websocket.upgrade(request, websocket.WebSocket(begin, websocket.WebSocket.send, end))

    def _page(
        self, request: Request, title: str, content: str, status: int = 200, text: str = "", subject: str = ""
    ) -> Response:
        in_cart = self.store.in_cart(_session(request))
        html = pages.page(title, content, in_cart=in_cart, version=VERSION, text=text, subject=subject)
        return Response(html.encode(), status)

    def _book(self, number: int) -> Book:
        book = self.store.book(number)
        if book is None:
            raise BadRequest(404, "There is no such book")
        return book

    def _add(self, request: Request, book: Any, quantity: Any) -> tuple[tuple[str, str], ...]:
        """Put into the cart; returns the header that a new session needs."""
        number = self._book(_number(book, "book", 1, HIGHEST)).id
        before = _session(request)
        session = self.store.add(before, number, _number(quantity, "quantity", 1, MOST_OF_A_BOOK))
        if session == before:
            return ()
        return (("Set-Cookie", f"{SESSION_COOKIE}={session}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"),)


def _session(request: Request) -> str:
    return request.cookies.get(SESSION_COOKIE, "")


def _number(given: Any, name: str, low: int, high: int) -> int:
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise BadRequest(400, f"{name} must be a number")
    shown = str(given)
    if not (shown.isascii() and shown.isdigit() and len(shown) < 11 and low <= int(shown) <= high):
        raise BadRequest(400, f"{name} must be a number from {low} to {high}")
    return int(shown)


def _json(data: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(json.dumps(data, ensure_ascii=False).encode(), status, "application/json", headers)


def _see_other(path: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(b"", 303, headers=(("Location", path), *headers))


def _book(book: Book) -> dict[str, Any]:
    return {
        "id": book.id,
        "title": book.title,
        "author": book.author,
        "subject": book.subject,
        "year": book.year,
        "cents": book.cents,
    }


def _cart(lines: list[Line]) -> dict[str, Any]:
    return {
        "books": [{"id": line.book.id, "title": line.book.title, "quantity": line.quantity} for line in lines],
        "count": sum(line.quantity for line in lines),
        "cents": sum(line.cents for line in lines),
    }
