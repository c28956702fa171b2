"""Artifacts, releases, and the window of releases that one can return to."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from crossfade.domain.access import Role
from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.drill import DrillPlan, ProofPolicy
from crossfade.domain.health import Check, Flow
from crossfade.domain.pipeline.freeze import Freeze
from crossfade.domain.slo import SloPolicy
from crossfade.domain.traffic import Sticky
from crossfade.domain.values import Digest, ReleaseNumber, Weight

SMALLEST_WINDOW = 3
"""A rollback must be possible to at least this many previous releases."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The immutable output of one build. ``size`` in bytes of its canonical tarball."""

    digest: Digest
    size: int
    files: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the candidate must keep to. ``error_rate`` is a share 0…1, ``p99`` seconds; None means no limit.

    Nothing is decided from fewer than ``min_requests`` candidate requests, save that ``min_requests`` x ``error_rate``
    errors, rounded up, are a breach however few the requests were. Fewer than 3 errors never are.
    """

    error_rate: float | None = 0.01
    p99: float | None = None
    min_requests: int = 50


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of a canary. ``duration`` in seconds."""

    weight: Weight
    duration: float


@dataclass(frozen=True, slots=True)
class BlueGreen:
    """Switch at once, then watch for ``watch`` seconds before the rollout counts as promoted."""

    watch: float = 10.0
    limits: Limits = field(default_factory=Limits)
    manual: bool = False  # wait for `promote` before the switch


@dataclass(frozen=True, slots=True)
class Canary:
    """Rise through ``steps`` (weights strictly rising, the last may be below 100 %), then promote."""

    steps: tuple[Step, ...]
    limits: Limits = field(default_factory=Limits)


Strategy = BlueGreen | Canary


@dataclass(frozen=True, slots=True)
class DatabaseUse:
    """The database of an environment. ``variable`` names the one among the release's variables that has its URL for migrations,
    ``pass_as`` that under which replicas get theirs. ``folder`` is where the artifact has its migrations; ``schema`` is
    PostgreSQL's. ``duty``: the share of time, 0…1, that a backfill may work. ``contracts``: whether old shapes go by
    themselves once nothing needs them.
    """

    variable: str = "DATABASE_URL"
    pass_as: str = "DATABASE_URL"  # noqa: S105 - the name of a variable
    folder: str = "migrations"
    schema: str = "public"
    duty: float = 1.0
    contracts: bool = True


@dataclass(frozen=True, slots=True)
class ReleaseConfig:
    """What a release runs with in one environment: everything of `crossfade.yaml` that is not a secret.

    ``env`` holds plain variables; secrets of an env_file are kept apart and named by ``secrets`` (a key
    of the secret store, empty when there are none). Durations are seconds.
    """

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    secrets: str = ""
    replicas: int = 1
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    checks: tuple[Check, ...] = ()
    check_interval: float = 0.1
    flows: tuple[Flow, ...] = ()
    runtime: str = "process"
    bind: str = "127.0.0.1"
    port: int = 8080
    sticky: Sticky = field(default_factory=Sticky)
    drain_timeout: float = 30.0
    warm_for: float = 600.0
    window: int = 5
    lease: float = 15.0
    request_timeout: float = 60.0
    strategy: Strategy = field(default_factory=BlueGreen)
    analysis: Analysis = field(default_factory=Analysis)
    approval: Role | None = None
    """Who must approve a deployment that they did not ask for themselves; None: nobody."""
    freezes: tuple[Freeze, ...] = ()
    provenance_required: bool = False
    """Whether only artifacts with a signed statement of a pipeline may be deployed."""
    database: DatabaseUse | None = None
    schema_version: str = ""
    """The newest migration that the artifact has: what the release needs of its database; empty where it has none."""
    slo: SloPolicy = field(default_factory=SloPolicy)
    drills: tuple[DrillPlan, ...] = ()
    proofs: ProofPolicy = field(default_factory=ProofPolicy)

    @property
    def url(self) -> str:
        """How this machine reaches the environment's edge."""
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - read, not bound
        host = anywhere.get(self.bind) or (f"[{self.bind}]" if ":" in self.bind else self.bind)
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Release:
    """Artifact + configuration, numbered per service. ``created`` is epoch seconds."""

    number: ReleaseNumber
    digest: Digest
    config: ReleaseConfig
    created: float
    label: str = ""
    """What a person calls it: a tag, a commit, or nothing."""


class Standing(enum.StrEnum):
    """Where a release stands in its environment."""

    LIVE = "live"
    WARM = "warm"
    CANDIDATE = "candidate"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Restorable:
    """Whether a release can be brought back, with every reason why not. ``checked`` is when that was seen, epoch s."""

    number: ReleaseNumber
    reasons: tuple[str, ...] = ()
    checked: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.reasons


def window(promoted: Sequence[ReleaseNumber], live: ReleaseNumber | None, size: int) -> tuple[ReleaseNumber, ...]:
    """The releases one may return to, newest promotion first: the last ``size`` distinct ones that were live before.

    ``promoted`` lists promotions in time order (a release appears again when it is rolled back to). Releases that were
    never promoted are not in it: nobody has seen them work. ``size`` below 3 is raised to 3.
    """
    kept: list[ReleaseNumber] = []
    for number in reversed(promoted):
        if number != live and number not in kept:
            kept.append(number)
    return tuple(kept[: max(size, SMALLEST_WINDOW)])
