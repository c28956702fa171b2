"""Steps in containers, with a real engine and an image of this machine's own busybox: limits, variables, and no leftovers."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.pipeline.plan import Container
from crossfade.ports.pipeline import How, Job
from crossfade.runners.process import ProcessSteps

IMAGE = "localhost/crossfade-test:1"
SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
"""
"""Where the tests run in a sandbox themselves, limits cannot be raised, and crun does not know its cgroups."""

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("podman", "runc", "busybox"))), reason="podman, runc and busybox are wanted"
)


def podman(*words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["podman", *words], capture_output=True, timeout=60, check=False, **more)


@pytest.fixture(scope="module", autouse=True)
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An image that nobody has to pull."""
    settings = tmp_path_factory.mktemp("podman") / "containers.conf"
    settings.write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(settings))
        tarball = io.BytesIO()
        with tarfile.open(fileobj=tarball, mode="w") as tar:
            tar.add(os.path.realpath(shutil.which("busybox") or ""), "bin/busybox")
            for name in ("sh", "cat", "sleep", "env", "dd"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        made = podman("import", "-q", "-", IMAGE, input=tarball.getvalue())
        if made.returncode:
            pytest.skip(f"podman cannot work here: {made.stderr.decode()[-200:]}")
        tried = podman("run", "--rm", "--pull", "never", "--network", "none", IMAGE, "/bin/sh", "-c", "true")
        if tried.returncode:
            pytest.skip(f"podman cannot work here: {tried.stderr.decode()[-200:]}")
        yield
        podman("rmi", "--force", IMAGE)


@pytest.fixture
def steps(tmp_path: Path) -> ProcessSteps:
    return ProcessSteps(tmp_path)


def job(tmp_path: Path, script: str, **more: Any) -> Job:
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    log = tmp_path / "logs" / "step.log"
    return Job("step", "run-1", ("/bin/sh", "-c", script), tree, tree, log, container=Container(IMAGE), **more)


def containers() -> str:
    return podman("ps", "--all", "--quiet", "--filter", "label=crossfade-owner").stdout.decode().strip()


def test_a_step_in_a_container_sees_the_checkout_and_its_variables_and_its_secrets_are_masked(
    steps: ProcessSteps, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "hello.txt").write_text("of the commit\n")
    script = "cat hello.txt; echo $NAME $TOKEN; echo made > made.txt; exit 3"
    given = job(tmp_path, script, env={"NAME": "value"}, secrets={"TOKEN": "hunter2-hunter2"})
    ended = steps.run(given, threading.Event())
    assert (ended.how, ended.status) == (How.EXITED, 3), ended
    assert given.log.read_text().splitlines()[-2:] == ["of the commit", "value ***"]
    assert (tmp_path / "tree" / "made.txt").read_text() == "made\n"
    assert containers() == ""


def test_a_step_in_a_container_that_is_cancelled_leaves_no_container_behind(
    steps: ProcessSteps, tmp_path: Path
) -> None:
    cancel, ended = threading.Event(), []
    thread = threading.Thread(target=lambda: ended.append(steps.run(job(tmp_path, "sleep 600"), cancel)))
    thread.start()
    deadline = time.monotonic() + 30
    while not containers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cancel.set()
    thread.join(timeout=30)
    assert [one.how for one in ended] == [How.CANCELLED]
    assert containers() == ""


def test_a_container_that_a_killed_server_left_is_swept_away(steps: ProcessSteps, tmp_path: Path) -> None:
    steps.run(job(tmp_path, "true"), threading.Event())
    label = f"crossfade-place={steps._place}"
    left = podman(
        "run", "--detach", "--pull", "never", "--network", "none", "--label", "crossfade-owner=run-1",
        "--label", label, IMAGE, "/bin/sh", "-c", "sleep 600",
    )  # fmt: skip
    assert left.returncode == 0, left.stderr
    assert ProcessSteps(tmp_path).sweep() >= 1
    assert containers() == ""


def test_an_image_that_is_not_there_is_not_pulled_but_told(steps: ProcessSteps, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    container = Container("localhost/no-such-image:1")
    log = tmp_path / "logs" / "step.log"
    ended = steps.run(Job("step", "run-1", ("true",), tree, tree, log, container=container), threading.Event())
    assert ended.status == 125 and "no-such-image" in log.read_text()
