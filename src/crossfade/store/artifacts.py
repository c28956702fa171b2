"""Artifacts as folders: what was built, unpacked, read-only, named by its content.

The digest is over a canonical tar: members sorted by name, owned by nobody, without times, modes 0644 or 0755 only.
Equal content has one digest wherever and whenever it was built, and `FolderArtifacts.verify` can recompute it from the
files as they are now. What a program drops into its folder while it runs (as root it can) is none of the artifact's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Final

from crossfade.domain.errors import Invalid, NotFound, StorageFailed
from crossfade.domain.release import Artifact
from crossfade.domain.values import Digest
from crossfade.store.tarball import CHUNK, END, PLACE, Member, Source, damaged, header, members, padding, plain, walk

IGNORED: Final = (".git", "__pycache__", ".venv", ".crossfade", "*.pyc")
"""Names that `pack` leaves out wherever they are."""

LARGEST: Final = 2 * 1024**3
"""Bytes of content that an artifact may have by default."""

MOST_FILES: Final = 200_000

_DRAFT: Final = "draft-"


@dataclass(frozen=True, slots=True)
class Packed:
    """A canonical tarball on disk, for `FolderArtifacts.put`. Whoever asked for it removes ``path``."""

    path: Path
    digest: Digest
    size: int
    files: int


class _Hashing:
    """Digests and counts what goes through, and passes it on when there is somewhere to pass it."""

    def __init__(self, onward: IO[bytes] | None) -> None:
        self._onward = onward
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        if self._onward is not None:
            self._onward.write(data)

    def digest(self) -> Digest:
        return Digest(f"sha256:{self._hash.hexdigest()}")


class _Upload:
    """A source whose breaking is its own fault, not the disk's."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except OSError as error:
            raise damaged(f"it broke off ({error.strerror or error})") from error


