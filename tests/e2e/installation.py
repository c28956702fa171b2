"""A whole installation for a test: state folder, edge, server, a project to deploy, and a client under load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from crossfade import bootstrap
from crossfade.cli.client import Client
from tests.free_port import free_port

APP = Path(__file__).with_name("app.py")


def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "") -> Any:
    """Wait for a condition; its value. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what or condition}"
        time.sleep(0.02)
    return found


@dataclass
class Seen:
    """What the load saw: how many answers of each version, and every failure."""

    versions: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.statuses.values()) + len(self.broken)


class Load:
    """A few clients that ask without pause: each request on a connection that is kept, reopened when the edge closes it."""

    def __init__(self, port: int, path: str = "/", clients: int = 4, pause: float = 0.004) -> None:
        self.seen = Seen()
        self._port, self._path, self._pause = port, path, pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def has_seen(self, requests: int) -> bool:
        return self.seen.total >= requests

    def _run(self) -> None:
        connection: HTTPConnection | None = None
        while not self._stop.is_set():
            fresh = connection is None
            if connection is None:
                connection = HTTPConnection("127.0.0.1", self._port, timeout=15)
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                answer.read()
                with self._lock:
                    version = answer.headers.get("X-Version", "?")
                    self.seen.versions[version] = self.seen.versions.get(version, 0) + 1
                    self.seen.statuses[answer.status] = self.seen.statuses.get(answer.status, 0) + 1
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, HTTPException) as error:
                assert connection is not None
                connection.close()
                connection = None
                # A kept connection that the edge closed while idle is the client's to reopen (RFC 9110, 9.3.1);
                # a fresh one that breaks is a lost request.
                if fresh and len(self.seen.broken) < 20:
                    with self._lock:
                        self.seen.broken.append(repr(error))
            self._stop.wait(self._pause)


class Installation:
    """Everything on free ports in a short folder. Use as a context manager."""

    def __init__(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        self.project = self.state / "project"
        self.sessions = self.state / "sessions"
        self.project.mkdir()
        self.sessions.mkdir()
        self.port = free_port()
        self.api_port = free_port()
        shutil.copy(APP, self.project / "app.py")

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            bootstrap.down(self.state, False, lambda _: None)
        finally:
            shutil.rmtree(self.state, ignore_errors=True)

    def up(self) -> Client:
        """Start edge and server, supervised."""
        bootstrap.up(self.state, "127.0.0.1", self.api_port, lambda _: None)
        return self.client()

    def client(self) -> Client:
        return Client.of(self.state)

    def configure(self, version: str, mode: str = "good", **changes: Any) -> None:
        """Write crossfade.yaml for a version of the application. ``changes`` replace top-level keys."""
        config: dict[str, Any] = {
            "service": "shop",
            "run": {
                "command": [sys.executable, "-S", "app.py"],
                "env": {"VERSION": version, "MODE": mode, "SESSIONS": str(self.sessions)},
                "replicas": 2,
                "start_timeout": "20s",
                "stop_timeout": "2s",
            },
            "health": [{"name": "health", "path": "/health", "json": {"$.status": "ok"}}],
            "continuity": [
                {
                    "name": "cart",
                    "open": [{"name": "login", "path": "/login"}],
                    "continue": [{"name": "cart", "path": "/cart", "json": {"$.items": {"min": 1}}}],
                }
            ],
            "strategy": {"kind": "blue-green", "watch": "500ms", "limits": {"min_requests": 20}},
            "drain": {"timeout": "5s"},
            "environments": {"production": {"port": self.port}},
        }
        config |= changes
        (self.project / "crossfade.yaml").write_text(json.dumps(config, indent=2))

    def canary(self, *weights: str, duration: str = "600ms", **limits: Any) -> dict[str, Any]:
        """A canary strategy with short steps."""
        return {
            "kind": "canary",
            "steps": [{"weight": weight, "duration": duration} for weight in weights or ("20%", "60%")],
            "limits": {"min_requests": 10, "error_rate": "5%", **limits},
        }

    def run(self, *arguments: str, check: bool = True, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """The CLI as a person runs it."""
        done = subprocess.run(
            [sys.executable, "-m", "crossfade.cli.main", "--state", str(self.state), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "COLUMNS": "160"},
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, check: bool = True) -> Any:
        """The CLI's JSON answer."""
        done = self.run(*arguments, "--json", check=check)
        return json.loads(done.stdout)

    def deploy(self, *arguments: str, check: bool = True) -> Any:
        """Deploy the project as configured; the rollout and its receipt."""
        return self.json("deploy", str(self.project), *arguments, check=check)

    def get(self, path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], str]:
        """One request through the edge."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read().decode()
        finally:
            connection.close()

    def version(self) -> str:
        return self.get()[1].get("x-version", "?")

    def pid_of(self, program: str) -> int:
        """The process of a program that supervisord runs."""
        from crossfade.runtimes.supervisor import Supervisor

        return Supervisor(self.state).states()[program].pid

    def kill(self, program: str) -> int:
        """SIGKILL a program; the pid it had."""
        pid = until(lambda: self.pid_of(program), what=program)
        os.kill(pid, signal.SIGKILL)
        return int(pid)
