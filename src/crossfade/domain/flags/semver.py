"""Versions as flagd's ``sem_ver`` compares them: semver 2.0 with a ``v`` in front, or with parts left out, allowed."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from crossfade.domain.flags.model import Json

_NUMBER = r"(?:0|[1-9]\d*)"
_LABEL = r"(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = re.compile(
    rf"({_NUMBER})(?:\.({_NUMBER}))?(?:\.({_NUMBER}))?(?:-({_LABEL}(?:\.{_LABEL})*))?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
LONGEST: Final = 256
"""Characters of a version: more are none."""

Label = tuple[int, int, str]


class Version(NamedTuple):
    """In the order of precedence: a release comes after its pre-releases, and what was built makes no difference."""

    major: int
    minor: int
    patch: int
    release: bool
    labels: tuple[Label, ...]


def parse(value: Json) -> Version | None:
    """None for what is no version."""
    if not isinstance(value, (str, int, float)) or (isinstance(value, int) and abs(value) >= 10**LONGEST):
        return None
    text = value if isinstance(value, str) else str(value)
    if len(text) > LONGEST:
        return None
    match = _VERSION.fullmatch(text[1:] if text[:1] in ("v", "V") else text)
    if match is None:
        return None
    major, minor, patch, labels = match.groups()
    # A number is less than any word, and of two numbers the lesser is less.
    ordered = tuple((0, int(one), "") if one.isdigit() else (1, 0, one) for one in labels.split(".")) if labels else ()
    return Version(int(major), int(minor or 0), int(patch or 0), not labels, ordered)


COMPARISONS: Final[Mapping[str, Callable[[Version, Version], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "^": lambda one, other: one.major == other.major,
    "~": lambda one, other: one[:2] == other[:2],
}


def compare(one: Json, comparison: Json, other: Json) -> bool | None:
    """None where either is no version, or the comparison is none."""
    left, right = parse(one), parse(other)
    holds = COMPARISONS.get(comparison) if isinstance(comparison, str) else None
    return None if left is None or right is None or holds is None else holds(left, right)
