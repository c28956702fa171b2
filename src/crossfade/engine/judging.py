"""Judges one rollout look by look: turns readings into what each arm did, and keeps the evidence over restarts.

What is written down is the evidence together with the readings up to which it was taken. A server that comes back
reads on from there: what happened in between is one long look, and nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import TypeAdapter

from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.explain import Compared, Situation, explain
from crossfade.domain.analysis.judge import Evidence, Judge
from crossfade.domain.analysis.plot import sparkline
from crossfade.domain.analysis.policy import EDGE, Per, SourceKind
from crossfade.domain.analysis.sample import Arm, History, Moments, Row
from crossfade.domain.analysis.verdict import Verdict, worst
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.release import BlueGreen
from crossfade.domain.rollout import Rollout, mark
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.traffic import CONTROL, Counters, Pool
from crossfade.domain.values import EVERYTHING
from crossfade.engine.elsewhere import Elsewhere
from crossfade.ports import Parts

KEEP_EVERY: Final = 1.0
"""Seconds between writings of the evidence; what was seen since the last one is read again after a crash."""

EXPLAIN_EVERY: Final = 1.0
"""Seconds between verdicts in words; one that fails is put into words at once."""

_READING = TypeAdapter(Reading)
_HISTORY = TypeAdapter(History)
_MOMENTS = TypeAdapter(dict[str, dict[str, Moments]])


class Judging:
    """The judge of one rollout, used by one thread. Made when traffic first moves, or when a server comes back."""

    def __init__(self, parts: Parts, state: Rollout) -> None:
        self._parts = parts
        self._id = state.id
        self._plan = state.plan
        analysis = state.plan.analysis
        kept = parts.store.evidence(state.id)
        if kept is None:
            self._history = self._past()
            self._mark = ""
            self._kills = len(state.killed)
            self._last: Reading | None = None
            self._posted: dict[str, dict[str, Moments]] = {}
            totals: Mapping[str, Any] = {}
        else:
            self._history = _HISTORY.validate_python(kept["history"])
            self._mark = str(kept["mark"])
            self._kills = int(kept.get("kills", 0))
            self._last = _READING.validate_python(kept["reading"])
            self._posted = _MOMENTS.validate_python(kept["posted"])
            totals = kept["totals"]
        self._judge = Judge(analysis, self._history, _planned(state))
        self._evidence = Evidence.from_data(kept["evidence"]) if kept is not None else self._judge.begin()
        self._began = float(kept["began"]) if kept is not None else 0.0
        used = sorted({metric.signal for metric in analysis.metrics} - {EDGE})
        self._sources = tuple(analysis.source(signal) for signal in used)
        asked = [source for source in self._sources if source.kind is not SourceKind.EVENTS]
        self._elsewhere = Elsewhere(parts, asked, self._labels(), totals)
        self._explained = 0.0
        self._kept = 0.0
        self._verdict: Verdict | None = None
        self._compared: tuple[Compared, ...] = ()

    @property
    def history(self) -> History:
        """What the baseline was like before the rollout."""
        return self._history

    def close(self) -> None:
        """Stop asking."""
        self._elsewhere.close()

    def look(self, state: Rollout, reading: Reading, began: Reading) -> Verdict:
        """The verdict at ``reading``. ``began`` is the reading just before the present step moved traffic."""
        if len(state.killed) != self._kills:
            # What was seen belongs to the flag that is killed: the candidate without it is judged from here on.
            self._kills, self._last, self._evidence = len(state.killed), None, self._judge.begin()
            self._verdict = None
        if self._last is None:
            self._last, self._began = began, began.at
            self._posted = self._tallies(began)
        if mark(state) != self._mark:
            self._mark = mark(state)
            self._evidence = self._evidence.next_step()
        alone = state.weight == EVERYTHING
        row = self._row(reading)
        final = state.plan.analysis.deadline > 0 and reading.at - state.entered >= state.plan.analysis.deadline
        self._evidence, track = self._judge.advance(self._evidence, Block.of([row]), alone)
        failed = bool(track.fails[-1])
        now = reading.at
        if self._verdict is None or failed or final or now - self._explained >= EXPLAIN_EVERY:
            situation = Situation(final, alone, self._share(state))
            self._verdict, self._compared = explain(self._judge, self._evidence, track, situation)
            self._explained = now
        if failed or now - self._kept >= KEEP_EVERY:
            self._keep(reading)
            self._kept = now
        return self._verdict

    def _share(self, state: Rollout) -> float:
        """The candidate's share of the requests of both arms, as the weights have it."""
        split = self._plan.split(state.weight)
        baseline = split.control.bp if self._plan.fresh else split.of(self._plan.slot.other).bp
        return state.weight.bp / max(1, state.weight.bp + baseline)

    # --- from readings to rows

    def _row(self, reading: Reading) -> Row:
        assert self._last is not None
        since = reading.since(self._last)
        slot = self._plan.slot
        candidate = _arm(since.slots.get(slot, Counters()), since.latencies.get(slot, Latencies()))
        if self._plan.fresh:
            baseline = _arm(since.control, since.control_latencies)
        else:
            baseline = _arm(since.slots.get(slot.other, Counters()), since.latencies.get(slot.other, Latencies()))
        found, missing = self._elsewhere.since_last()
        tallies = self._tallies(reading)
        arms = {}
        for name, arm in (("baseline", baseline), ("candidate", candidate)):
            own = found[name]
            means = {**own.means, **self._events(arm, tallies[name], self._posted.get(name, {}))}
            arms[name] = replace(arm, rates=own.rates, histograms={**own.histograms, **arm.histograms}, means=means)
        self._last, self._posted = reading, tallies
        t = max(reading.at - self._began, self._evidence.t + 1e-6)
        return self._comparable(Row(t, arms["baseline"], arms["candidate"], missing))

    def _comparable(self, row: Row) -> Row:
        """The row without histograms whose buckets differ between the arms, or from what they were before."""
        known = {name: tuple(seen.edges.tolist()) for name, seen in self._evidence.seen.histograms.items()}
        arms, missing = [row.baseline, row.candidate], dict(row.missing)
        for name in {name for arm in arms for name in arm.histograms}:
            edges = {arm.histograms[name].edges for arm in arms if name in arm.histograms}
            if name in known:
                edges.add(known[name])
            if len(edges) > 1:
                missing[name] = "its buckets are not the same in both arms and all the time"
                arms = [replace(a, histograms={k: h for k, h in a.histograms.items() if k != name}) for a in arms]
        return Row(row.t, arms[0], arms[1], missing)

    def _events(self, arm: Arm, now: Mapping[str, Moments], before: Mapping[str, Moments]) -> dict[str, Moments]:
        """The business events since the last look, for the signals that are used."""
        found = {}
        for source in self._sources:
            if source.kind is SourceKind.EVENTS:
                ways = (source.name, f"{source.name}{BY_EDGE}")
                posted, told = (now.get(way, NONE).since(before.get(way)) for way in ways)
                new = _plus(posted, told)
                n = new.n if source.per is Per.EVENT else float(arm.requests)
                found[source.name] = Moments(n, new.sum, new.sum_sq)
        return found

    def _tallies(self, reading: Reading) -> dict[str, dict[str, Moments]]:
        """All business events so far, by arm, and by name and how they were told (``checkout`` and ``checkout@edge``)."""
        plan = self._plan
        made: dict[str, dict[str, Moments]] = {"baseline": {}, "candidate": {}}
        wanted = {source.name for source in self._sources if source.kind is SourceKind.EVENTS}
        if not wanted:
            return made
        pools: dict[str, Pool] = {"baseline": CONTROL if plan.fresh else plan.slot.other, "candidate": plan.slot}
        for arm, pool in pools.items():
            told = reading.events.get(pool, {})
            made[arm] = {f"{name}{BY_EDGE}": moments for name, moments in told.items() if name in wanted}
        for (release, where, name), moments in self._parts.store.event_tallies(plan.key).items():
            arm = "candidate" if release == plan.candidate else "baseline" if release == plan.baseline else ""
            of_control = where == CONTROL.value
            if name in wanted and arm and (arm == "candidate" or of_control == plan.fresh):
                made[arm][name] = _plus(made[arm].get(name, NONE), moments)
        return made

    def _labels(self) -> dict[str, dict[str, str]]:
        plan = self._plan
        common = {"service": plan.key.service, "environment": plan.key.environment}
        slot = CONTROL.value if plan.fresh else plan.slot.other.value
        baseline = {"arm": "baseline", "slot": slot, "release": str(plan.baseline or "none")}
        candidate = {"arm": "candidate", "slot": plan.slot.value, "release": str(plan.candidate)}
        return {"baseline": {**common, **baseline}, "candidate": {**common, **candidate}}

    # --- what is kept

    def _course(self, metric: int) -> str:
        """How the evidence against the candidate has come about, as a line of characters; full where it fails."""
        path = self._evidence.trail[-COURSE:, 1 + 2 * metric]
        return sparkline(path.tolist(), 0.0, self._judge.line[0])

    def _past(self) -> History:
        """The baseline before the rollout, as far as it is known."""
        if self._plan.baseline is None:
            return History()
        try:
            return self._parts.signals.history(self._plan.key, self._plan.slot.other)
        except CrossfadeError:
            return History()

    def _keep(self, reading: Reading) -> None:
        self._parts.store.keep_evidence(
            self._id,
            {
                "began": self._began,
                "mark": self._mark,
                "kills": self._kills,
                "history": _HISTORY.dump_python(self._history, mode="json"),
                "reading": _READING.dump_python(reading, mode="json"),
                "posted": _MOMENTS.dump_python(self._posted, mode="json"),
                "totals": self._elsewhere.to_data(),
                "evidence": self._evidence.to_data(),
                "compared": [
                    {**compared.to_data(), "course": self._course(i)} for i, compared in enumerate(self._compared)
                ],
            },
        )


COURSE: Final = 24
"""Moments in the line that shows the course of the evidence."""

NONE: Final = Moments(0.0, 0.0, 0.0)
BY_EDGE: Final = "@edge"


def _plus(one: Moments, other: Moments) -> Moments:
    return Moments(one.n + other.n, one.sum + other.sum, one.sum_sq + other.sum_sq)


def _arm(counters: Counters, latencies: Latencies) -> Arm:
    return Arm(counters.requests, counters.errors, histograms={EDGE: latencies.histogram()})


def _planned(state: Rollout) -> float:
    """Seconds that the rollout's steps are planned to take."""
    strategy = state.plan.strategy
    if isinstance(strategy, BlueGreen):
        return strategy.watch
    return sum(max(step.duration, state.plan.analysis.deadline) for step in strategy.steps)


def joined(judged: Verdict, limits: Verdict) -> Verdict:
    """One verdict of both, with the reasons of whichever has the worse finding, or of both when they agree."""
    finding = worst((judged.finding, limits.finding))
    reasons = [r for verdict in (judged, limits) if verdict.finding is finding for r in verdict.reasons]
    return Verdict(finding, tuple(dict.fromkeys(reasons)))
