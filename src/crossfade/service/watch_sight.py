"""What a watch sees: burns that began after the promotion, how the release keeps to the profile before it, dead replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from crossfade.domain.alert import Severity
from crossfade.domain.analysis import against_profile as against
from crossfade.domain.analysis.against_profile import Look
from crossfade.domain.analysis.explain import percent
from crossfade.domain.analysis.sample import History
from crossfade.domain.analysis.verdict import Finding
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.flags.pinning import Trail
from crossfade.domain.signal import Reading
from crossfade.domain.slo import EDGE, LEAST_BAD, Counted, Objective, Rule, Series, assess, rules
from crossfade.domain.values import EnvKey
from crossfade.domain.watch import Cause, Means, Watch
from crossfade.ports import Parts

DEAD_FOR: Final = 3.0
"""Seconds that no replica must have run for the release to count as crashed."""
MOST_RESTARTS: Final = 3
"""Restarts of every replica since the watch began that count as a crash too."""
LOOKS_AT_REPLICAS: Final = 1.0
GAP: Final = 5.0
"""Seconds without anything bad that end a harm, when one looks back for its beginning."""
_HISTORY = TypeAdapter(History)


@dataclass(slots=True)
class Sight:
    """What is known of one watch. ``burning`` names the objectives that had a page-level burn before the promotion.

    ``restarts`` are those of the replicas when the watch began, ``verdict`` the last sentence about the profile.
    ``alone_since``: since when no other release has served beside it; what an objective counted before is not its own.
    ``drilled``: a drill was under way at the last look.
    """

    profile: against.Profile
    history: History
    planned: float
    burning: tuple[str, ...] = ()
    restarts: dict[str, int] = field(default_factory=dict)
    evidence: against.Evidence = field(default_factory=against.Evidence)
    verdict: str = ""
    alone_since: float = 0.0
    drilled: bool = False
    dead_since: float | None = None
    dead: bool | None = None
    last: Reading | None = None
    fence: int = -1
    trail: Trail | None = None
    since: Look | None = None
    asked: float = 0.0

    def to_data(self) -> dict[str, Any]:
        """As JSON: what outlives the server."""
        return {
            "history": _HISTORY.dump_python(self.history, mode="json"),
            "planned": self.planned,
            "burning": list(self.burning),
            "restarts": self.restarts,
            "evidence": self.evidence.to_data(),
            "verdict": self.verdict,
            "alone_since": self.alone_since,
            "drilled": self.drilled,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Sight:
        """From `to_data`."""
        history = _HISTORY.validate_python(data["history"])
        profile = against.profile_of(history)
        evidence = against.Evidence.from_data(data["evidence"])
        if len(evidence.begun) != len(profile.tests):
            evidence = against.begin(profile)  # it was made by an earlier version, by other tests
        return cls(
            profile,
            history,
            float(data["planned"]),
            tuple(data["burning"]),
            {str(name): int(n) for name, n in data["restarts"].items()},
            evidence,
            str(data["verdict"]),
            float(data["alone_since"]),
            bool(data.get("drilled")),
        )

    def anew(self) -> None:
        """What was seen before a remedy says nothing about what comes after it."""
        self.evidence, self.since = against.begin(self.profile), None
        self.dead_since, self.dead = None, None

    def drill(self, under_way: bool, now: float) -> None:
        """What clients and replicas go through in a drill is nothing that the release did; what was seen before it counts."""
        if under_way or self.drilled:
            self.alone_since, self.last, self.trail, self.since = now, None, None, None
            self.dead_since, self.dead = None, None
            self.restarts.clear()
        self.drilled = under_way

    # --- to look

    def take(self, reading: Reading, environment: Environment, judged: bool) -> None:
        """One reading of the edge. ``judged``: it counts as evidence against the release; else only as what came since."""
        before, self.last = self.last, reading
        if self.trail is None:
            self.trail = Trail(reading)
        self.trail.add(reading)
        moved = environment.fence != self.fence
        self.fence = environment.fence
        if before is None or moved or before.segment != reading.segment or reading.at <= before.at:
            return
        if environment.slot is None:
            return
        new = reading.since(before)
        counters = new.slots.get(environment.slot)
        if counters is None:
            return
        if environment.holder is None:
            counters = counters.plus(new.edge)  # nobody served those: there was no server, or none that answered
        samples = new.latencies.get(environment.slot)
        look = Look(
            reading.at - before.at, counters.requests, counters.errors, samples.counts if samples is not None else ()
        )
        if judged:
            self.evidence = against.advance(self.profile, self.evidence, look, self.planned)
        self.since = look if self.since is None else self.since.plus(look)

    def look_at_replicas(self, parts: Parts, environment: Environment, now: float) -> None:
        """Whether none of the live release's replicas runs; not known while nobody can say."""
        if 0 <= now - self.asked < LOOKS_AT_REPLICAS:
            return
        self.asked = now
        occupant = environment.slots.get(environment.slot) if environment.slot is not None else None
        if occupant is None:
            return
        try:
            known = {replica.name: replica for replica in parts.runtime.replicas(environment.key)}
        except CrossfadeError:
            self.dead, self.dead_since = None, None
            return
        names = occupant.names(environment.key)
        if not any(name in known for name in names):
            self.dead, self.dead_since = None, None  # whoever starts them knows none of them: that says nothing
            return
        gone = [known[name].state != "running" if name in known else True for name in names]
        again = [known[name].restarts - self.restarts.setdefault(name, known[name].restarts)
                 for name in names if name in known]  # fmt: skip
        if all(gone):
            self.dead_since = self.dead_since if self.dead_since is not None else now
        elif not (len(again) == len(names) and min(again, default=0) >= MOST_RESTARTS):
            self.dead_since = None
        else:
            self.dead_since = now - DEAD_FOR
        self.dead = self.dead_since is not None and now - self.dead_since >= DEAD_FOR

    def causes(self, state: Watch, parts: Parts, objectives: tuple[Objective, ...], now: float) -> tuple[Cause, ...]:
        """Harm that began after the promotion, the surest first."""
        key, release, found = state.plan.key, state.plan.release, []
        since = max(state.plan.began, self.alone_since)
        if self.dead and self.dead_since is not None:
            sentence = f"no replica of {release} runs: all have ended, or keep ending"
            found.append(Cause(Means.CRASH, "", sentence, max(state.plan.began, self.dead_since)))
        verdict, metric = against.judge(self.profile, self.evidence, self.planned)
        self.verdict = verdict.sentence
        if verdict.finding is Finding.FAIL:
            began = began_at(parts, Series(key, EDGE), since, now) if metric == against.ERRORS else None
            found.append(Cause(Means.PROFILE, metric, verdict.sentence, began or max(state.plan.began, now - GAP)))
        for objective in objectives:
            if objective.name in self.burning:
                continue
            sentence = ""
            with contextlib.suppress(CrossfadeError):  # a history that cannot be read hides nothing of the rest
                sentence = burns_since(parts, key, objective, since, now)
            if sentence:
                began = began_at(parts, Series(key, objective.name), since, now)
                found.append(Cause(Means.BURN, objective.name, sentence, began or since))
        return tuple(found)

    def harmful(
        self, state: Watch, parts: Parts, objectives: tuple[Objective, ...], since: float, now: float
    ) -> bool | None:
        """Whether what the watch has acted upon goes on since the remedy; None: not known (yet)."""
        cause = state.cause
        if cause is None:
            return None
        match cause.means:
            case Means.CRASH:
                return self.dead
            case Means.PROFILE:
                return against.harm(self.profile, cause.name, self.since) if self.since is not None else None
            case Means.BURN:
                objective = next((one for one in objectives if one.name == cause.name), None)
                if objective is None:
                    return None
                try:
                    counted = parts.histories.count(Series(state.plan.key, cause.name), since, now)
                except CrossfadeError:
                    return None
                if counted.share is None or counted.total < against.ENOUGH:
                    return None
                return counted.share >= least_page(objective) * (1 - objective.target)


