"""What happens in the year of ``bench.year``: deployments, what is wrong with some, and what is killed. One seed, one year."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.processes import BenchFailed


class Fault(enum.StrEnum):
    """What is wrong with a release; `bench.year_app` has it.

    A release that crashes never listens. ``errors``: a share of requests fails from the first one on. ``slow``: a share
    takes a second more. ``leak``: gets slower and is killed at its limit of memory. ``schema``: orders need a column that
    no database has. ``late``: errors that begin so many seconds after the start.
    """

    NONE = ""
    CRASH = "crash"
    ERRORS = "errors"
    SLOW = "slow"
    LEAK = "leak"
    SCHEMA = "schema"
    LATE = "late"


class Kill(enum.StrEnum):
    """What gets SIGKILL: a live replica while nothing is deployed, or whatever deploys, in the middle of it."""

    NOTHING = ""
    REPLICA = "replica"
    CONTROL = "control plane"


BAD: Final = tuple(fault for fault in Fault if fault)
"""In the order in which a year with few bad releases takes them."""


@dataclass(frozen=True, slots=True)
class Release:
    """``share`` of requests that the fault hits, ``after`` so many seconds from a replica's start."""

    number: int
    fault: Fault = Fault.NONE
    share: float = 0.0
    after: float = 0.0

    @property
    def env(self) -> dict[str, str]:
        """Its variables, for `bench.year_app`."""
        facts = {"VERSION": f"v{self.number}"}
        if self.fault:
            facts |= {"FAULT": self.fault.value, "FAULT_SHARE": f"{self.share:g}", "FAULT_AFTER": f"{self.after:g}"}
        return facts


@dataclass(frozen=True, slots=True)
class Turn:
    """One deployment, and what is killed: seconds ``at`` after its beginning, of a replica after its end."""

    release: Release
    kill: Kill = Kill.NOTHING
    at: float = 0.0

    @property
    def plain(self) -> bool:
        """A good release that nothing befalls: whatever fails in its turn is the way's own doing."""
        return not self.release.fault and not self.kill


def year(deployments: int, bad: float, kills: float, seed: int) -> tuple[Turn, ...]:
    """So many turns, the share ``bad`` of them with bad releases, and of the good ones the shares ``kills`` with each kill.

    Every kind of fault is there as often as any other, give or take one. The first turn is good, so that there is always
    a good release to return to. Raises BenchFailed for what does not fit.
    """
    if deployments < 2 or not 0 <= bad < 1 or not 0 <= kills < 0.5:
        raise BenchFailed("a year has 2 deployments or more, and some of them are good")
    draw = random.Random(seed)
    count = min(round(deployments * bad), deployments - 1)
    faults = _shuffled([BAD[k % len(BAD)] for k in range(count)], draw)
    places = sorted(draw.sample(range(1, deployments), count))
    good = [number for number in range(deployments) if number not in places]
    each = min(round(deployments * kills), len(good) // 2)
    killed = draw.sample(good, 2 * each)
    kinds = {number: Kill.REPLICA if k % 2 else Kill.CONTROL for k, number in enumerate(killed)}
    of = dict(zip(places, faults, strict=True))
    turns = []
    for number in range(deployments):
        release = _release(number + 1, of.get(number, Fault.NONE), draw)
        kill = kinds.get(number, Kill.NOTHING)
        at = draw.uniform(0.3, 1.5) if kill is Kill.CONTROL else draw.uniform(0.5, 1.5)
        turns.append(Turn(release, kill, round(at, 2) if kill else 0.0))
    return tuple(turns)


def _release(number: int, fault: Fault, draw: random.Random) -> Release:
    if fault is Fault.ERRORS:
        return Release(number, fault, draw.choice((0.1, 0.3, 1.0)))
    if fault is Fault.SLOW:
        return Release(number, fault, draw.choice((0.3, 1.0)))
    if fault is Fault.LATE:
        return Release(number, fault, 0.3, round(draw.uniform(15, 30), 1))
    return Release(number, fault, 1.0 if fault else 0.0)


def _shuffled(faults: Sequence[Fault], draw: random.Random) -> list[Fault]:
    found = list(faults)
    draw.shuffle(found)
    return found
