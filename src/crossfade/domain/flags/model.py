"""What a flag set is made of, and what an evaluation comes to.

Flags are flagd's, with an extension of ours that `lowering` translates into flagd's own language. Shares and weights
are in basis points of 0 … 10 000, times are epoch seconds, and logic is JsonLogic as parsed JSON, which nobody changes
once it is here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.domain.values import FULL, ReleaseNumber

TARGETING_KEY: Final = "targetingKey"
"""The attribute of a context that says who asks."""

NEWEST_HASH: Final = 3
"""The hash version of a flag set that names none: that of the newest released evaluator of flagd."""

Json = Any
"""A value of parsed JSON."""

Slice = tuple[int, int]
"""Buckets [begin, end) of the 10 000."""


class Reason(enum.StrEnum):
    """Why a value was given, as OpenFeature names it."""

    STATIC = "STATIC"
    TARGETING_MATCH = "TARGETING_MATCH"
    SPLIT = "SPLIT"
    DISABLED = "DISABLED"
    DEFAULT = "DEFAULT"
    CACHED = "CACHED"
    STALE = "STALE"
    UNKNOWN = "UNKNOWN"
    ERROR = "ERROR"


class ErrorCode(enum.StrEnum):
    """Why no value could be given, as OpenFeature names it."""

    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    PARSE_ERROR = "PARSE_ERROR"
    TARGETING_KEY_MISSING = "TARGETING_KEY_MISSING"
    INVALID_CONTEXT = "INVALID_CONTEXT"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    PROVIDER_NOT_READY = "PROVIDER_NOT_READY"
    GENERAL = "GENERAL"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one flag comes to for one context.

    Without a variant and without an error, the value is the code's own default. With an error there is neither, and
    ``details`` says in a sentence what was wrong.
    """

    key: str
    value: Json
    variant: str | None
    reason: Reason
    metadata: Mapping[str, Json] = field(default_factory=dict)
    error: ErrorCode | None = None
    details: str = ""


@dataclass(frozen=True, slots=True)
class Killed:
    """Somebody or something took the flag off at once: who, when and why."""

    by: str
    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Another flag that must come to one of these variants first."""

    flag: str
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Who gets what by chance: slices of the 10 000 buckets for each variant, in the order they were given out.

    What no slice covers is served ``rest``. ``by`` is the attribute whose value is hashed; who has none gets ``rest``.
    """

    shares: Mapping[str, tuple[Slice, ...]]
    rest: str
    by: str = TARGETING_KEY


@dataclass(frozen=True, slots=True)
class Linear:
    """A share of ``variant`` that moves evenly from ``start`` to ``end`` between two times, and stays there."""

    variant: str
    rest: str
    begins: float
    ends: float
    start: int = 0
    end: int = FULL
    by: str = TARGETING_KEY


@dataclass(frozen=True, slots=True)
class Rule:
    """Serve something to those for whom ``when`` holds (everybody, without it), while it is not paused and in its time.

    ``begins`` and ``ends`` bound the time as [begins, ends).
    """

    name: str
    serve: str | Split | Linear
    when: Json = None
    paused: bool = False
    begins: float | None = None
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A named condition that any flag may use as ``{"segment": name}``."""

    name: str
    when: Json
    description: str = ""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. Without a ``default`` the code's own default is served where nothing else is.

    Asked in this order: enabled, killed, needs, requires, rules, targeting, default. ``off`` is served while it is
    killed or while a need or a prerequisite is not met (the default, without it). ``seed`` is what buckets are drawn
    with (the key, without it): flags with the same seed put the same people into the same buckets.
    """

    key: str
    variants: Mapping[str, Json]
    default: str | None = None
    enabled: bool = True
    targeting: Json = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    description: str = ""
    owner: str = ""
    tags: tuple[str, ...] = ()
    permanent: bool = False
    off: str | None = None
    killed: Killed | None = None
    needs: ReleaseNumber | None = None
    requires: tuple[Prerequisite, ...] = ()
    rules: tuple[Rule, ...] = ()
    seed: str | None = None

    @property
    def off_variant(self) -> str | None:
        """What is served while the flag is taken off."""
        return self.default if self.off is None else self.off

    def rule(self, name: str) -> Rule | None:
        """The rule of that name, if there is one."""
        return next((rule for rule in self.rules if rule.name == name), None)


@dataclass(frozen=True, slots=True)
class FlagSet:
    """All flags of an environment, with what they share: named conditions of flagd, segments of ours, metadata."""

    flags: Mapping[str, Flag] = field(default_factory=dict)
    evaluators: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    segments: Mapping[str, Segment] = field(default_factory=dict)

    @property
    def hash_version(self) -> int:
        """Which of the three hashes of `bucketing` draws the buckets."""
        return int(self.metadata.get("hashVersion", NEWEST_HASH))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a flag may need of its environment: the oldest release that serves there; None while nothing does."""

    release: ReleaseNumber | None = None


NOWHERE: Final = Surroundings()
"""Nothing is known of the environment, and no release serves in it."""
