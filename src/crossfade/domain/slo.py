"""Service level objectives: what clients are promised, how fast the error budget burns, and what is left of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from crossfade.domain.alert import Severity
from crossfade.domain.values import DAY, EnvKey, show_duration


class Kind(enum.StrEnum):
    """What counts as bad: a failed request, or one that took longer than the objective's threshold."""

    AVAILABILITY = "availability"
    LATENCY = "latency"


class OnBurn(enum.StrEnum):
    """What the watch after a promotion does about a page-level burn that began after it."""

    ROLLBACK = "rollback"
    PROPOSE = "propose"


class Exhausted(enum.StrEnum):
    """What an error budget that is used up does to new rollouts."""

    FREEZE = "freeze"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Objective:
    """``target``: the share 0…1 of requests that must be good over ``window`` seconds. ``threshold``: seconds, of latency only.

    ``signal``: the source of `analysis.sources` that counts its requests and errors; empty: the edge does.
    """

    name: str
    target: float
    kind: Kind = Kind.AVAILABILITY
    window: float = 30 * DAY
    threshold: float | None = None
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A prober that asks the edge from outside. ``every`` seconds; 0: never. ``path`` empty: that of the first health check."""

    every: float = 10.0
    path: str = ""
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class SloPolicy:
    """What an environment is held to. ``watch``: seconds after a promotion in which a burn is acted upon; 0: never."""

    objectives: tuple[Objective, ...] = ()
    watch: float = 1800.0
    on_burn: OnBurn = OnBurn.ROLLBACK
    exhausted: Exhausted = Exhausted.FREEZE
    probe: Probe = Probe()


@dataclass(frozen=True, slots=True)
class Series:
    """Whose history it is: that of an objective by its name, or `EDGE` or `PROBE`, which every environment has."""

    key: EnvKey
    name: str

    def __str__(self) -> str:
        return f"{self.key}/{self.name}"


EDGE: Final = "@edge"
"""All requests at the edge; bad are those that failed."""
PROBE: Final = "@probe"
"""The outside prober's questions; bad are those without a good answer."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests and bad ones in a time of which ``covered`` seconds are known."""

    total: float = 0.0
    bad: float = 0.0
    covered: float = 0.0

    def plus(self, other: Counted) -> Counted:
        return Counted(self.total + other.total, self.bad + other.bad, self.covered + other.covered)

    @property
    def share(self) -> float | None:
        """Of bad requests, 0…1; None when there were none at all."""
        return self.bad / self.total if self.total > 0 else None


@dataclass(frozen=True, slots=True)
class Bin:
    """What was counted from ``at`` for ``seconds``; a time of which nothing is known is no bin, and no 100 %."""

    at: float
    seconds: float
    counted: Counted


# --- how fast the budget burns
#
# The formulas are those of the SRE workbook, chapter 5, "Alerting on SLOs", section 6: several windows, several burn rates
# (sre.google/workbook/alerting-on-slos).

KNOWN: Final = 5 / 12
"""How much of the short window of a rule must be known for it to fire: of 5 minutes a little more than 2."""
LEAST_BAD: Final = 5.0
"""Bad requests without which nothing fires and no budget is used up, however few requests there were."""
Count = Callable[[float, float], Counted]
"""What was counted between two moments, epoch s."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires while both windows (seconds) burn at ``threshold`` or above: the long one says that it matters, the short one
    that it goes on.
    """

    severity: Severity
    long: float
    short: float
    threshold: float


_TABLE: Final = (
    (Severity.PAGE, 3600.0, 0.02),
    (Severity.PAGE, 6 * 3600.0, 0.05),
    (Severity.TICKET, DAY, 0.10),
    (Severity.TICKET, 3 * DAY, 0.10),
)
"""The workbook's: of which severity, over how long, and what share of the budget is spent in that time."""
_LEAST: Final = {Severity.PAGE: 2.0, Severity.TICKET: 1.0}
"""What must burn at least. At 1 a budget lasts as long as its window, and nobody needs to get up for that."""


