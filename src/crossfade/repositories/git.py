"""Git by its own program: mirrors, checkouts as work trees of a mirror, and questions about commits.

The user's repository is only read. Everything is fetched into a bare mirror of ours, and checkouts are work trees of that
mirror: nothing of the repository's configuration, hooks or filters is run, and a killed server leaves no entry in somebody
else's `.git/worktrees`; those that it leaves in ours are pruned before the next checkout. Submodules and LFS are not fetched.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urlsplit

from crossfade.domain.errors import Invalid, NotFound, StorageFailed, Unavailable
from crossfade.domain.pipeline.plan import Commit
from crossfade.ports.pipeline import Relation

LARGEST_FILE: Final = 16 * 2**20
LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes that are taken of what git says."""
TIMEOUT: Final = 300.0
QUICK: Final = 30.0

_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]{0,249}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HUNK: Final = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_SETTINGS: Final = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "protocol.ext.allow=never",
    "-c", "submodule.recurse=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "safe.directory=*",
    "-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false",
    "-c", "advice.detachedHead=false", "-c", "core.quotePath=false",
)  # fmt: skip


class Git:
    """`ports.pipeline.Repositories`. Mirrors are kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # --- mirrors

    def _mirror(self, repository: str) -> Path:
        name = hashlib.sha256(repository.encode()).hexdigest()[:24]
        return self._folder / f"{name}.git"

    @contextmanager
    def _locked(self, mirror: Path) -> Iterator[None]:
        try:
            mirror.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = open(mirror.with_suffix(".lock"), "w")  # noqa: SIM115 - closed below, after the lock is given back
        except OSError as error:
            raise StorageFailed(f"{mirror} cannot be written: {error.strerror or error}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            lock.close()

    def fetch(self, repository: str, secret: str = "") -> None:
        _check(repository)
        mirror = self._mirror(repository)
        with self._locked(mirror):
            if not (mirror / "HEAD").exists():
                shutil.rmtree(mirror, ignore_errors=True)
                self._run(["init", "-q", "--bare", str(mirror)], None)
            self._run(
                ["fetch", "-q", "--prune", "--no-tags", "--no-recurse-submodules", "--", repository,
                 "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"],
                mirror, TIMEOUT, secret,
            )  # fmt: skip

    def commit(self, repository: str, ref: str) -> Commit:
        if not _REF.fullmatch(ref) or ".." in ref or ref.endswith((".lock", "/")):
            raise Invalid("ref", ref, "the name of a branch, tag or commit")
        mirror = self._known(repository)
        names = [f"refs/heads/{ref}", f"refs/tags/{ref}", ref]
        if _COMMIT.fullmatch(ref):
            names.reverse()  # a branch may be called like another commit's id
        for name in names:
            try:
                said = self._run(
                    ["log", "-1", "--no-show-signature", "--format=%H%x00%ct%x00%an%x00%s", f"{name}^{{commit}}", "--"],
                    mirror,
                )
            except NotFound:
                continue
            id, at, author, subject = (said.decode("utf-8", "replace").rstrip("\n") + "\0\0\0").split("\0")[:4]
            depth = int(self._run(["rev-list", "--count", id, "--"], mirror))
            return Commit(id, depth, float(at), author[:200], subject[:500])
        raise NotFound(f"There is no {ref} in {_shown(repository)}.", hint="`git push` it first.")

    def _known(self, repository: str) -> Path:
        mirror = self._mirror(repository)
        if not (mirror / "HEAD").exists():
            self.fetch(repository)
        return mirror

    def relation(self, repository: str, one: str, other: str) -> Relation:
        if one == other:
            return Relation.SAME
        mirror = self._known(repository)
        for first, second, relation in ((one, other, Relation.OLDER), (other, one, Relation.NEWER)):
            if self._is_ancestor(mirror, first, second):
                return relation
        return Relation.UNRELATED

    def _is_ancestor(self, mirror: Path, one: str, other: str) -> bool:
        if not (_COMMIT.fullmatch(one) and _COMMIT.fullmatch(other)):
            return False
        done = self._start(["merge-base", "--is-ancestor", one, other], mirror, QUICK)
        return done.returncode == 0

    # --- work trees

    def checkout(self, repository: str, commit: str, folder: Path) -> None:
        mirror = self._known(repository)
        _id(commit)
        with self._locked(mirror):
            self._run(["worktree", "prune"], mirror)
            self._run(["worktree", "add", "-q", "--detach", "--force", str(folder), commit], mirror, TIMEOUT)

    def remove(self, folder: Path) -> None:
        if not folder.exists() and not folder.is_symlink():
            return
        _remove(folder)
        for mirror in self._folder.glob("*.git"):
            if (mirror / "worktrees").exists():
                with self._locked(mirror):
                    self._run(["worktree", "prune"], mirror)

    def snapshot(self, work_tree: Path, folder: Path) -> Commit:
        listed = self._run(["ls-files", "-z", "-co", "--exclude-standard"], work_tree)
        try:
            folder.mkdir(parents=True)
            for name in {os.fsdecode(one) for one in listed.split(b"\0") if one}:
                _copy(work_tree, folder, PurePosixPath(name))
        except OSError as error:
            raise StorageFailed.because(f"copy {work_tree} to {folder}", error) from error
        said = self._run(["log", "-1", "--format=%H%x00%ct%x00%an%x00%s"], work_tree)
        id, at, author, subject = (said.decode("utf-8", "replace").rstrip("\n") + "\0\0\0").split("\0")[:4]
        depth = int(self._run(["rev-list", "--count", id, "--"], work_tree))
        changed = self._run(["status", "--porcelain", "-z"], work_tree)
        return Commit(id, depth, float(at), author[:200], subject[:480] + (" (with changes)" if changed else ""))

    # --- questions

    def changed(self, repository: str, base: str, commit: str) -> Mapping[str, frozenset[int]]:
        mirror = self._known(repository)
        said = self._run(
            ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--unified=0", "--no-renames",
             "--src-prefix=a/", "--dst-prefix=b/", "--merge-base",
             "--diff-filter=AM", _id(base), _id(commit), "--"],
            mirror, TIMEOUT,
        )  # fmt: skip
        return _added(said)

    def file(self, repository: str, commit: str, path: str) -> bytes | None:
        place = PurePosixPath(path)
        if place.is_absolute() or ".." in place.parts or not place.parts or "\0" in path:
            raise Invalid("path", path, "a path within the repository")
        mirror = self._known(repository)
        name = f"{_id(commit)}:{place}"
        try:
            kind = self._run(["cat-file", "-t", name], mirror).strip()
            size = int(self._run(["cat-file", "-s", name], mirror))
        except NotFound:
            return None
        if kind != b"blob":
            return None
        if size > LARGEST_FILE:
            raise Invalid("path", path, f"a file of at most {LARGEST_FILE} bytes; it has {size}")
        return self._run(["cat-file", "blob", name], mirror)

    # --- the program

    def _run(self, words: list[str], folder: Path | None, timeout: float = QUICK, secret: str = "") -> bytes:
        done = self._start(words, folder, timeout, secret)
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"it exited with {done.returncode}"
        reason = _shown(reason)
        if secret:
            reason = reason.replace(secret, "(hidden)").replace(_basic(secret), "(hidden)")
        if words[0] == "fetch":
            raise Unavailable(f"git cannot fetch: {reason}.", hint="Is the address right, and is it reachable?")
        raise NotFound(f"git {words[0]}: {reason}.")

    @staticmethod
    def _start(
        words: list[str], folder: Path | None, timeout: float, secret: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ASKPASS": "true",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=20",
        }
        if "SSH_AUTH_SOCK" in os.environ:
            env["SSH_AUTH_SOCK"] = os.environ["SSH_AUTH_SOCK"]
        if secret:  # in the environment, as everybody may read the words of a process; for this address and no other
            env |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{_origin(words)}.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {_basic(secret)}",
            }
        try:
            with tempfile.TemporaryFile() as errors:
                process = subprocess.Popen(
                    ["git", *_SETTINGS, *words],
                    cwd=folder,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
                said, late = _within(process, timeout)
                errors.seek(0)
                complaint = errors.read(64 * 1024)
        except FileNotFoundError:
            raise Unavailable("There is no git, or no folder to run it in.", hint="Install the package git.") from None
        except OSError as error:
            raise Unavailable(f"git {words[0]} cannot be run: {error.strerror or error}.") from error
        if late:
            raise Unavailable(f"git {words[0]} did not end within {timeout:g} s.")
        if len(said) > LARGEST_ANSWER:
            raise Unavailable(f"git {words[0]} said more than {LARGEST_ANSWER // 2**20} MiB.")
        return subprocess.CompletedProcess(words, process.returncode, said, complaint)


def _within(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bool]:
    """What it says, at most a byte more than is taken, and whether it had to be ended; git's own children end with it."""
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        with process:
            assert process.stdout is not None
            said = process.stdout.read(LARGEST_ANSWER + 1)
            if len(said) > LARGEST_ANSWER:
                _kill(process)
    finally:
        timer.cancel()
    return said, late.is_set()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _added(diff: bytes) -> Mapping[str, frozenset[int]]:
    """Lines of the new side, by path. What a hunk holds is counted off: a changed line may itself look like a header."""
    found: dict[str, set[int]] = {}
    lines: set[int] = set()
    inside = 0
    for line in diff.split(b"\n"):
        if inside:
            inside -= not line.startswith(b"\\")  # "No newline at end of file" counts for nothing
        elif line.startswith(b"+++ b/"):
            lines = found.setdefault(_unquoted(line[6:]), set())
        elif line.startswith(b'+++ "b/'):
            lines = found.setdefault(_unquoted(b'"' + line[7:]), set())
        elif (hunk := _HUNK.match(line)) is not None:
            first, count = int(hunk[2]), int(hunk[3] or b"1")
            lines.update(range(first, first + count))
            inside = count + int(hunk[1] or b"1")
    return {path: frozenset(numbers) for path, numbers in found.items()}


