"""The files of a report: found in the checkout by a path or shell pattern, and nowhere else, opened and read within limits.

What stands there was written by commands that anybody's commit may have changed: a name may lead out of the tree, be a
pipe that nobody writes to, or be very large.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from crossfade.domain.errors import Invalid, NotFound

MIB: Final = 1024 * 1024
LARGEST: Final = 64 * MIB
LARGEST_TOGETHER: Final = 256 * MIB
MOST_FILES: Final = 500

_WILD: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One file: its path relative to the tree, with slashes, and all that is in it, which is at least one byte."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What a gate reads: one file or more, by path."""

    files: tuple[ReportFile, ...]


def open_report(tree: Path, pattern: str) -> Report:
    """The files that a path or shell pattern names within ``tree``.

    Raises NotFound when there is none or one is empty, Invalid for a pattern or file that leads out of the tree, is no
    regular file, or is too large.
    """
    parts = PurePosixPath(pattern).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in pattern:
        raise Invalid("report", pattern, "a path or shell pattern inside the project, relative to it")
    root = tree.resolve()
    names = list(islice(_matching(root, pattern), MOST_FILES + 1))
    if not names:
        hint = "Does the step before it write it there? Paths are relative to the folder of crossfade.yaml."
        raise NotFound(f"There is no report {pattern}.", hint=hint)
    if len(names) > MOST_FILES:
        raise Invalid(f"report {pattern}", f"over {MOST_FILES} files", f"at most {MOST_FILES}")
    files, total = [], 0
    for name in names:
        content = read_file(root, name)
        total += len(content)
        if total > LARGEST_TOGETHER:
            raise Invalid(f"report {pattern}", "larger", f"at most {LARGEST_TOGETHER // MIB} MiB together")
        if not content:
            raise NotFound(f"The report {name} is empty.", hint="Did the step that writes it end early?")
        files.append(ReportFile(name, content))
    return Report(tuple(files))


def open_reports(tree: Path, patterns: Sequence[str]) -> Report:
    """The files of several patterns, each once; each pattern has to have some. Raises as `open_report`."""
    files: dict[str, ReportFile] = {}
    for pattern in patterns:
        files |= {file.path: file for file in open_report(tree, pattern).files}
    if sum(len(file.content) for file in files.values()) > LARGEST_TOGETHER:
        raise Invalid("reports", "larger", f"at most {LARGEST_TOGETHER // MIB} MiB together")
    return Report(tuple(files.values()))


def _matching(root: Path, pattern: str) -> Iterator[str]:
    # A file may really be called so: then that is the one.
    if not _WILD & set(pattern) or os.path.lexists(root / pattern):
        return iter([pattern] if os.path.lexists(root / pattern) else [])
    try:
        found = [path for path in islice(root.glob(pattern), 10 * MOST_FILES) if not path.is_dir()]
    except (ValueError, NotImplementedError, OSError) as error:
        raise Invalid("report", pattern, f"a shell pattern: {error}") from None
    return iter(sorted(path.relative_to(root).as_posix() for path in found))


def read_file(tree: Path, name: str, *, largest: int = LARGEST) -> bytes:
    """All of one file within ``tree``. Raises NotFound, and Invalid as `open_report`."""
    root = tree.resolve()
    try:
        # Not waiting for a writer keeps a pipe from holding the gate for ever.
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no report {name}.") from None
    except (OSError, ValueError) as error:
        raise Invalid(
            f"report {name}", getattr(error, "strerror", None) or str(error), "a file that can be read"
        ) from None
    try:
        # Where it is, is asked of what was opened: a link may have been turned elsewhere in between.
        place = Path(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        if not place.is_relative_to(root):
            raise Invalid(f"report {name}", "a link that leads out of the project", "a file inside it")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Invalid(f"report {name}", "no regular file", "a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(largest + 1)
    finally:
        os.close(descriptor)
    if len(content) > largest:
        raise Invalid(f"report {name}", f"over {largest // MIB} MiB", f"at most {largest // MIB} MiB")
    return content