def rules(objective: Objective) -> tuple[Rule, ...]:
    """Those of an objective. For 30 days: page 1 h/5 min at 14.4 and 6 h/30 min at 6, ticket 1 d/2 h at 3 and 3 d/6 h at 1.

    Threshold = share of the budget x window of the objective / long window; the short window is 1/12 of the long one. Where
    that threshold would be below what is worth telling, the long window is the shorter one in which the same share is spent
    at that. And where the target is so low that even a total failure hardly reached it, half of the way from the budget to
    a total failure is enough.
    """
    budget = 1 - objective.target
    found: list[Rule] = []
    for severity, usual, share in _TABLE:
        long = min(usual, share * objective.window / _LEAST[severity])
        threshold = min(share * objective.window / long, (1 + budget) / 2 / budget)
        rule = Rule(severity, long, long / 12, threshold)
        if rule not in found:
            found.append(rule)
    return tuple(found)


def burn(objective: Objective, counted: Counted) -> float | None:
    """How many times as fast as it may the budget is spent: bad share / (1 - target). None without requests."""
    return None if counted.share is None else counted.share / (1 - objective.target)


@dataclass(frozen=True, slots=True)
class Burn:
    """A rule as it stands. None: nothing is known of that window, or there was no request in it."""

    rule: Rule
    burn_long: float | None
    burn_short: float | None
    fires: bool


def _burn(objective: Objective, rule: Rule, long: Counted, short: Counted) -> Burn:
    """Of a long window that is known in part, or of a service that is younger, what is known counts: a young service may

    fail, too. Few requests are no reason to wake anybody, so it takes `LEAST_BAD`; and a short window of which less is known
    than `KNOWN` does not say that it goes on.
    """
    over_long, over_short = burn(objective, long), burn(objective, short)
    fires = (
        over_long is not None
        and over_short is not None
        and min(over_long, over_short) >= rule.threshold
        and long.bad >= LEAST_BAD
        and short.covered >= KNOWN * rule.short
    )
    return Burn(rule, over_long, over_short, fires)


@dataclass(frozen=True, slots=True)
class Budget:
    """Of the requests of the window that are known: how many may be bad, and were. ``left``: the share that is left, from 1
    down to below 0; None while there were no requests.
    """

    allowed: float
    used: float
    left: float | None
    exhausted: bool


def budget(objective: Objective, counted: Counted) -> Budget:
    """What is left of (1 - target) x requests. What is not known is neither good nor bad, so it is not in it."""
    allowed = (1 - objective.target) * counted.total
    left = 1 - counted.bad / allowed if allowed > 0 else None
    return Budget(allowed, counted.bad, left, counted.bad > allowed and counted.bad >= LEAST_BAD)


YOUNG: Final = 1 / 30
"""The share of a window, a day of 30, from which on a used-up budget is a reason to freeze anything."""


class State(enum.StrEnum):
    """How an objective stands: the worst that is true of it."""

    OK = "ok"
    TICKET = "ticket"
    PAGE = "page"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """How an objective stands. ``share_good``: of the window's requests, None without any; ``covered``: the share of the

    window that is known.
    """

    state: State
    sentence: str
    share_good: float | None
    budget: Budget
    covered: float
    burns: tuple[Burn, ...]

    @property
    def young(self) -> bool:
        """Whether so little of the window is known that one incident uses up what budget there is: that freezes nothing yet."""
        return self.covered < YOUNG

    @property
    def severity(self) -> Severity | None:
        """Of the worst rule that fires."""
        found = {one.rule.severity for one in self.burns if one.fires}
        return next((severity for severity in (Severity.PAGE, Severity.TICKET) if severity in found), None)

    @property
    def fires(self) -> bool:
        return self.severity is not None


