"""JsonLogic, compiled to closures once and called often.

What depends on nothing is worked out when it is compiled. The meaning is that of flagd's evaluator in Python, to the
last corner: an object of one name is an operator, any other object and all else is itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from crossfade.domain.flags import fractional
from crossfade.domain.flags.closures import (
    FLAGD,
    Attribute,
    Call,
    Constant,
    Function,
    Node,
    all_hold,
    calling,
    charging,
    choosing,
    function,
    is_true,
    listing,
    one_holds,
    shortcut,
)
from crossfade.domain.flags.model import NEWEST_HASH, Json
from crossfade.domain.flags.operators import OF_DATA, OF_VALUES, lookup, truthy, walk
from crossfade.domain.flags.survey import REFERENCES

_BOOLEAN: Final = frozenset(
    [
        "==",
        "!=",
        "===",
        "!==",
        "<",
        "<=",
        ">",
        ">=",
        "!",
        "!!",
        "in",
        "all",
        "some",
        "none",
        "starts_with",
        "ends_with",
        "sem_ver",
        "missing",
        "missing_some",
    ]
)
"""Operators whose results are true or not as Python has it."""


class Unsound(Exception):  # it says what the logic is
    """Logic that cannot be compiled; ``what`` is a sentence."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Compiled(NamedTuple):
    """``timed`` says that the function looks at its Call; otherwise it may be called with None for it."""

    node: Node
    timed: bool


