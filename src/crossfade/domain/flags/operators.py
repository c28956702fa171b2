"""JsonLogic's operators on values, as flagd's evaluator in Python has them.

They are those of JavaScript where Python's own differ (``"1" == 1``), with the few differences of that evaluator kept:
texts of booleans are written as Python writes them, and ``===`` on numbers and booleans is Python's ``==``. What a
person would call an error in the logic (a division by nothing) raises an exception of Python's, and makes the evaluation
an error. What grows without bound raises TooLarge.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from crossfade.domain.flags import semver
from crossfade.domain.flags.model import Json
from crossfade.domain.flags.survey import LARGEST

LONGEST_TEXT: Final = 100_000
LONGEST_LIST: Final = 10_000
MOST_ITEMS: Final = 100_000

NAN: Final = math.nan
Number = int | float


class TooLarge(Exception):  # it says what is the matter
    """Logic made something larger than any flag needs."""


def truthy(value: Json) -> bool:
    """An empty object is true and NaN is not; all else is as in Python."""
    if value.__class__ is bool:
        return bool(value)
    if value.__class__ is float:
        return not math.isnan(value) and value != 0.0
    return bool(value) or (value is not None and not isinstance(value, (str, int, float, list)))


def number(value: Json) -> Number:
    """As JavaScript reads it; NaN for what is none."""
    if isinstance(value, (int, float)):
        return value
    if value is None:
        return 0
    if isinstance(value, list):
        if not value:
            return 0
        return number(value[0]) if len(value) == 1 else NAN
    if isinstance(value, str):
        if value.strip().lower() in ("inf", "-inf", "+inf"):
            return NAN
        try:
            return float(value)
        except ValueError:
            return NAN
    return NAN


def text(value: Json) -> str:
    """As JavaScript writes it, but booleans as Python does."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, int):
        return str(value)
    if value is None:
        return "null"
    if isinstance(value, list):
        return _joined(bounded(value))
    if isinstance(value, dict):
        return "[object Object]"
    return str(value)


def _joined(items: list[Json]) -> str:
    return ",".join(_joined(one) if isinstance(one, list) else text(one) for one in items)


def measure(value: Json) -> int:
    """How much there is of it, in items or the like. Raises TooLarge for more than anybody should walk.

    A list that holds another twice, which holds another twice, and so on, is soon larger than it looks.
    """
    todo, count = [value], 0
    while todo:
        one = todo.pop()
        if isinstance(one, (list, dict)):
            count += len(one)
            if count > MOST_ITEMS:
                raise TooLarge(f"lists in lists of more than {MOST_ITEMS} items")
            todo += one if isinstance(one, list) else one.values()
        elif isinstance(one, str):
            count += len(one) >> 6
    return count + 1


def bounded(value: Json) -> Json:
    """The same value. Raises TooLarge."""
    measure(value)
    return value


def equal(a: Json, b: Json) -> bool:
    """``==``: of different kinds both are read as numbers, lists and objects are equal to themselves alone."""
    if type(a) is type(b):
        return a is b if isinstance(a, (list, dict)) else bool(a == b)
    if isinstance(a, (int, float)):
        return a == (b if isinstance(b, (int, float)) else number(b))
    if isinstance(b, (int, float)):
        return number(a) == b
    if a is None or b is None:
        return False
    if isinstance(a, str) and isinstance(b, (list, dict)):
        return a == text(b)
    if isinstance(a, (list, dict)) and isinstance(b, str):
        return text(a) == b
    if isinstance(a, (list, dict)) and isinstance(b, (list, dict)):
        return False
    raise TypeError(f"{type(a).__name__} and {type(b).__name__} cannot be compared")


def same(a: Json, b: Json) -> bool:
    """``===``."""
    if isinstance(a, (list, dict)) and isinstance(b, (list, dict)):
        bounded(a)
    return bool(a == b)


def _ordering(holds: Callable[[Any, Any], bool]) -> Callable[[Json, Json], bool]:
    def compare(a: Json, b: Json) -> bool:
        if isinstance(a, (int, float)):
            return holds(a, number(b))
        if isinstance(b, (int, float)):
            return holds(number(a), b)
        if isinstance(a, str):
            return holds(a, text(b))
        if isinstance(b, str):
            return holds(text(a), b)
        return holds(number(a), number(b))

    return compare


ORDERINGS: Final[Mapping[str, Callable[[Json, Json], bool]]] = {
    "<": _ordering(operator.lt),
    "<=": _ordering(operator.le),
    ">": _ordering(operator.gt),
    ">=": _ordering(operator.ge),
}


def between(holds: Callable[[Json, Json], bool]) -> Callable[..., bool]:
    """The operator of two or three values."""

    def apply(a: Json = None, b: Json = None, c: Json = None, *_: Json) -> bool:
        return holds(a, b) if c is None else holds(a, b) and holds(b, c)

    return apply


def add(*values: Json) -> Number:
    """``+``."""
    total: Number = 0
    for value in values:
        total += number(value)
    return _bounded(total)


def multiply(*values: Json) -> Number:
    """``*``."""
    product: Number = 1
    for value in values:
        product = _bounded(product * number(value))
    return product


def subtract(a: Json = None, b: Json = None, *_: Json) -> Number:
    """``-``, of one value its negative."""
    return _bounded(-number(a) if b is None else number(a) - number(b))


def divide(a: Json = None, b: Json = None, *_: Json) -> Number:
    """``/``. Raises ZeroDivisionError."""
    return number(a) / number(b)


