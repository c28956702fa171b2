"""What compiled logic is made of, and the short ways for what most conditions are: an attribute and a constant."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from crossfade.domain.flags import semver
from crossfade.domain.flags.model import TARGETING_KEY, Json
from crossfade.domain.flags.operators import ORDERINGS, TooLarge, equal, measure, truthy

FLAGD: Final = "$flagd"
"""The attribute under which a context tells the flag's key and the time."""

MOST_STEPS: Final = 300_000
"""What one evaluation may do in its loops over lists of the context: values of logic times items, and sizes of values.

It is a tenth of a second or two.
"""


class Call:
    """What one evaluation needs beside the context: when it is, and how much it may still do."""

    __slots__ = ("_whole", "left", "now")

    def __init__(self, now: float) -> None:
        self.now = now
        self.left = MOST_STEPS
        self._whole: dict[str, Json] | None = None

    def whole(self, data: dict[str, Json], flag_key: str) -> dict[str, Json]:
        """The context with all that flagd adds to it; made only for the few who want it as a whole."""
        if self._whole is None:
            told = {"flagKey": flag_key, "timestamp": int(self.now)}
            self._whole = {**data, FLAGD: told, TARGETING_KEY: data.get(TARGETING_KEY)}
        return self._whole

    def spend(self, steps: int) -> None:
        """Raises TooLarge when there is nothing left."""
        self.left -= steps
        if self.left < 0:
            raise TooLarge(f"loops of more than {MOST_STEPS} steps")


Function = Callable[[Any, Any], Json]
"""From the data (the context, or the item of a loop) and the Call to a value. Only those that need the Call look at it."""


class Constant:
    """A value that depends on nothing."""

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value


