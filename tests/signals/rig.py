"""Debian's Prometheus on loopback, scraping an application whose numbers a test sets."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.free_port import free_port
from tests.routers.rig import until

INTERVAL = "200ms"


class Application:
    """Numbers by arm, field and series, served at ``/metrics`` for Prometheus and at ``/ARM`` as JSON.

    ``lines`` are exposed as they are. A context manager.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, dict[str, dict[str, float]]] = {}
        self.buckets: dict[str, dict[str, dict[float, float]]] = {}
        self.values: dict[str, float] = {}
        self.lines: list[str] = []
        self.generation = 0
        self.lock = threading.RLock()
        application = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with application.lock:
                    scraped = self.path == "/metrics"
                    body = application.exposition() if scraped else application.document(self.path.strip("/"))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4" if scraped else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def exposition(self) -> bytes:
        lines = [f"app_generation {self.generation}", *self.lines]
        for arm, fields in self.numbers.items():
            for field, series in fields.items():
                lines += [f'app_{field}_total{{arm="{arm}",worker="{one}"}} {n!r}' for one, n in series.items()]
        for arm, histograms in self.buckets.items():
            for one, counts in histograms.items():
                for edge, n in counts.items():
                    le = "+Inf" if math.isinf(edge) else str(edge)
                    lines.append(f'app_seconds_bucket{{arm="{arm}",worker="{one}",le="{le}"}} {n!r}')
        lines += [f'app_value{{arm="{arm}"}} {value!r}' for arm, value in self.values.items()]
        return ("\n".join(lines) + "\n").encode()

    def document(self, arm: str) -> bytes:
        names = {one for series in self.numbers.get(arm, {}).values() for one in series}
        workers = [
            {field: series[one] for field, series in self.numbers[arm].items() if one in series}
            for one in sorted(names)
        ]
        histograms = [
            {"+Inf" if math.isinf(edge) else str(edge): n for edge, n in counts.items()}
            for _, counts in sorted(self.buckets.get(arm, {}).items())
        ]
        found: dict[str, Any] = {"workers": workers, "seconds": histograms}
        if arm in self.values:
            found["value"] = self.values[arm]
        return json.dumps(found).encode()


class Prometheus:
    """A server with a folder and port of its own that scrapes ``target`` five times a second. A context manager."""

    def __init__(self, target: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cf-prometheus-"))
        self.port = free_port()
        scrape = {"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        settings = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL}
        (self.folder / "prometheus.yml").write_text(json.dumps({"global": settings, "scrape_configs": [scrape]}))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("wb"),
        )
        until(self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """End it, as `systemctl stop` would."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def query(self, promql: str) -> list[float]:
        """The values of an instant query."""
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": promql}, trust_env=False)
        return [float(row["value"][1]) for row in answer.json()["data"]["result"]]

    def steady(self) -> bool:
        """Whether no scrape of the last two seconds failed: after one that did, Prometheus knows of nothing."""
        return self.query("min_over_time(up[2s])") == [1.0]

    def scraped(self, application: Application) -> None:
        """Wait until what the application shows now has been scraped."""
        with application.lock:
            application.generation = int(time.time() * 1000)
            wanted = [float(application.generation)]
        until(lambda: self.query("app_generation") == wanted)
