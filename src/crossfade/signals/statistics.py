"""The edge's own statistics and log lines, read as facts. Pure: text in, values out.

Every request is counted once. A slot's backend has its counts, less those of its server `_elsewhere`: these requests
went on to another backend, which counts them. Errors are 5xx answers, whoever gave them, and answers that broke off
(``srv_abrt`` counts exactly those). What was the edge's own answer is in its variables ``proc.e502.…``.
A client that goes away is no error: HAProxy counts its request as 4xx. Retries are HAProxy's count, in which a
request that was sent again after an empty response occurs twice.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from crossfade.domain.analysis.sample import Moments
from crossfade.domain.errors import Invalid
from crossfade.domain.signal import Failure
from crossfade.domain.traffic import Counters, Pool, pool_of
from crossfade.domain.values import EnvKey

Place = tuple[EnvKey, Pool | None]
"""Where something was counted; without a pool, by the edge itself."""

Events = dict[Place, dict[str, Moments]]
"""Business events by pool and name. Those named `REFUSED` were malformed, or had one name too many."""

EVENTS: Final = "crossfade events"
"""What is asked for them."""

REFUSED: Final = "-"

HOP: Final = "_elsewhere"
EDGE_ANSWERS: Final = {502: "response", 503: "connect", 504: "timeout"}
TRANSPORT: Final = frozenset({"connect", "response", "broken", "no-server"})

_VARIABLE = re.compile(r"^proc\.e(50[234])\.(\S+): type=sint value=<(\d+)>", re.MULTILINE)
_EVENT = re.compile(
    r"^(\S+) (-|[a-z][a-z0-9_.-]{0,39}) (\d+) (-?[\d.]+(?:e[+-]?\d+)?) ([\d.]+(?:e[+-]?\d+)?)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Worker:
    """What identifies one worker process of the edge, and what it is doing."""

    pid: int
    started: int
    generation: int
    stopping: bool
    connections: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.started


@dataclass(frozen=True, slots=True)
class Statistics:
    """One worker's counts; ``present`` are the environments that it has.

    ``silent`` are failures that HAProxy neither answers nor logs: when a request that may not be repeated fails on a
    kept-alive connection, it closes that without a word, as RFC 9112 allows. They are in the counters.
    """

    counters: Mapping[Place, Counters] = field(default_factory=dict)
    present: frozenset[EnvKey] = frozenset()
    silent: Mapping[Place, int] = field(default_factory=dict)
    events: Events = field(default_factory=dict)


def read_worker(info: str) -> Worker:
    """From `show info`. Raises ValueError when it is not one."""
    found = dict(line.split(": ", 1) for line in info.splitlines() if ": " in line)
    try:
        return Worker(
            int(found["Pid"]),
            int(found["Start_time_sec"]),
            int(found.get("description", "generation 0").rsplit(" ", 1)[-1]),
            found.get("Stopping", "0") != "0",
            int(found.get("CurrConns", "0")),
        )
    except KeyError as error:
        raise ValueError(f"no {error} in the edge's answer") from error


def variables_wanted(stat: str) -> tuple[str, ...]:
    """The commands that ask for the edge's own answers, of those slots that had any 5xx."""
    names = [name for name, rows in _proxies(stat).items() if _number(rows.get("BACKEND", {}), "hrsp_5xx")]
    return tuple(
        f"get var proc.e{status}.{name.replace('-', '_')}"
        for name in names
        if name.endswith((".blue", ".green", ".control"))
        for status in EDGE_ANSWERS
    )


def read_events(text: str) -> Events:
    """From the answer to `EVENTS`; lines that are none are passed over."""
    found: Events = {}
    for proxy, name, *sums in _EVENT.findall(text):
        place = place_of(proxy)
        if place is not None:
            found.setdefault(place, {})[name] = Moments(*map(float, sums))
    return found


