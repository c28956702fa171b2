"""What scanners found: which of it is new, which is known or tolerated, and whether the rest is too much."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.pipeline.plan import LEVELS, Gate, Outcome

MOST_SHOWN: Final = 50
"""How many findings are shown."""

VERSION: Final = 1
"""Of the baseline's format."""

_RANK: Final = {"none": -1, **{level: rank for rank, level in enumerate(LEVELS)}}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a scanner. ``level`` is none, note, warning or error; ``line`` 0 when there is none.

    ``mark`` is what knows it again after lines have moved: the tool's own fingerprint, or the text of the line.
    ``suppressed``: the code itself, or the tool's settings, say that it is tolerated.
    """

    tool: str
    rule: str
    level: str
    path: str
    line: int
    message: str
    mark: str
    suppressed: bool = False

    @property
    def fingerprint(self) -> str:
        """The same for the same finding, wherever in its file it stands."""
        parts = json.dumps([self.tool, self.rule, self.path, self.mark])
        return hashlib.sha256(parts.encode()).hexdigest()[:32]

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}" if self.line and self.path else self.path

    def __str__(self) -> str:
        return f"{self.place + ': ' if self.place else ''}{self.level} {self.rule}: {self.message}"

    def tolerated(self, allow: Sequence[str]) -> bool:
        """Whether a list names the rule, or the rule in this file: ``S101``, ``S101:tests/test_cart.py``."""
        return self.rule in allow or f"{self.rule}:{self.path}" in allow


def counts(gate: Gate, findings: Iterable[Finding]) -> list[Finding]:
    """Those that a gate minds: at its level or above, neither suppressed nor allowed."""
    least = _RANK[gate.level]
    return [
        one for one in findings if _RANK[one.level] >= least and not one.suppressed and not one.tolerated(gate.allow)
    ]


def decide_findings(
    what: str,
    tools: Sequence[str],
    findings: Sequence[Finding],
    baseline: Mapping[str, int] | None,
    gate: Gate,
    *,
    broken: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Outcome:
    """Whether nothing new was found. ``baseline`` counts known findings by fingerprint; None: there is none.

    ``tools`` are those that ran. ``broken`` are sentences about tools that did not run to their end: no finding of theirs
    means nothing.
    """
    if not tools:
        return Outcome(False, f"{what} tells of no tool that has run", "no-data", tuple(notes), {"findings": 0})
    minded = counts(gate, findings)
    left = Counter(dict(baseline or {}))
    new: list[Finding] = []
    for one in sorted(minded, key=lambda one: (-_RANK[one.level], one.path, one.line, one.rule)):
        if left[one.fingerprint] > 0:
            left[one.fingerprint] -= 1
        else:
            new.append(one)
    known, gone = len(minded) - len(new), sum(left.values())
    suppressed = sum(one.suppressed for one in findings)
    allowed = sum(one.tolerated(gate.allow) and not one.suppressed for one in findings)
    below = len(findings) - len(minded) - suppressed - allowed
    levels = Counter(one.level for one in new)
    numbers: dict[str, Any] = {
        "tools": list(tools),
        "findings": len(findings),
        "new": len(new),
        "known": known,
        "gone": gone,
        "suppressed": suppressed,
        "allowed": allowed,
        "below": below,
        "levels": {level: levels[level] for level in reversed(LEVELS) if levels[level]},
    }
    aside = []
    if baseline is not None:
        aside.append(f"{known} known {'one is' if known == 1 else 'ones are'} in the baseline")
    aside += [f"{suppressed} suppressed"] if suppressed else []
    aside += [f"{allowed} allowed"] if allowed else []
    aside += [f"{below} below {gate.level}"] if below else []
    beside = f"; {', '.join(aside)}" if aside else ""
    details = [*broken, *(f"{one}  [allow: {one.rule}]" for one in new[:MOST_SHOWN])]
    details += [f"and {len(new) - MOST_SHOWN} more"] if len(new) > MOST_SHOWN else []
    details += [f"{gone} of the baseline are gone: it can be written anew"] if gone else []
    details += notes
    names = ", ".join(dict.fromkeys(tools))
    head = f"{what} ({names})"
    if broken:
        return Outcome(False, f"{head}: {broken[0]}", "fail", tuple(details), numbers)
    if new:
        kind = "new finding" if baseline is not None else "finding"
        many = ", ".join(f"{count} {level}" for level, count in numbers["levels"].items())
        sentence = f"{len(new)} {kind}{'' if len(new) == 1 else 's'} ({many}){beside}: {new[0]}"
        return Outcome(False, f"{head}: {sentence}", "fail", tuple(details), numbers)
    kind = "nothing new" if baseline is not None else "no finding"
    level = "" if gate.level == LEVELS[0] else f" of level {gate.level} or above"
    return Outcome(True, f"{head}: {kind}{level}{beside}", "", tuple(details), numbers)


# --- the baseline


def baseline_of(findings: Iterable[Finding]) -> dict[str, Any]:
    """The document that a baseline is: findings with their fingerprints, each counted, in an order that stays."""
    by: dict[str, list[Finding]] = {}
    for one in findings:
        by.setdefault(one.fingerprint, []).append(one)
    rows = [
        {
            "fingerprint": fingerprint,
            "count": len(those),
            "tool": those[0].tool,
            "rule": those[0].rule,
            "path": those[0].path,
            "message": those[0].message,
        }
        for fingerprint, those in by.items()
    ]
    rows.sort(key=lambda row: (row["path"], row["rule"], row["tool"], row["fingerprint"]))
    return {"version": VERSION, "findings": rows}


def known_findings(place: str, document: Any) -> dict[str, int]:
    """How often each fingerprint is tolerated. Raises Invalid for what `baseline_of` has not made."""
    allowed = "a baseline as `crossfade gate sarif REPORT --write-baseline FILE` writes it"
    if not isinstance(document, dict) or document.get("version") != VERSION or isinstance(document["version"], bool):
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise Invalid(place, found, f"{allowed} (version {VERSION})")
    rows = document.get("findings")
    if not isinstance(rows, list):
        raise Invalid(f"{place}: findings", rows, allowed)
    known: dict[str, int] = {}
    for at, row in enumerate(rows):
        fingerprint = row.get("fingerprint") if isinstance(row, dict) else None
        count = row.get("count") if isinstance(row, dict) else None
        if not isinstance(fingerprint, str) or isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise Invalid(f"{place}: findings.{at}", row, allowed)
        known[fingerprint] = known.get(fingerprint, 0) + count
    return known


# --- what is known of the parts that a service is made of


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A known weakness of a part: its identifiers, the first the one it is called by, and what to do."""

    part: str
    version: str
    names: tuple[str, ...]
    advice: str = ""

    def __str__(self) -> str:
        others = f" ({', '.join(self.names[1:4])})" if len(self.names) > 1 else ""
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.part} {self.version}: {self.names[0]}{others}{advice}"


