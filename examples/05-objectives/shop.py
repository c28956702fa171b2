"""A bookshop that asks its stock over a pool of connections. What differs between its versions is `stock.py`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stock

POOL = threading.Semaphore(int(os.environ.get("CONNECTIONS", "1000")))
VISITS = itertools.count(1)


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def do_GET(self):
        if self.path == "/health":
            # The process is well, and says so: it is its clients that are not.
            self.say(200, {"status": "ok", "version": stock.VERSION})
        elif not POOL.acquire(blocking=False):
            self.say(500, {"error": "no connection to the stock is free"})
        else:
            if stock.gives_back(next(VISITS)):
                POOL.release()
            self.say(200, {"title": "The Sea, the Sea", "version": stock.VERSION})

    def say(self, status, data):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Version", stock.VERSION)
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
