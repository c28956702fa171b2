from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from shop import carts, catalogue
from shop.pool import Exhausted, Pool

CONNECTIONS = 8
HERE = Path(__file__).parent.parent


class Shop:
    """The shop behind the requests: `answer` takes one and gives status, body and headers."""

    def __init__(self, file: str) -> None:
        first = sqlite3.connect(file, check_same_thread=False)
        if not first.execute("SELECT name FROM sqlite_master WHERE name = 'books'").fetchone():
            catalogue.fill(first)
        first.close()
        self.pool = Pool(lambda: sqlite3.connect(file, check_same_thread=False), CONNECTIONS)
        self.carts = carts.Carts()

    def answer(self, method: str, target: str, cookie: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(target)
        query = parse_qs(url.query)
        name = carts.name_of(cookie)
        match method, url.path.strip("/").split("/"):
            case "GET", ["health"]:
                with self.pool.connection() as database:
                    books = database.execute("SELECT count(*) FROM books").fetchone()[0]
                return 200, {"status": "ok", "books": books}, {}
            case "GET", ["books"]:
                page = query.get("page", ["1"])[0]
                if not page.isdecimal() or not 1 <= int(page) <= 1000:
                    return 422, {"error": "page: a number from 1 to 1000"}, {}
                with self.pool.connection() as database:
                    return 200, {"books": catalogue.listed(database, int(page))}, {}
            case "GET", ["books", number] if number.isdecimal() and len(number) < 10:
                with self.pool.connection() as database:
                    found = catalogue.book(database, int(number))
                return (200, found, {}) if found else (404, {"error": "there is no such book"}, {})
            case "GET", ["search"]:
                with self.pool.connection() as database:
                    return 200, {"books": catalogue.search(database, query.get("q", [""])[0])}, {}
            case "GET", ["cart"]:
                return 200, {"books": self.carts.of(name)}, {}
            case "POST", ["cart"]:
                return self._choose(name, body)
            case "POST", ["orders"]:
                with self.pool.connection() as database:
                    done = carts.order(database, self.carts, name)
                return (201, done, {}) if done else (409, {"error": "the cart is empty"}, {})
            case "GET", ["openapi.json"]:
                return 200, json.loads((HERE / "openapi.json").read_text()), {}
            case "GET", [""]:
                return 200, PAGE, {"Content-Type": "text/html; charset=utf-8"}
        return 404, {"error": "there is nothing here"}, {}

    def _choose(self, name: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        try:
            number = json.loads(body)["book"]
        except (ValueError, KeyError, TypeError):
            return 422, {"error": 'a book is wanted: {"book": 7}'}, {}
        with self.pool.connection() as database:
            found = catalogue.book(database, number) if isinstance(number, int) else None
        if found is None:
            return 404, {"error": "there is no such book"}, {}
        headers = {}
        if not name:
            name, headers["Set-Cookie"] = carts.new_cookie()
        return 201, {"books": self.carts.put(name, found["id"])}, headers


PAGE = """<!doctype html><html lang="en"><title>Bookshop</title><h1>Bookshop</h1>
<form id="buy"><label>Book <input id="number" value="7" inputmode="numeric"></label> <button>Buy</button></form>
<p id="said" role="status"></p>
<script>
document.getElementById("buy").addEventListener("submit", async (event) => {
  event.preventDefault();
  const book = Number(document.getElementById("number").value);
  const said = document.getElementById("said");
  const put = await fetch("/cart", {method: "POST", body: JSON.stringify({book})});
  if (!put.ok) { said.textContent = "There is no such book."; return; }
  const bought = await fetch("/orders", {method: "POST"});
  const answer = await bought.json();
  said.textContent = bought.ok ? `Order ${answer.order}: ${(answer.total / 100).toFixed(2)}` : answer.error;
});
</script></html>"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shop: Shop

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(min(int(length), 65536)) if length.isdecimal() else b""
        try:
            status, said, headers = self.shop.answer(self.command, self.path, self.headers.get("Cookie", ""), body)
        except Exhausted:
            status, said, headers = 503, {"error": "no connection to the database is free"}, {}
        content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The edge counts requests."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    file = os.environ.get("DATABASE") or str(Path(tempfile.mkdtemp(prefix="bookshop-")) / "shop.db")
    Handler.shop = Shop(file)
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"bookshop at {server.server_address}", flush=True)
    server.serve_forever()
    sys.exit(0)


if __name__ == "__main__":
    main()
