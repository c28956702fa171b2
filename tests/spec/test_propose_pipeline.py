"""The pipeline that `crossfade init` proposes works as it stands: its steps are run here, and its gates read what they left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from crossfade.domain.pipeline.plan import Gate, NodeKind, Outcome, Stage, Step
from crossfade.gates import ReportGates
from crossfade.ports.pipeline import GateContext
from crossfade.spec.loader import parse
from crossfade.spec.propose import propose

PYTHON = {
    "app.py": (
        "from http.server import BaseHTTPRequestHandler, HTTPServer  # noqa: F401 - nothing is served\n\n\n"
        "def price(pieces: int) -> int:\n    return 3 * pieces\n"
    ),
    "tests/test_app.py": "from app import price\n\n\ndef test_three_pieces_cost_nine() -> None:\n    assert price(3) == 9\n",
    "pyproject.toml": '[tool.ruff]\nline-length = 100\n\n[tool.ruff.format]\nquote-style = "double"\n\n[tool.pytest.ini_options]\npythonpath = ["."]\n',
}
NODE = {
    "package.json": '{"name": "shop", "scripts": {"start": "node server.js", "test": "node --test"}}',
    "server.js": "require('node:http').createServer((_, answer) => answer.end()).listen(process.env.PORT)\n",
    "price.js": "module.exports = (pieces) => 3 * pieces\n",
    "test/price.test.js": (
        "const test = require('node:test')\nconst assert = require('node:assert')\nconst price = require('../price.js')\n"
        "test('three pieces cost nine', () => assert.equal(price(3), 9))\n"
    ),
}


def project(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def commit_stage(root: Path) -> Stage:
    pipeline = parse(propose(root).text).for_pipeline()
    assert pipeline is not None
    assert [stage.name.value for stage in pipeline.stages] == ["commit", "production"]
    return pipeline.stages[0]


def run(root: Path, stage: Stage) -> dict[str, Outcome]:
    """Each node of the stage, one after the other; steps must end as they say, gates say what they say."""
    found: dict[str, Outcome] = {}
    pending = [node for node in stage.nodes if node.kind is not NodeKind.ARTIFACT]
    done: set[str] = set()
    while pending:
        node = next(node for node in pending if set(node.needs) <= done)
        pending.remove(node)
        done.add(node.name)
        if isinstance(node.what, Step):
            env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(root), **dict(stage.env)}
            ended = subprocess.run(
                node.what.command, check=False, cwd=root, env=env, capture_output=True, text=True, timeout=60
            )
            assert ended.returncode in node.what.exits, f"{node.name}: {ended.stdout}{ended.stderr}"
        elif isinstance(node.what, Gate):
            found[node.name] = ReportGates().read(node.name, node.what, GateContext(root))
    return found


def test_the_pipeline_of_a_python_project_passes_and_its_gates_have_read_real_reports(tmp_path: Path) -> None:
    root = project(tmp_path, PYTHON)
    stage = commit_stage(root)
    assert {node.name for node in stage.nodes} == {
        "format", "lint", "security", "test", "coverage", "style", "findings", "tests", "covered", "artifact"
    }  # fmt: skip
    found = run(root, stage)
    assert all(outcome.passed for outcome in found.values()), found
    assert "100" in found["covered"].sentence


def test_a_fault_of_each_kind_in_a_python_project_is_stopped_by_its_gate(tmp_path: Path) -> None:
    root = project(tmp_path, PYTHON)
    (root / "app.py").write_text(
        PYTHON["app.py"]
        + "\n\ndef load(text: str) -> object:\n    first = eval(text)\n    second = 2\n    third = 3\n    return first\n"
    )
    found = run(root, commit_stage(root))
    assert {name for name, outcome in found.items() if not outcome.passed} == {"style", "findings", "covered"}
    assert "S307" in " ".join(found["findings"].details) + found["findings"].sentence


@pytest.mark.skipif(shutil.which("node") is None, reason="wants node")
def test_the_pipeline_of_a_node_project_passes_and_its_gates_have_read_real_reports(tmp_path: Path) -> None:
    root = project(tmp_path, NODE)
    stage = commit_stage(root)
    assert {node.name for node in stage.nodes} == {"syntax", "test", "tests", "covered", "artifact"}
    found = run(root, stage)
    assert all(outcome.passed for outcome in found.values()), found


GO = {"go.mod": "module example.com/shop\n\ngo 1.22\n", "main.go": "package main\n\nfunc main() {}\n"}


@pytest.mark.parametrize(
    ("files", "nodes"),
    [
        pytest.param(GO, "artifact test vet", id="go"),
        pytest.param(
            {
                **GO,
                "go.mod": GO["go.mod"]
                + "tool (\n\tgotest.tools/gotestsum\n\tgithub.com/boumenot/gocover-cobertura\n)\n",
            },
            "artifact coverage covered test tests vet",
            id="go-with-reports",
        ),
        pytest.param({"app.py": "x = 1\n"}, "artifact compile", id="a-script"),
        pytest.param(
            {"app.py": "x = 1\n", "requirements.txt": "flask\n", "test_app.py": "", "requirements-dev.txt": "bandit\n"},
            "artifact compile coverage covered dependencies findings security test tests",
            id="python-with-dependencies",
        ),
        pytest.param(
            {
                "package.json": '{"scripts": {"start": "node a.js", "test": "vitest"}, "devDependencies": '
                '{"vitest": "3", "@vitest/coverage-v8": "3", "@microsoft/eslint-formatter-sarif": "3"}}',
                "package-lock.json": "{}",
                "eslint.config.js": "",
            },
            "artifact covered dependencies lint style test tests",
            id="node-with-vitest-and-eslint",
        ),
        pytest.param(
            {"package.json": '{"main": "a.js", "devDependencies": {"jest": "29"}}', "a.js": ""},
            "artifact covered dependencies test",
            id="node-with-jest",
        ),
        pytest.param(
            {
                "package.json": '{"scripts": {"start": "node a.js", "test": "mocha x && y"}, "devDependencies": {"mocha": "1"}}'
            },
            "artifact dependencies test tests",
            id="node-with-mocha",
        ),
        pytest.param(
            {"package.json": '{"scripts": {"start": "node a.js", "test": "make check"}}', "a.js": "1\n"},
            "artifact syntax test",
            id="node-with-a-script",
        ),
    ],
)
def test_what_is_proposed_follows_from_what_is_there(tmp_path: Path, files: Mapping[str, str], nodes: str) -> None:
    stage = commit_stage(project(tmp_path, files))
    assert " ".join(sorted(node.name for node in stage.nodes)) == nodes


def test_no_pipeline_is_proposed_for_what_nothing_is_known_of(tmp_path: Path) -> None:
    root = project(tmp_path, {"run": "#!/bin/sh\n"})
    (root / "run").chmod(0o755)
    assert parse(propose(root).text).for_pipeline() is None


def test_each_step_says_what_it_was_made_from(tmp_path: Path) -> None:
    text = propose(project(tmp_path, PYTHON)).text
    for sentence in ("ruff is configured.", "tests/test_app.py is a test.", "ruff format is used here."):
        assert sentence in text


def test_a_folder_with_hostile_names_still_gets_a_valid_file(tmp_path: Path) -> None:
    files = {
        "app.py": "x = 1\n",
        "tests/test_{a: [\n}#.py": "",
        "pyproject.toml": '[project]\ndependencies = ["a\\u0000b"]\n',
    }
    parse(propose(project(tmp_path, files)).text)
