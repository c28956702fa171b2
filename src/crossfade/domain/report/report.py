"""The report itself: from what is known of each environment to one document, from which all its forms are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.domain.report.availability import Day, availability, objectives, total
from crossfade.domain.report.definitions import FIGURES, NOTES
from crossfade.domain.report.deployments import Deployment, Failure, failures
from crossfade.domain.report.dora import Dora, measure
from crossfade.domain.report.figure import Spread, rounded
from crossfade.domain.report.incidents import (
    Incident,
    Piece,
    Source,
    concluded,
    merge,
    of_failure,
    of_kills,
    of_stretch,
    tell,
)
from crossfade.domain.report.span import DAY, Span, day_of, name_of
from crossfade.domain.slo import Objective
from crossfade.domain.values import EnvKey

MOST_BURNS: Final = 20
"""Environments whose budgets are told day by day; of more, nobody could read the plot."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One rehearsal. ``outcome``: passed, failed, aborted; empty while it is not over. Durations in seconds; None: not

    measured. ``harmed``: requests.
    """

    id: int
    key: EnvKey
    name: str
    began: float
    ended: float | None
    outcome: str
    sentence: str = ""
    fault: str = ""
    detection: float | None = None
    decision: float | None = None
    switch: float | None = None
    recovery: float | None = None
    harmed: float | None = None

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


@dataclass(frozen=True, slots=True)
class Proof:
    """That a release of the window can be restored, or cannot."""

    id: int
    key: EnvKey
    release: str
    began: float
    ok: bool
    took: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one environment: of the span and, of rollouts, a little before and after it.

    ``pieces`` are pages and watches; what rollouts and the edge tell is found here. ``gone``: there is no such environment now.
    """

    key: EnvKey
    days: tuple[Day, ...] = ()
    policy: tuple[Objective, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    pieces: tuple[Piece, ...] = ()
    drills: tuple[Drill, ...] = ()
    proofs: tuple[Proof, ...] = ()
    overdue: tuple[str, ...] = ()
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What follows from the facts of some environments in a span."""

    span: Span
    now: float
    places: Sequence[Facts]
    days: Sequence[Day] = field(default=())
    failed: Sequence[Failure] = field(default=())
    incidents: Sequence[Incident] = field(default=())
    since: float | None = None
    """The first day of the span of which anything is known: before it there was nothing to deploy to."""

    @classmethod
    def of(cls, places: Sequence[Facts], span: Span, now: float, before: Sequence[Facts] = ()) -> Findings:
        """``places``: each environment once. ``before``: the same in the span before, which says what there was already."""
        until = span.until(now)
        days = [day for place in places for day in place.days if span.has(day.at) and day.at < until]
        deployments = [one for place in places for one in place.deployments]
        failed = failures(deployments)
        known = [day.at for place in (*before, *places) for day in place.days if day.known]
        known += [day_of(one.began) for place in (*before, *places) for one in place.deployments]
        since = max(span.begins, min(known, default=span.begins))
        return cls(span, now, places, days, failed, _incidents(places, failed, span), since)

    def seconds(self) -> float:
        """Of all environments together, as far as the span is over."""
        return (self.span.until(self.now) - self.span.begins) * len(self.places)

    def deployments(self) -> list[Deployment]:
        """Those that began in the span, of all environments."""
        return [one for place in self.places for one in place.deployments if self.span.has(one.began)]

    def drills(self) -> list[Drill]:
        return [one for place in self.places for one in place.drills if self.span.has(one.began)]

    def dora(self) -> Dora:
        every = [one for place in self.places for one in place.deployments]
        return measure(every, self.failed, self.span, self.now, self.since)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Each figure of `definitions.FIGURES`: value, n and, of durations, p90."""
        dora = self.dora().to_data()
        edge, outside = (availability(total(days), self.seconds()) for days in self._counted())
        real = [one for one in self.incidents if not one.drill]
        known = len({day.at for day in self.days if day.known} | {day_of(one.begins) for one in real})
        receipts = self.receipts()
        drilled = Spread.of(d.recovery for d in self.drills() if d.passed and d.recovery is not None).to_data()
        return {
            "edge": {"value": edge["good"], "n": edge["n"], "covered": edge["covered"]},
            "outside": {"value": outside["good"], "n": outside["n"], "covered": outside["covered"]},
            "incidents": {"value": len(real) if known else None, "n": known},
            "frequency": _frequency(dora["frequency"]),
            "lead_time": _of(dora["lead_time"]),
            "fail_rate": {"value": dora["fail_rate"]["share"], "n": dora["fail_rate"]["n"]},
            "fail_rate_exposed": {"value": dora["fail_rate"]["exposed"]["share"], "n": dora["fail_rate"]["n"]},
            "recovery": _of(dora["recovery"]),
            "rework": {"value": dora["rework"]["share"], "n": dora["rework"]["n"]},
            "lost": {"value": receipts["lost"], "n": receipts["counted"]},
            "drill_recovery": _of(drilled),
        }

    def _counted(self) -> tuple[list[Any], list[Any]]:
        return [day.edge for day in self.days], [day.probe for day in self.days]

    def receipts(self) -> dict[str, Any]:
        """What all receipts say together; null where not one of them could count."""
        mine = self.deployments()
        ended = [one for one in mine if one.ended is not None]
        counted = [one for one in ended if one.lost is not None]
        return {
            "rollouts": len(mine),
            "promoted": sum(one.promoted and not one.rollback for one in ended),
            "went_back": sum(not one.promoted for one in ended),
            "rollbacks": sum(one.promoted and one.rollback for one in ended),
            "open": len(mine) - len(ended),
            "counted": len(counted),
            "served": sum(one.served or 0 for one in counted) if counted else None,
            "lost": sum(one.lost or 0 for one in counted) if counted else None,
        }


def build(places: Sequence[Facts], before: Sequence[Facts], span: Span, now: float) -> dict[str, Any]:
    """The document: JSON-ready, times in epoch seconds, durations in seconds, shares 0…1, unknown null.

    ``before`` are the same environments in the span before, which it is compared with.
    """
    found, earlier = Findings.of(places, span, now, before), Findings.of(before, span.previous, now)
    of = {place.key: place for place in before}
    burn = len(places) <= MOST_BURNS
    return {
        "title": span.title,
        "month": span.month,
        "begins": span.begins,
        "ends": span.ends,
        "until": span.until(now),
        "whole": span.until(now) == span.ends,
        "zone": "UTC",
        "made": now,
        "compared_with": span.previous.title,
        "figures": _compared(found.figures(), earlier.figures()),
        "dora": found.dora().to_data(),
        "days": _days(found),
        "environments": [
            _environment(Findings.of([place], span, now, [of[place.key]] if place.key in of else []), place, burn)
            for place in places
        ],
        "incidents": tell(found.incidents, now),
        "failures": _failures(found),
        "receipts": found.receipts(),
        "drills": _drills(found),
        "proofs": _proofs(found),
        "notes": list(NOTES),
    }


def _frequency(found: Mapping[str, Any]) -> dict[str, Any]:
    if found["per_day"] is None:
        return {"value": None, "n": found["n"]}
    days = f"{found['days']:.3g} day{'' if found['days'] == 1 else 's'}"
    return {"value": found["per_day"], "n": found["n"], "of": f"deployments in {days}"}


def _of(spread: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": spread["median"], "n": spread["n"], "p90": spread["p90"]}


def _compared(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, definition in FIGURES.items():
        one, other = now[name], before[name]
        change = one["value"] - other["value"] if None not in (one["value"], other["value"]) else None
        told = {"figure": name, "name": definition.name, "unit": definition.unit, "of": definition.of, **one}
        better = None if not change or not definition.good else (change > 0) == (definition.good > 0)
        rows.append(
            {**told, "before": other, "change": rounded(change, 8), "better": better, "definition": definition.says}
        )
    return rows


def _incidents(places: Sequence[Facts], failed: Sequence[Failure], span: Span) -> list[Incident]:
    # Of what harmed clients long after its promotion, the watch knows when that began.
    watched = {p.rollout for place in places for p in place.pieces if p.source is Source.WATCH}
    unwatched = (f for f in failed if not (f.deployment.promoted and f.deployment.id in watched))
    pieces: list[Piece] = [piece for failure in unwatched if (piece := of_failure(failure)) is not None]
    rollbacks, drills = [], []
    for place in places:
        pieces += place.pieces
        pieces += [of_stretch(place.key, one) for day in place.days for one in day.stretches]
        pieces += [kill for one in place.deployments if not one.drill for kill in of_kills(one)]
        rollbacks += [one for one in place.deployments if one.rollback and not one.drill]
        drills += [(d.id, d.key, d.began, d.ended if d.ended is not None else span.ends) for d in place.drills]
    merged = (one for one in merge(pieces) if span.has(one.begins))
    return [concluded(one, rollbacks, drills) for one in merged]


def _days(found: Findings) -> list[dict[str, Any]]:
    """Each day that has begun, of all environments together."""
    by_day: dict[int, list[Day]] = {}
    for day in found.days:
        by_day.setdefault(day.at, []).append(day)
    deployed = Counter(day_of(one.began) for one in found.deployments() if one.counts and one.promoted)
    failed = Counter(day_of(one.deployment.began) for one in found.failed)
    harmed = Counter(day_of(one.begins) for one in found.incidents if not one.drill)
    until, rows = found.span.until(found.now), []
    for at in found.span.days():
        if at >= until:
            break
        mine, seconds = by_day.get(at, []), min(DAY, until - at) * len(found.places)
        rows.append(
            {
                "day": name_of(at),
                "at": at,
                "edge": availability(total(day.edge for day in mine), seconds),
                "outside": availability(total(day.probe for day in mine), seconds),
                "deployments": deployed[at],
                "failed": failed[at],
                "incidents": harmed[at],
            }
        )
    return rows


def _environment(found: Findings, place: Facts, burn: bool) -> dict[str, Any]:
    seconds = found.seconds()
    days = sorted(found.days, key=lambda day: day.at)
    return {
        "service": place.key.service,
        "environment": place.key.environment,
        "gone": place.gone,
        "edge": availability(total(day.edge for day in days), seconds),
        "outside": availability(total(day.probe for day in days), seconds),
        "objectives": objectives(days, place.policy, seconds, burn=burn),
        "dora": found.dora().to_data(),
        "incidents": found.figures()["incidents"]["value"],
        "receipts": found.receipts(),
    }


def _failures(found: Findings) -> list[dict[str, Any]]:
    """Deployments of the span that have failed, newest first."""
    rows = []
    for failure in reversed(found.failed):
        one = failure.deployment
        if not found.span.has(one.began):
            continue
        rows.append(
            {
                "rollout": one.id,
                "service": one.key.service,
                "environment": one.key.environment,
                "release": one.release,
                "at": failure.at,
                "why": failure.why,
                "automatic": failure.automatic,
                "exposed": failure.exposed,
                "share": rounded(1.0 if one.promoted else one.share if failure.exposed else 0.0, 4),
                "requests": one.requests,
                "failed": one.failed,
                "recovery": rounded(failure.recovery),
            }
        )
    return rows


def _drills(found: Findings) -> dict[str, Any]:
    mine = sorted(found.drills(), key=lambda one: (one.began, one.id), reverse=True)
    passed = [one for one in mine if one.passed]

    def spread(name: str) -> dict[str, Any]:
        return Spread.of(v for one in passed if (v := getattr(one, name)) is not None).to_data()

    harmed = [one.harmed for one in mine if one.harmed is not None]
    return {
        "n": len(mine),
        "passed": len(passed),
        "failed": sum(one.outcome == "failed" for one in mine),
        **{name: spread(name) for name in ("detection", "decision", "switch", "recovery")},
        "harmed": rounded(sum(harmed), 0) if harmed else None,
        "overdue": [said for place in found.places for said in place.overdue],
        "list": [
            {
                "id": one.id,
                "service": one.key.service,
                "environment": one.key.environment,
                "name": one.name,
                "fault": one.fault or None,
                "began": one.began,
                "ended": one.ended,
                "outcome": one.outcome or None,
                "sentence": one.sentence,
                "detection": one.detection,
                "decision": one.decision,
                "switch": one.switch,
                "recovery": one.recovery,
                "harmed": one.harmed,
            }
            for one in mine
        ],
    }


def _proofs(found: Findings) -> dict[str, Any]:
    mine = [one for place in found.places for one in place.proofs if found.span.has(one.began)]
    last = {(one.key, one.release): one for one in sorted(mine, key=lambda one: (one.began, one.id))}
    return {
        "n": len(mine),
        "failed": sum(not one.ok for one in mine),
        "releases": len(last),
        "took": Spread.of(one.took for one in mine if one.ok and one.took is not None).to_data(),
        "unproven": [f"{one.release} of {one.key}" for one in last.values() if not one.ok],
    }
