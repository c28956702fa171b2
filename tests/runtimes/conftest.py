from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossfade.runtimes.process import ProcessRuntime
from crossfade.runtimes.supervisor import Supervisor

Until = Callable[..., None]


@pytest.fixture
def until() -> Until:
    """Waits until a condition holds."""

    def wait(holds: Callable[[], object], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it never came to hold"
            time.sleep(0.02)

    return wait


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder whose sockets have short paths; what is left running in it is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    try:
        yield folder
    finally:
        if Supervisor(folder).running():
            Supervisor(folder).shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def supervisor(state: Path) -> Supervisor:
    made = Supervisor(state)
    made.start()
    return made


@pytest.fixture
def runtime(state: Path, supervisor: Supervisor) -> ProcessRuntime:
    return ProcessRuntime(state, supervisor)
