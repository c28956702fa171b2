"""A flag set made ready to be asked: what each flag comes to for a context, at a time.

An Evaluator never changes and never raises, so one serves all threads; a changed flag set gets a new one. Answers are
made beforehand and handed out again and again, one for each variant: nobody may change what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from crossfade.domain.flags import why
from crossfade.domain.flags.closures import Call, Constant, Function, function
from crossfade.domain.flags.jsonlogic import Compiler, Unsound
from crossfade.domain.flags.lowering import lower
from crossfade.domain.flags.model import NOWHERE, ErrorCode, Evaluation, FlagSet, Json, Reason, Surroundings
from crossfade.domain.flags.operators import TooLarge

_NOTHING: Final[Mapping[str, Json]] = {}


class _Program(NamedTuple):
    """Either ``fixed``, which is the answer to everybody, or ``logic`` with the answer for each result of it."""

    fixed: Evaluation | None
    logic: Function
    timed: bool
    answers: Mapping[Any, Evaluation]


class Evaluator:
    """Asked with a flag's key, a context as parsed JSON, and the time as epoch seconds."""

    def __init__(self, flag_set: FlagSet, surroundings: Surroundings) -> None:
        self.flag_set = flag_set
        self.surroundings = surroundings
        self.lowered = lower(flag_set, surroundings)
        compiler = Compiler(self.lowered.get("$evaluators", {}), flag_set.hash_version)
        self._programs = {key: self._program(key, data, compiler) for key, data in self.lowered["flags"].items()}
        self._list = list(self._programs.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all flags, in their order."""
        return tuple(self._programs)

    def __contains__(self, key: object) -> bool:
        return key in self._programs

    @property
    def metadata(self) -> Mapping[str, Json]:
        """Of the flag set."""
        return self.flag_set.metadata

    def evaluate(self, key: str, context: Mapping[str, Json], now: float) -> Evaluation:
        """What the flag comes to."""
        program = self._programs.get(key)
        if program is None:
            return _failed(key, ErrorCode.FLAG_NOT_FOUND, f"There is no flag {key!r}.", self.metadata)
        if context.__class__ is not dict:
            return self._unusual(key, program, context, now)
        fixed, logic, timed, answers = program
        if fixed is not None:
            return fixed
        try:
            found = logic(context, Call(now) if timed else None)
        except Exception as error:  # noqa: BLE001  # whatever a context makes of the logic is an answer too
            return _broken(key, answers, error)
        if found.__class__ is str or found is None:
            answer = answers.get(found)
            if answer is not None:
                return answer
        return _odd(key, answers, found)

    def all(self, context: Mapping[str, Json], now: float, begin: int = 0, end: int | None = None) -> list[Evaluation]:
        """What all flags come to, in their order, or those from ``begin`` to ``end``; of a context that is none, errors."""
        if context.__class__ is not dict:
            if not isinstance(context, Mapping):
                return [self.evaluate(key, context, now) for key in self.keys[begin:end]]
            context = dict(context)
        found: list[Evaluation] = []
        add = found.append
        for fixed, logic, timed, answers in self._list[begin:end]:
            if fixed is not None:
                add(fixed)
                continue
            try:
                value = logic(context, Call(now) if timed else None)
            except Exception as error:  # noqa: BLE001  # as in `evaluate`
                add(_broken(answers[None].key, answers, error))
                continue
            answer = answers.get(value) if value.__class__ is str or value is None else None
            add(answer if answer is not None else _odd(answers[None].key, answers, value))
        return found

    def why(self, key: str, context: Mapping[str, Json], now: float) -> dict[str, Json]:
        """How the answer came about, as JSON: ``{"flag", "evaluation", "steps": [{"what", "found", "outcome"}]}``."""
        return why.trace(self.flag_set, self.surroundings, self.evaluate(key, context, now), context, now)

    def _unusual(self, key: str, program: _Program, context: Any, now: float) -> Evaluation:
        if isinstance(context, Mapping):
            return self.evaluate(key, dict(context), now)
        metadata = program.answers[None].metadata
        return _failed(key, ErrorCode.INVALID_CONTEXT, f"The context is {_kind(context)}, not an object.", metadata)

    def _program(self, key: str, data: Mapping[str, Json], compiler: Compiler) -> _Program:
        variants, default = data["variants"], data["defaultVariant"]
        own, shared = data.get("metadata", _NOTHING), self.flag_set.metadata
        metadata = {**shared, **own} if own and shared else own or shared
        value = None if default is None else variants.get(default)
        fallback = Evaluation(key, value, default, Reason.DEFAULT, metadata)
        answers: dict[Any, Evaluation] = {None: fallback}
        if data["state"] == "DISABLED":
            return _Program(Evaluation(key, None, None, Reason.DISABLED, metadata), _never, False, answers)
        targeting = data.get("targeting")
        if not targeting:
            fixed = fallback if default is None else Evaluation(key, value, default, Reason.STATIC, metadata)
            return _Program(fixed, _never, False, answers)
        for name, given in variants.items():
            answers[name] = Evaluation(key, given, name, Reason.TARGETING_MATCH, metadata)
        try:
            node, timed = compiler.compile(targeting, key)
        except Unsound as error:
            return _Program(_failed(key, ErrorCode.PARSE_ERROR, f"{error.what}.", metadata), _never, False, answers)
        if isinstance(node, Constant):
            found = node.value
            known = answers.get(found) if found is None or isinstance(found, str) else None
            return _Program(known or _odd(key, answers, found), _never, False, answers)
        return _Program(None, function(node), timed, answers)


def compiled(flag_set: FlagSet, surroundings: Surroundings = NOWHERE) -> Evaluator:
    """The flag set, ready to be asked. Takes some 50 µs a flag."""
    return Evaluator(flag_set, surroundings)


def _never(_data: Any, _call: Any) -> Json:
    return None


def _odd(key: str, answers: Mapping[Any, Evaluation], found: Json) -> Evaluation:
    """For a result that is no variant as it is: booleans and numbers are named as flagd names them."""
    if isinstance(found, bool):
        name = str(found).lower()
    elif isinstance(found, (str, int, float)):
        try:
            name = str(found)
        except ValueError:
            name = "a number of thousands of digits"
    else:
        name = _kind(found)
    answer = answers.get(name)
    if answer is not None:
        return answer
    shown = name if len(name) <= 80 else name[:77] + "..."
    details = f"The targeting came to {shown!r}, which is no variant of the flag."
    return _failed(key, ErrorCode.GENERAL, details, answers[None].metadata)


def _broken(key: str, answers: Mapping[Any, Evaluation], error: Exception) -> Evaluation:
    match error:
        case TooLarge():
            said = str(error)
        case RecursionError():
            said = "it is nested too deeply"
        case _:
            said = f"{type(error).__name__}: {error}"
    details = f"The targeting cannot be evaluated with this context: {said[:200]}."
    return _failed(key, ErrorCode.GENERAL, details, answers[None].metadata)


def _failed(key: str, error: ErrorCode, details: str, metadata: Mapping[str, Json]) -> Evaluation:
    return Evaluation(key, None, None, Reason.ERROR, metadata, error, details)


def _kind(value: Json) -> str:
    match value:
        case None:
            return "null"
        case list():
            return "a list"
        case dict():
            return "an object"
        case bool():
            return "a boolean"
        case str():
            return "text"
        case int() | float():
            return "a number"
    return type(value).__name__
