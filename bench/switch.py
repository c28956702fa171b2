"""``python -m bench.switch``: from the command to the first request on the new slot, and what fails meanwhile.

Ours is `HAProxyRouter.set_split`, its write to disk included. Beside it, the same backends behind nginx and HAProxy
that get a new configuration and are reloaded, and behind Traefik whose dynamic file is rewritten. All are under
open-loop load from another process, which notes when each answer came and from which slot. Each round has a part of
every contender's switches, in a new random order.
"""

from __future__ import annotations

import argparse
import bisect
import math
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.load import OnSchedule
from bench.own import FENCE, OwnEdge
from bench.peers import (
    haproxy_config,
    nginx_command,
    nginx_config,
    nginx_server,
    program,
    start_backend,
    start_proxy,
    traefik_dynamic,
    versions,
)
from bench.peers import need as need_peers
from bench.processes import BenchFailed, Processes, say
from bench.report import Report, milliseconds, quantile, run
from crossfade.domain.traffic import Slot, Split

OURS: Final = "**Crossfade**"
WARM_UP: Final = 1.5
"""Seconds of load before the first switch of a part; the generator needs one to start."""

COLUMNS: Final = (
    "",
    "switches",
    "to first request on the new slot: p50, ms",
    "p99, ms",
    "least…greatest, ms",
    "command itself: p50 · p99, ms",
    "old slot's last answer: p50, ms",
    "failed requests",
)


@dataclass
class Contender:
    """``to`` moves all traffic to a slot; ``pause`` is how long one switch is given (seconds)."""

    name: str
    port: int
    switches: int
    pause: float
    to: Callable[[Slot], None]
    active: Slot = Slot.BLUE
    first: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    unseen: int = 0
    requests: int = 0
    failed: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    short: bool = given.short
    rounds, rate = (1, 300.0) if short else (given.rounds, 2000.0)
    if not short:
        need_peers(("nginx", "traefik"))
    with Processes() as processes:
        backend = start_backend(processes, ["blue", "green"], frozenset())
        slots = {Slot.BLUE: backend["blue"], Slot.GREEN: backend["green"]}
        with OwnEdge(processes) as own:
            key, port = own.environment("shop", slots, Split.wholly(Slot.BLUE))

            def ours(slot: Slot) -> None:
                own.router.set_split(key, Split.wholly(slot), None, FENCE)

            contenders = [Contender(OURS, port, 4 if short else 200, 0.15, ours)]
            contenders += _peers(processes, slots, 2 if short else 30)
            for number in range(rounds):
                for contender in random.sample(contenders, len(contenders)):
                    count = contender.switches * (number + 1) // rounds - contender.switches * number // rounds
                    name = contender.name.strip("*")
                    say(f"bench.switch: round {number + 1} of {rounds}, {count} switches of {name}")
                    _measure(processes, contender, count, rate, 1 if short else 2)
    return _report(contenders, rounds, rate)


def _peers(processes: Processes, slots: dict[Slot, int], switches: int) -> list[Contender]:
    found = []
    blue, none = slots[Slot.BLUE], frozenset[int]()
    if program("nginx"):
        nginx = start_proxy(processes, "nginx", blue, none)
        found.append(Contender("nginx reload", nginx.port, switches, 0.6, _nginx(nginx.config, nginx.port, slots)))
    haproxy = start_proxy(processes, "haproxy", blue, none)
    reload = _haproxy(haproxy.config, haproxy.port, slots)
    found.append(Contender("HAProxy reload", haproxy.port, switches, 0.6, reload))
    if program("traefik"):
        for extra, pause, label in (
            ("", 4.5, "Traefik's file provider"),
            ("10ms", 1.2, "the same, throttle of 10 ms instead of 2 s"),
        ):
            traefik = start_proxy(processes, "traefik", blue, none, extra)
            found.append(Contender(label, traefik.port, switches, pause, _traefik(traefik.config, slots)))
    return found


def _nginx(config: Path, port: int, slots: dict[Slot, int]) -> Callable[[Slot], None]:
    folder = config.parent

    def to(slot: Slot) -> None:
        _replace(config, nginx_config(folder, nginx_server(port, slots[slot])))
        done = subprocess.run(nginx_command(folder, "-s", "reload"), capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchFailed(f"nginx -s reload said: {done.stderr.strip()[-300:]}")

    return to


def _haproxy(config: Path, port: int, slots: dict[Slot, int]) -> Callable[[Slot], None]:
    master = config.with_suffix(".sock")

    def to(slot: Slot) -> None:
        _replace(config, haproxy_config(port, slots[slot]))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(master))
            connection.sendall(b"reload\n")
            said = b""
            while chunk := connection.recv(4096):
                said += chunk
        if b"Success=1" not in said:
            raise BenchFailed(f"HAProxy's reload said: {said.decode(errors='replace')[-300:]}")

    return to


def _traefik(config: Path, slots: dict[Slot, int]) -> Callable[[Slot], None]:
    return lambda slot: _replace(config, traefik_dynamic(slots[slot]))


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, as a careful user would."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


