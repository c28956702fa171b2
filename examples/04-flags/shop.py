"""The bookshop with feature flags. What differs between its versions is `features.py`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import features
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.track import TrackingEventDetails

from crossfade import flags

CLIENT = api.get_client()


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        given = dict(parse_qsl(parts.query))
        reader = given.get("reader", "nobody")
        who = EvaluationContext(reader, {"email": given.get("email", ""), "plan": given.get("plan", "free")})
        # What this answer is made with goes to the edge in its headers, also when it fails.
        with flags.request() as made:
            try:
                status, said = 200, self.page(parts.path, reader, who)
            except Exception as error:  # noqa: BLE001 - one broken page must not end the shop
                print("error:", repr(error), flush=True)
                status, said = 500, {"error": "something went wrong here"}
        self.say(status, said, made.headers())

    def page(self, path, reader, who):
        if path == "/health":
            return {"status": "ok", "version": features.VERSION}
        if path == "/book":
            shown = {"title": "The Sea, the Sea"}
            if CLIENT.get_boolean_value("recommendations", False, who):
                shown["recommended"] = ["The Bell", "Under the Net"]
            return shown
        if path == "/search":
            fast = CLIENT.get_boolean_value("fast-search", False, who)
            return {"found": features.search(reader, fast)}
        if path == "/gift":
            wrapped = CLIENT.get_boolean_value("gift-wrap", False, who)
            return {"gift": features.gift(reader, wrapped)}
        if path == "/checkout":
            return {"page": CLIENT.get_string_value("checkout-page", "classic", who)}
        if path == "/buy":
            CLIENT.track("purchase", who, TrackingEventDetails(23.5))
            return {"bought": True}
        raise LookupError(path)

    def say(self, status, data, headers):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    # In a replica it knows from its environment whom to ask, and goes on with the last that it has heard when nobody answers.
    api.set_provider_and_wait(flags.CrossfadeProvider())
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Shop)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    api.shutdown()
    sys.exit(0)
