"""What the API gives of objectives, alerts, watches, drills and proofs, as types. Times are epoch seconds."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class Budget(TypedDict):
    """Of the requests known in the window ``allowed`` may be bad, and ``used`` were; ``left`` is a share of the budget,

    from 1 down to below 0; null where nothing is known.
    """

    allowed: float
    used: float
    left: float | None
    exhausted: bool


class BurnRule(TypedDict):
    """Fires while both windows (``long`` and ``short``, seconds) burn at ``threshold`` or above; null: unknown."""

    severity: str
    long: float
    short: float
    threshold: float
    burn_long: float | None
    burn_short: float | None
    fires: bool


class Objective(TypedDict):
    """``state`` is ok, ticket, page, exhausted or unknown; ``covered`` the share of the window that is known."""

    name: str
    kind: str
    target: float
    window: float
    threshold: float | None
    signal: str
    state: str
    sentence: str
    share_good: float | None
    budget: Budget
    covered: float
    rules: list[BurnRule]


class Frozen(TypedDict):
    """No new rollout begins; ``lifts`` is about when it may again, null when that cannot be said."""

    sentence: str
    lifts: float | None


class Alert(TypedDict):
    """``severity`` is page, ticket or info. ``acknowledged`` is who has seen it; ``ended`` is null while it lasts."""

    id: int
    service: str
    environment: str
    name: str
    severity: str
    sentence: str
    began: float
    ended: float | None
    acknowledged: str
    resolution: str
    facts: dict[str, Any]


class Slo(TypedDict):
    """What an environment is held to, and how it does. ``probe`` is the prober outside; ``watch`` the one after a promotion."""

    service: str
    environment: str
    objectives: list[Objective]
    probe: dict[str, Any] | None
    frozen: Frozen | None
    alerts: list[Alert]
    watch: Watch | None
    now: float


class Stretch(TypedDict):
    """What was counted from ``at`` for ``seconds``, of which ``covered`` are known. What is unknown is left out."""

    at: float
    seconds: float
    covered: float
    total: float
    bad: float


class Watch(TypedDict):
    """The watch over a release after its promotion, until ``until``. ``cause`` is the harm that began after it, null: none.

    ``done`` is what was done about it, ``refused`` why nothing was, ``receipt`` how long each step took in the end.
    """

    id: int
    service: str
    environment: str
    rollout: int
    release: str
    previous: str | None
    on_burn: str
    phase: str
    ended: bool
    began: float
    until: float
    entered: float
    ended_at: float | None
    cause: dict[str, Any] | None
    sentence: str
    refused: str
    waiting: str
    done: list[dict[str, Any]]
    verdict: str
    receipt: dict[str, Any] | None
    now: float


class WatchDetail(Watch):
    """With its journal, the rollback plans that were made, and what the release is held to."""

    journal: list[dict[str, Any]]
    plans: list[Any]
    profile: dict[str, Any]


class Rehearsal(TypedDict):
    """What a drill would do: from the release that is live (``home``) to ``target``, and back after ``hold`` seconds.

    ``target`` is null where a canary of the live release itself has the fault. ``patience``: seconds in which the judge must
    take that one back.
    """

    service: str
    environment: str
    home: str
    target: str | None
    back: int
    hold: float
    fault: str | None
    patience: float


class Drill(TypedDict):
    """A rehearsed rollback. ``ok`` is null before its end; ``due`` is when the schedule wanted it, null when a person did.

    ``receipt``: how long each part of it took, and what clients saw of it; null before its end.
    """

    id: int
    service: str
    environment: str
    name: str
    by: str
    home: str
    target: str | None
    back: int
    hold: float
    fault: str | None
    phase: str
    ended: bool
    ok: bool | None
    ended_at: float | None
    reason: str
    waiting: str
    noticed: str
    rollouts: list[int]
    began: float
    entered: float
    due: float | None
    receipt: dict[str, Any] | None
    now: float


class DrillDetail(Drill):
    """With its journal."""

    journal: list[dict[str, Any]]


class Scheduled(TypedDict):
    """A drill of the configuration: its ``last`` one, when the ``next`` begins, and whether it is ``overdue``."""

    name: str
    schedule: str
    zone: str
    back: int
    hold: float
    fault: str | None
    last: Drill | None
    next: float | None
    overdue: bool
    sentence: str


class Check(TypedDict):
    """One thing that a proof has looked at."""

    what: str
    ok: bool
    sentence: str


class Proof(TypedDict):
    """Whether a release of the window can be restored. ``proven`` is when that was last found, ``took`` is in seconds.

    ``tried``, ``ok``, ``checks`` and ``sentence`` are of the newest try; ``asked``: somebody waits for another one.
    """

    release: str
    proven: float | None
    tried: float | None
    ok: bool | None
    took: float | None
    where: str
    checks: list[Check]
    sentence: str
    asked: bool
    next: float | None
    overdue: bool


class Asked(TypedDict):
    """The releases that are proven one after the other, from ``at`` on."""

    asked: list[str]
    at: float
