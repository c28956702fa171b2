"""A small real application for the end-to-end tests: standard library only, starts at once.

Its behaviour is chosen by the variable MODE: good, unhealthy, exits, wrong-port, failing (health is fine, requests are
not), flaky (every fifth request fails), forgetful (loses sessions), slow. Sessions live in the folder SESSIONS, which all releases share.
A file ``fails-VERSION`` there makes requests of a version fail from then on, ``dies-VERSION`` makes its processes end.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("MODE", "good")
VERSION = os.environ.get("VERSION", "?")
SESSIONS = Path(os.environ.get("SESSIONS", "."))


def told(what: str) -> bool:
    return (SESSIONS / f"{what}-{VERSION}").exists()


def watch() -> None:
    while not told("dies"):
        time.sleep(0.1)
    os._exit(7)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/health":
            state = "down" if MODE == "unhealthy" else "ok"
            self._answer(503 if MODE == "unhealthy" else 200, {"status": state, "version": VERSION})
        elif path == "/login":
            session = secrets.token_hex(8)
            if MODE != "forgetful":
                (SESSIONS / session).write_text("42")
            self._answer(200, {"ok": True}, {"Set-Cookie": f"session={session}; Path=/"})
        elif path == "/cart":
            found = re.search(r"session=([0-9a-f]{16})", self.headers.get("Cookie", ""))
            known = found and MODE != "forgetful" and (SESSIONS / found[1]).exists()
            self._answer(200 if known else 401, {"items": 42 if known else 0})
        elif path == "/feed":
            self._feed()
        else:
            if MODE == "failing" or (MODE == "flaky" and secrets.randbelow(5) == 0) or told("fails"):
                self._answer(500, {"error": "boom"})
                return
            if path == "/buy":
                self._answer(
                    200, {"version": VERSION}, {"X-Crossfade-Event": f"checkout={os.environ.get('PRICE', '20')}"}
                )
                return
            if MODE == "slow":
                time.sleep(0.3)
            self._answer(200, {"version": VERSION, "slot": self.headers.get("X-Crossfade-Slot", "")})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(500 if MODE == "failing" else 200, {"version": VERSION})

    def _answer(self, status: int, body: dict[str, object], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "X-Version": VERSION, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _feed(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for i in range(100_000):
                self.wfile.write(f"data: {VERSION} {i}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            return

    def log_message(self, *args: object) -> None:
        return


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    print(f"version {VERSION} in mode {MODE} starts", flush=True)
    if MODE == "exits":
        print("cannot read its configuration: KeyError: 'DATABASE'", flush=True)
        sys.exit(3)
    threading.Thread(target=watch, daemon=True).start()
    port = int(os.environ["PORT"])
    server = Server((os.environ.get("HOST", "127.0.0.1"), 0 if MODE == "wrong-port" else port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
