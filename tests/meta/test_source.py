"""Rules on files that no linter has: sizes, names, and what the source may lean on."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
LONGEST = 600
LONGER_WITH_REASON: dict[str, str] = {}
"""Modules of over 600 lines: path below src/ → why it is one module all the same."""

VAGUE = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "manager",
    "managers",
    "shared",
    "base",
    "core",
    "stuff",
}
MODULES = sorted(path for tree in ("src", "tests", "tools", "bench") for path in (ROOT / tree).rglob("*.py"))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_module_is_over_600_lines_without_a_reason() -> None:
    long = {str(path.relative_to(SRC)) for path in SRC.rglob("*.py") if lines(path) > LONGEST}
    assert long == set(LONGER_WITH_REASON), "split it, or write the reason down; drop reasons no longer needed"


def test_no_module_or_package_has_a_name_that_says_nothing() -> None:
    vague = [path for path in MODULES if VAGUE & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}]
    assert vague == []


def test_every_module_says_what_it_is_for() -> None:
    mute = [path for path in SRC.rglob("*.py") if not ast.get_docstring(ast.parse(path.read_text()))]
    assert mute == []


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("tree", ["src", "examples"])
def test_what_is_imported_is_installed_for_whoever_runs_it_and_not_only_for_developers(tree: str) -> None:
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "locks" / "run.txt").read_text(), re.MULTILINE))
    owners = packages_distributions()
    own = {path.stem for path in (ROOT / tree).rglob("*.py")} | {
        path.name for path in (ROOT / tree).rglob("*") if path.is_dir()
    }
    missing = {}
    for path in (ROOT / tree).rglob("*.py"):
        if path.parent.name in STEPS_OF_AN_EXAMPLE:
            continue
        for name in imported(path) - own - {"crossfade"} - set(sys.stdlib_module_names):
            distributions = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name, [name])}
            if not distributions & locked:
                missing[name] = str(path.relative_to(ROOT))
    assert missing == {}


STEPS_OF_AN_EXAMPLE = {"tests", "service_tests", "smoke"}
"""What its pipeline runs with the developer's own tools; none of it is deployed."""

EXEMPTION = re.compile(
    r"#\s*(?:noqa|type: ignore|pragma: no cover)(?:\[[\w, -]*\]|: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*)?(?P<reason>.*)"
)


def test_every_exemption_from_a_check_gives_its_reason_on_the_line() -> None:
    bare = []
    for path in MODULES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = EXEMPTION.search(line)
            if found and path != Path(__file__) and not re.search(r"[a-z]{2,}", found["reason"]):
                bare.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert bare == []
