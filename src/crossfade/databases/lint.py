"""Looks at migration files: squawk at what is SQL, our hazards at operations. Nothing is connected to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import Unavailable
from crossfade.domain.migrations.hazards import hazards
from crossfade.domain.migrations.operations import Migration, Sql
from crossfade.ports.databases import Finding

TIMEOUT: Final = 30.0
OURS: Final = (
    "require-lock-timeout",  # each statement is run under one
    "require-statement-timeout",
    "prefer-robust-stmts",  # what was run is recorded, and is not run again
    "transaction-nesting",
    "ban-concurrent-index-creation-in-transaction",
)
"""Rules of squawk that the way we run statements takes care of."""
STYLE: Final = (
    "prefer-text-field",
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "prefer-timestamptz",
)
CONTRACTS: Final = ("ban-drop-column", "ban-drop-table", "ban-drop-not-null", "adding-not-nullable-field")
"""What may be in a contract: nothing that runs needs it any more by then."""


class SquawkLinter:
    """`ports.databases.Linter`."""

    def lint(self, migrations: Sequence[tuple[Migration, str]]) -> Sequence[Finding]:
        """See the port."""
        found: list[Finding] = []
        for migration, text in migrations:
            for hazard in hazards(migration):
                file, _, place = hazard.place.partition(": ")
                severity = "error" if hazard.blocks else "warning"
                found.append(
                    Finding(hazard.code, severity, file, _line(text, place), f"{place}: {hazard.sentence}", hazard.hint)
                )
            if migration.sql is not None:
                later = set(_lines(text, migration.sql.contract))
                found += _squawk(migration.source, text, later)
            for operation in migration.operations:
                if isinstance(operation, Sql):
                    for one in _squawk(migration.source, operation.up, set()):
                        found.append(Finding(one.rule, one.severity, one.file, 0, one.sentence, one.hint, one.tool))
        return found


def program() -> str:
    """Where squawk is: beside this Python, or on PATH. Raises Unavailable."""
    beside = Path(sys.executable).parent / "squawk"
    found = str(beside) if beside.exists() else shutil.which("squawk")
    if found is None:
        raise Unavailable("squawk, which lints SQL, is not installed.", hint="pip install squawk-cli")
    return found


def _squawk(name: str, text: str, later: set[int]) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="crossfade-lint-") as folder:
        file = Path(folder) / "migration.sql"
        file.write_text(text, encoding="utf-8")
        command = [program(), "--reporter=json", "--exclude=" + ",".join(OURS), str(file)]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=TIMEOUT, check=False, cwd=folder, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"squawk did not look at {name}: {error}.") from error
    if done.returncode not in (0, 1):
        raise Unavailable(f"squawk cannot look at {name}: {done.stderr.decode(errors='replace')[:200]}")
    try:
        # It exits with 1 for a warning already: what counts is whether it answered.
        listed: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    except ValueError:
        raise Unavailable(f"squawk cannot read {name}: {done.stderr.decode(errors='replace')[:200]}") from None
    for one in listed:
        rule, line = str(one.get("rule_name", "")), int(one.get("line", 0)) + 1
        if rule in OURS or (line in later and rule in CONTRACTS):
            continue
        severity = "note" if rule in STYLE else "error"
        yield Finding(rule, severity, name, line, str(one.get("message", "")), str(one.get("help") or ""), "squawk")


def _lines(text: str, statements: Sequence[str]) -> Iterator[int]:
    """The lines of statements in their file."""
    for statement in statements:
        at = text.find(statement)
        if at >= 0:
            first = text.count("\n", 0, at) + 1
            yield from range(first, first + statement.count("\n") + 1)


def _line(text: str, place: str) -> int:
    """About where an operation is: its name's n-th mention at the beginning of an item; 0 when that is not clear."""
    index, _, name = place.removeprefix("operations[").partition("].")
    found = [i for i, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith("- ")]
    listed = [i for i in found if text.splitlines()[i - 1].lstrip()[2:].lstrip("{ ").startswith(name)]
    number = int(index) if index.isdigit() else -1
    top = [i for i in found if _indent(text, i) == min((_indent(text, j) for j in found), default=0)]
    if 0 <= number < len(top) and top[number] in listed:
        return top[number]
    return 0


def _indent(text: str, line: int) -> int:
    said = text.splitlines()[line - 1]
    return len(said) - len(said.lstrip())
