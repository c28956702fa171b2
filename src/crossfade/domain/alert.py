"""Alerts: that something wants a person, once for one cause, until it is over."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossfade.domain.values import EnvKey


class Severity(enum.StrEnum):
    """How soon a person is wanted: at once, in working hours, or never: it is good to know."""

    PAGE = "page"
    TICKET = "ticket"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Alert:
    """``name`` says what of (``burn:answers``, ``drill:weekly``, ``proof:r12``, ``prober``): one is open per environment and name.

    ``acknowledged`` is who has seen it, empty while nobody has. Times are epoch seconds; ``ended`` is None while it lasts.
    """

    id: int
    key: EnvKey
    name: str
    severity: Severity
    sentence: str
    began: float
    ended: float | None = None
    acknowledged: str = ""
    resolution: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
