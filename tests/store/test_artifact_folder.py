"""Artifacts on a real disk, from hostile streams."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid, NotFound, StorageFailed
from crossfade.store.artifacts import FolderArtifacts, pack


def member(name: str, data: bytes = b"", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def tarball(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return io.BytesIO(out.getvalue())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Writable again in the end, or pytest could not remove it."""
    yield tmp_path / "artifacts"
    for below, _, _ in os.walk(tmp_path / "artifacts"):
        os.chmod(below, 0o700)


@pytest.fixture
def artifacts(folder: Path) -> FolderArtifacts:
    return FolderArtifacts(folder)


SYM, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE

HOSTILE = {
    "a parent": [member("a/../../x")],
    "an absolute name": [member("/tmp/crossfade-evil")],
    "an empty name": [member("")],
    "a link outside": [member("x", type=SYM, linkname="../../etc/passwd")],
    "an absolute link": [member("x", type=SYM, linkname="/etc/passwd")],
    "a link to nothing": [member("x", type=SYM, linkname="")],
    "a file through a link": [member("x", type=SYM, linkname="y"), member("x/file", b"1")],
    "a file over a link": [member("x", type=SYM, linkname="y"), member("x", b"1")],
    "links that add up": [
        member("a/b", type=SYM, linkname=".."),
        member("c", type=SYM, linkname="a/b/../.."),
    ],
    "a hard link outside": [member("x", type=HARD, linkname="../../../etc/passwd")],
    "a hard link to nothing": [member("x", type=HARD, linkname="y")],
    "a hard link to a link": [member("y", type=SYM, linkname="."), member("x", type=HARD, linkname="y")],
    "a hard link through a link": [
        member("d", type=SYM, linkname="e"),
        member("x", type=HARD, linkname="d/passwd"),
    ],
    "a device": [member("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a block device": [member("x", type=tarfile.BLKTYPE)],
    "a pipe": [member("x", type=tarfile.FIFOTYPE)],
    "a file twice": [member("x", b"1"), member("x", b"2")],
    "a file twice in other words": [member("x/y", b"1"), member("./x//y", b"2")],
    "a folder over a file": [member("x", b"1"), member("x", type=DIR)],
    "a file below a file": [member("x", b"1"), member("x/y", b"2")],
    "a name that is not UTF-8": [member("x\udcff", b"1")],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_stream_is_refused_and_leaves_nothing(artifacts: FolderArtifacts, folder: Path, what: str) -> None:
    with pytest.raises(Invalid):
        artifacts.put(tarball(*HOSTILE[what]))
    assert list(folder.iterdir()) == []
    assert not Path("/tmp/crossfade-evil").exists()


def test_links_that_stay_inside_are_kept(artifacts: FolderArtifacts) -> None:
    made = artifacts.put(
        tarball(
            member("bin/app", b"run", mode=0o755),
            member("current", type=SYM, linkname="bin/app"),
            member("bin/up", type=SYM, linkname="../bin"),
            member("same", type=HARD, linkname="bin/app"),
        )
    )
    files = artifacts.folder(made.digest)
    assert (files / "current").read_bytes() == (files / "same").read_bytes() == b"run"
    assert os.access(files / "bin/up/app", os.X_OK)
    assert artifacts.verify(made.digest) == ""


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_common_kind_of_tar_is_read(artifacts: FolderArtifacts, format: int) -> None:
    names = ["a", "long/" + "n" * 90] if format == tarfile.USTAR_FORMAT else ["a", "é" * 30, "long/" * 60 + "x"]
    made = artifacts.put(tarball(*(member(name, name.encode()) for name in names), format=format))
    for name in names:
        assert (artifacts.folder(made.digest) / name).read_bytes() == name.encode()


def test_a_stream_cut_anywhere_is_refused(artifacts: FolderArtifacts, folder: Path) -> None:
    whole = tarball(member("a", b"x" * 700), member("b" * 150, b"y")).getvalue()
    end = whole.rstrip(b"\0").__len__() + 512
    for cut in range(0, end - 512, 97):
        for data in (whole[:cut], gzip.compress(whole)[: max(1, cut // 40)]):
            with pytest.raises(Invalid):
                artifacts.put(io.BytesIO(data))
    assert list(folder.iterdir()) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_stream_is_refused_or_taken_whole_and_never_an_accident(data: st.DataObject) -> None:
    whole = bytearray(
        tarball(member("a", b"x" * 30), member("b" * 150, b"y"), member("c", type=SYM, linkname="a")).getvalue()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    place = Path(tempfile.mkdtemp())
    try:
        made = FolderArtifacts(place).put(io.BytesIO(bytes(whole)))
        assert FolderArtifacts(place).verify(made.digest) == ""
    except Invalid:
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["chmod", "-R", "u+w", place], check=True)
        shutil.rmtree(place)


def test_a_gzip_bomb_is_refused_before_it_is_large(folder: Path) -> None:
    class Bomb:
        def __init__(self) -> None:
            info, _ = member("zeros")
            info.size = 50 * 1024**3
            packer = zlib.compressobj(wbits=31)
            self.rest = (
                packer.compress(info.tobuf(tarfile.GNU_FORMAT)) + packer.compress(bytes(400 * 1024**2)) + packer.flush()
            )
            self.given = 0

        def read(self, size: int = -1) -> bytes:
            data, self.rest = self.rest[:size], self.rest[size:]
            self.given += len(data)
            return data

    with pytest.raises(Invalid, match="bytes"):
        FolderArtifacts(folder, largest=1024**2).put(Bomb())  # type: ignore[arg-type]  # all that is used of a file
    assert list(folder.iterdir()) == []


def test_more_bytes_than_allowed_are_refused_however_they_are_spread(folder: Path) -> None:
    small = FolderArtifacts(folder, largest=1000)
    with pytest.raises(Invalid, match="1000 bytes"):
        small.put(tarball(member("a", b"x" * 600), member("b", b"x" * 600)))
    with pytest.raises(Invalid, match="1000 bytes"):
        small.put(tarball(member("a", b"x" * 600), member("b", type=HARD, linkname="a")))
    assert small.put(tarball(member("a", b"x" * 600), member("b", b"x" * 400))).files == 2


def test_more_members_than_allowed_are_refused(folder: Path) -> None:
    with pytest.raises(Invalid, match="10 members"):
        FolderArtifacts(folder, most_files=10).put(tarball(*(member(f"f{i}") for i in range(11))))


def test_an_endless_header_is_refused_before_it_is_in_memory(artifacts: FolderArtifacts) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10 * 1024**3
    with pytest.raises(Invalid, match="header"):
        artifacts.put(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 10_000))


def test_a_stream_that_breaks_off_is_not_the_disks_fault(artifacts: FolderArtifacts) -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")

    with pytest.raises(Invalid, match="broke off"):
        artifacts.put(Broken())  # type: ignore[arg-type]  # all that is used of a file


def test_files_and_folders_are_read_only_and_modes_normal(artifacts: FolderArtifacts) -> None:
    made = artifacts.put(
        tarball(member("d/a", b"1", mode=0o4777), member("d/b", b"2", mode=0o600), member("e", type=DIR))
    )
    files = artifacts.folder(made.digest)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in files.rglob("*")}
    assert modes == {"d": 0o555, "e": 0o555, "a": 0o555, "b": 0o444}


def test_a_changed_or_missing_file_is_found_and_an_added_one_is_not_ours(artifacts: FolderArtifacts) -> None:
    made = artifacts.put(tarball(member("d/a", b"1"), member("b", b"2")))
    files = artifacts.folder(made.digest)
    os.chmod(files / "d", 0o700)
    (files / "d" / "__pycache__").mkdir()
    (files / "d" / "__pycache__" / "a.pyc").write_bytes(b"dropped by the program")
    assert artifacts.verify(made.digest) == ""
    os.chmod(files / "d" / "a", 0o644)
    (files / "d" / "a").write_bytes(b"X")
    assert "was changed" in artifacts.verify(made.digest)
    (files / "d" / "a").unlink()
    assert "was changed" in artifacts.verify(made.digest)


def test_putting_a_damaged_artifact_again_repairs_it(artifacts: FolderArtifacts) -> None:
    made = artifacts.put(tarball(member("a", b"1")))
    os.chmod(artifacts.folder(made.digest) / "a", 0o644)
    (artifacts.folder(made.digest) / "a").write_bytes(b"X")
    assert artifacts.put(tarball(member("a", b"1"))) == made
    assert artifacts.verify(made.digest) == ""


def test_a_full_disk_is_a_clear_error_and_leaves_no_draft(folder: Path) -> None:
    code = f"""
import io, resource, signal, tarfile
from pathlib import Path
from crossfade.domain.errors import StorageFailed
from crossfade.store.artifacts import FolderArtifacts
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w") as tar:
    info = tarfile.TarInfo("a"); info.size = 5_000_000
    tar.addfile(info, io.BytesIO(bytes(5_000_000)))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # stands for the full disk
try:
    FolderArtifacts(Path({str(folder)!r})).put(io.BytesIO(out.getvalue()))
except StorageFailed as error:
    print("failed:", error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "failed: Free some space" in done.stdout, done.stderr
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        FolderArtifacts(tmp_path / "file" / "artifacts").put(tarball(member("a")))


def test_what_a_killed_put_left_is_swept_up_and_never_taken_for_an_artifact(
    artifacts: FolderArtifacts, folder: Path
) -> None:
    artifacts.put(tarball(member("a", b"1")))
    left = folder / "draft-left"
    (left / "files" / "d").mkdir(parents=True)
    (left / "files" / "d" / "x").write_text("half")
    os.chmod(left / "files" / "d", 0o500)
    os.utime(left, (1, 1))
    assert len(artifacts.all()) == 1
    artifacts.put(tarball(member("a", b"2")))
    assert not left.exists()


def test_packing_the_same_content_gives_the_same_digest_wherever_it_is(
    tmp_path: Path, artifacts: FolderArtifacts
) -> None:
    digests = set()
    for name in ("one", "two"):
        root = tmp_path / name
        (root / "sub" / "empty").mkdir(parents=True)
        for file in ["b", "a", "sub/c"] if name == "one" else ["sub/c", "a", "b"]:
            (root / file).write_text(file)
            os.chmod(root / file, 0o600 if name == "one" else 0o664)
        (root / ("n" * 120)).write_text("a long name")
        (root / "ünï").symlink_to("sub/c")
        os.utime(root / "a", (1, len(name) * 1000))
        packed = pack(root)
        try:
            digests.add(packed.digest)
            with open(packed.path, "rb") as file_object:
                put = artifacts.put(file_object, packed.digest)
            assert (put.size, put.files) == (packed.size, packed.files) == (packed.path.stat().st_size, 5)
        finally:
            packed.path.unlink()
    assert len(digests) == 1


def test_the_tarball_of_pack_is_one_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / "src" / "d").mkdir(parents=True)
    (tmp_path / "src" / "d" / ("é" * 60)).write_bytes(b"x" * 1000)
    (tmp_path / "src" / "run").write_text("#!")
    os.chmod(tmp_path / "src" / "run", 0o700)
    packed = pack(tmp_path / "src", into=tmp_path)
    listed = subprocess.run(
        ["tar", "-tvf", packed.path],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
    )
    assert not listed.stderr
    with tarfile.open(packed.path) as tar:
        assert tar.getnames() == ["d", "d/" + "é" * 60, "run"]
        assert [m.mode for m in tar] == [0o755, 0o644, 0o755]
        assert {(m.uid, m.gid, m.mtime) for m in tar} == {(0, 0, 0)}


def test_the_canonical_form_never_changes(tmp_path: Path) -> None:
    # Releases are found again by this digest after an upgrade: whoever changes it strands them all.
    (tmp_path / "src" / "lib").mkdir(parents=True)
    (tmp_path / "src" / "app.py").write_text("print('hello')\n")
    (tmp_path / "src" / "lib" / ("ü" + "x" * 120)).write_text("1")
    (tmp_path / "src" / "link").symlink_to("lib")
    packed = pack(tmp_path / "src", into=tmp_path)
    assert packed.digest.text == "sha256:1a6c25219343c7e7858a03ec1eaf89ac7d4ecaa14ce122f71139ce067e3203fa"


def test_pack_leaves_out_what_is_ignored(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name in (
        ".git/HEAD",
        "a/__pycache__/x.pyc",
        ".venv/bin/python",
        "a/y.pyc",
        "keep",
        "a/keep.log",
        "logs/x",
        "a/logs/x",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    packed = pack(source, ["*.log", "./logs", "logs/*"], into=tmp_path)
    with tarfile.open(packed.path) as tar:
        assert tar.getnames() == ["a", "a/logs", "a/logs/x", "keep", "logs"]


def test_pack_refuses_what_it_cannot_keep_and_names_it(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        place = tempfile.mkdtemp(dir="/tmp")
        made.bind(f"{place}/s")
        shutil.move(f"{place}/s", source / "the-socket")
        os.rmdir(place)
    with pytest.raises(Invalid, match="the-socket"):
        pack(source, into=tmp_path)
    (source / "the-socket").unlink()
    (source / "out").symlink_to("../secret")
    with pytest.raises(Invalid, match=r"out -> \.\./secret"):
        pack(source, into=tmp_path)
    with pytest.raises(NotFound):
        pack(tmp_path / "nowhere")
    assert list(tmp_path.glob("*.tar")) == []
