"""What people read when their file is wrong: every problem at once, each with line, key, what was found and allowed."""

import os
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import InvalidConfig, NotFound, Problem
from crossfade.spec.loader import load, parse, parse_bytes
from crossfade.spec.models import Spec

GOOD = """\
service: bookshop
run: {command: [./shop]}
health: [{name: it answers, path: /health}]
environments: {production: {}}
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    return caught.value.problems


def only(text: str) -> Problem:
    (problem,) = problems(text)
    return problem


TWELVE = """\
service: Bookshop
run:
  comand: [python3, app.py]
  replicas: three
  env:
    PORT: 8080
    PASSWORD: [hunter2]
health:
  - name: shop has books
    path: health
    status: 700
strategy:
  kind: canary
  steps:
    - {weight: 10%, duration: 30s}
    - {weight: 5%, duration: 30s}
    - {weight: 50%, duration: 30}
rollback:
  window: 2
environments:
  production: {port: 0}
  staging: {port: 8081, bind: localhost}
"""


def test_a_file_with_twelve_mistakes_gives_twelve_problems_in_the_order_of_its_lines() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(TWELVE, "crossfade.yaml")
    assert str(caught.value) == (
        """\
12 problems in the configuration:
  crossfade.yaml:1: service: found 'Bookshop'; allowed: 1 to 40 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'
  crossfade.yaml:3: run.comand: found an unknown key; allowed: command, env, env_file, replicas, start_timeout, stop_timeout (did you mean command?)
  crossfade.yaml:4: run.replicas: found 'three'; allowed: a whole number from 1 to 100
  crossfade.yaml:6: run.env.PORT: found the name 'PORT'; allowed: any other name: Crossfade itself sets PORT, HOST and CROSSFADE_…
  crossfade.yaml:7: run.env.PASSWORD: found a list of 1; allowed: text, a number, true or false; '' for empty
  crossfade.yaml:10: health[0].path: found 'health'; allowed: a path that begins with '/', without spaces and '#'
  crossfade.yaml:11: health[0].status: found 700; allowed: a status code from 100 to 599, or a list of several
  crossfade.yaml:16: strategy.steps[1].weight: found '5%'; allowed: more than the step before it (10%)
  crossfade.yaml:17: strategy.steps[2].duration: found 30; allowed: a duration from 100ms to 30d with a unit ms, s, m, h or d
  crossfade.yaml:19: rollback.window: found 2; allowed: a whole number from 3 to 50: at least the 3 previous releases must stay restorable
  crossfade.yaml:21: environments.production.port: found 0; allowed: a whole number from 1 to 65535
  crossfade.yaml:22: environments.staging.bind: found 'localhost'; allowed: an IP address, for example 127.0.0.1"""
    )


@pytest.mark.parametrize(
    ("text", "line", "found", "allowed"),
    [
        ("", 0, "an empty file", "a mapping that begins with service:"),
        ("# only a comment\n", 0, "an empty file", "a mapping that begins with service:"),
        ("---\n...\n", 0, "an empty file", "a mapping that begins with service:"),
        ("- service: a\n", 1, "a list", "a mapping that begins with service:"),
        ("bookshop\n", 1, "a single value", "a mapping that begins with service:"),
        (GOOD + "---\nservice: b\n", 5, "a second document", "one document in a file"),
        ("service: a\nrun:\n\tcommand: x\n", 3, "a tab", "spaces to indent with; YAML does not allow tabs there"),
        ("service: a\x00\n", 1, "a character that is not printable", "printable characters"),
        ("service: *nobody\n", 1, "the alias *nobody", "an anchor that is complete above it"),
        ("service: &me [*me]\n", 1, "the alias *me", "an anchor that is complete above it"),
        ("[" * 5_000, 1, "more than 30 levels of lists and mappings", "a flatter file"),
        ("a: [" + "1," * 20_000 + "]", 1, "more than 10000 values", "a smaller file"),
        ("a: b\n" + "!" * 70_000, 2, "a line of more than 65536 characters", "shorter lines"),
        ("#" + "x" * 1_100_000, 0, "a file of more than 1 MiB", "at most 1 MiB"),
    ],
)  # fmt: skip
def test_what_is_no_usable_yaml_is_one_problem_with_its_line(text: str, line: int, found: str, allowed: str) -> None:
    problem = only(text)
    assert (problem.line, problem.key, problem.found, problem.allowed) == (line, "the file", found, allowed)


def test_broken_yaml_names_the_line_where_it_broke_and_shows_nothing_of_the_text() -> None:
    problem = only("service: a\nrun: {env: {PASSWORD: hunter2}\nhealth: []\n")
    assert problem.line in (2, 3)
    assert problem.found.startswith("broken YAML")
    assert "hunter2" not in str(problem)


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    problem = only("\n".join(lines))
    assert problem.found == "more than 10000 values, aliases counted"


def test_anchors_and_merge_keys_mean_what_they_mean_elsewhere() -> None:
    spec = parse(
        GOOD.replace(
            "environments: {production: {}}",
            "environments:\n  a: &base {port: 1, env: {X: one}}\n  b:\n    <<: *base\n    port: 2\n",
        )
    )
    assert (spec.environments["b"].port, spec.environments["b"].env) == (2, {"X": "one"})


def test_a_wrong_value_behind_a_merge_key_has_the_line_where_it_is_written() -> None:
    text = GOOD.replace(
        "environments: {production: {}}",
        "environments:\n  a: &base\n    port: 1\n    replicas: none\n  b:\n    <<: *base\n    port: 2\n",
    )
    assert [(p.line, p.key) for p in problems(text)] == [
        (7, "environments.a.replicas"),
        (7, "environments.b.replicas"),
    ]


def test_a_key_that_is_there_twice_is_refused_and_the_first_line_is_named() -> None:
    problem = only(GOOD + "lease: 5s\nwarm_for: 1m\nlease: 6s\n")
    assert (problem.line, problem.key) == (7, "lease")
    assert problem.allowed == "each key once; the first is in line 5"


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system [id]", "!secret x", "!!binary aGk=", "!!int '3'"])
def test_tags_are_refused_and_nothing_is_run(value: str) -> None:
    found = problems(GOOD + f"lease: {value}\n")
    assert any(p.line == 5 and "tag" in p.found and p.allowed == "values without tags" for p in found)


def test_on_and_no_are_text_as_yaml_1_2_says_and_variables_stay_as_they_are_written() -> None:
    spec = parse(GOOD.replace("[./shop]}", "[./shop, on, no], env: {A: on, B: 1.10, C: 0123, D: true, E: 1e3, F: ''}}"))
    assert spec.run.command == ("./shop", "on", "no")
    assert spec.run.env == {"A": "on", "B": "1.10", "C": "0123", "D": "true", "E": "1e3", "F": ""}


def test_bytes_that_are_not_utf_8_are_named_with_their_line() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_bytes(b"service: a\nrun: \xff\n")
    (problem,) = caught.value.problems
    assert (problem.line, problem.allowed) == (2, "text in UTF-8")
    assert "0xff" in problem.found


def test_a_byte_order_mark_is_no_problem() -> None:
    assert parse_bytes(b"\xef\xbb\xbf" + GOOD.encode()).service == "bookshop"


SECRET = "hunter2-the-secret"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("[./shop]}", f"[./shop], env: {{A: [{SECRET}]}}}}"),
        GOOD.replace("[./shop]}", f"[./shop], env: {SECRET}}}"),
        GOOD.replace("[./shop]}", f"[./shop], env: [A={SECRET}]}}"),
        GOOD.replace("[./shop]}", f"[./shop], environ: {{A: {SECRET}}}}}"),
        GOOD.replace("{production: {}}", f'{{production: {{env: {{A: "{SECRET}\\0"}}}}}}'),
        GOOD.replace("path: /health", f'path: /health, send_headers: {{Authorization: "{SECRET}\\n"}}'),
        GOOD.replace("path: /health", f"path: /health, send_body: [{SECRET}]"),
        GOOD.replace("path: /health", f"path: /health, send_headers: {SECRET}"),
        GOOD + f"env: {{A: {SECRET}}}\n",
    ],
)
def test_what_may_be_a_secret_is_never_in_a_message(text: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.fields)
    assert SECRET not in repr(caught.value.__cause__)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "key", "found", "allowed"),
    [
        (GOOD + "replicas: 3\n", "replicas", "an unknown key", "(did you mean run.replicas or environments.*.replicas?)"),
        (GOOD + "warm-for: 3m\n", "warm-for", "an unknown key", "(did you mean warm_for?)"),
        (GOOD + "strategy: {steps: []}\n", "strategy.steps", "an unknown key", "steps belongs to kind: canary"),
        (GOOD + "strategy: {kind: rolling}\n", "strategy.kind", "'rolling'", "blue-green or canary"),
        (GOOD + "strategy: fast\n", "strategy", "'fast'", "a mapping with kind: blue-green or kind: canary"),
        (GOOD + "strategy: {kind: canary}\n", "strategy.steps", "nothing", "required: a list of at least one step"),
        (GOOD + "strategy: {kind: canary, steps: []}\n", "strategy.steps", "an empty list", "a list of at least one step"),
        (GOOD + "lease:\n", "lease", "nothing", "a duration from 2s to 10m with a unit ms, s, m, h or d"),
        (GOOD + "lease: 15\n", "lease", "15", "a duration from 2s to 10m with a unit ms, s, m, h or d"),
        (GOOD + "lease: 1s\n", "lease", "'1s'", "a duration from 2s to 10m with a unit ms, s, m, h or d"),
        (GOOD + "sticky: {by: header}\n", "sticky.name", "nothing", "required with by: header: the name of the header"),
        (GOOD + "sticky: {name: X}\n", "sticky.name", "'X'", "no name with by: edge-cookie"),
        (GOOD.replace("{production: {}}", "{}"), "environments", "an empty mapping", "a mapping with at least one environment"),
        (GOOD.replace("{production: {}}", "{Prod: {}}"), "environments.Prod", "the name 'Prod'", "1 to 40 of a-z"),
        (GOOD.replace("{}}", "{}, b: {bind: 0.0.0.0}}"), "environments.b.port", "8080", "another port: environment production listens at 127.0.0.1:8080"),
        (GOOD.replace("{}}", "{runtime: vm}}"), "environments.production.runtime", "'vm'", "process"),
        (GOOD.replace("[./shop]", "./a && ./b"), "run.command", "'./a && ./b'", "a command without '&&': no shell reads it"),
        (GOOD.replace("[./shop]", "A=1 ./a"), "run.command", "'A=1 ./a'", "variables belong under env"),
        (GOOD.replace("[./shop]", '"./a \'b"'), "run.command", "\"./a 'b\"", "a command whose quotes are closed"),
        (GOOD.replace("[./shop]", "[sleep, 5]"), "run.command", "a list of 2", "a command as a list of words"),
        (GOOD.replace("[./shop]", "[]"), "run.command", "an empty list", "a command as a list of words"),
        (GOOD.replace("path: /health", "path: /health, body: '['"), "health[0].body", "'['", "a regular expression; this one is not"),
        (GOOD.replace("path: /health", "path: /health, json: {books: 1}"), "health[0].json.books", "the name 'books'", "a JSON path"),
        (GOOD.replace("path: /health", "path: /health, json: {$.a: {min: 2, max: 1}}"), 'health[0].json["$.a"].min', "2", "at most max (1)"),
        (GOOD.replace("path: /health", "path: /health, json: {$.a: {absent: true, min: 1}}"), 'health[0].json["$.a"].absent', "true", "absent alone"),
        (GOOD.replace("path: /health", "path: /health, json: {$.a: {}}"), 'health[0].json["$.a"]', "an empty mapping", "at least one of"),
        (GOOD.replace("path: /health", "path: /health, json: {$.a: .nan}"), 'health[0].json["$.a"]', "nan", "text, a number"),
        (GOOD.replace("path: /health", "path: /health, max_latency: 9s"), "health[0].max_latency", "'9s'", "at most the check's timeout (5s)"),
        (GOOD.replace("path: /health", "path: /health, capture: {a: $.a}"), "health[0].capture", "an unknown key", "did you mean continuity[].open[].capture"),
        (GOOD.replace("/health}", "/h}, {name: it answers, path: /}"), "health[1].name", "'it answers'", "a name that no other here has"),
        (GOOD.replace("[{name: it answers, path: /health}]", "[]"), "health", "an empty list", "a list of at least one check"),
        (GOOD + "build: {output: ../out}\n", "build.output", "'../out'", "a folder inside the project"),
    ],
)  # fmt: skip
def test_a_single_mistake_is_a_single_problem_in_plain_words(text: str, key: str, found: str, allowed: str) -> None:
    problem = only(text)
    assert problem.key == key
    assert problem.found == found
    assert allowed in problem.allowed


def test_plain_data_gives_the_same_problems_without_lines() -> None:
    data: dict[str, Any] = {
        "service": "Bookshop",
        "run": {"command": ["./shop"], "replicas": True, "env": {"A": ["hunter2"]}},
        "health": [],
        "environments": {"a": {}, "b": {}},
        "lease": None,
    }
    with pytest.raises(InvalidConfig) as caught:
        Spec.from_data(data)
    assert {p.line for p in caught.value.problems} == {0}
    assert {p.key for p in caught.value.problems} == {
        "service", "run.replicas", "run.env.A", "health", "environments.b.port", "lease",
    }  # fmt: skip
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", 3, {1: 2}, {"service": {"a": 1}}])
def test_data_that_is_nothing_like_a_configuration_is_refused(data: Any) -> None:
    with pytest.raises(InvalidConfig):
        Spec.from_data(data)


def test_of_very_many_problems_the_first_are_told_and_the_rest_are_counted() -> None:
    found = problems(GOOD + "".join(f"unknown_{n}: 1\n" for n in range(500)))
    assert len(found) == 201
    assert found[199].key == "unknown_199"
    assert found[200].found == "300 more problems"


def test_a_missing_file_is_not_found_and_the_hint_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="crossfade init"):
        load(tmp_path / "crossfade.yaml")
    with pytest.raises(NotFound):
        load(tmp_path / "none" / "crossfade.yaml")


def test_a_folder_a_pipe_or_a_device_in_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InvalidConfig) as caught:
            load(place)
        assert caught.value.problems[0].key == "the file"


def test_a_file_is_named_in_each_problem(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(GOOD + "x: 1\n")
    with pytest.raises(InvalidConfig, match=r"other\.yaml:5: x: found an unknown key"):
        load(path)
