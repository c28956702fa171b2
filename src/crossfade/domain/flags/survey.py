"""What can be said of logic before it is ever run: how big and deep it is, what it names, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from crossfade.domain.errors import Fault
from crossfade.domain.flags.model import TARGETING_KEY, Json

DEEPEST: Final = 60
"""Levels of one piece of logic as it is written."""

DEEPEST_EXPANDED: Final = 150
"""Levels of it with all that it refers to put in: an evaluation nests its calls as deep."""

MOST_NODES: Final = 20_000
"""Values in one piece of logic as it is written."""

MOST_NODES_EXPANDED: Final = 100_000
"""Values of it with all that it refers to put in: what one evaluation may have to walk."""

MOST_WEIGHT: Final = 2**31 - 1
"""The greatest weight, and sum of weights, of `fractional`."""

MOST_TEXT: Final = 100_000
"""Characters of one text in logic."""

LARGEST: Final = 2**1023
"""Whole numbers stay below, so that each is a finite float in other evaluators."""

REFERENCES: Final = {"$ref": "", "segment": "segment:"}
"""What refers to shared logic, and how its name becomes that of an evaluator."""

OPERATORS: Final = frozenset(
    [
        "if",
        "?:",
        "and",
        "or",
        "!",
        "!!",
        "==",
        "!=",
        "===",
        "!==",
        "<",
        "<=",
        ">",
        ">=",
        "+",
        "-",
        "*",
        "/",
        "%",
        "min",
        "max",
        "var",
        "missing",
        "missing_some",
        "in",
        "cat",
        "substr",
        "merge",
        "log",
        "map",
        "reduce",
        "filter",
        "all",
        "none",
        "some",
        "fractional",
        "sem_ver",
        "starts_with",
        "ends_with",
        "$ref",
        "segment",
    ]
)

_PLAIN: Final = frozenset((str, bool, int, float, type(None)))


class Survey(NamedTuple):
    """``refs`` are the evaluators that it refers to; ``sound`` says that there is nothing to complain about."""

    size: int
    depth: int
    refs: frozenset[str]
    sound: bool


def survey(logic: Json) -> Survey:
    """Count it. What is not sound is told by `faults`, which takes its time for it."""
    refs: list[str] = []
    size = depth = 0
    sound = True
    level: list[Json] = [logic]
    # Level by level, so that no depth of the input is a depth of the stack.
    while level and depth <= DEEPEST and size <= MOST_NODES:
        depth += 1
        size += len(level)
        below: list[Json] = []
        for one in level:
            kind = type(one)
            if kind is dict:
                if len(one) == 1:
                    ((operator, args),) = one.items()
                    if operator not in OPERATORS:
                        sound = False
                    elif operator in REFERENCES:
                        if type(args) is str:
                            refs.append(REFERENCES[operator] + args)
                        else:
                            sound = False
                    elif operator == "fractional" and type(args) is list and not _weights_sound(args):
                        sound = False
                    if type(args) is list:
                        below += args
                    else:
                        below.append(args)
                else:
                    below += one.values()
                    sound = sound and all(type(key) is str for key in one)
            elif kind is list:
                below += one
            elif kind is str:
                sound = sound and len(one) <= MOST_TEXT
            elif kind is float:
                sound = sound and math.isfinite(one)
            elif kind is int:
                sound = sound and -LARGEST < one < LARGEST
            elif kind not in _PLAIN:
                sound = False
        level = below
    return Survey(size, depth, frozenset(refs), sound and not level and size <= MOST_NODES)


def faults(logic: Json, place: str) -> Iterator[Fault]:
    """Everything that is wrong with logic that is not sound, by its place."""
    count = 0
    todo: list[tuple[Json, str, int]] = [(logic, place, 1)]
    while todo:
        one, where, depth = todo.pop()
        count += 1
        if depth > DEEPEST:
            yield Fault(place, f"logic of more than {DEEPEST} levels", f"at most {DEEPEST} levels")
            return
        if count > MOST_NODES:
            yield Fault(place, f"logic of more than {MOST_NODES} values", f"at most {MOST_NODES} values")
            return
        yield from _fault_of(one, where)
        if isinstance(one, list):
            todo += [(item, f"{where}[{i}]", depth + 1) for i, item in reversed(list(enumerate(one)))]
        elif isinstance(one, dict):
            if len(one) == 1:
                ((operator, args),) = one.items()
                if isinstance(args, list):
                    inner = f"{where}.{operator}"
                    todo += [(item, f"{inner}[{i}]", depth + 1) for i, item in reversed(list(enumerate(args)))]
                    continue
            todo += [(value, f"{where}.{key}", depth + 1) for key, value in reversed(one.items())]


def _fault_of(one: Json, where: str) -> Iterator[Fault]:
    if isinstance(one, dict):
        if len(one) == 1:
            ((operator, args),) = one.items()
            if operator not in OPERATORS:
                yield Fault(where, operator, f"an operator: one of {' '.join(sorted(OPERATORS))}")
            elif operator in REFERENCES and not isinstance(args, str):
                yield Fault(f"{where}.{operator}", args, "a name")
            elif operator == "fractional" and isinstance(args, list):
                yield from _weight_faults(args, f"{where}.fractional")
        elif not all(isinstance(key, str) for key in one):
            yield Fault(where, one, "names that are text")
    elif isinstance(one, str):
        if len(one) > MOST_TEXT:
            yield Fault(where, f"{len(one)} characters", f"at most {MOST_TEXT} characters")
    elif isinstance(one, float):
        if not math.isfinite(one):
            yield Fault(where, one, "a finite number")
    elif isinstance(one, int):
        if not -LARGEST < one < LARGEST:
            yield Fault(where, "a number of more than 308 digits", "a number below 2^1023")
    elif one is not None and not isinstance(one, list):
        yield Fault(where, type(one).__name__, "a value of JSON")


def _weights_sound(args: list[Json]) -> bool:
    total = 0
    for share in args:
        if type(share) is list:
            weight = share[1] if len(share) > 1 else 1
            if type(weight) is int:
                if not 0 <= weight <= MOST_WEIGHT:
                    return False
                total += weight
            elif type(weight) is not dict:
                return False
            if not 1 <= len(share) <= 2:
                return False
    return total <= MOST_WEIGHT


def _weight_faults(args: list[Json], where: str) -> Iterator[Fault]:
    total = 0
    for i, share in enumerate(args):
        if not isinstance(share, list):
            continue
        if not 1 <= len(share) <= 2:
            yield Fault(f"{where}[{i}]", share, "a variant and its weight, as in [variant, weight]")
            continue
        weight = share[1] if len(share) > 1 else 1
        if isinstance(weight, dict):
            continue
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MOST_WEIGHT:
            yield Fault(f"{where}[{i}][1]", weight, f"a whole number from 0 to {MOST_WEIGHT}")
        else:
            total += weight
    if total > MOST_WEIGHT:
        yield Fault(where, total, f"weights of at most {MOST_WEIGHT} together")


def mentions_short_form(logic: Json) -> bool:
    """Whether a `fractional` in it hashes the flag's key with the targeting key, because it names no bucketBy."""
    todo = [logic]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        elif isinstance(one, dict):
            if len(one) == 1 and "fractional" in one:
                args = one["fractional"]
                if isinstance(args, list) and args and isinstance(args[0], list):
                    return True
            todo += one.values()
    return False


def attributes_of(logic: Json) -> frozenset[str]:
    """The attributes of the context that it looks at by name, as far as that can be seen."""
    found: set[str] = set()
    todo = [logic]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        elif isinstance(one, dict):
            if len(one) == 1:
                ((operator, args),) = one.items()
                if operator == "var":
                    name = args[0] if isinstance(args, list) and args else args
                    if isinstance(name, str) and name:
                        found.add(name)
                elif operator == "fractional":
                    found.add(TARGETING_KEY)
            todo += one.values()
    return frozenset(found)
