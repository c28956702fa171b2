from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfade.load import Result
from tests.load.local_server import LocalServer

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


def command(*arguments: str) -> list[str]:
    # A warning of any kind, an unclosed connection for one, would be noise on stderr.
    return [sys.executable, "-W", "error", "-m", "crossfade.load", *arguments]


def test_a_run_says_its_progress_and_writes_its_result_without_any_noise(server: LocalServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *command(
                "--url", server.url, "--rate", "50", "--duration", "2s", "--paths", "/@3", "/status/500", "/reset"
            ),
            "--sse",
            "/events@2",
            "--record-header",
            "x-slot",
            "--json",
            str(tmp_path / "out.json"),
            "--progress",
            "0.5",
        ],
        cwd=SRC,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *progress, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert progress and {"rate", "p99_ms", "failed", "by_header"} <= progress[0].keys()
    result = Result.from_data(json.loads((tmp_path / "out.json").read_text()))
    assert result.requests == last["result"]["requests"] == 100
    assert set(result.by_kind) == {"status-500", "reset"}


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_early_with_its_result(
    server: LocalServer, tmp_path: Path, processes: str, number: signal.Signals
) -> None:
    out = tmp_path / "out.json"
    arguments = ["--url", server.url, "--rate", "50", "--duration", "10m", "--json", str(out), "--processes", processes]
    running = subprocess.Popen(
        command(*arguments, "--progress", "0.2"), cwd=SRC, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        for line in running.stdout:
            if json.loads(line)["finished"] >= 20:
                break
        running.send_signal(number)
        _, noise = running.communicate(timeout=60)
    finally:
        running.kill()  # a run that goes on would be waited for
        running.communicate()
    assert (running.returncode, noise) == (0, "")
    result = Result.from_data(json.loads(out.read_text()))
    assert result.stopped
    assert 20 <= result.requests < result.planned
    assert result.failed == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "nonsense", "--rate", "1", "--duration", "1"), "http://HOST:PORT"),
        (("--url", "http://127.0.0.1:1", "--rate", "-1", "--duration", "1"), "requests a second"),
        (("--url", "http://127.0.0.1:1", "--rate", "1", "--duration", "soon"), "a number with a unit"),
        (("--url", "http://127.0.0.1:1", "--phase", "1:1s", "--mix", "/no/such/file"), "a file that can be read"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run(command(*arguments), cwd=SRC, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
