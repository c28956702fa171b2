"""Problems in people's words: where, what was found, what is allowed. Values that may be secrets are never shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from crossfade.domain.errors import Problem
from crossfade.spec.shape import FREE, Path, Shape, shape_of

LONGEST_SHOWN: Final = 60
"""Characters of a found value."""

MOST_PROBLEMS: Final = 200

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ADDRESSES = (("url",), ("public_url",), ("issuer",))
"""Keys whose values may hold a password or a token."""

_STRATEGIES = ("blue-green", "canary")


@dataclass(frozen=True)
class Place:
    """A file, and the line of each key in it by its path; without lines every problem is in line 0."""

    file: str
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the key, or of the nearest one around it that is there."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0

    def problem(self, path: Path, found: str, allowed: str) -> Problem:
        return Problem(self.file, self.line(path), dotted(path), found, allowed)

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """By line, each once; those of one line stay as they came. Of very many the last ones are only counted."""
        ordered = sorted(dict.fromkeys(problems), key=lambda problem: problem.line)
        more = len(ordered) - MOST_PROBLEMS
        if more > 0:
            ordered[MOST_PROBLEMS:] = [
                Problem(self.file, ordered[-1].line, "the file", f"{more} more problems", "none")
            ]
        return ordered


def dotted(path: Path) -> str:
    """``health[0].json["$.books"].min``; names that could be misread are quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _BARE.fullmatch(step) and len(step) <= LONGEST_SHOWN:
            text += f".{step}" if text else step
        else:
            text += f'["{_printable(step)}"]'
    return text or "the file"


def _printable(text: str) -> str:
    return _shortened("".join(c if c.isprintable() else "?" for c in text))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def is_secret(path: Path) -> bool:
    """Whether what stands at ``path`` may be a secret: variables, and what checks send."""
    return any(step in ("env", "send_headers", "send_body") for step in path)


def shown(value: Any, path: Path) -> str:
    """A found value, shortened. Of lists and mappings, and of what may be a secret, only its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if is_secret(path) or (path[-1:] in _ADDRESSES and isinstance(value, str) and any(c in value for c in "@?")):
        return "a value that is not shown"
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = repr(value)
    except ValueError:  # more digits than Python converts
        text = "a very large number"
    return _shortened(text)


def explain(error: ValidationError, model: type[BaseModel], data: Any, place: Place) -> list[Problem]:
    """What Pydantic found wrong with ``data``, in people's words."""
    root = shape_of(model)
    problems: list[Problem] = []
    missing: list[tuple[Path, str]] = []
    suggested: set[Path] = set()
    for fact in error.errors(include_url=False, include_input=False):
        path, rest, is_name = _locate(fact["loc"], data)
        what = fact["type"]
        if what == "too_short" and len(data_at(data, path)) >= fact["ctx"]["min_length"]:
            continue  # there are enough, but not enough good ones: those speak for themselves
        if what == "missing":
            missing.append((path, str(rest[-1])))
        elif what == "extra_forbidden":
            problem, meant = _unknown(root, path, data, place)
            problems.append(problem)
            suggested.add((*path[:-1], meant))
        elif is_name:
            problems.append(place.problem(path, f"the name {_printable(str(path[-1]))!r}", fact["ctx"]["allowed"]))
        elif what == "union_tag_invalid":
            named = data_at(data, path).get("kind")
            problems.append(place.problem((*path, "kind"), shown(named, path), " or ".join(_STRATEGIES)))
        else:
            shape = root.at(path, data)
            allowed = shape.allowed if shape is not None and shape.allowed else "another value"
            if what == "not_allowed":
                allowed = fact["ctx"]["allowed"]
            elif what == "too_long":
                allowed += f", at most {fact['ctx']['max_length']}"
            problems.append(place.problem(path, shown(data_at(data, path), path), allowed))
    for path, name in missing:
        # One slip is one problem: a misspelt required key is not missing as well.
        if (*path, name) not in suggested:
            shape = root.at((*path, name), data)
            problem = place.problem((*path, name), "nothing", f"required: {shape.allowed if shape else 'a value'}")
            problems.append(problem)
    return problems


def data_at(data: Any, path: Path) -> Any:
    """What stands at a path that is there."""
    for step in path:
        data = data[step]
    return data


def _locate(location: tuple[int | str, ...], data: Any) -> tuple[Path, tuple[int | str, ...], bool]:
    """Pydantic's location as the path that is in the data, what goes beyond it, and whether it is the name itself."""
    path: list[str | int] = []
    rest: list[str | int] = []
    here = data
    tagged = False
    is_name = False
    for step, following in zip(location, (*location[1:], None), strict=False):
        if step == "[key]" and step is location[-1]:
            is_name = True
        elif not tagged and path and path[-1] == "strategy" and step in _STRATEGIES:
            tagged = True
        elif (
            step == FREE
            and path[-1:] != ["sources"]
            and not (  # a source may have any name
                _has(here, step) and (_has(here[step], following) or not _has(here, following))
            )
        ):
            continue  # this free name stands beside it
        elif not rest and _has(here, step):
            path.append(step)
            here = here[step]
        else:
            rest.append(step)
    return tuple(path), tuple(rest), is_name


def _has(data: Any, step: int | str | None) -> bool:
    if isinstance(data, dict):
        return step in data
    return isinstance(data, list | tuple) and isinstance(step, int) and step < len(data)


def _unknown(root: Shape, path: Path, data: Any, place: Place) -> tuple[Problem, str]:
    around = root.at(path[:-1], data)
    parent = around.inside(data_at(data, path[:-1])) if around is not None else root
    name = str(path[-1])
    near = get_close_matches(name.lower().replace("-", "_")[:LONGEST_SHOWN], parent.keys, n=1, cutoff=0.65)
    known = ", ".join(parent.keys) or "no keys there"
    if FREE in parent.keys:
        known += ", and metrics of your own, each with signal and margin"
    elsewhere = [".".join(p).replace(".[]", "[]") for p, _ in root.walk() if p and p[-1] == name]
    if around is not None and around.variants and any(name in variant.keys for variant in around.variants.values()):
        kind = next(tag for tag, variant in around.variants.items() if name in variant.keys)
        allowed = f"{known}; {name} belongs to kind: {kind}"
    elif near:
        allowed = f"{known} (did you mean {near[0]}?)"
    elif elsewhere:
        allowed = f"{known} (did you mean {' or '.join(dict.fromkeys(elsewhere[:2]))}?)"
    else:
        allowed = known
    return place.problem(path, "an unknown key", allowed), near[0] if near else ""
