"""An environment as the ledger knows it: what is live, what each slot holds, who holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from crossfade.domain.errors import Moved
from crossfade.domain.traffic import Pool, Slot
from crossfade.domain.values import EnvKey, ReleaseNumber


@dataclass(frozen=True, slots=True)
class Occupant:
    """The release that a slot holds. ``generation`` is the rollout that started its replicas.

    ``warm_until`` (epoch seconds) is set once it is no longer live: then it may be retired.
    """

    release: ReleaseNumber
    generation: int
    replicas: int
    warm_until: float | None = None

    def names(self, key: EnvKey) -> tuple[str, ...]:
        """The names of its replicas, which are also those of its servers at the edge."""
        stem = f"{key.service}.{key.environment}.{self.release}.{self.generation}"
        return tuple(f"{stem}-{i}" for i in range(1, self.replicas + 1))


@dataclass(frozen=True, slots=True)
class Environment:
    """``holder`` is the id of the rollout that holds it; ``fence`` grows with each holder."""

    key: EnvKey
    live: ReleaseNumber | None = None
    slot: Slot | None = None
    holder: int | None = None
    fence: int = 0
    slots: Mapping[Slot, Occupant] = field(default_factory=dict)

    @property
    def standby(self) -> Slot:
        """The slot for the next candidate; blue when nothing is live yet."""
        return self.slot.other if self.slot is not None else Slot.BLUE


def moved(key: EnvKey, fence: int, expects: int) -> Moved:
    """Says that an environment has had other rollouts since something was decided about it."""
    return Moved(
        f"{key} has changed since this was decided: {fence - expects} more of its rollouts began.",
        hint="Look at `crossfade status`, and decide again.",
        expected=expects,
        found=fence,
    )


@dataclass(frozen=True, slots=True)
class Retirement:
    """Replicas that get no new requests and are stopped when drained, at the latest at ``deadline`` (epoch s)."""

    id: int
    key: EnvKey
    slot: Pool
    names: tuple[str, ...]
    deadline: float

    @property
    def release(self) -> ReleaseNumber | None:
        """Whose replicas they are: `Occupant.names` says it."""
        return ReleaseNumber.parse(self.names[0].split(".")[2]) if self.names else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a rollout's journal: what happened ``at`` (epoch s), and the phase that it led to.

    ``weight`` is the candidate's in basis points where the line is a move of the weights, else None.
    """

    at: float
    text: str
    phase: str
    weight: int | None = None
    action: str = ""
