"""Those who are told: each target has a courier, and what is known of rollouts and runs may go to a collector of traces."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from crossfade.domain.notice import Notice
from crossfade.domain.trace import Span


class Result(enum.StrEnum):
    """What came of a try: it is told, it is worth another try, or the target does not want it."""

    SENT = "sent"
    LATER = "later"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target said. ``sentence`` is for people, and has neither secrets nor the paths of URLs.

    ``after``: seconds that the target wants to be left alone. ``digest`` is that of the body that was sent.
    """

    result: Result
    sentence: str
    after: float | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One try. ``id`` is the same for every try of the same notice to the same target; ``now`` is epoch seconds."""

    id: str
    notice: Notice
    now: float


class Courier(Protocol):
    """Carries notices to one target."""

    @property
    def people(self) -> bool:
        """Whether people read it: they get reminders, and a summary when there is too much. Programs get each event once."""

    def takes(self, notice: Notice) -> bool:
        """Whether the target has words for it."""

    def carry(self, dispatch: Dispatch) -> Answer:
        """Try once, within some 30 s. Never raises."""


class Tracer(Protocol):
    """Carries spans to a collector."""

    def export(self, spans: Sequence[Span]) -> Answer:
        """Try once, within some 30 s. Never raises. Sending the same spans again changes nothing."""
