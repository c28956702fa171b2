"""Laws of `FolderCaches`: a key says what a result was made from, and a result comes back whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid, NotFound
from crossfade.runners.caches import FolderCaches

names = st.sampled_from(["a", "b", "in/c", "in/d"])
trees = st.dictionaries(names, st.tuples(st.binary(max_size=3), st.booleans()), min_size=1)
runs = st.tuples(
    st.lists(st.text("ab", max_size=2), max_size=2),
    trees,
    st.dictionaries(st.sampled_from("XY"), st.text("ab", max_size=2)),
)


def write(tree: Path, files: dict[str, tuple[bytes, bool]]) -> None:
    for name, (content, executable) in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
        (tree / name).chmod(0o755 if executable else 0o644)


@given(runs, runs)
def test_keys_are_equal_iff_command_inputs_and_variables_are(
    one: tuple[list[str], dict[str, tuple[bytes, bool]], dict[str, str]],
    other: tuple[list[str], dict[str, tuple[bytes, bool]], dict[str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        keys = []
        for number, (command, files, env) in enumerate((one, other)):
            tree = Path(name) / str(number)
            write(tree, files)
            keys.append(FolderCaches(Path(name) / "kept", 1).key(command, tree, ["*", "*/*"], env))
        assert (keys[0] == keys[1]) == (one == other)


def kept(tmp_path: Path, cap: int = 10**6) -> tuple[FolderCaches, Path]:
    tree = tmp_path / "tree"
    write(tree, {"out/x": (b"made", True), "out/deep/y": (b"", False)})
    (tree / "out/link").symlink_to("x")
    return FolderCaches(tmp_path / "kept", cap), tree


def test_outputs_come_back_as_they_were(tmp_path: Path) -> None:
    caches, tree = kept(tmp_path)
    caches.keep("0" * 64, tree, ["out"])
    other = tmp_path / "other"
    other.mkdir()
    assert caches.restore("0" * 64, other)
    assert (other / "out/link").read_bytes() == b"made"
    assert os.access(other / "out/x", os.X_OK)
    assert (other / "out/deep/y").read_bytes() == b""


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-700], lambda data: data[:600] + b"!" + data[601:], lambda _: b""]
)
def test_a_broken_result_is_a_miss_and_goes(tmp_path: Path, damage: object) -> None:
    caches, tree = kept(tmp_path)
    caches.keep("0" * 64, tree, ["out"])
    entry = next((tmp_path / "kept").iterdir())
    entry.write_bytes(damage(entry.read_bytes()))  # type: ignore[operator]  # one of the lambdas above
    assert not caches.restore("0" * 64, tree)
    assert not entry.exists()


def test_what_is_unused_for_longest_goes_when_all_is_too_large(tmp_path: Path) -> None:
    caches, tree = kept(tmp_path, cap=25_000)
    for number, digit in enumerate("012"):
        caches.keep(digit * 64, tree, ["out"])
        os.utime(tmp_path / "kept" / f"{digit * 64}.tar", (number, number))
    caches.keep("3" * 64, tree, ["out"])
    assert not caches.restore("0" * 64, tree)
    assert caches.restore("3" * 64, tree)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "out/../../x", ""])
def test_a_path_out_of_the_checkout_is_refused(tmp_path: Path, path: str) -> None:
    caches, tree = kept(tmp_path)
    with pytest.raises(Invalid):
        caches.key([], tree, [path], {})


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    caches, tree = kept(tmp_path)
    (tree / "away").symlink_to("/etc")
    with pytest.raises(Invalid):
        caches.key([], tree, ["away/passwd"], {})


def test_an_input_that_is_missing_is_said(tmp_path: Path) -> None:
    caches, tree = kept(tmp_path)
    with pytest.raises(NotFound, match="lock"):
        caches.key([], tree, ["lock"], {})
