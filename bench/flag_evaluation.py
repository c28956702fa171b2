"""``python -m bench.flag_evaluation``: flags evaluated in one Python process, beside others that evaluate there.

99 flags: 33 that serve their default, 33 that split people by percentages, and 33 of one rule with one to five
conditions; 100 contexts that meet most of the conditions. All in turns, one process, one thread, by CPU time.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.peers_flags import PEERS, Peer
from bench.processes import BenchFailed, say
from bench.report import Report, run
from crossfade.domain.flags.document import read
from crossfade.domain.flags.evaluate import compiled

COLUMNS: Final = ("flags a second, in thousands", "static", "split", "five conditions", "99 mixed", "ours to theirs")
KINDS: Final = ("static", "split", "rule", "mixed")
FLAGS: Final = 99
LOADED: Final = 10_000
OURS: Final = "**Crossfade**, one by one"
BULK: Final = "**Crossfade**, in bulk"
CORE: Final = "openfeature-flagd-core"
NOW: Final = 1_790_000_000.0

CONDITIONS: Final = (
    {"==": [{"var": "country"}, "de"]},
    {">=": [{"var": "age"}, 18]},
    {"in": [{"var": "plan"}, ["pro", "team"]]},
    {"ends_with": [{"var": "email"}, "@example.org"]},
    {"<": [{"var": "logins"}, 1000]},
)

Context = Mapping[str, Any]


def document(flags: int) -> dict[str, Any]:
    """A flag set in flagd's format: a third of each kind, in turns."""
    return {"flags": {f"flag-{i}": _flag(i) for i in range(flags)}}


def contexts(count: int) -> list[dict[str, Any]]:
    """People of whom nine in ten meet each condition."""
    return [
        {
            "targetingKey": f"user-{i}",
            "country": "fr" if i % 10 == 0 else "de",
            "age": 17 if i % 10 == 1 else 18 + i % 50,
            "plan": "free" if i % 10 == 2 else "pro",
            "email": f"user-{i}@example.{'com' if i % 10 == 3 else 'org'}",
            "logins": 5000 if i % 10 == 4 else i,
        }
        for i in range(count)
    ]


