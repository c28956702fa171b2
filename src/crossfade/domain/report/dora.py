"""The five measures of DORA, each with its n. Medians and the ninth decile; null where there is no case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crossfade.domain.report.deployments import Deployment, Failure
from crossfade.domain.report.figure import Spread, rounded, share
from crossfade.domain.report.span import DAY, Span
from crossfade.domain.values import ReleaseNumber


@dataclass(frozen=True, slots=True)
class Dora:
    """Durations in seconds. ``days``: how long the time is that the frequency is of, as far as it is known and over; at least one.

    ``deployments`` were promoted, ``tried`` have ended one way or the other: of these are ``failed``, ``exposed`` and ``fixes``.
    """

    lead_time: Spread
    deployments: int
    days: float
    tried: int
    failed: int
    exposed: int
    recovery: Spread
    unrecovered: int
    fixes: int

    @property
    def per_day(self) -> float | None:
        """None in a time without any: nothing can be said of a month in which nobody deployed."""
        return self.deployments / self.days if self.deployments and self.days > 0 else None

    def to_data(self) -> dict[str, Any]:
        """With shares 0…1 and durations in seconds."""
        unexposed = self.failed - self.exposed
        return {
            "lead_time": self.lead_time.to_data(),
            "frequency": {"n": self.deployments, "per_day": rounded(self.per_day, 4), "days": rounded(self.days, 4)},
            "fail_rate": {
                "n": self.tried,
                "failed": self.failed,
                "share": rounded(share(self.failed, self.tried), 6),
                "exposed": {"failed": self.exposed, "share": rounded(share(self.exposed, self.tried), 6)},
                "unexposed": {"failed": unexposed, "share": rounded(share(unexposed, self.tried), 6)},
            },
            "recovery": {**self.recovery.to_data(), "open": self.unrecovered},
            "rework": {"n": self.tried, "fixes": self.fixes, "share": rounded(share(self.fixes, self.tried), 6)},
        }


def measure(
    deployments: Iterable[Deployment], failed: Sequence[Failure], span: Span, now: float, since: float | None = None
) -> Dora:
    """The measures of those that began in the span. ``failed`` are the failures of it, and of the time before it.

    ``since``: when the first day of it began that is known; the span when None.
    """
    first, until = span.begins if since is None else since, span.until(now)
    mine = [one for one in deployments if one.counts and span.has(one.began)]
    promoted = [one for one in mine if one.promoted]
    ids = {one.id for one in mine}
    failures = [failure for failure in failed if failure.deployment.id in ids]
    exposed = [failure for failure in failures if failure.exposed]
    known = [failure.recovery for failure in exposed if failure.recovery is not None]
    return Dora(
        Spread.of(lead_times(promoted)),
        len(promoted),
        max(1.0, (until - first) / DAY) if until > first else 0.0,
        len(mine),
        len(failures),
        len(exposed),
        Spread.of(known),
        len(exposed) - len(known),
        sum(_is_fix(one, failed) for one in mine),
    )


def lead_times(promoted: Iterable[Deployment]) -> list[float]:
    """Seconds from commit to production, of the first promotion of each release whose commit is known."""
    seen, found = set(), []
    for one in sorted(promoted, key=lambda one: (one.began, one.id)):
        again = one.baseline is not None and ReleaseNumber.parse(one.release) < ReleaseNumber.parse(one.baseline)
        if (one.key, one.release) in seen or again:
            continue  # what is deployed again was in production before
        seen.add((one.key, one.release))
        if one.committed is not None and one.switched is not None:
            found.append(max(0.0, one.switched - one.committed))
    return found


def _is_fix(one: Deployment, failed: Sequence[Failure]) -> bool:
    """Marked as one, or begun within the watch after another deployment of the environment has failed."""
    return one.fix or any(
        failure.deployment.key == one.key
        and failure.deployment.id != one.id
        and failure.at <= one.began <= failure.at + failure.deployment.watch
        for failure in failed
    )
