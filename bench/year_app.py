"""The service of ``bench.year``: books from an SQLite file, orders into it, and the fault that a bad release carries.

A loop over bare sockets, so that a replica costs little beside three others. ``FAULT`` in its environment names what is
wrong with a release; see `bench.year_schedule.Fault`. Its health check asks what a careful one asks: whether the
database answers and has books. It does not know what only clients come upon.
"""

import contextlib
import heapq
import os
import random
import resource
import select
import signal
import socket
import sqlite3
import time

SCHEMA = """
CREATE TABLE IF NOT EXISTS books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, price INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, book INTEGER NOT NULL);
INSERT OR IGNORE INTO books SELECT value, 'book ' || value, value * 100 FROM (
  WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 40) SELECT value FROM n);
"""
GOOD_WORK = 0.008
"""Seconds that an answer takes at the median, whatever the release; a lognormal spread around it."""
LEAK = 150_000
"""Bytes that a request leaves behind in a release that leaks."""
ROOM = 120_000_000
"""Bytes that a replica may take beyond what it starts with: its limit (RLIMIT_AS) kills the one that wants more."""
CROWDED = 30_000_000
"""Bytes of leak from which a replica gets slower, by ten milliseconds a megabyte, as one that swaps or collects does."""


class Fault:
    """What is wrong with this release: ``kind``, the ``share`` of requests that it hits, seconds ``after`` the start."""

    def __init__(self) -> None:
        self.kind = os.environ.get("FAULT", "")
        self.share = float(os.environ.get("FAULT_SHARE", "0"))
        self.after = float(os.environ.get("FAULT_AFTER", "0"))
        self.began = time.monotonic()
        self.leaked: list[bytes] = []

    def hits(self) -> bool:
        """Whether this request is one that fails or is slow."""
        return time.monotonic() - self.began >= self.after and random.random() < self.share

    def leak(self) -> None:
        """Keep something of a request for ever; the limit ends what keeps too much, as the kernel ends it."""
        try:
            self.leaked.append(b"\1" * LEAK)
        except MemoryError:
            os._exit(137)

    @property
    def delay(self) -> float:
        """Seconds by which every answer is late for what has leaked."""
        return max(0, len(self.leaked) * LEAK - CROWDED) / 1e6 * 0.01


class Shop:
    """Answers requests; each answer comes with the time at which it is ready."""

    def __init__(self) -> None:
        self.fault = Fault()
        self.version = os.environ.get("VERSION", "").encode()
        self.books = sqlite3.connect(os.environ["DATABASE"], timeout=5, isolation_level=None)
        self.books.execute("PRAGMA journal_mode = WAL")
        self.books.execute("PRAGMA synchronous = OFF")
        self.books.executescript(SCHEMA)

    def answer(self, request: bytes) -> tuple[float, bytes]:
        """Seconds of work, and the answer."""
        fault = self.fault
        if request.startswith(b"GET /health"):
            (count,) = self.books.execute("SELECT count(*) FROM books").fetchone()
            return fault.delay, self._made(b"200 OK", b'{"status": "ok", "books": %d}' % count)
        work = GOOD_WORK * random.lognormvariate(0, 0.4)
        if fault.kind == "leak":
            fault.leak()
        if fault.kind == "slow" and fault.hits():
            work += random.uniform(0.8, 1.5)
        if fault.kind in ("errors", "late") and fault.hits():
            return work, self._made(b"500 Oops", b"")
        try:
            body = self._order() if request.startswith(b"POST") else self._book(request)
        except sqlite3.Error:
            return work, self._made(b"500 Oops", b"")
        return work + fault.delay, self._made(b"200 OK", body)

    def _book(self, request: bytes) -> bytes:
        number = int(request.split(b" ", 2)[1].rpartition(b"/")[2] or b"1")
        title, price = self.books.execute("SELECT title, price FROM books WHERE id = ?", (number,)).fetchone()
        return b'{"title": "%s", "price": %d}' % (title.encode(), price)

    def _order(self) -> bytes:
        book = random.randint(1, 40)
        if self.fault.kind == "schema":
            # The column is in no database: its migration was forgotten. Only clients that order come upon it.
            self.books.execute("INSERT INTO orders (book, voucher) VALUES (?, '')", (book,))
        self.books.execute("INSERT INTO orders (book) VALUES (?)", (book,))
        return b'{"ordered": %d}' % book

    def _made(self, status: bytes, body: bytes) -> bytes:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nX-Version: %s\r\nContent-Length: %d\r\n\r\n"
        return head % (status, self.version, len(body)) + body


def main() -> None:
    """Serve until SIGTERM; what is under way then is still answered."""
    begins = float(os.environ.get("START", "1"))
    if os.environ.get("FAULT") == "crash":
        time.sleep(begins / 2)
        raise SystemExit(3)
    time.sleep(begins)  # imports, connections, warm caches: what a service does before it is ready
    shop = Shop()
    if shop.fault.kind == "leak":
        with open("/proc/self/statm", encoding="ascii") as statm:
            now = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    listener = socket.create_server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), backlog=512)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_now: dict[int, socket.socket] = {}
    ready: list[tuple[float, int, socket.socket, bytes]] = []
    order = 0
    while True:
        wait = max(0.0, ready[0][0] - time.monotonic()) if ready else 0.2
        for number, _ in poll.poll(min(wait, 0.2)):
            if number == listener.fileno():
                connection, _ = listener.accept()
                open_now[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = open_now[number]
            received = b""
            with contextlib.suppress(OSError):
                # The requests of the bench are short and come one by one: each arrives whole.
                received = connection.recv(65536)
            if received:
                work, answer = shop.answer(received)
                order += 1
                heapq.heappush(ready, (time.monotonic() + work, order, connection, answer))
                continue
            poll.unregister(number)
            open_now.pop(number).close()
        while ready and ready[0][0] <= time.monotonic():
            _, _, connection, answer = heapq.heappop(ready)
            with contextlib.suppress(OSError):
                connection.sendall(answer)
        if ending and not ready:
            return


if __name__ == "__main__":
    main()