def read_statistics(stat: str, variables: str, events: str = "") -> Statistics:
    """From `show stat`, the answers to `variables_wanted`, and `crossfade events`."""
    own: dict[str, dict[str, int]] = {}
    for status, name, count in _VARIABLE.findall(variables):
        own.setdefault(name, {})[EDGE_ANSWERS[int(status)]] = int(count)
    proxies = _proxies(stat)
    counters: dict[Place, Counters] = {}
    silent: dict[Place, int] = {}
    present = set()
    for name, rows in proxies.items():
        place = place_of(name)
        if place is None:
            continue
        if place[1] is None:
            if "FRONTEND" in rows:
                present.add(place[0])
                nobody = _number(proxies.get(f"{name}._nobody", {}).get("BACKEND", {}), "hrsp_5xx")
                causes = (("no-server", nobody),) if nobody else ()
                bad = _number(rows["FRONTEND"], "ereq")
                counters[place] = Counters(nobody + bad, nobody, by_cause=causes)
        elif "BACKEND" in rows:
            counters[place], silent[place] = _slot(rows, own.get(name.replace("-", "_"), {}))
    return Statistics(counters, frozenset(present), silent, read_events(events))


@functools.lru_cache(maxsize=4096)
def place_of(proxy: str) -> Place | None:
    """Of ``service.environment`` and ``service.environment.slot``; None for anything else."""
    parts = proxy.split(".")
    try:
        if len(parts) == 2:
            return EnvKey(parts[0], parts[1]), None
        if len(parts) == 3:
            return EnvKey(parts[0], parts[1]), None if parts[2] == "_nobody" else pool_of(parts[2])
    except (Invalid, ValueError):
        pass
    return None


def name_of(place: Place) -> tuple[str, str]:
    """Of its environment and of its pool, which is empty for the edge itself."""
    return str(place[0]), place[1].value if place[1] else ""


def place_named(key: str, pool: str) -> Place:
    """Raises ValueError."""
    return EnvKey.parse(key), pool_of(pool) if pool else None


def cause_of(status: int, termination: str, server: str, nobody: bool) -> str:
    """Why a request failed, from how it ended; empty when it did not fail.

    ``termination`` is HAProxy's: who ended the session (C client, S server, P proxy, K killed, lower case for
    timeouts), then when (C connecting, H waiting for headers, D sending data, L its last bytes).
    """
    who, when = termination[0], termination[1]
    if server == HOP and when != "C":
        return ""  # the hop's own line says how it ended
    if who in "Cc":
        return ""
    if when in "DL" and who in "SsDIPRU":
        return "broken"
    if status < 500:
        return ""
    if nobody:
        return "no-server"
    if termination == "--":
        return "5xx"
    if when in "CQ":
        return "connect"
    if when == "H":
        return "timeout" if who == "s" else "response"
    return "edge"


def failure(at: float, slot: Pool | None, status: int, cause: str) -> Failure:
    """A failed request; HAProxy writes status -1 when nothing was sent."""
    return Failure(at, slot, max(0, status), cause, cause in TRANSPORT)


def _slot(rows: Mapping[str, Mapping[str, str]], own: Mapping[str, int]) -> tuple[Counters, int]:
    total, hop = rows["BACKEND"], rows.get(HOP, {})

    def net(column: str) -> int:
        return max(0, _number(total, column) - _number(hop, column))

    answered = sum(net(f"hrsp_{kind}") for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other"))
    ended = _ended(total) - _ended(hop)
    silent = max(0, ended - answered)
    failed, aborted = net("hrsp_5xx"), net("srv_abrt")
    causes = dict(own)
    causes["5xx"] = max(0, failed - sum(own.values()))
    causes["response"] = causes.get("response", 0) + min(silent, aborted)
    causes["broken"] = max(0, aborted - silent)
    return Counters(
        requests=max(answered, ended),
        errors=failed + aborted,
        retries=net("wretr") + net("wredis"),
        open=net("scur"),
        by_cause=tuple(sorted((cause, count) for cause, count in causes.items() if count)),
    ), silent


def _ended(row: Mapping[str, str]) -> int:
    return _number(row, "stot") - _number(row, "scur")


def _proxies(stat: str) -> dict[str, dict[str, Mapping[str, str]]]:
    start = stat.find("# pxname")
    found: dict[str, dict[str, Mapping[str, str]]] = {}
    if start >= 0:
        for row in csv.DictReader(io.StringIO(stat[start + 2 :])):
            found.setdefault(row["pxname"], {})[row["svname"]] = row
    return found


def _number(row: Mapping[str, str], column: str) -> int:
    return int(row.get(column) or 0)
