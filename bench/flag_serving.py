"""``python -m bench.flag_serving``: how fast flags are evaluated over OFREP, and how soon a change is known.

A whole installation, whose ledger gets one environment with 99 mixed flags. All flags at once are asked for over one kept
connection, each request when the answer before it has come; single ones arrive open-loop, and latency counts from when they
were due. In turns with them a server is asked that answers the same to everybody: what is slow there is the machine. Then one
flag is killed and revived while 500 clients listen: from the sending of the command to the last of them having been told.
How long a flag set takes to load is measured without a server, by CPU time, the collector at rest as in a server.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.processes import BenchFailed, Cores, Processes, cpu_seconds_of, free_ports, running_on, say
from bench.report import Report, milliseconds, quantile, run, spread
from crossfade import bootstrap
from crossfade.bootstrap.state import prepare
from crossfade.domain.environment import Occupant
from crossfade.domain.flags.document import read
from crossfade.domain.flags.evaluate import compiled
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.load import LoadPlan, Phase, Request, Result, run_sharded
from crossfade.runtimes.supervisor import Supervisor
from crossfade.store.sql import SqlStore

ROOT: Final = Path(__file__).parents[1]
COLUMNS: Final = ("", "figure", "least…greatest")
KEY: Final = EnvKey("shop", "production")
MIXED: Final = 99
MANY: Final = 10_000
RATE: Final = 1_000.0
PLACE: Final = f"/api/v1/environments/{KEY.service}/{KEY.environment}"
CONTEXT: Final = {"targetingKey": "user-17", "country": "de", "plan": "pro", "email": "ada@shop.example", "age": 41}


@dataclass
class Measured:
    """Everything; times in seconds. ``told``: of each change, when each client had been told of it."""

    bulk: list[float] = field(default_factory=list)
    bulk_per_cpu: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    single: list[Result] = field(default_factory=list)
    single_cpu: list[float] = field(default_factory=list)
    bare: list[Result] = field(default_factory=list)
    bare_cpu: list[float] = field(default_factory=list)
    told: list[list[float]] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)


def flag(number: int) -> dict[str, Any]:
    """One of the mix: as many that are the same for all as splits, and as rules with conditions."""
    made: dict[str, Any] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    if number % 3 == 1:
        made["targeting"] = {"fractional": [["on", 30], ["off", 70]]}
    elif number % 3 == 2:
        beta = {"and": [{"in": [{"var": "country"}, ["de", "fr", "nl"]]}, {">=": [{"var": "age"}, 18]}]}
        staff = {"ends_with": [{"var": "email"}, "@crossfade.example"]}
        made["targeting"] = {"if": [staff, "on", beta, "on", {"==": [{"var": "plan"}, "pro"]}, "on", "off"]}
    return made


def document(count: int) -> dict[str, Any]:
    """So many of them."""
    return {"flags": {f"flag-{number:05d}": flag(number) for number in range(count)}}


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    short: bool = given.short
    listeners, changes, seconds = (20, 2, 1.0) if short else (500, 10, 10.0)
    requests, many = (300, 1_000) if short else (3_000, MANY)
    rounds = 1 if short else given.rounds
    found = Measured()
    found.loads += [_load(many) for _ in range(rounds)]
    cores = Cores()
    with Processes() as processes:
        state = processes.folder / "state"
        port, bare_port = free_ports(2)
        _fill(state)
        try:
            with running_on(cores.proxy):
                bootstrap.up(state, "127.0.0.1", port, lambda _: None)
            server = Server(state, port)
            server.post(f"{PLACE}/flag-imports", {"document": document(MIXED)})
            options = ["--port", str(bare_port), "--http", "httptools", "--lifespan", "off", "--no-access-log"]
            command = [sys.executable, "-m", "uvicorn", "bench.bare_app:app", "--app-dir", str(ROOT), *options]
            bare = processes.start(command, cores=cores.proxy, log="bare")
            processes.listening(bare, bare_port, "bare")
            with running_on(cores.rest):
                for number in range(rounds):
                    say(f"bench.flag_serving: round {number + 1} of {rounds}")
                    server.bulk(requests, found)
                    for address, pid, results, spent in (
                        (server.url, server.pid, found.single, found.single_cpu),
                        (f"http://127.0.0.1:{bare_port}", bare.pid, found.bare, found.bare_cpu),
                    ):
                        cpu = cpu_seconds_of(pid)
                        results.append(server.single(seconds, address))
                        spent.append((cpu_seconds_of(pid) - cpu) / max(1, results[-1].requests))
                asyncio.run(server.changes(listeners, changes, found))
        finally:
            bootstrap.down(state, False, lambda _: None)
    return _report(found, listeners, many, cores)


def _load(many: int) -> float:
    """Seconds of CPU time to read a flag set of JSON and make it ready."""
    text = json.dumps(document(many))
    gc.collect()
    gc.disable()
    began = time.process_time()
    compiled(read(json.loads(text)))
    spent = time.process_time() - began
    gc.enable()
    return spent


def _fill(state: Path) -> None:
    """An environment with a live release, as a rollout leaves it in the ledger."""
    prepare(state)
    ledger = SqlStore(f"sqlite:///{state / 'crossfade.db'}")
    ledger.add_release(KEY, Digest("sha256:" + "a" * 64), ReleaseConfig(("serve",), port=1), "", time.time())
    release = ReleaseNumber(1)
    rollout = ledger.begin(Plan(KEY, Kind.DEPLOY, release, None, Slot.BLUE, BlueGreen()), "bench", time.time())
    ledger.occupy(KEY, Slot.BLUE, Occupant(release, rollout.id, 1))
    ledger.commit(rollout.id, Slot.BLUE, release, 0.0, time.time())
    ledger.close(rollout.id, {}, time.time())
    ledger.dispose()


class Server:
    """The server and how it is asked."""

    def __init__(self, state: Path, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.pid = Supervisor(state).states()["server"].pid
        self.headers = {
            "Authorization": f"Bearer {(state / 'token').read_text().strip()}",
            "X-Crossfade-Environment": str(KEY),
            "Content-Type": "application/json",
        }

    def post(self, path: str, body: Any) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return _asked(connection, path, json.dumps(body), self.headers, 200)[0]
        finally:
            connection.close()

    def bulk(self, requests: int, found: Measured) -> None:
        """All flags, again and again, each time in another context; then the same one with its tag."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        path = "/ofrep/v1/evaluate/flags"
        contexts = [json.dumps({"context": {**CONTEXT, "targetingKey": f"user-{n}"}}) for n in range(requests)]
        for body in contexts[:20]:
            _asked(connection, path, body, self.headers, 200)
        answer, tag = b"{}", ""
        cpu, began = cpu_seconds_of(self.pid), time.perf_counter()
        for body in contexts:
            answer, tag = _asked(connection, path, body, self.headers, 200)
        took, used = time.perf_counter() - began, cpu_seconds_of(self.pid) - cpu
        if len(json.loads(answer)["flags"]) != MIXED:
            raise BenchFailed(f"not all flags were answered: {answer[:300]!r}")
        found.bulk.append(requests * MIXED / took)
        found.bulk_per_cpu.append(requests * MIXED / max(used, 0.01))
        began = time.perf_counter()
        for _ in range(requests):
            _asked(connection, path, contexts[-1], {**self.headers, "If-None-Match": tag}, 304)
        found.again.append(requests * MIXED / (time.perf_counter() - began))
        connection.close()

    def single(self, seconds: float, address: str) -> Result:
        """One flag after the other, on schedule, from this server or another one."""
        mix = tuple(
            Request(
                f"/ofrep/v1/evaluate/flags/flag-{n:05d}",
                method="POST",
                body=json.dumps({"context": CONTEXT}),
                headers=tuple(self.headers.items()),
            )
            for n in range(MIXED)
        )
        plan = LoadPlan(url=address, phases=(Phase(RATE, seconds),), mix=mix, timeout=10.0)
        return Result.of(plan, run_sharded(plan, 1))

    async def changes(self, listeners: int, changes: int, found: Measured) -> None:
        """So many clients listen while a flag changes so often."""
        told = [asyncio.Event() for _ in range(listeners)]
        at = [0.0] * listeners
        ready = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(self._listen(place, told, at, ready)) for place in range(listeners)]
        for _ in range(listeners):
            await asyncio.wait_for(ready.acquire(), 30)
        await asyncio.sleep(2.0)
        try:
            for number in range(changes):
                for event in told:
                    event.clear()
                began = time.perf_counter()
                command = {"command": "revive"} if number % 2 else {"command": "kill", "why": "measured"}
                await asyncio.to_thread(self.post, f"{PLACE}/flags/flag-00000/commands", command)
                await asyncio.wait_for(asyncio.gather(*(event.wait() for event in told)), 30)
                found.told.append([one - began for one in at])
                await asyncio.sleep(0.37)  # not in step with the server's own looks
        except TimeoutError:
            raise BenchFailed(f"{sum(not event.is_set() for event in told)} clients were not told") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, place: int, told: list[asyncio.Event], at: list[float], ready: asyncio.Semaphore) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{name}: {text}\r\n" for name, text in self.headers.items()]
        writer.write(f"GET /ofrep/v1/changes HTTP/1.1\r\nHost: localhost\r\n{''.join(lines)}\r\n".encode())
        try:
            while line := await reader.readline():
                if line.startswith(b": welcome"):
                    ready.release()
                elif line.startswith(b"data:"):
                    at[place] = time.perf_counter()
                    told[place].set()
        finally:
            writer.close()


