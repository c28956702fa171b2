"""Every effect of a rollout as a plain value with a stable id.

Doing an action twice is doing it once; the engine may repeat any of them after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossfade.domain.traffic import Slot, Split
from crossfade.domain.values import ReleaseNumber


@dataclass(frozen=True, slots=True)
class ClearSlot:
    """Retire whatever the slot holds apart from ``keep``: no new requests at once, gone when drained."""

    id: str
    slot: Slot
    keep: ReleaseNumber
    kind: Literal["clear-slot"] = "clear-slot"


@dataclass(frozen=True, slots=True)
class Migrate:
    """Expand, backfill and verify the migrations that the release needs. Nothing that runs is in its way."""

    id: str
    release: ReleaseNumber
    version: str
    kind: Literal["migrate"] = "migrate"


@dataclass(frozen=True, slots=True)
class StartReplicas:
    """Start the release's replicas, not yet known to the edge."""

    id: str
    slot: Slot
    release: ReleaseNumber
    kind: Literal["start-replicas"] = "start-replicas"


@dataclass(frozen=True, slots=True)
class Connect:
    """Make the release's replicas the slot's servers at the edge; done when the edge sees each as up."""

    id: str
    slot: Slot
    release: ReleaseNumber
    kind: Literal["connect"] = "connect"


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the candidate through the edge's preview: its checks, and the flows that span both slots."""

    id: str
    slot: Slot
    release: ReleaseNumber
    kind: Literal["probe"] = "probe"


@dataclass(frozen=True, slots=True)
class StartControl:
    """Start fresh replicas of the baseline in the control pool; done when they are healthy and the edge sees them."""

    id: str
    release: ReleaseNumber
    kind: Literal["start-control"] = "start-control"


@dataclass(frozen=True, slots=True)
class DiscardControl:
    """Retire the control pool's replicas: drained, then stopped."""

    id: str
    release: ReleaseNumber
    kind: Literal["discard-control"] = "discard-control"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Read the signals and keep them under ``label`` for the receipt and the verdict."""

    id: str
    label: str
    kind: Literal["snapshot"] = "snapshot"


@dataclass(frozen=True, slots=True)
class SetSplit:
    """Move the weights. A leased split falls back to ``fallback`` by itself when nobody renews it."""

    id: str
    split: Split
    fallback: Split | None
    kind: Literal["set-split"] = "set-split"


@dataclass(frozen=True, slots=True)
class KillFlag:
    """Serve a flag's off variant to everybody: its ``variant`` is to blame for what the candidate's clients see."""

    id: str
    flag: str
    variant: str
    why: str
    kind: Literal["kill-flag"] = "kill-flag"


@dataclass(frozen=True, slots=True)
class Commit:
    """Record the candidate as live and the baseline as warm. The point of no return of a rollout."""

    id: str
    slot: Slot
    release: ReleaseNumber
    kind: Literal["commit"] = "commit"


@dataclass(frozen=True, slots=True)
class Discard:
    """Retire the candidate's replicas: drained, then stopped."""

    id: str
    slot: Slot
    release: ReleaseNumber
    kind: Literal["discard"] = "discard"


@dataclass(frozen=True, slots=True)
class Close:
    """Close the preview, write the receipt, give the environment free."""

    id: str
    kind: Literal["close"] = "close"


Action = (
    ClearSlot
    | Migrate
    | StartReplicas
    | Connect
    | Probe
    | StartControl
    | Snapshot
    | SetSplit
    | KillFlag
    | Commit
    | Discard
    | DiscardControl
    | Close
)


def describe(action: Action) -> str:
    """What the action does, in the present tense, for timelines and progress."""
    match action:
        case ClearSlot(slot=slot):
            return f"clears slot {slot}"
        case Migrate(release=release, version=version):
            return f"brings the database to {version}, which {release} needs"
        case StartReplicas(release=release, slot=slot):
            return f"starts the replicas of {release} in slot {slot}"
        case Connect(release=release):
            return f"connects {release} to the edge"
        case Probe(release=release):
            return f"asks {release} through the preview"
        case StartControl(release=release):
            return f"starts fresh replicas of {release} to compare with"
        case DiscardControl(release=release):
            return f"retires the fresh replicas of {release}"
        case Snapshot():
            return "reads the signals"
        case SetSplit(split=split, fallback=None):
            return f"sets the weights for good: {split}"
        case SetSplit(split=split):
            return f"sets the weights: {split}"
        case KillFlag(flag=flag, variant=variant):
            return f"kills flag {flag}: its variant {variant} is to blame"
        case Commit(release=release):
            return f"makes {release} live"
        case Discard(release=release):
            return f"retires {release}"
        case Close():
            return "writes the receipt"
