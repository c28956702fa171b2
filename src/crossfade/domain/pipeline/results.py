"""What the results of load tests, benchmarks and checks of behaviour come to, whoever measured them. Times are seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import Gate, Outcome

if TYPE_CHECKING:
    import numpy as np

ERROR_RATE: Final = 0.01
"""The share of requests that may fail where the gate says nothing else."""

MARGIN: Final = 0.10
"""How much longer a benchmark may take where the gate says nothing else."""

RESAMPLES: Final = 2_000
MOST_SAMPLES: Final = 500
"""More than this of one benchmark are thinned out evenly: the interval is as sure, at a bounded price."""

MOST_SHOWN: Final = 50
"""How many failures are shown."""

FEWEST_SAMPLES: Final = 5
"""Fewer of either release say nothing of their own spread."""

_SEED: Final = 20_240_229  # the same samples have the same interval wherever they are compared


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load tool measured. ``quantiles`` are response times by ``p50``, ``p95``, ``p99``; those it does not report lack.

    ``dropped`` requests were due and never sent. ``broken`` are the tool's own limits that were not kept. ``notes`` say
    what the figures do not show.
    """

    tool: str
    requests: int
    errors: int
    quantiles: Mapping[str, float]
    seconds: float | None = None
    rate: float | None = None
    dropped: int = 0
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    """How to have the tool report a quantile that lacks."""

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= self.requests:
            raise Invalid(f"{self.tool} errors", self.errors, f"0 to {self.requests}, the requests")
        for name, value in (*self.quantiles.items(), ("duration", self.seconds or 0.0), ("rate", self.rate or 0.0)):
            if not (math.isfinite(value) and value >= 0):
                raise Invalid(f"{self.tool} {name}", value, "a finite number that is not negative")


def milliseconds(seconds: float) -> str:
    """A time for people: ``9.3 ms``, ``1.24 s``, ``350 µs``."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def percent(share: float) -> str:
    """A share for people, that shows more than nothing when there is more than nothing: ``0.012 %``."""
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.3g} %"


def decide_load(path: str, result: LoadResult, gate: Gate) -> Outcome:
    """Whether load was borne: the limits of the gate, the tool's own ones, and nothing left unsent."""
    share = result.errors / result.requests if result.requests else 0.0
    numbers = {
        "tool": result.tool,
        "requests": result.requests,
        "errors": result.errors,
        "error_rate": share,
        "rate": result.rate,
        "seconds": result.seconds,
        "dropped": result.dropped,
        **result.quantiles,
    }
    if result.requests < max(1, gate.least):
        wanted = f"at least {max(1, gate.least)} are wanted"
        sentence = f"{path} ({result.tool}) tells of {result.requests} requests; {wanted}"
        return Outcome(False, sentence, "no-data", result.notes, numbers)
    allowed = ERROR_RATE if gate.error_rate is None else gate.error_rate
    faults: list[str] = []
    unknown: list[str] = []
    if share > allowed:
        faults.append(
            f"{percent(share)} of requests failed ({result.errors} of {result.requests}), limit {percent(allowed)}"
        )
    for name, limit in (("p50", gate.p50), ("p95", gate.p95), ("p99", gate.p99)):
        if limit is None:
            continue
        found = result.quantiles.get(name)
        if found is None:
            hint = result.hints.get(name, "")
            unknown.append(f"{name} is not in the report, but has a limit{': ' + hint if hint else ''}")
        elif found > limit:
            faults.append(f"{name} {milliseconds(found)}, limit {milliseconds(limit)}")
    if result.dropped:
        faults.append(f"{result.dropped} iterations were dropped: the load was not as it should have been")
    faults += [f"the tool's own limit was not kept: {limit}" for limit in result.broken]
    shown = [f"{result.requests} requests"]
    shown += [f"{result.rate:.4g} a second"] if result.rate is not None else []
    shown += [f"{percent(share)} failed"]
    shown += [
        f"{name} {milliseconds(result.quantiles[name])}" for name in ("p50", "p95", "p99") if name in result.quantiles
    ]
    summary = f"{path} ({result.tool}): {', '.join(shown)}"
    if faults or unknown:
        finding = "fail" if faults else "no-data"
        return Outcome(
            False, f"{summary}; {'; '.join(faults + unknown)}", finding, (*faults, *unknown, *result.notes), numbers
        )
    return Outcome(True, summary, details=result.notes, numbers=numbers)


@dataclass(frozen=True, slots=True)
class Failure:
    """A check of an API's behaviour that failed: the operation, the check (``ST101``, its title), a command to try it."""

    operation: str
    code: str
    check: str
    command: str = ""

    def tolerated(self, allow: Sequence[str]) -> bool:
        """Whether a list names the operation, the check, or just the two together: ``GET /books:ST101``."""
        names = {self.operation, self.check, f"{self.operation}:{self.check}"}
        names |= {self.code, f"{self.operation}:{self.code}"} if self.code else set()
        return not names.isdisjoint(allow)


