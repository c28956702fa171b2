"""What holds for every test session: it touches nothing of the user's, and it leaves no process behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

MARKER = "CROSSFADE_TEST_SESSION"
"""In the environment of all that a session starts, so that what has detached itself (supervisord, HAProxy) is found."""

PATIENCE = 15.0
"""Seconds in which what is ending may end by itself."""


# No test asks how long something takes: a busy machine would fail what is right.
settings.register_profile("crossfade", deadline=None)
settings.load_profile("crossfade")


def pytest_configure(config: pytest.Config) -> None:
    # Each xdist worker is a session of its own, or they would take each other's processes for leftovers.
    os.environ[MARKER] = uuid.uuid4().hex
    os.environ.pop("CROSSFADE_STATE", None)
    # A command that is given no state folder must find an empty one. Short: sockets are made below it.
    home = tempfile.mkdtemp(prefix="cf-", dir="/tmp")
    os.environ["XDG_STATE_HOME"] = home
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def _no_process_outlives_the_session() -> Iterator[None]:
    """Fails the session, and ends what it finds, when something that a test started still runs."""
    yield
    deadline = time.monotonic() + PATIENCE
    while (left := leftovers()) and time.monotonic() < deadline:
        time.sleep(0.2)
    if not left:
        return
    named = [name(process) for process in left]
    end(left)
    pytest.fail(f"{len(named)} processes outlived the test session (ended now):\n" + "\n".join(named), pytrace=False)


def leftovers() -> list[psutil.Process]:
    """What this session started and still runs: descendants, and whatever carries its marker."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == os.environ[MARKER]:
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue  # gone, or somebody else's
    found.pop(os.getpid(), None)
    return [process for process in found.values() if lives(process)]


def lives(process: psutil.Process) -> bool:
    try:
        # multiprocessing's tracker belongs to the interpreter and ends with it.
        return process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


def name(process: psutil.Process) -> str:
    """``pid 4711 (from tests/x.py::test_y): command line``; pytest itself puts the test into the environment."""
    with process.oneshot():
        try:
            test = process.environ().get("PYTEST_CURRENT_TEST", "an unknown test")
            return f"  pid {process.pid} (from {test}): {' '.join(process.cmdline())[:300]}"
        except psutil.Error:
            return f"  pid {process.pid}"


def end(processes: list[psutil.Process]) -> None:
    """Ends exactly these. psutil checks that a pid is still the same process."""
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                act(process)
            except psutil.Error:
                continue
        _, processes = psutil.wait_procs(processes, timeout=5)