class Compiler:
    """Compiles logic with the evaluators that it may refer to; each is compiled once, or once for each flag's key."""

    def __init__(self, evaluators: Mapping[str, Json], hash_version: int = NEWEST_HASH) -> None:
        self._evaluators = evaluators
        self._hash_version = hash_version
        self._shared: dict[tuple[str, bool, str | None], tuple[Node, bool, int]] = {}
        self._open: list[str] = []
        self._key = ""
        self._keyed = False
        self._timed = False
        self._size = 0
        self._operators: Mapping[str, Callable[[list[Json], bool], Node]] = {
            "if": self._if,
            "?:": self._if,
            "and": self._and,
            "or": self._or,
            "var": self._var,
            "missing": partial(self._missing, "missing"),
            "missing_some": partial(self._missing, "missing_some"),
            "fractional": self._fractional,
            "filter": self._filter,
            "map": self._map,
            "reduce": self._reduce,
            "all": self._all,
            "some": self._some,
            "none": self._none,
        }

    def compile(self, logic: Json, flag_key: str) -> Compiled:
        """For one flag. Raises Unsound."""
        self._key, self._timed, self._size = flag_key, False, 0
        self._open.clear()
        try:
            return Compiled(self._value(logic, True), self._timed)
        except RecursionError:
            raise Unsound("the logic is nested too deeply") from None

    def condition(self, logic: Json, flag_key: str) -> Compiled:
        """Whether it holds, as a boolean. Raises Unsound."""
        return self.compile({"!!": [logic]}, flag_key)

    def _value(self, logic: Json, root: bool) -> Node:
        """``root`` says that the data is the context itself, not the item of a loop."""
        self._size += 1
        if type(logic) is list:
            return self._list(logic, root)
        if type(logic) is not dict or len(logic) != 1:
            return Constant(logic)
        ((operator, args),) = logic.items()
        if operator in REFERENCES:
            return self._refer(REFERENCES[operator] + str(args), root)
        if type(args) is not list:
            args = [args]
        make = self._operators.get(operator)
        if make is not None:
            return make(args, root)
        apply = OF_VALUES.get(operator)
        if apply is None:
            raise Unsound(f"`{operator}` is no operator")
        return self._apply(operator, apply, [self._value(arg, root) for arg in args], root)

    def _list(self, items: list[Json], root: bool) -> Node:
        nodes = [self._value(item, root) for item in items]
        if all(isinstance(node, Constant) for node in nodes):
            return Constant([node.value for node in nodes if isinstance(node, Constant)])
        return listing(nodes)

    def _apply(self, operator: str, apply: Callable[..., Json], nodes: list[Node], root: bool) -> Node:
        constants = [node.value for node in nodes if isinstance(node, Constant)]
        if len(constants) == len(nodes):
            try:
                return Constant(apply(*constants))
            except Exception:  # noqa: BLE001  # what fails always fails when it is evaluated, and only then
                return calling(apply, nodes)
        if not root:
            return charging(apply, nodes)
        return shortcut(operator, nodes) or calling(apply, nodes)

    def _test(self, logic: Json, root: bool) -> Node:
        """Whether it counts as true; what is not constant gives what is true or not as Python has it."""
        if type(logic) is dict and len(logic) == 1:
            ((operator, args),) = logic.items()
            inner = args if type(args) is list else [args]
            if operator in ("and", "or") and inner:
                self._size += 1
                return self._junction(operator, inner, root)
            if operator == "!!" and len(inner) == 1:
                return self._test(inner[0], root)
            node = self._value(logic, root)
            if operator in _BOOLEAN and not isinstance(node, (Constant, Attribute)):
                return node
        else:
            node = self._value(logic, root)
        if isinstance(node, Constant):
            return Constant(truthy(node.value))
        return is_true(node)

    def _junction(self, operator: str, args: list[Json], root: bool) -> Node:
        decides = operator == "or"
        tests: list[Function] = []
        for arg in args:
            node = self._test(arg, root)
            if not isinstance(node, Constant):
                tests.append(function(node))
            elif node.value is decides:
                if not tests:
                    return node
                tests.append(function(node))
                break
        if not tests:
            return Constant(not decides)
        return one_holds(tests) if decides else all_hold(tests)

    def _if(self, args: list[Json], root: bool) -> Node:
        tests: list[tuple[Function, Node]] = []
        for at in range(0, len(args) - 1, 2):
            test = self._test(args[at], root)
            if isinstance(test, Constant):
                if not test.value:
                    continue
                otherwise = self._value(args[at + 1], root)
                return choosing(tests, otherwise) if tests else otherwise
            tests.append((function(test), self._value(args[at + 1], root)))
        otherwise = self._value(args[-1], root) if len(args) % 2 else Constant(None)
        return choosing(tests, otherwise) if tests else otherwise

    def _and(self, args: list[Json], root: bool) -> Node:
        return self._first(args, root, False)

    def _or(self, args: list[Json], root: bool) -> Node:
        return self._first(args, root, True)

    def _first(self, args: list[Json], root: bool, wanted: bool) -> Node:
        """The first value that counts as ``wanted``, else the last."""
        nodes = [self._value(arg, root) for arg in args]
        if not nodes:
            return Constant(None)
        while len(nodes) > 1 and isinstance(nodes[0], Constant) and truthy(nodes[0].value) is not wanted:
            del nodes[0]
        if isinstance(nodes[0], Constant) and (len(nodes) == 1 or truthy(nodes[0].value) is wanted):
            return nodes[0]
        functions = tuple(map(function, nodes))

        def first(data: Any, call: Any) -> Json:
            value = None
            for one in functions:
                value = one(data, call)
                if truthy(value) is wanted:
                    return value
            return value

        return first

    def _var(self, args: list[Json], root: bool) -> Node:
        nodes = [self._value(arg, root) for arg in args]
        key = nodes[0] if nodes else Constant(None)
        default = nodes[1] if len(nodes) > 1 else Constant(None)
        if len(nodes) > 2 or not isinstance(key, Constant) or not isinstance(default, Constant):
            return self._on_data(OF_DATA["var"], nodes, root)
        if not root or not isinstance(key.value, str) or not key.value:
            return self._on_data(OF_DATA["var"], nodes, root)
        return self._attribute(key.value.split("."), default.value)

    def _attribute(self, path: list[str], default: Json) -> Node:
        """Of the context itself."""
        if path == [FLAGD, "flagKey"]:
            self._keyed = True
            return Constant(self._key)
        if path == [FLAGD, "timestamp"]:
            self._timed = True
            return lambda data, call: int(call.now)
        if path[0] == FLAGD:
            return self._on_data(OF_DATA["var"], [Constant(".".join(path)), Constant(default)], True)
        name, *rest = path
        if rest:
            return lambda data, call: default if (found := data.get(name)) is None else walk(found, rest, default)
        if default is None:
            return Attribute(name)
        return lambda data, call: default if (found := data.get(name)) is None else found

    def _missing(self, operator: str, args: list[Json], root: bool) -> Node:
        nodes = [self._value(arg, root) for arg in args]
        quick = shortcut(operator, nodes) if root else None
        return quick or self._on_data(OF_DATA[operator], nodes, root)

    def _on_data(self, apply: Callable[..., Json], nodes: list[Node], root: bool) -> Function:
        """An operator that looks into the data as a whole: of the context with all that flagd adds to it."""
        if not root:
            return (
                charging(apply, [lambda data, call: data, *nodes]) if apply is not OF_DATA["var"] else _looking(nodes)
            )
        functions = tuple(map(function, nodes))
        self._keyed = self._timed = True
        key = self._key
        return lambda data, call: apply(call.whole(data, key), *[one(data, call) for one in functions])

    def _fractional(self, args: list[Json], root: bool) -> Node:
        nodes = [self._value(arg, root) for arg in args]
        if not root:
            return fractional.on_items(nodes, self._hash_version)
        self._keyed = True
        return fractional.compiled(nodes, _seeded(args), self._key, self._hash_version)

    def _refer(self, name: str, root: bool) -> Node:
        for key in (None, self._key):
            if (name, root, key) in self._shared:
                node, timed, size = self._shared[name, root, key]
                self._timed = self._timed or timed
                self._keyed = self._keyed or key is not None
                self._size += size
                return node
        if name not in self._evaluators:
            raise Unsound(f"there is no evaluator `{name}`")
        if name in self._open:
            raise Unsound(f"the reference goes in a circle: {' -> '.join([*self._open, name])}")
        before = self._keyed, self._timed, self._size
        self._keyed, self._timed, self._size = False, False, 0
        self._open.append(name)
        node = self._value(self._evaluators[name], root)
        self._open.pop()
        self._shared[name, root, self._key if self._keyed else None] = node, self._timed, self._size
        keyed, timed, size = before
        self._keyed, self._timed, self._size = keyed or self._keyed, timed or self._timed, size + self._size
        return node

    # --- loops, each of whose items is the data of what is done to it

    def _loop(self, args: list[Json], root: bool) -> tuple[Callable[[Any, Any], list[Json] | None], Function, Function]:
        """The items, or None where there is no list; what is done to each, as a value and as a test."""
        items = function(self._value(args[0], root))
        before = self._size
        body = self._value(args[1] if len(args) > 1 else None, False)
        cost = self._size - before
        self._timed = True

        def spending(data: Any, call: Call) -> list[Json] | None:
            found = items(data, call)
            if not isinstance(found, list):
                return None
            call.spend(len(found) * cost)
            return found

        test = Constant(truthy(body.value)) if isinstance(body, Constant) else is_true(body)
        return spending, function(body), function(test)

    def _filter(self, args: list[Json], root: bool) -> Node:
        if len(args) < 2:
            return Constant([])
        items, _, test = self._loop(args, root)
        return lambda data, call: [one for one in items(data, call) or () if test(one, call)]

    def _map(self, args: list[Json], root: bool) -> Node:
        if not args:
            return Constant([])
        items, body, _ = self._loop(args, root)
        return lambda data, call: [body(one, call) for one in items(data, call) or ()]

    def _reduce(self, args: list[Json], root: bool) -> Node:
        if not args:
            return Constant(None)
        items, body, _ = self._loop(args, root)
        start = args[2] if len(args) > 2 else None  # as it is written: it is no logic in flagd's evaluator either

        def reduce(data: Any, call: Any) -> Json:
            found = items(data, call)
            if found is None:
                return start
            scope: dict[str, Json] = {"accumulator": start}
            for one in found:
                scope["current"] = one
                scope["accumulator"] = body(scope, call)
            return scope["accumulator"]

        return reduce

    def _all(self, args: list[Json], root: bool) -> Node:
        if len(args) < 2:
            return Constant(False)
        items, _, test = self._loop(args, root)

        def every(data: Any, call: Any) -> bool:
            found = items(data, call)
            return bool(found) and all(test(one, call) for one in found or ())

        return every

    def _some(self, args: list[Json], root: bool) -> Node:
        if len(args) < 2:
            return Constant(False)
        items, _, test = self._loop(args, root)
        return lambda data, call: any(test(one, call) for one in items(data, call) or ())

    def _none(self, args: list[Json], root: bool) -> Node:
        if len(args) < 2:
            return Constant(True)
        items, _, test = self._loop(args, root)
        return lambda data, call: not any(test(one, call) for one in items(data, call) or ())


def _looking(nodes: list[Node]) -> Function:
    """``var`` on the item of a loop."""
    functions = tuple(map(function, nodes))
    return lambda data, call: lookup(data, *[one(data, call) for one in functions])


def _seeded(args: list[Json]) -> tuple[str, str] | None:
    """The text and the attribute, where what is hashed is written as ``{"cat": [text, {"var": attribute}]}``."""
    match args[:1]:
        case [{"cat": [str(seed), {"var": str(name)} as var]} as cat] if len(cat) == len(var) == 1:
            return (seed, name) if name and "." not in name and name != FLAGD else None
    return None