def _measure(processes: Processes, contender: Contender, count: int, rate: float, generators: int) -> None:
    """So many switches of one contender under load, and what they did to the requests."""
    commands: list[tuple[float, float, Slot]] = []
    # Time for all, and then some: the load is stopped after the last switch.
    seconds = WARM_UP + count * (contender.pause + 1.0) + 30
    load = OnSchedule(processes.folder, contender.port, rate, seconds, header="x-slot", processes=generators)
    with load:
        time.sleep(WARM_UP + 0.5 * generators)
        for _ in range(count):
            target = contender.active.other
            began = time.monotonic()
            contender.to(target)
            commands.append((began, time.monotonic(), target))
            contender.active = target
            # Never in step with the load.
            time.sleep(max(0.0, began + contender.pause * random.uniform(0.8, 1.2) - time.monotonic()))
        load.stop()
        records = load.records()
    offset = records.began_at + load.monotonic_minus_epoch
    ends = sorted(
        (offset + start + latency, offset + start, value)
        for start, latency, value, kind in zip(records.start, records.latency, records.value, records.kind, strict=True)
        if not kind
    )
    if not ends or ends[0][0] > commands[0][0]:
        raise BenchFailed("the load had not begun when the first switch came: the machine is too busy to measure on")
    received = [end for end, _, _ in ends]
    for number, (began, done, target) in enumerate(commands):
        until_then = commands[number + 1][0] if number + 1 < len(commands) else math.inf
        window = ends[bisect.bisect_left(received, began) : bisect.bisect_left(received, until_then)]
        new, old = (
            records.values.index(str(slot)) if str(slot) in records.values else -1 for slot in (target, target.other)
        )
        contender.command.append(done - began)
        first = next((end for end, _, value in window if value == new), None)
        before = bisect.bisect_left(received, began) - 1
        # One that came too late for its time makes the next one look instant: neither counts as a time.
        if first is None or (before >= 0 and ends[before][2] == new):
            contender.unseen += 1
            continue
        contender.first.append(first - began)
        # Only requests that should have been sent after the command count as late on the old slot.
        late = [end for end, start, value in window if value == old and start > began]
        contender.last.append(max(late) - began if late else 0.0)
    contender.requests += len(records)
    contender.failed += records.failed + records.unfinished
    contender.lags.append(quantile(records.lags, 0.99))
    for failure in records.failures:
        contender.kinds[failure.kind] = contender.kinds.get(failure.kind, 0) + 1


def _report(contenders: Sequence[Contender], rounds: int, rate: float) -> Report:
    ours = contenders[0]
    report = Report("Switch: all traffic from one slot to the other, under load", COLUMNS)
    report.versions = versions(("haproxy", "nginx", "traefik"))
    for each in contenders:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(each.kinds.items()))
        unseen = f" ({each.unseen} not within {each.pause} s)" if each.unseen else ""
        report.rows.append(
            (
                each.name,
                f"{len(each.command)}{unseen}",
                milliseconds(quantile(each.first, 0.5)),
                milliseconds(quantile(each.first, 0.99)),
                f"{milliseconds(min(each.first, default=math.nan))}…{milliseconds(max(each.first, default=math.nan))}",
                f"{milliseconds(quantile(each.command, 0.5))} · {milliseconds(quantile(each.command, 0.99))}",
                milliseconds(quantile(each.last, 0.5)),
                f"{each.failed} of {each.requests}" + (f" ({kinds})" if kinds else ""),
            )
        )
        report.measured[each.name.strip("*")] = {
            "first_request_seconds": each.first,
            "command_seconds": each.command,
            "last_on_old_slot_seconds": each.last,
            "unseen": each.unseen,
            "requests": each.requests,
            "failed": each.failed,
            "failures_by_kind": each.kinds,
            "generator_p99_lag_seconds": each.lags,
        }
    report.failures = ours.failed + ours.unseen
    p99 = quantile(ours.first, 0.99)
    report.goals = [
        (
            f"0 requests failed over {len(ours.command)} of our switches: {ours.failed} of {ours.requests}",
            not ours.failed,
        ),
        (f"our p99 from command to first request ≤ 25 ms: {milliseconds(p99)} ms", p99 <= 0.025),
    ]
    worst = max(lag for each in contenders for lag in each.lags)
    for each in contenders[1:]:
        if each.first:
            times = quantile(each.first, 0.5) / quantile(ours.first, 0.5)
            report.notes.append(f"{each.name}: {times:.1f} times our median")
    report.notes += [
        f"{rate:.0f} requests/s open-loop, {rounds} rounds, the order of contenders drawn anew in each",
        "nothing is sent again: a kept connection that is closed under a request is a failed request",
        f"in its worst part, the generator started 99 % of the requests within {milliseconds(worst)} ms of their time",
    ]
    return report


if __name__ == "__main__":
    sys.exit(run("switch", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=5))
