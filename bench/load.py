"""Load for the benches: as much as goes (wrk, or a small loop of ours for quick runs), and on schedule (crossfade.load)."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import BenchFailed, running_on
from crossfade.load import LoadPlan, Phase, Records, Request

CONNECTIONS: Final = 32
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Flood:
    """As many requests as go over 32 connections, each sent when the answer before it has come. ``p99`` in seconds."""

    rate: float
    requests: int
    failed: int
    p99: float


def need_wrk() -> None:
    """Raises BenchFailed when wrk is not there."""
    if not shutil.which("wrk"):
        raise BenchFailed(
            "wrk is not on PATH, and nothing slower can load a proxy fully. Install it: apt-get install wrk "
            "(--short does without)"
        )


def flood(port: int, seconds: int, cores: frozenset[int], headers: tuple[str, ...] = ()) -> Flood:
    """With wrk when it is here, else with `loop`. Raises BenchFailed."""
    if not shutil.which("wrk"):
        return loop(port, seconds)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    for header in headers:
        command += ["-H", header]
    with running_on(cores):
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/"], capture_output=True, text=True, timeout=seconds + 60, check=False
        )
    if done.returncode:
        raise BenchFailed(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return parse_wrk(done.stdout)


def parse_wrk(text: str) -> Flood:
    """What ``wrk --latency`` printed. Raises BenchFailed."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    count = re.search(r"(\d+) requests in", text)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text)
    if not (rate and count and tail):
        raise BenchFailed(f"wrk printed what is not understood:\n{text[-600:]}")
    failed = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    failed += sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    return Flood(float(rate[1]), int(count[1]), failed, float(tail[1]) * _UNITS[tail[2]])


def loop(port: int, seconds: float) -> Flood:
    """The same in Python: too slow to fill a proxy, good enough to see that one works."""
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    latencies: list[float] = []
    failed = 0
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sent: dict[int, float] = {}
        connections: dict[int, socket.socket] = {}

        def dial() -> None:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            connections[connection.fileno()] = connection
            poll.register(connection, select.EPOLLIN)
            sent[connection.fileno()] = time.monotonic()
            connection.sendall(request)

        begin = time.monotonic()
        for _ in range(CONNECTIONS):
            dial()
        while (now := time.monotonic()) < begin + seconds:
            for number, _ in poll.poll(0.1):
                answer = connections[number].recv(65536)
                latencies.append(time.monotonic() - sent[number])
                # The answers here are short: each comes whole.
                failed += not answer.startswith(b"HTTP/1.1 200 ")
                if not answer:
                    poll.unregister(number)
                    connections.pop(number).close()
                    dial()
                    continue
                sent[number] = time.monotonic()
                connections[number].sendall(request)
        elapsed = now - begin
    ordered = sorted(latencies) or [0.0]
    return Flood(len(latencies) / elapsed, len(latencies), failed, ordered[int(len(ordered) * 0.99)])


class OnSchedule:
    """Open-loop load in processes of its own, while the bench does something else.

    Nothing is sent again: a kept connection that the proxy closes under a request is a failed request.
    """

    def __init__(
        self, folder: Path, port: int, rate: float, seconds: float, *, header: str = "", processes: int = 1
    ) -> None:
        self.plan = LoadPlan(
            url=f"http://127.0.0.1:{port}",
            phases=(Phase(rate, seconds),),
            mix=(Request("/"),),
            record_header=header,
            timeout=10.0,
        )
        self._file = folder / f"load-{time.monotonic_ns()}.records"
        self._errors = self._file.with_suffix(".err")
        command = [sys.executable, "-m", "crossfade.load", "--url", self.plan.url, "--rate", str(rate)]
        command += ["--duration", f"{seconds:.3f}", "--paths", "/", "--progress", "0", "--timeout", "10"]
        command += ["--processes", str(processes), "--records", str(self._file)]
        if header:
            command += ["--record-header", header]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        # The records count epoch seconds; this turns them into the clock that the bench reads.
        self.monotonic_minus_epoch = time.monotonic() - time.time()

    def __enter__(self) -> OnSchedule:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()  # it passes that on to its shards
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Send nothing more."""
        if self._process.poll() is None:
            self._process.terminate()

    def records(self) -> Records:
        """What came of it, once it is over. Raises BenchFailed."""
        limit = self.plan.phases[0].duration + 60
        try:
            code = self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"the load generator did not end within {limit:.0f} s") from None
        if code or not self._file.exists():
            raise BenchFailed(f"the load generator ended with {code}: {self._errors.read_text()[-300:]}")
        return Records.load(self._file)
