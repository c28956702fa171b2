"""Incidents: times in which clients of an environment were harmed or about to be, put together from all that tells of them.

Nobody has to write one down. Pages, rollouts that failed with traffic, watches that rolled back and bad stretches at the edge
are pieces; pieces of one environment that overlap, or nearly touch, are one incident. Laws: to merge what was merged changes
nothing, the order of the pieces makes no difference, and no two incidents of an environment overlap.
"""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from crossfade.domain.report.availability import BIN, Stretch
from crossfade.domain.report.deployments import MARKED, Deployment, Failure
from crossfade.domain.report.figure import Spread, rounded
from crossfade.domain.values import EnvKey

JOIN: Final = 60.0
"""Seconds between two pieces that are one incident all the same: histories are no finer after a day."""


class Source(enum.StrEnum):
    """What tells of it; what comes first says best what it was."""

    ROLLOUT = "rollout"
    WATCH = "watch"
    ALERT = "alert"
    EDGE = "edge"


EXACT: Final = (Source.ROLLOUT, Source.WATCH)
"""Those who know a moment as it was. The edge's counts know the minute, and a page comes after what it is about."""


class How(enum.StrEnum):
    """How an incident ended."""

    ROLLBACK = "automatic rollback"
    KILL = "kill flag"
    PERSON = "person"
    ITSELF = "by itself"
    OPEN = "not over"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one source tells. Epoch seconds; ``ends`` None: not over. ``noticed``: by Crossfade; None: it was not.

    ``id``: of the rollout or the record, 0 for the edge's counts. ``rollout``: what is to blame, 0: not known. ``share``: the most of the traffic that was exposed, 0…1.
    ``failed``: requests; None: nobody knows.
    """

    key: EnvKey
    source: Source
    id: int
    begins: float
    ends: float | None
    what: str
    noticed: float | None = None
    release: str = ""
    share: float = 1.0
    failed: float | None = None
    how: How = How.ITSELF
    rollout: int = 0

    @property
    def order(self) -> tuple[Any, ...]:
        """One order of all pieces, whatever came first."""
        ends = math.inf if self.ends is None else self.ends
        return self.begins, ends, list(Source).index(self.source), self.id, repr(self)


@dataclass(frozen=True, slots=True)
class Incident:
    """Pieces of one environment, in order. ``drill``: the number of the drill in which it was, 0: none."""

    pieces: tuple[Piece, ...]
    returned: bool | None = None
    drill: int = 0

    @property
    def key(self) -> EnvKey:
        return self.pieces[0].key

    @property
    def begins(self) -> float:
        return min(self._begins(piece) for piece in self.pieces)

    @property
    def reach(self) -> float:
        """Until when something of it is known; infinite while a piece is not over."""
        return max(math.inf if piece.ends is None else piece.ends for piece in self.pieces)

    @property
    def ends(self) -> float | None:
        """When the harm was over. An alert ends later, when its windows have forgotten: it counts where nothing else tells."""
        telling = [piece for piece in self.pieces if piece.source is not Source.ALERT] or list(self.pieces)
        ends = [self._ends(piece) for piece in telling]
        return None if None in ends else max(end for end in ends if end is not None)

    @property
    def _exact(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.pieces if piece.source in EXACT)

    def _begins(self, piece: Piece) -> float:
        """The edge knows the minute in which it began; whoever knows the moment in that minute knows better."""
        if piece.source is not Source.EDGE:
            return piece.begins
        return min(
            (one.begins for one in self._exact if 0 <= one.begins - piece.begins < BIN),
            default=piece.begins,
        )

    def _ends(self, piece: Piece) -> float | None:
        """The same of its end."""
        if piece.source is not Source.EDGE or piece.ends is None:
            return piece.ends
        return max(
            (one.ends for one in self._exact if one.ends is not None and 0 <= piece.ends - one.ends < BIN),
            default=piece.ends,
        )

    def within(self, begins: float, ends: float) -> bool:
        """Whether it began in a time, as exactly as is known: the harm that a page is about began before the page."""
        if self._exact:
            return begins <= self.begins <= ends
        if any(piece.source is Source.EDGE for piece in self.pieces):
            return begins - BIN < self.begins <= ends
        return begins <= self.begins <= ends + JOIN

    @property
    def noticed(self) -> float | None:
        return min((piece.noticed for piece in self.pieces if piece.noticed is not None), default=None)

    @property
    def leading(self) -> Piece:
        """The one that says best what it was."""
        return min(self.pieces, key=lambda piece: (list(Source).index(piece.source), piece.order))

    @property
    def share(self) -> float:
        """Of the traffic that was exposed. A rollout knows how much its candidate had, whatever else tells of it."""
        of = [piece.share for piece in self.pieces if piece.source is Source.ROLLOUT]
        return max(of or [piece.share for piece in self.pieces])

    @property
    def failed(self) -> float | None:
        """Requests; the most that one kind of source knows, so that none is counted twice."""
        by: dict[Source, float] = {}
        for piece in self.pieces:
            if piece.failed is not None:
                by[piece.source] = by.get(piece.source, 0.0) + piece.failed
        return max(by.values(), default=None)

    @property
    def how(self) -> How:
        if self.ends is None:
            return How.OPEN
        last = [piece.how for piece in self.pieces if piece.how not in (How.ITSELF, How.OPEN)]
        if last:
            return last[-1]
        if self.returned is not None:
            return How.ROLLBACK if self.returned else How.PERSON
        return How.ITSELF

    def detection(self) -> float | None:
        """Seconds from its beginning until it was noticed; None: it was not."""
        return None if self.noticed is None else max(0.0, self.noticed - self.begins)

    def duration(self, now: float) -> float:
        """Seconds; so far, of one that is not over."""
        return max(0.0, (self.ends if self.ends is not None else now) - self.begins)

    def to_data(self, now: float) -> dict[str, Any]:
        """As it is told. ``repair``: seconds from being noticed to its end."""
        leading, noticed, ends = self.leading, self.noticed, self.ends
        return {
            "service": self.key.service,
            "environment": self.key.environment,
            "begins": rounded(self.begins),
            "ends": rounded(ends),
            "duration": rounded(self.duration(now)),
            "what": leading.what,
            "release": next((piece.release for piece in (leading, *self.pieces) if piece.release), None),
            "failed": rounded(self.failed, 0),
            "share": rounded(self.share, 6),
            "how": self.how.value,
            "detection": rounded(self.detection()),
            "repair": rounded(max(0.0, ends - noticed) if ends is not None and noticed is not None else None),
            "drill": self.drill or None,
            "rollouts": sorted({piece.rollout for piece in self.pieces if piece.rollout}),
            "sources": [{"source": piece.source.value, "id": piece.id or None} for piece in self.pieces],
        }


def merge(pieces: Iterable[Piece]) -> tuple[Incident, ...]:
    """The incidents of all environments, by their beginning."""
    by_key: dict[EnvKey, list[Piece]] = defaultdict(list)
    for piece in set(pieces):
        by_key[piece.key].append(piece)
    merged = []
    for mine in by_key.values():
        group: list[Piece] = []
        reach = -math.inf
        for piece in sorted(mine, key=lambda piece: piece.order):
            if group and piece.begins > reach + JOIN:
                merged.append(Incident(tuple(group)))
                group, reach = [], -math.inf
            reach = max(reach, math.inf if piece.ends is None else piece.ends)
            group.append(piece)
        merged.append(Incident(tuple(group)))
    return tuple(sorted(merged, key=lambda one: (one.begins, one.key)))


# --- what tells of them


def of_failure(failure: Failure) -> Piece | None:
    """A deployment that failed with clients on it; None when there were none."""
    if failure.begins is None:
        return None
    one = failure.deployment
    # What was promoted had everybody.
    share = 1.0 if one.promoted else one.share
    how = How.ROLLBACK if failure.automatic else How.PERSON
    ends, release = failure.recovered, one.release
    what = f"{release} {failure.why}" if one.promoted else f"{release} went back: {failure.why}"
    noticed = max(failure.at, failure.begins) if failure.why != MARKED else None
    failed = None if one.failed is None else float(one.failed)
    return Piece(
        one.key, Source.ROLLOUT, one.id, failure.begins, ends, what, noticed, release, share, failed, how, one.id
    )


def of_kills(one: Deployment) -> Iterator[Piece]:
    """The times before flags were killed for what a candidate's clients saw."""
    for kill in one.kills:
        failed = None if kill.failed is None else float(kill.failed)
        what = f"{kill.target} did harm in {one.release}: {kill.why}"
        yield Piece(
            one.key,
            Source.ROLLOUT,
            one.id,
            kill.begins,
            kill.at,
            what,
            kill.at,
            one.release,
            one.share,
            failed,
            How.KILL,
            one.id,
        )


