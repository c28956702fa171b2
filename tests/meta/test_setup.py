"""The set-up script: what it may do before anything is installed, on real processes, servers and archives."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "setup.py"


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("crossfade_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index on loopback whose files lie in ``tmp_path/index``."""
    folder = tmp_path / "index"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nothing: the output is the tests'."""


def publish(folder: Path, name: str) -> bytes:
    (folder / "files").mkdir()
    with zipfile.ZipFile(folder / "files" / name, "w") as wheel:
        wheel.writestr("pip/__init__.py", "")
    content = (folder / "files" / name).read_bytes()
    (folder / "pip").mkdir()
    link = f'<a href="../files/{name}#sha256={hashlib.sha256(content).hexdigest()}">{name}</a>'
    (folder / "pip" / "index.html").write_text(f'<a href="../files/pip-1-py3-none-any.whl">old</a>{link}')
    return content


def test_the_first_pip_comes_from_the_configured_index_and_only_with_the_pinned_hash(
    setup: ModuleType, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = publish(tmp_path / "index", setup.PIP_WHEEL)
    with pytest.raises(ValueError, match="not the pinned one"):
        setup.pip_from_index({"index-url": index}, tmp_path)
    assert not (tmp_path / setup.PIP_WHEEL).exists()
    monkeypatch.setattr(setup, "PIP_SHA256", hashlib.sha256(content).hexdigest())
    assert setup.pip_from_index({"index-url": index}, tmp_path).read_bytes() == content


def test_an_index_without_the_pinned_pip_is_named_as_the_reason(setup: ModuleType, index: str, tmp_path: Path) -> None:
    publish(tmp_path / "index", "pip-2-py3-none-any.whl")
    with pytest.raises(ValueError, match=r"has no pip-"):
        setup.pip_from_index({"index-url": index}, tmp_path)


def test_the_login_of_an_index_goes_to_no_other_host(setup: ModuleType) -> None:
    index = "http://me:secret@index.test/simple"
    assert setup.same_login(index, "http://index.test/files/a.whl") == "http://me:secret@index.test/files/a.whl"
    assert setup.same_login(index, "http://elsewhere.test/a.whl") == "http://elsewhere.test/a.whl"


def test_the_environment_outranks_the_users_file_in_pips_settings(setup: ModuleType, tmp_path: Path) -> None:
    config = tmp_path / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text("[global]\nindex-url = http://file.test/simple\ncert = /file.pem\n")
    own = {"PIP_INDEX_URL": "http://environment.test/simple"}
    settings = setup.pip_settings(own, tmp_path)
    assert settings["index-url"] == "http://environment.test/simple"
    assert settings["cert"] == "/file.pem"


def test_a_program_that_is_there_counts_as_installed_and_remarks_are_skipped(setup: ModuleType) -> None:
    listing = "# a remark\n\nsome-package  sh  # the shell\nother-package  no-such-program-of-ours\n"
    assert setup.missing_programs(listing) == [("other-package", "no-such-program-of-ours")]


def test_a_malformed_line_in_the_list_of_packages_is_named(setup: ModuleType) -> None:
    with pytest.raises(setup.SetupFailed, match=r"debian-packages\.txt:2: found 'lonely'"):
        setup.missing_programs("a sh\nlonely\n")


def test_the_list_of_packages_is_well_formed(setup: ModuleType) -> None:
    setup.missing_programs((ROOT / "tools" / "debian-packages.txt").read_text())


def test_what_is_missing_is_named_and_fails_where_neither_root_nor_sudo_may_install_it(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a-package  no-such-program-of-ours\n")
    bare = tmp_path / "bin"
    bare.mkdir()
    # A PATH without sudo, and a user without rights: nothing can be installed, whoever runs the tests.
    apt = bare / "apt-get"
    apt.write_text("#!/bin/sh\nexit 1\n")
    apt.chmod(0o755)
    code = (
        f"import os, runpy, sys; os.geteuid = lambda: 1000; sys.argv = ['setup.py']; "
        f"setup = runpy.run_path({str(SCRIPT)!r}); from pathlib import Path; "
        f"setup['bring_programs'](Path({str(listing)!r}), setup['Progress']())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert "Missing here: no-such-program-of-ours (Debian package a-package)." in told.stderr
    assert "sudo apt-get install a-package" in told.stderr


def test_while_packages_are_installed_no_service_starts_unless_the_machine_has_a_policy(
    setup: ModuleType, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    with setup.no_services([], policy):
        assert subprocess.run([policy, "prometheus", "start"], check=False).returncode == 101
    assert not policy.exists()
    policy.write_text("#!/bin/sh\n# its own\n")
    with setup.no_services([], policy):
        assert "its own" in policy.read_text()
    assert "its own" in policy.read_text()


def checkout(folder: Path) -> Path:
    """As little of a checkout as the set-up needs, with locks that name nothing to fetch."""
    (folder / "tools").mkdir(parents=True)
    (folder / "locks").mkdir()
    shutil.copy(SCRIPT, folder / "tools")
    (folder / "tools" / "debian-packages.txt").write_text("")
    (folder / "locks" / "run.txt").write_text("")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "crossfade"\nversion = "1"\n'
    )
    (folder / "backend.py").write_text(BACKEND)
    return folder


BACKEND = """
import zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    info, name = "crossfade-1.dist-info", "crossfade-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("crossfade_here.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: crossfade\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def bring(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "tools" / "setup.py"), "run"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


def test_a_second_set_up_is_silent_an_unfinished_one_is_redone_and_a_moved_one_too(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "first")
    made = bring(folder)
    assert made.returncode == 0, made.stderr
    assert "done, .venv holds locks/run.txt" in made.stderr

    python = (folder / ".venv" / "bin" / "python").lstat().st_ino
    again = bring(folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (folder / ".venv" / "bin" / "python").lstat().st_ino == python

    stamp = folder / ".venv" / "crossfade-stamp.json"
    assert json.loads(stamp.read_text())["base"]["root"] == str(folder)
    stamp.unlink()
    (folder / ".venv" / "half-done").touch()
    redone = bring(folder)
    assert redone.returncode == 0, redone.stderr
    assert not (folder / ".venv" / "half-done").exists()

    moved = folder.rename(tmp_path / "second")
    assert "making .venv" in bring(moved).stderr
    script = (moved / ".venv" / "bin" / "activate").read_text()
    assert str(moved) in script


def test_what_the_build_put_in_place_comes_back_and_a_failed_build_costs_no_second_installation(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "hatch_build.py").write_text("")
    backend = (folder / "backend.py").read_text()
    places = ["src/crossfade/web/static/vendor", "build/assets", "build/node"]
    fills = "".join(f"    import os; os.makedirs({str(folder / place)!r}, exist_ok=True)\n" for place in places)
    builds = backend.replace("metadata_directory=None):\n", f"metadata_directory=None):\n{fills}")
    (folder / "backend.py").write_text(builds.replace("    info", '    raise OSError("no network")\n    info'))
    failed = bring(folder)
    assert failed.returncode == 1
    assert "no network" in failed.stderr

    (folder / "backend.py").write_text(builds)
    again = bring(folder)
    assert again.returncode == 0, again.stderr
    assert "installing the" not in again.stderr
    assert "making .venv" not in again.stderr

    shutil.rmtree(folder / "build")
    assert bring(folder).returncode == 0
    assert (folder / "build" / "assets").is_dir()
    assert bring(folder).stderr == ""


def test_a_set_up_waits_for_another_one_in_the_same_checkout(setup: ModuleType, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "shared")
    (folder / ".venv").mkdir()
    hold = os.open(folder, os.O_RDONLY)
    process = None
    try:
        setup.fcntl.flock(hold, setup.fcntl.LOCK_EX)
        command = [sys.executable, str(folder / "tools" / "setup.py"), "run"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "another one is at work in this checkout" in process.stderr.readline()
        assert process.poll() is None
        assert not (folder / ".venv" / "pyvenv.cfg").exists()
    finally:
        if process is not None:
            process.kill()
            process.communicate()
        os.close(hold)
