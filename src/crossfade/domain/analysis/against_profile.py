"""A release with all the traffic against what the release before it showed: one arm, a fixed profile, right at every moment.

Between the two lies time: what was seen an hour ago is no baseline that drifts along. So the limits are wide (several times
the profile, and more in absolute terms), harm must go on while it is decided upon, and a load that rises or falls is no harm.

A test is "the share of bad requests is at most the limit"; its e-process is `evidence.growth_alone`, with restarts for what
begins late. Errors have half of the chance of a false alarm, latencies (the share above three edges, fixed by the profile)
the other half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np
from scipy.special import betainc

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis import latency
from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.explain import ms, percent
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import Finding, Verdict

ALARM: Final = 0.001
"""The chance that a release that keeps to its limits is ever failed in its watch."""
LEAST: Final = 100
"""Requests, or latency samples, that a profile is made of at least."""
TIMES: Final = 3.0
"""How many times the profile's share of errors is allowed."""
MORE: Final = 0.005
"""The share of errors that is allowed beyond the profile's, where that is more."""
QUANTILES: Final = (0.5, 0.9, 0.99)
"""Of the profile's latencies: above each, and half as much again, there should be few."""
SLOWER: Final = 1.5
"""How many times a quantile counts as slow."""
TIMES_SLOW: Final = 2.0
MORE_SLOW: Final = 0.05
"""As `TIMES` and `MORE`, of the share of slow requests."""
CLUSTERED: Final = 2.0
"""By what the evidence of latencies is divided at least: slow requests come together."""
LATELY: Final = 5
"""Looks in which the harm must still be there."""
WORST: Final = 2
"""Of those, so many are left out: one burst that is over is not acted upon."""
CHANCE: Final = 0.01
"""How likely what is left may be at the limit."""
FEWEST: Final = 5
"""Bad requests without which nothing is decided."""

ENOUGH: Final = 20
"""Requests after a remedy that say something about it."""

ERRORS: Final = "errors"
LATENCY: Final = "latency"


@dataclass(frozen=True, slots=True)
class Test:
    """``bucket``: of the latency from which on a request is bad; None: bad is what has failed. ``limit``: the share 0…1.

    ``profile`` is the share that the release before had, ``burst`` by what the evidence is divided.
    """

    name: str
    bucket: int | None
    profile: float
    limit: float
    burst: float
    weight: float

    @property
    def metric(self) -> str:
        return ERRORS if self.bucket is None else LATENCY


@dataclass(frozen=True, slots=True)
class Profile:
    """What the release before showed, as tests; none where too little is known. ``why_not`` says so."""

    tests: tuple[Test, ...] = ()
    requests: float = 0.0
    seconds: float = 0.0
    why_not: str = ""

    @property
    def rate(self) -> float | None:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds > 0 else None


def profile_of(history: History) -> Profile:
    """The tests that a history allows."""
    if history.requests < LEAST:
        return Profile(why_not=f"the release before had {history.requests:.0f} requests, and {LEAST} are needed")
    burst = e.burstiness(np.array(history.errors_per_10s, dtype=float))
    share, surely = _share(history.errors, history.requests)
    allowed = min(0.9, max(TIMES * surely, surely + MORE))
    counts = history.histogram.counts if history.histogram is not None else ()
    samples = sum(counts)
    slow = _slow_tests(counts, samples) if samples >= LEAST else []
    of_errors = 0.5 if slow else 1.0
    errors = Test("errors", None, share, allowed, burst, of_errors)
    tests = (errors, *(replace(one, weight=0.5 / len(slow)) for one in slow))
    return Profile(tests, history.requests, history.seconds)


def _slow_tests(counts: Sequence[float], samples: float) -> list[Test]:
    found: list[Test] = []
    for quantile in QUANTILES:
        edge = latency.quantile(dict(enumerate(map(int, counts))), quantile)
        if edge is None:
            continue
        bucket = min(latency.LAST, latency.bucket_of(edge * SLOWER) + 1)
        share, surely = _share(sum(counts[bucket:]), samples)
        limit = min(0.9, max(TIMES_SLOW * surely, surely + MORE_SLOW))
        if all(bucket != one.bucket for one in found):
            found.append(
                Test(f"slower than {ms(latency.upper_edge(bucket - 1) * 1000)}", bucket, share, limit, CLUSTERED, 0)
            )
    return found