def _copy(work_tree: Path, folder: Path, name: PurePosixPath) -> None:
    """One file or link as it is. What is behind a link to a folder is not the repository's, and is left where it is."""
    source, target = work_tree / name, folder / name
    if any((work_tree / parent).is_symlink() for parent in name.parents):
        return
    try:
        kind = source.lstat().st_mode
    except FileNotFoundError:
        return  # deleted, but not committed as such
    if stat.S_ISREG(kind) or stat.S_ISLNK(kind):  # neither a submodule nor a pipe
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)


def _basic(secret: str) -> str:
    """As GitHub, GitLab and Gitea take a token for git; a name before it is not looked at."""
    return base64.b64encode(f"x-access-token:{secret}".encode()).decode()


def _origin(words: list[str]) -> str:
    """The host that a fetch goes to."""
    url = next((word for word in words if "://" in word), "https://nowhere.invalid")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"


def _check(repository: str) -> None:
    allowed = "the absolute path of a repository, or a URL with https or ssh (http on loopback only)"
    if repository.startswith("/"):
        if not Path(repository).is_dir():
            raise NotFound(f"There is no repository {repository}.")
        return
    parts = urlsplit(repository)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if (
        len(repository) > 1000
        or not (parts.scheme in ("https", "ssh") or (parts.scheme == "http" and local))
        or not parts.hostname
        or parts.hostname.startswith("-")
    ):
        raise Invalid("repository", _shown(repository), allowed)


def _id(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise Invalid("commit", commit, "a whole commit id")
    return commit


def _unquoted(path: bytes) -> str:
    if path.startswith(b'"'):
        path = path[1:].rstrip(b"\t").removesuffix(b'"').decode("unicode_escape").encode("latin-1")
        return path.decode("utf-8", "surrogateescape")
    return path.removesuffix(b"\t").decode("utf-8", "surrogateescape")


def _shown(repository: str) -> str:
    return re.sub(r"([a-z+]+://)[^/@\s]*@", r"\1(hidden)@", repository)


def _remove(folder: Path) -> None:
    """Also what has been made read-only."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        return

    def again(_act: object, path: str, _why: object) -> None:
        if not os.path.lexists(path):
            return
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path)
        else:  # never the mode of what a link leads to
            os.unlink(path)

    try:
        shutil.rmtree(folder, onerror=again)
    except OSError as error:
        raise StorageFailed.because(f"remove {folder}", error) from error
