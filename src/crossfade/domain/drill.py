"""Drills and proofs in words: what is planned, where a drill is, what it does, and what it is told.

A drill is a rehearsed rollback under live traffic; `domain.rehearsal` decides what it does next. A proof starts a release of the
rollback window on a standby: `domain.proof`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Literal

from crossfade.domain.values import DAY, EVERYTHING, EnvKey, ReleaseNumber, Weight

LONGEST_HOLD: Final = 3600.0
FURTHEST: Final = 20
"""Releases that a drill may go back at most."""


class Fault(enum.StrEnum):
    """What a game day injects first."""

    KILL_REPLICA = "kill-replica"
    LATENCY = "latency"
    ERRORS = "errors"
    KILL_CONTROL_PLANE = "kill-control-plane"


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """``schedule`` is a cron line in ``zone``; empty: only when somebody asks. ``back``: how many releases to go back.

    ``hold``: seconds that the older release serves before the way forth.
    """

    name: str
    schedule: str = ""
    zone: str = "UTC"
    back: int = 1
    hold: float = 30.0
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class ProofPolicy:
    """How often each release of the window is started on a standby and asked its health checks; ``every`` seconds, 0: never.

    ``where``: the environment whose configuration and database are used; empty: the release's own.
    """

    every: float = DAY
    where: str = ""


@dataclass(frozen=True, slots=True)
class EdgeFault:
    """What the edge does to requests of one slot: ``share`` of them wait ``delay`` seconds; with a ``status`` they get that."""

    share: Weight = EVERYTHING
    delay: float = 0.0
    status: int = 0


EDGE_FAULTS: Final = {Fault.LATENCY: EdgeFault(delay=0.5), Fault.ERRORS: EdgeFault(Weight(5000), status=500)}
"""What the edge is told for a fault on the canary's slot."""


class Phase(enum.StrEnum):
    """Where a drill is."""

    STARTING = "starting"
    FAULTY = "faulty"
    EXPOSED = "exposed"
    GOING_BACK = "going-back"
    HOLDING = "holding"
    GOING_FORTH = "going-forth"
    CHECKING = "checking"
    ENDING = "ending"
    PASSED = "passed"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        return self in (Phase.PASSED, Phase.FAILED, Phase.ABORTED)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was decided before the drill began. ``home`` is the release that is live; ``target`` the older one that it goes to,

    None where a canary of ``home`` itself has the fault. ``patience``: seconds in which the judge must take that back.
    """

    key: EnvKey
    name: str
    home: ReleaseNumber
    target: ReleaseNumber | None
    back: int = 1
    hold: float = 30.0
    fault: Fault | None = None
    patience: float = 300.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Read the signals and keep them under ``label``."""

    id: str
    label: str
    kind: Literal["mark"] = "mark"


@dataclass(frozen=True, slots=True)
class Inject:
    """Do the harm. A fault at the edge is leased: without renewal it ends by itself."""

    id: str
    fault: Fault
    kind: Literal["inject"] = "inject"


@dataclass(frozen=True, slots=True)
class Lift:
    """End what was injected at the edge."""

    id: str
    kind: Literal["lift"] = "lift"


@dataclass(frozen=True, slots=True)
class GoTo:
    """Begin an ordinary rollback to a release."""

    id: str
    release: ReleaseNumber
    kind: Literal["go-to"] = "go-to"


@dataclass(frozen=True, slots=True)
class Expose:
    """Roll out the live release once more, as a canary."""

    id: str
    kind: Literal["expose"] = "expose"


@dataclass(frozen=True, slots=True)
class Recall:
    """Abort a rollout of the drill's own."""

    id: str
    rollout: int
    kind: Literal["recall"] = "recall"


@dataclass(frozen=True, slots=True)
class Conclude:
    """Write the receipt."""

    id: str
    kind: Literal["conclude"] = "conclude"


Action = Mark | Inject | Lift | GoTo | Expose | Recall | Conclude


@dataclass(frozen=True, slots=True)
class Seen:
    """One of the drill's rollouts. Times are epoch s: ``moved`` when its candidate first got weight, ``failed`` when it was

    decided to take it back, ``home`` when the weight was back. ``going``: beyond its first step.
    """

    rollout: int
    began: float
    outcome: Literal["", "promoted", "rolled-back"] = ""
    moved: float | None = None
    failed: float | None = None
    home: float | None = None
    reason: str = ""
    going: bool = False


@dataclass(frozen=True, slots=True)
class Drill:
    """The state. ``failure`` is the first thing that went wrong, ``aborted`` who did not want it any more.

    ``injected``, ``noticed`` and ``whole`` are of the fault: when it was, was seen, and was over (epoch s). ``landed`` is what
    was live at the last look.
    """

    id: int
    plan: Rehearsal
    by: str = ""
    phase: Phase = Phase.STARTING
    began: float = 0.0
    entered: float = 0.0
    observed: float = 0.0
    pending: tuple[Action, ...] = ()
    sequence: int = 0
    seen: tuple[str, ...] = ()
    current: int | None = None
    there: Seen | None = None
    back: Seen | None = None
    injected: float | None = None
    noticed: float | None = None
    notice: str = ""
    whole: float | None = None
    failure: str = ""
    aborted: str = ""
    waiting: str = ""
    unhealthy: int = 0
    tries: int = 0
    landed: ReleaseNumber | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An action was carried out, ``at`` a time (None: now). ``rollout``: the one that it has begun."""

    action: str
    rollout: int | None = None
    at: float | None = None
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """An action could not be carried out."""

    action: str
    reason: str
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen at ``at``: what is ``live``, the ``rollout`` of the drill that is looked at, ``faults`` of the live release's

    health, ``harm`` that the judge sees, ``stranger``: a rollout under way that is not the drill's. ``notice``: by what a fault
    was noticed; ``whole``: nothing is left of it.
    """

    at: float
    live: ReleaseNumber | None = None
    rollout: Seen | None = None
    faults: tuple[str, ...] = ()
    harm: str = ""
    stranger: int | None = None
    notice: str = ""
    whole: bool = False
    kind: Literal["observed"] = "observed"


@dataclass(frozen=True, slots=True)
class Aborted:
    """A person wants the drill to end. ``id`` is unique."""

    id: str
    by: str
    kind: Literal["aborted"] = "aborted"


Event = Done | Failed | Observed | Aborted
