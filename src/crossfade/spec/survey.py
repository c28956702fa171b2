"""A careful look into a folder that may hold anything: bounded, never following a symbolic link, running nothing."""

from __future__ import annotations

import ast
import os
import re
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final

LARGEST_SOURCE: Final = 256 * 1024
"""Bytes read of one file; what is beyond is as if it were not there."""

MOST_FILES: Final = 400
"""Source files that are read."""

MOST_TEXT: Final = 4 * 1024 * 1024
"""Characters read of all source files."""

MOST_ROUTES: Final = 50
"""Routes of one file that are looked at."""

MOST_ENTRIES: Final = 5_000
"""Names that are looked at."""

DEEPEST: Final = 6

_SKIPPED = frozenset(
    {
        "__tests__", "bower_components", "build", "dist", "docs", "env", "node_modules", "out", "site-packages", "spec",
        "target", "test", "tests", "vendor", "venv",
    }
)  # fmt: skip
_TESTS = frozenset({"__tests__", "spec", "test", "tests"})
_SOURCES = (".py", ".js", ".mjs", ".cjs", ".ts", ".go", ".rb", ".php")
_TEST = re.compile(r"(^|[._-])(test|tests|spec|conftest)([._-]|$)")

# A route is a string in a call that declares one. Clients that ask (requests.get, fetch) are no routes.
_ROUTE = re.compile(
    r"""(?<!requests\.)(?<!httpx\.)(?<!axios\.)(?<!client\.)(?<!session\.)
        \b(?:route|get|all|use|path|re_path|url|Get|GET|Handle|HandleFunc|add_get|add_route|add_api_route|Route)
        \s*\(\s*(?:["']GET["']\s*,\s*)?[rfb]?["'`](?:GET[ ]+)?
        (?P<route>/?(?:[a-z0-9_-]+/){0,2}_?(?P<word>healthz?|health[-_]?checks?|readyz?|livez|alive|up|ping|status)/?\$?)["'`]""",
    re.VERBOSE,
)
_BEST = ("health", "healthz", "ready", "readyz", "livez", "alive", "up", "ping", "status")


@dataclass(frozen=True, slots=True)
class Route:
    """A route that looks like a health check, and where it is declared."""

    path: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class App:
    """A web application object: ``variable = Maker(...)`` at the top of a module. ``file`` relative to the folder."""

    maker: str
    variable: str
    file: str


class Folder:
    """What is in a project folder. Whatever cannot be read is as if it were not there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, name: str) -> str:
        """The beginning of a regular file; empty when there is none that can be read."""
        try:
            handle = os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            return ""
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return ""
            with open(handle, "rb", closefd=False) as file:
                data = file.read(LARGEST_SOURCE)
        except OSError:
            return ""
        finally:
            os.close(handle)
        if b"\0" in data:
            return ""  # binary
        return data.decode("utf-8", "replace").removeprefix("\ufeff")

    def has(self, name: str) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self._mode(name))

    def runnable(self, name: str) -> bool:
        """Whether it is a regular file that may be executed."""
        mode = self._mode(name)
        return stat.S_ISREG(mode) and bool(mode & 0o111)

    def _mode(self, name: str) -> int:
        try:
            return os.lstat(self.root / name).st_mode
        except (OSError, ValueError):
            return 0

    @cached_property
    def sources(self) -> dict[str, str]:
        """Source files by their path, those nearest to the top first; without tests and what others wrote."""
        found: dict[str, str] = {}
        total = 0
        for name in self._names():
            text = self.text(name)
            total += len(text)
            if len(found) >= MOST_FILES or total > MOST_TEXT:
                break
            if text:
                found[name] = text
        return found

    def tests(self, pattern: str) -> list[str]:
        """Files of tests: those whose whole path ``pattern`` (a regular expression) describes."""
        wanted = re.compile(pattern)
        return [name for name in self._names(_SKIPPED - _TESTS, False) if wanted.fullmatch(name)]

    def _names(self, skipped: frozenset[str] = _SKIPPED, source: bool = True) -> Iterator[str]:
        """Files with the endings of programs; of ``source`` those of tests are none."""
        level = [""]
        seen = 0
        for _ in range(DEEPEST):
            below: list[str] = []
            for folder in level:
                try:
                    with os.scandir(self.root / folder) as entries:
                        listed = []
                        for entry in entries:
                            seen += 1
                            if seen > MOST_ENTRIES:
                                break
                            listed.append(entry)
                except (OSError, ValueError):
                    continue
                for entry in sorted(listed, key=lambda e: e.name):
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    try:
                        if entry.name.startswith(".") or not entry.name.isprintable():
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            if entry.name not in skipped:
                                below.append(path)
                        elif (
                            entry.name.endswith(_SOURCES)
                            and entry.is_file(follow_symlinks=False)
                            and not (source and _TEST.search(entry.name))
                        ):
                            yield path
                    except OSError:
                        continue
            level = below

    def health_route(self) -> Route | None:
        """The route that most looks like a health check, or None."""
        found: list[tuple[int, Route]] = []
        for name, text in self.sources.items():
            for match in islice(_ROUTE.finditer(text), MOST_ROUTES):
                word = re.sub(r"[-_]?checks?$", "", match["word"])
                path = "/" + match["route"].strip("/$") + ("/" if match["route"].rstrip("$").endswith("/") else "")
                rank = _BEST.index(word) if word in _BEST else len(_BEST)
                found.append((rank, Route(path, name, text.count("\n", 0, match.start()) + 1)))
        return min(found, key=lambda item: item[0])[1] if found else None

    def apps(self, makers: tuple[str, ...]) -> list[App]:
        """The web application objects that Python modules make at their top level."""
        found: list[App] = []
        for name, text in self.sources.items():
            if not name.endswith(".py") or not any(maker in text for maker in makers):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    module = ast.parse(text)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            for statement in module.body:
                target = _assigned(statement)
                if target is not None and target[1] in makers:
                    found.append(App(target[1], target[0], name))
        return found


def _assigned(statement: ast.stmt) -> tuple[str, str] | None:
    """Of ``app = Flask(...)``: app and Flask."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, value = statement.target, statement.value
    else:
        return None
    if not isinstance(target, ast.Name) or not isinstance(value, ast.Call):
        return None
    called = value.func
    if isinstance(called, ast.Name):
        return target.id, called.id
    return (target.id, called.attr) if isinstance(called, ast.Attribute) else None
