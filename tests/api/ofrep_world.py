"""A real server of a flag file: on a real socket, in a process of its own where it is to be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

SERVE = """
import sys
from pathlib import Path
from crossfade.bootstrap.flag_file import serve_flag_file

path, port, grpc_port, token = sys.argv[1:]
serve_flag_file(
    Path(path), port=int(port), grpc_port=int(grpc_port) if grpc_port else None, token=token,
    on_listen=lambda url: print(url, flush=True),
)
"""

FLAGS: dict[str, Any] = {
    "flags": {
        "welcome": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"},
        "ratio": {
            "state": "ENABLED",
            "variants": {"one": 1, "more": 2.5},
            "defaultVariant": "one",
            "metadata": {"team": "shop", "prio": 1.5, "old": False},
        },
        "colour": {
            "state": "ENABLED",
            "variants": {"red": "#f00", "blue": "#00f"},
            "defaultVariant": "red",
            "targeting": {"if": [{"==": [{"var": "country"}, "de"]}, "blue", None]},
        },
        "layout": {"state": "ENABLED", "variants": {"wide": {"columns": 3}, "small": {"columns": 1}}, "defaultVariant": "small"},
        "sleeping": {"state": "DISABLED", "variants": {"on": True}, "defaultVariant": "on"},
        "codes-own": {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": None},
        "a/b": {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": "on"},
        "broken": {
            "state": "ENABLED",
            "variants": {"on": True},
            "defaultVariant": "on",
            "targeting": {"var": "variant"},
        },
    },
    "metadata": {"flagSetId": "dev"},
}  # fmt: skip


def changed(name: str, **said: Any) -> dict[str, Any]:
    """The flags, with one of them said differently."""
    return {**FLAGS, "flags": {**FLAGS["flags"], name: {**FLAGS["flags"].get(name, {}), **said}}}


class Server:
    """The process, and how to ask it."""

    def __init__(self, path: Path, token: str = "", grpc_port: int = 0, port: int = 0) -> None:
        self.path, self.token, self.sync = path, token, f"127.0.0.1:{grpc_port}"
        command = [sys.executable, "-c", SERVE, str(path), str(port), str(grpc_port or ""), token]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=10)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def write(self, document: Mapping[str, Any] | str) -> None:
        """Replace the file."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(document if isinstance(document, str) else json.dumps(document))
        os.replace(fresh, self.path)

    def one(self, key: str, **context: Any) -> httpx.Response:
        return self.client.post(f"/ofrep/v1/evaluate/flags/{key}", json={"context": context})

    def all(self, tag: str | None = None, **context: Any) -> httpx.Response:
        headers = {"If-None-Match": tag} if tag else {}
        return self.client.post("/ofrep/v1/evaluate/flags", json={"context": context}, headers=headers)

    @contextmanager
    def listening(self, url: str = "/ofrep/v1/changes", **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The events that a stream tells, each as its data with its id."""
        with self.client.stream("GET", url, headers=headers, timeout=30) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            assert next(lines) == ": welcome"
            yield _events(lines)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(20)
        self._reader.join(10)
        self.client.close()
        return code


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    number = ""
    for line in lines:
        if line.startswith("id: "):
            number = line[4:]
        elif line.startswith("data: "):
            yield {**json.loads(line[6:]), "id": number}


@contextmanager
def serving(path: Path, token: str = "", grpc_port: int = 0, document: Mapping[str, Any] = FLAGS) -> Iterator[Server]:
    """A server of these flags, until the test ends."""
    path.write_text(json.dumps(document))
    os.utime(path, (time.time() - 3600,) * 2)  # what was written just now would be told to who begins to listen
    server = Server(path, token, grpc_port)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL if server.process.poll() is None else signal.SIGTERM)
