"""Git, with real repositories, hostile ones among them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from crossfade.domain.errors import CrossfadeError, Invalid, NotFound
from crossfade.ports.pipeline import Relation
from crossfade.repositories.git import Git

ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


class Origin:
    """A repository with a work tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.folder, env=ENV, capture_output=True, check=True)
        return done.stdout.decode().strip()

    def commit(self, subject: str = "change", **files: str) -> str:
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(tmp_path / "mirrors")


def test_a_branch_a_tag_and_an_id_name_the_same_commit(origin: Origin, git: Git) -> None:
    id = origin.commit("Sell books", app="1")
    origin.git("tag", "v1")
    found = [git.commit(str(origin.folder), ref) for ref in ("main", "v1", id)]
    assert {(one.id, one.depth, one.author, one.subject) for one in found} == {(id, 1, "Ada", "Sell books")}


@pytest.mark.parametrize("ref", ["--upload-pack=touch x", "-c", "", "a..b", "a b", "x:y", "main^{/x}", "a\nb"])
def test_a_name_that_git_might_take_for_something_else_is_refused(origin: Origin, git: Git, ref: str) -> None:
    origin.commit()
    with pytest.raises(Invalid):
        git.commit(str(origin.folder), ref)


@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c true",
        "--upload-pack=x",
        "http://example.org/x",
        "relative/path",
        "ssh://-oProxyCommand=x/y",
        "file:x",
    ],
)
def test_what_is_no_repository_is_refused(git: Git, repository: str) -> None:
    with pytest.raises(Invalid):
        git.fetch(repository)


def test_a_branch_called_like_a_commit_does_not_stand_for_it(origin: Origin, git: Git) -> None:
    first = origin.commit(app="1")
    origin.commit(app="2")
    origin.git("update-ref", f"refs/heads/{first}", "HEAD")
    assert git.commit(str(origin.folder), first).id == first


def test_commits_are_older_newer_or_strangers(origin: Origin, git: Git) -> None:
    one, two = origin.commit(app="1"), origin.commit(app="2")
    where = str(origin.folder)
    git.fetch(where)
    assert git.relation(where, one, two) is Relation.OLDER
    assert git.relation(where, two, one) is Relation.NEWER
    assert git.relation(where, one, one) is Relation.SAME
    assert git.relation(where, one, "0" * 40) is Relation.UNRELATED


