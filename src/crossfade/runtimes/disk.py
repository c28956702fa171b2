"""Files that are whole or not there, and locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from crossfade.domain.errors import StorageFailed


def ensure_folder(path: Path) -> None:
    """Make a folder that only its owner can enter. Raises StorageFailed."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed.because(f"make the folder {path}", error) from error


def write_file(path: Path, data: bytes) -> None:
    """Replace a file in one step; only its owner can read it. On the disk when this returns. Raises StorageFailed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise StorageFailed.because(f"write {path}", error) from error


def read_file(path: Path) -> bytes | None:
    """The whole file; None when there is none. Raises StorageFailed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageFailed.because(f"read {path}", error) from error


def remove_file(path: Path) -> None:
    """Raises StorageFailed; a file that is not there is fine."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed.because(f"remove {path}", error) from error


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """One holder at a time, between threads and processes; a holder that is killed lets go. Raises StorageFailed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageFailed.because(f"open the lock {path}", error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