def decide_audit(
    what: str,
    parts: int,
    found: Sequence[Vulnerability],
    unknown: Mapping[str, str],
    gate: Gate,
    *,
    aside: int = 0,
) -> Outcome:
    """Whether no part has a known weakness. ``unknown`` maps parts that were not looked at to why: these are never clean.

    The gate's ``allow`` names weaknesses, by any of their identifiers, and parts that need not be looked at. ``aside`` counts
    what the report itself says is no danger here.
    """
    minded = [one for one in found if not set(one.names) & set(gate.allow)]
    left = {part: why for part, why in unknown.items() if part not in gate.allow}
    allowed = len(found) - len(minded)
    numbers = {
        "parts": parts,
        "vulnerabilities": len(minded),
        "allowed": allowed,
        "unknown": len(left),
        "aside": aside,
    }
    beside = [f"{allowed} allowed"] if allowed else []
    beside += [f"{aside} said to be no danger here"] if aside else []
    beside += [f"{len(unknown) - len(left)} parts need not be looked at"] if len(unknown) > len(left) else []
    said = f" ({', '.join(beside)})" if beside else ""
    details = [f"{one}  [allow: {one.names[0]}]" for one in minded[:MOST_SHOWN]]
    details += [f"and {len(minded) - MOST_SHOWN} more"] if len(minded) > MOST_SHOWN else []
    not_seen = [f"{part} was not looked at: {why}  [allow: {part}]" for part, why in left.items()]
    details += not_seen[:MOST_SHOWN]
    details += [f"and {len(not_seen) - MOST_SHOWN} more that were not looked at"] if len(not_seen) > MOST_SHOWN else []
    if minded:
        many = f"{len(minded)} known vulnerabilit{'y' if len(minded) == 1 else 'ies'}"
        more = f"; {_parts(len(left))} not looked at" if left else ""
        return Outcome(
            False, f"{what}: {many} in {_parts(parts)}{said}{more}: {minded[0]}", "fail", tuple(details), numbers
        )
    if not parts:
        return Outcome(False, f"{what} tells of no part that was looked at", "no-data", tuple(details), numbers)
    if left:
        first = next(iter(left))
        sentence = (
            f"{_parts(len(left))} of {parts} not looked at, and so not known to be clean{said}: {first}: {left[first]}"
        )
        return Outcome(False, f"{what}: {sentence}", "no-data", tuple(details), numbers)
    return Outcome(True, f"{what}: no known vulnerability in {_parts(parts)}{said}", "", tuple(details), numbers)


def _parts(count: int) -> str:
    return f"{count} part{'' if count == 1 else 's'}"
