"""Judges one ramp look by look: answers made with its variant against those made with the rest's, over all pools.

What is written down is the evidence together with the reading up to which it was taken, so that a server that comes back
reads on from there. What was counted while a rollout moved the service's traffic is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.explain import STALE, Compared, Situation, explain
from crossfade.domain.analysis.judge import LEAST_EVENTS, Evidence, Judge
from crossfade.domain.analysis.sample import Row
from crossfade.domain.analysis.verdict import Finding, Verdict, worst
from crossfade.domain.flags.arms import arm, event_sources, facts, name_of
from crossfade.domain.flags.ramp import Plan, Ramp
from crossfade.domain.signal import Reading, VariantFacts
from crossfade.domain.values import EVERYTHING, show_duration

KEEP_EVERY: Final = 1.0
"""Seconds between writings of the evidence; what was seen since the last one is read again after a crash."""

EXPLAIN_EVERY: Final = 1.0
"""Seconds between verdicts in words; one that fails is put into words at once."""

_READING = TypeAdapter(Reading)
_FACTS = TypeAdapter(dict[str, VariantFacts])


class RampJudging:
    """The judge of one ramp, used by one thread. ``kept`` is what an earlier one of it has written down."""

    def __init__(self, plan: Plan, kept: Mapping[str, Any] | None) -> None:
        self._plan = plan
        analysis = plan.analysis
        planned = sum(max(step.duration, analysis.deadline) for step in plan.steps)
        self._judge = Judge(analysis, horizon=planned)
        self._sources = event_sources(analysis)
        self._evidence = self._judge.begin()
        self._began = 0.0
        self._last: Reading | None = None
        self.fence = 0
        self.totals: dict[str, VariantFacts] = {plan.variant: VariantFacts(), plan.rest: VariantFacts()}
        self.compared: tuple[Mapping[str, Any], ...] = ()
        self.end: Reading | None = None
        if kept is not None:
            self._evidence = Evidence.from_data(kept["evidence"])
            self._began, self.fence = float(kept["began"]), int(kept["fence"])
            self._last = _READING.validate_python(kept["reading"]) if kept["reading"] is not None else None
            self.end = _READING.validate_python(kept["end"]) if kept["end"] is not None else None
            self.totals = _FACTS.validate_python(kept["totals"])
            self.compared = tuple(kept["compared"])
        self._verdict: Verdict | None = None
        self._explained = self._kept = 0.0

    def mark(self, reading: Reading, fence: int) -> None:
        """A step begins: what may pass has to pass anew, and what was counted before is not looked at any more."""
        self._began = self._began or reading.at
        self._evidence = self._evidence.next_step()
        self._last, self._verdict, self.fence = self._trimmed(reading), None, fence

    @property
    def marked(self) -> bool:
        """Whether a step has begun; without one there is nothing to judge from."""
        return self._last is not None

    def look(self, state: Ramp, reading: Reading) -> Verdict:
        """The verdict at ``reading``, once a step has begun."""
        assert self._last is not None  # the step's mark was done
        alone = state.weight == EVERYTHING
        since, plan = reading.since(self._last), self._plan
        seen = {name: facts(since, plan.flag, {name}) for name in (plan.rest, plan.variant)}
        baseline, candidate = (arm(seen[name], self._sources) for name in (plan.rest, plan.variant))
        t = max(reading.at - self._began, self._evidence.t + 1e-6)
        self._evidence, track = self._judge.advance(self._evidence, Block.of([Row(t, baseline, candidate)]), alone)
        self._last = self._trimmed(reading)
        self.totals = {name: self.totals[name].plus(new) for name, new in seen.items()}
        failed, deadline = bool(track.fails[-1]), plan.analysis.deadline
        final = deadline > 0 and reading.at - state.entered >= deadline
        if self._verdict is None or failed or final or reading.at - self._explained >= EXPLAIN_EVERY:
            # No share is given: whom earlier rules serve, or who never asks for the flag, no weight knows.
            verdict, compared = explain(self._judge, self._evidence, track, Situation(final, alone))
            self._verdict, self._explained = self._with_data(verdict, alone), reading.at
            self.compared = tuple(_named(one, plan) for one in compared)
        return self._verdict

    def _with_data(self, verdict: Verdict, alone: bool) -> Verdict:
        """A policy that requires nothing passes by itself: not without answers that tell their variants."""
        nb, _, nc, _ = self._evidence.in_step
        silent = self._evidence.t - self._evidence.last_candidate
        name = name_of(self._plan.flag, self._plan.variant)
        if nc < LEAST_EVENTS:
            why = f"{nc:.0f} answers told {name} so far, at least {LEAST_EVENTS} are needed"
        elif not alone and not nb:
            why = f"no answer told {name_of(self._plan.flag, self._plan.rest)}"
        elif silent > STALE:
            why = f"no answer has told {name} for {show_duration(silent)}"
        else:
            return verdict
        finding = worst((verdict.finding, Finding.NO_DATA))
        return Verdict(finding, verdict.reasons if finding is verdict.finding is not Finding.NO_DATA else (why,))

    # --- what is kept

    def due(self, now: float) -> bool:
        """Whether the evidence is to be written down again."""
        return now - self._kept >= KEEP_EVERY

    def to_data(self, now: float) -> dict[str, Any]:
        """As JSON; `RampJudging` goes on from it."""
        self._kept = now
        return {
            "evidence": self._evidence.to_data(),
            "began": self._began,
            "fence": self.fence,
            "reading": _READING.dump_python(self._last, mode="json") if self._last is not None else None,
            "end": _READING.dump_python(self.end, mode="json") if self.end is not None else None,
            "totals": _FACTS.dump_python(self.totals, mode="json"),
            "compared": list(self.compared),
        }

    def counted(self) -> dict[str, Any]:
        """What clients of each variant have seen in the time that was judged, as data."""
        return {name: told_of(self.totals[name]) for name in (self._plan.variant, self._plan.rest)}

    def after(self, reading: Reading) -> dict[str, Any]:
        """What they have seen since the end."""
        since = reading.since(self.end)
        return {name: told_of(facts(since, self._plan.flag, {name})) for name in (self._plan.variant, self._plan.rest)}

    def _trimmed(self, reading: Reading) -> Reading:
        """The part of a reading that a ramp needs of it."""
        names = {name_of(self._plan.flag, name) for name in (self._plan.variant, self._plan.rest)}
        told = {pool: {n: f for n, f in counted.items() if n in names} for pool, counted in reading.variants.items()}
        return Reading(reading.at, reading.segment, {}, variants=told)


def told_of(counted: VariantFacts) -> dict[str, Any]:
    """Answers that were made with a variant, as data: counts, a share 0…1, latencies in milliseconds, events by name."""
    p50, p99 = (counted.latencies.quantile(q) for q in (0.5, 0.99))
    return {
        "requests": counted.requests,
        "failed": counted.errors,
        "share": round(counted.errors / counted.requests, 6) if counted.requests else 0.0,
        "p50_ms": round(p50 * 1000, 3) if p50 is not None else None,
        "p99_ms": round(p99 * 1000, 3) if p99 is not None else None,
        "events": {name: {"n": m.n, "sum": m.sum} for name, m in sorted(counted.events.items())},
    }


def _named(one: Compared, plan: Plan) -> dict[str, Any]:
    """A metric as it stands; its arms are variants here."""
    return {**one.to_data(), "arms": {"candidate": plan.variant, "baseline": plan.rest}}
