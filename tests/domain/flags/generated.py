"""Logic, contexts and whole flag sets as Hypothesis makes them, and what flagd's own evaluator says of them."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, ParseError

from crossfade.domain.flags.model import (
    ErrorCode,
    Evaluation,
    Flag,
    FlagSet,
    Json,
    Killed,
    Linear,
    Prerequisite,
    Reason,
    Rule,
    Segment,
    Split,
)
from crossfade.domain.flags.references import faults
from crossfade.domain.flags.split import reallocate
from crossfade.domain.flags.survey import OPERATORS, REFERENCES, survey
from crossfade.domain.values import ReleaseNumber

NOW = 1_790_000_000
VARIANTS: dict[str, Json] = {"on": True, "off": False, "true": 1, "1": "one", "b": {"deep": [1, None]}, "false": 0.5}

names = st.sampled_from(["a", "b", "c", "email", "age", "targetingKey", "release", "list", "list.0", "c.x", "c.x.1"])
texts = st.one_of(
    st.sampled_from(
        ["on", "off", "", "1", "1.0", "-2", "true", "null", "x@y.org", "inf", "nan", " 7 ", "1,2", "1.2.3"]
    ),
    st.sampled_from(["v2", "2.0.0-rc.1", "2.0.0-rc.1+b", "r12", "r7", "[object Object]", "Straße", "\ud800", "0x10"]),
    st.text(max_size=4),
)
numbers = st.one_of(
    st.integers(-3, 120), st.integers(-(2**70), 2**70), st.sampled_from([0.5, -0.0, 2.0, 1e300, 18.5, 2.0**63, 2.0**64])
)
scalars = st.one_of(texts, numbers, st.booleans(), st.none())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["x", "y", "a", "0"]), inner, max_size=3)
    ),
    max_leaves=6,
)
contexts = st.dictionaries(
    st.sampled_from(["a", "b", "c", "email", "age", "list", "release"]), values, max_size=6
).flatmap(
    lambda more: st.one_of(
        st.just(more),
        st.one_of(st.integers(0, 50).map("user-{}".format), texts, values).map(
            lambda key: more | {"targetingKey": key}
        ),
    )
)

_OPERATORS = sorted(OPERATORS - {"log", *REFERENCES})  # `log` prints in the evaluator of flagd
_paths = st.sampled_from(
    [
        *("", "a", "b", "c", "c.x", "email", "age", "list.1", "list.length", "x", "targetingKey"),
        *("accumulator", "current", "current.x", "$flagd", "$flagd.timestamp", "$flagd.flagKey", "$flagd.other"),
    ]
)
_results = st.sampled_from(["on", "off", "true", "b", "nobody", True, False, 1, 1.0, None])
_versions = st.sampled_from(["1.2.3", "v2", "2.0.0-rc.1", "1", "2.0.0-rc.1+b", "nonsense", 3, 1.5])
_comparisons = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "^", "~", "?"])
_plain = st.one_of(_paths.map(lambda path: {"var": path}), texts, numbers)


def _operations(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    share = st.one_of(
        st.tuples(_results, st.integers(0, 100)).map(list),
        st.tuples(_results).map(list),
        st.tuples(inner, st.one_of(inner, numbers)).map(list),
    )
    return st.one_of(
        st.tuples(st.sampled_from(_OPERATORS), st.lists(inner, max_size=4)).map(lambda p: {p[0]: p[1]}),
        st.tuples(st.sampled_from(_OPERATORS), inner.filter(lambda one: not isinstance(one, list))).map(
            lambda p: {p[0]: p[1]}
        ),
        st.tuples(st.sampled_from(["==", "!=", "===", "!==", "<", "<=", ">", ">=", "in"]), _plain, _plain).map(
            lambda p: {p[0]: [p[1], p[2]]}
        ),
        st.tuples(st.sampled_from(["starts_with", "ends_with"]), _plain, _plain).map(lambda p: {p[0]: [p[1], p[2]]}),
        st.tuples(st.one_of(_plain, _versions), _comparisons, _versions).map(lambda p: {"sem_ver": list(p)}),
        st.tuples(_paths, inner).map(lambda p: {"var": list(p)}),
        st.lists(_paths, max_size=2).map(lambda paths: {"missing": paths}),
        st.lists(share, max_size=4).map(lambda shares: {"fractional": shares}),
        st.tuples(_plain, st.lists(share, max_size=4)).map(lambda p: {"fractional": [p[0], *p[1]]}),
        st.tuples(st.sampled_from(["map", "filter", "all", "some", "none"]), inner, inner).map(
            lambda p: {p[0]: [p[1], p[2]]}
        ),
        st.tuples(inner, inner, scalars).map(lambda p: {"reduce": list(p)}),
        st.lists(inner, min_size=2, max_size=5).map(lambda args: {"if": args}),
    )


logic = st.recursive(
    st.one_of(scalars, _results, _paths.map(lambda path: {"var": path})),
    lambda inner: st.one_of(_operations(inner), st.lists(inner, max_size=3)),
    max_leaves=12,
)
conditions = st.recursive(_operations(st.one_of(_plain, scalars)), _operations, max_leaves=6)
operations = _operations(logic)


def targeted(targeting: Json, key: str = "flag", hash_version: int = 3) -> FlagSet:
    """A flag set of one flag with all of `VARIANTS`."""
    flag = Flag(key, VARIANTS, "off", targeting=targeting)
    return FlagSet({key: flag}, metadata={"hashVersion": hash_version})


# --- whole flag sets

_variants = st.sampled_from(list(VARIANTS))
_times = st.integers(-3, 3).map(lambda hours: float(NOW + 3600 * hours))


@st.composite
def splits(draw: st.DrawFn, variants: tuple[str, ...] = tuple(VARIANTS)) -> Split:
    """A split after some changes of its shares."""
    rest, *others = draw(st.permutations(variants))
    split = Split({}, rest, draw(st.sampled_from(["targetingKey", "a", "c.x"])))
    for _ in range(draw(st.integers(0, 3))):
        split = reallocate(split, draw(shares_of(split, others)))
    return split


@st.composite
def shares_of(draw: st.DrawFn, split: Split, variants: list[str]) -> dict[str, int]:
    """Shares that may be given: those not named keep theirs."""
    chosen = draw(st.lists(st.sampled_from(variants), unique=True, max_size=3))
    kept = sum(end - begin for v, slices in split.shares.items() if v not in chosen for begin, end in slices)
    left = 10_000 - kept
    wanted = {}
    for variant in chosen:
        wanted[variant] = draw(st.integers(0, left))
        left -= wanted[variant]
    return wanted


@st.composite
def ramps(draw: st.DrawFn) -> Linear:
    begins = draw(_times)
    lasts = draw(st.sampled_from([1.0, 60.5, 86_400.0, 30 * 86_400.0, 366 * 86_400.0]))
    variant, rest = draw(_variants), draw(_variants)
    shares = st.integers(0, 10_000) | st.sampled_from([0, 2500, 10_000])
    return Linear(variant, rest, begins, begins + lasts, draw(shares), draw(shares))


@st.composite
def rules(draw: st.DrawFn, name: str, shared: list[str], when: st.SearchStrategy[Json]) -> Rule:
    references = [st.sampled_from([{"segment": one} for one in shared])] if shared else []
    begins = draw(st.none() | _times)
    return Rule(
        name=name,
        serve=draw(st.one_of(_variants, splits(), ramps())),
        when=draw(st.one_of(st.none(), when, *references)),
        paused=draw(st.booleans()),
        begins=begins,
        ends=draw(st.none() | _times.filter(lambda time: begins is None or time > begins)),
    )


@st.composite
def flags(draw: st.DrawFn, key: str, others: list[str], shared: list[str], when: st.SearchStrategy[Json]) -> Flag:
    required = draw(st.lists(st.sampled_from(others), unique=True, max_size=2)) if others else []
    return Flag(
        key=key,
        variants=VARIANTS,
        default=draw(st.none() | _variants),
        enabled=draw(st.integers(0, 9)) > 0,
        targeting=draw(st.none() | when),
        metadata=draw(st.dictionaries(st.sampled_from(["team", "cost"]), st.text("ab", max_size=3) | st.booleans())),
        tags=tuple(draw(st.lists(st.sampled_from(["shop", "new"]), unique=True))),
        off=draw(st.none() | _variants),
        killed=Killed("ada", float(NOW), "") if draw(st.integers(0, 9)) == 0 else None,
        needs=draw(st.none() | st.integers(6, 13).map(ReleaseNumber)),
        requires=tuple(
            Prerequisite(one, tuple(draw(st.lists(_variants, unique=True, min_size=1, max_size=3)))) for one in required
        ),
        rules=tuple(draw(rules(f"rule-{i}", shared, when)) for i in range(draw(st.integers(0, 3)))),
        seed=draw(st.none() | st.sampled_from(["seed", "größe"])),
    )


@st.composite
def flag_sets(draw: st.DrawFn, hash_version: int = 3, when: st.SearchStrategy[Json] = conditions) -> FlagSet:
    """Flags that may require those before them, with segments that may be made of those before them."""
    segments: dict[str, Segment] = {}
    for name in ("beta", "größe", "staff")[: draw(st.integers(0, 3))]:
        holds = draw(when)
        if segments:
            before: list[str] = list(segments)
            known = st.sampled_from(before).map(lambda one: {"segment": one})
            holds = {draw(st.sampled_from(["and", "or", "!!"])): [draw(known), holds]}
        segments[name] = Segment(name, holds)
    made: dict[str, Flag] = {}
    for key in ("one", "two", "drei-ß", "four")[: draw(st.integers(1, 4))]:
        made[key] = draw(flags(key, list(made), list(segments), when))
    return FlagSet(made, {}, {"hashVersion": hash_version, "flagSetId": "shop"}, segments)


sound_sets = flag_sets(when=conditions.filter(lambda one: survey(one).sound)).filter(lambda one: not faults(one))
"""Those that may be written down: their weights are whole, and no prerequisite has a short form of `fractional`."""


# --- the oracle

logging.getLogger("openfeature.contrib").disabled = True  # it logs an error for each bucket that it does not find

_TARGETING = import_module("openfeature.contrib.tools.flagd.core.targeting.targeting")


@contextmanager
def at(now: float) -> Iterator[None]:
    """The oracle's clock stands at ``now``."""
    with patch.object(_TARGETING, "time", SimpleNamespace(time=lambda: now)):
        yield


