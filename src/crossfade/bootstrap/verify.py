"""Checking an artifact and its statement by themselves, on any machine: no server, no state folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade.domain.errors import Invalid, NotFound, StorageFailed

if TYPE_CHECKING:
    from crossfade.domain.values import Digest

LARGEST_FILE = 4 * 1024 * 1024
"""Bytes of a key or an envelope."""


def verify_offline(key: Path, envelope: Path, artifact: Path, service: str | None = None) -> dict[str, Any]:
    """Whether ``artifact`` (its tarball, or the folder with its content) is what ``envelope`` says, signed with ``key``.

    The answer has the keys of `Runs.statement`. Without ``service``, the statement may be about any. Raises NotFound,
    Invalid for a file that is no key or no tarball, StorageFailed.
    """
    from crossfade.domain.pipeline.provenance import check
    from crossfade.store.signing import key_from_pem, opened

    public = key_from_pem(_text(key))
    text = _text(envelope)
    digest = _digest(artifact)
    said: Mapping[str, Any] | None = None
    problems: tuple[str, ...]
    try:
        said = opened(text, public)
        problems = check(said, digest, _service(said) if service is None else service)
    except Invalid as error:
        problems = (f"the envelope is not signed with this key: {error.what}",)
    name = digest.text[:19] + "…"
    if said is not None and not problems:
        sentence = f"{artifact.name} is {name}, built for {_service(said)} and signed with key {public.keyid[:12]}"
    else:
        sentence = f"{artifact.name} ({name}) is not verified: {'; '.join(problems)}"
    return {
        "release": None,
        "artifact": digest.text,
        "ok": not problems,
        "sentence": sentence,
        "problems": list(problems),
        "statement": dict(said) if said is not None else None,
        "envelope": text,
        "key": public.keyid,
    }


def _service(said: Mapping[str, Any]) -> str:
    """The service that a statement names; empty when it names none, which no statement of ours is about."""
    here: Any = said
    for step in ("predicate", "buildDefinition", "externalParameters", "service"):
        here = here.get(step) if isinstance(here, Mapping) else None
    return here if isinstance(here, str) else ""


def _digest(artifact: Path) -> Digest:
    """The digest of what is there now, whatever its name or whoever packed it says."""
    from crossfade.store.artifacts import FolderArtifacts, pack

    if artifact.is_dir():
        packed = pack(artifact)
        packed.path.unlink()
        return packed.digest
    try:
        with artifact.open("rb") as tarball, tempfile.TemporaryDirectory(prefix="crossfade-") as folder:
            return FolderArtifacts(Path(folder)).put(tarball).digest
    except FileNotFoundError:
        raise NotFound(f"There is no file {artifact}.") from None
    except OSError as error:
        raise StorageFailed.because(f"read {artifact}", error) from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.") from None
    except OSError as error:
        raise StorageFailed.because(f"read {path}", error) from error
    if len(content) > LARGEST_FILE:
        raise Invalid(str(path), "a larger file", f"at most {LARGEST_FILE} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Invalid(str(path), "bytes that are not UTF-8", "text") from None
