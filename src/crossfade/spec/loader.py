"""Reading `crossfade.yaml`: either a whole `Spec`, or every problem at once, each with its line."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crossfade.domain.errors import InvalidConfig, NotFound, Problem
from crossfade.spec import openslo, tree
from crossfade.spec.models import FILE_NAME, Spec
from crossfade.spec.problems import Place

Content = Callable[[str], bytes]
"""What a file inside the project holds, by its path relative to it. Raises NotFound, InvalidConfig."""


def load(path: Path) -> Spec:
    """Read a file, and those that it names. Raises InvalidConfig with every problem, NotFound."""
    return parse_bytes(read_file(path), str(path), lambda name: read_file(path.parent / name))


def parse_bytes(data: bytes, file: str = FILE_NAME, content: Content | None = None) -> Spec:
    """From what a file holds. Raises InvalidConfig."""
    return parse(decode(data, file), file, content)


def decode(data: bytes, file: str) -> str:
    """The text of a file. Raises InvalidConfig."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{data[error.start]:02x}, which is not UTF-8 there"
        raise InvalidConfig([Problem(file, line, "the file", found, "text in UTF-8")]) from None


def parse(text: str, file: str = FILE_NAME, content: Content | None = None) -> Spec:
    """From YAML text; ``file`` is what problems call it. Raises InvalidConfig.

    ``content`` gives the files of `slo.openslo`, whose objectives are then among the others; without it they stay unread.
    """
    read = tree.read(text, _is_variable)
    place = Place(file, read.lines)
    problems = [
        Problem(file, fault.line, place.problem(fault.path, "", "").key, fault.found, fault.allowed)
        for fault in read.faults
    ]
    spec: Spec | None = None
    if not read.broken:
        if not isinstance(read.data, dict):
            found = "a list" if isinstance(read.data, list) else "a single value"
            problems.append(place.problem((), found, "a mapping that begins with service:"))
        else:
            data, more = openslo.resolve(read.data, place, content) if content is not None else (read.data, [])
            problems += more
            spec, more = Spec.examine(data, place)
            problems += more
    if spec is None or problems:
        raise InvalidConfig(place.in_order(problems))
    return spec


_VARIABLES: Final = (
    ("run", "env", None),
    ("environments", None, "env", None),
    ("pipeline", "stages", None, "env", None),
    ("pipeline", "stages", None, "compare", "env", None),
    ("pipeline", "stages", None, "steps", None, "env", None),
    ("pipeline", "stages", None, "services", None, "env", None),
)
"""Where the values of variables are; None stands for any name."""


def _is_variable(path: tree.Path) -> bool:
    """Values of variables are text as written: ``1.10`` must not become 1.1, nor ``0123`` 123."""
    return any(
        len(path) == len(place) and all(known in (None, step) for known, step in zip(place, path, strict=True))
        for place in _VARIABLES
    )


def read_file(path: Path, hint: str = "`crossfade init` proposes one.") -> bytes:
    """What a file holds, a little more than is allowed at most. Raises InvalidConfig, NotFound."""
    try:
        # Not blocking: opening a pipe would wait for its other end.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no {path}.", hint=hint) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InvalidConfig([Problem(str(path), 0, "the file", "something else than a file", "a file")])
        with open(handle, "rb", closefd=False) as file:
            return file.read(tree.LARGEST + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(handle)


def _unreadable(path: Path, error: OSError | ValueError) -> InvalidConfig:
    why = getattr(error, "strerror", None) or str(error)
    return InvalidConfig([Problem(str(path), 0, "the file", f"a file that cannot be read ({why})", "a readable file")])
