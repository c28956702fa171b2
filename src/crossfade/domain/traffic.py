"""Where traffic goes: slots, the split between them, who is admitted, and for how long."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Self

from crossfade.domain.errors import Invalid
from crossfade.domain.values import EVERYTHING, FULL, NOTHING, Weight

PREVIEW_HEADER: Final = "X-Crossfade-Preview"
"""The request header whose secret value reaches a candidate whatever the weights."""


class Slot(enum.StrEnum):
    """The two identical halves of an environment."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Slot:
        return Slot.GREEN if self is Slot.BLUE else Slot.BLUE


class Control(enum.StrEnum):
    """The third pool of an environment: fresh replicas of the baseline, to compare a candidate with."""

    CONTROL = "control"


CONTROL: Final = Control.CONTROL
Pool = Slot | Control
"""Where a request may be served."""

POOLS: Final[tuple[Pool, ...]] = (*Slot, CONTROL)


def pool_of(name: str) -> Pool:
    """By its name. Raises ValueError."""
    return CONTROL if name == CONTROL.value else Slot(name)


@dataclass(frozen=True, slots=True)
class Split:
    """How one environment's traffic is divided. ``blue`` and ``green`` always sum to 10 000.

    Stored as green's weight, so that the edge keeps it in one map entry and no reader can ever see a sum other than
    10 000. ``control`` is the share of all requests that the control pool takes, out of that of the slot
    ``control_of``, whose own weight goes on counting it.
    """

    green: Weight
    control: Weight = NOTHING
    control_of: Slot = Slot.BLUE

    def __post_init__(self) -> None:
        own = self.of(self.control_of)
        if self.control.bp > own.bp:
            raise Invalid("control", str(self.control), f"at most the weight of {self.control_of} ({own})")
        if not self.control.bp and self.control_of is not Slot.BLUE:
            object.__setattr__(self, "control_of", Slot.BLUE)  # without a control, nothing is taken from anybody

    @property
    def blue(self) -> Weight:
        return self.green.rest

    def of(self, slot: Slot) -> Weight:
        return self.green if slot is Slot.GREEN else self.blue

    @classmethod
    def giving(cls, slot: Slot, weight: Weight) -> Self:
        """The split in which ``slot`` has ``weight`` and the other slot the rest."""
        return cls(weight if slot is Slot.GREEN else weight.rest)

    @classmethod
    def wholly(cls, slot: Slot) -> Self:
        return cls.giving(slot, EVERYTHING)

    def with_control(self, slot: Slot, share: Weight) -> Split:
        """The same, with a control pool that takes ``share`` of all requests out of those of ``slot``, the baseline.

        Raises Invalid when the slot has not so much.
        """
        return Split(self.green, share, slot)

    @property
    def without_control(self) -> Split:
        return Split(self.green)

    @property
    def code(self) -> int:
        """Green's weight and the control's share and side in one number, as the edge keeps it; green's when alone.

        From there: ``code % 10001`` is green's weight; of ``code // 10001`` the lowest bit says that the control is
        green's, the rest is its share.
        """
        if not self.control.bp:
            return self.green.bp
        return self.green.bp + (FULL + 1) * (2 * self.control.bp + (self.control_of is Slot.GREEN))

    @classmethod
    def from_code(cls, code: int) -> Self:
        """From `code`. Raises Invalid for a number that is none."""
        rest, green = divmod(code, FULL + 1)
        share, of_green = divmod(rest, 2)
        split = cls(Weight(green), Weight(share), Slot.GREEN if of_green else Slot.BLUE)
        if split.code != code:
            raise Invalid("split", code, "green's weight with the control's share and side")
        return split

    def admits(self, bucket: int) -> Pool:
        """The pool that serves a bucket 0 … 9999: green below its weight, else blue; the control has the far end.

        Buckets are admitted to green from the bottom and to blue from the top, so raising either
        slot's weight never evicts a bucket that it already serves. The control takes its slot's buckets from the end
        that the other slot comes to last, so it never has a bucket of the other slot's, and raising its share evicts
        none that it already serves.
        """
        if not 0 <= bucket < FULL:
            raise Invalid("bucket", bucket, "a whole number from 0 to 9999")
        if self.control_of is Slot.BLUE and bucket >= FULL - self.control.bp:
            return CONTROL
        if self.control_of is Slot.GREEN and bucket < self.control.bp:
            return CONTROL
        return Slot.GREEN if bucket < self.green.bp else Slot.BLUE

    @property
    def active(self) -> Slot | None:
        """The slot with all the traffic; None while it is divided."""
        if self.green == EVERYTHING:
            return Slot.GREEN
        if self.green == NOTHING:
            return Slot.BLUE
        return None

    def __str__(self) -> str:
        control = f" (of it control {self.control})" if self.control.bp else ""
        of_blue, of_green = (control, "") if self.control_of is Slot.BLUE else ("", control)
        return f"blue {self.blue}{of_blue} · green {self.green}{of_green}"


@dataclass(frozen=True, slots=True)
class Lease:
    """Until ``expires`` (epoch seconds) the split may stand; after it the edge itself returns to ``fallback``.

    That has no control pool: whoever compared is not there any more.
    """

    expires: float
    fallback: Split

    def __post_init__(self) -> None:
        if self.fallback.control.bp:
            raise Invalid("lease fallback", str(self.fallback), "a split without a control pool")


class StickyBy(enum.StrEnum):
    """What a client's bucket comes from."""

    EDGE_COOKIE = "edge-cookie"  # drawn at random by the edge, kept in its own cookie while traffic is divided
    HEADER = "header"  # a hash of a request header
    COOKIE = "cookie"  # a hash of an application's cookie
    NOTHING = "nothing"  # drawn anew for each request


@dataclass(frozen=True, slots=True)
class Sticky:
    """How requests of one client keep their bucket. ``name`` is the header or cookie, empty otherwise."""

    by: StickyBy = StickyBy.EDGE_COOKIE
    name: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """A replica as the edge sees it."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Exact counts of one slot since the edge's segment began; only ever compared by difference.

    ``requests``: responses sent. ``errors``: failed requests as clients saw them (5xx of the application
    or the edge, and broken responses), each counted once. ``by_cause``: named parts of ``errors``.
    ``retries``: requests the edge sent again. ``open``: requests and connections in flight (a gauge).
    """

    requests: int = 0
    errors: int = 0
    retries: int = 0
    open: int = 0
    by_cause: tuple[tuple[str, int], ...] = ()

    def since(self, earlier: Counters) -> Counters:
        """What came after ``earlier``; gauges stay as they are now. Never negative."""
        before = dict(earlier.by_cause)
        return Counters(
            requests=max(0, self.requests - earlier.requests),
            errors=max(0, self.errors - earlier.errors),
            retries=max(0, self.retries - earlier.retries),
            open=self.open,
            by_cause=tuple(
                (cause, count - before.get(cause, 0)) for cause, count in self.by_cause if count > before.get(cause, 0)
            ),
        )

    def plus(self, other: Counters) -> Counters:
        causes = dict(self.by_cause)
        for cause, count in other.by_cause:
            causes[cause] = causes.get(cause, 0) + count
        return Counters(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            retries=self.retries + other.retries,
            open=other.open,
            by_cause=tuple(sorted(causes.items())),
        )
