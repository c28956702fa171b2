"""Load at the expected peak: the rate and mix that production's edge has measured, times a factor, or as given."""

from __future__ import annotations

import json
import math
import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import Unavailable
from crossfade.domain.pipeline.plan import Load, Outcome
from crossfade.ports.pipeline import Cancel, Profile, Tell

ONE_PROCESS: Final = 1000.0
"""Requests a second that one process of the generator offers without falling behind."""
MOST_PROCESSES: Final = 8
TAIL: Final = 30.0
_HOLE: Final = re.compile(r"\{[a-z]+\}")


def put_under_load(
    command: Sequence[str], url: str, load: Load, profile: Profile | None, folder: Path, tell: Tell, cancel: Cancel
) -> Outcome:
    """Offer the load, open-loop, and hold what came to the limits. ``result.json`` in ``folder`` has all of it."""
    planned = _plan(load, profile)
    if isinstance(planned, Outcome):
        return planned
    rate, mix, notes = planned
    tell(f"{rate:.1f} requests a second for {load.duration:g} s" + "".join(f"; {note}" for note in notes))
    plan = {"url": url, "phases": [{"rate": rate, "duration": load.duration}], "mix": mix, "fail_from": 500}
    (folder / "plan.json").write_text(json.dumps(plan))
    processes = min(MOST_PROCESSES, max(1, math.ceil(rate / ONE_PROCESS)))
    words = [*command, "--plan", str(folder / "plan.json"), "--json", str(folder / "result.json")]
    done = _run([*words, "--processes", str(processes)], load.duration + TAIL, tell, cancel)
    if done is None:
        return Outcome(False, "it was cancelled", "no-data")
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        raise Unavailable(f"The load generator has left no result: {done}") from None
    return judge(load, result, rate, notes)


def _plan(load: Load, profile: Profile | None) -> tuple[float, list[dict[str, Any]], list[str]] | Outcome:
    notes: list[str] = []
    if load.rate is not None:
        rate = load.rate
    elif profile is not None and profile.peak > 0:
        rate = profile.peak * load.factor
        notes.append(f"the peak of {load.like}, {profile.peak:.1f} a second, times {load.factor:g}")
    else:
        return Outcome(
            False,
            f"nothing is known of the traffic of {load.like} yet",
            "no-data",
            details=("give load.rate and load.requests, until its edge has measured an hour",),
        )
    if load.requests:
        return rate, [_request(one.request, one.weight) for one in load.requests], notes
    known = {path: share for path, share in (profile.mix if profile is not None else {}).items() if share > 0}
    whole = {path: share for path, share in known.items() if not _HOLE.search(path) and path.partition(" ")[2]}
    if not whole:
        return Outcome(
            False,
            f"no path of {load.like} is known that could be asked for as it is",
            "no-data",
            details=("give load.requests: recorded paths have no values, GET /books/{n} for example",),
        )
    left = sum(known.values()) - sum(whole.values())
    if left > 0:
        notes.append(
            f"{left:.0%} of the mix is left out, whose paths have values: give load.requests".replace("%", " %")
        )
    return rate, [_request(path, share) for path, share in whole.items()], notes


def _request(text: str, weight: float) -> dict[str, Any]:
    method, space, path = text.partition(" ")
    return {"path": path if space else text, "method": method if space else "GET", "weight": weight}


def _run(words: list[str], timeout: float, tell: Tell, cancel: Cancel) -> str | None:
    """What it said last; None when it was cancelled."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = ["nothing"]

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said[0] = line.strip()[:300]
            tell(said[0])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    waited = 0.0
    try:
        while process.poll() is None and waited < timeout:
            if cancel.wait(0.1):
                return None
            waited += 0.1
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(timeout=2)
    return said[0]


def judge(load: Load, result: dict[str, Any], rate: float, notes: Sequence[str] = ()) -> Outcome:
    """Hold a result of the load generator to the limits. Latencies in it are milliseconds."""
    requests, failed = result["requests"], result["failed"]
    if not requests:
        return Outcome(False, "no request was answered", "no-data")
    share = failed / requests
    latency = {name: result["latency"].get(f"{name}_ms") for name in ("p50", "p90", "p99")}
    latency["p95"] = _p95(result)
    numbers = {
        "requests": requests, "failed": failed, "error_rate": share, "rate": result["rate"], "offered": rate,
        "latency_ms": latency, "by_status": result["by_status"], "by_kind": result["by_kind"],
    }  # fmt: skip
    shown = f"{requests} requests at {result['rate']:.0f} a second: {share:.2%} errors".replace("%", " %")
    shown += "".join(f", {name} {latency[name]:.1f} ms" for name in ("p50", "p95", "p99") if latency[name] is not None)
    details = [f"{count} times {kind}" for kind, count in result["by_kind"].items()]
    details += [
        f"{name}: {group['failed']} of {group['requests']} failed"
        for name, group in result["by_request"].items()
        if group["failed"]
    ]
    details += list(notes)
    wrong, slow = [], []
    if load.error_rate is not None and share > load.error_rate:
        wrong.append(f"the error rate is {share:.1%}, {load.error_rate:.1%} is allowed".replace("%", " %"))
    for name, limit in (("p50", load.p50), ("p95", load.p95), ("p99", load.p99)):
        found = latency[name]
        if limit is not None and found is not None and found > limit * 1000:
            slow.append(f"{name} is {found:.0f} ms, {limit * 1000:.0f} ms are allowed")
    late = "; ".join(result["void"])
    if wrong or (slow and not late):
        return Outcome(False, f"{'; '.join([*wrong, *slow])} ({shown})", details=tuple(details), numbers=numbers)
    if slow:
        # Latency counts from the intended start: what the generator lost itself would be held against the release.
        sentence = f"{slow[0]}, but the load cannot be trusted: {late} ({shown})"
        return Outcome(False, sentence, "inconclusive", tuple(details), numbers, infrastructure=True)
    if late:
        details.append(f"the generator itself was late ({late}): the latencies are no less than what is shown")
    return Outcome(True, shown, details=tuple(details), numbers=numbers)


def _p95(result: dict[str, Any]) -> float | None:
    """From the slices' buckets, of which each is at most 9.05 % wide: never too low."""
    from crossfade.domain.analysis import latency  # noqa: PLC0415 - wanted here only

    counts: dict[int, int] = {}
    for slice_ in result["slices"]:
        for bucket, count in slice_["latencies"]:
            counts[bucket] = counts.get(bucket, 0) + count
    found = latency.quantile(counts, 0.95)
    return None if found is None else found * 1000