def decide_behaviour(path: str, tested: int, skipped: int, failures: Sequence[Failure], gate: Gate) -> Outcome:
    """Whether an API behaved: enough operations were tested, and no check failed but those that are allowed."""
    counted = [failure for failure in failures if not failure.tolerated(gate.allow)]
    allowed = len(failures) - len(counted)
    numbers = {"operations": tested, "skipped": skipped, "failures": len(counted), "allowed": allowed}
    aside = f" ({allowed} allowed)" if allowed else ""
    if tested < max(1, gate.least):
        sentence = f"{path} tells of {tested} operations tested, {skipped} skipped; "
        return Outcome(False, f"{sentence}at least {max(1, gate.least)} are wanted", "no-data", (), numbers)
    if not counted:
        return Outcome(True, f"{path}: {tested} operations tested, no check failed{aside}", numbers=numbers)
    details: list[str] = []
    for failure in counted[:MOST_SHOWN]:
        name = f"{failure.code} {failure.check}".strip()
        allow = f"  [allow: {failure.operation}:{failure.code or failure.check}]"
        details.append(f"{failure.operation}: {name}{allow}")
        details += [f"  {failure.command}"] if failure.command else []
    if len(counted) > MOST_SHOWN:
        details.append(f"and {len(counted) - MOST_SHOWN} more")
    first = counted[0]
    operations = len({failure.operation for failure in counted})
    sentence = f"{path}: {_plural(len(counted), 'check')} failed in {operations} of {tested} operations{aside}: "
    sentence += f"{first.operation}: {f'{first.code} {first.check}'.strip()}"
    return Outcome(False, sentence, details=tuple(details), numbers=numbers)


def together(outcomes: Sequence[Outcome], what: str) -> Outcome:
    """One outcome for several reports of a gate: it passes when each does, and its numbers are kept in a list."""
    if len(outcomes) == 1:
        return outcomes[0]
    worst = next((outcome for outcome in outcomes if not outcome.passed), None)
    details = tuple(line for outcome in outcomes for line in (outcome.sentence, *outcome.details))
    numbers = {"reports": [dict(outcome.numbers) for outcome in outcomes]}
    if worst is None:
        return Outcome(True, f"{len(outcomes)} {what}: {outcomes[0].sentence}, and so on", "", details, numbers)
    failed = sum(not outcome.passed for outcome in outcomes)
    return Outcome(False, f"{failed} of {len(outcomes)} {what}: {worst.sentence}", worst.finding, details, numbers)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: its median, and the times of each of its rounds where the tool keeps them."""

    name: str
    median: float
    samples: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for value in (self.median, *self.samples):
            if not (math.isfinite(value) and value >= 0):
                raise Invalid(f"benchmark {self.name}", value, "times that are finite and not negative")
        if self.median <= 0:
            raise Invalid(f"benchmark {self.name}", self.median, "a median above 0 s")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long it takes now: an estimate with its 95 % interval, None for both ends when there is none."""

    point: float
    low: float | None = None
    high: float | None = None

    def finding(self, margin: float) -> str:
        """``pass``, ``fail`` or ``inconclusive``: the interval is below 1 + margin, above it, or on both sides."""
        line = 1.0 + margin
        if self.low is None or self.high is None:
            return "fail" if self.point > line else "pass"
        if self.low > line:
            return "fail"
        return "pass" if self.high < line else "inconclusive"

    def __str__(self) -> str:
        change = f"{(self.point - 1) * 100:+.1f} %"
        if self.low is None or self.high is None:
            return f"{change} (a point estimate: not samples enough for an interval)"
        return f"{change} (95 % interval {(self.low - 1) * 100:+.1f} … {(self.high - 1) * 100:+.1f} %)"


