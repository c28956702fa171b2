"""Notices: what people are told, by whom it is wanted, how often, and how long it is tried.

A notice is about one thing (``alert-12``, ``rollout-8``). What is told of that thing is told once for each of its states and
severities; that it is over is told to those only who were told that it began.
"""

from __future__ import annotations

import enum
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from crossfade.domain.alert import Severity
from crossfade.domain.errors import Invalid
from crossfade.domain.values import EnvKey

KINDS: Final = ("alert", "rollout", "run", "watch", "drill", "summary", "test")
"""What a notice may be of."""

LONGEST_TITLE: Final = 200
LONGEST_SENTENCE: Final = 1000
LARGEST_FACTS: Final = 8_000
"""Characters of a notice's facts as JSON; larger ones are left out."""

KNOWN_FOR: Final = 86_400.0
"""Seconds for which the same thing is not told again."""

STORM: Final = 20
"""Notices that one target gets in `STORM_SPAN` seconds; what goes beyond is told as one summary."""
STORM_SPAN: Final = 60.0
MOST_SUMMED: Final = 10
"""Notices that a summary quotes."""

FIRST_PAUSE: Final = 2.0
"""Seconds before the second try; each pause after it is twice as long."""
LONGEST_PAUSE: Final = 600.0
MOST_REFUSALS: Final = 3
"""Tries of what a target refuses: it may be because its far side is just being changed."""
TRIED_FOR: Final = {Severity.PAGE: 6 * 3600.0, Severity.TICKET: 2 * 3600.0, Severity.INFO: 1800.0}
"""Seconds until a target that does not answer is given up."""