def _asked(connection: HTTPConnection, path: str, body: str, headers: dict[str, str], status: int) -> tuple[bytes, str]:
    """The body and the tag of an answer that must have this status. Raises BenchFailed."""
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != status:
        raise BenchFailed(f"POST {path} was answered with {answer.status}: {said[:300]!r}")
    return said, answer.headers.get("ETag", "")


def _report(found: Measured, listeners: int, many: int, cores: Cores) -> Report:
    report = Report(f"OFREP: {MIXED} mixed flags, {listeners} listening clients", COLUMNS)
    last = [max(one) for one in found.told]
    p50, bare50 = ([one.latency.p50 or math.inf for one in results] for results in (found.single, found.bare))
    p99, bare99 = ([one.latency.p99 or math.inf for one in results] for results in (found.single, found.bare))
    rows = [
        ("**flags by bulk, thousand a second, on one core**", spread(found.bulk_per_cpu, ".0f", 1e-3)),
        ("the same as one client sees it", spread(found.bulk, ".0f", 1e-3)),
        ("the same with `If-None-Match`, not modified", spread(found.again, ".0f", 1e-3)),
        (f"**one flag, at {RATE:.0f} requests/s: p99, ms**", spread(p99, ".1f", 1e3)),
        ("the same: p50, ms", spread(p50, ".2f", 1e3)),
        ("the same: CPU time of the server for a request, µs", spread(found.single_cpu, ".0f", 1e6)),
        ("a server that only answers, at the same rate: p99, ms", spread(bare99, ".1f", 1e3)),
        ("that one: p50, ms", spread(bare50, ".2f", 1e3)),
        ("that one: CPU time for a request, µs", spread(found.bare_cpu, ".0f", 1e6)),
        (f"**a change: until the last of {listeners} is told, ms**", spread(last, ".0f", 1e3)),
        ("the same: until half of them are, ms", spread([quantile(one, 0.5) for one in found.told], ".0f", 1e3)),
        (f"**{many:,} flags: to read and compile, ms**", spread(found.loads, ".0f", 1e3)),
    ]
    for name, shown in rows:
        figure, _, rest = shown.partition(" (")
        report.rows.append((name, figure, rest.rstrip(")")))
    failed = sum(one.failed + one.unfinished for one in found.single)
    report.failures = failed
    bulk, single = statistics.median(found.bulk_per_cpu), statistics.median(p99)
    report.goals = [
        (f"at least 100,000 flags a second by bulk on one core: {bulk:,.0f}", bulk >= 100_000),
        (f"p99 of one flag at {RATE:.0f} requests/s ≤ 5 ms: {milliseconds(single)} ms", single <= 0.005),
        (f"a change reaches {listeners} clients within 1 s: {milliseconds(max(last))} ms", max(last) <= 1.0),
        (f"{many:,} flags load within 1 s: {milliseconds(max(found.loads))} ms", max(found.loads) <= 1.0),
        (f"no request failed: {failed}", failed == 0),
    ]
    void = sorted({why for one in (*found.single, *found.bare) for why in one.void})
    report.notes = [
        f"{cores} (the server is what `proxy` names)",
        "a third of the flags are the same for all, a third split, a third have three conditions",
        "one core: by the CPU time that the server used; a client waits for its own answer, too",
        "no other server of the protocol is to be had as a package (flagd and the relay of GO Feature Flag are not)",
        "the server that only answers is uvicorn with the same parser, and an application of five lines",
        *[f"void: {why}" for why in void],
    ]
    report.versions = {name: version(name) for name in ("uvicorn", "httptools", "starlette", "fastapi")}
    report.measured = {
        "bulk_flags_per_cpu_second": found.bulk_per_cpu,
        "bulk_flags_per_second": found.bulk,
        "not_modified_flags_per_second": found.again,
        "single_p50_seconds": p50,
        "single_p99_seconds": p99,
        "single_cpu_seconds": found.single_cpu,
        "bare_p50_seconds": bare50,
        "bare_p99_seconds": bare99,
        "bare_cpu_seconds": found.bare_cpu,
        "single_requests": sum(one.requests for one in found.single),
        "told_seconds": found.told,
        "load_seconds": found.loads,
    }
    return report


if __name__ == "__main__":
    sys.exit(run("flag_serving", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=5))