def ratio(before: Benchmark, after: Benchmark) -> Ratio:
    """Of the medians, with the BCa bootstrap interval (Efron 1987) where both have samples enough.

    The order of the samples plays no part: rounds of a benchmark are taken for independent.
    """
    if min(len(before.samples), len(after.samples)) < FEWEST_SAMPLES:
        return Ratio(after.median / before.median)
    import numpy as np  # noqa: PLC0415 - scipy takes a second to load, and few processes ever compare
    from scipy import stats  # noqa: PLC0415 - as above

    one, two = (np.array(_thinned(which.samples)) for which in (before, after))
    point = float(np.median(two) / np.median(one)) if np.median(one) > 0 else math.inf
    if not math.isfinite(point):
        raise Invalid(f"benchmark {before.name}", 0.0, "a median above 0 s")
    if np.ptp(one) == 0 and np.ptp(two) == 0:
        return Ratio(point, point, point)

    def log_ratio(a: np.typing.NDArray[np.float64], b: np.typing.NDArray[np.float64], axis: int = -1) -> object:
        tiny = np.finfo(float).tiny
        return np.log(np.maximum(np.median(b, axis=axis), tiny)) - np.log(np.maximum(np.median(a, axis=axis), tiny))

    # BCa learns from leaving single samples out; where that never moves a median, it cannot say anything.
    method = "percentile" if _unmoved(one) and _unmoved(two) else "BCa"
    found = stats.bootstrap(
        (one, two),
        log_ratio,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method=method,
        vectorized=True,
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    low, high = float(np.exp(found.low)), float(np.exp(found.high))
    return Ratio(point, low, high) if math.isfinite(low) and math.isfinite(high) else Ratio(point)


def _unmoved(ordered: np.typing.NDArray[np.float64]) -> bool:
    middle, odd = len(ordered) // 2, len(ordered) % 2
    return bool(ordered[middle - 1] == ordered[middle] == ordered[middle + odd])


def _thinned(samples: Sequence[float]) -> list[float]:
    """At most `MOST_SAMPLES` of them, sorted, evenly over the ranks: the same distribution."""
    ordered = sorted(samples)
    if len(ordered) <= MOST_SAMPLES:
        return ordered
    return [ordered[int((rank + 0.5) * len(ordered) / MOST_SAMPLES)] for rank in range(MOST_SAMPLES)]


def decide_benchmarks(
    path: str,
    after: Sequence[Benchmark],
    before: Sequence[Benchmark] | None,
    label: str,
    gate: Gate,
    *,
    failed: Sequence[str] = (),
) -> Outcome:
    """Whether benchmarks are as fast as in the release ``label``; ``before`` None when there is none to compare with.

    ``failed`` are sentences about benchmarks that did not run as they should. Names in the gate's ``allow`` may be slower
    or missing.
    """
    margin = MARGIN if gate.margin is None else gate.margin
    numbers: dict[str, Any] = {"benchmarks": len(after), "margin": margin}
    if failed:
        return Outcome(False, f"{path}: {failed[0]}", details=tuple(failed), numbers=numbers)
    if len(after) < max(1, gate.least):
        sentence = f"{path} has {len(after)} benchmarks; at least {max(1, gate.least)} are wanted"
        return Outcome(False, sentence, "no-data", numbers=numbers)
    for those in (after, before or ()):
        twice = next(
            (one.name for at, one in enumerate(those) if any(one.name == other.name for other in those[:at])), None
        )
        if twice is not None:
            raise Invalid(f"{path} benchmark", twice, "each name once")
    if before is None:
        return Outcome(
            True,
            f"{path} has {_plural(len(after), 'benchmark')}, and nothing to compare with: {label}",
            numbers=numbers,
        )
    known = {one.name: one for one in before}
    names = {one.name for one in after}
    found = {one.name: ratio(known[one.name], one) for one in after if one.name in known}
    findings = {name: each.finding(margin) for name, each in found.items()}
    findings |= {one.name: "no-data" for one in before if one.name not in names}
    lines: dict[str, list[str]] = {"fail": [], "inconclusive": [], "no-data": [], "pass": []}
    for name, finding in findings.items():
        if name in found:
            said = {"fail": "slower", "inconclusive": "it cannot be told", "pass": "as fast"}[finding]
            times = (
                f"{milliseconds(known[name].median)} → {milliseconds(next(o.median for o in after if o.name == name))}"
            )
            line = f"{name}: {said}: {found[name]}, {times}"
        else:
            line = f"{name}: {label} had it, and it is not in the report any more  [allow: {name}]"
        lines["pass" if name in gate.allow else finding].append(line + (" (allowed)" if name in gate.allow else ""))
    new = tuple(f"{one.name}: new" for one in after if one.name not in known)
    details = (*lines["fail"], *lines["inconclusive"], *lines["no-data"], *lines["pass"], *new)
    ratios = {name: {"ratio": each.point, "low": each.low, "high": each.high} for name, each in found.items()}
    numbers = {**numbers, "ratios": ratios}
    bound = f"margin {percent(margin)}"
    if lines["fail"]:
        sentence = f"{path}: {len(lines['fail'])} of {_plural(len(after), 'benchmark')} slower than in {label} ({bound}): {lines['fail'][0]}"
        return Outcome(False, sentence, "fail", details, numbers)
    if lines["inconclusive"]:
        sentence = f"{path}: {_plural(len(lines['inconclusive']), 'benchmark')} cannot be told from {label} without more rounds ({bound}): "
        return Outcome(False, sentence + lines["inconclusive"][0], "inconclusive", details, numbers)
    if lines["no-data"]:
        return Outcome(False, f"{path}: {lines['no-data'][0]}", "no-data", details, numbers)
    return Outcome(
        True, f"{path}: {_plural(len(after), 'benchmark')}, none slower than in {label} ({bound})", "", details, numbers
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
