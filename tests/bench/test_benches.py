"""The benches work: their tables are whole and nothing of ours fails. How fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.edge import LABELS, PEERS
from bench.load import flood, loop, parse_wrk
from bench.peers import program, start_backend
from bench.processes import BenchFailed, Processes, cpu_seconds, free_ports, group_resident_bytes
from bench.report import Report, milliseconds, quantile, spread

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS}


def bench(name: str, out: Path) -> tuple[str, dict[str, Any]]:
    """A short run; what it printed, and its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", "--short", "--json", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text())


def check_table(printed: str, data: dict[str, Any], names: set[str]) -> None:
    assert {next(iter(row.values())) for row in data["rows"]} >= names
    for row in data["rows"]:
        assert f"| {' | '.join(row.values())} |" in printed
    assert data["failures"] == 0
    assert data["machine"].keys() == {"machine", "system", "date"}
    assert "haproxy" in data["versions"]
    assert data["goals"]


def test_the_edge_bench_measures_ours_and_every_peer_that_is_here(tmp_path: Path) -> None:
    printed, data = bench("edge", tmp_path / "out.json")
    here = {LABELS[name] for name in PEERS if program(name)}
    check_table(printed, data, {"backend alone", "**Crossfade**, 100 / 0", "**Crossfade**, 50 / 50", *here})
    for target in data["measured"].values():
        assert target["requests"] > 0
        assert len(target["requests_per_second"]) == len(target["p99_seconds"]) == 1
    assert data["measured"]["Crossfade, 50 / 50"]["cpu_seconds_per_request"]


def test_the_switch_bench_sees_every_switch_of_ours_and_loses_no_request(tmp_path: Path) -> None:
    printed, data = bench("switch", tmp_path / "out.json")
    check_table(printed, data, {"**Crossfade**", "HAProxy reload"})
    ours = data["measured"]["Crossfade"]
    assert (len(ours["first_request_seconds"]), ours["unseen"], ours["failed"]) == (4, 0, 0)
    assert all(first > 0 for first in ours["first_request_seconds"])


def test_the_deploy_bench_deploys_and_weighs_the_idle_control_plane(tmp_path: Path) -> None:
    printed, data = bench("deploy", tmp_path / "out.json")
    check_table(printed, data, {"**ours: the first less the third, s**", "server when idle: memory, MB"})
    assert data["measured"]["requests"] > 0
    assert data["measured"]["idle_resident_bytes"]["server"] > 10e6


def test_the_api_bench_reads_everything_and_every_viewer_is_told_the_same(tmp_path: Path) -> None:
    printed, data = bench("api", tmp_path / "out.json")
    check_table(printed, data, {"environments, a page of 50", "one rollout", "nothing (`/healthz`)"})
    assert len(data["measured"]["told"]) == 10
    assert len(set(data["measured"]["told"])) == 1


def test_a_bench_that_is_ended_early_takes_all_its_processes_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.edge", "--short"]
    with (tmp_path / "err").open("wb") as errors:
        running = subprocess.Popen(command, stdout=errors, stderr=errors, cwd=ROOT, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while b"round 1" not in (tmp_path / "err").read_bytes():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = psutil.Process(running.pid).children(recursive=True)
        assert family
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_every_process_of_a_group_is_ended_and_the_folder_removed() -> None:
    script = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"
    )
    with Processes() as processes:
        started = processes.start([sys.executable, "-c", script], log="family")
        while "up" not in (processes.folder / "family.log").read_text():
            time.sleep(0.02)
        family = psutil.Process(started.pid).children(recursive=True)
        assert len(family) == 1
        assert group_resident_bytes(started.pid) > 1e6
        folder = processes.folder
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not folder.exists()


def test_a_program_that_does_not_listen_is_reported_with_its_last_words() -> None:
    with Processes() as processes:
        process = processes.start([sys.executable, "-c", "print('no such backend'); raise SystemExit(3)"], log="bad")
        with pytest.raises(BenchFailed, match=r"(?s)exit 3.*no such backend"):
            processes.listening(process, free_ports(1)[0], "bad")


def test_cpu_time_of_a_busy_group_is_counted() -> None:
    with Processes() as processes:
        busy = processes.start([sys.executable, "-c", "while True: pass"])
        deadline = time.monotonic() + 30
        while cpu_seconds([busy.pid]) < 0.1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("load", [loop, lambda port, seconds: flood(port, seconds, frozenset())])
def test_load_counts_answers_and_each_backend_says_which_slot_it_is(load: Any) -> None:
    with Processes() as processes:
        ports = start_backend(processes, ["blue", "green"], frozenset())
        assert len(set(ports.values())) == 2
        flooded = load(ports["green"], 1)
    assert flooded.requests > 0
    assert flooded.failed == 0
    assert flooded.p99 > 0


WRK = """\
Running 3s test @ http://127.0.0.1:40001/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.18ms    2.61ms  39.99ms   90.87%
    Req/Sec    10.29k     1.20k   12.40k    70.00%
  Latency Distribution
     50%    2.78ms
     99%   12.72ms
  30735 requests in 3.00s, 7.62MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  10239.84
Transfer/sec:      2.54MB
"""


def test_every_kind_of_failure_that_wrk_reports_is_counted() -> None:
    found = parse_wrk(WRK)
    assert (found.rate, found.requests, found.failed) == (10239.84, 30735, 15)
    assert found.p99 == pytest.approx(0.01272)
    with pytest.raises(BenchFailed, match="not understood"):
        parse_wrk("unable to connect")


def test_quantiles_are_of_what_was_measured_and_spreads_show_the_extremes() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [quantile(values, q) for q in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert spread([1.0, 3.0, 2.0]) == "2 (1…3)"
    assert spread([]) == "-"
    assert [milliseconds(one) for one in (0.0004, 0.0043, 0.15, float("nan"))] == ["0.40", "4.3", "150", "-"]


def test_a_missed_goal_is_said_in_the_table() -> None:
    report = Report("T", ("", "x"), [("a", "1")], goals=[("fast", False), ("right", True)], versions={"v": "1"})
    text = report.markdown()
    assert "| a | 1 |" in text
    assert "- goal **missed**: fast" in text
    assert "- goal met: right" in text


def test_the_reaction_bench_sees_a_bad_candidate_off_on_the_real_edge(tmp_path: Path) -> None:
    _, data = bench("reaction", tmp_path / "out.json")
    assert data["measured"]["bad_answers"][0] > 0
    assert data["measured"]["to_back_seconds"][0] > 0
