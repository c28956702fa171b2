"""supervisord as Crossfade drives it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from crossfade.domain.errors import CrossfadeError, Invalid, Refused, StorageFailed, Unavailable
from crossfade.runtimes import launch
from crossfade.runtimes.supervisor import RUNNING, STOPPED, Supervisor

Until = Callable[..., None]
STAYS = (sys.executable, "-S", "-c", "import time; time.sleep(600)")


def test_starting_it_twice_or_at_once_makes_one(state: Path) -> None:
    problems: list[CrossfadeError] = []

    def start() -> None:
        try:
            Supervisor(state).start()
        except CrossfadeError as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    pid = Supervisor(state).pid()
    Supervisor(state).start()
    assert Supervisor(state).pid() == pid


def test_shutting_down_ends_it_and_everything_in_it(state: Path, supervisor: Supervisor, until: Until) -> None:
    supervisor.ensure_program("one", STAYS, cwd=state)
    supervisor.ensure_program("two", STAYS, cwd=state)
    pids = [supervisor.pid(), *(s.pid for s in supervisor.states().values())]
    assert len(pids) == 3
    supervisor.shutdown()
    assert not any(launch.identity(pid) for pid in pids)
    assert not supervisor.running()
    supervisor.shutdown()


def test_without_it_every_call_says_what_to_do(state: Path) -> None:
    absent = Supervisor(state)
    assert not absent.running()
    for call in (absent.states, absent.pid, lambda: absent.ensure_program("a", STAYS, cwd=state)):
        with pytest.raises(Unavailable, match="crossfade up"):
            call()


def test_its_socket_is_for_its_owner_only(state: Path, supervisor: Supervisor) -> None:
    assert (state / "run" / "supervisor.sock").stat().st_mode & 0o777 == 0o600
    assert (state / "run").stat().st_mode & 0o077 == 0


def test_a_program_is_untouched_when_it_is_ensured_again_and_replaced_when_it_differs(
    state: Path, supervisor: Supervisor
) -> None:
    supervisor.ensure_program("web", STAYS, cwd=state, env={"A": "1"})
    first = supervisor.states()["web"].pid
    supervisor.ensure_program("web", STAYS, cwd=state, env={"A": "1"})
    assert supervisor.states()["web"].pid == first
    supervisor.ensure_program("web", STAYS, cwd=state, env={"A": "2"})
    second = supervisor.states()["web"].pid
    assert second not in (0, first)
    assert launch.identity(first) == ""


def test_a_stopped_program_stays_stopped_until_it_is_started(state: Path, supervisor: Supervisor, until: Until) -> None:
    supervisor.ensure_program("web", STAYS, cwd=state)
    supervisor.stop_program("web")
    assert supervisor.states()["web"].state == STOPPED
    supervisor.start_program("web")
    until(lambda: supervisor.states()["web"].state == RUNNING)
    supervisor.remove_program("web")
    assert supervisor.states() == {}
    supervisor.remove_program("web")
    with pytest.raises(Refused):
        supervisor.start_program("web")


def test_a_killed_program_is_back_at_once(state: Path, supervisor: Supervisor, until: Until) -> None:
    supervisor.ensure_program("web", STAYS, cwd=state)
    until(lambda: supervisor.states()["web"].state == RUNNING)
    first = supervisor.states()["web"].pid
    os.kill(first, signal.SIGKILL)
    # Nobody asks meanwhile: asking would wake it.
    until(lambda: any(_commands(state, first)), 5)
    assert supervisor.states()["web"].restarts == 1


def _commands(state: Path, other: int) -> list[int]:
    """The process that the program's pid file names, once that is another one than before."""
    text = (state / "programs" / "web.pid").read_text()
    pid = int(text.split()[0]) if text else 0
    return [pid] if pid not in (0, other) else []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "a:b", "-a", ".a", "a\n", "a%", "x" * 300])
def test_a_program_name_that_could_be_a_path_or_a_setting_is_refused(
    state: Path, supervisor: Supervisor, name: str
) -> None:
    with pytest.raises(Invalid):
        supervisor.ensure_program(name, STAYS, cwd=state)
    with pytest.raises(Invalid):
        supervisor.log(name)


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0y"}])
def test_an_impossible_environment_is_refused_without_showing_the_value(
    state: Path, supervisor: Supervisor, env: dict[str, str]
) -> None:
    with pytest.raises(Invalid) as caught:
        supervisor.ensure_program("web", STAYS, cwd=state, env=env)
    assert "x\0y" not in str(caught.value)
    assert supervisor.states() == {}


def test_a_state_folder_whose_sockets_would_not_fit_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(Invalid, match="state folder"):
        Supervisor(Path(folder) / ("x" * 100)).start()


def test_a_state_folder_with_spaces_percents_and_quotes_works(state: Path, until: Until) -> None:
    odd = Supervisor(state / "a b%c'd\"é")
    odd.start()
    try:
        odd.ensure_program("web", STAYS, cwd=state)
        until(lambda: odd.states()["web"].state == RUNNING)
    finally:
        odd.shutdown()


def test_a_state_folder_that_cannot_be_made_is_a_clear_error(state: Path) -> None:
    (state / "file").write_text("")
    with pytest.raises(StorageFailed, match="file"):
        Supervisor(state / "file" / "state").start()


def test_a_supervisord_that_cannot_start_says_why(state: Path) -> None:
    (state / "programs").mkdir(mode=0o700)
    (state / "programs" / "broken.conf").write_text("[program:broken]\nautostart = perhaps\ncommand = x\n")
    with pytest.raises(Unavailable, match="perhaps"):
        Supervisor(state).start()


def test_it_does_not_complain_of_running_as_root(state: Path, supervisor: Supervisor) -> None:
    assert "running as root" not in (state / "logs" / "supervisord.log").read_text()


def test_a_launch_file_survives_its_round_trip() -> None:
    env = {"A": "1\n'\"", "B": "", "C=": "x"}
    data = launch.encode(0o027, "/a b", ("x", "", "ü"), env)
    assert launch.decode(data) == (0o027, b"/a b", [b"x", b"", "ü".encode()], {b"A": b"1\n'\"", b"B": b"", b"C": b"=x"})
    for cut in range(len(data) - 1):
        # Cut between two variables it looks whole; files are written in one step, so that none is ever cut.
        try:
            assert launch.decode(data[:cut])[3] != launch.decode(data)[3]
        except ValueError:
            continue
