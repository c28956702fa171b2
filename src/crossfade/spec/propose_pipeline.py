"""A first pipeline from what is in a folder: the steps and gates that work for it as it is, and why each is there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.spec.survey import Folder
from crossfade.spec.written import comments, flow, scalar, wrapped

PACKAGES: Final = ".packages"
"""Where a Python project's dependencies are installed for its tests: a folder that tests and linters leave out."""

_OTHERS: Final = "tests,test_*.py,*_test.py,conftest.py"


@dataclass(frozen=True, slots=True)
class Stagecraft:
    """``lines`` are the section `pipeline:`, ``names`` the steps and gates in it."""

    language: str
    lines: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(slots=True)
class _Craft:
    """What a stage is made of, while it is put together."""

    env: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ready: list[str] = field(default_factory=list)
    """Steps that all others need."""

    def step(
        self,
        name: str,
        why: Sequence[str],
        command: Sequence[str],
        *,
        exits: Sequence[int] = (),
        needs: Sequence[str] = (),
        cache: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> None:
        self.names.append(name)
        self.lines += [f"        {line}" for line in comments("", why)]
        self.lines += [f"        {name}:", *wrapped(f"          run: {flow(command)}", command)]
        if exits:
            self.lines.append(f"          exits: [{', '.join(map(str, exits))}]")
        wanted = [*self.ready, *needs]
        if wanted:
            self.lines.append(f"          needs: {flow(wanted)}")
        if cache is not None:
            self.lines.append(f"          cache: {{inputs: {flow(cache[0])}, outputs: {flow(cache[1])}}}")

    def gate(self, name: str, why: Sequence[str], kind: str, report: str, after: Sequence[str], more: str = "") -> None:
        self.names.append(name)
        self.gates += [f"        {line}" for line in comments("", why)]
        words = f"kind: {kind}, report: {scalar(report)}{f', {more}' if more else ''}, after: {flow(after)}"
        self.gates.append(f"        {name}: {{{words}}}")


def craft(here: Folder, run: Sequence[str]) -> Stagecraft | None:
    """A pipeline for a folder whose service is started by ``run``; None for what is neither Python, Node nor Go."""
    made = _Craft()
    package = _package(here)
    if run[0] in ("node", "npm") or (run[0] != "python3" and package is not None):
        language, known = "Node", _node(here, package or {}, run, made)
    elif here.text("go.mod") and run[0] != "python3":
        language, known = "Go", _go(here, made)
    else:
        language, known = "Python", _python(here, made)
    if not known:
        return None
    lines = [
        "# What a commit goes through until it is in production: `crossfade run` (docs/how-to/write-a-pipeline.md). Its",
        "# tools are those of the server's PATH, and of the project where a step installs them.",
        "pipeline:",
        "  stages:",
        "    commit:",
    ]
    if made.env:
        lines += ["      env:", *(f"        {name}: {scalar(value)}" for name, value in made.env.items())]
    lines += ["      steps:", *made.lines]
    if made.gates:
        lines += ["      gates:", *made.gates]
    lines += [
        "    # For a stage before production, give it an environment (staging: {port: 8081}) and say what to try there:",
        "    #   staging: {smoke: [{name: the front page, checks: [{name: it answers, path: /}]}]}",
        "    production: {environment: production}",
    ]
    return Stagecraft(language, tuple(lines), tuple(made.names))


# --- Python


def _python(here: Folder, made: _Craft) -> bool:
    if not any(name.endswith(".py") for name in here.sources):
        return False
    config = _toml(here)
    files = [
        name for name in ("requirements.txt", "requirements-dev.txt", "dev-requirements.txt") if _lists(here, name)
    ]
    listed = _strings(_under(config, "project", "dependencies"))
    tests = here.tests(r"(.*/)?(test_[^/]*|[^/]*_test)\.py")
    ruff = (
        _under(config, "tool", "ruff") is not None
        or here.has("ruff.toml")
        or here.has(".ruff.toml")
        or _names(here, "ruff")
    )
    bandit = _under(config, "tool", "bandit") is not None or _names(here, "bandit")
    if any(name.startswith("src/") for name in here.sources):
        made.env["PYTHONPATH"] = "src"
    if files or listed:
        tools = ["pytest", "coverage"] if tests else []
        tools += ["ruff"] if ruff else []
        tools += ["bandit[sarif]"] if bandit else []
        install = ["python3", "-m", "pip", "install", "--quiet", "--target", PACKAGES]
        asked = [word for name in files for word in ("-r", name)]
        made.step(
            "dependencies",
            [
                f"From {', '.join(files) or 'the dependencies of pyproject.toml'}, and the tools that the steps below need."
            ],
            [*install, *asked, *(listed if not files else []), *tools],
            cache=([*files, *(["pyproject.toml"] if here.has("pyproject.toml") else [])], [PACKAGES]),
        )
        made.ready = ["dependencies"]
        made.env["PYTHONPATH"] = ":".join([PACKAGES, *([made.env["PYTHONPATH"]] if "PYTHONPATH" in made.env else [])])
    if ruff:
        _ruff(here, config, made, security=not bandit)
    else:
        skip = r"(^|/)\.[^/.]"
        made.step(
            "compile",
            [
                "No linter is configured: at least every module must be Python. With [tool.ruff] there, ruff is proposed."
            ],
            ["python3", "-m", "compileall", "-q", "-x", skip, "."],
        )
    if bandit:
        command = ["python3", "-m", "bandit", "-q", "-r", ".", "-x", f"./{PACKAGES},./tests", "-f", "sarif"]
        made.step("security", ["bandit is named."], [*command, "-o", "bandit.sarif"], exits=(0, 1))
        made.gate("findings", _BASELINE, "sarif", "bandit.sarif", ["security"])
    if tests:
        _pytest(config, tests, made)
    return True


_BASELINE: Final = (
    "Findings that are known already: crossfade gate sarif REPORT --write-baseline .crossfade/findings.json, and",
    "baseline: .crossfade/findings.json here.",
)


def _ruff(here: Folder, config: Mapping[str, Any], made: _Craft, security: bool) -> None:
    check = ["python3", "-m", "ruff", "check", "--output-format", "sarif"]
    formatted = (
        _under(config, "tool", "ruff", "format") is not None
        or "ruff format" in here.text("Makefile")
        or "ruff-format" in here.text(".pre-commit-config.yaml")
    )
    if formatted:
        command = ["python3", "-m", "ruff", "format", "--check", "--extend-exclude", PACKAGES, "."]
        made.step("format", ["ruff format is used here."], command)
    command = [*check, "--output-file", "ruff.sarif", "--extend-exclude", PACKAGES, "."]
    made.step("lint", ["ruff is configured. What it finds is for the gate to say no to."], command, exits=(0, 1))
    made.gate("style", [], "sarif", "ruff.sarif", ["lint"])
    if security:
        rules = ["--select", "S", "--output-file", "security.sarif", "--extend-exclude", f"{PACKAGES},{_OTHERS}", "."]
        made.step("security", ["The security rules of ruff, which are bandit's."], [*check, *rules], exits=(0, 1))
        made.gate("findings", _BASELINE, "sarif", "security.sarif", ["security"])


def _pytest(config: Mapping[str, Any], tests: Sequence[str], made: _Craft) -> None:
    measured = _under(config, "tool", "coverage", "run") is not None
    omit = f"{PACKAGES}/*,tests/*,test_*.py,*/test_*.py,*_test.py,conftest.py,setup.py"
    measure = ["python3", "-m", "coverage", "run", *([] if measured else ["--source", ".", "--omit", omit])]
    made.step("test", [f"{tests[0]} is a test."], [*measure, "-m", "pytest", "-q", "--junitxml", "junit.xml"])
    made.step("coverage", [], ["python3", "-m", "coverage", "xml", "-q", "-o", "coverage.xml"], needs=["test"])
    made.gate("tests", [], "junit", "junit.xml", ["test"])
    made.gate(
        "covered", ["Of all lines, and of those changed."], "coverage", "coverage.xml", ["coverage"], "minimum: 80%"
    )


def _toml(here: Folder) -> Mapping[str, Any]:
    try:
        return tomllib.loads(here.text("pyproject.toml"))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return {}


def _under(data: Any, *path: str) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _strings(value: Any) -> list[str]:
    return value if isinstance(value, list) and all(isinstance(one, str) and one.isprintable() for one in value) else []


def _lists(here: Folder, name: str) -> bool:
    return re.search(r"^\s*[^\s#]", here.text(name), re.MULTILINE) is not None


def _names(here: Folder, tool: str) -> bool:
    """Whether the project asks for a tool by name."""
    text = "\n".join(here.text(name) for name in ("requirements-dev.txt", "dev-requirements.txt", "requirements.txt"))
    quoted = rf"""["']{tool}(\[[a-z,]+\])?\s*([=<>~!;].*)?["']"""
    plain = rf"^{tool}(\[[a-z,]+\])?\s*($|[=<>~!;])"
    return bool(re.search(plain, text, re.MULTILINE) or re.search(quoted, here.text("pyproject.toml")))


# --- Node


def _package(here: Folder) -> dict[str, Any] | None:
    try:
        found = json.loads(here.text("package.json") or "null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _node(here: Folder, package: Mapping[str, Any], run: Sequence[str], made: _Craft) -> bool:
    wanted = {
        name
        for key in ("dependencies", "devDependencies")
        for name in (package[key] if isinstance(package.get(key), dict) else {})
    }
    script = _under(package, "scripts", "test")
    script = script if isinstance(script, str) else ""
    if wanted:
        locked = here.has("package-lock.json")
        install = ["npm", "ci"] if locked else ["npm", "install"]
        made.step(
            "dependencies",
            ["From package-lock.json." if locked else "From package.json. With a package-lock.json it is npm ci."],
            [*install, "--no-audit", "--no-fund"],
            cache=(["package.json", *(["package-lock.json"] if locked else [])], ["node_modules"]),
        )
        made.ready = ["dependencies"]
    else:
        scripts = [name for name in here.sources if name.endswith((".js", ".mjs", ".cjs"))]
        main = next((name for name in (*run, *scripts) if name in scripts), None)
        if main is not None and not _eslint(here):
            made.step("syntax", ["No linter is configured: at least it must be JavaScript."], ["node", "--check", main])
    if _eslint(here):
        _lint(wanted, made)
    _test(here, wanted, script, made)
    return bool(made.names)


def _eslint(here: Folder) -> str:
    flat = [f"eslint.config.{ending}" for ending in ("js", "mjs", "cjs", "ts")]
    old = [".eslintrc", *(f".eslintrc.{ending}" for ending in ("js", "cjs", "json", "yml", "yaml"))]
    return next((name for name in (*flat, *old) if here.has(name)), "")


def _lint(wanted: set[str], made: _Craft) -> None:
    command = ["npx", "--no-install", "eslint"]
    if "@microsoft/eslint-formatter-sarif" in wanted:
        sarif = ["--format", "@microsoft/eslint-formatter-sarif", "--output-file", "eslint.sarif", "."]
        made.step("lint", ["eslint is configured."], [*command, *sarif], exits=(0, 1))
        made.gate("style", [], "sarif", "eslint.sarif", ["lint"])
    else:
        made.step("lint", ["eslint is configured."], [*command, "."])


def _test(here: Folder, wanted: set[str], script: str, made: _Craft) -> None:
    found = here.tests(r"(.*/)?(test/.*|test|test-[^/]*|[^/]*[._-]test)\.[cm]?js")
    runner = next((name for name in ("vitest", "jest", "mocha", "ava", "tap") if name in wanted), "")
    words = shlex.split(script) if re.fullmatch(r"[\w ./*@:=-]*", script) else []
    if "--test" in words or (found and not runner):
        why = "scripts.test of package.json is node's own runner." if "--test" in words else f"{found[0]} is a test."
        places = [word for word in words[words.index("--test") + 1 :] if word[0] != "-"] if "--test" in words else []
        reports = ["--test-reporter=junit", "--test-reporter-destination=junit.xml"]
        reports += ["--test-reporter=lcov", "--test-reporter-destination=lcov.info"]
        made.step("test", [why], ["node", "--test", "--experimental-test-coverage", *reports, *places])
        made.gate("tests", [], "junit", "junit.xml", ["test"])
        made.gate("covered", ["Of all lines, and of those changed."], "coverage", "lcov.info", ["test"], "minimum: 80%")
    elif runner == "vitest":
        covers = any(name.startswith("@vitest/coverage-") for name in wanted)
        more = ["--coverage", "--coverage.reporter=lcovonly"] if covers else []
        run = ["npx", "--no-install", "vitest", "run", "--reporter=junit", "--outputFile=junit.xml"]
        made.step("test", ["vitest is among the dependencies."], [*run, *more])
        made.gate("tests", [], "junit", "junit.xml", ["test"])
        if covers:
            made.gate("covered", [], "coverage", "coverage/lcov.info", ["test"], "minimum: 80%")
    elif runner == "jest":
        more = ["--reporters=jest-junit"] if "jest-junit" in wanted else []
        run = ["npx", "--no-install", "jest", "--ci", "--coverage", "--coverageReporters=lcovonly"]
        made.step("test", ["jest is among the dependencies."], [*run, *more])
        if more:
            made.gate("tests", [], "junit", "junit.xml", ["test"])
        made.gate("covered", [], "coverage", "coverage/lcov.info", ["test"], "minimum: 80%")
    elif runner == "mocha":
        run = ["npx", "--no-install", "mocha", "--reporter", "xunit", "--reporter-option", "output=junit.xml"]
        made.step("test", ["mocha is among the dependencies."], run)
        made.gate("tests", [], "junit", "junit.xml", ["test"])
    elif script and "no test specified" not in script:
        made.step("test", ["scripts.test of package.json."], ["npm", "test", "--silent"])


# --- Go


def _go(here: Folder, made: _Craft) -> bool:
    named = here.text("go.mod") + here.text("tools.go") + here.text("Makefile")
    made.step("vet", ["go.mod: a Go module."], ["go", "vet", "./..."])
    test = ["-coverprofile=coverage.out", "./..."]
    if "gotest.tools/gotestsum" in named:
        run = ["go", "run", "gotest.tools/gotestsum", "--junitfile", "junit.xml", "--"]
        made.step("test", ["gotestsum is named."], [*run, *test])
        made.gate("tests", [], "junit", "junit.xml", ["test"])
    else:
        made.step("test", ["With gotestsum in go.mod, a gate reads how many tests there were."], ["go", "test", *test])
    for converter in ("github.com/boumenot/gocover-cobertura", "github.com/t-yuki/gocover-cobertura"):
        if converter in named:
            convert = ["sh", "-c", f"go run {converter} < coverage.out > coverage.xml"]
            made.step("coverage", ["gocover-cobertura is named."], convert, needs=["test"])
            made.gate("covered", [], "coverage", "coverage.xml", ["coverage"], "minimum: 80%")
            break
    return True
