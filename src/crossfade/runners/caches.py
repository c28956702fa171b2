"""`ports.pipeline.Caches`: what steps made, as tars in a folder, by what it was made from.

Several processes may share the folder: an entry appears whole, by a rename, and whoever finds a broken one takes it away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from crossfade.domain.errors import Invalid, NotFound, StorageFailed

CHUNK: Final = 1024 * 1024
MAGIC_PARTS: Final = set("*?[")
KEY: Final = re.compile(r"[0-9a-f]{64}")


class FolderCaches:
    """Keeps results in ``folder``, at most ``cap`` bytes of them: those unused for longest go first."""

    def __init__(self, folder: Path, cap: int) -> None:
        self._folder = folder
        self._cap = cap

    def key(self, command: Sequence[str], tree: Path, inputs: Sequence[str], env: Mapping[str, str]) -> str:
        """See the port. Raises Invalid for a path out of the tree, NotFound for an input that is not there."""
        tag = f"{sys.implementation.cache_tag} {platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}"
        digest = hashlib.sha256()

        # Each part with its length: no two lists of parts make the same bytes.
        def add(*parts: str | bytes) -> None:
            for part in parts:
                data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
                digest.update(len(data).to_bytes(8, "big") + data)

        add("1", tag, str(len(command)), *command, str(len(env)))
        for name in sorted(env):
            add(name, env[name])
        for path in _matched(tree, inputs):
            found = path.lstat()
            add(path.relative_to(tree).as_posix(), oct(stat.S_IFMT(found.st_mode) | (found.st_mode & 0o111)))
            if stat.S_ISLNK(found.st_mode):
                add(os.readlink(path))
            elif stat.S_ISREG(found.st_mode):
                add(_digest(path))
        return digest.hexdigest()

    def restore(self, key: str, tree: Path) -> bool:
        """See the port. What cannot be restored whole is a miss, and is removed."""
        entry = self._entry(key)
        try:
            with entry.open("rb") as file:
                expected = file.read(32)
                if len(expected) != 32 or hashlib.file_digest(file, "sha256").digest() != expected:
                    raise tarfile.ReadError("its digest is another")
                file.seek(32)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    members = tar.getmembers()
                    for member in members:
                        _check(member, tree)
                    # The filter refuses what would leave the tree, through links too.
                    tar.extractall(tree, members, filter="tar", numeric_owner=True)
        except FileNotFoundError:
            return False
        except (tarfile.TarError, ValueError, EOFError):
            entry.unlink(missing_ok=True)
            return False
        except OSError as error:
            raise StorageFailed.because(f"restoring a cached result into {tree}", error) from error
        with contextlib.suppress(OSError):
            os.utime(entry)
        return True

    def keep(self, key: str, tree: Path, outputs: Sequence[str]) -> None:
        """See the port. Raises Invalid for a path out of the tree, NotFound for an output that was not made."""
        entry = self._entry(key)
        paths = _matched(tree, outputs)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as file:
                try:
                    file.write(bytes(32))
                    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as tar:
                        for path in paths:
                            tar.add(path, path.relative_to(tree).as_posix(), recursive=False)
                    file.seek(32)
                    whole = hashlib.file_digest(file, "sha256").digest()
                    file.seek(0)
                    file.write(whole)
                    file.flush()
                    os.replace(file.name, entry)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise StorageFailed.because("keeping a result in the cache", error) from error
        self._collect()

    def _entry(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise Invalid("a key of the cache", key, "64 hexadecimal digits")
        return self._folder / f"{key}.tar"

    def _collect(self) -> None:
        found = []
        for entry in self._folder.glob("*.tar"):
            with contextlib.suppress(OSError):
                state = entry.stat()
                found.append((state.st_mtime_ns, state.st_size, entry))
        total = sum(size for _, size, _ in found)
        for _, size, entry in sorted(found):
            if total <= self._cap:
                return
            with contextlib.suppress(OSError):
                entry.unlink(missing_ok=True)
            total -= size


def _matched(tree: Path, patterns: Sequence[str]) -> list[Path]:
    """What is at these paths, with all that is in folders; links are not followed. In order of their names."""
    found: set[Path] = set()
    for pattern in patterns:
        pure = PurePosixPath(pattern)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\0" in pattern:
            raise Invalid("a cache's path", pattern, "a path or pattern within the checkout")
        if MAGIC_PARTS & set(pattern):
            matched = list(tree.glob(pattern))
        else:
            matched = [path] if os.path.lexists(path := tree / pattern) else []
            if not matched:
                raise NotFound(f"{pattern} is not there, which the cache of a step names.")
        for path in matched:
            if any(folder.is_symlink() for folder in path.parents if folder.is_relative_to(tree) and folder != tree):
                raise Invalid("a cache's path", pattern, "one that goes through no symbolic link")
            found.update(_within(path))
    return sorted(found)


def _within(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


def _check(member: tarfile.TarInfo, tree: Path) -> None:
    pure = PurePosixPath(member.name)
    if (
        pure.is_absolute()
        or ".." in pure.parts
        or not (member.isreg() or member.isdir() or member.issym() or member.islnk())
    ):
        raise tarfile.ReadError(f"{member.name!r} has no place in a checkout")
    target = tree / member.name
    if target.is_symlink() or (not member.isdir() and target.is_file()):
        target.unlink()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
