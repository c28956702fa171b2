"""Migration files: pgroll's operations as YAML or JSON, those beyond them, and SQL with phases (`migrations_sql`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from crossfade.domain.errors import Invalid, InvalidConfig, NotFound, Problem, StorageFailed
from crossfade.domain.migrations.operations import Migration, Operation
from crossfade.spec import tree
from crossfade.spec.migration_operations import OPERATIONS
from crossfade.spec.migrations_sql import phased
from crossfade.spec.problems import Place, shown

SUFFIXES: Final = (".yaml", ".yml", ".json", ".sql")
VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
BOOLEANS: Final = frozenset(
    (
        "nullable",
        "pk",
        "unique",
        "onComplete",
        "deferrable",
        "initially_deferred",
        "no_inherit",
        "nulls_not_distinct",
    )
)
MOST_FILES: Final = 5000


def in_order(name: str) -> list[tuple[int, int | str]]:
    """Sorts names as a person would count: 2 before 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def load(paths: Sequence[Path]) -> list[tuple[Migration, str]]:
    """Migrations of files and folders, in the order of their versions, each with its text.

    Raises NotFound, StorageFailed; InvalidConfig with everything that is wrong in all of them.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [one for one in sorted(path.iterdir()) if one.suffix in SUFFIXES and one.is_file()]
        elif path.is_file():
            files.append(path)
        else:
            raise NotFound(
                f"{path} is neither a file nor a folder.", hint="Name migration files, or the folder that has them."
            )
    if len(files) > MOST_FILES:
        raise Invalid("migrations", len(files), f"at most {MOST_FILES} files")
    found: dict[str, tuple[Migration, str]] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            text = file.read_bytes().decode("utf-8")
            one = parse(file.name, text)
        except OSError as error:
            raise StorageFailed.because(f"read {file}", error) from error
        except UnicodeDecodeError:
            problems.append(Problem(file.name, 0, "the file", "bytes that are no UTF-8", "UTF-8"))
            continue
        except InvalidConfig as error:
            problems += error.problems
            continue
        if one.version in found:
            problems.append(
                Problem(
                    file.name,
                    0,
                    "the file's name",
                    one.version,
                    f"each version once: {found[one.version][0].source} has it",
                )
            )
        else:
            found[one.version] = (one, text)
    if problems:
        raise InvalidConfig(problems)
    return [found[version] for version in sorted(found, key=in_order)]


def parse(name: str, text: str) -> Migration:
    """One file: its stem is the version. Raises InvalidConfig with all that is wrong."""
    stem, _, suffix = name.rpartition(".")
    version = stem or name
    problems: list[Problem] = []
    if not VERSION.fullmatch(version):
        allowed = "letters, digits, _, . and -, 1 to 40 of them, the first a letter or digit"
        problems.append(Problem(name, 0, "the file's name", shown(version, ()), allowed))
    checksum = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    if suffix == "sql":
        sql, wrong = phased(name, text)
        if problems or wrong:
            raise InvalidConfig([*problems, *wrong])
        return Migration(version, checksum, name, sql=sql)
    read = tree.read(text, lambda path: not (path and path[-1] in BOOLEANS))
    place = Place(name, read.lines)
    problems += [
        Problem(name, fault.line, ".".join(map(str, fault.path)) or "the file", fault.found, fault.allowed)
        for fault in read.faults
    ]
    operations: list[Operation] = []
    if not read.broken:
        operations = _operations(read.data, place, problems)
    if problems:
        raise InvalidConfig(problems)
    return Migration(version, checksum, name, tuple(operations))


def _operations(data: Any, place: Place, problems: list[Problem]) -> list[Operation]:
    def wrong(path: tuple[str | int, ...], found: str, allowed: str) -> None:
        problems.append(place.problem(path, found, allowed))

    if not isinstance(data, dict):
        wrong((), "no mapping", "a mapping with operations:")
        return []
    for key in data:
        if key not in ("name", "version_schema", "operations"):
            wrong((key,), "an unknown key", "name, version_schema, operations")
    listed = data.get("operations")
    if not isinstance(listed, list) or not listed:
        wrong(("operations",), shown(listed, ()), "a list of one operation or more")
        return []
    made: list[Operation] = []
    for i, one in enumerate(listed):
        path = ("operations", i)
        if not isinstance(one, dict) or len(one) != 1:
            wrong(
                path,
                shown(list(one), ()) if isinstance(one, dict) else shown(one, ()),
                "one operation: its name, and what it says",
            )
            continue
        ((name, body),) = one.items()
        model = OPERATIONS.get(name)
        if model is None:
            wrong((*path, name), "an unknown operation", ", ".join(OPERATIONS))
            continue
        try:
            made.append(model.model_validate(body).made())
        except ValidationError as error:
            for each in error.errors():
                where = (*path, name, *(str(step) if not isinstance(step, int) else step for step in each["loc"]))
                problems.append(_problem(place, where, each))
        except ValueError as error:
            wrong((*path, name), str(error), "see docs/reference/migrations.md")
    return made


def _problem(place: Place, path: tuple[str | int, ...], error: Any) -> Problem:
    kind: str = error["type"]
    known = path
    while known and known not in place.lines:
        known = known[:-1]
    if kind == "extra_forbidden":
        return place.problem(
            path, "an unknown key", "the keys of this operation: docs/reference/migrations.md has them"
        )
    if kind == "missing":
        return Problem(place.file, place.line(known), ".".join(map(str, path)), "nothing", "a value: it is required")
    return place.problem(path, shown(error.get("input"), ()), error["msg"].lower())


Loader = Callable[[Sequence[Path]], list[tuple[Migration, str]]]