def assess(objective: Objective, count: Count, now: float) -> Standing:
    """How it stands at ``now``, with a sentence that says so."""
    seen: dict[float, Counted] = {}

    def over(seconds: float) -> Counted:
        if seconds not in seen:
            seen[seconds] = count(now - seconds, now)
        return seen[seconds]

    whole = over(objective.window)
    burns = tuple(_burn(objective, rule, over(rule.long), over(rule.short)) for rule in rules(objective))
    left = budget(objective, whole)
    share = 1 - whole.share if whole.share is not None else None
    standing = Standing(State.OK, "", share, left, min(1.0, whole.covered / objective.window), burns)
    shortest = min(rule.short for rule in rules(objective))
    blind = shortest if over(shortest).covered < KNOWN * shortest else 0.0
    state, sentence = _told(objective, standing, whole, blind)
    return replace(standing, state=state, sentence=sentence)


def _told(objective: Objective, standing: Standing, whole: Counted, blind: float) -> tuple[State, str]:
    """``blind``: the seconds just before of which too little is known to say how it burns; 0: enough is."""
    window, left = _span(objective.window), standing.budget
    if standing.severity is not None:
        worst = max(
            (one for one in standing.burns if one.fires and one.rule.severity is standing.severity),
            key=lambda one: min(one.burn_long or 0.0, one.burn_short or 0.0),
        )
        state = State.PAGE if standing.severity is Severity.PAGE else State.TICKET
        if state is State.PAGE or not left.exhausted:
            return state, _burning(objective, worst)
    if left.exhausted:
        used, total, allowed = _number(left.used), _number(whole.total), _number(left.allowed)
        return State.EXHAUSTED, f"{used} of {total} requests of the last {window} {_bad(objective)}, and {allowed} may"
    if not whole.covered > 0:
        return State.UNKNOWN, "nothing is known yet"
    if blind:
        return State.UNKNOWN, f"not enough is known of the last {_span(blind)}"
    if left.left is None:
        return State.OK, "there were no requests"
    share = 100 * (standing.share_good or 0.0)
    return State.OK, f"{share:.6g} % were good in {window}, and {100 * left.left:.3g} % of the budget is left"


def _burning(objective: Objective, worst: Burn) -> str:
    short, long = worst.burn_short or 0.0, worst.burn_long or 0.0
    spare, rule = 100 * (1 - objective.target), worst.rule
    return (
        f"{short * spare:.3g} % of the requests of the last {_span(rule.short)} {_bad(objective)}, and "
        f"{long * spare:.3g} % of those of {_span(rule.long)}: the budget burns {min(short, long):.3g} times as fast as it "
        f"may, and {rule.threshold:.3g} times is the limit"
    )


def _bad(objective: Objective) -> str:
    if objective.kind is Kind.LATENCY and objective.threshold is not None:
        return f"took longer than {show_duration(objective.threshold)}"
    return "failed"


def _span(seconds: float) -> str:
    """``5 min``, ``6 h``, ``30 d``."""
    name, size = next(
        ((name, size) for name, size in (("d", DAY), ("h", 3600.0), ("min", 60.0)) if seconds >= size), ("s", 1.0)
    )
    return f"{seconds / size:.3g} {name}"


def _number(n: float) -> str:
    return f"{n:.0f}" if n >= 100 else f"{n:.3g}"


# --- when a budget lifts


def lifts_at(objective: Objective, bins: Sequence[Bin], now: float) -> float | None:
    """When the budget is used up no more (epoch s) if nothing bad happens and as many requests come as did on average.

    ``bins`` are those of the window, oldest first: by and by they fall out of it. ``now`` when it is not used up; None
    without any bin.
    """
    if not bins:
        return None
    spare = 1 - objective.target
    whole = Counted()
    for one in bins:
        whole = whole.plus(one.counted)
    rate = spare * whole.total / whole.covered if whole.covered > 0 else 0.0
    at, debt = now, whole.bad - spare * whole.total
    if debt <= 0:
        return now
    for one in bins:
        begins = max(now, one.at + objective.window)
        ends = max(now, one.at + one.seconds + objective.window)
        gone = one.counted.bad - spare * one.counted.total
        # While nothing falls out, and then while this bin does, what is owed falls evenly.
        for until, paid in ((begins, 0.0), (ends, gone)):
            after = debt - paid - rate * max(0.0, until - at)
            if after <= 0:
                return at + (until - at) * debt / (debt - after) if until > at else at
            at, debt = max(at, until), after
    return at