def _flag(i: int) -> dict[str, Any]:
    flag: dict[str, Any] = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    if i % 3 == 1:
        share = 5 + i % 90
        flag["targeting"] = {"fractional": [["on", share], ["off", 100 - share]]}
    elif i % 3 == 2:
        # Flags 2, 5, 8 … have five, one, two … conditions.
        asked = list(CONDITIONS[: (i // 3 + 4) % 5 + 1])
        flag["targeting"] = {"if": [{"and": asked} if len(asked) > 1 else asked[0], "on", "off"]}
    return flag


@dataclass
class Part:
    """One who evaluates: what is called for each context, and the rates that were measured, by kind."""

    version: str
    calls: Mapping[str, Callable[[Context], object]]
    rates: dict[str, list[float]] = field(default_factory=dict)

    def median(self, kind: str) -> float:
        return statistics.median(self.rates[kind])


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    logging.disable(logging.CRITICAL)  # a peer logs each bucket that it does not find
    rounds, seconds = (1, 0.02) if given.short else (given.rounds, 0.3)
    data, people = document(FLAGS), contexts(100)
    parts, missing = _parts(data, people)
    for number in range(1, rounds + 1):
        say(f"bench.flag_evaluation: round {number} of {rounds}")
        for kind in KINDS:
            for part in parts.values():
                rate = _rate(part.calls[kind], FLAGS if kind == "mixed" else 1, people, seconds)
                part.rates.setdefault(kind, []).append(rate)
    loads = [_load(2000 if given.short else LOADED) for _ in range(rounds)]
    return _report(parts, missing, loads, 2000 if given.short else LOADED)


def _parts(data: Mapping[str, Any], people: Sequence[Context]) -> tuple[dict[str, Part], list[str]]:
    evaluator = compiled(read(json.loads(json.dumps(data))))
    evaluate, keys = evaluator.evaluate, evaluator.keys
    version = importlib.metadata.version("crossfade")

    def mixed(context: Context) -> None:
        for key in keys:
            evaluate(key, context, NOW)

    def one(key: str) -> Callable[[Context], object]:
        return lambda context: evaluate(key, context, NOW)

    singles = {"static": one("flag-0"), "split": one("flag-1"), "rule": one("flag-2")}
    everything = {**singles, "mixed": lambda context: evaluator.all(context, NOW)}
    parts = {OURS: Part(version, {**singles, "mixed": mixed}), BULK: Part(version, everything)}
    wanted = [[evaluator.evaluate(key, context, NOW).value for key in keys] for context in people]
    missing = []
    for name, (package, make) in PEERS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        peer = make(data)
        _check(name, peer, keys, people, wanted)
        parts[name] = Part(version, _calls(peer, keys))
    return parts, missing


def _check(
    name: str, peer: Peer, keys: Sequence[str], people: Sequence[Context], wanted: Sequence[Sequence[bool]]
) -> None:
    """A peer is only compared where it gives the same answers; buckets are its own where its hash is another one."""
    for context, answers in zip(people, wanted, strict=True):
        ask = peer.asking(context)
        for i, (key, answer) in enumerate(zip(keys, answers, strict=True)):
            found = ask(key)
            if found is not answer and (peer.same_buckets or i % 3 != 1):
                raise BenchFailed(f"{name} says {found} where {answer} is right: {key} for {context}")


def _calls(peer: Peer, keys: Sequence[str]) -> dict[str, Callable[[Context], object]]:
    def one(key: str) -> Callable[[Context], object]:
        return lambda context: peer.asking(context)(key)

    def mixed(context: Context) -> None:
        ask = peer.asking(context)
        for key in keys:
            ask(key)

    return {"static": one("flag-0"), "split": one("flag-1"), "rule": one("flag-2"), "mixed": mixed}


def _rate(call: Callable[[Context], object], flags: int, people: Sequence[Context], seconds: float) -> float:
    """Flags a second of CPU time."""
    asked, turns, began = 0, 1, time.process_time()
    while True:
        for _ in range(turns):
            for context in people:
                call(context)
        asked += turns * len(people)
        spent = time.process_time() - began
        if spent >= seconds:
            return asked * flags / spent
        turns *= 2


def _load(flags: int) -> float:
    """Seconds of CPU time to read a flag set of JSON and make it ready."""
    text = json.dumps(document(flags))
    gc.collect()
    began = time.process_time()
    evaluator = compiled(read(json.loads(text)))
    spent = time.process_time() - began
    if len(evaluator.keys) != flags:
        raise BenchFailed(f"{len(evaluator.keys)} flags of {flags} were loaded")
    return spent


def _report(parts: Mapping[str, Part], missing: Sequence[str], loads: Sequence[float], loaded: int) -> Report:
    report = Report("Flags evaluated in one Python process", COLUMNS)
    ours = parts[OURS]
    for name, part in parts.items():
        figures = [f"{part.median(kind) / 1000:,.0f}" for kind in KINDS]
        report.rows.append((name, *figures, f"{ours.median('mixed') / part.median('mixed'):.1f}"))
    static, mix, bulk = (
        part.median(kind) for part, kind in ((ours, "static"), (ours, "mixed"), (parts[BULK], "mixed"))
    )
    load = statistics.median(loads)
    report.goals = [
        (f"static: {static / 1e6:.1f} million a second (≥ 1)", static >= 1e6),
        (f"99 mixed flags: {bulk / 1000:,.0f} thousand a second in bulk (≥ 300)", bulk >= 300_000),
        (f"{loaded:,} flags are ready in {load:.2f} s (≤ 1)", load <= 1),
    ]
    if CORE in parts:
        times = mix / parts[CORE].median("mixed")
        report.goals.append((f"{times:.1f} times flagd's own evaluator on the mix, one by one (≥ 5)", times >= 5))
    report.notes = [
        "medians by CPU time, all in turns; each gave the right answers first (buckets are its own where its hash is)",
        *([f"not installed, so not measured: {', '.join(missing)}"] if missing else []),
    ]
    report.versions = {name.replace("*", "").partition(",")[0]: part.version for name, part in parts.items()}
    report.measured = {"rates": {name: part.rates for name, part in parts.items()}, "load_seconds": list(loads)}
    return report


if __name__ == "__main__":
    sys.exit(run("flag_evaluation", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=5))
