"""`ProcessDependents` with the real programs: databases that answer, commands that get healthy, and ones that never do."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import Unavailable
from crossfade.domain.health import Check
from crossfade.domain.pipeline.plan import Dependent, DependentKind
from crossfade.probes.http import HttpProber
from crossfade.runners.dependents import ProcessDependents, is_open
from crossfade.runners.process import ProcessSteps


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "tree").mkdir()
    dependents = ProcessDependents(tmp_path, HttpProber(), ProcessSteps(tmp_path))

    def start(*wanted: Dependent) -> Any:
        return dependents.start(
            wanted,
            owner="run-1",
            folder=tmp_path / "services",
            tree=tmp_path / "tree",
            artifact=None,
            env={},
            tell=lambda _: None,
            cancel=threading.Event(),
        )

    return start


@pytest.mark.parametrize(
    ("kind", "there"),
    [
        (
            DependentKind.POSTGRESQL,
            any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or bool(shutil.which("initdb")),
        ),
        (DependentKind.MARIADB, bool(shutil.which("mariadbd"))),
        (DependentKind.REDIS, bool(shutil.which("redis-server"))),
    ],
)
def test_a_database_is_up_while_it_is_needed_and_gone_afterwards(
    kind: DependentKind, there: bool, start: Callable[..., Any], tmp_path: Path
) -> None:
    if not there:
        pytest.skip(f"{kind} is not installed")
    with start(Dependent("my-data", kind)) as places:
        place = places["my-data"]
        assert is_open(place.port)
        assert place.env == {"MY_DATA_HOST": "127.0.0.1", "MY_DATA_PORT": str(place.port), "MY_DATA_URL": place.url}
    assert not is_open(place.port)
    assert not (tmp_path / "services" / "my-data").exists()


def test_a_command_is_told_its_port_and_is_up_when_it_is_healthy(start: Callable[..., Any]) -> None:
    command = (sys.executable, "-m", "http.server", "--bind", "$HOST", "$PORT")
    with start(Dependent("web", DependentKind.COMMAND, command, Check("up", "/"))) as places:
        assert is_open(places["web"].port)
    assert not is_open(places["web"].port)


def test_one_that_never_gets_healthy_is_told_with_its_last_lines(start: Callable[..., Any]) -> None:
    command = (sys.executable, "-m", "http.server", "--bind", "$HOST", "$PORT")
    wanted = Dependent("web", DependentKind.COMMAND, command, Check("up", "/nowhere"), start_timeout=1.0)
    with pytest.raises(Unavailable, match=r"(?s)was not up after 1 s.*/nowhere"), start(wanted):
        pass


def test_one_that_ends_at_once_is_told_with_its_last_lines(start: Callable[..., Any]) -> None:
    wanted = Dependent("web", DependentKind.COMMAND, ("sh", "-c", "echo no config; exit 4"))
    with pytest.raises(Unavailable, match=r"(?s)exited with 4.*no config"), start(wanted):
        pass


def test_a_sweep_removes_data_that_a_killed_server_left_and_keeps_logs(tmp_path: Path) -> None:
    services = tmp_path / "runs" / "7" / "integration-1" / "services"
    (services / "database" / "data").mkdir(parents=True)
    (services / "database.log").write_text("said")
    ProcessDependents(tmp_path, HttpProber(), ProcessSteps(tmp_path)).sweep()
    assert [path.name for path in services.iterdir()] == ["database.log"]
