"""The accounting of ``bench.year``: from single requests to incidents, recovery times and the figures of a year. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

YEAR: Final = 365.25 * 86_400
Times = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Requests:
    """All requests of a way in order of their due times: ``start`` in epoch seconds, ``failed``, and ``slow`` if not failed."""

    start: Times
    failed: Flags
    slow: Flags

    @property
    def bad(self) -> Flags:
        """Failed or slow."""
        return self.failed | self.slow

    def between(self, begins: float, ends: float) -> Requests:
        """Those that were due from ``begins`` to before ``ends``."""
        first, last = np.searchsorted(self.start, (begins, ends))
        return Requests(self.start[first:last], self.failed[first:last], self.slow[first:last])

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as an incident that users see.

    A second is bad when at least ``share`` of the requests due in it were bad. Bad seconds with less than ``apart``
    seconds between them are one stretch, and a stretch with at least ``least`` bad requests is an incident.
    """

    share: float = 0.02
    apart: float = 5.0
    least: int = 5


@dataclass(frozen=True, slots=True)
class Incident:
    """From the first bad request to the last bad one, epoch seconds, with those between them."""

    begins: float
    ends: float
    requests: int
    bad: int

    @property
    def recovery(self) -> float:
        """Seconds from the first bad request to the last."""
        return self.ends - self.begins


def incidents(requests: Requests, rule: Rule) -> tuple[Incident, ...]:
    """In order of time; none overlaps another."""
    if not len(requests):
        return ()
    origin = float(requests.start[0])
    seconds = (requests.start - origin).astype(np.int64)
    sent = np.bincount(seconds)
    bad = np.bincount(seconds[requests.bad], minlength=len(sent))
    wrong = np.flatnonzero((bad > 0) & (bad >= rule.share * sent))
    stretches: list[tuple[int, int]] = []
    for second in wrong.tolist():
        if stretches and second - stretches[-1][1] - 1 < rule.apart:
            stretches[-1] = (stretches[-1][0], second)
        else:
            stretches.append((second, second))
    found = []
    for first, last in stretches:
        low, high = np.searchsorted(seconds, (first, last + 1))
        those = low + np.flatnonzero(requests.bad[low:high])
        if len(those) >= rule.least:
            begins, ends = (float(requests.start[at]) for at in (those[0], those[-1]))
            found.append(Incident(begins, ends, int(those[-1] - those[0]) + 1, len(those)))
    return tuple(found)


@dataclass(slots=True)
class Told:
    """What became of one turn. Times are epoch seconds, 0: never. ``healed_by``: who took a bad release back."""

    number: int
    fault: str
    kill: str
    plain: bool
    begins: float
    deployed: float = 0.0
    ends: float = 0.0
    ok: bool = False
    noticed: float = 0.0
    acted: float = 0.0
    healed_by: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """The operator: reacts ``measured`` seconds after a page in the run, and would after ``real`` in life."""

    measured: float
    real: float

    @property
    def longer(self) -> float:
        return max(0.0, self.real - self.measured)


@dataclass(frozen=True, slots=True)
class Account:
    """The figures of one way. ``bad`` is failed or slow; shares are 0…1, times seconds."""

    sent: int
    failed: int
    slow: int
    seconds: float
    deployments: int
    bad_deployments: int
    incidents: tuple[Incident, ...]
    by_cause: dict[str, int]
    """Incidents by what happened in the turn in which they began: a fault, a kill, or ``good`` for none of it."""
    lost_to_switches: int
    slow_in_switches: int
    repairs: int
    waiting: float
    """Bad requests that the waits for the operator would have had besides, had they lasted as long as in life."""
    waits: tuple[bool, ...]
    """For each incident whether it was still going on when the operator acted."""
    harmed: dict[int, tuple[int, float]] = field(default_factory=dict)
    """For each turn with a bad release: bad requests, and seconds from the first to the last of them."""

    @property
    def bad(self) -> int:
        return self.failed + self.slow

    @property
    def good(self) -> int:
        return self.sent - self.bad

    @property
    def as_run(self) -> float:
        """The share of good requests in the run, in which a year's deployments follow each other within an hour."""
        return self.good / self.sent if self.sent else 1.0

    def of_year(self, per_year: float, rate: float, *, person: bool = False) -> float:
        """The share of good requests in a year with ``per_year`` such deployments under a load of ``rate``.

        Bad requests of the run a deployment, times deployments of a year, of all requests of a year. ``person``: with
        the operator who needs as long as in life.
        """
        bad = self.bad + (self.waiting if person else 0.0)
        return 1.0 - bad / max(1, self.deployments) * per_year / (rate * YEAR)

    def recoveries(self, longer: float = 0.0) -> list[float]:
        """Seconds of each incident; those that waited for the operator take ``longer``."""
        return [
            one.recovery + (longer if waited else 0.0) for one, waited in zip(self.incidents, self.waits, strict=True)
        ]


def account(requests: Requests, told: Sequence[Told], rule: Rule, person: Person, rate: float) -> Account:
    """Add it all up. ``told`` in order of time, each turn ending where the next begins or before."""
    found: list[Incident] = []
    causes: dict[str, int] = {}
    lost = slow = 0
    waiting = 0.0
    harmed: dict[int, tuple[int, float]] = {}
    acts = []
    for turn in told:
        within = requests.between(turn.begins, turn.ends)
        # Each turn by itself: in a year days lie between two deployments, so no incident goes on from one to the next.
        its = incidents(within, rule)
        found += its
        if its:
            cause = turn.fault or turn.kill or "good"
            causes[cause] = causes.get(cause, 0) + len(its)
        if turn.plain:
            lost += int(within.failed.sum())
            slow += int(within.slow.sum())
        if turn.fault:
            times = within.start[within.bad]
            harmed[turn.number] = (len(times), float(times[-1] - times[0]) if len(times) else 0.0)
        if turn.acted:
            acts.append(turn.acted)
            # What failed while the operator was on the way goes on failing at the same rate.
            before = requests.between(turn.acted - person.measured, turn.acted)
            share = float(before.bad.mean()) if len(before) else 0.0
            waiting += share * rate * person.longer
    waits = tuple(any(one.begins <= act <= one.ends + 1 for act in acts) for one in found)
    first, last = (float(requests.start[at]) for at in (0, -1)) if len(requests) else (0.0, 0.0)
    return Account(
        sent=len(requests),
        failed=int(requests.failed.sum()),
        slow=int(requests.slow.sum()),
        seconds=last - first,
        deployments=len(told),
        bad_deployments=sum(bool(turn.fault) for turn in told),
        incidents=tuple(found),
        by_cause=causes,
        lost_to_switches=lost,
        slow_in_switches=slow,
        repairs=len(acts),
        waiting=waiting,
        waits=waits,
        harmed=harmed,
    )
