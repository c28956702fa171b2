"""Whether enough lines are covered: of all there are, and of those that were changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crossfade.domain.pipeline.plan import Gate, Outcome

MINIMUM: Final = 0.8
"""The least share of covered lines where the gate says nothing else."""

MOST_SHOWN: Final = 50
"""How many places are shown."""

Lines = Mapping[int, bool]
"""The lines of a file that can be run, each with whether it was."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many lines. ``wanted`` is the least share, 0…1."""

    covered: int
    lines: int
    wanted: float

    @property
    def missing(self) -> int:
        """How many more lines would have to be covered."""
        # What stands for 80 % may be a hair more than that in binary.
        return max(0, math.ceil(round(self.wanted * self.lines, 6)) - self.covered)

    @property
    def percent(self) -> str:
        """``79.2``: rounded down, so that it never looks like more than it is, nor like enough when it is not."""
        share = self.covered / self.lines if self.lines else 1.0
        digits, found = 0, 100.0
        while digits < 4:
            digits += 1
            scale = 10**digits
            found = math.floor(round(share * 100 * scale, 6)) / scale
            if not self.missing or found < self.wanted * 100 - 1e-9:
                break
        return f"{found:.{digits}f}".rstrip("0").rstrip(".")

    def __str__(self) -> str:
        return f"{self.percent} % ({self.covered} of {self.lines} line{'' if self.lines == 1 else 's'})"

    @property
    def wish(self) -> str:
        """What is wanted, and how far it is: ``at least 80 % is wanted (4 more lines)``."""
        more = f"{self.missing} more line{'' if self.missing == 1 else 's'}"
        return f"at least {_percent(self.wanted)} % is wanted ({more})"


def _percent(share: float) -> str:
    return f"{round(share * 100, 6):g}"


def decide_coverage(
    what: str,
    files: Mapping[str, Lines],
    changed: Mapping[str, frozenset[int]] | None,
    gate: Gate,
    *,
    unsure: Mapping[str, Sequence[str]] | None = None,
) -> Outcome:
    """Whether both shares are reached. ``changed`` None: nobody knows what was changed, and only the total counts.

    ``files`` has paths as they are in the project; ``unsure`` maps names of the report that could be several files to
    these. A changed file that the report does not know is not measured, and named when it is of a kind that the report has.
    """
    least = MINIMUM if gate.minimum is None else gate.minimum
    total = Share(sum(map(_covered, files.values())), sum(map(len, files.values())), least)
    if not total.lines:
        sentence = f"{what} knows no line that could be run; did the step measure the right folder?"
        return Outcome(False, sentence, "no-data", (), {"lines": 0, "covered": 0})
    touched = {
        path: {line: files[path][line] for line in numbers if line in files[path]}
        for path, numbers in (changed or {}).items()
        if path in files
    }
    wanted = least if gate.changed is None else gate.changed
    recent = Share(sum(map(_covered, touched.values())), sum(map(len, touched.values())), wanted)
    notes = _unmeasured(files, changed or {}, unsure or {})
    numbers = {
        "lines": total.lines,
        "covered": total.covered,
        "minimum": least,
        "files": len(files),
        "changed_lines": None if changed is None else recent.lines,
        "changed_covered": None if changed is None else recent.covered,
        "changed_minimum": wanted,
        "unmeasured": len(notes),
    }
    poor = [share for share in (total, recent) if share.missing]
    said = [f"coverage is {total}" + (f"; {total.wish}" if total.missing else "")]
    if changed is None:
        notes.insert(0, "which lines were changed is not known: only the total was looked at")
    elif recent.lines:
        said.append(f"of changed lines it is {recent}" + (f"; {recent.wish}" if recent.missing else ""))
    else:
        said.append("no changed line is among those measured")
    said += [f"{len(notes)} changed files are not measured"] if changed is not None and len(notes) > 1 else []
    said += ["1 changed file is not measured"] if changed is not None and len(notes) == 1 else []
    places = [f"{place} (changed)" for path, lines in sorted(touched.items()) for place in uncovered(path, lines)]
    if total.missing:
        rest = {
            path: {line: hit for line, hit in lines.items() if line not in touched.get(path, {})}
            for path, lines in files.items()
        }
        worst = sorted(rest, key=lambda path: (_covered(rest[path]) - len(rest[path]), path))
        places += [place for path in worst for place in uncovered(path, rest[path])]
    details = places[:MOST_SHOWN]
    details += [f"and {len(places) - MOST_SHOWN} more places"] if len(places) > MOST_SHOWN else []
    return Outcome(not poor, f"{what}: {'; '.join(said)}", "", (*details, *notes), numbers)


def _covered(lines: Lines) -> int:
    return sum(lines.values())


def uncovered(path: str, lines: Lines) -> Iterator[str]:
    """``src/cart.py:12-15 is not covered``: runs of lines with no covered one between them."""
    first = last = 0
    for line in [*sorted(lines), None]:
        if line is not None and not lines[line]:
            first, last = first or line, line
        elif first:
            yield f"{path}:{first}-{last} is not covered" if last > first else f"{path}:{first} is not covered"
            first = 0


def _unmeasured(
    files: Mapping[str, Lines], changed: Mapping[str, frozenset[int]], unsure: Mapping[str, Sequence[str]]
) -> list[str]:
    endings = {_ending(path) for path in files} - {""}
    could = {path: name for name, paths in unsure.items() for path in paths}
    notes = []
    for path in sorted(changed):
        if path in could:
            notes.append(
                f"{path} was changed, and {could[path]} in the report could be it or another file: not measured"
            )
        elif path not in files and _ending(path) in endings and changed[path]:
            notes.append(f"{path} was changed, and the report does not know it: not measured")
    return notes


def _ending(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def in_project(
    name: str, roots: Sequence[str], tree: Sequence[str], known: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Which files of the project a report may mean by a name: one when it is sure, several when it is not, none.

    ``roots`` are folders that the report names as sources, ``tree`` the absolute paths of the project, ``known`` its files
    by their last part. What is absolute stands somewhere in the project, or on a machine that had it elsewhere: then the file
    with the most folders in common is meant. The same goes for names that begin inside a source folder, as Java's.
    """
    name = clean(name)
    those = known.get(name.rpartition("/")[2], ())
    if not those:
        return ()
    full = [name] if name.startswith("/") else [clean(f"{root}/{name}") for root in roots if root.strip()]
    for one in (*full, name):
        inside = next((one[len(root) + 1 :] for root in tree if one.startswith(root.rstrip("/") + "/")), one)
        if inside in those:
            return (inside,)
    scored = [(max(_alike(one, path) for one in (*full, name)), path) for path in those]
    best = max(score for score, _ in scored)
    return tuple(sorted(path for score, path in scored if score == best)) if best else ()


def _alike(name: str, path: str) -> int:
    """How many last parts both have in common, when all parts of one of them are; 0 otherwise."""
    one, other = name.strip("/").split("/"), path.split("/")
    common = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        common += 1
    return common if common in (len(one), len(other)) else 0


def clean(path: str) -> str:
    """A path with slashes, without ``.`` and doubled slashes; ``..`` takes a folder away. Purely by its text."""
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith(("/", "\\")) else "") + "/".join(parts)
