"""A replica that shows what it was given, and what its flags come to: a WSGI application with our provider in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from openfeature import api
from openfeature.evaluation_context import EvaluationContext

from crossfade.flags import CrossfadeProvider, WsgiVariants

api.set_provider(CrossfadeProvider())
client = api.get_client()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/environment":
        said: Any = {name: value for name, value in os.environ.items() if name.startswith("CROSSFADE_")}
    elif path == "/health":
        said = {"status": "ok"}
    else:
        on = client.get_boolean_value("new-checkout", False, EvaluationContext("ada", {"country": path.strip("/")}))
        if on and path == "/de" and "fail" in environ["QUERY_STRING"]:
            raise RuntimeError("the new checkout is broken")
        said = {"checkout": "new" if on else "old"}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(said).encode()]


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])
make_server(host, port, WsgiVariants(application), handler_class=Quiet).serve_forever()
