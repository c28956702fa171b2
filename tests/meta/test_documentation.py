"""What is not documented fails the build, and what is documented exists."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SRC = ROOT / "src" / "crossfade"
UNIVERSAL = {"--json", "--help", "-h"}
"""Options of every command, documented once, at the top of the page."""


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each command that `--help` shows, by its words ("flags set")."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def command_line() -> dict[str, Any]:
    main = importlib.import_module("crossfade.cli.main")
    typer_main = importlib.import_module("typer.main")
    return dict(commands(typer_main.get_command(main.app)))


def documented_commands() -> dict[str, str]:
    """Command → what the page says of it: from the line that names it to the next that names one."""
    found: dict[str, str] = {}
    current = None
    for line in (DOCS / "reference" / "cli.md").read_text().splitlines():
        named = re.match(r"^(?:\| |#+ |- )?`crossfade ([a-z]+(?: [a-z]+)*)", line)
        if named:
            current = named[1]
        if current:
            found[current] = found.get(current, "") + line + "\n"
    return found


@pytest.mark.skipif(not (SRC / "cli" / "main.py").exists(), reason="there is no command line yet")
class TestCommands:
    def test_every_command_is_documented_and_every_documented_command_exists(self) -> None:
        assert set(documented_commands()) == set(command_line())

    def test_every_option_of_a_command_is_documented(self) -> None:
        said = documented_commands()
        missing = []
        for name, command in command_line().items():
            for parameter in command.params:
                spellings = {one for one in (*parameter.opts, *parameter.secondary_opts) if one.startswith("-")}
                if spellings and not spellings & UNIVERSAL and not any(one in said[name] for one in spellings):
                    missing.append(f"crossfade {name} {'/'.join(sorted(spellings))}")
        assert missing == []

    def test_every_command_speaks_json_and_says_what_it_is_for(self) -> None:
        for name, command in command_line().items():
            assert command.help, name
            assert any("--json" in parameter.opts for parameter in command.params), name


@pytest.mark.skipif(not (SRC / "api" / "app.py").exists(), reason="there is no API yet")
class TestApi:
    def test_every_route_is_documented_and_every_documented_route_exists(self) -> None:
        module = importlib.import_module("crossfade.api.app")
        # Only the routes are read: the use cases behind them are not asked for anything.
        app = module.create_app(cast("Any", object()), "token", list)
        served = {
            f"{method.upper()} {path}"
            for path, operations in app.openapi()["paths"].items()
            for method in operations
            if method in {"get", "put", "post", "delete", "patch"}
        }
        text = (DOCS / "reference" / "api.md").read_text()
        named = re.findall(r"^\| `((?:GET|PUT|POST|DELETE|PATCH) /[^\s`?]*)", text, re.MULTILINE)
        assert sorted(named) == sorted(served)

    def test_every_kind_of_problem_is_documented_with_its_status(self) -> None:
        codes = importlib.import_module("crossfade.api.problems").CODES
        text = (DOCS / "reference" / "api.md").read_text()
        rows = re.findall(r"^\| `urn:crossfade:([a-z-]+)` \| (\d+) \|", text, re.MULTILINE)
        assert {code: int(status) for code, status in rows} == {code: status for code, (status, _) in codes.items()}


DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def test_every_decision_is_indexed_with_its_title_and_every_entry_exists() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    entries = {target: title for title, target in re.findall(r"\[([^\]]+)\]\((\d[^)]+\.md)\)", index)}
    titles = {path.name: path.read_text().partition("\n")[0].removeprefix("# ") for path in DECISIONS}
    assert entries == titles


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem[:4])
def test_a_decision_says_its_number_context_decision_and_consequences(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {int(path.name[:4])}. ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    for wanted in ("Context", "Decision", "Consequences"):
        assert wanted in headings


def test_decisions_are_numbered_without_a_gap_or_a_double() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a page get, as the forges make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_and_files_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path.read_text())):
            dead.append(target)
    assert dead == []


def test_the_changelog_has_a_section_for_what_comes_and_follows_its_format() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
