"""Others that evaluate flags within a Python process: what `bench.flag_evaluation` runs beside ours.

Each is made of the same flag set in flagd's format, which it takes as it is or in its own words, and is asked in the
quickest way that it documents.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

Document = Mapping[str, Any]
Context = Mapping[str, Any]


class Peer(Protocol):
    """One who evaluates. ``same_buckets``: its percentages fall on the same people as flagd's."""

    same_buckets: bool

    def asking(self, context: Context) -> Callable[[str], bool]:
        """What is asked with a flag's key for this context; what it wants of the context is made here."""
        ...


class FlagdCore:
    """flagd's evaluator, as its in-process provider calls it."""

    same_buckets = True

    def __init__(self, document: Document) -> None:
        core = importlib.import_module("openfeature.contrib.tools.flagd.core")
        self._context = importlib.import_module("openfeature.evaluation_context").EvaluationContext
        self._core = core.FlagdCore()
        self._core.set_flags(json.dumps(document))

    def asking(self, context: Context) -> Callable[[str], bool]:
        attributes = dict(context)
        asked = self._context(attributes.pop("targetingKey"), attributes)
        resolve = self._core.resolve_boolean_value
        return lambda key: resolve(key, False, asked).value


class DataLogic:
    """JsonLogic in Rust, with flagd's operators: it gives a variant's name, and knows nothing else of flags."""

    same_buckets = False

    def __init__(self, document: Document) -> None:
        module = importlib.import_module("datalogic_py")
        self._handle = module.DataHandle
        engine = module.Engine()
        self._evaluate = engine.session().evaluate_data
        self._flags = {
            key: (engine.compile(flag["targeting"]) if "targeting" in flag else None, flag["variants"])
            for key, flag in document["flags"].items()
        }

    def asking(self, context: Context) -> Callable[[str], bool]:
        # The key of the flag is part of the data. With one for all of them, the data is read but once a context.
        flags, evaluate = self._flags, self._evaluate
        shared = self._handle(json.dumps({**context, "$flagd": {"flagKey": "", "timestamp": 1_790_000_000}}))

        def ask(key: str) -> bool:
            rule, variants = flags[key]
            if rule is None:
                return bool(variants["off"])
            return bool(variants[evaluate(rule, shared)])

        return ask


class GoFeatureFlag:
    """GO Feature Flag's evaluator in Go, compiled to WebAssembly, as its in-process provider calls it."""

    same_buckets = False

    def __init__(self, document: Document) -> None:
        wasm = importlib.import_module("gofeatureflag_python_provider.wasm")
        self._input, self._flag_context = wasm.WasmInput, wasm.WasmFlagContext
        evaluator = wasm.EvaluateWasm(pool_size=1)
        evaluator.initialize()
        self._evaluate = evaluator.evaluate
        self._flags = {key: _go_feature_flag(flag) for key, flag in document["flags"].items()}

    def asking(self, context: Context) -> Callable[[str], bool]:
        asked, flag_context = dict(context), self._flag_context(defaultSdkValue=False)
        evaluate, make, flags = self._evaluate, self._input, self._flags

        def ask(key: str) -> bool:
            asking = make(flagKey=key, flag=flags[key], evalContext=asked, flagContext=flag_context)
            return bool(evaluate(asking).value)

        return ask


class GrowthBook:
    """GrowthBook's SDK, which evaluates in Python: one of its clients for each context."""

    same_buckets = False

    def __init__(self, document: Document) -> None:
        module = importlib.import_module("growthbook")
        self._client = module.GrowthBook
        self._features = {key: _growthbook(key, flag) for key, flag in document["flags"].items()}

    def asking(self, context: Context) -> Callable[[str], bool]:
        client = self._client(attributes={**context, "id": context["targetingKey"]}, features=self._features)
        is_on: Callable[[str], bool] = client.is_on
        return is_on


PEERS: Final[Mapping[str, tuple[str, Callable[[Document], Peer]]]] = {
    "openfeature-flagd-core": ("openfeature-flagd-core", FlagdCore),
    "datalogic-py (Rust)": ("datalogic-py", DataLogic),
    "GO Feature Flag (WebAssembly)": ("gofeatureflag-python-provider", GoFeatureFlag),
    "GrowthBook": ("growthbook", GrowthBook),
}
"""By name: the package, and what makes one of it."""


def _conditions(flag: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Operator, attribute and value of each."""
    condition = flag["targeting"]["if"][0]
    parts = condition.get("and", [condition])
    return [(operator, args[0]["var"], args[1]) for part in parts for operator, args in part.items()]


def _go_feature_flag(flag: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"variations": flag["variants"], "defaultRule": {"variation": "off"}, "trackEvents": False}
    targeting = flag.get("targeting", {})
    if "fractional" in targeting:
        made["defaultRule"] = {"percentage": dict(targeting["fractional"])}
    elif "if" in targeting:
        words = {"==": "eq", ">=": "ge", "<": "lt", "in": "in", "ends_with": "ew"}
        query = " and ".join(f"({name} {words[one]} {json.dumps(value)})" for one, name, value in _conditions(flag))
        made["targeting"] = [{"name": "rule", "query": query, "variation": "on"}]
    return made


def _growthbook(key: str, flag: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"defaultValue": False}
    targeting = flag.get("targeting", {})
    if "fractional" in targeting:
        share = targeting["fractional"][0][1] / 100
        made["rules"] = [{"force": True, "coverage": share, "hashAttribute": "id", "seed": key}]
    elif "if" in targeting:
        made["rules"] = [{"force": True, "condition": {name: _wanted(*one) for one, name in _of(flag)}}]
    return made


def _of(flag: Mapping[str, Any]) -> list[tuple[tuple[str, Any], str]]:
    return [((operator, value), name) for operator, name, value in _conditions(flag)]


def _wanted(operator: str, value: Any) -> Any:
    match operator:
        case "==":
            return value
        case "ends_with":
            return {"$regex": f"{re.escape(value)}$"}
        case "in":
            return {"$in": value}
    return {{">=": "$gte", "<": "$lt"}[operator]: value}
