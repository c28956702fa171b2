"""`crossfade hook`: a push begins a run, and is never the worse for it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crossfade.cli.main import app

ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{who}_{what}": "ada@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(folder: Path, *words: str, **env: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, env=os.environ | ENV | env, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    path = tmp_path / "it's a place" / "shop.git"
    path.parent.mkdir()
    git(tmp_path, "init", "-q", "--bare", str(path))
    work = tmp_path / "work"
    git(tmp_path, "init", "-q", "-b", "main", str(work))
    git(work, "commit", "-q", "--allow-empty", "-m", "Sell books")
    git(work, "remote", "add", "origin", str(path))
    return path


@pytest.fixture
def asked() -> Iterator[tuple[str, list[Any]]]:
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            said = json.dumps({"id": 12, "short": "4f2c81a", "status": "queued"}).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def crossfade(state: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["--state", str(state), "hook", *words])


def test_a_push_begins_a_run_and_says_so(bare: Path, tmp_path: Path, asked: tuple[str, list[Any]]) -> None:
    url, bodies = asked
    assert crossfade(tmp_path / "state", "install", str(bare)).exit_code == 0
    work = tmp_path / "work"
    said = git(work, "push", "origin", "main", "main:v/1", "main:refs/tags/t", CROSSFADE_URL=url, CROSSFADE_TOKEN="t")
    assert f"Crossfade: run #12 of shop 4f2c81a queued: {url}/runs/12" in said
    commit = git(work, "rev-parse", "HEAD").strip()
    assert sorted((path, body["branch"], body["ref"], body["service"], body["trigger"]) for path, body in bodies) == [
        ("/api/v1/runs", "main", commit, "shop", "hook"),
        ("/api/v1/runs", "v/1", commit, "shop", "hook"),
    ]
    git(work, "push", "origin", ":v/1", CROSSFADE_URL=url, CROSSFADE_TOKEN="t")
    assert len(bodies) == 2


def test_without_a_server_the_push_goes_through(bare: Path, tmp_path: Path) -> None:
    assert crossfade(tmp_path / "state", "install", str(bare), "--service", "books").exit_code == 0
    said = git(tmp_path / "work", "push", "origin", "main")
    assert "no run of books" in said
    assert "crossfade run main --service books" in said
    assert git(bare, "rev-parse", "main") == git(tmp_path / "work", "rev-parse", "HEAD")


def test_a_hook_of_somebody_else_is_kept_run_and_put_back(bare: Path, tmp_path: Path) -> None:
    path, mark = bare / "hooks/post-receive", tmp_path / "mark"
    foreign = f"#!/bin/sh\ncat > {mark}\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(foreign)
    path.chmod(0o755)
    state = tmp_path / "state"
    refused = crossfade(state, "install", str(bare))
    assert refused.exit_code == 1
    assert path.read_text() == foreign
    assert crossfade(state, "install", str(bare), "--force").exit_code == 0
    assert crossfade(state, "install", str(bare), "--force").exit_code == 0
    git(tmp_path / "work", "push", "origin", "main")
    assert mark.read_text().endswith(" refs/heads/main\n")
    assert crossfade(state, "remove", str(bare)).exit_code == 0
    assert path.read_text() == foreign
    assert crossfade(state, "remove", str(bare)).exit_code != 0


@pytest.mark.parametrize("service", ["Shop", "$(touch x)", "a b", "-x"])
def test_a_service_has_a_name_of_services(bare: Path, tmp_path: Path, service: str) -> None:
    assert crossfade(tmp_path / "state", "install", str(bare), f"--service={service}").exit_code == 2
    assert not (bare / "hooks/post-receive").exists()
