"""Feature flags as the ledger keeps them, as a Protocol: versions, change requests, ramps, experiments and what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from crossfade.domain.access import Role
from crossfade.domain.errors import Busy, Moved, NotFound, Refused
from crossfade.domain.values import EnvKey, ReleaseNumber

VERSIONS_KEPT: Final = 1_000
"""How many of the newest versions an environment has at least."""

BATCHES_KEPT: Final = 10_000
"""Names of batches that are remembered, so that one that is sent again is not counted again."""

MOST_UNITS: Final = 1_000_000
"""Units of one experiment. Those that come later are not taken into any of its variants, and are counted as left out."""

MOST_OUTCOMES: Final = 5_000_000
"""Outcomes of one experiment; later ones are left out, and counted."""

LATE: Final = 7 * 86_400.0
"""Seconds by which what was seen may be told late."""

MOST_USAGES: Final = 200
"""Releases and variants of one flag whose evaluations are counted; those that were seen last stay."""


FLAGS_TOLD: Final = 100
"""Names of flags that the feed says of one version."""


@dataclass(frozen=True, slots=True)
class FlagVersion:
    """The flags of an environment as they were written once. ``number`` counts from 1; ``flags`` are those that it changed.

    ``document`` is a flag set as `domain.flags.document` writes it; None where a list leaves it out.
    """

    key: EnvKey
    number: int
    document: Mapping[str, Any] | None
    by: str
    at: float
    note: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FlagSettings:
    """``approval`` is the role of a second person that changes wait for; None: they don't wait."""

    approval: Role | None = None


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A change that waits for somebody else's word. ``state`` is waiting, approved, rejected or superseded.

    ``after`` says what is to be in which place of the document (None: nothing), ``before`` what was there when this was
    asked: `flags/KEY`, `segments/NAME`, `$evaluators/NAME` and `metadata`. ``identity`` is who asked, as `Actor.identity`
    says; ``version`` what it was asked upon, ``applied`` the version that it became.
    """

    id: int
    key: EnvKey
    what: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    version: int
    role: Role
    by: str
    identity: str
    asked: float
    note: str = ""
    state: str = "waiting"
    decided_by: str | None = None
    decided: float | None = None
    why: str = ""
    applied: int | None = None


@dataclass(frozen=True, slots=True)
class RampRow:
    """A ramp as its use cases wrote it: ``state`` is JSON-ready. ``ended`` is when it ended, None while it is open."""

    id: int
    key: EnvKey
    flag: str
    state: Mapping[str, Any]
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """An experiment as its use cases wrote it. Exposures count from ``started`` to ``ended``; ``events`` are what it measures,

    from when it is made ``until`` (None: for now). Times are epoch seconds. ``units`` were taken; ``left_out`` counts units and outcomes that came when it was full.
    """

    key: EnvKey
    name: str
    flag: str
    state: Mapping[str, Any]
    events: tuple[str, ...]
    created: float
    started: float | None = None
    ended: float | None = None
    until: float | None = None
    units: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Exposure:
    """A unit got a variant. ``unit`` is a keyed hash of what the application calls it, never that itself."""

    flag: str
    variant: str
    unit: bytes
    at: float
    release: ReleaseNumber | None = None
    slot: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tracked:
    """Something that a unit did."""

    name: str
    unit: bytes
    value: float
    at: float
    release: ReleaseNumber | None = None
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Evaluations:
    """How often a release evaluated a flag to a variant, between ``first`` and ``last`` (epoch seconds)."""

    flag: str
    variant: str
    release: ReleaseNumber
    n: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of an experiment: its first exposure. ``other`` is the variant that it got too, first at ``crossed``."""

    unit: bytes
    variant: str
    at: float
    release: ReleaseNumber | None
    slot: str
    attributes: Mapping[str, str]
    other: str = ""
    crossed: float | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What of a batch was counted. ``left_out`` had no experiment that wanted them, or one that is full."""

    exposures: int = 0
    tracks: int = 0
    usage: int = 0
    left_out: int = 0


class Flags(Protocol):
    """Durable when a call returns. Every version and every request is told to the feed in its own transaction."""

    # --- versions

    def newest(self, key: EnvKey) -> int:
        """The number of the newest version, 0 when there is none. Cheap: it is asked several times a second."""

    def current(self, key: EnvKey) -> FlagVersion | None: ...

    def version(self, key: EnvKey, number: int) -> FlagVersion:
        """Raises NotFound when there was none, or it is not kept any more."""

    def versions(self, key: EnvKey, *, limit: int = 50, before: int | None = None) -> tuple[FlagVersion, ...]:
        """Newest first, without their documents."""

    def write(
        self,
        key: EnvKey,
        document: Mapping[str, Any],
        flags: Sequence[str],
        by: str,
        now: float,
        *,
        expects: int,
        note: str = "",
        decided: ChangeRequest | None = None,
    ) -> FlagVersion:
        """Make it the newest version while that one is still ``expects`` (0: there is none); else Moved.

        With ``decided``, a request as it is to be from now on, that is written down in the same transaction; Refused when it
        does not wait any more. Tells the feed ``flags`` with ``version``, ``flags`` (the first `FLAGS_TOLD`) and ``count``.
        """

    def keys(self) -> tuple[EnvKey, ...]:
        """Environments that have flags, in no order."""

    # --- settings and requests

    def settings(self, key: EnvKey) -> FlagSettings: ...

    def set_settings(self, key: EnvKey, settings: FlagSettings) -> None: ...

    def ask(self, request: ChangeRequest) -> ChangeRequest:
        """Write it down, numbered; those that wait and change the same places are superseded by it. Tells ``flag-request``."""

    def request(self, id: int) -> ChangeRequest | None: ...

    def requests(
        self, key: EnvKey | None = None, *, waiting: bool = False, limit: int = 50, before: int | None = None
    ) -> tuple[ChangeRequest, ...]:
        """Newest first."""

    def decide(self, request: ChangeRequest) -> bool:
        """Write down what was decided; False when it does not wait any more. Once, whoever is first."""

    # --- ramps

    def add_ramp(self, key: EnvKey, flag: str, state: Mapping[str, Any], now: float) -> RampRow:
        """Raises Busy when the flag has an open one. Tells ``ramp``."""

    def save_ramp(
        self,
        id: int,
        state: Mapping[str, Any],
        now: float,
        *,
        ended: bool = False,
        evidence: Mapping[str, Any] | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        """Its newest state; without ``evidence``, that stays. With ``told``, the feed hears ``ramp`` with that."""

    def ramp(self, id: int) -> RampRow:
        """Raises NotFound."""

    def ramp_evidence(self, id: int) -> Mapping[str, Any] | None: ...

    def ramps(
        self,
        key: EnvKey | None = None,
        *,
        flag: str | None = None,
        open_only: bool = False,
        limit: int = 50,
        before: int | None = None,
    ) -> tuple[RampRow, ...]:
        """Newest first."""

    # --- experiments

    def add_experiment(self, row: ExperimentRow) -> None:
        """Raises Refused when the environment has one of this name."""

    def experiment(self, key: EnvKey, name: str) -> ExperimentRow:
        """Raises NotFound."""

    def experiments(self, key: EnvKey) -> tuple[ExperimentRow, ...]:
        """Newest first."""

    def save_experiment(self, row: ExperimentRow) -> None:
        """All but the counts, its flag, name and when it was created. Raises NotFound."""

    def remove_experiment(self, key: EnvKey, name: str) -> None:
        """With all that was taken for it. Raises NotFound."""

    def units(self, key: EnvKey, name: str) -> Iterator[Unit]:
        """In no order, a page at a time: there may be very many. Raises NotFound."""

    def outcomes(self, key: EnvKey, name: str) -> Iterator[Tracked]:
        """What units did since the experiment was made, also those that were not (yet) exposed. As `units`."""

    # --- what was seen

    def take(
        self,
        key: EnvKey,
        batch: str,
        exposures: Sequence[Exposure],
        tracks: Sequence[Tracked],
        usage: Sequence[Evaluations],
        now: float,
    ) -> Taken:
        """Count a batch, all or none. One that is known (an empty name never is) adds nothing and answers the same.

        Exposures count for the experiments of their flag in whose time they are, the first of a unit only; tracks for those
        that measure them. Evaluations add up.
        """

    def usage(self, key: EnvKey, flag: str | None = None) -> tuple[Evaluations, ...]:
        """By flag, newest use first."""


def moved(key: EnvKey, newest: int, expects: int) -> Moved:
    """Says that flags have had other versions since something was decided about them."""
    return Moved(
        f"The flags of {key} have changed since this was decided: version {newest} is the newest, not {expects}.",
        hint="Look at what they are now, and decide again.",
        expected=expects,
        found=newest,
    )


def ramping(key: EnvKey, flag: str, ramp: int) -> Busy:
    """Says that a flag has an open ramp."""
    return Busy(
        f"{flag} in {key} is being ramped already, by ramp #{ramp}.",
        hint="Wait for it, or end it first.",
        ramp=ramp,
    )


def no_ramp(id: int) -> NotFound:
    """Says that there is none."""
    return NotFound(f"There is no ramp #{id}.", hint="`crossfade flags get` shows a flag's ramps.")


def told_of(number: int, flags: Sequence[str]) -> dict[str, Any]:
    """What the feed says of a version."""
    return {"version": number, "flags": list(flags[:FLAGS_TOLD]), "count": len(flags)}


def named_already(key: EnvKey, name: str) -> Refused:
    """Says that an experiment of this name is there."""
    return Refused(f"{key} has an experiment {name!r} already.", hint="Give it another name, or remove that one.")


def no_experiment(key: EnvKey, name: str) -> NotFound:
    """Says that there is none."""
    return NotFound(f"{key} has no experiment {name!r}.", hint="`crossfade experiments` lists them.")