class Attribute:
    """A plain attribute of the context, without a default."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Node = Function | Constant | Attribute


def function(node: Node) -> Function:
    """Any node as something to call."""
    if isinstance(node, Constant):
        value = node.value
        return lambda data, call: value
    if isinstance(node, Attribute):
        name = node.name
        return lambda data, call: data.get(name)
    return node


def calling(apply: Callable[..., Json], args: Iterable[Node]) -> Function:
    """An operator on values that are computed first."""
    match [function(arg) for arg in args]:
        case [one]:
            return lambda data, call: apply(one(data, call))
        case [one, two]:
            return lambda data, call: apply(one(data, call), two(data, call))
        case all_of_them:
            return lambda data, call: apply(*[arg(data, call) for arg in all_of_them])


def charging(apply: Callable[..., Json], args: Iterable[Node]) -> Function:
    """The same within a loop, where each time is paid for by the size of the values."""
    functions = tuple(map(function, args))

    def charge(data: Any, call: Call) -> Json:
        values = [one(data, call) for one in functions]
        call.spend(sum(map(measure, values)))
        return apply(*values)

    return charge


def listing(items: Iterable[Node]) -> Function:
    """A list of values that are computed."""
    functions = tuple(map(function, items))
    return lambda data, call: [one(data, call) for one in functions]


def choosing(tests: list[tuple[Function, Node]], otherwise: Node) -> Function:
    """The value behind the first test that holds."""
    if all(isinstance(one, Constant) for one in (otherwise, *(node for _, node in tests))):
        values = tuple((test, node.value) for test, node in tests if isinstance(node, Constant))
        last = otherwise.value if isinstance(otherwise, Constant) else None
        if len(values) == 1:
            ((test, value),) = values
            return lambda data, call: value if test(data, call) else last

        def constant(data: Any, call: Any) -> Json:
            for test, value in values:
                if test(data, call):
                    return value
            return last

        return constant
    branches = tuple((test, function(node)) for test, node in tests)
    rest = function(otherwise)
    if len(branches) == 1:
        ((only, then),) = branches
        return lambda data, call: then(data, call) if only(data, call) else rest(data, call)

    def choose(data: Any, call: Any) -> Json:
        for test, branch in branches:
            if test(data, call):
                return branch(data, call)
        return rest(data, call)

    return choose


def all_hold(tests: list[Function]) -> Function:
    """Whether all of them do, asked in order, until one does not."""
    match tests:
        case [one]:
            return one
        case [one, two]:
            return lambda data, call: one(data, call) and two(data, call)
        case [one, two, three]:
            return lambda data, call: one(data, call) and two(data, call) and three(data, call)
        case [one, two, three, four]:
            return lambda data, call: one(data, call) and two(data, call) and three(data, call) and four(data, call)
    asked = tuple(tests)

    def hold(data: Any, call: Any) -> bool:
        for test in asked:  # noqa: SIM110  # this is asked millions of times, and a generator is slower
            if not test(data, call):
                return False
        return True

    return hold


def one_holds(tests: list[Function]) -> Function:
    """Whether one of them does, asked in order, until one does."""
    match tests:
        case [one]:
            return one
        case [one, two]:
            return lambda data, call: one(data, call) or two(data, call)
    asked = tuple(tests)

    def holds(data: Any, call: Any) -> bool:
        for test in asked:  # noqa: SIM110  # as above
            if test(data, call):
                return True
        return False

    return holds


def is_true(node: Function | Attribute) -> Function:
    """Whether a value counts as true."""
    if isinstance(node, Attribute):
        name = node.name
        return lambda data, call: truthy(data.get(name))
    return lambda data, call: truthy(node(data, call))


# --- an attribute and a constant


def shortcut(operation: str, args: list[Node]) -> Function | None:
    """A quicker way to the same answer; None where there is none."""
    match args:
        case [Attribute(name=name), Constant(value=value)] if operation in _OF_ATTRIBUTE:
            return _OF_ATTRIBUTE[operation](name, value)
        case [Constant(value=value), Attribute(name=name)]:
            if operation in ("==", "===", "!=", "!=="):
                return _OF_ATTRIBUTE[operation](name, value)
            if operation in _MIRRORED:
                return _OF_ATTRIBUTE[_MIRRORED[operation]](name, value)
        case [Attribute(name=name), Constant(value=str(comparison)), Constant(value=wanted)] if operation == "sem_ver":
            return _version(name, comparison, wanted)
        case [Constant(value=list(names))] | [Constant(value=str(names))] if operation == "missing":
            return _missing(names)
        case _ if operation == "missing" and args and all(isinstance(arg, Constant) for arg in args):
            return _missing([arg.value for arg in args if isinstance(arg, Constant)])
    return None


def _equal(name: str, wanted: Json) -> Function | None:
    kind = type(wanted)
    if kind not in (str, bool, int, float):
        return None

    def holds(data: Any, _call: Any) -> bool:
        found = data.get(name)
        return found == wanted if found.__class__ is kind else equal(found, wanted)

    return holds


def _unequal(name: str, wanted: Json) -> Function | None:
    kind = type(wanted)
    if kind not in (str, bool, int, float):
        return None

    def holds(data: Any, _call: Any) -> bool:
        found = data.get(name)
        return found != wanted if found.__class__ is kind else not equal(found, wanted)

    return holds


def _same(name: str, wanted: Json) -> Function:
    return lambda data, call: data.get(name) == wanted


def _not_same(name: str, wanted: Json) -> Function:
    return lambda data, call: data.get(name) != wanted


def _ordered(operation: str) -> Callable[[str, Json], Function | None]:
    holds: Callable[[Any, Any], bool] = _PLAIN[operation]
    otherwise = ORDERINGS[operation]

    def make(name: str, bound: Json) -> Function | None:
        if type(bound) not in (int, float):
            return None

        def compare(data: Any, _call: Any) -> bool:
            found = data.get(name)
            kind = found.__class__
            return holds(found, bound) if kind is int or kind is float else otherwise(found, bound)

        return compare

    return make


def _in(name: str, haystack: Json) -> Function | None:
    if not isinstance(haystack, list) or not all(type(one) is str for one in haystack):
        return None
    # Nothing but a text is equal to a text.
    texts = frozenset(haystack)
    return lambda data, call: (found := data.get(name)).__class__ is str and found in texts


def _starts(name: str, start: Json) -> Function | None:
    if not isinstance(start, str):
        return None
    return lambda data, call: found.startswith(start) if isinstance(found := data.get(name), str) else None


def _ends(name: str, end: Json) -> Function | None:
    if not isinstance(end, str):
        return None
    return lambda data, call: found.endswith(end) if isinstance(found := data.get(name), str) else None


def _version(name: str, comparison: str, wanted: Json) -> Function:
    version, holds = semver.parse(wanted), semver.COMPARISONS.get(comparison)
    if version is None or holds is None:
        return lambda data, call: None
    parse, than = semver.parse, version

    def compare(data: Any, _call: Any) -> bool | None:
        found = parse(data.get(name))
        return None if found is None else holds(found, than)

    return compare


def _missing(names: list[Json] | str) -> Function | None:
    names = [names] if isinstance(names, str) else names
    if not all(isinstance(one, str) and one and "." not in one and one != FLAGD for one in names):
        return None
    if len(names) == 1:
        (name,) = names
        return lambda data, call: [name] if (found := data.get(name)) is None or found == "" else []
    return lambda data, call: [one for one in names if (found := data.get(one)) is None or found == ""]


_PLAIN: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_OF_ATTRIBUTE: Final[Mapping[str, Callable[[str, Json], Function | None]]] = {
    "==": _equal,
    "!=": _unequal,
    "===": _same,
    "!==": _not_same,
    **{operation: _ordered(operation) for operation in _PLAIN},
    "in": _in,
    "starts_with": _starts,
    "ends_with": _ends,
}