class FolderArtifacts:
    """The `Artifacts` port in one folder: ``HEX/files/`` is an artifact's content, ``HEX/facts`` its size and names.

    An artifact appears whole or not at all: it is unpacked beside its place and renamed into it. ``largest`` (bytes
    of content) and ``most_files`` bound what `put` takes.
    """

    def __init__(self, folder: Path, *, largest: int = LARGEST, most_files: int = MOST_FILES) -> None:
        self._folder = folder.absolute()
        self._largest = largest
        self._most_files = most_files

    def put(self, tarball: BinaryIO, expected: Digest | None = None) -> Artifact:
        """Take a tar stream (optionally gzipped); name it by its content. What is there already is not written again.

        Raises Invalid for a damaged or hostile stream, and when the content has another digest than ``expected``;
        StorageFailed.
        """
        with _storage(f"write to {self._folder}"):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._folder))
        held = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)  # Says to sweepers that somebody works here.
            files = draft / "files"
            with _storage(f"write to {self._folder}"):
                files.mkdir(mode=0o755)
                self._unpack(tarball, files)
                digest, size, count = _canonical(walk(files), None)
                if expected is not None and digest != expected:
                    raise Invalid(PLACE, str(digest), f"content with the digest {expected}")
                artifact = Artifact(digest, size, count)
                names = [member.name for member, _ in walk(files)]
                facts = {"size": size, "files": count, "names": names}
                (draft / "facts").write_text(json.dumps(facts), encoding="utf-8")
                _close_folders(files)
                self._place(draft, digest)
            return artifact
        finally:
            os.close(held)
            _remove_tree(draft)

    def get(self, digest: Digest) -> Artifact | None:
        """None when there is none, or not all of it."""
        facts = self._facts(digest)
        return facts[0] if facts else None

    def folder(self, digest: Digest) -> Path:
        """The unpacked, read-only files. Raises NotFound."""
        files = self._folder / digest.hex / "files"
        if self.get(digest) is None or not files.is_dir():
            raise NotFound(f"There is no artifact {digest.short}.", hint="Build it again.", digest=str(digest))
        return files

    def verify(self, digest: Digest) -> str:
        """Empty when the files still have this digest; else what is wrong. Reads all of them; what was added is ignored."""
        files = self._folder / digest.hex / "files"
        facts = self._facts(digest)
        if facts is None or not files.is_dir():
            return f"artifact {digest.short} is missing"
        try:
            found, _, _ = _canonical(((m, path) for m, path in walk(files) if m.name in facts[1]), None)
        except (Invalid, StorageFailed, OSError) as error:
            return f"artifact {digest.short} cannot be read: {error}"
        return "" if found == digest else f"artifact {digest.short} was changed: its files now have {found.short}"

    def remove(self, digest: Digest) -> None:
        """Forget it; one that is not there is fine. Raises StorageFailed."""
        place = self._folder / digest.hex
        if not place.is_dir():
            return
        with _storage(f"remove {place}"):
            away = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._folder))
            with contextlib.suppress(FileNotFoundError):
                os.rename(place, away / "files")  # At once gone under its name, however long the rest takes.
            _remove_tree(away)

    def all(self) -> tuple[Artifact, ...]:
        """Those that are whole, by digest. Raises StorageFailed."""
        with _storage(f"read {self._folder}"):
            names = sorted(os.listdir(self._folder)) if self._folder.is_dir() else []
        digests = [Digest(f"sha256:{name}") for name in names if re.fullmatch(r"[0-9a-f]{64}", name)]
        return tuple(found for found in map(self.get, digests) if found is not None)

    def _facts(self, digest: Digest) -> tuple[Artifact, frozenset[str]] | None:
        try:
            facts = json.loads((self._folder / digest.hex / "facts").read_bytes())
            return Artifact(digest, int(facts["size"]), int(facts["files"])), frozenset(facts["names"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _place(self, draft: Path, digest: Digest) -> None:
        place = self._folder / digest.hex
        if self.get(digest) is not None and not self.verify(digest):
            return
        _sync_tree(draft)
        for _ in range(3):
            try:
                os.rename(draft, place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not self.verify(digest):
                    return  # Somebody else was faster; it is the same.
                self.remove(digest)  # Damaged: ours is better.
            else:
                _sync_folder(self._folder)
                return
        raise StorageFailed(f"Cannot write the artifact {digest.short}: it is being replaced.", hint="Try again.")

    def _sweep(self) -> None:
        """Remove what a killed process left. A draft in use is locked by its maker."""
        for path in self._folder.glob(f"{_DRAFT}*"):
            try:
                held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A draft is made before it is locked: leave very young ones alone.
                if os.fstat(held).st_mtime < _now(self._folder) - 60:
                    _remove_tree(path)
            except OSError:
                continue
            finally:
                os.close(held)

    def _unpack(self, tarball: BinaryIO, files: Path) -> None:
        left = self._largest
        seen: dict[str, str] = {}
        count = 0
        for member, content in members(plain(_Upload(tarball))):
            count += 1
            if count > self._most_files:
                raise Invalid(PLACE, f"more than {self._most_files} members", f"at most {self._most_files} members")
            if member.name == "." and member.kind == "folder":
                continue
            _claim(seen, member)
            target = files / member.name
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            size = (files / member.target).stat().st_size if member.kind == "hard" else member.size
            left -= size
            if left < 0:
                raise Invalid(PLACE, f"more than {self._largest} bytes", f"at most {self._largest} bytes of content")
            if member.kind == "folder":
                target.mkdir(mode=0o755, exist_ok=True)
            elif member.kind == "link":
                os.symlink(member.target, target)
            elif member.kind == "hard":
                original = files / member.target
                with open(original, "rb") as same:
                    _copy(same, target, bool(original.stat().st_mode & 0o100))
            else:
                _copy(content, target, member.executable)
        if not count:
            raise damaged("nothing is in it")
        _check_links(files)


def pack(source: Path, ignore: Sequence[str] = (), into: Path | None = None) -> Packed:
    """The canonical tarball of a folder, as a temporary file (in ``into``, else where temporary files go).

    ``ignore`` are shell patterns of what to leave out besides `IGNORED`: one without '/' is for names anywhere, one
    with '/' for paths from the top.
    Symbolic links are kept when they stay inside the folder. Raises Invalid, naming the path, for sockets, devices,
    links that lead outside and names that are not UTF-8; NotFound; StorageFailed.
    """
    if not source.is_dir():
        raise NotFound(f"There is no folder {source}.", hint="Has the build put its output there?", path=str(source))
    with _storage(f"write a tarball of {source}"):
        fd, name = tempfile.mkstemp(prefix="crossfade-", suffix=".tar", dir=into)
    try:
        with _storage(f"write a tarball of {source}"), os.fdopen(fd, "wb") as out:
            digest, size, count = _canonical(walk(source, (*IGNORED, *ignore)), out)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return Packed(Path(name), digest, size, count)


def _canonical(found: Iterable[tuple[Member, str]], out: IO[bytes] | None) -> tuple[Digest, int, int]:
    """Write the canonical tar of what was found in a folder; its digest, its size in bytes, and how many files and links it has."""
    sink = _Hashing(out)
    count = 0
    for member, path in found:
        if member.kind != "file":
            sink.write(header(member))
            count += member.kind == "link"
            continue
        count += 1
        with open(path, "rb") as content:
            size = left = os.fstat(content.fileno()).st_size
            sink.write(header(replace(member, size=size)))
            while left and (data := content.read(min(left, CHUNK))):
                sink.write(data)
                left -= len(data)
        if left:
            raise Invalid(PLACE, path, "files that stay as they are while they are packed; this one shrank")
        sink.write(padding(size))
    sink.write(END)
    return sink.digest(), sink.size, count


def _claim(seen: dict[str, str], member: Member) -> None:
    """No name twice (but for folders), nothing below what is no folder, hard links only to files. Raises Invalid."""
    name = member.name
    if name in seen and not (member.kind == seen[name] == "folder"):
        raise Invalid(PLACE, name, "each name once")
    for parent in PurePosixPath(name).parents:
        if seen.setdefault(str(parent), "folder") != "folder":
            raise Invalid(PLACE, name, f"nothing below {parent}, which is not a folder")
    if member.kind == "hard" and seen.get(member.target) not in ("file", "hard"):
        raise Invalid(PLACE, f"{name} -> {member.target}", "hard links to earlier files only")
    seen[name] = member.kind


def _check_links(files: Path) -> None:
    """Links through links can lead out although each alone does not. Raises Invalid."""
    root = os.path.realpath(files)
    for member, path in walk(files):
        if member.kind == "link":
            real = os.path.realpath(path)
            if real != root and not real.startswith(root + os.sep):
                raise Invalid(PLACE, f"{member.name} -> {member.target}", "links that stay inside")


def _copy(content: Source, target: Path, executable: bool) -> None:
    mode = 0o755 if executable else 0o644
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as out:
        while data := content.read(CHUNK):
            out.write(data)
        os.fchmod(out.fileno(), mode & 0o555)


def _close_folders(files: Path) -> None:
    """Nobody adds anything from here on (but root)."""
    for folder, _, _ in os.walk(files):
        os.chmod(folder, 0o555)  # noqa: S103 - others may run what is in it


def _sync_tree(folder: Path) -> None:
    """Everything below is on the disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = list(os.scandir(folder))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _sync_tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                file = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_tree(folder: Path) -> None:
    """As far as it goes: what stays is swept up by the next `put`."""
    for below, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(below, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _now(folder: Path) -> float:
    """The file system's clock, which is the one that draft times are in."""
    os.utime(folder)
    return folder.stat().st_mtime


@contextlib.contextmanager
def _storage(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed.because(doing, error) from error
