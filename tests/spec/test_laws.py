"""Laws of reading: what is written back reads the same, a wrong value is named with its line, garbage never crashes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import InvalidConfig, Problem
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.values import parse_duration
from crossfade.spec.document import reference
from crossfade.spec.loader import parse, parse_bytes
from crossfade.spec.models import Spec, json_schema
from crossfade.spec.problems import dotted
from crossfade.spec.scalars import show_seconds
from crossfade.spec.tree import read
from tests.spec import specs

SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
Path = tuple[str | int, ...]

REFERENCE = read(reference())
KEYS: list[Path] = [path for path in REFERENCE.lines if path and isinstance(path[-1], str)]


@SLOW
@given(specs.specs())
def test_a_spec_that_is_written_and_read_again_is_the_same(data: dict[str, Any]) -> None:
    spec = Spec.from_data(data)
    written = spec.to_data()
    assert Spec.from_data(json.loads(json.dumps(written))) == spec
    assert Spec.from_data(written).to_data() == written
    assert parse(specs.as_yaml(written)[0]) == spec


@SLOW
@given(specs.specs())
def test_yaml_and_json_of_the_same_data_are_the_same_spec(data: dict[str, Any]) -> None:
    assert parse(specs.as_yaml(data)[0]) == Spec.from_data(data)


@SLOW
@given(specs.specs())
def test_every_environment_becomes_a_complete_configuration(data: dict[str, Any]) -> None:
    spec = Spec.from_data(data)
    for name, own in data["environments"].items():
        config = spec.for_environment(name)
        assert isinstance(config, ReleaseConfig)
        assert config.port == own["port"]
        assert config.secrets == ""
        assert dict(config.env) == {**data["run"].get("env", {}), **own.get("env", {})}
        assert len(config.checks) == len(data["health"])
        assert config.replicas == own.get("replicas", data["run"].get("replicas", 1))
        chosen = own.get("strategy", data.get("strategy", {}))
        assert type(config.strategy).__name__ == ("Canary" if chosen.get("kind") == "canary" else "BlueGreen")
        assert config.window >= 3


@SLOW
@given(specs.specs())
def test_what_the_loader_accepts_the_schema_accepts_too(data: dict[str, Any]) -> None:
    Spec.from_data(data)
    jsonschema.Draft202012Validator(json_schema()).validate(data)


@given(st.floats(0, 1e8))
@example(0.0301)
@example(30.1 * 0.001)
def test_a_length_of_time_is_written_so_that_it_reads_as_exactly_the_same(seconds: float) -> None:
    assert parse_duration("", show_seconds(seconds)) == seconds


FLAGS = ("absent", "manual", "strict", "required", "dry_run", "supersede", "retry", "artifact")


def _around(path: Path) -> dict[str, Any]:
    """The reference, without what has nothing to do with ``path``: a short file is read sooner."""
    data: dict[str, Any] = copy.deepcopy(REFERENCE.data)
    for part in ("analysis", "continuity", "pipeline"):
        if path[0] != part:
            del data[part]
    if path[:2] == ("pipeline", "stages") and len(path) > 2:
        data["pipeline"]["stages"] = {path[2]: data["pipeline"]["stages"][path[2]]}
    return data


def _with(path: Path, value: Any) -> dict[str, Any]:
    data = _around(path)
    here: Any = data
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return data


def _wrong_types(path: Path) -> list[Any]:
    """Values of types that the key at ``path`` does not take."""
    wrong: list[Any] = [None]
    here: Any = REFERENCE.data
    for step in path:
        here = here[step]
    if isinstance(here, dict):
        # One text, or a list of words, is the short form of a step.
        wrong += [["a"], "text"] if path[-2:-1] not in (("json",), ("steps",)) else []
        wrong += [["a"]] if path[-2:-1] == ("json",) else []
        wrong += [] if path[-2:-1] == ("json",) else [3, True]
    elif isinstance(here, list):
        wrong += ["", {"a": 1}, *([] if path[-1] == "status" else [3]), True]
    else:
        # {"equals": …} and the like is what a JSON path takes; a mapping with another key is wrong there, elsewhere.
        wrong += [["a", 3]]
        wrong += [] if path[-2:-1] == ("json",) else [{"a": 1}]
        if path[-1] not in ("equals", "LOG_LEVEL", *FLAGS) and path[-2:-1] != ("json",):
            wrong += [True]
        if path[-1] in FLAGS:
            wrong += [1, "yes"]
    return wrong


@pytest.mark.parametrize("path", KEYS, ids=dotted)
def test_a_value_of_the_wrong_type_is_a_problem_with_that_key_and_its_line(path: Path) -> None:
    for value in _wrong_types(path):
        text, lines = specs.as_yaml(_with(path, value))
        with pytest.raises(InvalidConfig) as caught:
            parse(text)
        named = [p for p in caught.value.problems if p.key == dotted(path) and p.line == lines[path]]
        assert named, f"{value!r} at {dotted(path)}, line {lines[path]}: {caught.value}"


# What else may stand beside these two depends on them.
@pytest.mark.parametrize("path", [p for p in KEYS if p not in {("strategy", "kind"), ("sticky", "by")}], ids=dotted)
def test_a_misspelt_key_is_a_problem_with_its_line_and_no_other_line_is_blamed(path: Path) -> None:
    data = _around(path)
    here: Any = data
    for step in path[:-1]:
        here = here[step]
    wrong = f"{path[-1]} x"
    here[wrong] = here.pop(path[-1])
    text, lines = specs.as_yaml(data)
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    # A required key that is missing is told in the line of the mapping around it.
    around = {lines.get(path[:length], 1) for length in range(len(path))}
    assert {p.line for p in caught.value.problems} <= {lines[(*path[:-1], wrong)], *around}
    assert any(p.key == dotted((*path[:-1], wrong)) for p in caught.value.problems)


def _survives(read_it: Callable[[], object]) -> None:
    problems: tuple[Problem, ...] | None = None
    try:
        read_it()
    except InvalidConfig as error:
        problems = error.problems
    assert problems is None or problems
    assert all(p.found and p.allowed and len(p.found) < 300 for p in problems or ())


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
@example(b"\xff\xfe")
@example(b"%YAML 9.9\n---\na")
@example(b"%TAG ! tag:x,2000:\n---\n!a b")
@example(b"? ? ? ?")
@example(b"&a\n*a : *a")
@example(b"!<tag:yaml.org,2002:int> x: y")
@example(b"- !!set {a, b}\n- {*x : y}")
def test_no_bytes_crash_the_loader(data: bytes) -> None:
    _survives(lambda: parse_bytes(data))


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("ab1:-?[]{},&*!|>'\"%@`#\n \t.~<=\\\x85\u2028"), max_size=80))
def test_no_text_of_yaml_s_own_signs_crashes_the_loader(text: str) -> None:
    _survives(lambda: parse(text))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(reference())), st.integers(0, 60), st.text(max_size=8))
def test_no_cut_or_insertion_into_the_reference_crashes_the_loader(at: int, cut: int, text: str) -> None:
    _survives(lambda: parse(reference()[:at] + text + reference()[at + cut :]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KEYS), JSON)
def test_no_value_anywhere_crashes_the_reading_of_plain_data(path: Path, value: Any) -> None:
    _survives(lambda: Spec.from_data(_with(path, value)))


@settings(deadline=None, max_examples=100)
@given(JSON)
def test_no_plain_data_crashes_the_reading(value: Any) -> None:
    _survives(lambda: Spec.from_data(value))