def test_a_checkout_is_the_commit_and_nothing_of_the_repositorys_own_is_run(
    origin: Origin, git: Git, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    (origin.folder / ".gitattributes").write_text("* filter=evil\n")
    (origin.folder / "link").symlink_to("/etc")
    (origin.folder / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = ext::touch {trap}\n')
    origin.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},s")
    id = origin.commit(**{"two\nlines": "x", "app": "1"})
    origin.git("config", "filter.evil.smudge", f"touch {trap}")
    hook = origin.folder / ".git/hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    (origin.folder / "untracked").write_text("not there")
    before = sorted((origin.folder / ".git").rglob("*"))
    tree = tmp_path / "tree"
    git.checkout(str(origin.folder), id, tree)
    assert not trap.exists()
    assert {path.name for path in tree.iterdir()} >= {"two\nlines", "app", "link", ".gitmodules", ".git"}
    assert (tree / "link").is_symlink()
    assert not (tree / "untracked").exists()
    assert sorted((origin.folder / ".git").rglob("*")) == before


def test_a_checkout_can_be_taken_away_whatever_was_written_into_it(origin: Origin, git: Git, tmp_path: Path) -> None:
    id = origin.commit(app="1")
    outside = tmp_path / "outside"
    outside.write_text("kept")
    outside.chmod(0o400)
    for _ in range(2):
        tree = tmp_path / "tree"
        git.checkout(str(origin.folder), id, tree)
        (tree / "a/b").mkdir(parents=True)
        (tree / "a/b/link").symlink_to(outside)
        (tree / "a/b").chmod(0o500)
        (tree / "a").chmod(0o000)
        git.remove(tree)
        git.remove(tree)
        assert not tree.exists()
    assert outside.read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o400


def test_a_killed_server_does_not_hinder_the_next_checkout(origin: Origin, git: Git, tmp_path: Path) -> None:
    id = origin.commit(app="1")
    tree = tmp_path / "tree"
    git.checkout(str(origin.folder), id, tree)
    subprocess.run(["rm", "-rf", str(tree)], check=True)
    git.checkout(str(origin.folder), id, tree)
    assert (tree / "app").read_text() == "1"


def test_changed_lines_are_counted_from_the_merge_base(origin: Origin, git: Git) -> None:
    base = origin.commit(app="1\n2\n3\n", gone="x\n")
    origin.git("checkout", "-q", "-b", "other")
    (origin.folder / "gone").unlink()
    mine = origin.commit(**{"app": "1\nTWO\n3\n4\n", "new café\t": "a\nb"})
    origin.git("checkout", "-q", "main")
    main = origin.commit(app="0\n1\n2\n3\n")
    where = str(origin.folder)
    git.fetch(where)
    expected = {"app": frozenset({2, 4}), "new café\t": frozenset({1, 2})}
    assert git.changed(where, base, mine) == expected
    assert git.changed(where, main, mine) == expected


def test_a_line_that_looks_like_a_header_of_a_diff_is_a_line(origin: Origin, git: Git) -> None:
    base = origin.commit(app="-- a/x\n")
    after = origin.commit(app="++ b/innocent\n@@ -1 +900 @@\nlast")
    git.fetch(str(origin.folder))
    assert git.changed(str(origin.folder), base, after) == {"app": frozenset({1, 2, 3})}


def test_a_file_is_read_and_what_is_none_is_none(origin: Origin, git: Git) -> None:
    (origin.folder / "docs").mkdir()
    id = origin.commit(**{"docs/page": "text"})
    where = str(origin.folder)
    assert git.file(where, id, "docs/page") == b"text"
    assert git.file(where, id, "docs") is None
    assert git.file(where, id, "nothing") is None
    with pytest.raises(Invalid):
        git.file(where, id, "../origin/docs/page")


def test_a_snapshot_is_the_work_tree_as_it_is_now(origin: Origin, git: Git, tmp_path: Path) -> None:
    (origin.folder / "sub").mkdir()
    id = origin.commit("Sell books", **{"app": "1", ".gitignore": "ignored\n", "sub/file": "x", "gone": "x"})
    (origin.folder / "app").write_text("2")
    (origin.folder / "new").write_text("new")
    (origin.folder / "ignored").write_text("not this")
    (origin.folder / "gone").unlink()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not the repository's")
    (origin.folder / "sub/file").unlink()
    (origin.folder / "sub").rmdir()
    (origin.folder / "sub").symlink_to(outside)
    tree = tmp_path / "tree"
    commit = git.snapshot(origin.folder, tree)
    assert (commit.id, commit.subject) == (id, "Sell books (with changes)")
    assert {path.name for path in tree.iterdir()} == {"app", ".gitignore", "new", "sub"}
    assert (tree / "app").read_text() == "2"
    assert (tree / "sub").is_symlink()
    assert (outside / "file").read_text() == "not the repository's"


def test_where_there_is_no_repository_that_is_said(git: Git, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        git.fetch(str(tmp_path / "nothing"))
    with pytest.raises(CrossfadeError):
        git.fetch(str(tmp_path))
    with pytest.raises(NotFound):
        git.snapshot(tmp_path, tmp_path / "tree")


def test_a_fetch_that_is_refused_does_not_show_its_token(git: Git) -> None:
    with pytest.raises(CrossfadeError) as caught:
        git.fetch("http://127.0.0.1:9/x.git", "very-secret-token")
    assert "very-secret" not in str(caught.value)
