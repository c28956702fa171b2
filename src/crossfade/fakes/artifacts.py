"""The twin of `store.artifacts`: tarballs kept as the names and contents of their files."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from crossfade.domain.errors import CrossfadeError, Invalid, NotFound
from crossfade.domain.release import Artifact
from crossfade.domain.values import Digest


class FakeArtifacts:
    """`ports.Artifacts` in memory. ``folder`` names folders that do not exist, below ``root``.

    Its digests are over names and contents like the real ones, but are other digests. ``fails_with`` is raised by the
    next `put`; `damage` is what `verify` then finds.
    """

    def __init__(self, root: Path = Path("/nowhere")) -> None:
        self.fails_with: CrossfadeError | None = None
        self._root = root
        self._lock = threading.Lock()
        self._found: dict[Digest, Artifact] = {}
        self._damaged: dict[Digest, str] = {}

    def put(self, tarball: BinaryIO, expected: Digest | None = None) -> Artifact:
        if self.fails_with is not None:
            raise self.fails_with
        contents: dict[str, tuple[bytes, bool]] = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(tarball.read()), mode="r:*") as tar:
                for member in tar:
                    name = str(PurePosixPath(member.name))
                    if name.startswith("/") or ".." in PurePosixPath(name).parts or name in contents:
                        raise Invalid("artifact", name, "paths that stay below the top folder, each once")
                    if not (member.isreg() or member.isdir()):
                        raise Invalid("artifact", name, "files and folders")
                    data = tar.extractfile(member)
                    if data is not None:
                        contents[name] = (data.read(), bool(member.mode & 0o100))
        except (tarfile.TarError, EOFError, OSError) as error:
            raise Invalid("artifact", str(error), "a whole tar stream, plain or gzipped") from error
        digest = Digest(f"sha256:{hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()}")
        if expected is not None and expected != digest:
            raise Invalid("artifact", str(digest), f"content with the digest {expected}")
        with self._lock:
            artifact = Artifact(digest, sum(len(data) for data, _ in contents.values()), len(contents))
            self._damaged.pop(digest, None)
            return self._found.setdefault(digest, artifact)

    def get(self, digest: Digest) -> Artifact | None:
        with self._lock:
            return self._found.get(digest)

    def folder(self, digest: Digest) -> Path:
        if self.get(digest) is None:
            raise NotFound(f"There is no artifact {digest.short}.", hint="Build it again.", digest=str(digest))
        return self._root / digest.hex

    def verify(self, digest: Digest) -> str:
        if self.get(digest) is None:
            return f"artifact {digest.short} is missing"
        return self._damaged.get(digest, "")

    def remove(self, digest: Digest) -> None:
        with self._lock:
            self._found.pop(digest, None)

    def all(self) -> tuple[Artifact, ...]:
        with self._lock:
            return tuple(self._found[digest] for digest in sorted(self._found))

    # -- what the world does

    def add(self, label: str) -> Digest:
        """Keep an artifact that is told from others by its label only."""
        digest = Digest(f"sha256:{hashlib.sha256(label.encode()).hexdigest()}")
        with self._lock:
            self._found[digest] = Artifact(digest, len(label), 1)
        return digest

    def damage(self, digest: Digest, how: str = "its files were changed") -> None:
        """Let `verify` find something."""
        with self._lock:
            self._damaged[digest] = how
