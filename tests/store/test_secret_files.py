"""Secrets on disk, and env files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from crossfade.domain.errors import Invalid, NotFound, StorageFailed
from crossfade.store.secrets import FolderSecrets, parse_env_file


def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    FolderSecrets(tmp_path / "secrets").put({"A": "1"})
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}


def test_a_name_cannot_be_guessed_from_the_values(tmp_path: Path) -> None:
    names = {FolderSecrets(tmp_path / place).put({"A": "1"}) for place in ("one", "two")}
    assert len(names) == 2


def test_names_last_and_many_first_writers_agree_on_them(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(FolderSecrets(tmp_path / "s").put({"A": "1"}))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert FolderSecrets(tmp_path / "s").get(found[0]) == {"A": "1"}
    assert len(list((tmp_path / "s").iterdir())) == 2


def test_damaged_secrets_are_not_given_out(tmp_path: Path) -> None:
    secrets = FolderSecrets(tmp_path / "s")
    name = secrets.put({"A": "1"})
    (tmp_path / "s" / name).write_text('{"A": "2"}')
    with pytest.raises(StorageFailed, match="damaged"):
        secrets.get(name)
    assert secrets.put({"A": "1"}) == name
    assert secrets.get(name) == {"A": "1"}


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        FolderSecrets(tmp_path / "file" / "s").put({"A": "1"})
    with pytest.raises((NotFound, StorageFailed)):
        FolderSecrets(tmp_path / "file" / "s").get("0" * 64)


def test_an_env_file_is_read() -> None:
    text = (
        "\ufeff# a comment\r\n"
        "A=1\r\n"
        "\n"
        "  export B = two words # a comment\n"
        "C='single $X \\n' # a comment\n"
        'D="a\\nb\\t\\"q\\" \\$X \\\\ \\z"\n'
        "E=\n"
        "F=a#b=c\n"
        "G=#only a comment\n"
        'H="over\ntwo lines"\n'
        "_I9=last\n"
        "A=again"
    )
    assert parse_env_file(text, ".env") == {
        "A": "again",
        "B": "two words",
        "C": "single $X \\n",
        "D": 'a\nb\t"q" $X \\ \\z',
        "E": "",
        "F": "a#b=c",
        "G": "",
        "H": "over\ntwo lines",
        "_I9": "last",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\nhunter2", 2),
        ("hunter2=\n9X=hunter2", 2),
        ("\n\nA B=hunter2", 3),
        ("A='hunter2", 1),
        ('A="x\ny"\nB="hunter2\n', 3),
        ("A='x' hunter2", 1),
        ("A=hunter2\0", 1),
        ("hunter2-password=", 1),
        ("=hunter2", 1),
    ],
)
def test_a_bad_line_is_named_and_no_value_shown(text: str, line: int) -> None:
    with pytest.raises(Invalid) as caught:
        parse_env_file(text, "prod.env")
    assert f"prod.env:{line}:" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.fields)
