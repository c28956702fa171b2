"""Where a migration stands, between its plan and the end of the old shape; and what its contract waits for."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


class Phase(enum.StrEnum):
    """The states of a migration, in their order. The database's own ledger knows those that `RECORDED` names.

    The others follow from the releases: DEPLOYING while one that needs it is a candidate, PROMOTED and SOAKING once it is
    live, CONTRACTABLE when nothing needs the old shape any more.
    """

    PLANNED = "planned"
    LINTED = "linted"
    EXPANDING = "expanding"
    EXPANDED = "expanded"
    BACKFILLING = "backfilling"
    VERIFIED = "verified"
    DEPLOYING = "deploying"
    PROMOTED = "promoted"
    SOAKING = "soaking"
    CONTRACTABLE = "contractable"
    CONTRACTING = "contracting"
    CONTRACTED = "contracted"
    ABORTING = "aborting"
    ABORTED = "aborted"


RECORDED: Final = (
    Phase.EXPANDING,
    Phase.EXPANDED,
    Phase.BACKFILLING,
    Phase.VERIFIED,
    Phase.CONTRACTING,
    Phase.CONTRACTED,
    Phase.ABORTING,
    Phase.ABORTED,
)
OPEN: Final = (
    Phase.EXPANDING,
    Phase.EXPANDED,
    Phase.BACKFILLING,
    Phase.VERIFIED,
    Phase.CONTRACTING,
    Phase.ABORTING,
)
"""Recorded phases of a migration of which both shapes are there, or partly."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one phase. ``rate`` in rows a second, ``eta`` in seconds or None; ``waits`` says why nothing moves, else empty.

    ``total`` is an estimate until the end, 0 when nobody knows it.
    """

    phase: Phase
    subject: str
    done: int
    total: int
    rate: float = 0.0
    eta: float | None = None
    waits: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What a database's ledger says of one migration. Times are epoch seconds, 0.0 for not yet.

    ``position`` counts from 1 in the order of application. ``trouble`` is what stopped it last, with ``samples`` of rows
    (their key as text, and what is wrong with them). ``paused`` is a person's wish. ``contracts`` is False for a migration
    that has nothing to take away. ``reference`` is what its replicas are told: see `Database.environment`.
    """

    version: str
    position: int
    checksum: str
    source: str
    phase: Phase
    expanded: float = 0.0
    verified: float = 0.0
    contracted: float = 0.0
    progress: tuple[Progress, ...] = ()
    paused: bool = False
    trouble: str = ""
    samples: tuple[str, ...] = ()
    contracts: bool = True


@dataclass(frozen=True, slots=True)
class Needing:
    """A release that runs or can be brought back, and the schema version it was made for (empty: from before all).

    ``why`` continues its name: ``is live``, ``is in the rollback window``, ``still runs 2 replicas``. ``runs`` is False for
    one that could only be brought back: an override may give that up, and nothing else.
    """

    release: str
    version: str
    why: str
    runs: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a contract looks at besides the database. ``budget`` and ``rollout`` are sentences when not in order."""

    needing: Sequence[Needing] = ()
    budget: str = ""
    rollout: str = ""
    promoted: bool = True
    facts: Mapping[str, object] = field(default_factory=dict)


def waits_for(record: Record, ledger: Sequence[Record], around: Surroundings) -> tuple[str, ...]:
    """All that a migration's contract waits for, as sentences; empty when it may run now.

    Contract goes from the oldest migration to the newest, for the older shape is below the newer one.
    """
    reasons: list[str] = []
    if record.phase not in (Phase.VERIFIED, Phase.CONTRACTING):
        reasons.append(f"{record.version} is {record.phase}: its backfill must be complete and verified first")
    older = [r.version for r in ledger if r.position < record.position and r.phase in OPEN]
    if older:
        reasons.append(f"{', '.join(older)} must be contracted first")
    if not around.promoted:
        reasons.append(f"no release that needs {record.version} has been promoted yet")
    places = {r.version: r.position for r in ledger}
    reasons += [
        f"{one.release} {one.why} and needs the shape before {record.version}"
        for one in around.needing
        if places.get(one.version, 0) < record.position
    ]
    reasons += [one for one in (around.rollout, around.budget) if one]
    return tuple(reasons)


def too_old(version: str, ledger: Sequence[Record]) -> tuple[str, ...]:
    """Why a release that was made for a version cannot run any more: what it needs has been contracted, or is being."""
    places = {r.version: r.position for r in ledger if r.phase is not Phase.ABORTED}
    mine = places.get(version, 0)
    if version and not mine:
        return (f"migration {version}, which it needs, is not applied any more",)
    gone = [
        r.version
        for r in ledger
        if r.position > mine and r.phase in (Phase.CONTRACTING, Phase.CONTRACTED) and r.contracts
    ]
    if not gone:
        return ()
    return (f"it needs the shape before migration {gone[0]}, which was contracted",)


def standing(
    record: Record, ledger: Sequence[Record], around: Surroundings, candidate: str | None, live: str | None
) -> Phase:
    """The phase as people see it: what the ledger says, and what follows from the releases.

    ``candidate`` and ``live`` are the schema versions of the environment's candidate and live release; None: there is none.
    """
    if record.phase is not Phase.VERIFIED:
        return record.phase
    places = {r.version: r.position for r in ledger}
    reached = live is not None and places.get(live, 0) >= record.position
    if not reached:
        coming = candidate is not None and places.get(candidate, 0) >= record.position
        return Phase.DEPLOYING if coming else Phase.VERIFIED
    if not waits_for(record, ledger, around):
        return Phase.CONTRACTABLE
    return Phase.SOAKING
