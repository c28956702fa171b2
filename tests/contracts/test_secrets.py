"""The promises of `ports.Secrets`, kept by files and by their twin."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfade.domain.errors import NotFound
from crossfade.fakes.secrets import FakeSecrets
from crossfade.ports import Secrets
from crossfade.store.secrets import FolderSecrets


@pytest.fixture(params=["fake", "folder"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Secrets:
    return FakeSecrets() if request.param == "fake" else FolderSecrets(tmp_path / "secrets")


def test_what_was_put_comes_back(secrets: Secrets) -> None:
    values = {"PASSWORD": "h\nü'\" %", "EMPTY": ""}
    assert secrets.get(secrets.put(values)) == values


def test_equal_values_have_one_name_and_others_another(secrets: Secrets) -> None:
    name = secrets.put({"A": "1", "B": "2"})
    assert secrets.put({"B": "2", "A": "1"}) == name
    assert secrets.put({"A": "1", "B": "3"}) != name
    assert secrets.put({"A": "1"}) != name


def test_no_values_have_the_empty_name(secrets: Secrets) -> None:
    assert secrets.put({}) == ""
    assert secrets.get("") == {}


@pytest.mark.parametrize("name", ["0" * 64, "../key", "key", "x"])
def test_an_unknown_name_is_not_found(secrets: Secrets, name: str) -> None:
    secrets.put({"A": "1"})
    with pytest.raises(NotFound):
        secrets.get(name)


def test_the_name_shows_nothing_of_the_values(secrets: Secrets) -> None:
    name = secrets.put({"PASSWORD": "hunter2"})
    assert "hunter2" not in name
    assert "PASSWORD" not in name