class State(enum.StrEnum):
    """What became of the thing. Most things just happen; what lasts is opened, may be reminded of, and is resolved."""

    HAPPENED = "happened"
    OPENED = "opened"
    REMINDER = "reminder"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Notice:
    """``about`` names the thing; what makes it another occurrence belongs into the name. ``at`` is epoch seconds.

    ``kind`` is one of `KINDS`; ``title`` a few words, ``sentence`` what a person wants to know; ``url`` where there is more.
    ``facts`` are JSON-ready, and hold no secrets. ``nth`` counts reminders.
    """

    about: str
    at: float
    severity: Severity
    kind: str
    key: EnvKey
    title: str
    sentence: str
    state: State = State.HAPPENED
    url: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    nth: int = 0

    @property
    def type(self) -> str:
        """``crossfade.alert.opened``"""
        return f"crossfade.{self.kind}.{self.state}"

    @property
    def time(self) -> str:
        """In UTC, as RFC 3339 has it."""
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def to_data(self) -> dict[str, Any]:
        """JSON-ready, with everything that is too long cut."""
        facts = dict(self.facts)
        if len(json.dumps(facts, default=str)) > LARGEST_FACTS:
            facts = {"left_out": "the facts are too many to be sent"}
        return {
            "about": self.about,
            "at": self.at,
            "severity": self.severity.value,
            "kind": self.kind,
            "service": self.key.service,
            "environment": self.key.environment,
            "title": line(self.title, LONGEST_TITLE),
            "sentence": line(self.sentence, LONGEST_SENTENCE),
            "state": self.state.value,
            "url": self.url,
            "facts": facts,
            "nth": self.nth,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Notice:
        """What `to_data` gave."""
        return cls(
            data["about"],
            data["at"],
            Severity(data["severity"]),
            data["kind"],
            EnvKey(data["service"], data["environment"]),
            data["title"],
            data["sentence"],
            State(data["state"]),
            data["url"],
            data["facts"],
            data["nth"],
        )


def line(text: str, longest: int) -> str:
    """On one line, without signs that nobody can see, and no longer than that."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def mark(target: str, notice: Notice) -> str:
    """Under which name it is known that a target was told: the same notice has the same one."""
    nth = f"-{notice.nth}" if notice.state is State.REMINDER else ""
    return f"{target} {notice.about} {notice.state}{nth} {notice.severity}"


def openings(target: str, notice: Notice) -> tuple[str, ...]:
    """The names under which a target may have been told that the thing of a notice began."""
    return tuple(f"{target} {notice.about} {State.OPENED} {severity}" for severity in Severity)


# --- to whom


@dataclass(frozen=True, slots=True)
class Route:
    """Whom a notice goes to when everything that is said of it holds; what is empty holds always.

    ``places`` are environments, in which ``*`` stands for any letters: ``bookshop/*``.
    """

    to: tuple[str, ...]
    severities: frozenset[Severity] = frozenset()
    kinds: frozenset[str] = frozenset()
    places: tuple[str, ...] = ()

    def takes(self, notice: Notice) -> bool:
        """Whether a notice is meant."""
        return (
            (not self.severities or notice.severity in self.severities)
            and (not self.kinds or notice.kind in self.kinds)
            and (not self.places or any(_meant(place, str(notice.key)) for place in self.places))
        )


def recipients(routes: Sequence[Route], notice: Notice) -> tuple[str, ...]:
    """The targets of every route that takes a notice, each once, in the order in which they are named first."""
    return tuple(dict.fromkeys(name for route in routes if route.takes(notice) for name in route.to))


def _meant(pattern: str, place: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), place) is not None


# --- in which words


NAMES: Final = ("title", "sentence", "mark", "severity", "state", "kind", "service", "environment", "url", "at")
"""What ``{…}`` may stand for in a template."""
MARKS: Final = {State.OPENED: "", State.HAPPENED: "", State.REMINDER: "Still open: ", State.RESOLVED: "Resolved: "}


@dataclass(frozen=True, slots=True)
class Template:
    """Text with names in braces, and nothing else that could be carried out. Made by `parse`."""

    parts: tuple[tuple[str, str], ...]
    """Text, and the name that follows it; an empty name at the end."""

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises Invalid for names that there are not, and for braces that do not match."""
        allowed = f"text with {{…}} of {', '.join(NAMES)}; a brace itself is written twice"
        try:
            parts = [(before, name, bool(form or turned)) for before, name, form, turned in _pieces(text)]
        except ValueError:
            raise Invalid("template", text, allowed) from None
        for _, name, more in parts:
            if more or (name is not None and name not in NAMES):
                raise Invalid("template", f"{{{name}}}", allowed)
        return cls(tuple((before, name or "") for before, name, _ in parts))

    def fill(self, notice: Notice) -> str:
        """With what a notice says. A value is put in as it is: nothing in it is looked at again."""
        values = {
            "title": line(notice.title, LONGEST_TITLE),
            "sentence": line(notice.sentence, LONGEST_SENTENCE),
            "mark": MARKS[notice.state],
            "severity": notice.severity.value,
            "state": notice.state.value,
            "kind": notice.kind,
            "service": str(notice.key.service),
            "environment": str(notice.key.environment),
            "url": notice.url,
            "at": notice.time,
        }
        return "".join(before + (values[name] if name else "") for before, name in self.parts)


def _pieces(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    return list(string.Formatter().parse(text))


@dataclass(frozen=True, slots=True)
class Templates:
    """What a notice's subject is, and the text under it."""

    subject: Template = field(default_factory=lambda: Template.parse("{mark}{service}/{environment}: {title}"))
    text: Template = field(
        default_factory=lambda: Template.parse("{sentence}\n\n{service}/{environment}, {severity}, {at}\n{url}")
    )


# --- when


def again(severity: Severity, tries: int, refused: bool, began: float, now: float, chance: float) -> float | None:
    """When to try again what has been tried ``tries`` times since it ``began``; None: it is given up.

    ``refused``: the target has said no, which another try seldom changes. ``chance`` is drawn from 0…1, so that many
    that failed together are not tried again together. The pause is `FIRST_PAUSE` · 2^(tries-1), at most `LONGEST_PAUSE`, times
    0.5 to 1.5.
    """
    if refused and tries >= MOST_REFUSALS:
        return None
    pause = min(FIRST_PAUSE * 2.0 ** min(tries - 1, 30), LONGEST_PAUSE) * (0.5 + chance)
    return now + pause if now + pause <= began + TRIED_FOR[severity] else None


def reminder(began: float, repeat: float, now: float) -> int:
    """How many reminders of something that began then are due by now."""
    return max(0, int((now - began) // repeat)) if repeat > 0 else 0


def stormy(told: Sequence[float], now: float) -> bool:
    """Whether a target that was told of something at these times has had enough for now."""
    return sum(now - STORM_SPAN < at <= now for at in told) >= STORM


def summary(notices: Sequence[Notice], first: int, now: float) -> Notice:
    """Many notices in one, as severe as the worst of them. ``first`` is the number of the first of them."""
    worst = min(notices, key=lambda notice: tuple(Severity).index(notice.severity))
    quoted = [f"{MARKS[one.state]}{one.key}: {one.title}" for one in notices[:MOST_SUMMED]]
    more = len(notices) - len(quoted)
    tail = f"; and {more} more" if more else ""
    return Notice(
        f"summary-{first}",
        now,
        worst.severity,
        "summary",
        worst.key,
        f"{len(notices)} more notices",
        f"So much is told that {len(notices)} notices are told in one: {'; '.join(quoted)}{tail}.",
        url=worst.url,
        facts={"notices": len(notices)},
    )
