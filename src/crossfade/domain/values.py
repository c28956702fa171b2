"""Small values, validated once and typed after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, Self

from crossfade.domain.errors import Invalid

FULL: Final = 10_000
"""All traffic, in basis points."""

_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RELEASE = re.compile(r"r([1-9][0-9]{0,8})")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_name(place: str, text: str) -> str:
    """A service or environment name: 1 to 40 of a-z, 0-9 and '-', first a letter, last no '-'.

    Raises Invalid. The rule keeps names usable as they are in file names, HAProxy proxies and DNS labels.
    """
    if not _NAME.fullmatch(text):
        raise Invalid(place, text, "1 to 40 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'")
    return text


@dataclass(frozen=True, slots=True, order=True)
class EnvKey:
    """One environment of one service: what a rollout moves traffic in. Written ``service/environment``."""

    service: str
    environment: str

    def __post_init__(self) -> None:
        parse_name("service", self.service)
        parse_name("environment", self.environment)

    def __str__(self) -> str:
        return f"{self.service}/{self.environment}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``service/environment``. Raises Invalid."""
        service, slash, environment = text.partition("/")
        if not slash:
            raise Invalid("environment", text, "service/environment, for example bookshop/production")
        return cls(service, environment)


@dataclass(frozen=True, slots=True, order=True)
class Weight:
    """A share of traffic in basis points, 0 … 10 000."""

    bp: int

    def __post_init__(self) -> None:
        if isinstance(self.bp, bool) or not isinstance(self.bp, int) or not 0 <= self.bp <= FULL:
            raise Invalid("weight", self.bp, "a whole number of basis points from 0 to 10000")

    @property
    def rest(self) -> Weight:
        """What remains of all traffic."""
        return Weight(FULL - self.bp)

    def __str__(self) -> str:
        return f"{self.bp / 100:g} %"

    @classmethod
    def parse(cls, text: str | float, place: str = "weight") -> Self:
        """From ``"5%"`` or ``"12.5 %"`` (at most two decimals). Raises Invalid."""
        allowed = "a percentage from 0% to 100% with at most two decimals, for example 5%"
        shown = str(text).strip()
        if not shown.endswith("%"):
            raise Invalid(place, text, allowed)
        try:
            points = float(shown[:-1].strip()) * 100
        except ValueError:
            raise Invalid(place, text, allowed) from None
        if not 0 <= points <= FULL or abs(points - round(points)) > 1e-6:
            raise Invalid(place, text, allowed)
        return cls(round(points))


NOTHING: Final = Weight(0)
EVERYTHING: Final = Weight(FULL)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of an artifact: ``sha256:`` and 64 hex digits over its canonical bytes."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _DIGEST.fullmatch(self.text):
            raise Invalid("digest", self.text, "sha256: followed by 64 hexadecimal digits")

    @property
    def hex(self) -> str:
        return self.text.removeprefix("sha256:")

    @property
    def short(self) -> str:
        return self.hex[:12]

    def __str__(self) -> str:
        return self.text


@total_ordering
@dataclass(frozen=True, slots=True)
class ReleaseNumber:
    """The number of a release of one service, written ``r12``. Starts at 1 and never repeats."""

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise Invalid("release", self.n, "a whole number from 1")

    def __str__(self) -> str:
        return f"r{self.n}"

    def __lt__(self, other: ReleaseNumber) -> bool:
        return self.n < other.n

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``r12``. Raises Invalid."""
        match = _RELEASE.fullmatch(text)
        if not match:
            raise Invalid("release", text, "r followed by its number, for example r12")
        return cls(int(match[1]))


def parse_duration(place: str, text: str | float) -> float:
    """Seconds from ``250ms``, ``30s``, ``1.5m``, ``2h`` or ``1d``. Raises Invalid."""
    match = _DURATION.fullmatch(str(text).strip())
    if not match:
        raise Invalid(place, text, "a number with a unit ms, s, m, h or d, for example 30s")
    return float(match[1]) * _SECONDS[match[2]]


DAY: Final = 86_400.0
"""Seconds."""


def show_duration(seconds: float) -> str:
    """The shortest exact-enough reading: ``340 ms``, ``12.4 s``, ``2 m 05 s``, ``1 h 03 m``."""
    if seconds < 0:
        return "-" + show_duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
