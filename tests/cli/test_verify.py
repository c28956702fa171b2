"""`crossfade verify` without a server: key, statement and artifact are files, and nothing else is believed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crossfade.cli.main import app
from crossfade.domain.pipeline.provenance import statement
from crossfade.store.artifacts import pack
from crossfade.store.signing import FileSigner
from tests.domain.test_provenance import run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with signing.pub, statement.json and artifact.tar, as they are carried to another machine."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "app.py").write_text("print('books')\n")
    packed = pack(content)
    packed.path.rename(tmp_path / "artifact.tar")
    signer = FileSigner(tmp_path / "state")
    (tmp_path / "signing.pub").write_text(signer.public())
    said = statement(run(), packed.digest, 1060.0, "https://ship.example")
    (tmp_path / "statement.json").write_text(signer.sign(said))
    return tmp_path


def verify(files: Path, *more: str, artifact: str = "artifact.tar") -> tuple[int, dict[str, Any]]:
    given = ["--key", "signing.pub", "--envelope", "statement.json", "--artifact", artifact]
    arguments = [str(files / word) if number % 2 else word for number, word in enumerate(given)]
    done = CliRunner().invoke(app, ["--state", str(files / "none"), "verify", *arguments, *more, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_an_artifact_that_is_what_was_signed_is_verified_without_a_server(files: Path) -> None:
    code, found = verify(files, "--service", "shop")
    assert code == 0, found
    assert found["ok"] and found["problems"] == []
    assert found["statement"]["predicate"]["buildDefinition"]["externalParameters"]["commit"].startswith("4f2c81a")


def test_the_content_counts_and_not_how_it_is_packed(files: Path) -> None:
    assert verify(files, artifact="content")[0] == 0
    (files / "artifact.tgz").write_bytes(gzip.compress((files / "artifact.tar").read_bytes()))
    assert verify(files, artifact="artifact.tgz")[0] == 0


def test_an_artifact_that_was_changed_is_not_verified(files: Path) -> None:
    (files / "content" / "app.py").write_text("print('bucks')\n")
    code, found = verify(files, artifact="content")
    assert code == 1
    assert "it is about the artifact" in found["sentence"]


def test_the_artifact_of_another_service_is_not_verified(files: Path) -> None:
    code, found = verify(files, "--service", "library")
    assert code == 1
    assert "about service shop, not library" in found["sentence"]


def test_a_statement_that_somebody_else_has_signed_is_not_verified(files: Path) -> None:
    (files / "signing.pub").write_text(FileSigner(files / "other").public())
    code, found = verify(files)
    assert code == 1
    assert found["statement"] is None
    assert "not signed with this key" in found["sentence"]


def test_people_read_what_was_verified(files: Path) -> None:
    names = [str(files / name) for name in ("signing.pub", "statement.json", "artifact.tar")]
    words = ["verify", "--key", names[0], "--envelope", names[1], "--artifact", names[2]]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("verified: artifact.tar is sha256:")
    for text in ("4f2c81a", "https://forge.example/shop.git", "commit/lint", "exited with 0 after 1.2 s"):
        assert text in done.stdout


def test_a_saved_statement_is_the_one_that_was_signed(files: Path) -> None:
    assert verify(files, "--save", str(files / "copy.json"))[0] == 0
    assert json.loads((files / "copy.json").read_text()) == json.loads((files / "statement.json").read_text())


@pytest.mark.parametrize(
    "words", [["verify"], ["verify", "r1", "--key", "x"], ["verify", "--key", "x"], ["verify", "--service", "x"]]
)
def test_what_does_not_belong_together_is_a_usage_error(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


def test_files_that_are_no_such_files_are_told(files: Path) -> None:
    (files / "artifact.tar").write_bytes(b"not a tarball" * 100)
    code, found = verify(files)
    assert (code, found["error"]) == (2, "invalid")
    (files / "artifact.tar").unlink()
    assert verify(files)[1]["error"] == "not-found"
    (files / "signing.pub").write_text("x")
    assert "public Ed25519 key" in verify(files)[1]["what"]
