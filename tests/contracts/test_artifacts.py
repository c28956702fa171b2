"""The promises of `ports.Artifacts`, kept by folders and by their twin."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfade.domain.errors import Invalid, NotFound
from crossfade.domain.values import Digest
from crossfade.fakes.artifacts import FakeArtifacts
from crossfade.ports import Artifacts
from crossfade.store.artifacts import FolderArtifacts

UNKNOWN = Digest("sha256:" + "0" * 64)


def tarball(files: dict[str, bytes], *, mtime: int = 0, reverse: bool = False, mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in sorted(files, reverse=reverse):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(files[name]), mtime, mode
            tar.addfile(info, io.BytesIO(files[name]))
    return out.getvalue()


@pytest.fixture(params=["fake", "folder"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Artifacts]:
    yield FakeArtifacts(tmp_path) if request.param == "fake" else FolderArtifacts(tmp_path / "artifacts")
    for below, _, _ in os.walk(tmp_path):  # Read-only as they are, pytest could not remove them.
        os.chmod(below, 0o700)


def test_what_was_put_is_there_and_intact(artifacts: Artifacts) -> None:
    artifact = artifacts.put(io.BytesIO(tarball({"app.py": b"print()", "lib/x.txt": b"x"})))
    assert artifact.files == 2
    assert artifacts.get(artifact.digest) == artifact
    assert artifacts.verify(artifact.digest) == ""
    assert artifacts.all() == (artifact,)
    assert artifact.digest.hex in str(artifacts.folder(artifact.digest))


def test_equal_content_is_one_artifact_whenever_it_was_built(artifacts: Artifacts) -> None:
    files = {"a": b"1", "b": b"2"}
    first = artifacts.put(io.BytesIO(tarball(files)))
    assert artifacts.put(io.BytesIO(tarball(files, mtime=1_700_000_000, reverse=True, mode=0o600))) == first
    assert artifacts.put(io.BytesIO(gzip.compress(tarball(files)))) == first
    assert len(artifacts.all()) == 1


@pytest.mark.parametrize("other", [{"a": b"2"}, {"b": b"1"}, {"a": b"1", "c": b""}])
def test_other_content_or_names_are_another_artifact(artifacts: Artifacts, other: dict[str, bytes]) -> None:
    first = artifacts.put(io.BytesIO(tarball({"a": b"1"})))
    assert artifacts.put(io.BytesIO(tarball(other))).digest != first.digest


def test_an_executable_file_is_another_artifact(artifacts: Artifacts) -> None:
    first = artifacts.put(io.BytesIO(tarball({"a": b"1"})))
    assert artifacts.put(io.BytesIO(tarball({"a": b"1"}, mode=0o755))).digest != first.digest


def test_content_with_another_digest_than_expected_is_refused(artifacts: Artifacts) -> None:
    with pytest.raises(Invalid):
        artifacts.put(io.BytesIO(tarball({"a": b"1"})), UNKNOWN)
    assert artifacts.all() == ()
    good = artifacts.put(io.BytesIO(tarball({"a": b"1"})))
    assert artifacts.put(io.BytesIO(tarball({"a": b"1"})), good.digest) == good


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"x" * 5000, gzip.compress(tarball({"a": b"1" * 5000}), mtime=0)[:60]],
    ids=["nothing", "a word", "a long nothing", "a gzip that ends early"],
)
def test_what_is_no_tarball_is_refused(artifacts: Artifacts, data: bytes) -> None:
    with pytest.raises(Invalid):
        artifacts.put(io.BytesIO(data))
    assert artifacts.all() == ()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_a_name_outside_is_refused(artifacts: Artifacts, name: str) -> None:
    with pytest.raises(Invalid):
        artifacts.put(io.BytesIO(tarball({name: b"x"})))
    assert artifacts.all() == ()


def test_an_unknown_artifact_is_said_to_be_missing(artifacts: Artifacts) -> None:
    assert artifacts.get(UNKNOWN) is None
    assert "missing" in artifacts.verify(UNKNOWN)
    with pytest.raises(NotFound):
        artifacts.folder(UNKNOWN)


def test_a_removed_artifact_is_gone_and_removing_it_again_is_fine(artifacts: Artifacts) -> None:
    first = artifacts.put(io.BytesIO(tarball({"a": b"1"})))
    second = artifacts.put(io.BytesIO(tarball({"a": b"2"})))
    artifacts.remove(first.digest)
    artifacts.remove(first.digest)
    assert artifacts.all() == (second,)
    assert artifacts.put(io.BytesIO(tarball({"a": b"1"}))) == first


def test_the_same_content_put_by_many_at_once_is_one_artifact(artifacts: Artifacts) -> None:
    data = tarball({f"f{i}": bytes([i]) * 1000 for i in range(30)})
    found: list[Digest] = []
    threads = [threading.Thread(target=lambda: found.append(artifacts.put(io.BytesIO(data)).digest)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert len(set(found)) == len(artifacts.all()) == 1
    assert artifacts.verify(found[0]) == ""