def pages(objective: Objective) -> tuple[Rule, ...]:
    """The rules of an objective that want somebody at once."""
    return tuple(rule for rule in rules(objective) if rule.severity is Severity.PAGE)


def least_page(objective: Objective) -> float:
    """How many times the budgeted share of bad requests pages somebody, at least."""
    return min((rule.threshold for rule in pages(objective)), default=1.0)


def burns_since(parts: Parts, key: EnvKey, objective: Objective, since: float, now: float) -> str:
    """The page-level burn of what was bad after ``since`` alone, as a sentence; empty when there is none.

    What was bad before is left out, so that a burn is not blamed on a release because of what the one before did.
    """
    series, budget = Series(key, objective.name), 1 - objective.target
    for rule in pages(objective):
        whole = parts.histories.count(series, now - rule.long, now)
        mine = parts.histories.count(series, max(since, now - rule.long), now)
        lately = parts.histories.count(series, max(since, now - rule.short), now)
        before = parts.histories.count(series, since - rule.long, since)
        if mine.bad < LEAST_BAD or whole.total <= 0 or lately.share is None:
            continue
        if (before.share or 0.0) * 2 > (mine.share or 0.0):
            continue  # it was hardly better before
        burn, short = mine.bad / whole.total / budget, lately.share / budget
        limit = rule.threshold * budget
        if burn >= rule.threshold and short >= rule.threshold and goes_on(parts, series, now - rule.short, now, limit):
            share = percent(mine.share or 0.0)
            return (
                f"{objective.name} burns its budget {burn:.3g} times as fast as it may, {short:.3g} times lately "
                f"(limit {rule.threshold:.3g}): {share} bad since the promotion"
            )
    return ""


def goes_on(parts: Parts, series: Series, begins: float, ends: float, limit: float) -> bool:
    """Whether a burn is there now: a history that is young makes a page of one bad second, which may be over."""
    asked = [one.counted for one in parts.histories.bins(series, begins, ends, 1.0) if one.counted.total > 0]
    lately = asked[-against.LATELY :]
    return sum((one.share or 0.0) >= limit for one in lately) >= against.LATELY - against.WORST


def burned(parts: Parts, key: EnvKey, objectives: tuple[Objective, ...], at: float) -> tuple[str, ...]:
    """The objectives that had a page-level burn at a moment; all where that cannot be read: nobody is blamed for those."""

    def count(name: str) -> Callable[[float, float], Counted]:
        return lambda begins, ends: parts.histories.count(Series(key, name), begins, ends)

    try:
        return tuple(one.name for one in objectives if assess(one, count(one.name), at).severity is Severity.PAGE)
    except CrossfadeError:
        return tuple(one.name for one in objectives)


def began_at(parts: Parts, series: Series, promoted: float, now: float) -> float | None:
    """When the harm that is there now began: before it, and after the promotion, nothing bad had happened for a while."""
    with contextlib.suppress(CrossfadeError):
        began = None
        for one in reversed(parts.histories.bins(series, promoted, now + 1.0, 1.0)):
            if one.counted.bad > 0:
                if began is not None and began - (one.at + one.seconds) > GAP:
                    break
                began = one.at
        return max(began, promoted) if began is not None else None
    return None