def of_stretch(key: EnvKey, one: Stretch) -> Piece:
    """A bad stretch at the edge."""
    what = f"{one.bad / one.total:.1%} of {one.total:.0f} requests failed"
    return Piece(key, Source.EDGE, 0, one.begins, one.ends, what, failed=one.bad)


def concluded(
    one: Incident, rollbacks: Iterable[Deployment], drills: Iterable[tuple[int, EnvKey, float, float]]
) -> Incident:
    """With the rollback that ended it, where no piece knows one, and with the drill in which it was.

    ``drills``: number, environment, begin and end.
    """
    end = one.ends if one.ends is not None else math.inf
    back = (
        r
        for r in rollbacks
        if r.key == one.key and r.promoted and r.switched is not None and one.begins <= r.switched <= end + JOIN
    )
    last = max(back, key=lambda r: (r.switched or 0.0, r.id), default=None)
    within = (id for id, key, begins, ends in drills if key == one.key and one.within(begins, ends))
    return replace(one, returned=last.automatic if last is not None else None, drill=min(within, default=0))


def tell(found: Sequence[Incident], now: float) -> dict[str, Any]:
    """All of them, newest first, and how long they took. Those of drills are told, and counted apart."""
    real = [one for one in found if not one.drill]
    detections = [one.detection() for one in real]
    return {
        "n": len(real),
        "in_drills": len(found) - len(real),
        "open": sum(one.ends is None for one in real),
        "failed": rounded(sum(one.failed or 0.0 for one in real), 0) if real else None,
        "unnoticed": sum(detection is None for detection in detections),
        "detection": Spread.of(seconds for seconds in detections if seconds is not None).to_data(),
        "duration": Spread.of(one.duration(now) for one in real if one.ends is not None).to_data(),
        "list": [one.to_data(now) for one in reversed(found)],
    }