def _share(bad: float, of: float) -> tuple[float, float]:
    """The share, and what it surely is not more than."""
    share = bad / of
    return share, share + 3 * math.sqrt(share / of) + 1 / of


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen since the look before: ``seconds``, exact requests and errors, and latency samples by bucket."""

    seconds: float
    requests: float
    errors: float
    latencies: tuple[tuple[int, int], ...] = ()

    def counts(self, test: Test) -> tuple[float, float]:
        """Bad ones, and of how many."""
        if test.bucket is None:
            return min(self.errors, self.requests), self.requests
        bad = sum(n for bucket, n in self.latencies if bucket >= test.bucket)
        return float(bad), float(sum(n for _, n in self.latencies))

    def plus(self, later: Look) -> Look:
        """The two together."""
        return Look(
            self.seconds + later.seconds,
            self.requests + later.requests,
            self.errors + later.errors,
            latency.add(self.latencies, later.latencies),
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen so far. ``begun`` is the log wealth of each test's bets ``[C, F]``, ``restarted`` as in `evidence`.

    ``sums`` are bad ones and all of each test ``[C, 2]``; ``lately`` those of the last looks.
    """

    t: float = 0.0
    restarts: int = 0
    begun: Array = field(default_factory=lambda: np.zeros((0, 12)))
    restarted: Array = field(default_factory=lambda: np.zeros((0, 12)))
    sums: Array = field(default_factory=lambda: np.zeros((0, 2)))
    lately: tuple[tuple[tuple[float, float], ...], ...] = ()

    def to_data(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "t": self.t,
            "restarts": self.restarts,
            "begun": self.begun.tolist(),
            "restarted": [[None if x == -math.inf else x for x in row] for row in self.restarted.tolist()],
            "sums": self.sums.tolist(),
            "lately": [[list(one) for one in look] for look in self.lately],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """From `to_data`. Raises KeyError, TypeError or ValueError for anything else."""
        restarted = [[-math.inf if x is None else float(x) for x in row] for row in data["restarted"]]
        return cls(
            float(data["t"]),
            int(data["restarts"]),
            np.array(data["begun"], dtype=float).reshape(-1, 12),
            np.array(restarted, dtype=float).reshape(-1, 12),
            np.array(data["sums"], dtype=float).reshape(-1, 2),
            tuple(tuple((float(bad), float(of)) for bad, of in look) for look in data["lately"]),
        )


def begin(profile: Profile) -> Evidence:
    """Before the first look."""
    n = len(profile.tests)
    return Evidence(begun=np.zeros((n, 12)), restarted=np.full((n, 12), -math.inf), sums=np.zeros((n, 2)))


def advance(profile: Profile, seen: Evidence, look: Look, planned: float) -> Evidence:
    """Take in one look. ``planned``: seconds that the whole watch takes."""
    if not profile.tests:
        return seen
    counts = tuple(look.counts(test) for test in profile.tests)
    x, n = (np.array(column, dtype=float) for column in zip(*counts, strict=True))
    limit = np.array([test.limit for test in profile.tests])
    burst = np.array([test.burst for test in profile.tests])
    begun = seen.begun + e.growth_alone(x, n, limit) / burst[:, None]
    t, restarts, restarted = seen.t + max(0.0, look.seconds), seen.restarts, seen.restarted
    due = int(t // e.RESTART)
    if due > restarts:
        # However many were due: one begins now, with the share of all of them.
        shares = sum(e.restart_share(k, _planned(planned)) for k in range(restarts + 1, due + 1))
        restarted, restarts = np.logaddexp(restarted, math.log(shares) - begun), due
    lately = (*seen.lately, counts)[-LATELY:] if any(of for _, of in counts) else seen.lately
    return Evidence(t, restarts, begun, restarted, seen.sums + np.stack([x, n], axis=1), lately)


def _planned(seconds: float) -> int:
    return max(1, round(seconds / e.RESTART))


def judge(profile: Profile, seen: Evidence, planned: float) -> tuple[Verdict, str]:
    """The verdict, and the metric that it names: ``errors`` or ``latency``. It never passes: a watch goes on to its end."""
    if not profile.tests:
        return Verdict(Finding.NO_DATA, (profile.why_not or "nothing is known of the release before",)), ""
    shares = [e.restart_share(k, _planned(planned)) for k in range(1, seen.restarts + 1)]
    logs = e.with_restarts(seen.begun, seen.restarted, max(0.0, 1.0 - sum(shares)))
    weighted = logs + np.log([test.weight for test in profile.tests])
    total, decides = float(np.logaddexp.reduce(weighted)), int(np.argmax(weighted))
    test = profile.tests[decides]
    if total < math.log(1 / ALARM) or not _goes_on(test, seen, decides):
        return Verdict(Finding.INCONCLUSIVE, (_told(profile, seen, decides),)), test.metric
    return Verdict(Finding.FAIL, (_told(profile, seen, decides) + ": fail",)), test.metric


def _goes_on(test: Test, seen: Evidence, i: int) -> bool:
    """Whether the harm is there now: enough of it in the last looks, and also without the worst of them."""
    lately = sorted((look[i] for look in seen.lately), key=lambda one: one[0])
    if len(lately) < LATELY or sum(bad for bad, _ in lately) < FEWEST:
        return False
    bad, of = (sum(look[k] for look in lately[:-WORST]) for k in (0, 1))
    # P(at least so many of so many bad ones at the limit): the incomplete beta function.
    return 0 < bad <= of and float(betainc(bad, of - bad + 1, test.limit)) < CHANCE


def _told(profile: Profile, seen: Evidence, i: int) -> str:
    test = profile.tests[i]
    bad, of = (float(x) for x in seen.sums[i])
    lately_bad, lately_of = (sum(look[i][k] for look in seen.lately) for k in (0, 1))
    what = "errors" if test.bucket is None else f"requests {test.name}:"
    share = percent(lately_bad / lately_of) if lately_of else "none"
    overall = f" ({percent(bad / of)} since the promotion)" if of else ""
    return f"{what} {share} lately{overall} against {percent(test.profile)} before; limit {percent(test.limit)}"


def harm(profile: Profile, metric: str, look: Look) -> bool | None:
    """Whether what was seen since a remedy is beyond the limits of a metric; None: too little was seen."""
    known = False
    for test in profile.tests:
        if test.metric != metric:
            continue
        bad, of = look.counts(test)
        if of < ENOUGH:
            continue
        known = True
        if bad > test.limit * of:
            return True
    return False if known else None
