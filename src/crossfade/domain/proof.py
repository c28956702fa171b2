"""Proofs: that each release of the rollback window can be restored, found by doing it aside, again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from crossfade.domain.values import EnvKey, ReleaseNumber

SOON: Final = 900.0
"""Seconds until a proof that failed is tried again, or a new release for the first time, at the latest."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at, in a sentence."""

    what: str
    ok: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Tried:
    """When a release was last tried, and when it last was proven (epoch s); None: never."""

    tried: float | None = None
    proven: float | None = None


def next_at(tried: Tried, since: float, every: float) -> float | None:
    """When a release is to be proven next; None: never. ``since`` is when it came to be, ``every`` in seconds, 0: never."""
    if every <= 0:
        return None
    if tried.tried is None:
        return since + min(every, SOON)
    failed = tried.proven is None or tried.proven < tried.tried
    return tried.tried + (min(every, SOON) if failed else every)


def overdue(tried: Tried, since: float, every: float, now: float) -> bool:
    """Whether a release has gone without a proof for twice the time in which it should have had one."""
    return every > 0 and now - (tried.proven if tried.proven is not None else since) > 2 * every


def replica_name(key: EnvKey, number: ReleaseNumber, proof: int) -> str:
    """Of a replica that proves something: no slot has it, so no rollout ever touches it."""
    return f"{key.service}.{key.environment}.{number}.{PROOF}{proof}-1"


PROOF: Final = "proof"


def proves(name: str) -> bool:
    """Whether a replica was started for a proof."""
    parts = name.split(".")
    return len(parts) == 4 and parts[3].startswith(PROOF)
