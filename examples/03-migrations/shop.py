"""The bookshop on PostgreSQL. What differs between versions is their SQL: `statements.py`, one for each version."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, LifoQueue
from urllib.parse import parse_qsl, urlsplit

import psycopg
import statements

POOL = LifoQueue()


@contextmanager
def connection():
    """One of a few that are kept. A connection that broke is made anew."""
    try:
        one = POOL.get_nowait()
    except Empty:
        one = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    try:
        yield one
    finally:
        if one.broken or one.closed:
            one.close()
        else:
            POOL.put(one)


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        parts = urlsplit(self.path)
        given = dict(parse_qsl(parts.query))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with connection() as database:
                if parts.path == "/health":
                    database.execute(statements.FIND, {"title": "nothing"})
                    said = {"status": "ok", "version": statements.VERSION}
                elif parts.path == "/book":
                    found = database.execute(statements.FIND, given).fetchone()
                    said = dict(zip(statements.SHOWN, map(str, found), strict=True)) if found else {}
                elif parts.path == "/add":
                    said = {"id": database.execute(statements.ADD, statements.book(given)).fetchone()[0]}
                elif parts.path == "/sell":
                    database.execute(statements.SELL, given)
                    said = {"sold": given["title"]}
                else:
                    return self.say(404, {"error": "no such page"})
            self.say(200, said)
        except (psycopg.Error, KeyError) as error:
            print("error:", repr(error), flush=True)
            self.say(500, {"error": repr(error)})

    def say(self, status, data):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Version", statements.VERSION)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Shop)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    sys.exit(0)