def modulo(a: Json = None, b: Json = None, *_: Json) -> Number:
    """``%``, with the sign of the divisor. Raises ZeroDivisionError."""
    return number(a) % number(b)


def _bounded(value: Number) -> Number:
    if value.__class__ is int and not -LARGEST < value < LARGEST:
        raise TooLarge("a number of more than 308 digits")
    return value


def least(*values: Json) -> Number:
    """``min``."""
    return min(map(number, values)) if values else NAN


def greatest(*values: Json) -> Number:
    """``max``."""
    return max(map(number, values)) if values else NAN


def cat(*values: Json) -> str:
    """All of them as one text."""
    parts = [text(value) for value in values]
    if sum(map(len, parts)) > LONGEST_TEXT:
        raise TooLarge(f"a text of more than {LONGEST_TEXT} characters")
    return "".join(parts)


def merge(*values: Json) -> list[Json]:
    """All of them as one list; those that are lists give their items."""
    items: list[Json] = []
    for value in values:
        if isinstance(value, list):
            items += value
        else:
            items.append(value)
        if len(items) > LONGEST_LIST:
            raise TooLarge(f"a list of more than {LONGEST_LIST} items")
    return items


def contains(needle: Json = None, haystack: Json = None, *_: Json) -> bool:
    """``in``."""
    if isinstance(haystack, list):
        if isinstance(needle, (list, dict)):
            bounded(needle)
        return needle in haystack
    return isinstance(haystack, str) and text(needle) in haystack


def substr(value: Json = None, start: Json = None, length: Json = None, *_: Json) -> str:
    """From ``start`` (from the end, where negative) so many characters, or all but so many where that is negative."""
    whole = text(value)
    size = len(whole)
    begin = number(start)
    if math.isnan(begin):
        begin = 0
    elif begin < 0:
        begin = 0 if -begin >= size else size - int(-begin)
    else:
        begin = min(int(begin), size)
    if length is None:
        return whole[begin:]
    count = number(length)
    if math.isnan(count):
        return ""
    count = int(count)
    end = max(size + count, begin) if count < 0 else begin + count
    return whole[begin:end]


def lookup(data: Json, key: Json = None, default: Json = None) -> Json:
    """``var``: a path of names and indexes through objects, lists and texts; all of it without a path."""
    if key is None or key == "":
        return data
    if isinstance(key, (int, float)):
        if isinstance(data, (list, str)):
            index = int(key)
            return data[index] if index == key and 0 <= index < len(data) else default
        if not isinstance(data, dict):
            return default
        data = data.get(key)
        if data is None:
            return default
    return walk(data, text(key).split("."), default)


def walk(data: Json, path: list[str], default: Json) -> Json:
    """Down a path of names and indexes."""
    for step in path:
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, (list, str)):
            if step == "length":
                return len(data)
            index = _index(step)
            if index is None or index >= len(data):
                return default
            data = data[index]
        else:
            return default
    return default if data is None else data


def _index(step: str) -> int | None:
    try:
        index = int(step)
    except ValueError:
        return None
    return index if index >= 0 and step == str(index) else None


def missing(data: Json, *args: Json) -> list[Json]:
    """Those of the attributes that are not there, or are empty."""
    keys = args[0] if args and isinstance(args[0], list) else args
    return [key for key in keys if (found := lookup(data, key)) is None or found == ""]


def missing_some(data: Json, need: Json = 0, keys: Json = None, *_: Json) -> list[Json]:
    """None of them while so many are there, else those that are not."""
    if not isinstance(keys, list):
        return []
    absent = missing(data, keys)
    return [] if len(keys) - len(absent) >= number(need) else absent


def starts_with(*args: Json) -> bool | None:
    """Of two texts; None for what is none."""
    if len(args) != 2 or not isinstance(args[0], str) or not isinstance(args[1], str):
        return None
    return args[0].startswith(args[1])


def ends_with(*args: Json) -> bool | None:
    """Of two texts; None for what is none."""
    if len(args) != 2 or not isinstance(args[0], str) or not isinstance(args[1], str):
        return None
    return args[0].endswith(args[1])


def sem_ver(*args: Json) -> bool | None:
    """A version, a comparison and a version; None for what is none."""
    return semver.compare(*args) if len(args) == 3 else None


def log(value: Json = None, *_: Json) -> Json:
    """Says nothing: an evaluation leaves no trace but its answer."""
    return value


OF_VALUES: Final[Mapping[str, Callable[..., Json]]] = {
    "==": lambda a=None, b=None, *_: equal(a, b),
    "!=": lambda a=None, b=None, *_: not equal(a, b),
    "===": lambda a=None, b=None, *_: same(a, b),
    "!==": lambda a=None, b=None, *_: not same(a, b),
    **{name: between(holds) for name, holds in ORDERINGS.items()},
    "!": lambda a=None, *_: not truthy(a),
    "!!": lambda a=None, *_: truthy(a),
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": modulo,
    "min": least,
    "max": greatest,
    "in": contains,
    "cat": cat,
    "substr": substr,
    "merge": merge,
    "log": log,
    "starts_with": starts_with,
    "ends_with": ends_with,
    "sem_ver": sem_ver,
}
"""Those that look at nothing but their arguments."""

OF_DATA: Final[Mapping[str, Callable[..., Json]]] = {"var": lookup, "missing": missing, "missing_some": missing_some}
"""Those that look into the data as well, which comes first."""
