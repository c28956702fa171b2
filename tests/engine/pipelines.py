"""A small installation without an edge: everything of pipelines but deployments, with real git, processes and ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from crossfade.bootstrap.pipelines import compose_pipelines, make_works
from crossfade.bootstrap.state import make_parts, prepare, read_config
from crossfade.domain.access import local_actor
from crossfade.service import Service
from crossfade.service.runs import RunRequest

T = TypeVar("T")
ADA = local_actor("ada")
GIT = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main"]


class Idle:
    """An engine that leaves every rollout where it is."""

    def drive(self, rollout: int) -> None: ...

    def ring(self) -> None: ...


class Repository:
    """A git repository with one service in it."""

    def __init__(self, folder: Path, service: str = "shop") -> None:
        self.folder, self.service = folder, service
        folder.mkdir(parents=True)
        self.git("init", "-q")

    def git(self, *words: str) -> str:
        done = subprocess.run([*GIT, *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, path: str, content: str) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    def configure(self, stages: dict[str, Any], **changes: Any) -> None:
        config = {
            "service": self.service,
            "run": {"command": [sys.executable, "app.py"]},
            "health": [{"name": "up", "path": "/"}],
            "environments": {"production": {"port": 1}},
            "pipeline": {"stages": stages, **changes},
        }
        self.write("crossfade.yaml", json.dumps(config))

    def commit(self, subject: str = "a change") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")


def script(text: str) -> list[str]:
    """A step that runs a program of Python."""
    return [sys.executable, "-S", "-c", text]


class Installation:
    """State, ledger and conductor; several can follow each other on the same state."""

    def __init__(self, at_once: int = 2) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        self.at_once = at_once
        prepare(self.state)
        self.open()

    def open(self) -> None:
        self.parts = make_parts(self.state)
        self.works = make_works(self.state, self.parts)
        self.service = Service(self.parts, Idle(), read_config)
        self.conductor = compose_pipelines(self.parts, self.works, self.service, at_once=self.at_once)
        self.runs = self.service.runs
        self.conductor.start()

    def close(self) -> None:
        self.conductor.stop()

    def remove(self) -> None:
        self.close()
        shutil.rmtree(self.state, ignore_errors=True)

    def add(self, repository: Repository) -> None:
        self.runs.add_source(repository.service, str(repository.folder), by=ADA)

    def start(self, repository: Repository, ref: str = "main", **more: Any) -> int:
        return int(self.runs.start(RunRequest(repository.service, ref, **more), ADA)["id"])

    def ended(self, id: int, seconds: float = 60) -> dict[str, Any]:
        return self.until(
            lambda: run if (run := self.runs.run(id))["ended"] else None, seconds, f"the end of run #{id}"
        )

    def until(self, ask: Callable[[], T | None], seconds: float = 30, what: str = "it") -> T:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = ask()
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s for {what}")


def node(run: dict[str, Any], stage: str, name: str) -> dict[str, Any]:
    found = next(one for one in run["stages"] if one["name"] == stage)
    return next(dict(one) for one in found["nodes"] if one["name"] == name)