class Oracle:
    """flagd's own evaluator, with its answers in our words."""

    def __init__(self, document: dict[str, Json]) -> None:
        self._core = FlagdCore()
        self._core.set_flags(json.dumps(document))

    def evaluate(self, key: str, context: dict[str, Json], now: float) -> Evaluation:
        attributes = copy.deepcopy(context)
        asked = EvaluationContext(attributes.pop("targetingKey", None), attributes)
        with at(now):
            return self._answer(key, asked)

    def _answer(self, key: str, asked: EvaluationContext) -> Evaluation:
        try:
            found: Any = self._core._resolve(key, None, asked)
        except Exception as error:  # noqa: BLE001  # the SDK takes every exception for an error of the evaluation
            return Evaluation(key, None, None, Reason.ERROR, {}, _code(error))
        return Evaluation(key, found.value, found.variant, Reason(str(found.reason)), found.flag_metadata)


def _code(error: Exception) -> ErrorCode:
    match error:
        case FlagNotFoundError():
            return ErrorCode.FLAG_NOT_FOUND
        case ParseError():
            return ErrorCode.PARSE_ERROR
    return ErrorCode.GENERAL


def plain(evaluation: Evaluation) -> tuple[object, ...]:
    """What must be the same; the words of an error need not be, nor what is told with it."""
    value = json.dumps(evaluation.value)
    if evaluation.error is not None:
        return (evaluation.key, value, evaluation.variant, evaluation.reason, evaluation.error)
    return (evaluation.key, value, evaluation.variant, evaluation.reason, dict(evaluation.metadata))
