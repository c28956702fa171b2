"""Smoke flows, load and comparisons against real servers: each finds its fault, and says it with numbers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crossfade.domain.health import Check, Expectation
from crossfade.domain.pipeline.plan import Compare, Load, Requests, SmokeFlow
from crossfade.domain.release import ReleaseConfig
from crossfade.ports.pipeline import Contender, Profile
from crossfade.probes.http import HttpProber
from crossfade.runners.dependents import ProcessDependents
from crossfade.runners.process import ProcessSteps
from crossfade.trials import HttpTrials
from crossfade.trials.load import judge

NEVER = threading.Event()
SERVER = """
import http.server, os, socketserver, threading, time
DELAY, FAILS = float(os.environ.get("DELAY", "0")), os.environ.get("FAILS", "")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    count = 0
    def do_GET(self):
        Handler.count += 1
        if self.path != "/health":
            time.sleep(0.004 + DELAY)
        status = 500 if FAILS and self.path == FAILS and Handler.count % 2 else 200
        body = b'{"id": 7}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
CONFIG = ReleaseConfig((sys.executable, "-S", "server.py"), checks=(Check("up", "/health"),))
COMPARE = Compare((Requests("GET /"),), rate=50, block=0.2, warmup=0.1, margins=(("p50", 0.2),), floor=12, most=36)


@pytest.fixture
def trials(tmp_path: Path) -> HttpTrials:
    prober = HttpProber()
    return HttpTrials(prober, ProcessDependents(tmp_path, prober, ProcessSteps(tmp_path)))


@pytest.fixture
def release(tmp_path: Path) -> Contender:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "server.py").write_text(SERVER)
    return Contender("r1", folder, CONFIG)


def other(release: Contender, **env: str) -> Contender:
    return replace(release, name="abc1234", config=replace(CONFIG, env=tuple(env.items())))


@pytest.fixture
def url(tmp_path: Path, release: Contender, request: pytest.FixtureRequest) -> Iterator[str]:
    """A running server; the parameter is its environment."""
    import os
    import subprocess
    import time
    import urllib.request

    from tests.free_port import free_port

    port = free_port()
    env = os.environ | {"HOST": "127.0.0.1", "PORT": str(port)} | getattr(request, "param", {})
    process = subprocess.Popen([sys.executable, "-S", "server.py"], cwd=release.folder, env=env)
    found = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"{found}/health", timeout=2).read()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield found
    process.kill()
    process.wait()


def test_a_release_that_is_as_fast_as_the_one_before_is_never_found_slower(
    trials: HttpTrials, release: Contender, tmp_path: Path
) -> None:
    told: list[str] = []
    outcome = trials.compare(
        COMPARE, release, other(release), owner="run-1", folder=tmp_path, tell=told.append, cancel=NEVER
    )
    # On a machine with much other work it may not be able to tell.
    assert outcome.finding in ("pass", "inconclusive"), outcome
    assert outcome.passed == (outcome.finding == "pass") and "p50" in outcome.sentence
    assert told and len(outcome.numbers["before"]["p50"]) == outcome.numbers["pairs"]


def test_a_slower_release_fails_with_how_much_slower_it_is(
    trials: HttpTrials, release: Contender, tmp_path: Path
) -> None:
    slower = other(release, DELAY="0.004")
    outcome = trials.compare(
        COMPARE, release, slower, owner="run-1", folder=tmp_path, tell=lambda _: None, cancel=NEVER
    )
    assert not outcome.passed and outcome.finding == "fail", outcome
    assert "is more than the +20 % that is allowed" in outcome.sentence
    assert 0.4 < outcome.numbers["changes"]["p50"]["mean"] < 2.0


def test_a_release_that_answers_errors_is_no_faster_for_it(
    trials: HttpTrials, release: Contender, tmp_path: Path
) -> None:
    broken = other(release, FAILS="/")
    outcome = trials.compare(
        COMPARE, release, broken, owner="run-1", folder=tmp_path, tell=lambda _: None, cancel=NEVER
    )
    assert not outcome.passed and "abc1234 fails" in outcome.sentence and "r1 0 of" in outcome.sentence


def test_a_flow_that_works_passes_and_one_that_does_not_names_check_and_answer(trials: HttpTrials, url: str) -> None:
    first = Check("find", "/books", json=(Expectation("$.id", minimum=1),), capture=(("book", "$.id"),))
    good = SmokeFlow("buy", (first, Check("open", "/books/{book}")))
    assert trials.smoke(url, [good], lambda _: None, NEVER).passed
    bad = SmokeFlow("buy", (first, Check("open", "/books/{book}", status=(201,))))
    outcome = trials.smoke(url, [bad], lambda _: None, NEVER)
    assert not outcome.passed and "buy: open" in outcome.sentence and "200" in outcome.sentence, outcome


@pytest.mark.parametrize("url", [{"FAILS": "/fails"}], indirect=True)
def test_load_finds_the_share_of_errors_and_where_they_are(trials: HttpTrials, url: str, tmp_path: Path) -> None:
    load = Load(rate=60, requests=(Requests("GET /fails"), Requests("GET /books/{1-9}", 3)), duration=1.0)
    outcome = trials.load(url, load, None, tmp_path, lambda _: None, NEVER)
    assert not outcome.passed and "the error rate is" in outcome.sentence and "1.0 % is allowed" in outcome.sentence
    assert any(line.startswith("/fails: ") for line in outcome.details), outcome.details


def test_load_like_production_takes_its_peak_and_its_mix(trials: HttpTrials, url: str, tmp_path: Path) -> None:
    profile = Profile(20.0, {"GET /": 0.5, "GET /cart": 0.3, "GET /books/{n}": 0.2}, 5, 0.0)
    told: list[str] = []
    outcome = trials.load(url, Load(factor=2.0, duration=1.0), profile, tmp_path, told.append, NEVER)
    assert outcome.passed and outcome.numbers["offered"] == 40.0, outcome
    assert "20 % of the mix is left out" in told[0]


def test_without_a_profile_or_a_rate_there_is_no_load_and_it_is_said_what_to_do(
    trials: HttpTrials, tmp_path: Path
) -> None:
    outcome = trials.load("http://127.0.0.1:1", Load(), None, tmp_path, lambda _: None, NEVER)
    assert (outcome.passed, outcome.finding) == (False, "no-data") and "load.rate" in outcome.details[0]
    only = Profile(20.0, {"GET /books/{n}": 1.0}, 5, 0.0)
    outcome = trials.load("http://127.0.0.1:1", Load(), only, tmp_path, lambda _: None, NEVER)
    assert outcome.finding == "no-data" and "load.requests" in outcome.details[0]


def result(**changes: object) -> dict[str, object]:
    base = {
        "requests": 100, "failed": 0, "rate": 50.0, "void": [], "by_status": {}, "by_kind": {}, "by_request": {},
        "latency": {"p50_ms": 5.0, "p90_ms": 9.0, "p99_ms": 20.0}, "slices": [],
    }  # fmt: skip
    return base | changes


def test_a_generator_that_was_late_excuses_no_errors_and_is_no_fault_of_the_release() -> None:
    late = {"void": ["requests started late"]}
    assert judge(Load(), result(**late), 50.0).passed
    slow = judge(Load(p99=0.01), result(**late), 50.0)
    assert (slow.passed, slow.finding, slow.infrastructure) == (False, "inconclusive", True)
    assert judge(Load(p99=0.01), result(), 50.0).finding == "fail"
    assert judge(Load(), result(failed=5, **late), 50.0).finding == "fail"
    assert judge(Load(), result(requests=0), 50.0).finding == "no-data"
