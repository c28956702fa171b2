"""The bookshop with flags as tests run it: its installation, and its readers, who are the load."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import yaml

from tests.e2e.installation import Installation

EXAMPLE = Path(__file__).parents[2] / "examples" / "04-flags"
BUY = {"classic": 0.15, "one-page": 0.45}
"""How likely a reader buys who sees a page: what the experiment has to find out."""


class Readers:
    """Open-loop clients: each turn is a reader's visit, at which all pages are asked for. Who saw and did what is remembered."""

    def __init__(self, port: int, pause: float = 0.02, clients: int = 4) -> None:
        self.port, self.pause = port, pause
        self.failed: list[str] = []
        self.pages: dict[str, str] = {}
        self.bought: set[str] = set()
        self.errors: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self.recommended = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._number, self._due = 0, time.monotonic()
        self._chance = random.Random(7)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def share_recommended(self, seconds: float = 1.0) -> float:
        """Of the visits of the next seconds, how many were recommended something."""
        with self._lock:
            shown, visits = self.recommended, self._number
        time.sleep(seconds)
        with self._lock:
            return (self.recommended - shown) / max(1, self._number - visits)

    def _run(self) -> None:
        connection: HTTPConnection | None = None
        while not self._stop.is_set():
            with self._lock:
                self._number += 1
                reader, due = f"reader-{self._number}", self._due
                self._due = max(self._due + self.pause, time.monotonic() - 1)
                buys = self._chance.random()
            self._stop.wait(max(0.0, due - time.monotonic()))
            connection = connection or HTTPConnection("127.0.0.1", self.port, timeout=20)
            for page in ("book", "search", "gift", "checkout", "buy"):
                if page == "buy" and buys >= BUY[self.pages.get(reader, "classic")]:
                    continue
                connection, answer = self._ask(connection, page, reader)
                if answer is None:
                    continue
                with self._lock:
                    if page == "book":
                        self.recommended += "recommended" in answer
                    elif page == "checkout":
                        self.pages[reader] = answer["page"]
                    elif page == "buy":
                        self.bought.add(reader)

    def _ask(self, connection: HTTPConnection, page: str, reader: str) -> tuple[HTTPConnection, Any]:
        for attempt in (1, 2):
            try:
                connection.request("POST" if page == "buy" else "GET", f"/{page}?reader={quote(reader)}")
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, HTTPException) as error:
                # A kept connection that was closed while idle is the client's to reopen.
                connection.close()
                connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
                if attempt == 2:
                    self.failed.append(f"{page}: {error!r}")
                continue
            assert answer.headers.get("X-Crossfade-Variant") is None, "what the edge is told is not for clients"
            with self._lock:
                self.asked[page] = self.asked.get(page, 0) + 1
                if answer.status != 200:
                    self.errors[page] = self.errors.get(page, 0) + 1
                    return connection, None
            return connection, httpx.Response(200, content=body).json()
        return connection, None


def set_up(shop: Installation, **changes: Any) -> None:
    """Take the example as the installation's project, with short steps. ``changes`` replace top-level keys."""
    shutil.rmtree(shop.project)
    shutil.copytree(EXAMPLE, shop.project)
    spec = yaml.safe_load((EXAMPLE / "crossfade.yaml").read_text())
    spec["build"]["command"] = [sys.executable, "build.py"]
    spec["run"]["command"] = [sys.executable, "-B", "shop.py"]
    spec["strategy"]["steps"] = [{"weight": "50%", "duration": "6s"}]
    spec["analysis"] = {"deadline": "5s", "when_unsure": "promote", "error_rate": {"margin": "3%"}}
    spec["warm_for"] = "5s"
    spec["environments"] = {"production": {"port": shop.port}}
    (shop.project / "crossfade.yaml").write_text(yaml.safe_dump(spec | changes))


def deploy(shop: Installation, version: str) -> dict[str, Any]:
    os.environ["BOOKSHOP_VERSION"] = version
    try:
        done: dict[str, Any] = shop.deploy("--label", version)
    finally:
        del os.environ["BOOKSHOP_VERSION"]
    assert done["rollout"]["phase"] == "promoted", done["rollout"]["reason"]
    return done
