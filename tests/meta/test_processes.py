"""The check in tests/conftest.py that nothing outlives a test session, tried on sessions that leave something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]

DETACHED = """
import os, subprocess, sys
from pathlib import Path

def test_that_leaves_a_daemon():
    inner = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], start_new_session=True, "
    inner += "stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    told = subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True, check=True)
    Path("pid").write_text(told.stdout)
"""

TIDY = """
import subprocess

def test_that_ends_what_it_starts():
    process = subprocess.Popen(["sleep", "600"])
    process.kill()
    process.wait()
"""


def session(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    (folder / "conftest.py").write_text(conftest.replace("PATIENCE = 15.0", "PATIENCE = 1.0"))
    (folder / "test_it.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)


def test_a_daemon_that_a_test_leaves_behind_fails_the_session_and_is_ended(tmp_path: Path) -> None:
    done = session(tmp_path, DETACHED)
    pid = int((tmp_path / "pid").read_text())
    assert done.returncode == 1, done.stdout
    assert f"pid {pid} (from test_it.py::test_that_leaves_a_daemon (call)): sleep 600" in done.stdout
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_session_that_cleans_up_passes(tmp_path: Path) -> None:
    done = session(tmp_path, TIDY)
    assert done.returncode == 0, done.stdout


def test_no_test_sees_the_state_folder_of_the_user() -> None:
    assert "CROSSFADE_STATE" not in os.environ
    folder = Path(os.environ["XDG_STATE_HOME"])
    assert folder.parent == Path("/tmp")
    assert shutil.disk_usage(folder).free > 0, "it is there"
