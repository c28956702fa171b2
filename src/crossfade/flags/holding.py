"""A set of flags that is held ready to be evaluated, and the file that it outlives a restart in."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.flags import document as documents
from crossfade.domain.flags.evaluate import Evaluator, compiled
from crossfade.domain.flags.model import FlagSet, Surroundings
from crossfade.domain.values import ReleaseNumber

LARGEST: Final = 64 * 1024**2
"""Bytes of an answer or a file that are read."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A set as it was told. ``version`` 0: it has none, for it comes from a plain file.

    ``said`` is what the server answered (version, release, document), ``known_at`` when it was known to be the newest,
    in epoch seconds.
    """

    version: int
    flags: FlagSet
    evaluator: Evaluator = field(repr=False, compare=False)
    said: Mapping[str, Any] = field(repr=False, compare=False)
    known_at: float


def read_answer(said: object, known_at: float) -> Holding:
    """From the server's answer, or from a document by itself, as flagd reads it. Raises Invalid or InvalidBatch."""
    if not isinstance(said, dict):
        raise Invalid("flag set", type(said).__name__, "a JSON object")
    if not isinstance(said.get("document"), dict):
        said = {"version": 0, "release": None, "document": said}
    version, release = said.get("version", 0), said.get("release")
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise Invalid("version", version, "a whole number from 0")
    flags = documents.read(said["document"])
    oldest = ReleaseNumber.parse(str(release)) if release else None
    return Holding(version, flags, compiled(flags, Surroundings(oldest)), said, known_at)


def decode(data: bytes) -> object:
    """JSON. Raises Invalid, whatever is wrong with it."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid("flag set", data[:60].decode(errors="replace"), f"JSON in UTF-8 ({error})") from error


def read_file(path: Path) -> Holding:
    """A document, or a set that `write_file` has kept. Raises OSError, Invalid or InvalidBatch."""
    with path.open("rb") as file:
        found = decode(file.read(LARGEST))
        written = os.fstat(file.fileno()).st_mtime
    kept = found.get("known_at") if isinstance(found, dict) else None
    known_at = kept if isinstance(kept, int | float) and not isinstance(kept, bool) else written
    return read_answer(found, min(float(known_at), time.time()))


def write_file(path: Path, holding: Holding) -> None:
    """Keep a set, whole or not at all: several processes may do so, and any of them may end at any moment.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({**holding.said, "known_at": holding.known_at}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise
